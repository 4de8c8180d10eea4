"""Right models of portfolios that share their days: what backtests of many portfolios at once are tested on.

Losses of coins are Student (or normal) with a common factor and a common mixing variable, so that crashes are shared
and the law of every portfolio is known: value at risk and expected shortfall are true, not estimated.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

TAIL = 0.01
COINS, SHARED = 7, 0.6


class Days(NamedTuple):
    """What happened, and what a right model said before; days x portfolios."""

    loss: np.ndarray
    var: np.ndarray
    shortfall: np.ndarray


def weights() -> tuple[np.ndarray, list[str]]:
    """27 portfolios over 7 coins: each one long and short, six spreads, seven neutral ones."""
    coin = np.eye(COINS)
    neutral = np.random.default_rng(0).standard_normal((7, COINS))
    neutral -= neutral.mean(1, keepdims=True)
    neutral /= np.abs(neutral).sum(1, keepdims=True)
    portfolios = np.concatenate([coin, -coin, (coin[:-1] - coin[1:]) / 2, neutral])
    return portfolios, ["long"] * 7 + ["short"] * 7 + ["spread"] * 6 + ["neutral"] * 7


def forecast(freedom: float) -> tuple[float, float]:
    """VaR and ES of a Student law (infinite freedom: normal) of scale one."""
    if np.isinf(freedom):
        var = stats.norm.isf(TAIL)
        return var, stats.norm.pdf(var) / TAIL
    var = stats.t.isf(TAIL, freedom)
    return var, stats.t.pdf(var, freedom) * (freedom + var**2) / ((freedom - 1) * TAIL)


def venue_days(rng: np.random.Generator, days: int, *, freedom: float = 5.0, clustered: bool = False) -> Days:
    """Days of the 27 portfolios; `clustered` lets the volatility of every coin follow a GARCH(1,1)."""
    shock = np.sqrt(SHARED) * rng.standard_normal((days, 1)) + np.sqrt(1 - SHARED) * rng.standard_normal((days, COINS))
    unit = 1.0
    if np.isfinite(freedom):
        shock *= np.sqrt(freedom / rng.chisquare(freedom, (days, 1)))
        unit = freedom / (freedom - 2)
    variance = np.ones((days, COINS))
    for day in range(1, days if clustered else 0):
        variance[day] = 0.02 + variance[day - 1] * (0.1 * shock[day - 1] ** 2 / unit + 0.88)
    sigma = 0.03 * np.sqrt(variance)
    portfolios = weights()[0]
    scale = np.sqrt(SHARED * (sigma @ portfolios.T) ** 2 + (1 - SHARED) * sigma**2 @ (portfolios.T**2))
    var, shortfall = forecast(freedom)
    return Days(-(sigma * shock) @ portfolios.T, var * scale, shortfall * scale)


def table(models: Mapping[str, Days], kinds: list[str], *, lives: list[tuple[int, int]] | None = None) -> pl.DataFrame:
    """The daily table of models; of portfolio i the days lives[i][0] up to lives[i][1]."""
    first = next(iter(models.values()))
    days, portfolios = first.loss.shape
    begin, end = (np.array(each) for each in zip(*(lives or [(0, days)] * portfolios), strict=True))
    day, portfolio = np.nonzero((np.arange(days)[:, None] >= begin) & (np.arange(days)[:, None] < end))
    frame = pl.DataFrame(
        {
            "date": np.datetime64("2020-01-01") + day,
            "portfolio": [f"portfolio {each}" for each in portfolio],
            "kind": np.array(kinds)[portfolio],
        }
    )
    return pl.concat(
        frame.with_columns(
            model=pl.lit(name),
            loss=pl.Series(each.loss[day, portfolio]),
            var=pl.Series(each.var[day, portfolio]),
            es=pl.Series(each.shortfall[day, portfolio]),
            charged=pl.Series(1.2 * each.shortfall[day, portfolio]),
        )
        for name, each in models.items()
    )
