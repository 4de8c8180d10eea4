"""The rows of one table on disk, on their way from input order into partitions.

Rows are gathered into runs, each run is sorted by partition (rows of one partition keep their order) and appended to
one file, a batch for every partition that is in it. A partition is then read back out of all runs. So there is one file
to write and one to read however many partitions there are, and what is in memory is one run.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa

from marginax.datasets.hashing import partition_numbers
from marginax.tables.schemas import TABLES

# A hundred megabytes or so; of 500 partitions each still gets two thousand rows of a run.
RUN_ROWS = 1 << 20
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


class Spill:
    """A table that is written in input order and read by partition. Use it in a `with`, then read it.

    The file is the caller's to remove. Beside the run, 8 bytes for each batch of a run are kept in memory.
    """

    def __init__(self, path: Path, table: str, partitions: int) -> None:
        self.path, self.partitions = path, partitions
        self.schema = arrow(pl.DataFrame(schema=TABLES[table].schema)).schema
        self._run: list[pl.DataFrame] = []
        self._numbers: list[np.ndarray] = []
        self._rows = 0
        self._places: list[np.ndarray] = []
        self._writer: pa.ipc.RecordBatchFileWriter

    def __enter__(self) -> "Spill":
        self._writer = pa.ipc.new_file(str(self.path), self.schema, options=_LZ4)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows that have at least the table's columns, in the order of the input."""
        self._run.append(rows.select(self.schema.names))
        self._numbers.append(partition_numbers(rows["account_id"], self.partitions))
        self._rows += rows.height
        if self._rows >= RUN_ROWS:
            self._flush()

    def partition(self, number: int) -> Iterator[pa.RecordBatch]:
        """The rows of one partition in input order."""
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as reader:
            written = 0
            for present in self._places:
                place = int(np.searchsorted(present, number))
                if place < len(present) and present[place] == number:
                    yield reader.get_batch(written + place)
                written += len(present)

    def _flush(self) -> None:
        """Sort the run and append it."""
        if not self._rows:
            return
        numbers = np.concatenate(self._numbers)
        order = np.argsort(numbers, kind="stable")
        run = pl.concat(self._run)[order]
        self._run, self._numbers, self._rows = [], [], 0
        rows = arrow(run)
        present, starts = np.unique(numbers[order], return_index=True)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            (batch,) = rows.slice(start, end - start).to_batches()
            self._writer.write_batch(batch)
        self._places.append(present)


def arrow(frame: pl.DataFrame) -> pa.Table:
    """An Arrow table in one piece, of types that every reader of Arrow knows."""
    return frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
