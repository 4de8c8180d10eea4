"""Datasets on disk: whole or absent, whoever dies while writing, and refused where something is amiss."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest

from marginax.datasets import folder as whole
from marginax.datasets import open_dataset, partition, partition_book
from marginax.problems import BadInput

SPAWN = multiprocessing.get_context("spawn")


def write(out: Path, size: int = 10, partitions: int = 3) -> None:
    """A dataset of so many accounts."""
    ids = [f"a{k}" for k in range(size)]
    positions = pl.DataFrame({"account_id": ids, "instrument_id": "X", "quantity": 1.0})
    balances = pl.DataFrame({"account_id": ids, "asset": "USD", "amount": 1.0})
    partition_book(positions=positions, balances=balances, out=out, partitions=partitions)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a dataset of ten accounts."""
    write(tmp_path / "dataset")
    return tmp_path / "dataset"


def die_while_writing(out: str) -> None:
    partition.digest = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
    write(Path(out), size=20)


def die_while_renaming(out: str) -> None:
    rename = os.replace

    def replace(old: Path, new: Path) -> None:
        rename(old, new)
        os.kill(os.getpid(), signal.SIGKILL)

    whole.os.replace = replace  # type: ignore[attr-defined]
    write(Path(out), size=20)


def test_an_earlier_dataset_is_replaced_whole(out: Path) -> None:
    write(out, size=20, partitions=2)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "partition=00000", "partition=00001"]
    assert open_dataset(out).record.accounts == 20
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_a_dataset_may_be_partitioned_again_into_its_own_folder(out: Path) -> None:
    parts = open_dataset(out).partitions
    files = {table: [part.files[table] for part in parts] for table in ("positions", "balances")}
    partition_book(**files, out=out, partitions=7)
    assert (len(open_dataset(out)), open_dataset(out).record.accounts) == (7, 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stops_it_leaves_nothing_and_the_earlier_dataset_as_it_was(
    out: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(partition, "digest", stop)
    before = files_in(out.parent)
    for folder in (out, out.parent / "other"):
        with pytest.raises((KeyboardInterrupt, OSError)):
            write(folder)
    assert files_in(out.parent) == before
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_an_interrupt_is_heard_at_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginax.interrupts._interrupted", True)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "dataset")
    assert not list(tmp_path.iterdir())


def test_a_killed_run_leaves_the_earlier_dataset_and_is_swept_up_by_the_next(out: Path) -> None:
    before = files_in(out)
    run = SPAWN.Process(target=die_while_writing, args=(str(out),))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert files_in(out) == before
    assert len(list(out.parent.iterdir())) == 2
    write(out, size=20)
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_what_a_run_killed_between_two_renames_had_moved_aside_is_put_back(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(out)
    run = SPAWN.Process(target=die_while_renaming, args=(str(out),))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not out.exists()
    monkeypatch.setattr(partition, "digest", lambda _: os.stat(out / "nowhere"))
    with pytest.raises(FileNotFoundError):
        write(out)
    assert files_in(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]


def test_a_rename_that_fails_puts_the_earlier_dataset_back(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.replace

    def replace(old: Path, new: Path) -> None:
        if ".partial." in str(old):
            raise OSError(5, "Input/output error")
        rename(old, new)

    before = files_in(out.parent)
    monkeypatch.setattr(whole.os, "replace", replace)
    with pytest.raises(OSError, match="Input/output error"):
        write(out, size=20)
    assert files_in(out.parent) == before


def test_the_folder_of_a_run_that_is_alive_is_left_alone(out: Path) -> None:
    with whole.whole_folder(out, lambda _: None) as partial:
        write(out, size=20)
        assert partial.is_dir()
        (partial / "file").touch()
    assert [path.name for path in out.iterdir()] == ["file"]


def test_a_folder_that_holds_anything_else_is_refused_by_name(out: Path) -> None:
    def refused(folder: Path, *words: str) -> None:
        before = files_in(folder) if folder.is_dir() else folder.read_bytes()
        with pytest.raises(BadInput) as caught:
            write(folder)
        assert all(word in str(caught.value) for word in (str(folder), *words))
        assert before == (files_in(folder) if folder.is_dir() else folder.read_bytes())

    (out / "partition=00001" / "notes.txt").write_text("mine")
    refused(out, "partition=00001/notes.txt", "move that file away")
    (out / "partition=00001" / "notes.txt").unlink()
    (out / "dataset.json").write_text("{}")
    refused(out, "holds dataset.json")
    (out / "dataset.json").unlink()
    refused(out, "holds partition=00000")
    file = out.parent / "file"
    file.write_text("mine")
    refused(file, "is a file")
    (out.parent / "empty").mkdir()
    write(out.parent / "empty")


def test_behind_a_link_the_folder_is_replaced_that_it_points_to(out: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(out)
    write(link, size=20)
    assert link.is_symlink()
    assert open_dataset(out).record.accounts == 20


def test_a_dataset_is_opened_with_what_was_written(out: Path) -> None:
    dataset = open_dataset(str(out))
    assert repr(dataset) == f"Dataset(10 accounts in 3 partitions, {out})"
    assert [part.name for part in dataset.partitions] == [f"partition={k:05d}" for k in range(3)]
    for part in dataset.partitions:
        assert set(part.files) == set(part.rows) == {"positions", "balances"}
        assert all(pl.read_parquet(path).height == part.rows[table] for table, path in part.files.items())


def test_a_dataset_that_is_not_as_it_was_written_is_refused_with_a_remedy(out: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> None:
        with pytest.raises(BadInput) as caught:
            open_dataset(out)
        assert all(word in str(caught.value) for word in words), str(caught.value)

    kept = tmp_path / "kept"
    shutil.copytree(out, kept)
    record = json.loads((out / "dataset.json").read_text())

    def spoil(**changed: object) -> None:
        (out / "dataset.json").write_text(json.dumps({**record, **changed}))

    spoil(format="marginax.dataset/9")
    refused("key format", "`marginax.dataset/9` is not known", "with the version that wrote it")
    spoil(hash="blake3")
    refused("key hash", "`blake3` is not known")
    spoil(count=4)
    refused("does not list 4 partitions", "Partition the book again")
    spoil(accounts="many")
    refused("key accounts", "Partition the book again")
    (out / "dataset.json").write_text("{")
    refused("dataset.json", "Partition the book again")
    spoil()
    path = out / "partition=00001" / "balances.parquet"
    pl.read_parquet(path)[1:].write_parquet(path)
    refused(str(path), "rows and was written with", "Partition the book again")
    path.write_bytes(b"PAR1")
    refused(str(path), "cannot be read")
    path.unlink()
    refused(str(path), "there is no such file")
    shutil.rmtree(out)
    refused("dataset.json", "there is no such file", "Name a folder that `marginax partition` wrote")
    assert open_dataset(kept).record.accounts == 10
