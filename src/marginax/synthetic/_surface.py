"""Implied volatility of the synthetic venue: Black-76, a surface without arbitrage, and years of at-the-money history.

Conventions: volatilities are decimals a year, times ACT/365F years from as_of, values undiscounted in the strike's
currency. Coins stand in order of rank, the most liquid first.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from marginax.synthetic._market import Floats, Paths, mean_reverting, significant

CALMEST, WILDEST = 0.45, 1.10  # at-the-money level of the first coin, and of the smallest
APPROACH = 0.45  # how fast levels rise with the rank: the third coin is 60 % of the way
TENOR = 30 / 365  # of the level, and of the history
PULL = np.log(2.0) * 365 / 60  # a year: half of a volatility's distance from its mean is gone in 60 days
LASTING = 0.96  # daily memory of log volatility, half-life 17 days
LEVERAGE_EFFECT = 0.5  # log volatility gained per unit of log price lost
JUMP = (0.1, 0.25)  # log volatility gained on a crash day, on top of that
REGIME = 0.3  # elasticity of implied volatility to the factor's own, which trails it
COMMON, OWN = 0.03, 0.02  # daily noise of log volatility
BOUNDS = (0.1, 4.0)


class Surface(NamedTuple):
    """Arrays over coins. `level` is the at-the-money volatility at 30 days, `long_run` that of the far end.

    `curvature` and `skew` are eta and rho of the smile; eta (1 + |rho|) <= 2 keeps it free of arbitrage.
    """

    level: Floats
    long_run: Floats
    curvature: Floats
    skew: Floats

    def total_variance(self, coin: int, moneyness: Floats, years: float) -> Floats:
        """Volatility squared times `years` at `moneyness` = log(strike / forward).

        At the money the instantaneous variance reverts to its mean, so total variance never falls with time; across
        strikes it is SSVI with phi = eta / sqrt(theta (1 + theta)). Source: Gatheral and Jacquier (2014), section 4.
        """
        mean = self.long_run[coin] ** 2
        shape = -np.expm1(-PULL * years) / PULL
        theta = mean * years + (self.level[coin] ** 2 - mean) * shape * TENOR / (-np.expm1(-PULL * TENOR) / PULL)
        rho, scaled = self.skew[coin], moneyness * self.curvature[coin] / np.sqrt(theta * (1 + theta))
        return np.asarray(theta / 2 * (1 + rho * scaled + np.sqrt((scaled + rho) ** 2 + 1 - rho**2)), np.float64)

    def volatility(self, coin: int, moneyness: Floats, years: float) -> Floats:
        """Implied volatility at `moneyness` = log(strike / forward)."""
        return np.asarray(np.sqrt(self.total_variance(coin, moneyness, years) / years), np.float64)


def black76(forward: Floats, strike: Floats, deviation: Floats, call: NDArray[np.bool_]) -> Floats:
    """Undiscounted value of a European option; `deviation` is volatility times the root of the years left."""
    side, d1 = np.where(call, 1.0, -1.0), _d1(forward, strike, deviation)
    return np.asarray(side * (forward * ndtr(side * d1) - strike * ndtr(side * (d1 - deviation))), np.float64)


def black76_delta(forward: Floats, strike: Floats, deviation: Floats, call: NDArray[np.bool_]) -> Floats:
    """Units of the forward that hedge one option: N(d1) for a call, N(d1) - 1 for a put."""
    return np.asarray(ndtr(_d1(forward, strike, deviation)) - ~call, np.float64)


def _d1(forward: Floats, strike: Floats, deviation: Floats) -> Floats:
    return np.asarray(np.log(forward / strike) / deviation + deviation / 2, np.float64)


def surface_and_history(rng: np.random.Generator, paths: Paths, coins: int) -> tuple[Surface, Floats]:
    """Today's surface of the first `coins`, and their 30-day at-the-money volatility, bars x coins, up to today's.

    Log volatility reverts to its mean, falls where prices rise, jumps in crashes and follows the factor's own variance;
    it is NaN before the listing.
    """
    rank = np.arange(coins)
    level = WILDEST - (WILDEST - CALMEST) * np.exp(-APPROACH * rank)
    level = np.round(level * np.exp(0.04 * rng.standard_normal(coins)), 4)
    bars = len(paths.price)
    moves = np.zeros((bars, coins))
    moves[1:] = np.nan_to_num(np.diff(np.log(paths.price[:, :coins]), axis=0))
    shocks = -LEVERAGE_EFFECT * moves + OWN * rng.standard_normal((bars, coins))
    shocks += COMMON * rng.standard_normal((bars, 1))
    shocks[paths.crashes] += rng.uniform(*JUMP, (len(paths.crashes), coins))
    tomorrow = np.append(paths.stress[1:], paths.stress[-1])  # the variance of a bar is known at the close before it
    wave = mean_reverting(shocks, LASTING) + REGIME * np.log(tomorrow)[:, None]
    wave -= wave[-1]  # the past leads up to today's level
    past = np.clip(level * np.exp(wave), *BOUNDS)
    past[np.isnan(paths.price[:, :coins])] = np.nan
    long_run = level * np.exp(np.clip(wave.mean(0), np.log(0.75), np.log(1.25)))
    curvature, skew = rng.uniform(0.6, 1.0, coins), rng.uniform(-0.35, -0.05, coins)
    return Surface(level, long_run, curvature, skew), significant(past, 4)
