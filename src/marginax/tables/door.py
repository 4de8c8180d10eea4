"""The door: raw frames come in, typed and checked tables go out, and bad rows are named or set aside.

Everything here is columnar. `admit` checks one table on its own; rules that need two tables stand in `match`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from marginax.problems import BadInput, Problem, suggestion
from marginax.tables import rules
from marginax.tables.findings import (
    FILE,
    LINE,
    PLACE,
    ROW,
    empty_quarantine,
    find,
    no_findings,
    quarantined,
    raise_findings,
    together,
    without,
)
from marginax.tables.read import Part, Source, read_parts
from marginax.tables.schemas import TABLES, UTC_TIME, Column, Table

OnError = Literal["raise", "quarantine"]


@dataclass(frozen=True)
class Admitted:
    """A checked table: typed rows with their places, the rows set aside, and where it all came from."""

    name: str
    rows: pl.DataFrame
    quarantine: pl.DataFrame
    digests: dict[str, str]
    given: int

    @property
    def record(self) -> dict[str, object]:
        """What the manifest says of this table."""
        return {"sha256": self.digests, "rows": self.given, "quarantined": self.quarantine.height}

    def of(self, rows: pl.DataFrame) -> "Admitted":
        """This table with other rows."""
        return replace(self, rows=rows)

    def set_aside(self, findings: pl.DataFrame, on_error: OnError) -> "Admitted":
        """This table without the rows that `findings` names; raises BadInput unless bad rows are quarantined."""
        if on_error == "raise":
            raise_findings(findings)
        out = quarantined(self.rows, findings, self.name)
        return replace(self, rows=without(self.rows, findings), quarantine=pl.concat([self.quarantine, out]))


def admit(source: Source, table: str, *, on_error: OnError = "raise") -> Admitted:
    """Read and check one table. Raises BadInput that names file, column, row and remedy.

    With `on_error="quarantine"` bad rows are set aside instead; a wrong set of columns, or a column of a wrong type,
    is raised all the same.
    """
    schema = TABLES[table]
    parts = read_parts(source, table)
    columns_wrong = [problem for part in parts for problem in _column_problems(part, schema)]
    if columns_wrong:
        raise BadInput(columns_wrong)
    raws = [_placed(part) for part in parts]
    pairs = [_typed(raw, schema) for raw in raws]
    typed = pl.concat([rows for rows, _ in pairs])
    findings = together([*(found for _, found in pairs), _cell_findings(typed, schema)])
    keyed = without(typed, findings)
    findings = together([findings, _duplicates(keyed, schema), rules.findings(keyed, table)])
    if on_error == "raise":
        raise_findings(findings)
    return Admitted(
        name=table,
        rows=without(typed, findings),
        quarantine=pl.concat([empty_quarantine(), *(quarantined(raw, findings, table) for raw in raws)]),
        digests={part.name: part.digest for part in parts},
        given=typed.height,
    )


def absent(table: str) -> Admitted:
    """A table that was not given: no rows."""
    schema = {**TABLES[table].schema, FILE: pl.String(), ROW: pl.Int64(), LINE: pl.Int64()}
    return Admitted(table, pl.DataFrame(schema=schema), empty_quarantine(), {}, 0)


def _column_problems(part: Part, table: Table) -> list[Problem]:
    def problem(column: str, what: str, remedy: str) -> Problem:
        return Problem(file=part.name, column=column, row=None, what=what, remedy=remedy, table=table.name)

    problems = []
    for name in part.frame.columns:
        if name not in table.names:
            remedy = f"Rename or remove it; {suggestion(name, table.names)}"
            problems.append(problem(name, f"is not a column of the table `{table.name}`", remedy))
    for column in table.columns:
        if column.name not in part.frame.columns:
            if column.required:
                problems.append(problem(column.name, "is missing", f"Add the column ({_wanted(column)})"))
        elif not _castable(part.frame.schema[column.name], column.dtype):
            given = part.frame.schema[column.name]
            problems.append(problem(column.name, f"has the type {given}", f"Write it as {_wanted(column)}"))
    return problems


def _wanted(column: Column) -> str:
    if column.choices:
        return f"one of {', '.join(column.choices)}"
    return {pl.String(): "text", pl.Float64(): "a number"}.get(column.dtype, "a date, or a UTC time")


def _castable(given: pl.DataType, wanted: pl.DataType) -> bool:
    if given == pl.Null or (given == pl.String and wanted != pl.Float64()):
        return True
    if wanted == pl.String():
        return given.is_integer() or given in (pl.Categorical, pl.Enum)
    if wanted == UTC_TIME:
        return given == pl.Date or given == pl.Datetime
    return given.is_numeric()


def _placed(part: Part) -> pl.DataFrame:
    number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    line = number + 1 if part.line_per_row else pl.lit(None)
    return part.frame.with_columns(
        pl.lit(part.name).alias(FILE), number.alias(ROW), line.cast(pl.Int64).alias(LINE)
    )


def _typed(raw: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every column of the table at its type, in order, and the cells that would not go."""
    casts, findings = [], []
    for column in table.columns:
        if column.name not in raw.columns:
            casts.append(pl.lit(None, column.dtype).alias(column.name))
            continue
        cast = _cast(column, raw.schema[column.name])
        casts.append(cast.alias(column.name))
        if raw.schema[column.name] == pl.String and column.dtype != pl.String():
            given = pl.col(column.name)
            what = pl.format("'{}' is not {}", given, pl.lit(_wanted(column)))
            bad = given.is_not_null() & cast.is_null()
            findings.append(find(raw, table.name, bad, column.name, what, "Mend the cell or remove the row"))
    return raw.select(*casts, *PLACE), together(findings)


