"""A folder that appears whole under its name, or not at all.

It is filled beside its place under a name of its own, and renamed when it is complete. What it replaces is moved aside
first and removed last, so that it is put back where the renaming fails, or by the next run where the process dies in
between. What a killed run left half-filled is swept up by the next run into the same folder.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from marginax.problems import BadInput, Problem
from marginax.tables.results import alone, held, sync

_PARTIAL, _REPLACED = "partial", "replaced"


@contextmanager
def whole_folder(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when what is done within has succeeded.

    `check` raises where what lies there may not be replaced; it is asked before and after. Raises OSError where the
    folder cannot be written; what lay there then stands as it was.
    """
    place = folder.resolve()  # behind a link, what it points to
    check(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial, handle = _beside(place, _PARTIAL), None
    try:
        with alone(place.parent):
            _sweep(place)
            partial.mkdir()
            handle = held(partial)
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        with alone(place.parent):
            check(place)
            _replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def check_ours(folder: Path, names: re.Pattern[str], *, record: str, format: str, maker: str) -> None:
    """Raise BadInput, naming what is in the way, where a folder is neither absent, empty nor an earlier one of ours.

    `names` are those of all files and folders that `maker` writes below it, `record` the one that states its `format`,
    of whatever version.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput([Problem(str(folder), None, None, "is a file", "Name a folder for what is written")])
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    strange = next((name for name in inside if not names.fullmatch(name)), None)
    if strange is None and inside and not _states(folder / record, format):
        strange = inside[0]
    if strange is not None:
        what = f"holds {strange}, which {maker} did not write"
        raise BadInput([Problem(str(folder), None, None, what, "Name a new folder, or move that file away")])


def _states(path: Path, format: str) -> bool:
    name = format.partition("/")[0]
    return path.is_file() and f'"{name}/' in path.read_text(encoding="utf-8", errors="replace")


def _replace(partial: Path, place: Path) -> None:
    replaced = _beside(place, _REPLACED)
    try:
        if place.exists():
            os.replace(place, replaced)
        os.replace(partial, place)
    except BaseException:
        _put_back(replaced, place)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _put_back(replaced: Path, place: Path) -> None:
    if replaced.exists() and not place.exists():
        os.replace(replaced, place)


def _sweep(place: Path) -> None:
    """Take away what runs that are dead left beside the folder, and put back what they had moved aside."""
    name = re.compile(rf"\.({_PARTIAL}|{_REPLACED})\.[0-9a-f]{{8}}\.{re.escape(place.name)}")
    for path in list(place.parent.iterdir()):
        match = name.fullmatch(path.name)
        if match and match[1] == _REPLACED:
            _put_back(path, place)
            shutil.rmtree(path, ignore_errors=True)
        elif match and _is_left(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(partial: Path) -> bool:
    """Whether no process holds this folder; where the system has no locks nobody can tell."""
    handle = held(partial)
    if handle is None:
        return False
    os.close(handle)
    return True


def _beside(place: Path, word: str) -> Path:
    return place.with_name(f".{word}.{uuid4().hex[:8]}.{place.name}")
