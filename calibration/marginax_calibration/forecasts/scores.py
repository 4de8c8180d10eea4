"""Scores of variance forecasts: QLIKE against two proxies of what was realised, and whether a difference is chance."""

import numpy as np
from jaxtyping import Bool, Float64

from marginax_calibration.comparison import diebold_mariano


def qlike(
    realised: Float64[np.ndarray, "*shape"], forecast: Float64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """log(forecast) + realised / forecast: the lower the better, least in the mean where the forecast is the variance.

    Units: variances of the same bar; the unit shifts every score by the same. What is missing from it beside
    realised / forecast - log(realised / forecast) - 1 depends on no forecast, and is infinite on a day without a move.
    Robust to noise in an unbiased proxy. NaN where either is missing. Source: Patton (2011), table 1.
    """
    good = forecast > 0
    safe = np.where(good, forecast, 1)
    return np.where(good, np.log(safe) + realised / safe, np.nan)


def rescaled(
    proxy: Float64[np.ndarray, "days underlyings"],
    squares: Float64[np.ndarray, "days underlyings"],
    where: Bool[np.ndarray, "days underlyings"],
) -> Float64[np.ndarray, "days underlyings"]:
    """A proxy at the level of squared returns: times, for each underlying, the ratio of their means over `where`.

    Ranges of a day see its extremes and closes do not: without this a model of the right variance would score worse
    than one of the proxy's. NaN for an underlying of which both are never known.
    """
    both = where & np.isfinite(proxy) & np.isfinite(squares)
    total = np.where(both, proxy, 0).sum(0)
    ratio = np.where(both, squares, 0).sum(0) / np.where(total > 0, total, np.nan)
    return proxy * ratio


def by_day(
    scores: Float64[np.ndarray, "days underlyings"], where: Bool[np.ndarray, "days underlyings"]
) -> Float64[np.ndarray, " days"]:
    """The mean over underlyings of each day on which any is judged: coins fall together, a day is one observation."""
    kept = where.any(1)
    return np.where(where, scores, 0)[kept].sum(1) / where[kept].sum(1)


def difference_p(one: Float64[np.ndarray, " days"], other: Float64[np.ndarray, " days"]) -> float:
    """The two-sided p-value of equal mean scores by day (`comparison.diebold_mariano`)."""
    return float(diebold_mariano(one - other))
