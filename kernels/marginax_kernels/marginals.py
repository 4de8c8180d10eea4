"""Marginals of the factors under a Student t copula: t, normal, or the empirical residuals of each factor.

Conventions: copula shocks `x` are draws x factors, each column Student t with the copula's degrees of freedom and not
scaled (`copula_shocks`). A map is a host table of Chebyshev coefficients, made once per key: a polynomial costs no
gather, is smooth, and its gradient is the map's slope. Applying one is traceable.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, ArrayLike, Float, Float64
from scipy import special

# Beyond 60 degrees of freedom no history of returns can tell a t from a normal; at 2 its variance is infinite.
LEAST_FREEDOM = 2.1
GREATEST_FREEDOM = 60.0
# As heavy as daily returns are, and near where a t of unit variance has its largest 1 % expected shortfall.
UNKNOWN_FREEDOM = 4.0
# Maps follow the law to this tail probability; beyond it shocks grow in proportion to x, and probabilities stop.
OUTERMOST = 1e-15
# Terms of the polynomials. For any two freedoms of 2.1 and more the error of a shock is below 4e-5 of it, and that of a
# tail probability below 2e-4 of it; tests/kernels/test_marginals.py holds them to that.
MAP_TERMS = 13
TAIL_TERMS = 17


class MarginalMap(NamedTuple):
    """log(y / x) as Chebyshev polynomials in log(1 + x^2 / width), scaled to [-1, 1]; one column per factor."""

    coefficients: Float[Any, "terms factors"]
    width: Float[Any, ""]
    span: Float[Any, ""]


class TailMap(NamedTuple):
    """log T(-|x|) as a Chebyshev polynomial in asinh(|x| / sqrt(width)), scaled to [-1, 1]."""

    coefficients: Float[Any, " terms"]
    width: Float[Any, ""]
    span: Float[Any, ""]


def marginal_map(freedom: float, marginal_freedom: Float64[np.ndarray, " factors"]) -> MarginalMap:
    """The map x -> F^-1(T(x)) from a t of `freedom` degrees to marginals of unit variance, one per factor.

    F is a Student t of `marginal_freedom` degrees scaled to variance one, or normal where that is infinite; `freedom`
    is infinite for a normal copula. Where all marginals are the copula's own t the map is a factor, exactly. Raises
    ValueError for marginals without a variance (2 degrees of freedom or less).
    """
    marginal_freedom = np.asarray(marginal_freedom, float)
    if not (marginal_freedom > 2).all():
        raise ValueError(
            f"marginals of {marginal_freedom.min()} degrees of freedom have no variance to scale to one. Use more "
            "than 2."
        )
    with np.errstate(invalid="ignore"):
        unit = np.where(np.isinf(marginal_freedom), 1, np.sqrt((marginal_freedom - 2) / marginal_freedom))
    width, outermost = _reach(freedom)
    span = np.log1p(outermost**2 / width)
    if (marginal_freedom == freedom).all():
        return MarginalMap(np.log(unit)[None], np.asarray(width), np.asarray(span))
    # Least squares on four times as many nodes as terms: close to the best polynomial, without its search.
    nodes = np.polynomial.chebyshev.chebpts1(4 * MAP_TERMS)
    x = np.sqrt(width * np.expm1((nodes + 1) / 2 * span))
    y = unit * _quantile(_probability(x, freedom)[:, None], marginal_freedom)
    return MarginalMap(
        np.polynomial.chebyshev.chebfit(nodes, np.log(y / x[:, None]), MAP_TERMS - 1),
        np.asarray(width),
        np.asarray(span),
    )


def apply_map(table: MarginalMap, x: Float[Array, "draws factors"]) -> Float[Array, "draws factors"]:
    """Shocks of unit variance with the marginals of `table`.

    Odd in x, so symmetric to the bit. Gradient: the slope of the map. Cost: one logarithm, one exponential and
    `MAP_TERMS` multiply-adds per shock; one multiplication where copula and marginals are the same t.
    """
    coefficients = jnp.asarray(table.coefficients, x.dtype)
    if len(coefficients) == 1:
        return x * jnp.exp(coefficients[0])
    reach = jnp.minimum(jnp.log1p(x**2 / jnp.asarray(table.width, x.dtype)) / jnp.asarray(table.span, x.dtype), 1)
    return x * jnp.exp(_chebyshev(coefficients, 2 * reach - 1))


def tail_map(freedom: float) -> TailMap:
    """The map x -> T(-|x|), the probability beyond a copula shock on its own side; `freedom` is infinite if normal."""
    width, outermost = _reach(freedom)
    span = np.arcsinh(outermost / np.sqrt(width))
    nodes = np.polynomial.chebyshev.chebpts1(4 * TAIL_TERMS)
    beyond = _probability(np.sqrt(width) * np.sinh((nodes + 1) / 2 * span), freedom)
    fitted = np.polynomial.chebyshev.chebfit(nodes, np.log(beyond), TAIL_TERMS - 1)
    return TailMap(fitted, np.asarray(width), np.asarray(span))


def tail_probability(table: TailMap, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Probability beyond each copula shock, on its own side: at most 1/2, and precise far out in float32 too.

    Gradient: minus the density, on either side of zero.
    """
    coefficients = jnp.asarray(table.coefficients, x.dtype)
    reach = jnp.arcsinh(jnp.abs(x) / jnp.sqrt(jnp.asarray(table.width, x.dtype))) / jnp.asarray(table.span, x.dtype)
    return jnp.minimum(jnp.exp(_chebyshev(coefficients, 2 * jnp.minimum(reach, 1) - 1)), 0.5)


