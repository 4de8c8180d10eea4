"""Files and frames become frames of text or typed columns; nothing is judged here but whether a file can be read.

Parquet, CSV and Arrow IPC are told apart by their ending. CSV cells stay text, so that the door can name the cell that
does not parse.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from marginax.problems import BadInput, Problem
from marginax.tables.csv_text import BLOCK, read_csv

Source = Any
"""A path, a polars frame, an Arrow table, or a sequence of these."""

Kind = Literal["csv", "parquet", "ipc"]
_ENDINGS: dict[str, Kind] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
}
_KINDS = "a path to a Parquet, CSV or Arrow IPC file, a polars frame or an Arrow table"
# What Arrow raises for a broken file, and polars for a frame that it has no types for; its panics are no Exceptions.
_BROKEN = (pa.ArrowException, OSError, UnicodeError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class Part:
    """One file or frame as read, and the name it is called by in messages.

    `is_text` says that every cell is text, because a CSV file knows no types; `line_per_row` that row n is line n + 1;
    `first_row` is the number of the frame's first row in a file that is read in batches.
    """

    frame: pl.DataFrame
    name: str
    path: Path | None = None
    is_text: bool = False
    line_per_row: bool = False
    first_row: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, or of a frame's Arrow IPC form."""
        digest = sha256()
        if self.path is None:
            buffer = BytesIO()
            self.frame.rechunk().write_ipc(buffer)
            digest.update(buffer.getbuffer())
        else:
            with self.path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def read_parts(source: Source, table: str) -> list[Part]:
    """Every file or frame of `source`. Raises BadInput for what is missing, given twice, or of no known kind."""
    return [_read(one, table, name) for one, name in named_sources(source, table)]


def named_sources(source: Source, table: str) -> list[tuple[Source, str]]:
    """Each file or frame of `source`, and what it is called. Raises BadInput where none is given, or a file twice."""
    many = source if isinstance(source, Sequence) and not isinstance(source, str | bytes) else [source]
    if not len(many):
        raise BadInput([_unreadable(f"<{table}>", "an empty list was given", "Name at least one file", table)])
    names = [f"<{table}>"] if len(many) == 1 else [f"<{table} {k}>" for k in range(1, len(many) + 1)]
    paths = [Path(one).resolve() for one in many if isinstance(one, str | os.PathLike)]
    for k, path in enumerate(paths):
        if path in paths[:k] and path.is_file():
            raise BadInput([_unreadable(str(path), "is given twice", "Name each file once", table)])
    return list(zip(many, names, strict=True))


def frame_in(source: Source, table: str, name: str) -> pl.DataFrame | None:
    """The frame where `source` is one, None where it is a path. Raises BadInput for anything else."""
    if isinstance(source, pl.LazyFrame | pl.DataFrame | pa.RecordBatch) or hasattr(source, "__arrow_c_stream__"):
        return _frame(source, table, name)
    if not isinstance(source, str | os.PathLike):
        what = f"the type {type(source).__name__} was given"
        raise BadInput([_unreadable(name, what, f"Give {_KINDS}", table)])
    return None


def kind_of(path: Path, table: str) -> Kind:
    """What kind of file this is, by its ending. Raises BadInput where there is no file, or of no known kind."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise BadInput([_unreadable(str(path), what, f"Name {_KINDS} with the table `{table}`", table)])
    suffix = path.suffix.lower()
    if suffix not in _ENDINGS:
        what = f"its ending `{path.suffix}` is not known" if suffix else "it has no ending that tells its kind"
        raise BadInput([_unreadable(str(path), what, "Use a file that ends in .parquet, .csv or .arrow", table)])
    return _ENDINGS[suffix]


@contextmanager
def readable(path: Path, table: str) -> Iterator[None]:
    """Raise BadInput where what is done within finds the file broken."""
    try:
        yield
    except _BROKEN as error:
        what = f"cannot be read ({_first_line(error)})"
        raise BadInput([_unreadable(str(path), what, "Write the file again", table)]) from None


def _read(source: Source, table: str, name: str) -> Part:
    given = frame_in(source, table, name)
    if given is not None:
        return Part(given, name)
    path = Path(source)
    kind = kind_of(path, table)
    with readable(path, table):
        match kind:
            case "csv":
                frame, line_per_row = read_csv(path, table)
                return Part(frame, str(source), path, is_text=True, line_per_row=line_per_row)
            case "parquet":
                with ParquetFile(path) as file:
                    return Part(checked(file.read()), str(source), path)
            case "ipc":
                return Part(checked(_read_ipc(path)), str(source), path)


def _frame(source: Any, table: str, name: str) -> pl.DataFrame:
    try:
        if isinstance(source, pl.LazyFrame):
            return source.collect()
        if isinstance(source, pa.RecordBatch):
            source = pa.Table.from_batches([source])
        return source if isinstance(source, pl.DataFrame) else _from_arrow(pa.table(source))
    except (*_BROKEN, TypeError, ValueError) as error:
        remedy = "Give each column once, as text, numbers, dates or times"
        raise BadInput([_unreadable(name, f"is no frame ({_first_line(error)})", remedy, table)]) from None


def _read_ipc(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file, open_ipc(file) as reader:
        return reader.read_all()


def open_ipc(file: pa.NativeFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """A reader of either form of Arrow IPC: the file, which starts with its name, and the stream."""
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    return pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)


def checked(table: pa.Table) -> pl.DataFrame:
    """A table read from a file, of which every byte may be wrong: polars would not look again."""
    table.validate(full=True)
    return _from_arrow(table)


def _from_arrow(table: pa.Table) -> pl.DataFrame:
    """A polars frame. Zoned times are all microseconds since 1970 in UTC; polars knows fewer names of zones."""
    names: list[str] = table.column_names  # decodes them
    columns = [
        column.cast(pa.timestamp(column.type.unit, "UTC"))
        if pa.types.is_timestamp(column.type) and column.type.tz is not None
        else column
        for column in table.columns
    ]
    return pl.DataFrame(pa.table(columns, names=names))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _unreadable(name: str, what: str, remedy: str, table: str) -> Problem:
    return Problem(file=name, column=None, row=None, what=what, remedy=remedy, table=table)
