"""The door: raw frames come in, typed and checked tables go out, and bad rows are named or set aside.

Everything here is columnar. `admit` checks one table on its own, `admit_batch` some rows of one; rules that need two
tables stand in `match`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import polars as pl

from marginax.problems import BadInput, Problem, suggestion
from marginax.tables import rules
from marginax.tables.cells import castable, placed, printable, typed, wanted
from marginax.tables.findings import (
    FILE,
    LINE,
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
from marginax.tables.schemas import TABLES, Column, Table

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
        if stops(on_error):
            raise_findings(findings)
        out = quarantined(self.rows, findings, self.name)
        return replace(self, rows=without(self.rows, findings), quarantine=pl.concat([self.quarantine, out]))


def admit(source: Source, table: str, *, on_error: OnError = "raise") -> Admitted:
    """Read and check one table. Raises BadInput that names file, column, row and remedy.

    With `on_error="quarantine"` bad rows are set aside instead; a wrong set of columns, or a column of a wrong type,
    is raised all the same.
    """
    stop = stops(on_error)
    schema = TABLES[table]
    parts = read_parts(source, table)
    check_columns(parts, table)
    raws, typed_rows, found = zip(*(_cells(part, schema) for part in parts), strict=True)
    rows, findings = pl.concat(typed_rows), together(found)
    keyed = without(rows, findings)
    findings = together([findings, _duplicates(keyed, schema), rules.findings(keyed, table)])
    if stop:
        raise_findings(findings)
    return Admitted(
        name=table,
        rows=without(rows, findings),
        quarantine=pl.concat([empty_quarantine(), *(quarantined(printable(raw), findings, table) for raw in raws)]),
        digests={part.name: part.digest for part in parts},
        given=rows.height,
    )


@dataclass(frozen=True)
class AdmittedBatch:
    """Rows of a file that is read in batches: the good ones at their types, and what is wrong with the others.

    `quarantine` holds the rows that `findings` names, as `Admitted` has it.
    """

    rows: pl.DataFrame
    findings: pl.DataFrame
    quarantine: pl.DataFrame
    given: int


def admit_batch(part: Part, table: str) -> AdmittedBatch:
    """Check rows that are not all of their table; `check_columns` has seen its columns.

    What one row cannot break alone, an id that is there twice, is for whoever reads the whole table.
    """
    raw, rows, findings = _cells(part, TABLES[table])
    findings = together([findings, rules.findings(without(rows, findings), table)])
    out = quarantined(printable(raw), findings, table) if findings.height else empty_quarantine()
    return AdmittedBatch(without(rows, findings), findings, out, rows.height)


def check_columns(parts: Sequence[Part], table: str) -> None:
    """Raise BadInput for columns that are missing, of no table, or of a wrong type."""
    wrong = [problem for part in parts for problem in _column_problems(part, TABLES[table])]
    if wrong:
        raise BadInput(wrong)


def absent(table: str) -> Admitted:
    """A table that was not given: no rows."""
    schema = {**TABLES[table].schema, FILE: pl.String(), ROW: pl.Int64(), LINE: pl.Int64()}
    return Admitted(table, pl.DataFrame(schema=schema), empty_quarantine(), {}, 0)


def stops(on_error: OnError) -> bool:
    """Whether bad rows are raised. ValueError for a word that is neither."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r} is neither 'raise' nor 'quarantine'")
    return on_error == "raise"


def _cells(part: Part, table: Table) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The rows as given and as typed, both with their places, and what is wrong with single cells of theirs."""
    raw = placed(part.frame, part.name, first_row=part.first_row, line_per_row=part.line_per_row)
    rows, findings = typed(raw, table)
    return raw, rows, together([findings, _cell_findings(rows, table)])


def _column_problems(part: Part, table: Table) -> list[Problem]:
    def problem(column: str, what: str, remedy: str) -> Problem:
        return Problem(file=part.name, column=column, row=None, what=what, remedy=remedy, table=table.name)

    problems = []
    for name in part.frame.columns:
        if not name.strip():
            problems.append(problem(repr(name), "is a column without a name", "Name it or remove it"))
        elif name not in table.names:
            remedy = f"Rename or remove it; {suggestion(name, table.names)}"
            problems.append(problem(name, f"is not a column of the table `{table.name}`", remedy))
    for column in table.columns:
        if column.name not in part.frame.columns:
            if column.required:
                problems.append(problem(column.name, "is missing", f"Add the column ({wanted(column)})"))
        elif not castable(given := part.frame.schema[column.name], column.dtype, is_text=part.is_text):
            problems.append(problem(column.name, f"has the type {given}", f"Write it as {wanted(column)}"))
    return problems


def _cell_findings(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    found = []

    def check(bad: pl.Expr, column: Column, what: pl.Expr | str, remedy: str) -> None:
        found.append(find(rows, table.name, bad, column.name, what, remedy))

    for column in table.columns:
        cell = pl.col(column.name)
        shown = pl.format("{} was given", cell)
        if column.dtype == pl.Float64():
            check(cell.is_nan() | cell.is_infinite(), column, shown, "Give a finite number or remove the row")
            if column.rule == "positive":
                check(cell.is_finite() & (cell <= 0), column, shown, "Give a number above zero")
            elif column.rule == "not_negative":
                check(cell.is_finite() & (cell < 0), column, shown, "Give a number that is not negative")
        if column.choices:
            quoted = pl.format("'{}' was given", cell)
            check(~cell.is_in(list(column.choices)), column, quoted, f"Use {wanted(column)}")
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
