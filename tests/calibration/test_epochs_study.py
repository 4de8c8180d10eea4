"""The real accounts carried back to 10 October 2025: what is kept of them, and what is told of their replays."""

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from marginax.epochs import Replayed
from marginax.epochs.rows import EPOCHS
from marginax.sections import Proxy
from marginax_calibration.studies import epochs

SHARED = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[3] / "shared") / "data"
real = pytest.mark.skipif(
    not (SHARED / "liquidations_accounts").is_dir(),
    reason=f"the shared data is not in {SHARED}; name its folder with MARGINAX_SHARED",
)


@pytest.fixture(scope="module")
def carried() -> epochs.Carried:
    return epochs.carried_back(SHARED)


@real
def test_every_position_keeps_its_value_and_every_account_its_equity_ratio(carried: epochs.Carried) -> None:
    held = carried.book["positions"].join(carried.market["quotes"], on="instrument_id")
    now = held.with_columns(value=pl.col("quantity") * pl.col("mark_price")).sort("account_id", "instrument_id")
    was = pl.read_parquet(SHARED / f"{epochs.POSITIONS}.parquet").with_columns(
        instrument_id=pl.format("{}-PERP", "coin"),
        value=pl.when(pl.col("side") == "Long").then(1.0).otherwise(-1.0) * pl.col("position_value_usd"),
    )
    was = was.sort("account", "instrument_id")
    assert now["account_id"].to_list() == was["account"].to_list()
    np.testing.assert_allclose(now["value"], was["value"], rtol=1e-12)
    worth = pl.read_parquet(SHARED / f"{epochs.ACCOUNTS}.parquet").select(account_id="account", was="account_value_usd")
    both = carried.book["balances"].join(worth, on="account_id")
    assert both.height == now["account_id"].n_unique()
    assert both["amount"].to_list() == both["was"].to_list()
    assert (now["entry_price"] == now["mark_price"]).all()


@real
def test_coins_without_bars_move_by_their_proxy(carried: epochs.Carried) -> None:
    index = carried.bars.filter(pl.col("instrument_id").is_null())
    last = index.filter(pl.col("time") == epochs.END)
    btc = last.filter(underlying="BTC")["price"][0]
    start = carried.market["underlyings"].filter(underlying="BTC")["index_price"][0]
    assert set(carried.without) <= set(last["underlying"])
    for name in (*carried.without[:5], "PAXG"):
        beta = epochs.BETAS.get(name, Proxy().beta)
        assert last.filter(underlying=name)["price"][0] == pytest.approx((btc / start) ** beta, rel=1e-12)


@real
def test_the_book_on_the_other_side_is_the_same_with_other_signs(carried: epochs.Carried) -> None:
    other = epochs.carried_back(SHARED, side=-1.0)
    assert other.bars.equals(carried.bars)
    assert (other.book["positions"]["quantity"] == -carried.book["positions"]["quantity"]).all()
    assert other.book["balances"].equals(carried.book["balances"])


@real
def test_the_door_admits_the_accounts_and_their_bars_have_every_hour(carried: epochs.Carried) -> None:
    book, market = carried.read()
    assert len(book) == carried.book["balances"].height
    assert market.as_of == epochs.START
    hours = int((epochs.END - epochs.START) / timedelta(hours=1))
    by_coin = carried.bars.filter(pl.col("instrument_id").is_null()).group_by("underlying").len()
    assert by_coin["len"].unique().to_list() == [hours]


def made_up(calls: str) -> Replayed:
    """Three epochs of round figures, the second of them the crash."""
    row = dict.fromkeys(EPOCHS)
    rows = [
        row | {"time": epochs.CRASH + timedelta(hours=k), "initial_margin": 1e6 * margin, "below_maintenance": k,
               "call": 1e6 * k, "new_calls": k, "closed": 2 * k if calls == "closed" else 0,
               "written_off": 5e5 * k if calls == "closed" else 0.0, "expected_bad_debt": 0.0}
        for k, margin in ((-1, 10.0), (0, 12.0), (1, 15.0))
    ]  # fmt: skip
    return Replayed(Path(calls), {}, pl.DataFrame(rows, schema=EPOCHS))


def test_hours_and_sums_are_those_of_the_replays() -> None:
    found = {(name, calls): made_up(calls) for name in epochs.MODELS for calls in epochs.CALLS}
    lines = epochs.hours(found).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("| `10 23:00` | 15.0 | 1, 1.00 | 0.000 | 2, 0.50 | 15.0 |")
    (told,) = [line for line in epochs.totals(found).splitlines() if line.startswith("| `static`")]
    assert told == "| `static` | 10.0 | 10.0 | 12.0 | 15.0 | 15.0 | 0.0 | 1.0 | 0 | 0.00 |"
    shown = epochs.through(found)
    assert shown.filter(figure="calls paid so far", model="static")["value"].to_list() == [-1.0, -1.0, 0.0]
