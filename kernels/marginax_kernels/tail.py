"""The weighted tail of a loss distribution: value at risk, expected shortfall, their gradients and errors.

Conventions: losses are positive when money is lost; scenarios are the last axis; weights sum to one; `tail` is the
small probability. Selection is exact: a bisection over the order-preserving bits of the losses, sixteen at a time
(int16 halves the memory that each pass reads), so value at risk is always one of the losses, whatever the tile around
it looks like. NaN in a row makes that row's answers NaN and no other's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jaxtyping import Array, Float, Int

# k scenarios of weight 1/S must count as k/S in float32 too; without the slack rounding decides between the k-th
# loss and the next. 1e-5 is 80 float32 roundings and far below the weight of any scenario worth having.
RELATIVE_SLACK = 1e-5


def value_at_risk(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    *,
    tail: float,
) -> Float[Array, "*batch"]:
    """The first loss, from the worst down, at which the cumulated weight reaches `tail`.

    Units: the currency of `losses`. `tail` is a probability in (0, 1]; 99 % value at risk is `tail=0.01`.
    Cost: 32 (float32) or 64 (float64) passes over 16-bit digits of the losses, no sort.

    Gradient: that of the loss on the edge; where several losses tie there, their mean by weight.
    Source: Rockafellar and Uryasev (2002), equation 3; the slack of 1e-5 is `RELATIVE_SLACK`.
    """
    return _value_at_risk(losses, weights, tail)


def expected_shortfall(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    *,
    tail: float,
) -> Float[Array, "*batch"]:
    """Mean loss in the worst `tail` of the probability mass.

    Units: the currency of `losses`. `tail` is a probability in (0, 1]; 99 % expected shortfall is `tail=0.01`.
    The scenario on the edge counts with the fraction of its weight that is left, which makes the answer equal to the
    Rockafellar-Uryasev minimum, continuous in `tail`, and sub-additive on every finite set.

    Gradient: the tail weights (`tail_weights`); exact wherever no two losses tie on the edge.
    Source: Rockafellar and Uryasev (2002), proposition 8.
    """
    edge = value_at_risk(losses, weights, tail=tail)
    return shortfall_beyond(losses, weights, edge, tail=tail)


def shortfall_beyond(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    edge: Float[Array, "*batch"],
    *,
    tail: float,
) -> Float[Array, "*batch"]:
    """Expected shortfall for a value at risk already known: edge + sum of weights x (loss - edge)+ / tail.

    Units: the currency of `losses`. Cost: one pass. Gradient and source: see `expected_shortfall`.
    """
    excess = jnp.maximum(losses - edge[..., None], 0)
    return edge + jnp.sum(weights * excess, axis=-1) / tail


def expected_shortfall_error(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    *,
    tail: float,
) -> Float[Array, "*batch"]:
    """Standard error of `expected_shortfall` when the scenarios are independent weighted draws.

    SE^2 = sum of w^2 psi^2 with psi = (L - VaR)+ / tail + VaR - ES. Units: the currency of `losses`. It means nothing
    for historical or deterministic scenarios, and overstates the error of Sobol points almost twice.

    Gradient: not meaningful. Source: the influence function of expected shortfall, Chen (2008), section 3.
    """
    edge = value_at_risk(losses, weights, tail=tail)
    mean = shortfall_beyond(losses, weights, edge, tail=tail)
    influence = jnp.maximum(losses - edge[..., None], 0) / tail + (edge - mean)[..., None]
    return jnp.sqrt(jnp.sum((weights * influence) ** 2, axis=-1))


def expected_shortfall_scramble_error(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    *,
    tail: float,
    scrambles: int,
    draws: int,
) -> Float[Array, "*batch"]:
    """Standard error of `expected_shortfall` when the first `draws` scenarios are independent scrambles.

    `scrambles` equal blocks, one after the other, each a randomisation of its own; scenarios behind them (stress
    windows) are what they are and carry no error. With psi as in `expected_shortfall_error`, less its mean over the
    draws, and b the sum of w psi over a block: SE^2 = R / (R - 1) x sum of b^2.

    Few blocks, and few draws beyond the edge, know their own error poorly, so SE is Student's: times t_nu(0.975) /
    1.96, so that two of them hold the true value in 95 % of all runs. The relative variance of SE^2 is 2 / (R - 1) from
    R blocks and about 2 / n from the n draws that psi is spread over, so 1 / nu = 1 / (R - 1) + 1 / n, n the effective
    sample size of the weights beyond the edge. The factor of 16 blocks is 1.09, with 40 draws 1.12, with 3 draws 1.82.
    `python -m benchmarks.monte_carlo` counts how often they do over 200 books. Units: the currency of `losses`. Raises
    ValueError for draws that cannot be cut into at least two blocks.

    Gradient: not meaningful. Source: Owen (1997) for means over scrambles; Chen (2008) for psi; Satterthwaite (1946)
    for nu; Kong (1992) for n.
    """
    check_scrambles(losses.shape[-1], scrambles=scrambles, draws=draws)
    edge = value_at_risk(losses, weights, tail=tail)
    return scramble_error_beyond(losses, weights, edge, tail=tail, scrambles=scrambles, draws=draws)


def scramble_error_beyond(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    edge: Float[Array, "*batch"],
    *,
    tail: float,
    scrambles: int,
    draws: int,
) -> Float[Array, "*batch"]:
    """`expected_shortfall_scramble_error` for a value at risk already known.

    Units: the currency of `losses`. Cost: two passes. Gradient: not meaningful.
    """
    influence = jnp.maximum(losses[..., :draws] - edge[..., None], 0) / tail
    mass = weights[:draws].reshape(scrambles, -1)
    blocks = jnp.sum(mass * influence.reshape(*influence.shape[:-1], *mass.shape), axis=-1)
    share = jnp.sum(mass, axis=-1)
    # The constant VaR - ES drops out against the mean of psi, so a block is off by what it adds beyond its own mass.
    blocks = blocks - share * (_in_order(blocks) / jnp.sum(share))[..., None]
    beyond = jnp.where(losses[..., :draws] > edge[..., None], weights[:draws], 0)
    # With nothing beyond the edge there is no error to widen.
    some = jnp.maximum(jnp.sum(beyond, axis=-1) ** 2, jnp.finfo(weights.dtype).tiny)
    scarcity = jnp.sum(beyond**2, axis=-1) / some
    return _student(scarcity, scrambles) * jnp.sqrt(scrambles / (scrambles - 1) * _in_order(blocks**2))


def check_scrambles(scenarios: int, *, scrambles: int, draws: int) -> None:
    """Raise ValueError for draws that cannot be cut into at least two equal blocks."""
    if scrambles < 2 or draws % scrambles or not 0 < draws <= scenarios:
        raise ValueError(
            f"`draws={draws}` of {scenarios} scenarios cannot be cut into `scrambles={scrambles}` equal blocks, "
            "whose differences tell the error. Use at least 2 blocks, better 16."
        )


def tail_weights(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    *,
    tail: float,
) -> Float[Array, "*batch scenarios"]:
    """Weights that sum to one and turn losses into expected shortfall: the gradient of it by each loss.

    Losses beyond the edge carry weight / tail; what is left falls on the edge, shared by weight among ties.
    A position's share of expected shortfall (Euler) is its own loss summed with these weights.

    Gradient: zero almost everywhere. Source: Tasche (1999), the Euler allocation of expected shortfall.
    """
    edge = value_at_risk(losses, weights, tail=tail)[..., None]
    beyond = jnp.where(losses > edge, weights, 0) / tail
    on_edge = jnp.where(losses == edge, weights, 0)
    left = 1 - jnp.sum(beyond, axis=-1, keepdims=True)
    return beyond + on_edge * (left / jnp.sum(on_edge, axis=-1, keepdims=True))


def exceedance_probability(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    amounts: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Weighted probability that the loss is strictly greater than `amounts`.

    Units: `amounts` in the currency of `losses`; the answer is a probability. Gradient: zero (a hard indicator).
    """
    return jnp.sum(jnp.where(losses > amounts[..., None], weights, 0), axis=-1)


