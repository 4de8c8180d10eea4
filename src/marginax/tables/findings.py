"""Bad rows as a frame: what the door found, row by row, until it is raised as an error or written to quarantine."""

from collections.abc import Sequence

import polars as pl

from marginax.problems import BadInput, Problem

RAISED = 1000

_SCHEMA = {
    "table": pl.String,
    "file": pl.String,
    "row": pl.Int64,
    "line": pl.Int64,
    "column": pl.String,
    "what": pl.String,
    "remedy": pl.String,
}
_QUARANTINE = {
    "table": pl.String,
    "file": pl.String,
    "row": pl.Int64,
    "account_id": pl.String,
    "reason": pl.String,
    "cells": pl.String,
}

FILE, ROW, LINE = "__file", "__row", "__line"
PLACE = (FILE, ROW, LINE)


def no_findings() -> pl.DataFrame:
    """An empty frame of findings."""
    return pl.DataFrame(schema=_SCHEMA)


def empty_quarantine() -> pl.DataFrame:
    """An empty frame of quarantined rows."""
    return pl.DataFrame(schema=_QUARANTINE)


def find(rows: pl.DataFrame, table: str, bad: pl.Expr, column: str, what: pl.Expr | str, remedy: str) -> pl.DataFrame:
    """The rows where `bad` holds, as findings. `rows` carries the place columns; `what` may quote other columns."""
    return rows.filter(bad.fill_null(False)).select(
        pl.lit(table).alias("table"),
        pl.col(FILE).alias("file"),
        pl.col(ROW).alias("row"),
        pl.col(LINE).alias("line"),
        pl.lit(column).alias("column"),
        (pl.lit(what) if isinstance(what, str) else what).cast(pl.String).alias("what"),
        pl.lit(remedy).alias("remedy"),
    )


def raise_findings(findings: pl.DataFrame, total: int | None = None) -> None:
    """Raise BadInput with the first of these findings, if there are any; `total` counts those left out too."""
    if findings.height:
        problems = [Problem(**row) for row in first_findings(findings).iter_rows(named=True)]
        raise BadInput(problems, total=findings.height if total is None else total)


def first_findings(findings: pl.DataFrame) -> pl.DataFrame:
    """As many as an error holds, in order of file and row."""
    return findings.sort("file", "row", maintain_order=True).head(RAISED)


def quarantined(rows: pl.DataFrame, findings: pl.DataFrame, table: str) -> pl.DataFrame:
    """One line per bad row: its place, its account if it has one, every reason, and its cells as JSON texts.

    JSON has no NaN and no infinity as numbers, so every cell is the text that shows it.
    """
    if not findings.height:
        return empty_quarantine()
    reason = pl.format("{}: {}. {}.", "column", "what", "remedy").alias("reason")
    reasons = findings.group_by("file", "row").agg(reason.unique(maintain_order=True).str.join(" "))
    cells = [name for name in rows.columns if name not in PLACE]
    account = pl.col("account_id") if "account_id" in cells else pl.lit(None, pl.String)
    account = account.cast(pl.String).str.strip_chars()
    return (
        rows.join(reasons, left_on=[FILE, ROW], right_on=["file", "row"], how="inner")
        .select(
            pl.lit(table).alias("table"),
            pl.col(FILE).alias("file"),
            pl.col(ROW).alias("row"),
            pl.when(account != "").then(account).alias("account_id"),
            "reason",
            pl.struct(pl.col(cells).cast(pl.String)).struct.json_encode().alias("cells"),
        )
        .sort("file", "row")
    )


def without(rows: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """The rows that no finding names."""
    if not findings.height:
        return rows
    return rows.join(findings.select("file", "row"), left_on=[FILE, ROW], right_on=["file", "row"], how="anti")


def together(findings: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Several frames of findings as one."""
    return pl.concat([no_findings(), *findings])
