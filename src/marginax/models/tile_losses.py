"""What models that look at losses have in common: losses of a tile, shares of positions, and what is left uncovered."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from marginax.models.protocol import Orders, Parts, Prepared, Tile, Totals
from marginax.venue_sections import Venue
from marginax_kernels import accumulate, dense_pnl

BLOCK = 64


def has_collateral(tile: Tile) -> bool:
    """Whether any account of the tile may hold collateral that moves; known before tracing."""
    return tile.assets.shape[1] > 0


def order_losses(prepared: Prepared, orders: Orders) -> Float[Array, "accounts scenarios"]:
    """The greatest loss that any set of fills of open orders adds in each scenario, each order in full or in part.

    Every order is filled where it loses and nowhere else. The shortfall of the sum is at least that of any set of
    fills, and no more where one set is the worst in all of the tail.
    """

    def add(total: Array, order: tuple[Array, Array]) -> tuple[Array, None]:
        row, quantity = order
        return total + jnp.maximum(-quantity[:, None] * prepared.cube[row], 0), None

    zero = lax.optimization_barrier(jnp.zeros((len(orders.cost), prepared.cube.shape[1]), prepared.cube.dtype))
    total, _ = lax.scan(add, zero, (jnp.asarray(orders.instruments).T, jnp.asarray(orders.quantities).T))
    return lax.optimization_barrier(total)


def owes(tile: Tile) -> Bool[Array, " accounts"]:
    """An account without positions owes nothing."""
    return jnp.any(tile.quantities != 0, axis=1)


def tile_losses(prepared: Prepared, tile: Tile) -> tuple[Array, Array]:
    """Loss of the positions alone, and of positions and collateral together: accounts x scenarios."""
    if tile.dense is None:
        positions = -accumulate(prepared.cube, tile.instruments, tile.quantities)
    else:
        positions = -dense_pnl(prepared.cube, tile.dense.positions)
    if not has_collateral(tile):
        return positions, positions
    joint = positions - accumulate(prepared.cube, tile.assets, tile.amounts)
    return positions, lax.optimization_barrier(joint)


def held_amounts(rates: Float[Array, " rows"], tile: Tile) -> Float[Array, " accounts"]:
    """Rate by row of the cube times what is held of each asset, debts aside; summed in position order."""
    if not has_collateral(tile):
        return jnp.zeros_like(tile.equity)
    return accumulate(rates[:, None], tile.assets, jnp.maximum(tile.amounts, 0))[:, 0]


def loss_shares(cube: Array, rows: Array, amounts: Array, weights: Array) -> Float[Array, "accounts width"]:
    """The loss of each entry, weighted over the scenarios by account."""

    def one(entry: tuple[Array, Array]) -> Array:
        row, amount = entry
        return -amount * jnp.sum(cube[row] * weights, axis=1)

    return lax.map(one, (rows.T, amounts.T)).T


def shares_by(
    weigh: Callable[[Array], Float[Array, "accounts scenarios"]], prepared: Prepared, tile: Tile
) -> tuple[Array, Array]:
    """Shares of a charge that weights of scenarios sum losses to: of the positions' charge by position, and of the
    joint charge by position and then by asset. `weigh` gives each account's weights for its losses."""
    positions, joint = tile_losses(prepared, tile)
    alone, together, cube = weigh(positions), weigh(joint), prepared.cube
    within = loss_shares(cube, tile.instruments, tile.quantities, together)
    assets = loss_shares(cube, tile.assets, tile.amounts, together)
    own = loss_shares(cube, tile.instruments, tile.quantities, alone)
    return own, jnp.concatenate([within, assets], axis=1)


def uncovered(joint: Array, equity: Array) -> Float[Array, "blocks scenarios"]:
    """Loss beyond equity, summed over each block of rows; a row that is not finite counts nothing."""
    beyond = jnp.maximum(joint - equity[:, None], 0)
    beyond = jnp.where(jnp.isfinite(beyond), beyond, 0)
    whole = jnp.pad(beyond, ((0, -len(beyond) % BLOCK), (0, 0)))
    return jnp.sum(whole.reshape(-1, BLOCK, joint.shape[1]), axis=1)


def venue_totals(joint: Array, tile: Tile, closing: Array, parts: Parts, settings: Venue) -> Totals:
    """Loss beyond equity, and beyond margins where the settings have it summed; `closing` is what closing costs."""
    beyond_equity = uncovered(joint, tile.equity - closing)
    if not settings.sums_margins:
        return Totals(beyond_equity)
    # Behind a barrier: what the sum of parts is used for must not change how they are computed.
    own = lax.optimization_barrier(parts.values)
    return Totals(beyond_equity, uncovered(joint, margin_limit(sum(own), closing, owes(tile), tile.equity)))


def margin_limit(initial: Any, closing: Any, has_positions: Any, equity: Any) -> Any:
    """The loss beyond which an account has no more than its margin: what it must keep, less the cost of closing.

    It must keep its initial margin, or its equity where that is less or where it holds no position; what it has beyond
    that it may withdraw. Arrays of NumPy or JAX.
    """
    array = equity.__array_namespace__()
    return array.where(has_positions, array.minimum(equity, array.maximum(initial, 0)) - closing, equity)
