"""Expected shortfall of single holdings: one unit long and short, and what groups of entries lose on their own.

Conventions: as in `aggregate` and `tail`; the last row of the cube is all zero and padding points at it.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from marginax_kernels.aggregate import ROWS_A_TRIP
from marginax_kernels.tail import expected_shortfall

# Groups whose losses are summed side by side: few enough that the last block wastes little, and their losses fit a
# core's cache.
BLOCK = 32
# XLA on CPU sums arrays of fewer numbers than this in another order, so a block never holds fewer.
LEAST_NUMBERS = 4096


def unit_shortfalls(
    cube: Float[Array, "rows scenarios"], weights: Float[Array, " scenarios"], *, tail: float
) -> Float[Array, "rows 2"]:
    """Expected shortfall of one unit of each row held long, and held short.

    An account that is linear in an underlying has |q| times one of them there, exactly. Units: currency per unit.
    Cost: two selections a row. Gradient: see `expected_shortfall`.
    """
    both = (expected_shortfall(sign * cube, weights, tail=tail) for sign in (-1, 1))
    return jnp.stack(tuple(both), axis=1)


def group_shortfalls(
    cube: Float[Array, "rows scenarios"],
    weights: Float[Array, " scenarios"],
    rows: Int[Array, "accounts width"],
    quantities: Float[Array, "accounts width"],
    *,
    start: Int[Array, " groups"],
    length: Int[Array, " groups"],
    owner: Int[Array, " groups"],
    extra: Int[Array, " groups"],
    amount: Float[Array, " groups"],
    tail: float,
) -> Float[Array, " groups"]:
    """Expected shortfall of each group on its own: `length` entries of row `owner` from column `start`, and `amount` of
    the row `extra` of the cube. A group of length zero is padding if it is at the end, and has zero.

    Sums run in position order and blocks have one shape, so that a group's bits do not depend on its neighbours.

    Units: the currency of the cube. Cost: a sum and a selection for each group; blocks of padding are skipped.
    Gradient: exact in quantities, amounts, cube.
    """
    rows, quantities = jnp.asarray(rows), jnp.asarray(quantities)
    width, scenarios = rows.shape[1], cube.shape[1]
    block = BLOCK * max(1, -(-LEAST_NUMBERS // (BLOCK * scenarios)))
    groups = len(start)
    padding = -groups % block
    padded = [jnp.pad(each, (0, padding)) for each in (start, length, owner, extra, amount)]
    step = min(ROWS_A_TRIP, width)

    def summed(part: tuple[Array, ...]) -> Array:
        """P&L of the positions of a block, `ROWS_A_TRIP` at a time up to the longest group."""
        start, length, owner, _, _ = part

        def trip(total: Array, first: Array) -> tuple[Array, None]:
            def add(total: Array) -> Array:
                for k in range(step):
                    inside = first + k < length
                    column = jnp.minimum(start + first + k, width - 1)
                    row = jnp.where(inside, rows[owner, column], len(cube) - 1)
                    total = total + jnp.where(inside, quantities[owner, column], 0)[:, None] * cube[row]
                return total

            return lax.cond(jnp.any(length > first), add, lambda total: total, total), None

        zero = lax.optimization_barrier(jnp.zeros((block, scenarios), cube.dtype))
        return lax.scan(trip, zero, jnp.arange(0, width, step))[0]

    def losses(part: tuple[Array, ...]) -> Array:
        _, _, _, extra, amount = part
        return -lax.optimization_barrier(summed(part) + amount[:, None] * cube[extra])

    def one(_: None, part: tuple[Array, ...]) -> tuple[None, Array]:
        some = jnp.any((part[1] > 0) | (part[4] != 0))
        none = jnp.zeros(block, cube.dtype)
        found = lax.cond(some, lambda each: expected_shortfall(losses(each), weights, tail=tail), lambda _: none, part)
        return None, found

    _, found = lax.scan(one, None, tuple(each.reshape(-1, block) for each in padded))
    return found.reshape(-1)[:groups]
