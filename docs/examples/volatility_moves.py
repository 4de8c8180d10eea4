"""How implied volatility moves with its price, measured: what `[volatility]` assumes where it has no history.

Conventions: log moves of a day; the volatility of a coin is that of thirty days, at the money.
"""

from pathlib import Path

import numpy as np
import polars as pl
from real_accounts import newest

from marginax.smiles import Smile

Surfaces = dict[object, dict[str, list[Smile]]]
"""Smiles by snapshot and coin, the nearest expiry first."""
REFERENCE_DAYS, LEAST_DAYS = 30, 8


def reference_volatility(surface: list[Smile]) -> float:
    """At-the-money volatility in thirty days: total variance, linear in time between the expiries around it."""
    years = np.array([smile.years for smile in surface])
    variance = np.array([float(smile.at(0.0)) ** 2 * smile.years for smile in surface])
    return float(np.sqrt(np.interp(REFERENCE_DAYS / 365, years, variance) / (REFERENCE_DAYS / 365)))


def against_price(name: str, price: np.ndarray, volatility: np.ndarray) -> dict[str, object]:
    """Log moves of a volatility by log moves of its price: slope, its standard error, and what is left."""
    x, y = np.diff(np.log(price)), np.diff(np.log(volatility))
    beta = float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))
    left = y - y.mean() - beta * (x - x.mean())
    residual = float(np.sqrt(left @ left / (len(x) - 2)))
    error = residual / float(np.sqrt(((x - x.mean()) ** 2).sum()))
    row = {"moves": len(x), "beta": beta, "std error": error, "residual, % a day": 100 * residual}
    return {"": name} | row | {"correlation": float(np.corrcoef(x, y)[0, 1])}


def volatility_moves(rows: pl.DataFrame, surfaces: Surfaces, shared: Path) -> pl.DataFrame:
    """What `[volatility]` says of a coin without a history of its volatility, measured: the last snapshot of each day.

    Beside the coins the VIX on the S&P 500, whose history is long.
    """
    index = rows.group_by("snapshot_time", "currency").agg(pl.col("index").first()).sort("currency", "snapshot_time")
    found = []
    for (coin,), mine in index.group_by("currency", maintain_order=True):
        daily = mine.group_by(pl.col("snapshot_time").dt.date().alias("day"), maintain_order=True).last()
        if daily.height < LEAST_DAYS:
            continue
        moods = [reference_volatility(surfaces[time][str(coin)]) for time in daily["snapshot_time"]]
        found.append(against_price(str(coin), daily["index"].to_numpy(), np.array(moods)))
    folder = shared / "data" / "tradfi_daily"
    if folder.is_dir():
        spx, vix = (newest(folder, name).select("date", "close") for name in ("spx_index_*.parquet", "vix_*.parquet"))
        both = spx.join(vix, on="date", suffix="_vix").sort("date").drop_nulls()
        found.append(against_price("S&P 500 and VIX", both["close"].to_numpy(), both["close_vix"].to_numpy()))
    return pl.DataFrame(found)
