"""What is done to a history before it becomes scenarios: volatility filters, residuals, and bars filled from a proxy.

Conventions: loops over bars and factors; `returns[t, k]` ends at bar t and spans `bars[t, k]` bars; NaN is no
price.
"""

from collections.abc import Sequence

import numpy as np

NO_PROXY = -1


def ewma_update(variance: float, move: float, bars: float, *, half_life: float) -> float:
    """Variance per bar after one return over `bars` bars; a missing return teaches nothing."""
    if np.isnan(move):
        return variance
    decay = 0.5 ** (bars / half_life)
    return decay * variance + (1 - decay) * move**2 / bars


def ewma_variance(
    returns: np.ndarray, bars: np.ndarray, initial: np.ndarray, *, half_life: float
) -> tuple[np.ndarray, np.ndarray]:
    """The variance known before each bar, and the one after the last."""
    count, factors = returns.shape
    path, final = np.empty((count, factors)), np.empty(factors)
    for k in range(factors):
        variance = float(initial[k])
        for t in range(count):
            path[t, k] = variance
            variance = ewma_update(variance, returns[t, k], bars[t, k], half_life=half_life)
        final[k] = variance
    return path, final


def mean_square(returns: np.ndarray, bars: np.ndarray, *, count: int | None = None) -> np.ndarray:
    """Mean squared return per bar of each factor's first `count` returns (all: None); zero without any."""
    means = np.zeros(returns.shape[1])
    for k in range(returns.shape[1]):
        known = ~np.isnan(returns[:, k])
        squares = (returns[known, k] ** 2 / bars[known, k])[:count]
        means[k] = squares.mean() if len(squares) else 0.0
    return means


def filtered_residuals(
    returns: np.ndarray,
    bars: np.ndarray,
    volatility: np.ndarray,
    long_run: np.ndarray,
    *,
    least_share: float,
    cap: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns over the volatility of their day times the square root of their bars, cut at +-cap; and how many were."""
    residuals = np.full(returns.shape, np.nan)
    capped = np.zeros(returns.shape[1], int)
    for t, k in np.argwhere(~np.isnan(returns)):
        scale = max(volatility[t, k], least_share * long_run[k]) * np.sqrt(bars[t, k])
        raw = returns[t, k] / scale if scale > 0 else 0.0
        capped[k] += abs(raw) > cap
        residuals[t, k] = min(max(raw, -cap), cap)
    return residuals, capped


def fill(
    shocks: np.ndarray,
    *,
    proxy: Sequence[int],
    own: Sequence[bool],
    beta: Sequence[float],
    level: Sequence[float],
    rows: np.ndarray,
    default_beta: float,
    residual: float,
    safety_factor: float,
) -> np.ndarray:
    """Shocks without gaps: each factor after the one it follows, cell by cell; `rows` names the bar to borrow from."""
    count, factors = shocks.shape
    moves = shocks / np.asarray(level, float)
    filled: dict[int, np.ndarray] = {}

    def of(k: int) -> np.ndarray:
        if k not in filled:
            filled[k] = _column(k)
        return filled[k]

    def _column(k: int) -> np.ndarray:
        mine = moves[:, k]
        known = ~np.isnan(mine)
        if proxy[k] == NO_PROXY:
            past = np.where(known, mine, 0.0)
            return np.array([mine[t] if known[t] else past[rows[t, k]] for t in range(count)])
        theirs = of(proxy[k])
        slope = beta[k]
        if np.isnan(slope) and own[k]:
            square = np.sum(theirs[known] ** 2)
            slope = np.sum(mine[known] * theirs[known]) / square if square > 0 else 0.0
        elif np.isnan(slope):
            slope = default_beta
        column = np.empty(count)
        for t in range(count):
            borrowed = rows[t, k]
            if own[k]:
                rest = mine[borrowed] - slope * theirs[borrowed]
                column[t] = mine[t] if known[t] else slope * theirs[t] + rest
            else:
                column[t] = slope * theirs[t] + safety_factor * residual * max(abs(slope), 0.05) * theirs[borrowed]
        return column

    return np.column_stack([of(k) for k in range(factors)]) * np.asarray(level, float)
