"""GARCH(1,1) by loops, one series at a time, and the tail of a Student t by integration.

Conventions: `variance[t]` knows the bars before t; NaN is a missing return, which counts as what was expected of it;
`freedom` is infinite for the normal law; innovations have variance one.
"""

import numpy as np
from scipy import integrate, optimize, stats


def variance(
    returns: np.ndarray, *, omega: float, alpha: float, beta: float, initial: float, begins: int = 0
) -> tuple[np.ndarray, float]:
    """The variance known before each bar, and the one after the last; `initial` up to bar `begins`."""
    path, now = np.empty(len(returns)), initial
    for t, move in enumerate(returns):
        path[t] = now
        if t >= begins:
            square = now if np.isnan(move) else move**2
            now = omega + alpha * square + beta * now
    return path, now


def log_likelihood(returns: np.ndarray, *, freedom: float, **model: float) -> float:
    """Sum over the known returns of the log density of each under its variance."""
    path, _ = variance(returns, **model)
    known = ~np.isnan(returns)
    moves, deviations = returns[known], np.sqrt(path[known])
    return float(np.sum(innovation(freedom).logpdf(moves / deviations) - np.log(deviations)))


def innovation(freedom: float) -> stats.rv_continuous:
    """The law of an innovation: variance one."""
    if np.isinf(freedom):
        return stats.norm()
    return stats.t(freedom, scale=np.sqrt((freedom - 2) / freedom))


def backcast(returns: np.ndarray) -> float:
    """What the package `arch` takes for the square before the first return: 0.94^k weighs bar k of the first 75."""
    squares = returns[np.argmax(~np.isnan(returns)) :][:75] ** 2
    known = ~np.isnan(squares)
    return float(np.average(squares[known], weights=0.94 ** np.flatnonzero(known)))


def tail(freedom: float, probability: float) -> tuple[float, float]:
    """The quantile by root search on the integrated density, and the mean beyond it by integration."""
    law = innovation(freedom)
    # In the logarithm of its argument the tail of a t falls as an exponential; past a factor of e^4 a bell is zero.
    quantile = optimize.brentq(lambda x: law.sf(x) - probability, 0, 1e6, xtol=1e-14, rtol=1e-14)
    end = np.log(quantile) + max(4, 40 / (freedom - 1))
    mean, _ = integrate.quad(lambda u: np.exp(2 * u) * law.pdf(np.exp(u)), np.log(quantile), end, epsabs=0, limit=200)
    return float(quantile), float(mean / probability)


def simulate(
    rng: np.random.Generator, bars: int, *, omega: float, alpha: float, beta: float, freedom: float
) -> np.ndarray:
    """Returns of a GARCH(1,1) that starts at its long-run variance (at omega x 1,000 where it has none)."""
    shocks = rng.normal(size=bars)
    if np.isfinite(freedom):
        shocks = rng.standard_t(freedom, bars) * np.sqrt((freedom - 2) / freedom)
    now, returns = omega / max(1 - alpha - beta, 1e-3), np.empty(bars)
    for t in range(bars):
        returns[t] = np.sqrt(now) * shocks[t]
        now = omega + alpha * returns[t] ** 2 + beta * now
    return returns
