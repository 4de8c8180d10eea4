"""The tail of one tile of accounts: traceable, differentiable, the same function on every device.

Conventions: as in `aggregate` and `tail`. Which scenario stands on the edge is decided by masses in whole numbers
(`MassGrid`), whose sums are exact in any order: no compiler, tile or device decides it by rounding. NaN in a loss makes
every answer of its account NaN and no other's.
"""

from functools import partial
from math import ceil, log2
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from marginax_kernels.aggregate import accumulate
from marginax_kernels.tail import (
    RELATIVE_SLACK,
    exceedance_probability,
    first_worst,
    scramble_error_beyond,
    shortfall_beyond,
    value_at_risk,
)

# Accounts whose losses beyond their amounts are summed before all sums are added: fixed, so that no tile shows.
VENUE_BLOCK = 64
# A mass is a coarse and a fine whole number. All coarse ones together are 2^30 and fit 32 bits; together with the fine
# ones a mass fits the 53 bits of a float64.
COARSE_BITS, FINE_BITS = 30, 22


class TileTail(NamedTuple):
    """Answers of a tile: a number an account, and for the venue a row for each block of 64 accounts.

    Where several tails are asked, the first three have a row for each.
    """

    var: Float[Array, "*tails accounts"]
    expected_shortfall: Float[Array, "*tails accounts"]
    std_error: Float[Array, "*tails accounts"]
    exceedance: Float[Array, " accounts"] | None
    venue_loss: Float[Array, "blocks scenarios"] | None
    worst_scenario: Int[Array, " accounts"]


class MassGrid(NamedTuple):
    """The grid that masses are counted on: floor(weight x 2^bits), and how much of it `tail` is.

    A weight loses at most 2^-bits, 10,000 of them 10^-10 of all mass: far below the slack of 1e-5 of any tail worth
    having. Fine bits are as many as 30 leave for a sum over all scenarios.
    """

    bits: int
    needed: int

    @property
    def fine_bits(self) -> int:
        """Bits of the fine whole number of a mass."""
        return self.bits - COARSE_BITS


def mass_grid(scenarios: int, *, tail: float) -> MassGrid:
    """The grid for so many weighted scenarios; see `MassGrid`."""
    bits = COARSE_BITS + min(FINE_BITS, 30 - ceil(log2(max(scenarios, 1))))
    return MassGrid(bits, max(1, ceil(tail * (1 - RELATIVE_SLACK) * 2.0**bits)))


def scenarios_needed(scenarios: int, *, tail: float) -> int:
    """How many of equally weighted scenarios reach `tail`."""
    return max(1, ceil(tail * (1 - RELATIVE_SLACK) * scenarios))


def tile_tail(
    cube: Float[Array, "rows scenarios"],
    rows: Int[Array, "accounts width"],
    quantities: Float[Array, "accounts width"],
    weights: Float[Array, " scenarios"] | None,
    amounts: Float[Array, " accounts"] | None = None,
    *,
    tail: float,
    scrambles: tuple[int, int] = (0, 0),
) -> TileTail:
    """Value at risk, expected shortfall and its error of each account's loss; with `amounts` also what is beyond them.

    Units: quantities in contracts, the cube in currency per contract, amounts in currency; `tail` in (0, 1]. `weights`
    None are equal ones. `scrambles` are how many there are and the draws they hold, for an error as in
    `expected_shortfall_scramble_error`; without them scenarios are independent draws. `width` is a power of two, at
    least 2; padding points at the last row of the cube, all zero.

    Gradient: of expected shortfall and value at risk exact in quantities and cube (tail weights, and the scenario on
    the edge); the other answers carry none. Source: see `tail`.
    """
    pnl = accumulate(jnp.asarray(cube), jnp.asarray(rows), jnp.asarray(quantities))
    return losses_tail(-pnl, weights, amounts, tail=tail, scrambles=scrambles)


def dense_tile_tail(
    cube: Float[Array, "instruments scenarios"],
    positions: Float[Array, "accounts instruments"],
    weights: Float[Array, " scenarios"] | None,
    amounts: Float[Array, " accounts"] | None = None,
    *,
    tail: float,
    scrambles: tuple[int, int] = (0, 0),
) -> TileTail:
    """As `tile_tail` for accounts in so many instruments that a product of matrices is the faster sum.

    Products are full ones, never TF32. The cube must be finite: zero times NaN is NaN. Gradient: as `tile_tail`.
    """
    return losses_tail(-dense_pnl(cube, positions), weights, amounts, tail=tail, scrambles=scrambles)


def dense_pnl(
    cube: Float[Array, "instruments scenarios"], positions: Float[Array, "accounts instruments"]
) -> Float[Array, "accounts scenarios"]:
    """Positions times the cube as a product of matrices, in full precision on every device. Gradient: exact."""
    return lax.optimization_barrier(jnp.matmul(positions, cube, precision=lax.Precision.HIGHEST))


