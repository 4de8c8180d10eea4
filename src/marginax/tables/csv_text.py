"""CSV files as frames of text: no cell is judged here, but every row must have as many cells as the header.

Comma-separated, UTF-8 (a byte-order mark is fine), any line ends. White space around a column's name is layout; blank
lines are no rows. An empty cell is null, quoted or not.
"""

import csv
from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from marginax.problems import BadInput, Problem

BLOCK = 1 << 20
# Bytes of text that become one batch, some 100,000 rows; no single row may be longer.
BATCH = 1 << 22
SHOWN = 100


@dataclass(frozen=True)
class CsvText:
    """A CSV file that is UTF-8 to its end: its column names as written, its lines, and whether it has a row."""

    path: Path
    table: str
    written: list[str]
    lines: int
    has_rows: bool

    @property
    def empty(self) -> pl.DataFrame:
        """The columns, and no row."""
        return pl.DataFrame(schema=dict.fromkeys((name.strip() for name in self.written), pl.String))

    def batches(self) -> Iterator[pl.DataFrame]:
        """The cells as text, `BATCH` bytes of the file at a time. Raises BadInput, or an error of Arrow's."""
        if not self.has_rows:
            return
        ragged = []

        def skip(row: arrow_csv.InvalidRow) -> str:
            ragged.append(row)
            return "skip"

        cells = arrow_csv.open_csv(
            self.path,
            read_options=arrow_csv.ReadOptions(block_size=BATCH),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(self.written, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
        with cells:
            for batch in cells:
                if ragged:
                    break
                yield pl.DataFrame(batch).rename({name: name.strip() for name in self.written})
        if ragged:
            raise_ragged(self.path, self.table, len(self.written))


def read_csv(path: Path, table: str) -> tuple[pl.DataFrame, bool]:
    """The file's cells as text, and whether row n stands on line n + 1. Raises BadInput, or an error of Arrow's."""
    text = scan_csv(path, table)
    frame = pl.concat([text.empty, *text.batches()])
    return frame, line_per_row(text.lines, frame.height)


def scan_csv(path: Path, table: str) -> CsvText:
    """Look through a file and keep no cell of it. Raises BadInput, as for a quote that never ends."""
    lines, quotes = _marks(path, table)
    written, has_rows = _header(path, table)
    if quotes % 2:
        raise_ragged(path, table, len(written))
    return CsvText(path, table, written, lines, has_rows)


def line_per_row(lines: int, rows: int) -> bool:
    """Whether row n stands on line n + 1 of a file with so many lines and rows."""
    return lines == rows + 1


def _header(path: Path, table: str) -> tuple[list[str], bool]:
    """The column names as they stand in the file, and whether a row follows."""
    rows = (cells for _, cells in _records(path, table) if cells)
    names = next(rows, None)
    if names is None:
        raise BadInput([_problem(path, table, "is empty", "Give at least the header row")])
    if len(names) == 1:
        for sign, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if sign in names[0]:
                what = f"its columns are separated by {word}"
                raise BadInput([_problem(path, table, what, "Separate them by commas")])
    stripped = [name.strip() for name in names]
    if "" in stripped:
        what = f"column {stripped.index('') + 1} has no name"
        raise BadInput([_problem(path, table, what, "Name it or remove it, and any comma that ends the header")])
    twice = {name for name in stripped if stripped.count(name) > 1}
    if twice:
        what, remedy = "is there more than once", "Keep one of them"
        raise BadInput([_problem(path, table, what, remedy, column=name) for name in sorted(twice)])
    return names, next(rows, None) is not None


def raise_ragged(path: Path, table: str, width: int) -> None:
    """Find the rows that have more or fewer cells than the header, or a quote that never ends, and raise BadInput."""
    rows = ((line, cells) for line, cells in _records(path, table) if cells)
    next(rows)
    found = (
        _problem(
            path, table, f"has {len(cells)} cells and the header has {width}",
            "Complete the row, quote what holds a comma, or remove it", row=row, line=line,
        )
        for row, (line, cells) in zip(count(1), rows, strict=False)
        if len(cells) != width
    )  # fmt: skip
    problems = list(islice(found, SHOWN))
    if problems:
        raise BadInput(problems)


def _records(path: Path, table: str) -> Iterator[tuple[int, list[str]]]:
    """The line each record starts on, and its cells; one by one, for the header and for what is wrong."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            what, remedy = f"line {line} cannot be read ({error})", "Close its quotes, and double a quote inside quotes"
            raise BadInput([_problem(path, table, what, remedy)]) from None


def _marks(path: Path, table: str) -> tuple[int, int]:
    """Lines (blank ones at the end left out) and double quotes in the file, which must be UTF-8 to its end."""
    lines = quotes = blank = 0
    last = False
    decoder = getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            full = block.rstrip(b"\r\n")
            try:
                decoder.decode(block, final=len(block) < BLOCK)
            except UnicodeDecodeError as error:
                line = lines + blank + block.count(b"\n", 0, error.start) + 1
                raise BadInput([_problem(path, table, f"line {line} is not UTF-8", "Save it as UTF-8")]) from None
            lines += full.count(b"\n") + (blank if full else 0)
            blank = block.count(b"\n", len(full)) + (0 if full else blank)
            quotes += block.count(b'"')
            last = last or bool(full)
    return lines + last, quotes


def _problem(
    path: Path, table: str, what: str, remedy: str, *, column: str | None = None, row: int | None = None,
    line: int | None = None,
) -> Problem:  # fmt: skip
    return Problem(str(path), column, row, what, remedy, table=table, line=line)
