"""The six baselines in loops over days and portfolios: what each would have charged, from prices alone.

Conventions: `prices[t, k]` is the close of bar t, NaN before an underlying lists and after it ends, with no hole
between; a portfolio is a mapping from column to weight; a margin set at bar t knows the prices up to bar t, and its
portfolio's history begins at the bar at which the youngest leg listed. Bars are equally likely unless a model says
otherwise. `figures` of a bar are value at risk and expected shortfall at 1 %, and the charge, that at 2.5 %.
"""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from scipy import integrate, optimize, signal, special, stats

from reference import filters, tail

Portfolio = Mapping[int, float]
Figures = tuple[float, float, float]

TAIL, CHARGE_TAIL = 0.01, 0.025
WINDOW, LEAST, REFIT = 1000, 250, 250
# 0.94^(1 / bars) and 0.97: the half-lives that the presets state.
AGED, FILTERED = 11.2024, 22.7566
AGED_WINDOW = 400


def listed(prices: np.ndarray, held: Portfolio) -> int:
    """The bar at which a portfolio's youngest leg has its first price."""
    return max(int(np.flatnonzero(~np.isnan(prices[:, k]))[0]) for k in held)


def log_returns(prices: np.ndarray) -> np.ndarray:
    """`returns[t]` ends at bar t; NaN for the first bar and where there is no price."""
    return np.vstack([np.full(prices.shape[1], np.nan), np.diff(np.log(prices), axis=0)])


def loss(prices: np.ndarray, held: Portfolio, t: int) -> float:
    """What the portfolio lost from the close of bar t to that of bar t + 1."""
    return -sum(weight * (prices[t + 1, k] / prices[t, k] - 1) for k, weight in held.items())


def historical(prices: np.ndarray, held: Portfolio, t: int, *, window: int = WINDOW) -> Figures:
    """Losses that today's weights would have had in the last returns, as they were."""
    returns = log_returns(prices)
    first = max(listed(prices, held), t - window) + 1
    return _shortfalls([_losses(held, returns[s]) for s in range(first, t + 1)])


def filtered(prices: np.ndarray, held: Portfolio, t: int) -> Figures:
    """The same with each leg's returns over the EWMA volatility of their day, times that of today.

    The filter of an underlying begins with its own first price, whatever it is held with.
    """
    first = max(listed(prices, held), t - WINDOW) + 1
    moves = {k: _rescaled(prices[:, k], t)[first : t + 1] for k in held}
    return _shortfalls([_losses(held, {k: moves[k][s] for k in held}) for s in range(t + 1 - first)])


def exponential(prices: np.ndarray, held: Portfolio, t: int) -> Figures:
    """The normal law with the exponentially weighted mean square of the portfolio's own past losses."""
    returns = log_returns(prices)
    first = max(listed(prices, held), t - AGED_WINDOW) + 1
    weighted = total = 0.0
    for s in range(first, t + 1):
        weight = 0.5 ** ((t - s) / AGED)
        weighted += weight * _losses(held, returns[s]) ** 2
        total += weight
    sigma = np.sqrt(weighted / total)
    var, es, charge = (stats.norm.isf(TAIL), _normal_shortfall(TAIL), _normal_shortfall(CHARGE_TAIL))
    return float(var * sigma), float(es * sigma), float(charge * sigma)


def kept(
    model: Callable[[np.ndarray, Portfolio, int], Figures], prices: np.ndarray, held: Portfolio, t: int
) -> Figures:
    """A model's figures of the last refit: the first when every window is full, then every 250 bars."""
    anchor = listed(prices, held) + LEAST
    return model(prices, held, anchor + (t - anchor) // REFIT * REFIT)


def everything(prices: np.ndarray, held: Portfolio, t: int) -> Figures:
    """Losses of today's weights in all returns since the youngest leg listed."""
    return historical(prices, held, t, window=len(prices))


def without_offsets(prices: np.ndarray, held: Portfolio, t: int) -> Figures:
    """Sums over legs of size times a quantile, or tail mean, of the leg's absolute moves."""
    returns, first = log_returns(prices), listed(prices, held) + 1
    sums = np.zeros(3)
    for k, weight in held.items():
        moves = [abs(_losses({k: 1.0}, returns[s])) for s in range(first, t + 1)]
        sums += abs(weight) * np.array(_shortfalls(moves))
    return float(sums[0]), float(sums[1]), float(sums[2])


def student(prices: np.ndarray, held: Portfolio, t: int, *, fitted_at: int) -> Figures:
    """A Student t whose variance a GARCH(1,1) forecasts, with the most likely parameters of an earlier bar."""
    omega, alpha, beta, freedom = most_likely(_gains(prices, held, fitted_at))
    gains = _gains(prices, held, t)
    variance = omega + (alpha + beta) * _before(gains)
    for gain in gains:
        variance = omega + alpha * gain**2 + beta * variance
    unit = np.sqrt(variance * (freedom - 2) / freedom)
    edge = stats.t.isf(TAIL, freedom)
    means = (_student_shortfall(freedom, each) for each in (TAIL, CHARGE_TAIL))
    return float(edge * unit), *(float(mean * unit) for mean in means)  # type: ignore[return-value]


def most_likely(gains: np.ndarray) -> tuple[float, float, float, float]:
    """omega, alpha, beta and degrees of freedom, by a simplex from several starts on a likelihood written out."""
    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 8_000, "maxfev": 8_000}
    found = [
        optimize.minimize(_surprise, [*start, -1.2], args=(gains,), method="Nelder-Mead", options=options)
        for start in ((-2.3, -2.2, -2.4), (-1.6, 1.4, -2.4), (-6.2, 6.2, -3.9), (-6.2, 6.2, -2.4))
    ]
    return _parameters(min(found, key=lambda each: each.fun).x, gains)


