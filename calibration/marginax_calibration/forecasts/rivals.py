"""The rivals of a forecaster, each fitted anew at every refit on what was known then: EWMA, GARCH(1,1)-t, HAR.

A forecast in row t is the variance of day t + 1 as it is expected at the close of day t. `refits` are the days at whose
close a model is fitted, the first forecast in the row of the first of them; rows before it are NaN.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int64

from marginax.models.garch_fit import fit_garch
from marginax.scenarios.volatility import Ewma, TwoSpeed, VolatilityModel, filter_path
from marginax_calibration.forecasts.features import BASE, DailyFeatures, trailing_mean
from marginax_calibration.volatility_fits import har_weights
from marginax_kernels import garch_variance
from marginax_kernels.har import MONTH, WEEK

# The decay of RiskMetrics, 0.94 a day, as a half-life.
RISKMETRICS = float(np.log(0.5) / np.log(0.94))
Forecast = Float64[np.ndarray, "days underlyings"]


def spans(refits: Int64[np.ndarray, " refits"], days: int) -> Iterator[tuple[int, slice]]:
    """Each refit, and the rows that it forecasts."""
    for begin, end in zip(refits, [*refits[1:], days], strict=True):
        yield int(begin), slice(int(begin), int(end))


def ewma(features: DailyFeatures, refits: Int64[np.ndarray, " refits"]) -> Forecast:
    """RiskMetrics: 0.94 of yesterday's variance a day; nothing to fit."""
    return _filtered(Ewma(np.asarray(RISKMETRICS), np.asarray(np.inf)), features, refits)


def two_speed(features: DailyFeatures, refits: Int64[np.ndarray, " refits"]) -> Forecast:
    """The two speeds of the preset `dynamic`, which networks correct; nothing to fit."""
    base: TwoSpeed = BASE
    return _filtered(base, features, refits)


def garch(features: DailyFeatures, refits: Int64[np.ndarray, " refits"]) -> Forecast:
    """GARCH(1,1) with Student t innovations by maximum likelihood, for each underlying. Source: Bollerslev (1987)."""
    returns = features.returns.T
    days = returns.shape[1]
    known = [np.where(np.arange(days) <= begin, returns, np.nan) for begin in refits]
    # All windows end with the table, so that one compilation serves them all; what is in front is NaN.
    windows = np.concatenate([np.roll(each, days - 1 - begin, 1) for each, begin in zip(known, refits, strict=True)])
    with jax.enable_x64(True):
        fit = fit_garch(jnp.asarray(windows), law="t")
        every = jnp.asarray(np.tile(returns, (len(refits), 1)))
        begins = jnp.argmax(~jnp.isnan(every), axis=-1)
        path, final = garch_variance(
            every, omega=fit.omega, alpha=fit.alpha, beta=fit.beta, initial=fit.initial, begins=begins
        )
    after = np.concatenate([np.asarray(path)[:, 1:], np.asarray(final)[:, None]], axis=1)
    by_refit = after.reshape(len(refits), *returns.shape)
    found = np.full(features.returns.shape, np.nan)
    for k, (_, rows) in enumerate(spans(refits, days)):
        found[rows] = by_refit[k, :, rows].T
    return found


def har_squares(features: DailyFeatures, refits: Int64[np.ndarray, " refits"]) -> Forecast:
    """HAR in levels on squared returns, weights not below zero (`volatility_fits.har_weights`), for each underlying.

    The long run is the mean square of the window. Source: Corsi (2009).
    """
    squares = np.where(features.bars == 1, features.returns, np.nan) ** 2

    def fitted(past: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        weights, long_run = har_weights(past[np.isfinite(past)]), np.nanmean(past)
        return lambda parts: parts @ weights + (1 - weights.sum()) * long_run

    return _har(squares, squares, fitted, refits)


def har_ranges(features: DailyFeatures, refits: Int64[np.ndarray, " refits"], *, everywhere: bool = False) -> Forecast:
    """HAR in logarithms on Parkinson's variance, least squares for each underlying; its level from squared returns.

    `everywhere` has the first fit's values in the rows before it too: no forecasts, but what a network corrects.
    Source: Corsi (2009); Corsi, Audrino and Reno (2012) on logarithms.
    """

    def fitted(past: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        parts, aim = _parts(past)[:-1], past[1:]
        good = np.isfinite(parts).all(1) & (parts > 0).all(1) & (aim > 0)
        slopes = np.linalg.lstsq(_logs(parts[good]), np.log(aim[good]), rcond=None)[0]
        return lambda parts: np.exp(_logs(parts) @ slopes)

    squares = np.where(features.bars == 1, features.returns, np.nan) ** 2
    return _har(features.range_variance, squares, fitted, refits, everywhere=everywhere)


def _har(
    realised: np.ndarray,
    squares: np.ndarray,
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    refits: Int64[np.ndarray, " refits"],
    *,
    everywhere: bool = False,
) -> Forecast:
    """Weights by `fit` from realised variance, and the level that makes squares over forecasts one in the mean."""
    found = np.full(realised.shape, np.nan)
    for k in range(realised.shape[1]):
        parts = _parts(realised[:, k])
        for begin, rows in spans(refits, len(realised)):
            if np.isfinite(realised[: begin + 1, k]).sum() < 3 * MONTH:
                continue
            forecast = fit(realised[: begin + 1, k])
            level = np.nanmean(squares[MONTH : begin + 1, k] / forecast(parts[MONTH - 1 : begin]))
            chosen = slice(0, rows.stop) if everywhere and begin == refits[0] else rows
            found[chosen, k] = level * forecast(parts[chosen])
    return found


def _parts(realised: np.ndarray) -> Float64[np.ndarray, "days 3"]:
    return np.stack([trailing_mean(realised, days) for days in (1, WEEK, MONTH)], axis=1)


def _logs(parts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(parts), 1)), np.log(np.where(parts > 0, parts, np.nan))], axis=1)


def _filtered(model: VolatilityModel, features: DailyFeatures, refits: Int64[np.ndarray, " refits"]) -> Forecast:
    with jax.enable_x64(True):
        returns, bars = jnp.asarray(features.returns), jnp.asarray(features.bars)
        found = np.array(filter_path(model, returns, bars, ahead=1, bars_per_day=1.0).variance[1:])
    found[: refits[0]] = np.nan
    return np.where(found > 0, found, np.nan)
