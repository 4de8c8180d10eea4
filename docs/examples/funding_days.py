"""Seven years of funding of BTCUSDT on Binance: what the part `funding` charges for a day, and what the day then paid.

At every settlement a long and a short of one dollar are charged for 24 hours at the rate of then, and pay the next
three settlements. The data lie in $MARGINAX_SHARED (default: `../shared`).

    python docs/examples/funding_days.py [--shared DIR]

Conventions: shares of notional; positive is paid. A rate of 0.001 a day is three basis points every eight hours.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import polars as pl
from real_accounts import SHARED

from marginax.cube import InstrumentArrays, MarketArrays
from marginax.funding import FundingArrays
from marginax.instruments import LINEAR
from marginax.models.addons.funding import FundingCharge
from marginax.payment_sections import Funding

LEAST = (0.0, 0.0003, 0.001, 0.003)


def rates(shared: Path) -> pl.DataFrame:
    """time, venue, contract, hours of an interval, rate of it, rate a day: every settlement that there is."""
    rows = pl.read_parquet(shared / "data" / "funding_oi" / "funding_rates.parquet")
    hours = pl.col("interval_h").cast(pl.Float64)
    return rows.select("time", "venue", "contract", hours=hours, rate="funding_rate").with_columns(
        daily=pl.col("rate") * 24 / pl.col("hours")
    )


def days(table: pl.DataFrame) -> pl.DataFrame:
    """The settlements of Binance BTCUSDT that three more follow within a day: `daily`, and `paid` in that day."""
    own = table.filter(venue="binance", contract="BTCUSDT", hours=8.0).sort("time").unique("time", maintain_order=True)
    paid = pl.sum_horizontal(pl.col("rate").shift(-k) for k in (1, 2, 3))
    followed = pl.col("time").shift(-3) - pl.col("time") == pl.duration(days=1)
    return own.with_columns(paid=paid).filter(followed)


def charged(daily: np.ndarray, settings: Funding) -> np.ndarray:
    """What a long and a short of one dollar are charged for a day at each rate: rates x 2."""
    count, none = len(daily), np.zeros(len(daily), int)
    instruments = InstrumentArrays(none, none + 1, none + 1, none, np.full(count, LINEAR), np.ones(count))
    known = FundingArrays(np.ones(count, bool), daily, np.zeros(count, bool))
    market = MarketArrays(np.ones(count), np.ones(1), np.zeros(1, bool), np.ones(1), funding=known)
    charge = FundingCharge.from_settings(settings, horizon_days=1.0)
    assert charge is not None
    with jax.enable_x64(True):
        return np.asarray(charge.rates(instruments, market))[:count]


def judged(table: pl.DataFrame, least: tuple[float, ...] = LEAST) -> pl.DataFrame:
    """Of the side that pays: its mean payment of a day, the share of it beyond the charge, how often and at worst; and
    the mean charge of both sides. One row for each least rate."""
    paid = np.stack([table["paid"], -table["paid"]], axis=1)
    rows = []
    for rate in least:
        charge = charged(table["daily"].to_numpy(), Funding(projected=True, least_rate=rate))
        owing, beyond = paid > 0, np.maximum(paid - charge, 0)
        share = beyond[owing].sum() / paid[owing].sum()
        rows.append((rate, paid[owing].mean(), share, (beyond[owing] > 1e-12).mean(), beyond.max(), charge.mean()))
    names = ["least_rate", "mean_paid", "share_beyond", "days_beyond", "worst_beyond", "mean_charge"]
    return pl.DataFrame(rows, schema=names, orient="row")


def main() -> None:
    """Print the extremes of all rates, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=SHARED)
    found = rates(parser.parse_args().shared)
    size = found["daily"].abs()
    beyond = found.filter(size > Funding().worst_rate)
    print(
        f"{found.height:,} settlements; rate a day: median {size.median():.2%}, 99 % {size.quantile(0.99):.2%}, ",
        end="",
    )
    print(f"99.9 % {size.quantile(0.999):.1%}, largest {size.max():.1%}")
    print(f"beyond {Funding().worst_rate:.0%} a day: {beyond.height} of {sorted(beyond['contract'].unique())}")
    own = days(found)
    print(f"BTCUSDT, {own.height:,} days from {own['time'].min():%Y-%m-%d} to {own['time'].max():%Y-%m-%d}")
    with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=5):
        print(judged(own))


if __name__ == "__main__":
    main()