def empirical_map(
    sorted_residuals: Float[Array, "bars factors"],
    x: Float[Array, "draws factors"],
    *,
    table: TailMap,
    freedom: Float[ArrayLike, "#factors"],
) -> Float[Array, "draws factors"]:
    """Each factor's own residual at the probability of its copula shock: interpolated quantiles, and a tail beyond.

    `sorted_residuals` rise down the rows, missing ones (NaN) last, as `jnp.sort(axis=0)` leaves them; `freedom` is each
    factor's tail index (`t_freedom`). The k-th of n residuals stands at probability (k - 1/2) / n, and between two the
    quantile is linear. Beyond the outermost on either side, half a bar in n, the history says nothing: the quantile
    grows as a t tail does, outermost x (2 n p)^(-1 / freedom), instead of stopping at the worst day seen;
    `freedom=inf` stops there. A factor without residuals gives NaN.

    Gradient: by the residuals and by x, the slope of the interpolated quantile. Cost: two gathers per shock.
    """
    known = jnp.sum(~jnp.isnan(sorted_residuals), axis=0)
    last = jnp.maximum(known - 1, 0)
    beyond = tail_probability(table, x)
    upper = x > 0
    position = beyond * known - 0.5
    place = jnp.clip(jnp.floor(position), 0, last).astype(last.dtype)
    nearer = jnp.take_along_axis(sorted_residuals, jnp.where(upper, last - place, place), axis=0)
    inward = jnp.minimum(place + 1, last)
    further = jnp.take_along_axis(sorted_residuals, jnp.where(upper, last - inward, inward), axis=0)
    between = nearer + jnp.clip(position - place, 0, 1) * (further - nearer)
    outside = (position < 0) & (jnp.where(upper, nearer, -nearer) > 0)
    growth = jnp.where(outside, 2 * known * beyond, 1) ** (-1 / jnp.asarray(freedom, x.dtype))
    return jnp.where(outside, nearer * growth, between)


def t_freedom(residuals: Float64[np.ndarray, "bars factors"]) -> Float64[np.ndarray, " factors"]:
    """Degrees of freedom in [2.1, 60] of a Student t of unit variance, by maximum likelihood, column by column.

    Missing residuals (NaN) are left out; a factor without any gets 4. The variance is one by convention, because
    that is what the marginals are scaled to; residuals of another size bias the answer. On 2,000 draws of t(5) the
    standard error is about 0.4.

    Cost: 26 passes over the residuals. Source: Bollerslev (1987).
    """
    known = ~np.isnan(residuals)
    square = np.where(known, residuals, 0.0) ** 2
    count = known.sum(axis=0)

    def surprise(inverse: np.ndarray) -> np.ndarray:
        freedom = 1 / inverse
        tail = np.log1p(square / (freedom - 2)).sum(axis=0)
        constant = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2) - np.log(freedom - 2) / 2
        return (freedom + 1) / 2 * tail - count * constant

    return np.where(count > 0, most_likely_freedom(surprise, factors=residuals.shape[1]), UNKNOWN_FREEDOM)


def most_likely_freedom(
    surprise: Callable[[np.ndarray], np.ndarray], *, factors: int
) -> Float64[np.ndarray, " factors"]:
    """The degrees of freedom in [2.1, 60] at which `surprise`, a function of 1 / freedom, is least: golden section.

    1 / freedom is close to normal in its estimate and bounded at both ends. Each column has its own bracket; 24 steps
    narrow it by 100,000.
    """
    ratio = (np.sqrt(5) - 1) / 2
    low = np.full(factors, 1 / GREATEST_FREEDOM)
    high = np.full(factors, 1 / LEAST_FREEDOM)
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    at_inner, at_outer = surprise(inner), surprise(outer)
    for _ in range(24):
        left = at_inner < at_outer
        low, high = np.where(left, low, inner), np.where(left, outer, high)
        kept, at_kept = np.where(left, inner, outer), np.where(left, at_inner, at_outer)
        fresh = np.where(left, high - ratio * (high - low), low + ratio * (high - low))
        at_fresh = surprise(fresh)
        inner, outer = np.where(left, fresh, kept), np.where(left, kept, fresh)
        at_inner, at_outer = np.where(left, at_fresh, at_kept), np.where(left, at_kept, at_fresh)
    return np.clip(2 / (low + high), LEAST_FREEDOM, GREATEST_FREEDOM)


def _reach(freedom: float) -> tuple[float, float]:
    """The width at which the law turns from bell to tail, and the outermost shock that a map follows."""
    outermost = scipy.stats.norm.isf(OUTERMOST) if np.isinf(freedom) else scipy.stats.t.isf(OUTERMOST, freedom)
    return min(freedom, GREATEST_FREEDOM), float(outermost)


def _probability(x: np.ndarray, freedom: float) -> np.ndarray:
    """Probability beyond x > 0."""
    return special.ndtr(-x) if np.isinf(freedom) else special.stdtr(freedom, -x)


def _quantile(beyond: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """The shock of a Student t (not scaled), or of a normal, with that probability beyond it."""
    heavy = -special.stdtrit(np.where(np.isinf(freedom), 1.0, freedom), beyond)
    return np.where(np.isinf(freedom), -special.ndtri(beyond), heavy)


def _chebyshev(coefficients: Array, at: Array) -> Array:
    """Clenshaw's sum: stable in float32, where powers would cancel."""
    one = two = jnp.zeros_like(at)
    for row in coefficients[:0:-1]:
        one, two = row + 2 * at * one - two, one
    return coefficients[0] + at * one - two
