"""Parameters of volatility filters from history: GARCH(1,1) by the likelihood of Student t innovations, HAR by least
squares on realised variance. What they find is for `[filter]` and `[classes.parameters]` of a configuration."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import nnls

from marginax.models.garch_fit import fit_garch
from marginax_kernels.har import MONTH, WEEK


@dataclass(frozen=True)
class GarchParameters:
    """By series: what the variance takes of the last square and of the last variance, the degrees of freedom of the
    innovations, and whether the likelihood has a maximum."""

    alpha: Float64[np.ndarray, " series"]
    beta: Float64[np.ndarray, " series"]
    freedom: Float64[np.ndarray, " series"]
    converged: Bool[np.ndarray, " series"]


def garch_parameters(returns: Float64[np.ndarray, "bars series"]) -> GarchParameters:
    """The most likely parameters of each series (NaN before it begins, and where a return is missing).

    Units: none of theirs hangs on those of the returns. Source: Bollerslev (1987).
    """
    with jax.enable_x64(True):
        found = fit_garch(jnp.asarray(returns.T), law="t")
    alpha, beta, freedom = (np.asarray(each) for each in (found.alpha, found.beta, found.freedom))
    return GarchParameters(alpha, beta, freedom, np.asarray(found.converged))


def har_weights(realised: Float64[np.ndarray, " days"]) -> Float64[np.ndarray, " 3"]:
    """Weights of the last day, week and month in the next day's realised variance; what they leave is the long run's.

    Least squares with weights and constant not below zero, scaled down where a variance would run away. Raises
    ValueError for less than two months of days, and for one that is missing. Source: Corsi (2009).
    """
    if len(realised) < 2 * MONTH or not np.isfinite(realised).all():
        raise ValueError(f"{len(realised)} days tell no weights. Give {2 * MONTH} or more, none of them missing.")
    last = np.arange(MONTH - 1, len(realised) - 1)
    cumulated = np.concatenate([[0.0], np.cumsum(realised)])
    week, month = ((cumulated[last + 1] - cumulated[last + 1 - days]) / days for days in (WEEK, MONTH))
    size = realised.mean()
    past = np.stack([np.full(len(last), size), realised[last], week, month], axis=1)
    weights = nnls(past / size, realised[last + 1] / size)[0][1:]
    return weights / max(1.0, weights.sum())
