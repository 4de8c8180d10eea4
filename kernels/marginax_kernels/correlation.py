"""Correlation of the factors, its principal root, and the degrees of freedom of the copula on top of it.

Conventions: residuals are returns over the volatility of their day, bars x factors, without a mean to take off; a
correlation matrix has an exact unit diagonal. `check_correlation` and `copula_freedom` run on the host; the others are
traceable.
"""

import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Float, Float64
from scipy import special

from marginax_kernels.marginals import GREATEST_FREEDOM, most_likely_freedom

# More pairs of factors add little to what is known of one number, and each costs a pass over the bars.
MOST_PAIRS = 256


def ewma_correlation(
    residuals: Float[Array, "bars factors"],
    *,
    half_life: Float[ArrayLike, ""],
    shrinkage: Float[ArrayLike, ""],
) -> Float[Array, "factors factors"]:
    """Exponentially weighted correlation of residuals (no mean), shrunk towards the identity.

    C = (1 - shrinkage) S_ij / sqrt(S_ii S_jj) + shrinkage on the diagonal, with S = sum of 2^(-age / half_life) z z'.
    S is a Gram matrix, so no eigenvalue of C is below `shrinkage` (in (0, 1]), with more factors than bars too. A
    missing residual (NaN) counts as zero, which keeps that promise and pulls a short history towards independence: fill
    it from its proxy first. A factor that never moved is independent of all others.

    Units: half-life in bars. Gradient: exact. Source: RiskMetrics Technical Document (1996), section 5.2; Ledoit and
    Wolf (2004) for the identity as the target.
    """
    bars, factors = residuals.shape
    age = jnp.arange(bars - 1, -1, -1, dtype=residuals.dtype)
    moves = jnp.where(jnp.isnan(residuals), 0, residuals) * jnp.exp2(-age / (2 * half_life))[:, None]
    square = jnp.sum(moves**2, axis=0)
    moved = square > 0
    unit = jnp.where(moved, moves / jnp.sqrt(jnp.where(moved, square, 1)), 0)
    gram = jnp.matmul(unit.T, unit, precision=lax.Precision.HIGHEST)
    return jnp.where(jnp.eye(factors, dtype=bool), 1, (1 - shrinkage) * jnp.clip(gram, -1, 1))


def principal_root(correlation: Float[Array, "factors factors"]) -> Float[Array, "factors factors"]:
    """L with L L' = correlation, columns by decreasing eigenvalue: the first Sobol dimensions move the most.

    L = V sqrt(lambda), signed so that each column's first factors weigh positive (their entries by 1, 1/2, 1/3, ...).

    Gradient: that of the Cholesky factor K, turned by the rotation Q = K^-1 V sqrt(lambda) held fixed. The law of
    independent normals does not feel a rotation, so expectations have the right derivatives, and the gradient is
    finite where eigenvalues repeat, where that of the eigenvectors is not. Source: Glasserman (2003), section 7.2.
    """
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(correlation))
    first = jnp.sum(vectors / jnp.arange(1, len(values) + 1, dtype=values.dtype)[:, None], axis=0)
    columns = (vectors * jnp.where(first < 0, -1, 1) * jnp.sqrt(jnp.maximum(values, 0)))[:, ::-1]
    factor = jnp.linalg.cholesky(correlation)
    rotation = solve_triangular(lax.stop_gradient(factor), columns, lower=True)
    return jnp.matmul(factor, rotation, precision=lax.Precision.HIGHEST)


