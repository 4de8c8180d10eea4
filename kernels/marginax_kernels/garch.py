"""GARCH(1,1): its variance, its likelihood with normal or Student t innovations, and the tail of those innovations.

Conventions: bars are the last axis; variance is per bar and omega in the same unit; a return is that of one bar, and
the mean return is zero. `variance[t]` knows the bars before t and not bar t itself. A missing return (NaN) counts as
its expectation, so the variance moves to omega + (alpha + beta) v. Innovations have variance one; `freedom` is the
degrees of freedom of their Student t, greater than 2, infinite for the normal law.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Float64, Int
from numpy.typing import ArrayLike

# log quantile and log shortfall as Chebyshev polynomials in 1 / freedom: with 20 terms the error is below 1e-10 of
# them for tails from 1e-5 to 0.25; tests/kernels/test_garch.py holds them to 1e-9.
TAIL_TERMS = 20
# The upper triangle of what is differentiated twice by omega, alpha and beta.
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def garch_update(
    variance: Float[Array, "*batch"],
    returns: Float[Array, "*batch"],
    *,
    omega: Float[Array, "*batch"],
    alpha: Float[Array, "*batch"],
    beta: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """One step: omega + alpha r^2 + beta v, where a missing return (NaN) has the square v that was expected of it.

    Units: variance per bar. Gradient: exact in all inputs. Source: Bollerslev (1986).
    """
    known = ~jnp.isnan(returns)
    square = jnp.where(known, jnp.where(known, returns, 0) ** 2, variance)
    return omega + alpha * square + beta * variance


def garch_variance(
    returns: Float[Array, "*batch bars"],
    *,
    omega: Float[Array, "*batch"],
    alpha: Float[Array, "*batch"],
    beta: Float[Array, "*batch"],
    initial: Float[Array, "*batch"],
    begins: Int[Array, "*batch"] | None = None,
) -> tuple[Float[Array, "*batch bars"], Float[Array, "*batch"]]:
    """The variance known before each bar, and the variance after the last one.

    `initial` is the variance known before bar `begins` (0 by default), and stays as it is up to there: a series padded
    in front then has the variance of the series itself.

    Units: variance per bar. Gradient: exact in all inputs. Cost: one pass. Source: see `garch_update`.
    """
    first = jnp.zeros(initial.shape, int) if begins is None else begins

    def step(variance: Array, bar: tuple[Array, Array]) -> tuple[Array, Array]:
        index, moves = bar
        after = garch_update(variance, moves, omega=omega, alpha=alpha, beta=beta)
        return jnp.where(index < first, variance, after), variance

    bars = (jnp.arange(returns.shape[-1]), jnp.moveaxis(returns, -1, 0))
    final, path = lax.scan(step, initial, bars)
    return jnp.moveaxis(path, 0, -1), final


def discounted_sum(values: Float[Array, "*batch bars"], decay: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Sum of decay^age x value, the last bar of age zero: where a linear recursion driven by `values` ends.

    Units: those of `values`. Neighbours are summed in pairs, then pairs of them, so that no power is taken but by
    squaring. Gradient: exact in both.
    """
    factor = decay[..., None]
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = jnp.concatenate([jnp.zeros_like(values[..., :1]), values], axis=-1)
        values = values[..., 0::2] * factor + values[..., 1::2]
        factor = factor**2
    return values[..., 0]


