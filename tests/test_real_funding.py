"""Funding as venues published it: rates of seven years, and marks of three venues, from the shared data."""

import importlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from marginax.payment_sections import Funding
from marginax.tables.funding_rules import LARGEST_RATE
from markets import config, margin

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
FOLDER = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "funding_oi"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no {FOLDER}; MARGINAX_SHARED names its parent")
CRASH = datetime(2023, 3, 10, 16)
COINS = ("BTC", "ETH")
VENUES = ("binance", "bybit", "okx")


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The example of the documents, whose figures are in docs/payments.md."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module("funding_days")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def rates(example: ModuleType) -> pl.DataFrame:
    return example.rates(FOLDER.parents[1])


def test_published_rates_pass_the_door_and_nearly_all_are_within_the_default_worst(rates: pl.DataFrame) -> None:
    assert rates.height > 100_000
    assert rates["rate"].abs().max() < LARGEST_RATE  # type: ignore[operator]
    beyond = rates.filter(pl.col("daily").abs() > Funding().worst_rate)
    assert beyond.height < 0.001 * rates.height
    # Those beyond are small coins at their cap; what is traded most is far below.
    majors = rates.filter(pl.col("contract").is_in(["BTCUSDT", "ETHUSDT", "SOLUSDT", "DOGEUSDT"]))
    assert majors["daily"].abs().max() < Funding().worst_rate / 5  # type: ignore[operator]


def test_what_is_projected_pays_most_of_what_a_day_brings(example: ModuleType, rates: pl.DataFrame) -> None:
    """BTCUSDT at the rate of now, and at a least rate for when rates turn; without a charge all would be beyond it."""
    days = example.days(rates)
    assert days.height > 6_900
    now, least = example.judged(days, (0.0, 0.001))["share_beyond"]
    assert least < 0.1 < now < 0.25
    charge = example.charged(days["daily"].to_numpy(), Funding(projected=True))
    assert (charge >= 0).all()
    assert (example.charged(days["daily"].to_numpy(), Funding(projected=True, least_rate=0.001)) >= charge).all()


@cache
def venues() -> dict[str, Any]:
    """BTC and ETH perpetuals of three venues, linear and inverse, four hours before a settlement of March 2023."""
    rows = pl.read_parquet(FOLDER / "multi_venue_btc_eth_8h_spot_perp_funding_2023_2024.parquet")
    now = pl.lit(CRASH, pl.Datetime("us")).dt.replace_time_zone("UTC")
    perps = rows.filter(pl.col("market") != "spot", pl.col("funding_time") == now).sort("venue", "symbol", "market")
    inverse = pl.col("market") == "coin_perp"
    named = perps.with_columns(instrument_id=pl.format("{}-{}-{}", "venue", "symbol", "market"))
    index = rows.filter(market="spot", venue="binance").sort("funding_time")
    past = index.filter(pl.col("funding_time") <= now).group_by("symbol", maintain_order=True).tail(300)
    last = past.group_by("symbol", maintain_order=True).last()
    moment = CRASH - timedelta(hours=4)
    return {
        "instruments": named.select(
            "instrument_id", kind=pl.lit("perpetual"), underlying="symbol", quote=pl.lit("USD"),
            settlement=pl.when(inverse).then(pl.lit("inverse")).otherwise(pl.lit("linear")),
            multiplier=pl.when(inverse).then(100.0).otherwise(0.01),
        ),
        "quotes": named.select(
            "instrument_id", "funding_rate", "funding_time", mark_price="open",
            time=pl.lit(moment, pl.Datetime("us")).dt.replace_time_zone("UTC"), funding_interval_hours=pl.lit(8.0),
        ),
        "underlyings": last.select(underlying="symbol", index_price="open"),
        "history": past.select(time="bar_open_time", underlying="symbol", price="open"),
        "positions": pl.concat([
            named.select(account_id=pl.lit(side), instrument_id="instrument_id", quantity=pl.lit(size))
            for side, size in (("long", 50.0), ("short", -50.0))
        ]),
        "balances": pl.DataFrame({"account_id": ["long", "short"], "asset": ["USD", "USD"], "amount": [5e4, 5e4]}),
    }  # fmt: skip


def test_what_three_venues_owe_between_two_settlements() -> None:
    assert venues()["quotes"].height == len(VENUES) * len(COINS) * 2
    got = margin(venues(), config("[funding]\naccrued = true\n"))
    rows = venues()["positions"].join(venues()["quotes"], on="instrument_id")
    rows = rows.join(venues()["instruments"], on="instrument_id")
    coin = dict(venues()["underlyings"].iter_rows())
    owed = {"long": 0.0, "short": 0.0}
    for each in rows.iter_rows(named=True):
        size = abs(each["quantity"]) * each["multiplier"]
        worth = size * each["mark_price"]
        if each["settlement"] == "inverse":
            worth = size / each["mark_price"] * coin[each["underlying"]]
        owed[each["account_id"]] -= np.sign(each["quantity"]) * worth * each["funding_rate"] / 2
    assert owed["long"] == -owed["short"] != 0
    found = dict(got.margins.select("account_id", "accrued_funding").iter_rows())
    assert found == pytest.approx(owed, rel=1e-9)
    assert got.margins["status"].to_list() == ["ok", "ok"]
