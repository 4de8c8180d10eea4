"""From the cells of a file to cells of a column's type, and findings where a cell does not go.

Text loses the white space around it, and what is empty then is null. Times become UTC microseconds: a date, or a time
without a zone and of any unit, is read as UTC.
"""

import polars as pl

from marginax.tables.findings import FILE, LINE, PLACE, ROW, find, together
from marginax.tables.schemas import UTC_TIME, Column, Table

# Times outside are a wrong unit or a slip of the pen, and far outside polars cannot even print them.
FIRST_YEAR, LAST_YEAR = 1900, 2200
_DAYS = (-25_567, 84_006)  # of these two new years, since 1970
_PER_DAY = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_TIME_REMEDY = f"Write it as 2026-01-31 or 2026-01-31T12:00:00Z, between {FIRST_YEAR} and {LAST_YEAR},"


def wanted(column: Column) -> str:
    """What a cell of this column should be, in words."""
    if column.choices:
        return f"one of {', '.join(column.choices)}"
    return {pl.String(): "text", pl.Float64(): "a number"}.get(column.dtype, "a date or a UTC time")


def castable(given: pl.DataType, dtype: pl.DataType, *, is_text: bool) -> bool:
    """Whether a column of one type can be read as another; only a CSV file may write its numbers as text."""
    if given == pl.Null or (given == pl.String and (is_text or dtype != pl.Float64())):
        return True
    if dtype == pl.String():
        return given.is_integer() or given in (pl.Categorical, pl.Enum)
    if dtype == UTC_TIME:
        return given == pl.Date or given == pl.Datetime
    return given.is_numeric()


def placed(frame: pl.DataFrame, name: str, *, first_row: int, line_per_row: bool) -> pl.DataFrame:
    """The frame with the place of each row: the file, the row, and the line where rows are lines."""
    number = pl.int_range(first_row, first_row + pl.len(), dtype=pl.Int64)
    line = number + 1 if line_per_row else pl.lit(None)
    return frame.with_columns(pl.lit(name).alias(FILE), number.alias(ROW), line.cast(pl.Int64).alias(LINE))


def typed(raw: pl.DataFrame, table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every column of the table at its type, in order, and the cells that are empty or do not go."""
    kept = [column for column in table.columns if column.name in raw.columns]
    cells = raw.select(*PLACE, *(_filled(column.name, raw.schema[column.name]) for column in kept))
    absent = {column.name: pl.lit(None, column.dtype) for column in table.columns if column not in kept}
    ready = cells.select(*PLACE, *(_cast(cells[column.name], column) for column in kept))
    findings = []
    for column in kept:
        given, cell = cells[column.name], pl.col(column.name)
        if column.required:
            remedy = f"Give {wanted(column)} or remove the row"
            findings.append(find(cells, table.name, cell.is_null(), column.name, "is empty", remedy))
        if column.dtype != pl.String():
            shown = pl.format("'{}'", cell) if given.dtype == pl.String else pl.lit("the cell")
            what = pl.format("{} is not {}", shown, pl.lit(wanted(column)))
            remedy = _TIME_REMEDY if column.dtype == UTC_TIME else "Mend the cell"
            remedy += " or remove the row" if column.required else " or leave it empty"
            lost = given.is_not_null() & ready[column.name].is_null()
            findings.append(find(cells, table.name, pl.lit(lost), column.name, what, remedy))
    return ready.with_columns(**absent).select(*table.names, *PLACE), together(findings)


def printable(raw: pl.DataFrame) -> pl.DataFrame:
    """The frame without the times that polars cannot print."""
    return raw.with_columns(
        _within(pl.col(name), dtype) for name, dtype in raw.schema.items() if dtype in (pl.Date, pl.Datetime)
    )


def _filled(name: str, given: pl.DataType) -> pl.Expr:
    if given not in (pl.String, pl.Categorical, pl.Enum):
        return pl.col(name)
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _cast(cells: pl.Series, column: Column) -> pl.Series:
    """Cells at their column's type; null where one does not fit."""
    if column.dtype != UTC_TIME or cells.dtype == pl.Null:
        return cells.cast(column.dtype, strict=False)
    frame, time = cells.to_frame(), pl.col(cells.name)
    if cells.dtype == pl.String:
        # Times repeat across underlyings: each spelling is read once.
        spelled = frame.unique()
        read = spelled.select(pl.coalesce(_times(time))).select(_within(time, UTC_TIME))
        return cells.replace_strict(spelled[cells.name], read[cells.name], default=None, return_dtype=UTC_TIME)
    zone = cells.dtype.time_zone if isinstance(cells.dtype, pl.Datetime) else None
    micro = _within(time, cells.dtype).cast(pl.Datetime("us", zone))
    return frame.select(micro.dt.convert_time_zone("UTC") if zone else micro.dt.replace_time_zone("UTC"))[cells.name]


def _within(time: pl.Expr, given: pl.DataType) -> pl.Expr:
    per_day = _PER_DAY[given.time_unit] if isinstance(given, pl.Datetime) else 1
    first, end = (day * per_day for day in _DAYS)
    stamp = time.to_physical()
    return pl.when((stamp >= first) & (stamp < end)).then(time)


def _times(text: pl.Expr) -> list[pl.Expr]:
    """Readings of ISO 8601: a T or a space, an offset, a Z or no zone, a time or none."""
    spaced = text.str.replace(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]", "$1 ").str.replace(r" ?(UTC|z)$", "Z")
    day = spaced.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    plain = [
        spaced.str.to_datetime(pattern, time_unit="us", strict=False).dt.replace_time_zone("UTC")
        for pattern in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    ]
    zoned = [
        spaced.str.to_datetime(pattern, time_unit="us", strict=False, time_zone="UTC")
        for pattern in ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
    ]
    return [day, *plain, *zoned]
