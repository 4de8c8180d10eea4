"""A book of a million accounts through the command line: partitioned, then margined, beside one of a tenth of it.

Twenty positions an account in the demo venue's instruments, nine in ten of them not options, sizes log-normal, sides
even, and collateral of about half the gross; 2,048 weighted draws, `--model monte_carlo`. Seconds by the clock and peak
memory of each command in a process of its own, programs compiled before. `microseconds_an_account` is the time per
account between two whole books: what a run costs once it runs, whatever it costs to begin.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pyarrow.parquet import ParquetWriter

from benchmarks.context import command, context
from marginax.synthetic import venue

RUN = "from marginax.cli import main; main()"
SIZES = (10_000, 100_000, 1_000_000)
POSITIONS = 20
BLOCK = 50_000
MARKET = ("quotes", "underlyings", "history", "forwards")


def run() -> dict[str, Any]:
    """The benchmark's record."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for accounts in (SIZES[0], *SIZES):  # the first makes programs and caches
            figures[f"{accounts}_accounts"] = _measured(Path(folder) / str(accounts), accounts)
    small, middle, large = (figures[f"{accounts}_accounts"]["margin"]["seconds"] for accounts in SIZES)
    return {
        "benchmark": "large_book",
        "positions_an_account": POSITIONS,
        "context": context(),
        "figures": figures,
        "microseconds_an_account": {
            "10_000_to_100_000": (middle - small) / (SIZES[1] - SIZES[0]) * 1e6,
            "100_000_to_1_000_000": (large - middle) / (SIZES[2] - SIZES[1]) * 1e6,
        },
    }


def _measured(place: Path, accounts: int) -> dict[str, Any]:
    _write(place, accounts)
    files = [word for name in ("instruments", *MARKET) for word in (f"--{name}", str(place / f"{name}.parquet"))]
    held = [word for name in ("positions", "balances") for word in (f"--{name}", str(place / f"{name}.parquet"))]
    book = str(place / "book")
    told = {"partition": command(["-c", RUN, "partition", *held, "--out", book, "--json"])}
    margin = ["margin", "--dataset", book, *files, "--model", "monte_carlo", "--out", str(place / "out"), "--json"]
    told["margin"] = command(["-c", RUN, *margin])
    return {name: {"seconds": seconds, "peak_mib": peak} for name, (seconds, peak) in told.items()}


def _write(place: Path, accounts: int) -> None:
    """The tables of the venue, and positions and balances of so many accounts, written block by block."""
    place.mkdir(exist_ok=True)
    made = venue(accounts=100).tables
    for name in ("instruments", *MARKET):
        made[name].write_parquet(place / f"{name}.parquet")
    listed = made["instruments"].join(made["underlyings"], on="underlying", maintain_order="left")
    price = pl.when(pl.col("settlement") == "inverse").then(1.0).otherwise("index_price")
    unit = listed.select(price * pl.col("multiplier")).to_series().to_numpy()
    option = listed["kind"].is_in(["call", "put"]).to_numpy()
    chance = np.where(option, 0.1 / option.sum(), 0.9 / (~option).sum())
    rng = np.random.default_rng(3)
    writers: dict[str, ParquetWriter] = {}
    for first in range(0, accounts, BLOCK):
        count = min(BLOCK, accounts - first)
        names = pl.Series([f"account-{first + k:08d}" for k in range(count)])
        owner = rng.permutation(np.repeat(np.arange(count), POSITIONS))
        row = rng.choice(len(unit), len(owner), p=chance)
        worth = np.exp(rng.normal(7, 1.5, len(owner)))
        gross = np.bincount(owner, worth, minlength=count)
        tables = {
            "positions": pl.DataFrame(
                {
                    "account_id": names.gather(owner),
                    "instrument_id": listed["instrument_id"].gather(row),
                    "quantity": worth * rng.choice([-1, 1], len(owner)) / unit[row],
                }
            ),
            "balances": pl.DataFrame(
                {"account_id": names, "asset": ["USDT"] * count, "amount": gross * np.exp(rng.normal(-0.7, 0.5, count))}
            ),
        }
        for name, table in tables.items():
            rows = table.to_arrow()
            if name not in writers:
                writers[name] = ParquetWriter(place / f"{name}.parquet", rows.schema)
            writers[name].write_table(rows)
    for writer in writers.values():
        writer.close()