def first_worst(losses: Float[Array, "*batch scenarios"]) -> Int[Array, "*batch"]:
    """Index of the greatest loss, the first of them where several tie; weights play no part.

    Cost: two passes; `argmax` costs six times as much on CPU. NaN in a row gives the number of scenarios.
    """
    scenarios = losses.shape[-1]
    index = lax.broadcasted_iota(jnp.int32, losses.shape, losses.ndim - 1)
    greatest = jnp.max(losses, axis=-1, keepdims=True)
    return jnp.min(jnp.where(losses == greatest, index, scenarios), axis=-1)


def _in_order(blocks: Array) -> Array:
    """The sum over the last axis, one after the other: XLA sums few numbers in an order that hangs on how many rows."""
    total = blocks[..., 0]
    for k in range(1, blocks.shape[-1]):
        total = total + blocks[..., k]
    return total


def student_widths(scrambles: int) -> Float[np.ndarray, " points"]:
    """Logarithm of t_nu(0.975) / 1.96 at 1 / nu = 1 / (scrambles - 1) + scarcity, scarcity at 65 steps from 0 to 1.

    JAX has no quantile of t. The logarithm is nearly straight in 1 / nu: 65 points leave 5e-5 of it.
    """
    factor = scipy.stats.t.ppf(0.975, 1 / (1 / (scrambles - 1) + np.linspace(0, 1, 65))) / scipy.stats.norm.ppf(0.975)
    return np.log(factor)


