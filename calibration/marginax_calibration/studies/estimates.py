"""What history says beside the hand-set defaults of the dynamic margin: filters by coin, and lost pegs."""

from pathlib import Path

import numpy as np
import polars as pl

from marginax_calibration.studies.baselines import markdown
from marginax_calibration.studies.histories import read, seven_coins
from marginax_calibration.volatility_fits import garch_parameters, har_weights

HOURLY = "crypto_intraday/binance_1h_2023_2026"
DAILY = "crypto_daily/yahoo_usd_1d"
PEGGED = ("USDC", "USDT")
# A low of so much below par counts as a lost peg.
LOST = 0.05


def filters(folder: Path) -> str:
    """GARCH(1,1) with t innovations on daily returns of the seven coins, HAR on hourly squares by day, as Markdown."""
    closes = seven_coins(folder).pivot(on="underlying", index="time", values="price").sort("time").drop("time")
    fits = garch_parameters(np.diff(np.log(closes.to_numpy()), axis=0))
    weights = {coin: _realised_weights(folder, coin) for coin in closes.columns}
    rows = {
        coin: [
            f"{fits.alpha[k]:.3f}",
            f"{fits.beta[k]:.3f}",
            f"{fits.freedom[k]:.1f}",
            *(f"{weight:.2f}" for weight in weights[coin]),
        ]
        for k, coin in enumerate(closes.columns)
    }
    medians = [np.median(each) for each in (fits.alpha, fits.beta, fits.freedom, *np.array(list(weights.values())).T)]
    rows["median"] = [f"{number:.{digits}f}" for number, digits in zip(medians, (3, 3, 1, 2, 2, 2), strict=True)]
    return markdown(["alpha", "beta", "freedom", "daily", "weekly", "monthly"], rows)


def pegs(folder: Path) -> str:
    """Years of daily bars of pegged coins, and the days whose low was 5 % or more below par, as Markdown."""
    rows = {}
    for coin in PEGGED:
        bars = read(folder, DAILY).filter(pl.col("symbol") == coin).sort("date")
        lost = bars.filter(pl.col("low") <= 1 - LOST)
        days = ", ".join(f"{day:%Y-%m-%d} ({low:.3f})" for day, low in lost.select("date", "low").iter_rows())
        rows[coin] = [f"{bars.height / 365:.1f}", str(lost.height), days or "-"]
    return markdown(["years", "days lost", "lows"], rows)


def _realised_weights(folder: Path, coin: str) -> np.ndarray:
    bars = read(folder, HOURLY).filter(pl.col("symbol") == coin).sort("time")
    square = pl.col("close").log().diff() ** 2
    days = bars.with_columns(square=square, day=pl.col("time").dt.date()).group_by("day").agg(pl.col("square").sum())
    return har_weights(days.sort("day")["square"].to_numpy())