def garch_log_likelihood(
    returns: Float[Array, "*batch bars"],
    *,
    omega: Float[Array, "*batch"],
    alpha: Float[Array, "*batch"],
    beta: Float[Array, "*batch"],
    freedom: Float[Array, "*batch"],
    initial: Float[Array, "*batch"],
    begins: Int[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Sum of the log densities of the known returns, constants included; `initial` and `begins` as `garch_variance`.

    Per bar, with v the variance: log G((n + 1) / 2) - log G(n / 2) - log(pi (n - 2)) / 2 - log(v) / 2
    - (n + 1) / 2 log(1 + r^2 / (v (n - 2))) at n degrees of freedom, and -(log(2 pi v) + r^2 / v) / 2 for the normal.
    Beyond 1e6 degrees of freedom the two gamma functions cancel to a few digits: say infinite there.

    Units: returns and variance of the same bar. Gradient: exact in all inputs, zero in an infinite `freedom`.
    Source: Bollerslev (1986) and (1987).
    """
    variance, _ = garch_variance(returns, omega=omega, alpha=alpha, beta=beta, initial=initial, begins=begins)
    known = ~jnp.isnan(returns)
    square = jnp.where(known, returns, 0) ** 2
    density = _log_kernel(square, jnp.where(known, variance, 1), freedom[..., None])
    return jnp.sum(jnp.where(known, density, 0), axis=-1) + jnp.sum(known, axis=-1) * _log_constant(freedom)


def garch_likelihood_expansion(
    returns: Float[Array, "*batch bars"],
    *,
    omega: Float[Array, "*batch"],
    alpha: Float[Array, "*batch"],
    beta: Float[Array, "*batch"],
    freedom: Float[Array, "*batch"],
    backcast: Float[Array, "*batch"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch 4"], Float[Array, "*batch 4 4"]]:
    """`garch_log_likelihood`, its gradient and its Hessian by (omega, alpha, beta, freedom), in one pass.

    The return before the first bar and the variance known for it are both `backcast`, so that the initial variance is
    omega + (alpha + beta) backcast and moves with the parameters. The variance is linear in its past: with m one where
    a return is missing, its square standing for itself, s = alpha m + beta and c = (0, m, 1),
        v' = omega + alpha r^2 + beta v,    v_i' = (1, r^2, v)_i + s v_i,    v_ij' = c_i v_j + c_j v_i + s v_ij.

    Cost: a fifth of jax.hessian of the likelihood, which stores the path of every tangent (0.065 against 0.36 s for
    2,000 series of 1,000 bars on one core). Gradient: not meaningful.
    Source: Fiorentini, Calzolari and Panattoni (1996).
    """
    zero = jnp.zeros_like(omega)
    one = jnp.ones_like(omega)

    def step(carry: tuple[Any, ...], moves: Array) -> tuple[tuple[Any, ...], None]:
        variance, slope, curve, sums = carry
        known = ~jnp.isnan(moves)
        square = jnp.where(known, jnp.where(known, moves, 0) ** 2, variance)
        terms = _expansion(lambda v, n: _log_kernel(square, v, n), variance, freedom)
        at, by_v, by_n, by_vv, by_vn, by_nn = (jnp.where(known, term, 0) for term in terms)
        inner = (by_vv * slope[i] * slope[j] + by_v * bend for (i, j), bend in zip(PAIRS, curve, strict=True))
        edge = (by_vn * each for each in slope)
        added = (at, *(by_v * each for each in slope), by_n, *inner, *edge, by_nn)
        missing = jnp.where(known, zero, one)
        decay, by = alpha * missing + beta, (zero, missing, one)
        curve = [by[i] * slope[j] + by[j] * slope[i] + decay * bend for (i, j), bend in zip(PAIRS, curve, strict=True)]
        slope = [new + decay * old for new, old in zip((one, square, variance), slope, strict=True)]
        sums = [total + term for total, term in zip(sums, added, strict=True)]
        return (omega + alpha * square + beta * variance, slope, curve, sums), None

    start = (omega + (alpha + beta) * backcast, [one, backcast, backcast], [zero] * 6, [zero] * 15)
    (_, _, _, sums), _ = lax.scan(step, start, jnp.moveaxis(returns, -1, 0))
    known = jnp.sum(~jnp.isnan(returns), axis=-1)
    at, _, by_n, _, _, by_nn = (known * term for term in _expansion(lambda _, n: _log_constant(n), zero, freedom))
    value, *gradient = sums[:5]
    gradient[3] += by_n
    aa, ab, ac, bb, bc, cc, an, bn, cn, nn = sums[5:]
    hessian = [[aa, ab, ac, an], [ab, bb, bc, bn], [ac, bc, cc, cn], [an, bn, cn, nn + by_nn]]
    rows = [jnp.stack(row, axis=-1) for row in hessian]
    return value + at, jnp.stack(gradient, axis=-1), jnp.stack(rows, axis=-2)


def student_tail(freedom: ArrayLike, tail: ArrayLike) -> tuple[Float64[np.ndarray, "*shape"], ...]:
    """Quantile and expected shortfall of the worst `tail` of a Student t of variance one, on the host.

    Units: volatilities, positive where `tail` is below 1/2. With q the quantile of a t that is not scaled and f its
    density: ES = f(q) (n + q^2) / ((n - 1) tail), both times sqrt((n - 2) / n). Raises ValueError for 2 degrees of
    freedom or less, and for a tail outside (0, 1).

    Source: McNeil, Frey and Embrechts (2015), section 2.3.
    """
    freedom, tail = np.broadcast_arrays(np.asarray(freedom, float), np.asarray(tail, float))
    if not (freedom > 2).all():
        raise ValueError(f"a Student t of `freedom={freedom.min()}` has no variance to scale to one. Use more than 2.")
    _check_tail(tail)
    quantile, shortfall = _plain_tail(1 / freedom, tail)
    scale = np.sqrt(1 - 2 / freedom)
    return scale * quantile, scale * shortfall


def student_quantile_and_shortfall(
    freedom: Float[Array, "*batch"], *, tail: float
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """`student_tail` for traced degrees of freedom, normal where infinite; `tail` is static, in (0, 1/2).

    Units: volatilities. JAX has no quantile of t: the logarithms are polynomials in 1 / freedom (`TAIL_TERMS`), fitted
    while tracing. Two degrees of freedom give zero, less gives NaN. Raises ValueError for a tail outside (0, 1/2).

    Gradient: exact to the same digits, zero in an infinite `freedom`. Cost: 40 multiply-adds and two exponentials.
    """
    _check_tail(np.asarray(tail), most=0.5)
    nodes = np.polynomial.chebyshev.chebpts1(4 * TAIL_TERMS)
    logarithms = np.log(np.stack(_plain_tail((nodes + 1) / 4, np.full(nodes.shape, tail)), axis=-1))
    table = jnp.asarray(np.polynomial.chebyshev.chebfit(nodes, logarithms, TAIL_TERMS - 1), freedom.dtype)
    inverse = 1 / freedom
    scale = jnp.sqrt(1 - 2 * inverse)
    quantile, shortfall = (scale * jnp.exp(_chebyshev(column, 4 * inverse - 1)) for column in table.T)
    return quantile, shortfall


def _log_kernel(square: Array, variance: Array, freedom: Array) -> Array:
    """The log density of a bar, less what does not depend on the bar."""
    normal = jnp.isinf(freedom)
    finite = jnp.where(normal, 4, freedom)
    student = (finite + 1) / 2 * jnp.log1p(square / (variance * (finite - 2)))
    return -jnp.log(variance) / 2 - jnp.where(normal, square / (2 * variance), student)


def _log_constant(freedom: Array) -> Array:
    """What `_log_kernel` leaves out."""
    normal = jnp.isinf(freedom)
    finite = jnp.where(normal, 4, freedom)
    gammas = gammaln((finite + 1) / 2) - gammaln(finite / 2)
    return jnp.where(normal, -jnp.log(2 * jnp.pi) / 2, gammas - jnp.log(jnp.pi * (finite - 2)) / 2)


def _expansion(function: Callable[[Array, Array], Array], x: Array, y: Array) -> tuple[Array, ...]:
    """f, f_x, f_y, f_xx, f_xy and f_yy of a function that works element by element."""
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)

    def first(x: Array, y: Array) -> tuple[Array, Array, Array]:
        at, tangent = jax.linearize(function, x, y)
        return at, tangent(one, zero), tangent(zero, one)

    (at, by_x, by_y), tangent = jax.linearize(first, x, y)
    _, by_xx, by_xy = tangent(one, zero)
    return at, by_x, by_y, by_xx, by_xy, tangent(zero, one)[2]


def _check_tail(tail: np.ndarray, *, most: float = 1.0) -> None:
    if not ((tail > 0) & (tail < most)).all():
        raise ValueError(f"`tail={tail}` is no probability between 0 and {most:g}. 99 % value at risk is `tail=0.01`.")


def _plain_tail(inverse: np.ndarray, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantile and shortfall of a t of 1 / inverse degrees of freedom, not scaled; normal where `inverse` is zero."""
    normal = inverse == 0
    freedom = 1 / np.where(normal, 0.25, inverse)
    quantile = np.where(normal, scipy.stats.norm.isf(tail), scipy.stats.t.isf(tail, freedom))
    heavy = scipy.stats.t.pdf(quantile, freedom) * (freedom + quantile**2) / (freedom - 1)
    return quantile, np.where(normal, scipy.stats.norm.pdf(quantile), heavy) / tail


def _chebyshev(coefficients: Array, at: Array) -> Array:
    """Clenshaw's sum, stable in float32, where powers would cancel."""
    one = two = jnp.zeros_like(at)
    for each in coefficients[:0:-1]:
        one, two = each + 2 * at * one - two, one
    return coefficients[0] + at * one - two
