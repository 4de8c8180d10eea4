"""Positions times the cube of unit P&L: the one product a margin engine lives on.

Conventions: P&L is a gain; the last row of the cube is all zero and padding points at it, never at row 0, because zero
quantity times NaN is NaN. Sums run in position order, so that an account's bits do not depend on its neighbours,
on padding, or on the width of the tile.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Eight rows a trip keep the sum in registers; unrolled whole, XLA repeats the gathers in every consumer.
ROWS_A_TRIP = 8


def accumulate(
    cube: Float[Array, "rows scenarios"],
    rows: Int[Array, "accounts width"],
    quantities: Float[Array, "accounts width"],
) -> Float[Array, "accounts scenarios"]:
    """P&L of each account in each scenario: sum over its positions of quantity x unit P&L, in position order.

    Units: quantities in contracts, the cube in currency per contract. `width` is a power of two, at least 2.
    The sum starts from a zero that the compiler cannot see and takes at least two trips: from a literal zero, or in one
    trip, the compiler fuses differently by width and last bits differ between tiles.

    Gradient: exact. Cost: one gathered row and one multiply-add per position.
    """
    accounts, width = rows.shape
    if width < 2 or width & (width - 1):
        raise ValueError(f"a tile of width {width} cannot be summed; pad it to a power of two, at least 2")
    step = min(ROWS_A_TRIP, width // 2)
    trips = width // step

    def trip(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        row, quantity = part
        for k in range(step):
            total = total + quantity[k][:, None] * cube[row[k]]
        return total, None

    zero = lax.optimization_barrier(jnp.zeros((accounts, cube.shape[1]), cube.dtype))
    parts = (rows.T.reshape(trips, step, accounts), quantities.T.reshape(trips, step, accounts))
    total, _ = lax.scan(trip, zero, parts)
    return lax.optimization_barrier(total)
