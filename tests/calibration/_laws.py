"""A GARCH with stated parameters in place of a search for them, and what it charges, written out.

What becomes of parameters can be tested with any; a search costs seconds of compilation for every shape of a tile.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from marginax.models import garch

# omega is in units of the mean square of what was looked at.
OMEGA, ALPHA, BETA, FREEDOM = 0.05, 0.1, 0.85, 6.0


def stated_fit(series: Any) -> garch.Fitted:
    """What stands in for `marginax.models.garch._fit`."""
    square = jnp.nanmean(series.astype(float) ** 2, axis=1)
    one = jnp.ones_like(square)
    return garch.Fitted(OMEGA * square, ALPHA * one, BETA * one, FREEDOM * one)


def stated_figures(gains: np.ndarray, mean_square: float) -> tuple[float, float, float]:
    """Value at risk and expected shortfall at 1 %, and that at 2.5 %, after these gains.

    The tail mean of a t is its density at the edge times (nu + edge^2) / (nu - 1), over the probability.
    """
    before = np.average(gains[:75] ** 2, weights=0.94 ** np.arange(75))
    variance = OMEGA * mean_square + (ALPHA + BETA) * before
    for gain in gains:
        variance = OMEGA * mean_square + ALPHA * gain**2 + BETA * variance
    unit = np.sqrt(variance * (FREEDOM - 2) / FREEDOM)
    edge = stats.t.isf([0.01, 0.025], FREEDOM)
    means = stats.t.pdf(edge, FREEDOM) * (FREEDOM + edge**2) / (FREEDOM - 1) / [0.01, 0.025]
    return float(unit * edge[0]), float(unit * means[0]), float(unit * means[1])