def _student(scarcity: Array, scrambles: int) -> Array:
    points, widths = np.linspace(0, 1, 65), student_widths(scrambles)
    return jnp.exp(jnp.interp(scarcity, jnp.asarray(points, scarcity.dtype), jnp.asarray(widths, scarcity.dtype)))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _value_at_risk(losses: Array, weights: Array, tail: float) -> Array:
    needed = jnp.asarray(tail * (1 - RELATIVE_SLACK), weights.dtype)
    integer = jnp.int32 if losses.dtype.itemsize == 4 else jnp.int64
    top = 8 * losses.dtype.itemsize - 16
    order = _ordered(lax.bitcast_convert_type(losses, integer))
    edge = _highest((order >> top).astype(jnp.int16), weights, needed).astype(integer)
    for shift in range(top - 16, -1, -16):
        # The next digit counts where all digits before it are on the edge; others take the ends of the range.
        before = order >> (shift + 16)
        digit = ((order >> shift) & 0xFFFF) - 2**15
        digit = jnp.where(before > edge[..., None], 2**15 - 1, jnp.where(before < edge[..., None], -(2**15), digit))
        found = _highest(lax.optimization_barrier(digit.astype(jnp.int16)), weights, needed)
        edge = (edge << 16) + found.astype(integer) + 2**15
    unknown = jnp.any(jnp.isnan(losses), axis=-1)
    return jnp.where(unknown, jnp.nan, lax.bitcast_convert_type(_ordered(edge), losses.dtype))


def _highest(digit: Array, weights: Array, needed: Array) -> Array:
    """The highest 16-bit value at or above which enough weight lies, by bisection."""

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high + 1) >> 1
        at_least = digit >= middle[..., None].astype(jnp.int16)
        enough = jnp.sum(jnp.where(at_least, weights, 0), axis=-1) >= needed
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    ends = (jnp.full(digit.shape[:-1], -(2**15), jnp.int32), jnp.full(digit.shape[:-1], 2**15 - 1, jnp.int32))
    return lax.fori_loop(0, 16, halve, ends)[0]


@_value_at_risk.defjvp
def _value_at_risk_jvp(tail: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    losses, weights = primals
    edge = _value_at_risk(losses, weights, tail)
    on_edge = jnp.where(losses == edge[..., None], weights, 0)
    share = on_edge / jnp.sum(on_edge, axis=-1, keepdims=True)
    return edge, jnp.sum(share * tangents[0], axis=-1)


def _ordered(bits: Array) -> Array:
    """Bits of a float as integers in the same order; its own inverse (negative floats count downwards)."""
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
