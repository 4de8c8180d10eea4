"""Is expected shortfall large enough? Acerbi and Szekely's tests of what is lost on the days of a breach.

A statistic is zero in the mean where the model is right and negative where it promises too little. The null needs the
law of losses beyond value at risk. It is taken from the model's own two figures: the Student law with its ratio of ES
to VaR (the normal one of `ewma`, the t of a GARCH(1,1)-t); where the ratio is below the normal one, the normal excess
scaled to its mean. So anybody can simulate it from VaR and ES alone.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats

# The tail is tabulated for Student laws from the normal one to a freedom of 1.5, down to e^-20 of its probability.
LEAST_FREEDOM, RATIOS = 1.5, 96
DEEPEST, DEPTHS = 20.0, 201


class Shortfalls(NamedTuple):
    """Z1 (NaN without a breach) and Z2, and the probability of figures as low under the null."""

    z1: float
    z1_p: float
    z2: float
    z2_p: float


def acerbi_szekely(
    loss: Float64[np.ndarray, " days"],
    var: Float64[np.ndarray, " days"],
    shortfall: Float64[np.ndarray, " days"],
    *,
    tail: float,
    simulations: int = 10_000,
    seed: int = 0,
) -> Shortfalls:
    """Z1, what breaches cost on average, and Z2, which counts them too; one-sided.

    Z1 = 1 - mean over breaches of loss / ES; Z2 = 1 - sum over breaches of loss / ES, over days x tail. P-values are
    simulated: breaches are drawn with probability `tail` a day (for Z1, as many as there were), and losses beyond VaR
    from the law in this file's head. Without a breach Z1 has p = 1. The same seed gives the same p-values. Raises
    ValueError for a VaR above its ES, or an ES that is not positive. Source: Acerbi and Szekely (2014).
    """
    if not (shortfall > 0).all() or not (var <= shortfall * (1 + 1e-12)).all():
        raise ValueError("expected shortfall is positive and not below value at risk. Correct the forecasts.")
    breach = loss > var
    z1, z2 = statistics(loss, shortfall, breach, tail=tail)
    rng = np.random.default_rng(seed)
    days, count = len(loss), int(breach.sum())
    drawn = rng.binomial(days, tail, simulations)
    share = var / shortfall
    both = {}
    for name, counts in (("z2", drawn), ("z1", np.full(simulations, count))):
        whole = int(counts.sum())
        severity = _severities(share[rng.integers(0, days, whole)], rng.exponential(size=whole), tail)
        owner = np.repeat(np.arange(simulations), counts)
        both[name] = np.bincount(owner, severity, minlength=simulations)
    low = 1 + int((1 - both["z2"] / (days * tail) <= z2 + 1e-12).sum())
    z1_low = 1 + int((1 - both["z1"] / count <= z1 + 1e-12).sum()) if count else simulations + 1
    return Shortfalls(z1, z1_low / (simulations + 1), z2, low / (simulations + 1))


def statistics(
    loss: Float64[np.ndarray, " days"],
    shortfall: Float64[np.ndarray, " days"],
    breach: Bool[np.ndarray, " days"],
    *,
    tail: float,
) -> tuple[float, float]:
    """Z1 and Z2."""
    severity = (loss / shortfall)[breach]
    z1 = 1 - float(severity.mean()) if len(severity) else float("nan")
    return z1, 1 - float(severity.sum()) / (len(loss) * tail)


def _severities(share: np.ndarray, depth: np.ndarray, tail: float) -> np.ndarray:
    """Loss over ES of breaches with VaR / ES = `share`; `depth` is minus the log of what is left beyond."""
    ratios, table = _tails(tail)
    ratio = 1 / np.maximum(share, 1e-12)
    row = np.interp(ratio, ratios, np.arange(len(ratios)))
    column = np.minimum(depth, DEEPEST) * ((DEPTHS - 1) / DEEPEST)
    low, left = row.astype(int).clip(0, len(ratios) - 2), column.astype(int).clip(0, DEPTHS - 2)
    down, right = row - low, column - left
    read = (1 - down) * ((1 - right) * table[low, left] + right * table[low, left + 1])
    read += down * ((1 - right) * table[low + 1, left] + right * table[low + 1, left + 1])
    excess = share * np.expm1(read)
    return share + np.where(ratio >= ratios[0], excess, excess * (1 / share - 1) / (ratios[0] - 1))


@cache
def _tails(tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of ES to VaR of Student laws, ascending, and log(loss / VaR) of each by depth."""
    freedom = 1 / np.linspace(1e-9, 1 / LEAST_FREEDOM, RATIOS)
    var = stats.t.isf(tail, freedom)
    shortfall = stats.t.pdf(var, freedom) * (freedom + var**2) / ((freedom - 1) * tail)
    depth = np.linspace(0, DEEPEST, DEPTHS)
    deeper = stats.t.isf(tail * np.exp(-depth), freedom[:, None])
    return shortfall / var, np.log(deeper / var[:, None])
