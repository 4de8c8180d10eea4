"""From tables of any size to a dataset partitioned by account, in memory that does not grow with the tables.

Tables are read a batch at a time, each batch is checked as the door checks a table, and its good rows go to a spill
file; then the partitions are written one after another. In memory are a batch, a run of the spill, a row group and the
account ids of one partition, whatever the number of rows and partitions. While a dataset is written the spill takes
some 30 bytes of disk for a position.
"""

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from math import ceil
from pathlib import Path

import polars as pl
import pyarrow as pa

from marginax.datasets.dataset import (
    FORMAT,
    QUARANTINE,
    RECORD,
    Dataset,
    DatasetRecord,
    FileRecord,
    PartitionRecord,
    QuarantineRecord,
    TableRecord,
    check_replaceable,
)
from marginax.datasets.distinct import Distinct
from marginax.datasets.folder import whole_folder
from marginax.datasets.hashing import HASH, MOST
from marginax.datasets.row_groups import RowGroups
from marginax.datasets.spill import Spill, arrow
from marginax.interrupts import stop_if_interrupted
from marginax.problems import BadInput, Problem
from marginax.tables.batches import Batches, open_batches
from marginax.tables.door import OnError, admit_batch, check_columns, stops
from marginax.tables.findings import empty_quarantine, first_findings, no_findings, raise_findings, together
from marginax.tables.read import Source
from marginax.tables.results import digest

# Positions of a partition: some hundred megabytes in memory, and enough accounts to fill a device.
ROWS = 500_000
PACKAGES = ("marginax", "polars", "pyarrow")


def partition_book(
    *,
    positions: Source,
    balances: Source,
    out: str | Path,
    accounts: Source | None = None,
    orders: Source | None = None,
    partitions: int | None = None,
    rows: int | None = None,
    on_error: OnError = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Write the tables of a book, partitioned by account, into the folder `out`.

    Sources are those of `read_book`: paths (Parquet, CSV, Arrow IPC), frames, or lists of these. `partitions` is their
    number; without it there are so many that one holds about `rows` positions (500,000). `progress` is called
    with the rows read and written so far, and how many there will be in all.

    A folder that holds an earlier dataset is replaced when the new one is complete. Raises BadInput that names file,
    column, row and remedy, or what is in the way in `out`; with `on_error="quarantine"` bad rows are set aside in
    `quarantine.parquet`. OSError where the folder cannot be written.
    """
    stops(on_error)
    _check_size(partitions, rows)
    given = {"positions": positions, "balances": balances, "accounts": accounts, "orders": orders}
    sources = {name: source for name, source in given.items() if source is not None}
    folder = Path(out)
    check_replaceable(folder)
    tables = {name: open_batches(source, name) for name, source in sources.items()}
    for name, files in tables.items():
        check_columns([file.head for file in files], name)
    count = partitions or max(1, ceil(_rows(tables["positions"]) / (rows or ROWS)))
    if count > MOST:
        raise _too_many("rows", f"makes {count:,} partitions")
    steps = _Steps(2 * sum(map(_rows, tables.values())), progress)
    with whole_folder(folder, check_replaceable) as partial:
        spills = {name: Spill(partial / f"{name}.spill", name, count) for name in tables}
        set_aside, quarantine = _read(tables, spills, partial / QUARANTINE, on_error, steps)
        written = [_write(partial, number, spills, steps) for number in range(count)]
        for spill in spills.values():
            spill.path.unlink()
        record = DatasetRecord(
            format=FORMAT,
            hash=HASH,
            accounts=sum(part.accounts for part in written),
            count=count,
            tables={
                name: TableRecord(
                    rows=sum(part.tables[name].rows for part in written),
                    accounts=sum(part.tables[name].accounts for part in written),
                    quarantined=set_aside[name],
                    inputs={file.head.name: file.digest for file in files},
                )
                for name, files in tables.items()
            },
            partitions=tuple(written),
            quarantine=quarantine,
            versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        )
        (partial / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        stop_if_interrupted()
    return Dataset(folder, record)


def _read(
    tables: Mapping[str, list[Batches]], spills: Mapping[str, Spill], path: Path, on_error: OnError, steps: "_Steps"
) -> tuple[dict[str, int], QuarantineRecord | None]:
    """Spill the good rows of every table; how many of each were set aside, and the record of their file."""
    set_aside = {}
    with RowGroups(path, arrow(empty_quarantine()).schema) as aside:
        for table, files in tables.items():
            before = aside.rows
            with spills[table] as spill:
                problems, total = no_findings(), 0
                for file in files:
                    findings, found = _read_file(file, table, spill, None if stops(on_error) else aside, steps)
                    problems, total = first_findings(together([problems, findings])), total + found
                raise_findings(problems, total)
            set_aside[table] = aside.rows - before
    if not aside.rows:
        path.unlink()
        return set_aside, None
    return set_aside, QuarantineRecord(rows=aside.rows, sha256=digest(path))


def _read_file(
    file: Batches, table: str, spill: Spill, aside: RowGroups | None, steps: "_Steps"
) -> tuple[pl.DataFrame, int]:
    """Spill the good rows of a file. The bad ones go `aside`; without that the first findings are returned, and how
    many there are."""
    findings, found, rows = no_findings(), 0, 0
    for part in file.parts():
        batch = admit_batch(part, table)
        spill.add(batch.rows)
        rows += batch.given
        if aside is not None:
            aside.add(arrow(batch.quarantine))
        else:
            findings = first_findings(together([findings, batch.findings]))
            found += batch.findings.height
        steps.take(batch.given)
    if not file.line_per_row(rows):
        findings = findings.with_columns(line=pl.lit(None, pl.Int64))
    return findings, found


def _write(partial: Path, number: int, spills: Mapping[str, Spill], steps: "_Steps") -> PartitionRecord:
    """Write every table of one partition."""
    name = f"partition={number:05d}"
    (partial / name).mkdir()
    of_any_table, records = Distinct(), {}
    for table, spill in spills.items():
        path = partial / name / f"{table}.parquet"
        accounts = Distinct()
        with RowGroups(path, spill.schema) as file:
            for rows in spill.partition(number):
                file.add(pa.Table.from_batches([rows]))
                accounts.add(pl.Series(rows.column("account_id")))
                steps.take(rows.num_rows)
        of_any_table.add(accounts.ids())
        records[table] = FileRecord(
            file=f"{name}/{table}.parquet", rows=file.rows, accounts=len(accounts.ids()), sha256=digest(path)
        )
    return PartitionRecord(name=name, accounts=len(of_any_table.ids()), tables=records)


class _Steps:
    """How many rows were read and written, told to whoever shows it; every step hears of interrupts."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def take(self, rows: int) -> None:
        stop_if_interrupted()
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, max(self._done, self._total))


def _rows(files: list[Batches]) -> int:
    return sum(file.rows for file in files)


def _check_size(partitions: int | None, rows: int | None) -> None:
    for name, value in (("partitions", partitions), ("rows", rows)):
        if value is not None and value < 1:
            raise BadInput([Problem(name, None, None, f"{value} was given", "Give a number from 1")])
    if partitions is not None and rows is not None:
        what, remedy = "is given beside `partitions`", "Give one of the two: the number of partitions, or their size"
        raise BadInput([Problem("rows", None, None, what, remedy)])
    if partitions is not None and partitions > MOST:
        raise _too_many("partitions", f"{partitions:,} was given")


def _too_many(name: str, what: str) -> BadInput:
    return BadInput([Problem(name, None, None, what, f"Have at most {MOST:,} partitions")])
