"""A replay on disk: what an unfinished one needs to go on, and its results, whole under their final names.

    DIR/unfinished/run.json            what it was begun with, how many epochs are kept, the files that hold them
    DIR/unfinished/state-NNNNNNNN.npz  the market and the filters after so many epochs; ledger-*: what was called
    DIR/unfinished/*-NNNNNNNN.parquet  the rows of the epochs since the file before
    DIR/epochs.parquet, accounts.parquet (a row group an epoch), manifest.json

`run.json` is replaced in one step after the files that it names are on disk: whenever a process dies, what it names is
whole. The final files are put together from the kept rows, an epoch at a time, and their bytes do not depend on where a
replay was interrupted.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow.parquet import ParquetFile, ParquetWriter

from marginax.datasets.spill import arrow
from marginax.engine import LiveMargin
from marginax.epochs.calls import Ledger
from marginax.epochs.rows import EPOCHS, HOLDERS
from marginax.problems import BadInput, Problem
from marginax.tables.results import HAS_LOCKS, MANIFEST, PARTIAL, alone, digest, held, sync, write_files, write_parquet

FORMAT = "marginax.epochs/1"
UNFINISHED, RECORD, QUARANTINE = "unfinished", "run.json", "quarantine.parquet"
TABLES: dict[str, dict[str, pl.DataType]] = {"epochs": EPOCHS, "accounts": HOLDERS}


@dataclass
class Unfinished:
    """The folder of a replay that is under way, held against other processes; see `unfinished`."""

    folder: Path
    begun_with: Mapping[str, Any]
    done: int = 0
    files: dict[str, str] = field(default_factory=dict)
    parts: list[int] = field(default_factory=list)

    def keep(
        self,
        done: int,
        live: LiveMargin,
        ledger: Ledger,
        epochs: Sequence[pl.DataFrame],
        holders: Sequence[pl.DataFrame],
    ) -> None:
        """Put a checkpoint on disk: the state after `done` epochs, and the rows of each epoch since the last one."""
        if done == self.done:
            return
        name = f"{done:08d}"
        live.save(self._path("state", name, "npz"))

        def write_ledger(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **vars(ledger))

        write_files({self._path("ledger", name, "npz"): write_ledger})
        _write_groups(self._path("epochs", name, "parquet"), "epochs", iter([arrow(pl.concat(epochs))]))
        _write_groups(self._path("accounts", name, "parquet"), "accounts", map(arrow, holders))
        new = [self._path(kind, name, "npz") for kind in ("state", "ledger")]
        new += [self._path(table, name, "parquet") for table in TABLES]
        rows = {file: sha for file, sha in self.files.items() if file.endswith(".parquet")}
        # Until the record is replaced the checkpoint before is the one that counts.
        files, parts = rows | {path.name: digest(path) for path in new}, [*self.parts, done]
        self._record(done, parts, files)
        self.done, self.parts, self.files = done, parts, files
        self._sweep()

    def ledger(self) -> Ledger:
        """The ledger of the last checkpoint."""
        with np.load(self._path("ledger", f"{self.done:08d}", "npz"), allow_pickle=False) as arrays:
            return Ledger(**{name: arrays[name] for name in arrays.files})

    @property
    def state(self) -> Path:
        """The file with the state of the last checkpoint."""
        return self._path("state", f"{self.done:08d}", "npz")

    def epochs(self) -> pl.DataFrame:
        """The rows of all epochs that are kept."""
        parts = [pl.read_parquet(self._path("epochs", f"{part:08d}", "parquet")) for part in self.parts]
        return pl.concat([pl.DataFrame(schema=EPOCHS), *parts])

    def finish(self, out: Path, manifest: Mapping[str, Any], quarantine: pl.DataFrame) -> dict[str, Any]:
        """Write the results under their final names, the manifest last; returns it."""
        with alone(out):
            try:
                outputs = {}
                for table in TABLES:
                    partial = out / f".{table}.parquet{PARTIAL}"
                    count = _write_groups(partial, table, self._groups(table))
                    outputs[f"{table}.parquet"] = {"rows": count, "sha256": digest(partial)}
                if quarantine.height:
                    partial = out / f".{QUARANTINE}{PARTIAL}"
                    write_parquet(quarantine, partial)
                    sync(partial)
                    outputs[QUARANTINE] = {"rows": quarantine.height, "sha256": digest(partial)}
                last = out / f".{MANIFEST}{PARTIAL}"
                manifest = {**manifest, "outputs": outputs}
                text = json.dumps(manifest, indent=2, allow_nan=False)
                last.write_text(text + "\n", encoding="utf-8")
                sync(last)
                for name in (MANIFEST, QUARANTINE):
                    (out / name).unlink(missing_ok=True)
                for name in outputs:
                    os.replace(out / f".{name}{PARTIAL}", out / name)
                os.replace(last, out / MANIFEST)
            finally:
                for leftover in out.glob(f".*{PARTIAL}"):
                    leftover.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return dict(manifest)

    def _groups(self, table: str) -> Iterator[pa.Table]:
        """The row groups of a table: sums all at once, holders an epoch after the other."""
        if table == "epochs":
            yield arrow(self.epochs())
            return
        for part in self.parts:
            with ParquetFile(self._path(table, f"{part:08d}", "parquet")) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)

    def _record(self, done: int, parts: list[int], files: dict[str, str]) -> None:
        told = {"begun_with": self.begun_with, "done": done, "parts": parts, "files": files}
        text = json.dumps(told, indent=2, allow_nan=False) + "\n"
        write_files({self.folder / RECORD: lambda path: path.write_text(text, encoding="utf-8")})
        sync(self.folder)

    def _sweep(self) -> None:
        """Take away what the record does not name: files of an older checkpoint, or of one that was not finished."""
        for path in self.folder.iterdir():
            if path.name not in {*self.files, RECORD}:
                path.unlink(missing_ok=True)

    def _path(self, kind: str, name: str, ending: str) -> Path:
        return self.folder / f"{kind}-{name}.{ending}"


@contextmanager
def unfinished(out: Path, begun_with: Mapping[str, Any], *, go_on: bool) -> Iterator[Unfinished]:
    """The unfinished replay in a folder: the one that lies there to be resumed, or a new one.

    Raises BadInput where another process is at it, where one lies there that is not to be resumed, where it was begun
    with something else, or where its files are not what was written; OSError where the folder cannot be written.
    """
    folder = out / UNFINISHED
    check_out(out)
    folder.mkdir(parents=True, exist_ok=True)
    handle = held(folder)
    if handle is None and HAS_LOCKS:
        raise _refused(folder, None, "another process is at this replay", "Wait for it, or name another folder")
    try:
        run = Unfinished(folder, begun_with)
        record = folder / RECORD
        if record.is_file():
            if not go_on:
                remedy = "Go on with --resume, remove that folder, or name another one with --out"
                raise _refused(folder, None, "holds a replay that is not finished", remedy)
            _read(run, record)
        run._sweep()
        yield run
    finally:
        if handle is not None:
            os.close(handle)
        if not (folder / RECORD).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def check_out(out: Path) -> None:
    """Refuse a folder for results that is a file, or that holds tables of the same names from elsewhere."""
    if out.exists() and not out.is_dir():
        raise BadInput([Problem(str(out), None, None, "is a file", "Name a folder for the results")])
    there = [f"{table}.parquet" for table in TABLES if (out / f"{table}.parquet").exists()]
    manifest = out / MANIFEST
    ours = manifest.is_file() and f'"{FORMAT.partition("/")[0]}/' in manifest.read_text("utf-8", errors="replace")
    if there and not ours:
        what = f"holds {there[0]}, which is not known to be of a replay"
        raise BadInput([Problem(str(out), None, None, what, "Name a new folder, or move that file away")])


def _read(run: Unfinished, record: Path) -> None:
    """Take up what a record tells; raise BadInput where it is of another replay, or its files are not whole."""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        run.done, run.parts, run.files = int(told["done"]), list(told["parts"]), dict(told["files"])
        was = dict(told["begun_with"])
    except (ValueError, KeyError, TypeError):
        raise _refused(record, None, "is no record of a replay", "Remove its folder and begin anew") from None
    now = json.loads(json.dumps(run.begun_with))
    for key in sorted({*was, *now}):
        if was.get(key) != now.get(key):
            what = f"was begun with {_said(key, was.get(key))}, and now there is {_said(key, now.get(key))}"
            remedy = "Resume it with what it was begun with, or remove its folder and begin anew"
            raise _refused(record, key, what, remedy)
    for name, sha in run.files.items():
        path = run.folder / name
        if not path.is_file() or digest(path) != sha:
            raise _refused(path, None, "is not what the replay wrote", f"Remove {run.folder} and begin anew")


def _said(key: str, value: Any) -> str:
    if value is None:
        return f"no {key}"
    text = value if isinstance(value, str | int) else json.dumps(value)
    return f"{key} {text if len(str(text)) <= 80 else f'{str(text)[:80]}...'}"


def _refused(path: Path, key: str | None, what: str, remedy: str) -> BadInput:
    return BadInput([Problem(str(path), key, None, what, remedy)])


def _write_groups(path: Path, table: str, groups: Iterator[pa.Table]) -> int:
    """Write a table a row group at a time; returns how many rows it has. Raises OSError where that fails."""
    schema, count = arrow(pl.DataFrame(schema=TABLES[table])).schema, 0
    with ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(group.num_rows, 1))
            count += group.num_rows
    sync(path)
    return count
