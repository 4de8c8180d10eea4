"""Replays that are interrupted, killed and resumed give the same files to the bit; others are refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.epochs import replay
from marginax.problems import BadInput
from test_dynamic import ALL_ON
from test_epochs import DOUBLE, STEPS, STILL, bars, book, day, market, model, run

TABLES = ("epochs.parquet", "accounts.parquet")
# A process that is killed at an epoch, with no time to say anything.
KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_epochs import run

def at(done, total):
    if done == {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)

run(Path({out!r}), calls="closed", every={every}, progress=at)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a replay that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out, calls="closed")
    assert sorted(path.name for path in out.iterdir()) == ["accounts.parquet", "epochs.parquet", "manifest.json"]
    return {name: (out / name).read_bytes() for name in TABLES}


def stopping_at(epoch: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("epoch", "every"),
    [
        *((1, 3), (2, 1), (STEPS, 1)),
        *(pytest.param(epoch, every, marks=pytest.mark.long) for epoch, every in ((1, 1), (2, 3), (STEPS - 1, 1))),
        *((STEPS - 1, 3), pytest.param(STEPS, 3, marks=pytest.mark.long)),
    ],
)
def test_an_interrupted_replay_goes_on_to_the_same_bits(
    whole: dict[str, bytes], tmp_path: Path, epoch: int, every: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(out, calls="closed", every=every, progress=stopping_at(epoch))
    assert not (out / "manifest.json").exists()
    assert not any((out / name).exists() for name in TABLES)
    seen: list[int] = []
    run(out, calls="closed", every=every, go_on=True, progress=lambda done, total: seen.append(done))
    assert seen == list(range(epoch + 1, STEPS + 1))
    assert {name: (out / name).read_bytes() for name in TABLES} == whole
    assert not (out / "unfinished").exists()


def test_one_that_is_interrupted_again_and_again_too(whole: dict[str, bytes], tmp_path: Path) -> None:
    for epoch in range(1, STEPS):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, calls="closed", every=2, go_on=True, progress=stopping_at(epoch))
    run(tmp_path, calls="closed", every=2, go_on=True)
    assert {name: (tmp_path / name).read_bytes() for name in TABLES} == whole


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_replay_goes_on_from_its_last_checkpoint(whole: dict[str, bytes], tmp_path: Path) -> None:
    epoch, every, kept = 4, 3, 3
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path), epoch=epoch, every=every)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    seen: list[int] = []
    run(tmp_path, calls="closed", every=every, go_on=True, progress=lambda done, total: seen.append(done))
    assert seen[0] == kept + 1
    assert {name: (tmp_path / name).read_bytes() for name in TABLES} == whole


def test_a_checkpoint_that_was_cut_short_is_not_what_counts(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead between the files of a checkpoint and its record: the checkpoint before is gone on from."""
    from marginax.epochs.files import Unfinished

    recorded = Unfinished._record
    calls: list[int] = []

    def dies(self: Unfinished, *rest: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError("no space left on the device")
        recorded(self, *rest)

    monkeypatch.setattr(Unfinished, "_record", dies)
    with pytest.raises(OSError, match="no space"):
        run(tmp_path, calls="closed", every=2)
    monkeypatch.undo()
    seen: list[int] = []
    run(tmp_path, calls="closed", every=2, go_on=True, progress=lambda done, total: seen.append(done))
    assert seen[0] == 3
    assert {name: (tmp_path / name).read_bytes() for name in TABLES} == whole


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        run(out, every=2, progress=stopping_at(2))
    return out


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "unfinished").iterdir()}


def test_one_that_is_not_finished_is_not_begun_anew_unasked(begun: Path) -> None:
    before = kept(begun)
    with pytest.raises(BadInput, match=r"holds a replay that is not finished\. Go on with --resume"):
        run(begun)
    assert kept(begun) == before


def test_a_replay_is_resumed_with_what_it_was_begun_with(begun: Path) -> None:
    before = kept(begun)
    with pytest.raises(BadInput, match="key calls: was begun with calls stand, and now there is calls paid"):
        run(begun, calls="paid", go_on=True)
    with pytest.raises(BadInput, match=r"inputs\.bars.*Resume it with what it was begun with"):
        run(begun, rows=bars().head(20), go_on=True)
    dearer = parse_config({**ALL_ON, **STILL, "dependence": {"share": 0.2}}, "test")
    with pytest.raises(BadInput, match=r"key configuration\.dependence: was begun with"):
        replay(book(), market(), bars(), dearer, out=begun, engine=DOUBLE, go_on=True)
    with pytest.raises(BadInput, match="key seed"):
        run(begun, seed=8, go_on=True)
    richer = mx.read_book(
        instruments=book().tables["instruments"].rows.drop("__file", "__row", "__line"),
        positions=book().tables["positions"].rows.drop("__file", "__row", "__line"),
        balances=pl.DataFrame({"account_id": ["long"], "asset": ["USD"], "amount": [1e9]}),
    )
    with pytest.raises(BadInput, match=r"key inputs\.balances"):
        replay(richer, market(), bars(), model(), out=begun, engine=DOUBLE, go_on=True)
    assert kept(begun) == before


