"""How sure a fit is of its numbers: the sandwich of an M-estimator, with stretches of bars as the independent pieces.

With g_b the slope that stretch b has in the objective and H the curvature, the covariance is H^-1 (sum g_b g_b') H^-1,
both without the prior: what is told is how sure the data alone make a number, and nothing where they say nothing of it.
Losses breach in jumps, so the curvature comes from differences of gradients over a step that holds many of them, in the
free scale. Intervals are symmetric there and go through the bijectors; those of numbers that share a constraint are
symmetric in the numbers themselves, by the slopes of their bijector. Stretches are few, so quantiles are those of
Student's t with one degree of freedom less than there are.
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

STEP = 0.3
# A number with less than this share in the directions that data say nothing of is told by the others.
LOADING = 0.01


@dataclass(frozen=True)
class Intervals:
    """Standard errors in the free scale and 95 % intervals of the numbers; NaN where data do not tell a number."""

    errors: Float64[np.ndarray, " numbers"]
    low: Float64[np.ndarray, " numbers"]
    high: Float64[np.ndarray, " numbers"]


def intervals(search: Search, free: Float64[np.ndarray, " numbers"], *, level: float = 0.95) -> Intervals:
    """Intervals around an optimum on the stretches that were fitted on; NaN where data do not tell a number.

    A search that stopped early, or is held by its prior, ends off the data's own optimum: intervals are around where it
    ended all the same. Stretches of several calendars count as independent, so that intervals on them are too narrow.
    Costs 2 gradients for each number, and one more.
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
        ahead, behind = (search.evidence((free + sign * step)[None], parts, softness)[1][0] for sign in (1, -1))
        curvature[k] = (ahead - behind) / (2 * STEP)
    pieces = search.pieces(free, parts, softness)
    covariance = sandwich(curvature, pieces)
    errors = _roots(np.diag(covariance))
    space = search.ground.tunable.space
    reach = stats.t.isf((1 - level) / 2, max(1, len(pieces) - 1))
    with jax.enable_x64(True):
        value = np.asarray(space.allowed(jnp.asarray(free)))
        ends = [np.asarray(space.allowed(jnp.asarray(free + sign * reach * np.nan_to_num(errors)))) for sign in (-1, 1)]
    low, high = (np.where(np.isfinite(errors), end, np.nan) for end in ends)
    slopes = space.slopes(free)
    for block in space.blocks:
        if block.kind != "interval":
            mine = np.array(block.places)
            own = slopes[np.ix_(mine, mine)]
            around = reach * _roots(np.diag(own @ covariance[np.ix_(mine, mine)] @ own.T))
            most = block.high if block.kind == "shares" else np.inf
            low[mine], high[mine] = np.maximum(value[mine] - around, 0), np.minimum(value[mine] + around, most)
    return Intervals(errors, low, high)


def sandwich(
    curvature: Float64[np.ndarray, "numbers numbers"], pieces: Float64[np.ndarray, "pieces numbers"]
) -> Float64[np.ndarray, "numbers numbers"]:
    """H^-1 J H^-1, J the sum of the outer products of the pieces around their mean.

    Directions in which H is not positive are left out, and what has a share of LOADING or more in them is NaN.
    """
    whole = (curvature + curvature.T) / 2
    if not (np.isfinite(whole).all() and np.isfinite(pieces).all()):
        return np.full_like(whole, np.nan)
    bends, ways = np.linalg.eigh(whole)
    known = bends > 0
    around = pieces - pieces.mean(axis=0)
    spread = around.T @ around * len(pieces) / max(1, len(pieces) - 1)
    bread = (ways[:, known] / bends[known]) @ ways[:, known].T
    covariance = bread @ spread @ bread
    untold = np.sum(ways[:, ~known] ** 2, axis=1) >= LOADING
    covariance[untold] = covariance[:, untold] = np.nan
    return covariance


def _roots(variances: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
    return np.sqrt(np.where(variances > 0, variances, np.nan))
