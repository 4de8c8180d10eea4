"""What an hourly epoch costs: 10,000 accounts, 200 instruments, every part of the dynamic margin on, warm.

A spot and a perpetual on each of 100 coins, 1,100 hours of history,
eight positions an account and collateral in dollars and two coins. `epoch_seconds` is the median over the epochs after
the first, from the bar to the rows of every account; `stages` say where it goes (medians). The checkpoint at the end is
not in it. That a replay gives the margins of the market followed by hand is what `tests/test_epochs.py` is for.
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import marginax as mx
from benchmarks.context import context
from benchmarks.dynamic_margin import EVERY
from marginax.config import parse_config
from marginax.epochs import replay

ACCOUNTS, COINS, HELD, HOURS, EPOCHS = 10_000, 100, 8, 1_100, 12
LAST = datetime(2026, 1, 1, tzinfo=UTC)
ALL: dict[str, Any] = {
    **EVERY,
    "liquidity": {"spread": 1.0, "fee": 0.0005, "impact": 1.0, "vega_share": 0.003, "participation": 0.1},
    "oracle": {"confidence_weight": 1.0, "z": 1.0},
    "orders": {"cover": True},
}


def run() -> dict[str, Any]:
    """The benchmark's record."""
    book, market, bars = _venue()
    with tempfile.TemporaryDirectory() as folder:
        found = replay(book, market, bars, parse_config(ALL, "benchmark"), out=Path(folder), every=EPOCHS)
        rows = found.accounts().filter(pl.col("time") == bars["time"].max()).collect()
    assert rows.height == ACCOUNTS
    assert rows["initial_margin"].is_finite().all()
    spent = found.manifest["seconds"]
    return {
        "benchmark": "epochs",
        "accounts": ACCOUNTS,
        "instruments": 2 * COINS,
        "positions_an_account": HELD,
        "parts": [name for name in ALL if name not in ("model", "risk", "scenarios")],
        "dtype": "float32",
        "context": context(),
        "figures": {
            "first_epoch_seconds": spent["first_epoch"],
            "epoch_seconds": spent["an_epoch"],
            "stages": spent["stages"],
        },
    }


def _venue() -> tuple[mx.Book, mx.Market, pl.DataFrame]:
    """A random book on a random walk of one common factor, hour by hour."""
    rng = np.random.default_rng(13)
    names = [f"COIN{k:03d}" for k in range(COINS)]
    times = [LAST + timedelta(hours=k) for k in range(-HOURS, EPOCHS + 1)]
    steps = 0.006 * (rng.standard_normal((len(times), 1)) + rng.standard_normal((len(times), COINS)))
    prices = 100.0 * np.exp(np.cumsum(steps, axis=0))
    walks = pl.DataFrame({"time": times, **dict(zip(names, prices.T, strict=True))}).unpivot(
        index="time", variable_name="underlying", value_name="price"
    )
    listed = pl.DataFrame({"underlying": np.repeat(names, 2), "kind": ["spot", "perpetual"] * COINS}).with_columns(
        instrument_id=pl.format("{}-{}", "underlying", "kind"),
        quote=pl.lit("USD"), settlement=pl.lit("linear"), multiplier=pl.lit(1.0),
    )  # fmt: skip
    now = walks.filter(pl.col("time") == LAST)
    quotes = listed.join(now, on="underlying").select("instrument_id", "time", mark_price="price", confidence=0.0005)
    underlyings = now.select("underlying", "time", index_price="price").with_columns(
        adv=pl.lit(1e8), depth=pl.lit(1e6), spread_bps=pl.lit(5.0), confidence=pl.lit(0.0005)
    )
    accounts = [f"account {k:05d}" for k in range(ACCOUNTS)]
    held = np.concatenate([rng.choice(2 * COINS, HELD, replace=False) for _ in accounts])
    positions = pl.DataFrame(
        {
            "account_id": np.repeat(accounts, HELD),
            "instrument_id": listed["instrument_id"].to_numpy()[held],
            "quantity": rng.standard_normal(len(held)),
        }
    )
    coins = rng.choice(names, (ACCOUNTS, 2))
    balances = pl.DataFrame(
        {
            "account_id": np.repeat(accounts, 3),
            "asset": np.column_stack([np.full(ACCOUNTS, "USD"), coins]).ravel(),
            "amount": np.tile([400.0, 0.5, 0.5], ACCOUNTS),
        }
    )
    book = mx.read_book(instruments=listed, positions=positions, balances=balances)
    market = mx.read_market(
        quotes=quotes, underlyings=underlyings, history=walks.filter(pl.col("time") <= LAST), as_of=LAST
    )
    return book, market, walks.filter(pl.col("time") > LAST)
