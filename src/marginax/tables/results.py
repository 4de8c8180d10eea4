"""Results on disk: whole under their final names, or not there at all.

Tables are written under temporary names, the old manifest is taken away, tables are renamed, and the manifest comes
last: a folder with a manifest holds the tables that the manifest speaks of.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

MANIFEST = "manifest.json"
# Everything a run may write: what this run does not, an earlier run in the same folder must not leave behind.
TABLES = ("margins", "attribution", "quarantine")


def write_tables(directory: str | Path, tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]) -> Path:
    """Write NAME.parquet for each table and manifest.json with their hashes; returns the folder.

    Raises OSError where the folder cannot be written; nothing of this run then has its final name but what was
    already complete, and there is no manifest.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[Path, Path]] = []
    outputs = {}
    try:
        for name, table in tables.items():
            temporary = folder / f".{name}.parquet.{os.getpid()}"
            waiting.append((temporary, folder / f"{name}.parquet"))
            table.write_parquet(temporary)
            _sync(temporary)
            outputs[f"{name}.parquet"] = {"rows": table.height, "sha256": _digest(temporary)}
        temporary = folder / f".{MANIFEST}.{os.getpid()}"
        waiting.append((temporary, folder / MANIFEST))
        text = json.dumps({**manifest, "outputs": outputs}, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        _sync(temporary)
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in TABLES:
            if name not in tables:
                (folder / f"{name}.parquet").unlink(missing_ok=True)
        for temporary, final in waiting:
            os.replace(temporary, final)
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)
    return folder


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
