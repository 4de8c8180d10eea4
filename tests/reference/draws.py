"""Draws by the book: one draw, one factor and one pair at a time, with SciPy's own distributions.

Conventions: those of the kernels; NaN is no residual. Bisection stands where the kernel uses Newton's method or a
polynomial.
"""

import numpy as np
from scipy import stats


def bisect(function, low: float, high: float, wanted: float) -> float:
    """Where a rising function reaches `wanted`."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)
    return (low + high) / 2


def mixing(uniform: np.ndarray, *, freedom: float, stretch: float, greatest: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale and weight of each draw, the mixture's distribution function inverted by bisection."""
    share = max(0.0, (1 / greatest - 1 / stretch) / (1 - 1 / stretch)) if stretch > 1 else 1.0
    scale, weights = np.empty(len(uniform)), np.empty(len(uniform))
    for s, u in enumerate(uniform):
        # In y = v^(1 / stretch), because v itself lies as near zero as 1e-24.
        root = bisect(lambda y: share * y**stretch + (1 - share) * y, 0.0, 1.0, u)
        scale[s] = np.sqrt(freedom / stats.chi2.ppf(root**stretch, freedom))
        weights[s] = 1 / (share + (1 - share) / stretch * root ** (1 - stretch))
    return scale, weights / weights.sum()


def marginal(x: float, freedom: float, marginal_freedom: float) -> float:
    """The shock of unit variance that has the probability of the copula shock x."""
    beyond = stats.norm.sf(abs(x)) if np.isinf(freedom) else stats.t.sf(abs(x), freedom)
    if np.isinf(marginal_freedom):
        return float(np.sign(x) * stats.norm.isf(beyond))
    unit = np.sqrt((marginal_freedom - 2) / marginal_freedom)
    return float(np.sign(x) * unit * stats.t.isf(beyond, marginal_freedom))


def empirical(residuals: np.ndarray, x: float, *, freedom: float, tail_freedom: float) -> float:
    """One factor's residual at the probability of the copula shock x; a t tail beyond the outermost."""
    ranked = np.sort(residuals[~np.isnan(residuals)])
    if not len(ranked):
        return np.nan
    side = 1 if x > 0 else -1
    # Walk inwards from the end on the side of x; a fall is a rise of the mirrored sample.
    from_end = ranked[::-1] if side > 0 else ranked
    position = stats.t.sf(abs(x), freedom) * len(ranked) - 0.5
    if position < 0:
        grows = side * from_end[0] > 0
        return float(from_end[0] * (2 * (position + 0.5)) ** (-1 / tail_freedom) if grows else from_end[0])
    return float(np.interp(position, np.arange(len(ranked)), from_end))


def ewma_correlation(residuals: np.ndarray, *, half_life: float, shrinkage: float) -> np.ndarray:
    """Weighted correlation without means, pair by pair; a missing residual counts as zero."""
    bars, factors = residuals.shape
    sums = np.zeros((factors, factors))
    for t in range(bars):
        row = np.nan_to_num(residuals[t])
        sums += 0.5 ** ((bars - 1 - t) / half_life) * np.outer(row, row)
    answer = np.eye(factors)
    for i in range(factors):
        for j in range(factors):
            if i != j and sums[i, i] > 0 and sums[j, j] > 0:
                answer[i, j] = (1 - shrinkage) * sums[i, j] / np.sqrt(sums[i, i] * sums[j, j])
    return answer


def scramble_error(
    losses: np.ndarray, weights: np.ndarray, *, edge: float, shortfall: float, tail: float, scrambles: int, draws: int
) -> float:
    """Standard error of expected shortfall from the differences between blocks, widened as Student would.

    His degrees of freedom count the blocks and the draws beyond the edge, whichever are fewer.
    """
    influence = np.maximum(losses[:draws] - edge, 0) / tail + edge - shortfall
    mean = np.average(influence, weights=weights[:draws])
    size = draws // scrambles
    total = 0.0
    for block in range(scrambles):
        rows = slice(block * size, (block + 1) * size)
        total += float(np.sum(weights[rows] * (influence[rows] - mean))) ** 2
    beyond = weights[:draws][losses[:draws] > edge].astype(float)
    if not beyond.any():
        return 0.0
    held = beyond.sum() ** 2 / np.sum(beyond**2)
    widened = stats.t.ppf(0.975, 1 / (1 / (scrambles - 1) + 1 / held)) / stats.norm.ppf(0.975)
    return float(widened * np.sqrt(scrambles / (scrambles - 1) * total))
