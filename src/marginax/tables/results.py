"""Results on disk: whole under their final names, or not there at all.

Tables are written beside their final names; then the manifest and the tables of an earlier run are taken away, the new
tables are renamed, and the manifest comes last: a folder with a manifest holds the tables that the manifest speaks of.
Runs into one folder take turns, and what a killed run left half-written is swept up by the next.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

try:
    import fcntl
except ImportError:  # no file locks on this system: runs into one folder must not overlap
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
TABLES = (
    "margins",
    "isolated",
    "options",
    "attribution",
    "scores",
    "breaches",
    "venue",
    "open_interest",
    "venue_losses",
    "quarantine",
    "checked_quotes",
    "checked_underlyings",
    "daily",
    "responses",
    "path",
    "changes",
    "whatif",
)
DOCUMENTS = ("judgement.json", "impulse.json", "fit.json", "changes.json", "whatif.json")
PARTIAL = ".partial"
HAS_LOCKS = fcntl is not None


def write_tables(
    directory: str | Path,
    tables: Mapping[str, pl.DataFrame],
    manifest: Mapping[str, Any],
    documents: Mapping[str, str] | None = None,
) -> Path:
    """Write NAME.parquet for each table, documents under their names, and manifest.json with all their hashes.

    Returns the folder.

    Raises OSError where the folder cannot be written; the results of an earlier run then stand as they were, or, if
    the error comes while names are changed, there is no manifest.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            outputs = {}
            for name, table in tables.items():
                partial = folder / f".{name}.parquet{PARTIAL}"
                write_parquet(table, partial)
                sync(partial)
                outputs[f"{name}.parquet"] = {"rows": table.height, "sha256": digest(partial)}
            for name, text in (documents or {}).items():
                partial = folder / f".{name}{PARTIAL}"
                partial.write_text(text, encoding="utf-8")
                sync(partial)
                outputs[name] = {"sha256": digest(partial)}
            text = json.dumps({**manifest, "outputs": outputs}, indent=2, allow_nan=False)
            last = folder / f".{MANIFEST}{PARTIAL}"
            last.write_text(text + "\n", encoding="utf-8")
            sync(last)
            clear_results(folder)
            for name in tables:
                os.replace(folder / f".{name}.parquet{PARTIAL}", folder / f"{name}.parquet")
            for name in documents or {}:
                os.replace(folder / f".{name}{PARTIAL}", folder / name)
            os.replace(last, folder / MANIFEST)
        finally:
            for leftover in folder.glob(f".*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
    return folder


def write_parquet(table: pl.DataFrame, path: Path) -> None:
    """Write a table. Raises OSError where it cannot be written; polars calls a full disk something else."""
    try:
        table.write_parquet(path)
    except pl.exceptions.ComputeError as error:
        raise OSError(f"{path.name}: {error}") from error


def result_names() -> set[str]:
    """The names of all files that a command writes into its folder of results, and takes away before it does."""
    return {*(f"{table}.parquet" for table in TABLES), *DOCUMENTS, MANIFEST}


def clear_results(directory: str | Path) -> None:
    """Take away the results of an earlier run, the manifest first; what else lies in the folder stays."""
    folder = Path(directory)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in result_names() - {MANIFEST}:
        (folder / name).unlink(missing_ok=True)


def write_files(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """`whole_files` with nothing else to do."""
    with whole_files(files):
        return


@contextmanager
def whole_files(files: Mapping[Path, Callable[[Path], object]]) -> Iterator[None]:
    """Let each function fill a file beside its path; they are renamed together once all, and what is done within, are.

    Raises OSError where one cannot be written; all then stand as they were.
    """
    whole = {path.resolve(): write for path, write in files.items()}  # behind a link, what it points to
    # Writers go by the suffix, and two processes may write one file.
    partials = {path: path.with_name(f"{PARTIAL}.{os.getpid()}.{path.name}") for path in whole}
    try:
        for path, write in whole.items():
            write(partials[path])
            sync(partials[path])
        yield
        for path, partial in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other runs; the system lets go of it when a run dies."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


def held(folder: Path) -> int | None:
    """Hold the folder until the handle is closed or the process dies; None where another process holds it, or nothing
    can be held."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def sync(path: Path) -> None:
    """Have the system write a file to disk, or the names in a folder where it can."""
    if path.is_dir() and fcntl is None:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        sha = sha256()
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