def test_files_that_were_tampered_with_are_refused(begun: Path) -> None:
    state = next((begun / "unfinished").glob("state-*"))
    content = state.read_bytes()
    state.write_bytes(content[:-1])
    try:
        with pytest.raises(BadInput, match="is not what the replay wrote"):
            run(begun, go_on=True)
    finally:
        state.write_bytes(content)
    record = begun / "unfinished" / "run.json"
    text = record.read_text()
    record.write_text("{}")
    try:
        with pytest.raises(BadInput, match="is no record of a replay"):
            run(begun, go_on=True)
    finally:
        record.write_text(text)


def test_two_processes_do_not_replay_into_one_folder(begun: Path) -> None:
    from marginax.tables.results import HAS_LOCKS, held

    if not HAS_LOCKS:
        pytest.skip("no file locks on this system")
    handle = held(begun / "unfinished")
    assert handle is not None
    try:
        with pytest.raises(BadInput, match="another process is at this replay"):
            run(begun, go_on=True)
    finally:
        os.close(handle)


def test_tables_of_somebody_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "accounts.parquet").write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"holds accounts\.parquet, which is not known to be of a replay"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["accounts.parquet"]
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        run(tmp_path / "file")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows.with_columns(price=pl.lit(float("nan"))), "column price: NaN was given"),
        (lambda rows: pl.concat([rows, rows.head(1)]), "is there already"),
        (lambda rows: rows.with_columns(underlying=pl.lit("SOL")).head(1), "'SOL' is no underlying of the market"),
        (lambda rows: rows.with_columns(price=-pl.col("price")), "column price: -.* was given"),
        (lambda rows: rows.with_columns(time=pl.col("time") - timedelta(days=30)), "has no price later than"),
        (lambda rows: rows.with_columns(time=day(5) + timedelta(hours=2)).head(1), "is less than a bar of the"),
        (lambda rows: rows.with_columns(instrument_id=pl.lit("BTC-X")).head(1), "'BTC-X' is no instrument"),
        (
            lambda rows: rows.filter(underlying="ETH").with_columns(instrument_id=pl.lit("BTC-PERP")),
            "'BTC-PERP' is on 'BTC', not on 'ETH'",
        ),
        (lambda rows: rows.rename({"price": "close"}), "column close: is not a column of the table `bars`"),
    ],
    ids=["NaN", "twice", "unknown coin", "negative", "too early", "too close", "unknown mark", "other coin", "column"],
)  # fmt: skip
def test_bars_that_cannot_be_used_are_named(tmp_path: Path, spoil: Callable[..., pl.DataFrame], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", rows=spoil(bars()))
    assert not (tmp_path / "out").exists()


def test_a_contract_that_ends_before_the_bars_is_refused_where_it_is_held(tmp_path: Path) -> None:
    expiry = day(2) + timedelta(hours=1)
    listed = book().tables["instruments"].rows.drop("__file", "__row", "__line")
    soon = listed.with_columns(
        expiry=pl.when(pl.col("instrument_id") == "ETH-FUT").then(pl.lit(expiry)).otherwise("expiry")
    )
    held = book().tables["positions"].rows.drop("__file", "__row", "__line")
    money = book().tables["balances"].rows.drop("__file", "__row", "__line")
    mine = mx.read_book(instruments=soon, positions=held, balances=money)
    with pytest.raises(BadInput, match="'ETH-FUT' is held and expires on 2025-12-30 01:00, before the last bar"):
        replay(mine, market(), bars(), "expected_shortfall", out=tmp_path / "out", engine=DOUBLE)
    idle = mx.read_book(instruments=soon, positions=held.filter(pl.col("instrument_id") != "ETH-FUT"), balances=money)
    found = replay(idle, market(), bars(), "expected_shortfall", out=tmp_path / "out", engine=DOUBLE)
    assert found.epochs.height == STEPS


def test_bars_before_the_market_are_left_out_and_bad_ones_set_aside(tmp_path: Path) -> None:
    early = bars().head(2).with_columns(time=day(9) + pl.duration(days=pl.int_range(pl.len())))
    bad = bars().filter(underlying="DOGE").head(1).with_columns(price=pl.lit(float("nan")))
    rows = pl.concat([early, bars().filter(~((pl.col("underlying") == "DOGE") & (pl.col("time") == day(4)))), bad])
    found = run(tmp_path / "out", rows=rows.sample(fraction=1.0, shuffle=True, seed=3), on_error="quarantine")
    assert found.manifest["epochs"]["rows_not_later_than_the_market"] == 2
    assert found.epochs["prices"].to_list() == [4, 5, 5, 5, 5]
    assert pl.read_parquet(tmp_path / "out" / "quarantine.parquet")["table"].to_list() == ["bars"]
