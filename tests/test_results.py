"""Results on disk: whole or absent, whoever else writes and whenever a run dies."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from marginax.tables import results
from marginax.tables.results import whole_files, write_files, write_tables

SPAWN = multiprocessing.get_context("spawn")


def frame(size: int) -> pl.DataFrame:
    return pl.DataFrame({"account_id": [f"a{k}" for k in range(size)], "initial_margin": [1.0] * size})


def whole(folder: Path) -> bool:
    """Whether the folder holds a manifest and just the tables it speaks of."""
    if not (folder / "manifest.json").exists():
        return False
    outputs = json.loads((folder / "manifest.json").read_text())["outputs"]
    tables = {path.name for path in folder.glob("*.parquet")}
    return tables == set(outputs) and all(
        sha256((folder / name).read_bytes()).hexdigest() == record["sha256"] for name, record in outputs.items()
    )


def write_often(folder: str, size: int) -> None:
    for _ in range(20):
        write_tables(folder, {"margins": frame(size)}, {"size": size})


def die_at_rename(folder: str, count: int) -> None:
    """Write, and be killed at the given change of a name."""
    calls = iter(range(10))
    rename = os.replace

    def replace(old: Path, new: Path) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)

    results.os.replace = replace  # type: ignore[attr-defined]
    write_tables(folder, {"margins": frame(7), "attribution": frame(9)}, {"run": 2})


def test_two_runs_into_one_folder_take_turns(tmp_path: Path) -> None:
    runs = [SPAWN.Process(target=write_often, args=(str(tmp_path), size)) for size in (1_000, 50_000)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert whole(tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_run_killed_while_it_renames_leaves_no_manifest_and_no_mixture(tmp_path: Path, count: int) -> None:
    write_tables(tmp_path, {"margins": frame(3), "attribution": frame(4), "quarantine": frame(1)}, {"run": 1})
    assert whole(tmp_path)
    run = SPAWN.Process(target=die_at_rename, args=(str(tmp_path), count))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    assert all(pl.read_parquet(path).height in (7, 9) for path in tmp_path.glob("*.parquet"))
    write_tables(tmp_path, {"margins": frame(5)}, {"run": 3})
    assert whole(tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


def test_an_error_while_writing_leaves_the_earlier_results_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables(tmp_path, {"margins": frame(3)}, {"run": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        write_tables(tmp_path, {"margins": frame(4)}, {"run": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("fails", ["the second file", "what is done within"])
def test_files_that_belong_together_are_renamed_together_or_not_at_all(tmp_path: Path, fails: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")

    def write(path: Path) -> None:
        path.write_text("new")

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    writers = {first: write, second: fail if fails == "the second file" else write}
    with pytest.raises(OSError, match="No space left"), whole_files(writers):
        fail(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first": "old"}
    with whole_files({first: write, second: write}):
        assert first.read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"first": "new", "second": "new"}


def test_behind_a_link_the_file_is_written_that_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "file", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_files({link: lambda path: path.write_text("new")})
    assert link.is_symlink()
    assert target.read_text() == "new"


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np, polars as pl
from marginax.tables.results import write_tables
folder = Path(sys.argv[1])
write_tables(folder, {"margins": pl.DataFrame({"first": [1.0]})}, {"run": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))
try:
    write_tables(folder, {"margins": pl.DataFrame({"second": np.random.default_rng(1).random(100_000)})}, {"run": 2})
except OSError as error:
    print("OSError", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_disk_that_takes_no_more_leaves_the_earlier_results(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OSError")
    assert pl.read_parquet(tmp_path / "margins.parquet").columns == ["first"]
    assert json.loads((tmp_path / "manifest.json").read_text())["run"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"margins.parquet", "manifest.json"}
