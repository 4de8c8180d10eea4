"""How sure a fit is of its numbers: the sandwich of an M-estimator, with stretches of bars as the independent pieces.

With g_b the slope that stretch b has in the objective and H the curvature, the covariance is H^-1 (sum g_b g_b') H^-1.
Losses breach in jumps, so the curvature comes from differences of gradients over a step that holds many of them, in the
free scale. Intervals are symmetric there and go through the bijectors; those of numbers that share a constraint are
symmetric in the numbers themselves, by the slopes of their bijector.
Source: White (1982); Newey and McFadden (1994), section 7, on objectives with kinks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from scipy import stats

from marginax_calibration.fitting.search import Search
from marginax_calibration.fitting.state import NotFinite

STEP = 0.15


@dataclass(frozen=True)
class Intervals:
    """Standard errors in the free scale and 95 % intervals of the numbers; NaN where the curvature is not positive."""

    errors: Float64[np.ndarray, " numbers"]
    low: Float64[np.ndarray, " numbers"]
    high: Float64[np.ndarray, " numbers"]


def intervals(search: Search, free: Float64[np.ndarray, " numbers"], *, level: float = 0.95) -> Intervals:
    """Intervals around an optimum on the stretches that were fitted on; NaN where the objective has no number near by.

    The prior counts in the curvature and not in the pieces: it is no evidence. Stretches of several calendars count as
    independent, so that intervals on them are too narrow. Costs 2 gradients for each number, and one more.
    """
    try:
        return _intervals(search, free, level)
    except NotFinite:
        none = np.full(len(free), np.nan)
        return Intervals(none, none, none)


def _intervals(search: Search, free: Float64[np.ndarray, " numbers"], level: float) -> Intervals:
    parts, count = list(search.fitted), len(free)
    softness = search.settings.softness[1]
    curvature = np.zeros((count, count))
    for k in range(count):
        step = np.zeros(count)
        step[k] = STEP
        _, ahead, _ = search.value((free + step)[None], parts, softness)
        _, behind, _ = search.value((free - step)[None], parts, softness)
        curvature[k] = (ahead[0] - behind[0]) / (2 * STEP)
    pieces = search.pieces(free, parts, softness)
    covariance = sandwich(curvature, pieces)
    errors = _roots(np.diag(covariance))
    space = search.ground.tunable.space
    reach = stats.norm.isf((1 - level) / 2)
    with jax.enable_x64(True):
        value = np.asarray(space.allowed(jnp.asarray(free)))
        ends = [np.asarray(space.allowed(jnp.asarray(free + sign * reach * np.nan_to_num(errors)))) for sign in (-1, 1)]
    slopes = space.slopes(free)
    around = reach * _roots(np.diag(slopes @ covariance @ slopes.T))
    together = np.zeros(count, bool)
    for block in space.blocks:
        together[list(block.places)] = block.kind != "interval"
    low = np.where(together, value - around, np.where(np.isfinite(errors), ends[0], np.nan))
    high = np.where(together, value + around, np.where(np.isfinite(errors), ends[1], np.nan))
    return Intervals(errors, low, high)


def sandwich(
    curvature: Float64[np.ndarray, "numbers numbers"], pieces: Float64[np.ndarray, "pieces numbers"]
) -> Float64[np.ndarray, "numbers numbers"]:
    """H^-1 J H^-1, J the sum of the outer products of the pieces around their mean; NaN where H is not positive."""
    whole = (curvature + curvature.T) / 2
    if not np.isfinite(whole).all() or np.linalg.eigvalsh(whole).min() <= 0:
        return np.full_like(whole, np.nan)
    around = pieces - pieces.mean(axis=0)
    spread = around.T @ around * len(pieces) / max(1, len(pieces) - 1)
    bread = np.linalg.inv(whole)
    return bread @ spread @ bread


def _roots(variances: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
    return np.sqrt(np.where(variances > 0, variances, np.nan))
