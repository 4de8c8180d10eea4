"""Real order books, walked: Binance, Bybit and Hyperliquid from the shared data, which are no part of the project."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.liquidity import DEPTH_WITHIN
from marginax.order_books import book_levels, depth_within
from marginax_kernels import even_book, order_books, walk_books
from markets import AS_OF, series

FOLDER = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "order_book"
BINANCE = ("binance_btcusdt_usdm_2024_08_08_book20_1s", "binance_ethusdt_usdm_2024_08_08_book20_1s",
           "binance_btcusdt_usdm_book25_2020_09_01")  # fmt: skip
BYBIT = "bybit_xrpusdt_ob500_2024_12_01"
SNAPSHOTS = 3
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no {FOLDER}; MARGINAX_SHARED names its parent")


def snapshots(name: str) -> Iterator[pl.DataFrame]:
    """Levels of single moments as the table `order_book`, the best of each side first."""
    rows = pl.read_parquet(FOLDER / f"{name}.parquet").with_columns(pl.lit("PERP").alias("instrument_id"))
    if name != BYBIT:
        sides = [rows.select("instrument_id", "time", "level", pl.lit(side).alias("side"),
                             price=f"{side}_px", size=f"{side}_qty") for side in ("bid", "ask")]  # fmt: skip
        rows = pl.concat(sides)
    else:
        rows = rows.rename({"qty": "size"})
    times = rows["time"].unique().sort()
    for moment in times.gather(np.linspace(0, len(times) - 1, SNAPSHOTS).astype(int).tolist()).unique():
        book = rows.filter(time=moment).sort("side", "level").drop_nulls()
        yield book.select("instrument_id", "side", "price", "size", "time")


@pytest.mark.parametrize("name", [*BINANCE, BYBIT])
def test_a_walk_through_a_real_book_pays_what_its_levels_say(name: str, double: None) -> None:
    for rows in snapshots(name):
        mark = float(rows.group_by("side").agg(pl.col("price").first())["price"].mean())  # type: ignore[arg-type]
        perp = {
            "instrument_id": ["PERP"],
            "kind": "perpetual",
            "underlying": "COIN",
            "quote": "USD",
            "settlement": "linear",
        }
        book = mx.read_book(
            instruments=pl.DataFrame({**perp, "multiplier": 1.0}),
            positions=pl.DataFrame({"account_id": ["a"], "instrument_id": "PERP", "quantity": 1.0}),
            balances=pl.DataFrame({"account_id": ["a"], "asset": "USD", "amount": 1.0}),
        )
        market = mx.read_market(
            quotes=pl.DataFrame({"instrument_id": ["PERP"], "mark_price": mark}),
            underlyings=pl.DataFrame({"underlying": ["COIN"], "index_price": mark}),
            history=series("COIN", [mark]),
            order_book=rows,
            as_of=AS_OF,
        )
        levels = book_levels(book.instruments, market)
        assert levels is not None
        made = order_books(*levels)
        for side, key in enumerate(("bid", "ask")):
            own = rows.filter(side=key)
            price, size = own["price"].to_numpy(), own["size"].to_numpy()
            within = np.abs(price / price[0] - 1) <= DEPTH_WITHIN
            assert float(np.sum(size[within]) * mark) >= float(depth_within(levels, DEPTH_WITHIN)[0]) * (1 - 1e-9)  # type: ignore[index]
            for share in (0.1, 0.6, 1.0):
                coins = share * size.sum()
                taken = np.clip(coins - np.concatenate([[0], np.cumsum(size)[:-1]]), 0, size)
                lost = float(np.sum(taken * np.abs(price - price[0]))) * mark / price[0]
                got = float(walk_books(np.asarray(coins * mark), np.asarray(side), made))
                assert got == pytest.approx(lost, rel=1e-9, abs=1e-6)
            beyond = np.array([1.0, 2.0, 8.0]) * size.sum() * mark
            cost = np.asarray(walk_books(beyond, np.full(3, side), made))
            # Never cheaper than the last level for all that is beyond it.
            assert np.all(np.diff(cost) >= np.diff(beyond) * np.abs(price[-1] / price[0] - 1))


def test_a_million_dollars_cost_more_after_the_crash_of_october_2025() -> None:
    """The depth of BTC at Hyperliquid within 50 bp, both sides, before and after 10 October 2025."""
    path = FOLDER / "hyperliquid_depth50bps_spread_6h_2024_2025.parquet"
    btc = pl.read_parquet(path).filter(pl.col("symbol") == "BTC")
    day = pl.col("time").dt.date()
    before = btc.filter(day.is_between(pl.date(2025, 10, 1), pl.date(2025, 10, 9)))["depth_50bps_usd"].median()
    after = btc.filter(day == pl.date(2025, 10, 11))["depth_50bps_usd"].median()
    depth = np.array([before, after], float) / 2
    cost = np.asarray(jax.jit(even_book)(np.full(2, 1e6), depth=depth, distance=np.full(2, DEPTH_WITHIN)))
    assert depth[1] < depth[0]
    assert cost[1] > cost[0]
