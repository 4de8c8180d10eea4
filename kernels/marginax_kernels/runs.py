"""Sums over runs: neighbours of one group in the rows of a tile, summed in position order.

A row's bits depend on its own entries alone, because every step is elementwise over the rows; as in `aggregate`, sums
start from a zero that the compiler cannot see and take at least two trips.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax_kernels.aggregate import ROWS_A_TRIP


def run_totals(
    amounts: Float[Array, "accounts width"], groups: Int[Array, "accounts width"]
) -> Float[Array, "accounts width"]:
    """The sum of each run of equal `groups`, at the run's last entry; zero elsewhere.

    Gradient: exact. Cost: one addition an entry.
    """
    last = _last(groups)

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        amount, ends = part
        total = total + amount
        return jnp.where(ends, 0, total), jnp.where(ends, total, 0)

    return _along(add, (amounts, last))


def run_rates(
    rates: Float[Array, "accounts width"], groups: Int[Array, "accounts width"]
) -> Float[Array, "accounts width"]:
    """What stands at the last entry of each run, at all of its entries. Gradient: exact."""
    last = _last(groups)

    def carry(rate: Array, part: tuple[Array, Array]) -> tuple[Array, Array]:
        own, ends = part
        rate = jnp.where(ends, own, rate)
        return rate, rate

    return _along(carry, (rates[:, ::-1], last[:, ::-1]))[:, ::-1]


def row_sums(amounts: Float[Array, "accounts width"]) -> Float[Array, " accounts"]:
    """The sum of each row, in position order. Gradient: exact."""
    groups = jnp.zeros(amounts.shape, jnp.int32)
    return run_totals(amounts, groups)[:, -1]


def _last(groups: Int[Array, "accounts width"]) -> Bool[Array, "accounts width"]:
    """Which entries end a run."""
    ends = groups[:, 1:] != groups[:, :-1]
    return jnp.concatenate([ends, jnp.ones((len(groups), 1), bool)], axis=1)


def _along(step: Callable[..., tuple[Array, Array]], parts: tuple[Array, ...]) -> Float[Array, "accounts width"]:
    """What `step` says of each column, carried along the rows a few columns a trip."""
    accounts, width = parts[0].shape
    if width < 2 or width & (width - 1):
        raise ValueError(f"a tile of width {width} cannot be summed; pad it to a power of two, at least 2")
    columns = min(ROWS_A_TRIP, width // 2)

    def trip(carry: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
        said = []
        for k in range(columns):
            carry, told = step(carry, tuple(each[k] for each in part))
            said.append(told)
        return carry, jnp.stack(said)

    zero = lax.optimization_barrier(jnp.zeros(accounts, parts[0].dtype))
    cut = tuple(each.T.reshape(width // columns, columns, accounts) for each in parts)
    return lax.optimization_barrier(lax.scan(trip, zero, cut)[1].reshape(width, accounts).T)
