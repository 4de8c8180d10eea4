"""Tables of any size, read some rows at a time: what is in memory does not grow with the file.

One batch is held at a time: `ROWS` rows of a Parquet file or a frame, some blocks of 4 MiB of a CSV file, or what an
Arrow IPC file has as one batch, which must fit in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow.parquet import ParquetFile

from marginax.tables.csv_text import line_per_row, scan_csv
from marginax.tables.read import Part, Source, checked, frame_in, kind_of, named_sources, open_ipc, readable

ROWS = 1 << 18
# Bytes of a column that are read at once; without it all of a row group is.
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Batches:
    """One file or frame to be read in batches.

    `head` is its name and its columns without a row. `rows` are those it has; for a CSV file, where blank lines and
    cells of several lines are only known when it is read, the lines below the header.
    """

    head: Part
    rows: int
    _frames: Callable[[], Iterator[pl.DataFrame]]

    def parts(self) -> Iterator[Part]:
        """The rows from the first to the last. Raises BadInput where the file cannot be read to its end.

        Where rows are lines is not known before the end: every batch of a CSV file says that they are.
        """
        first = 1
        for frame in self._frames():
            yield replace(self.head, frame=frame, first_row=first)
            first += frame.height

    def line_per_row(self, rows: int) -> bool:
        """Whether row n stands on line n + 1, in a file that was seen to have so many rows."""
        return self.head.is_text and line_per_row(self.rows + 1, rows)

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, or of a frame's Arrow IPC form."""
        frames = [] if self.head.path else list(self._frames())
        return replace(self.head, frame=pl.concat([self.head.frame, *frames])).digest


def open_batches(source: Source, table: str) -> list[Batches]:
    """Every file or frame of `source`. Raises BadInput for what is missing, given twice, broken or of no known kind."""
    return [_open(one, table, name) for one, name in named_sources(source, table)]


def _open(source: Source, table: str, name: str) -> Batches:
    given = frame_in(source, table, name)
    if given is not None:
        return Batches(Part(given.clear(), name), given.height, lambda: given.iter_slices(ROWS))
    path = Path(source)
    kind = kind_of(path, table)
    with readable(path, table):
        if kind == "csv":
            text = scan_csv(path, table)
            head = Part(text.empty, str(source), path, is_text=True, line_per_row=True)
            return Batches(head, max(0, text.lines - 1), lambda: _told(text.batches(), path, table))
        read = _parquet if kind == "parquet" else _ipc
        schema, rows = _parquet_size(path) if kind == "parquet" else _ipc_size(path)
        head = Part(checked(schema.empty_table()), str(source), path)
        return Batches(head, rows, lambda: _told(read(path), path, table))


def _told(frames: Iterator[pl.DataFrame], path: Path, table: str) -> Iterator[pl.DataFrame]:
    """The frames; a file that proves to be broken raises BadInput."""
    while True:
        with readable(path, table):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def _parquet_size(path: Path) -> tuple[pa.Schema, int]:
    with ParquetFile(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def _parquet(path: Path) -> Iterator[pl.DataFrame]:
    with ParquetFile(path, buffer_size=_BUFFER) as file:
        for groups in _together([file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]):
            for batch in file.iter_batches(ROWS, row_groups=groups):
                yield checked(pa.Table.from_batches([batch]))


def _together(rows: list[int]) -> Iterator[list[int]]:
    """Numbers of row groups to be read by one reader, which lets go of none of its buffers before it ends: as few as
    make a batch."""
    groups, held = [], 0
    for number, size in enumerate(rows):
        groups.append(number)
        held += size
        if held >= ROWS:
            yield groups
            groups, held = [], 0
    if groups:
        yield groups


def _ipc_size(path: Path) -> tuple[pa.Schema, int]:
    with pa.memory_map(str(path)) as file, open_ipc(file) as reader:
        return reader.schema, sum(batch.num_rows for batch in _arrow_batches(reader))


def _ipc(path: Path) -> Iterator[pl.DataFrame]:
    # Read and not mapped, as everything else: what is mapped stays in memory for as long as the file is open.
    with pa.OSFile(str(path)) as file, open_ipc(file) as reader:
        for batch in _arrow_batches(reader):
            for first in range(0, batch.num_rows, ROWS):
                yield checked(pa.Table.from_batches([batch.slice(first, ROWS)]))


def _arrow_batches(reader: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(k) for k in range(reader.num_record_batches))
    else:
        yield from reader