def losses_tail(
    losses: Float[Array, "accounts scenarios"],
    weights: Float[Array, " scenarios"] | None,
    amounts: Float[Array, " accounts"] | None = None,
    *,
    tail: float,
    scrambles: tuple[int, int] = (0, 0),
) -> TileTail:
    """As `tile_tail`, of losses that are known. Cost: the passes of `value_at_risk`, and about six more."""
    scenarios = losses.shape[-1]
    masses = weights
    if weights is None:
        weights = jnp.full(scenarios, 1 / scenarios, losses.dtype)
    edge = exact_value_at_risk(losses, masses, tail=tail)
    mean = shortfall_beyond(losses, weights, edge, tail=tail)
    error = lax.stop_gradient(_error(losses, weights, edge, mean, tail, scrambles))
    worst = jnp.where(jnp.isnan(edge), -1, first_worst(losses))
    if amounts is None:
        return TileTail(edge, mean, error, None, None, worst)
    losses, amounts = lax.stop_gradient((losses, amounts))
    unknown = jnp.isnan(edge) | jnp.isnan(amounts)
    exceedance = jnp.where(unknown, jnp.nan, exceedance_probability(losses, weights, amounts))
    return TileTail(edge, mean, error, exceedance, _beyond(losses, amounts), worst)


def _error(losses: Array, weights: Array, edge: Array, mean: Array, tail: float, scrambles: tuple[int, int]) -> Array:
    if scrambles[0]:
        return scramble_error_beyond(losses, weights, edge, tail=tail, scrambles=scrambles[0], draws=scrambles[1])
    influence = weights * (jnp.maximum(losses - edge[:, None], 0) / tail + (edge - mean)[:, None])
    # Squares of what float32 still holds may be beyond it.
    largest = jnp.max(jnp.abs(influence), axis=-1, keepdims=True)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit[:, 0] * jnp.sqrt(jnp.sum((influence / unit) ** 2, axis=-1))


def exact_value_at_risk(
    losses: Float[Array, "accounts scenarios"], weights: Float[Array, " scenarios"] | None, *, tail: float
) -> Float[Array, " accounts"]:
    """`value_at_risk` with masses counted in whole numbers: the same scenario on every device, in every tile.

    Where a float32 sum of weights came out on the wrong side of `tail`, the edge moves to the next loss until it is
    right; two masses more than `value_at_risk` where it was right. Gradient: as `value_at_risk`.
    """
    return _exact(losses, weights, tail)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _exact(losses: Array, weights: Array | None, tail: float) -> Array:
    scenarios = losses.shape[-1]
    even = jnp.full(scenarios, 1 / scenarios, losses.dtype) if weights is None else weights
    edge = value_at_risk(losses, even, tail=tail)

    def moved(state: tuple[Array, Array]) -> tuple[Array, Array]:
        edge, _ = state
        beyond, reached = losses > edge[:, None], losses >= edge[:, None]
        up = jnp.min(jnp.where(beyond, losses, jnp.inf), axis=-1)
        down = jnp.max(jnp.where(reached, -jnp.inf, losses), axis=-1)
        too_low = _enough(beyond, weights, tail)
        too_high = ~_enough(reached, weights, tail) & ~jnp.isnan(edge) & (down < edge)
        return jnp.where(too_low, up, jnp.where(too_high, down, edge)), jnp.any(too_low | too_high)

    return lax.while_loop(lambda state: state[1], moved, moved((edge, jnp.array(True))))[0]


def _enough(chosen: Array, weights: Array | None, tail: float) -> Array:
    """Whether the chosen scenarios have the mass that `tail` needs; exact. All have it, whatever floors lost."""
    scenarios = chosen.shape[-1]
    if weights is None:
        return _count(chosen, 1) >= scenarios_needed(scenarios, tail=tail)
    grid = mass_grid(scenarios, tail=tail)
    scaled = weights * 2.0**COARSE_BITS
    coarse = jnp.floor(scaled)
    fine = jnp.floor((scaled - coarse) * 2.0**grid.fine_bits)  # scaling by powers of two rounds nothing
    low = _count(chosen, fine.astype(jnp.int32))
    high = _count(chosen, coarse.astype(jnp.int32)) + (low >> grid.fine_bits)
    low = low & (2**grid.fine_bits - 1)
    needed_high, needed_low = divmod(grid.needed, 2**grid.fine_bits)
    return (high > needed_high) | ((high == needed_high) & (low >= needed_low)) | jnp.all(chosen, axis=-1)


def _count(chosen: Array, masses: Array | int) -> Array:
    return jnp.sum(jnp.where(chosen, jnp.asarray(masses, jnp.int32), 0), axis=-1, dtype=jnp.int32)


@_exact.defjvp
def _exact_jvp(tail: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    losses, weights = primals
    edge = _exact(losses, weights, tail)
    even = jnp.ones((), losses.dtype) if weights is None else weights
    on_edge = jnp.where(losses == edge[:, None], even, 0)
    share = on_edge / jnp.sum(on_edge, axis=-1, keepdims=True)
    return edge, jnp.sum(share * tangents[0], axis=-1)


def _beyond(losses: Array, amounts: Array) -> Float[Array, "blocks scenarios"]:
    """Loss beyond each amount summed over blocks of accounts, in float64 where jax has it; what is not finite is not.

    One account whose loss nobody knows must not hide what all others would lose.
    """
    excess = jnp.maximum(losses - amounts[:, None], 0)
    excess = jnp.where(jnp.isfinite(excess), excess, 0).astype(jax.dtypes.canonicalize_dtype("float64"))
    whole = jnp.pad(excess, ((0, -len(excess) % VENUE_BLOCK), (0, 0)))
    return jnp.sum(whole.reshape(-1, VENUE_BLOCK, losses.shape[1]), axis=1)
