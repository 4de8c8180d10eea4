"""Options by the textbook: the formulas as printed, from the error function of the standard library, one at a time.

Conventions: `deviation` is volatility x sqrt(years); values are undiscounted. Greeks are those of the printed closed
forms; theta is per year of calendar time at fixed forward and discount.
"""

from math import erfc, exp, log, nan, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq


def probability(z: float) -> float:
    """Normal distribution function."""
    return erfc(-z / sqrt(2)) / 2


def density(z: float) -> float:
    """Normal density."""
    return exp(-z * z / 2) / sqrt(2 * pi)


def black76(forward: float, strike: float, deviation: float, call: bool) -> float:
    """w (F N(w d1) - K N(w d2)); intrinsic without deviation or without a positive forward and strike."""
    sign = 1 if call else -1
    if deviation == 0 or forward <= 0 or strike <= 0:
        return max(sign * (forward - strike), 0.0)
    d1 = log(forward / strike) / deviation + deviation / 2
    return sign * (forward * probability(sign * d1) - strike * probability(sign * (d1 - deviation)))


def bachelier(forward: float, strike: float, deviation: float, call: bool) -> float:
    """w (F - K) N(w d) + s n(d); intrinsic without deviation."""
    sign = 1 if call else -1
    if deviation == 0:
        return max(sign * (forward - strike), 0.0)
    d = (forward - strike) / deviation
    return sign * (forward - strike) * probability(sign * d) + deviation * density(d)


def greeks(
    forward: float, strike: float, volatility: float, years: float, discount: float, call: bool, normal: bool
) -> tuple[float, ...]:
    """Value, delta, gamma, vega, theta and vanna by their closed forms."""
    sign, root = (1 if call else -1), sqrt(years)
    deviation = volatility * root
    if normal:
        d = (forward - strike) / deviation
        value = bachelier(forward, strike, deviation, call)
        delta, gamma = sign * probability(sign * d), density(d) / deviation
        vega, vanna, speed = root * density(d), -density(d) * d / volatility, gamma
    else:
        d = log(forward / strike) / deviation + deviation / 2
        value = black76(forward, strike, deviation, call)
        delta, gamma = sign * probability(sign * d), density(d) / (forward * deviation)
        vega, vanna, speed = forward * root * density(d), -density(d) * (d - deviation) / volatility, gamma * forward**2
    theta = -(volatility**2) * speed / 2
    return tuple(discount * each for each in (value, delta, gamma, vega, theta, vanna))


def implied_deviation(value: float, forward: float, strike: float, call: bool, *, normal: bool = False) -> float:
    """The deviation by bracketing; NaN where no deviation gives the value."""
    model = bachelier if normal else black76
    bounds = model(forward, strike, 0.0, call), (np.inf if normal else (forward if call else strike))
    if not bounds[0] <= value < bounds[1]:
        return nan
    top = 4 * value + 2 * abs(forward - strike) if normal else 40.0
    return float(brentq(lambda each: model(forward, strike, each, call) - value, 1e-12, top, xtol=1e-15, rtol=1e-14))


def svi_total_variance(k: ArrayLike, a: float, b: float, rho: float, m: float, sigma: float) -> np.ndarray:
    """Raw SVI."""
    return a + b * (rho * (np.asarray(k) - m) + np.sqrt((np.asarray(k) - m) ** 2 + sigma**2))


def density_of_log_forward(k: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """d2 C / dK2 times K on an even, fine grid of log-strikes (forward 1), by central differences of call prices."""
    calls = np.array([black76(1.0, exp(x), sqrt(w), True) for x, w in zip(k, variance, strict=True)])
    step = k[1] - k[0]
    first, second = (calls[2:] - calls[:-2]) / (2 * step), (calls[2:] - 2 * calls[1:-1] + calls[:-2]) / step**2
    # With K = e^k: C_KK = (C_kk - C_k) / K^2, and the density of log S at k is K C_KK.
    return (second - first) / np.exp(k[1:-1])