def _parameters(at: np.ndarray, gains: np.ndarray) -> tuple[float, float, float, float]:
    """Of a point in the plane of logarithms and logits; alpha + beta is at most 0.9999, freedom in [2.05, 500]."""
    persistence, share, thickness = special.expit(at[1:])
    alpha, freedom = 0.9999 * persistence * share, 1 / (1 / 500 + (1 / 2.05 - 1 / 500) * thickness)
    return float(np.mean(gains**2) * np.exp(at[0])), float(alpha), float(0.9999 * persistence - alpha), float(freedom)


def _surprise(at: np.ndarray, gains: np.ndarray) -> float:
    """Minus the log likelihood."""
    omega, alpha, beta, freedom = _parameters(at, gains)
    first = omega + (alpha + beta) * _before(gains)
    later, _ = signal.lfilter([1], [1, -beta], omega + alpha * gains[:-1] ** 2, zi=[beta * first])
    scale = np.sqrt(np.append(first, later) * (freedom - 2) / freedom)
    return -float(np.sum(stats.t.logpdf(gains / scale, freedom) - np.log(scale)))


def _before(gains: np.ndarray) -> float:
    """The variance known before the first gain: the mean of 75 squares that `arch` weighs 0.94^k."""
    return float(np.average(gains[:75] ** 2, weights=0.94 ** np.arange(75)))


def _gains(prices: np.ndarray, held: Portfolio, t: int) -> np.ndarray:
    returns, first = log_returns(prices), max(listed(prices, held), t - WINDOW) + 1
    return np.array([-_losses(held, returns[s]) for s in range(first, t + 1)])


def _losses(held: Portfolio, returns: Mapping[int, float] | np.ndarray) -> float:
    """What weights in USD lose in these log returns."""
    return -sum(weight * np.expm1(returns[k]) for k, weight in held.items())


def _shortfalls(losses: list[float]) -> Figures:
    equal = np.full(len(losses), 1 / len(losses))
    var = tail.value_at_risk(losses, equal, tail=TAIL)
    es, charge = (tail.expected_shortfall(losses, equal, tail=each) for each in (TAIL, CHARGE_TAIL))
    return var, es, charge


def _rescaled(prices: np.ndarray, t: int) -> np.ndarray:
    """One underlying's returns up to bar t over the volatility of their day, times today's; floors as floor 2 has them.

    Residuals: at least a quarter of the long-run volatility below, 15 at most; today: at least half of the long run.
    """
    returns = log_returns(prices[: t + 1, None])
    one = np.ones(returns.shape)
    seed = filters.mean_square(returns, one, count=30)
    path, today = filters.ewma_variance(returns, one, seed, half_life=FILTERED)
    long_run = np.sqrt(filters.mean_square(returns, one))
    residuals, _ = filters.filtered_residuals(returns, one, np.sqrt(path), long_run, least_share=0.25, cap=15.0)
    return (residuals * np.maximum(np.sqrt(today), 0.5 * long_run))[:, 0]


def _normal_shortfall(probability: float) -> float:
    return float(stats.norm.pdf(stats.norm.isf(probability)) / probability)


@cache
def _student_shortfall(freedom: float, probability: float) -> float:
    """The tail mean of a Student t, by quadrature of its quantiles beyond the edge."""
    edge = stats.t.isf(probability, freedom)
    area, _ = integrate.quad(lambda x: x * stats.t.pdf(x, freedom), edge, np.inf)
    return float(area / probability)