def _cast(column: Column, given: pl.DataType) -> pl.Expr:
    cell = pl.col(column.name)
    if column.dtype == pl.String():
        text = cell.cast(pl.String)
        return pl.when(text.str.strip_chars() == "").then(None).otherwise(text)
    if given == pl.String:
        stripped = cell.str.strip_chars()
        if column.dtype == pl.Float64():
            return stripped.cast(pl.Float64, strict=False)
        return pl.coalesce(_times(stripped))
    if column.dtype == UTC_TIME:
        zoned = isinstance(given, pl.Datetime) and given.time_zone is not None
        micro = cell.cast(pl.Datetime("us", given.time_zone if zoned else None))  # type: ignore[attr-defined]
        return micro.dt.convert_time_zone("UTC") if zoned else micro.dt.replace_time_zone("UTC")
    return cell.cast(column.dtype, strict=False)


def _times(text: pl.Expr) -> list[pl.Expr]:
    plain = [
        text.str.to_datetime(pattern, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for pattern in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
    ]
    zoned = [
        text.str.replace("Z$", "+00:00").str.to_datetime(pattern, time_unit="us", strict=False, time_zone="UTC")
        for pattern in ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
    ]
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return [day, *plain, *zoned]


def _cell_findings(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    found = []

    def check(bad: pl.Expr, column: Column, what: pl.Expr | str, remedy: str) -> None:
        found.append(find(rows, table.name, bad, column.name, what, remedy))

    for column in table.columns:
        cell = pl.col(column.name)
        shown = pl.format("{} was given", cell)
        if column.required:
            check(cell.is_null(), column, "is empty", f"Give {_wanted(column)} or remove the row")
        if column.dtype == pl.Float64():
            check(cell.is_nan() | cell.is_infinite(), column, shown, "Give a finite number or remove the row")
            if column.rule == "positive":
                check(cell.is_finite() & (cell <= 0), column, shown, "Give a number above zero")
            elif column.rule == "not_negative":
                check(cell.is_finite() & (cell < 0), column, shown, "Give a number that is not negative")
        if column.choices:
            quoted = pl.format("'{}' was given", cell)
            check(~cell.is_in(list(column.choices)), column, quoted, f"Use {_wanted(column)}")
    return together(found)


def _duplicates(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    if not table.key:
        return no_findings()
    key = list(table.key)
    if table.name == "history":
        rows = rows.with_columns(pl.col("factor").fill_null("price"))
    first = pl.struct(FILE, ROW).first().over(key)
    repeated = rows.with_columns(first.struct.field(FILE).alias("__f"), first.struct.field(ROW).alias("__r"))
    what = pl.format("'{}' is there already, in row {} of {}", pl.col(key[0]), "__r", "__f")
    if len(key) > 1:
        what = pl.format("this {} is there already, in row {} of {}", pl.lit(" and ".join(key)), "__r", "__f")
    bad = (pl.col(FILE) != pl.col("__f")) | (pl.col(ROW) != pl.col("__r"))
    return find(repeated, table.name, bad, key[0] if len(key) == 1 else key[1], what, "Keep one of the two")

