"""Is one forecast better than another, and how many of many tests really reject?"""

import numpy as np
from jaxtyping import Bool, Float64
from scipy import stats


def diebold_mariano(difference: Float64[np.ndarray, " days"]) -> float:
    """Two-sided p-value of equal mean scores, from the daily difference of the two.

    The mean over its standard error with Bartlett weights up to floor(4 (days / 100)^(2/9)) lags, against Student's law
    with days - 1 degrees of freedom. 1 where the forecasts never differ. Raises ValueError where there are fewer than
    two days. Source: Diebold and Mariano (1995); Newey and West (1987, 1994); Harvey, Leybourne and Newbold (1997).
    """
    days = len(difference)
    if days < 2:
        raise ValueError(f"{days} days tell no difference. Give two or more.")
    centred = difference - difference.mean()
    lags = int(4 * (days / 100) ** (2 / 9))
    variance = centred @ centred
    for lag in range(1, min(lags, days - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * (centred[lag:] @ centred[:-lag])
    scale = np.abs(difference).max()
    if not variance > (1e-12 * scale) ** 2 * days:
        return 1.0 if abs(difference.mean()) <= 1e-12 * scale else 0.0
    statistic = difference.sum() / np.sqrt(variance)
    return float(2 * stats.t.sf(abs(statistic), days - 1))


def rejected(p_values: Float64[np.ndarray, " tests"], *, rate: float = 0.05) -> Bool[np.ndarray, " tests"]:
    """Which tests reject when at most `rate` of all rejections may be false: Benjamini and Hochberg (1995)."""
    if not len(p_values):
        return np.zeros(0, bool)
    return stats.false_discovery_control(p_values, method="bh") <= rate