def check_correlation(matrix: np.ndarray) -> None:
    """Raise ValueError, saying what is wrong and what to do, where `matrix` is no definite correlation matrix."""
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"a matrix of shape {matrix.shape} correlates nothing. Give one row and one column a factor.")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"the correlation in row {row}, column {column} is {matrix[row, column]}. Give a number.")
    # A file with six digits is as good as symmetric; one digit less is a matrix of something else.
    allowed = 1e-6
    apart = np.abs(matrix - matrix.T)
    if apart.max() > allowed:
        row, column = np.unravel_index(apart.argmax(), apart.shape)
        raise ValueError(
            f"the correlation in row {row}, column {column} is {matrix[row, column]} and {matrix[column, row]} the "
            "other way round. Give a symmetric matrix."
        )
    diagonal = np.abs(np.diag(matrix) - 1)
    if diagonal.max() > allowed:
        row = int(diagonal.argmax())
        raise ValueError(
            f"a factor's correlation with itself is 1, not {matrix[row, row]} as in row {row}. Divide a covariance by "
            "both standard deviations."
        )
    if np.abs(matrix).max() > 1 + allowed:
        row, column = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
        raise ValueError(
            f"the correlation in row {row}, column {column} is {matrix[row, column]}, beyond 1. Give correlations, not "
            "covariances."
        )
    least = float(np.linalg.eigvalsh(matrix)[0])
    # Below a few roundings of the greatest eigenvalue no root can be taken of it.
    if least <= 4 * len(matrix) * np.finfo(float).eps:
        raise ValueError(
            f"the least eigenvalue is {least:.2g}, so some book would have no risk, or less. Shrink the matrix towards "
            "the identity, (1 - s) C + s I with a small s such as 0.01."
        )


def copula_freedom(
    residuals: Float64[np.ndarray, "bars factors"], correlation: Float64[np.ndarray, "factors factors"]
) -> float:
    """Degrees of freedom of the t copula, in [2.1, 60], by pairwise likelihood of the residuals' ranks.

    The sum, over pairs of factors and bars where both are known, of log t2(x, y; rho, nu) - log t(x) - log t(y) at the
    t quantiles x, y of the ranks; pairs, not whole rows, so that a missing cell (NaN) costs only its own pairs and a
    correlation matrix of 200 factors need not be right in all its inverse. Of many factors the nearest neighbours in
    the order given are paired, up to 256 pairs of them. A single factor has no copula: 60.

    Cost: 26 passes over the pairs. Source: Genest, Ghoudi and Rivest (1995); Varin, Reid and Firth (2011).
    """
    ranks = scipy.stats.rankdata(residuals, axis=0, nan_policy="omit")
    uniforms = ranks / (np.sum(~np.isnan(residuals), axis=0) + 1)
    factors = residuals.shape[1]
    offsets = range(1, 1 + min(factors - 1, max(1, MOST_PAIRS // factors)))
    pairs = np.array([(k, k + offset) for offset in offsets for k in range(factors - offset)], int).reshape(-1, 2)
    one, other = pairs[:: max(1, -(-len(pairs) // MOST_PAIRS))].T
    together = ~np.isnan(uniforms[:, one] + uniforms[:, other])
    if not together.any():
        return GREATEST_FREEDOM
    levels, places = np.unique(uniforms[~np.isnan(uniforms)], return_inverse=True)
    place = np.zeros(uniforms.shape, int)
    place[~np.isnan(uniforms)] = places
    first, second = place[:, one][together], place[:, other][together]
    rho = np.broadcast_to(np.clip(correlation[one, other], -0.999, 0.999), together.shape)[together]
    left = 1 - rho**2

    def surprise(inverse: np.ndarray) -> np.ndarray:
        freedom = 1 / float(inverse[0])
        quantiles = special.stdtrit(freedom, levels)
        alone = np.log1p(quantiles**2 / freedom)
        x, y = quantiles[first], quantiles[second]
        form = np.log1p((x**2 - 2 * rho * x * y + y**2) / (left * freedom))
        constant = special.gammaln([(freedom + 2) / 2, freedom / 2, (freedom + 1) / 2]) @ [1, 1, -2]
        single = (freedom + 1) / 2 * (alone[first] + alone[second])
        return -np.atleast_1d(np.mean(constant - (freedom + 2) / 2 * form + single))

    return float(most_likely_freedom(surprise, factors=1)[0])
