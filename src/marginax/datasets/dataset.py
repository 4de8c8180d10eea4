"""A book partitioned by account, on disk: a folder for each partition, and `dataset.json` that speaks of all of them.

    DIR/dataset.json
    DIR/partition=00000/positions.parquet, balances.parquet; accounts.parquet, orders.parquet where they were given
    DIR/quarantine.parquet                 where rows were set aside

All rows of an account are in one partition, whatever the table. Tables have the columns and types of the door; a
reader of a partition still checks what takes a whole table, such as an account that is listed twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from marginax.datasets.folder import check_ours
from marginax.datasets.hashing import HASH, partition_numbers
from marginax.problems import BadInput, Problem

FORMAT = "marginax.dataset/1"
RECORD, QUARANTINE = "dataset.json", "quarantine.parquet"
TABLES = ("positions", "balances", "accounts", "orders")
_OURS = re.compile(rf"{RECORD}|{QUARANTINE}|partition=\d{{5}}(/({'|'.join(TABLES)})\.parquet)?")
_AGAIN = "Partition the book again with `marginax partition`"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """One Parquet file: its path below the dataset, its rows, how many accounts they are of, and its SHA-256."""

    file: str
    rows: NonNegativeInt
    accounts: NonNegativeInt
    sha256: str


class PartitionRecord(_Record):
    """One partition: `accounts` counts those that any of its tables names."""

    name: str
    accounts: NonNegativeInt
    tables: dict[str, FileRecord]


class TableRecord(_Record):
    """One table over all partitions: rows and their accounts, rows set aside, and the SHA-256 of what it is from."""

    rows: NonNegativeInt
    accounts: NonNegativeInt
    quarantined: NonNegativeInt
    inputs: dict[str, str]


class QuarantineRecord(_Record):
    """The rows that were set aside, and the SHA-256 of their file."""

    rows: PositiveInt
    sha256: str


class DatasetRecord(_Record):
    """All of `dataset.json`: `hash` names the rule that gives an account its partition."""

    format: str
    hash: str
    accounts: NonNegativeInt
    count: PositiveInt
    tables: dict[str, TableRecord]
    partitions: tuple[PartitionRecord, ...]
    quarantine: QuarantineRecord | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Partition:
    """One part of a book: the file and the rows of each table, the SHA-256 of each file, and how many accounts any of
    them names."""

    name: str
    files: Mapping[str, Path]
    hashes: Mapping[Path, str]
    rows: Mapping[str, int]
    accounts: int


@dataclass(frozen=True)
class Dataset:
    """A partitioned book: where it lies, and what `dataset.json` says of it."""

    path: Path
    record: DatasetRecord

    def __len__(self) -> int:
        return len(self.partitions)

    def __repr__(self) -> str:
        return f"Dataset({self.record.accounts:,} accounts in {len(self):,} partitions, {self.path})"

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions in order of their numbers."""
        return tuple(
            Partition(
                name=part.name,
                files={table: self.path / file.file for table, file in part.tables.items()},
                hashes={self.path / file.file: file.sha256 for file in part.tables.values()},
                rows={table: file.rows for table, file in part.tables.items()},
                accounts=part.accounts,
            )
            for part in self.record.partitions
        )

    @property
    def quarantine(self) -> Path | None:
        """The file of the rows that were set aside, if any were; an account with one of them is incomplete."""
        return self.path / QUARANTINE if self.record.quarantine else None

    def partition_of(self, account_id: str) -> Partition:
        """The partition that holds all rows of an account, if there are any."""
        (number,) = partition_numbers(pl.Series([account_id], dtype=pl.String), len(self))
        return self.partitions[number]


def open_dataset(path: str | Path) -> Dataset:
    """The dataset in a folder that `marginax partition` wrote.

    Raises BadInput where there is none, where it is of another version, or where a file is missing, cannot be read or
    has other rows than were written. Only the ends of files are read here; who reads a file compares its SHA-256.
    """
    folder = Path(path)
    record = _read(folder / RECORD)
    files = [file for part in record.partitions for file in part.tables.values()]
    problems = [problem for file in files if (problem := _wrong(folder / file.file, file.rows))]
    if record.quarantine and (problem := _wrong(folder / QUARANTINE, record.quarantine.rows)):
        problems.append(problem)
    if problems:
        raise BadInput(problems)
    return Dataset(folder, record)


def check_replaceable(folder: Path) -> None:
    """Raise BadInput, naming what is in the way, where a folder is neither absent, empty nor an earlier dataset."""
    check_ours(folder, _OURS, record=RECORD, format=FORMAT, maker="`marginax partition`")


def _read(path: Path) -> DatasetRecord:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        what = "there is no such file" if not path.exists() else "cannot be read"
        raise _refused(path, what, "Name a folder that `marginax partition` wrote") from None
    try:
        record = DatasetRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _refused(path, f"{first['msg'][:1].lower()}{first['msg'][1:]}", _AGAIN, key=key or None) from None
    if (record.format, record.hash) != (FORMAT, HASH):
        key = "format" if record.format != FORMAT else "hash"
        what = f"`{getattr(record, key)}` is not known to this version"
        raise _refused(path, what, f"{_AGAIN}, or read it with the version that wrote it", key=key)
    names = [f"partition={number:05d}" for number in range(record.count)]
    whole = all(part.tables.keys() == record.tables.keys() for part in record.partitions)
    if [part.name for part in record.partitions] != names or not whole:
        raise _refused(path, f"does not list {record.count:,} partitions with all tables", _AGAIN, key="partitions")
    return record


def _wrong(path: Path, rows: int) -> Problem | None:
    """What is wrong with a file that was written with so many rows."""
    if not path.is_file():
        return Problem(str(path), None, None, "there is no such file", _AGAIN)
    try:
        with ParquetFile(path) as file:
            found = file.metadata.num_rows
    except (ArrowException, OSError):
        return Problem(str(path), None, None, "cannot be read", _AGAIN)
    if found != rows:
        return Problem(str(path), None, None, f"has {found:,} rows and was written with {rows:,}", _AGAIN)
    return None


def _refused(path: Path, what: str, remedy: str, *, key: str | None = None) -> BadInput:
    return BadInput([Problem(str(path), key, None, what, remedy)])
