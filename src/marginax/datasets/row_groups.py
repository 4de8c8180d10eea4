"""One Parquet file, written a row group at a time from rows that come in pieces of any size."""

from pathlib import Path
from types import TracebackType

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

# What polars writes by default: some megabytes a column.
ROW_GROUP = 1 << 18


class RowGroups:
    """A Parquet file that grows by whole row groups, so that its bytes depend on the rows and not on their pieces.

    Use it in a `with`; the file is there from the start, and complete when that ends.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._held = schema.empty_table()
        self._writer = ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._held.num_rows:
            self._write(self._held)
        self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """Append rows of the file's schema."""
        self.rows += rows.num_rows
        self._held = pa.concat_tables([self._held, rows])
        while self._held.num_rows >= ROW_GROUP:
            self._write(self._held.slice(0, ROW_GROUP))
            self._held = self._held.slice(ROW_GROUP)

    def _write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks())
