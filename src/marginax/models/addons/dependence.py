"""Dependence: what an account would owe if its underlyings stopped offsetting one another.

ES_u is the expected shortfall of what an account holds in underlying u alone, collateral in u included. Their sum is
the expected shortfall under comonotone dependence, the greatest there is for these holdings; the expected shortfall
under independence is that of scenarios in which every underlying is drawn on its own.
Source: McNeil, Frey and Embrechts (2015), section 8.4, for the two bounds; OCC and Variational charge a share of them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.charge_sections import Dependence
from marginax.history import FactorHistory
from marginax.models.protocol import Tile
from marginax.models.tile_losses import has_collateral
from marginax.scenarios.proxies import resampled_rows, resampling_orders
from marginax_kernels import accumulate, group_shortfalls


def standalone(
    units: Float[Array, "rows 2"], scales: Float[Array, "rows sums"], tile: Tile, groups: Float[Array, " runs"]
) -> Float[Array, "accounts sums"]:
    """Sums of ES_u by account, times each of the columns of `scales`, which are of the underlying of a row.

    `units` are `unit_shortfalls` of the cube, `groups` the `run_shortfalls` of the tile, both at one tail. An entry
    that is alone in its underlying costs nothing but a multiplication. Gradient: exact.
    """
    by_sign = [units[:, k, None] * scales for k in range(2)]
    sums, entries = jnp.zeros((len(tile.equity), scales.shape[1]), units.dtype), []
    if tile.dense is None:
        entries.append((tile.instruments, tile.quantities, tile.runs.alone))
    else:
        for sign, shortfalls in zip((1, -1), by_sign, strict=True):
            held = jnp.maximum(sign * tile.dense.alone, 0)
            sums = sums + jnp.matmul(held, shortfalls, precision=lax.Precision.HIGHEST)
    if has_collateral(tile):
        entries.append((tile.assets, tile.amounts, tile.runs.asset_alone))
    for rows, amounts, alone in entries:
        held = jnp.where(alone, amounts, 0)
        sums = sums + accumulate(by_sign[0], rows, jnp.maximum(held, 0))
        sums = sums + accumulate(by_sign[1], rows, jnp.maximum(-held, 0))
    if len(tile.runs.start):
        sums = sums + _over_groups(scales, tile, groups)
    return sums


def run_shortfalls(
    cube: Float[Array, "rows scenarios"], weights: Float[Array, " scenarios"], tile: Tile, *, tail: float
) -> Float[Array, " runs"]:
    """ES_u of the groups of a tile, which are summed themselves. Gradient: exact."""
    runs, zero_row = tile.runs, len(cube) - 1
    owner = runs.owner
    if not len(runs.start):
        return jnp.zeros(0, cube.dtype)
    extra, amount = jnp.full(owner.shape, zero_row), jnp.zeros(owner.shape, cube.dtype)
    if has_collateral(tile):
        column = jnp.maximum(runs.asset, 0)
        extra = jnp.where(runs.asset >= 0, jnp.asarray(tile.assets)[owner, column], zero_row)
        amount = jnp.where(runs.asset >= 0, jnp.asarray(tile.amounts)[owner, column], 0)
    return group_shortfalls(
        cube,
        weights,
        tile.instruments,
        tile.quantities,
        start=runs.start,
        length=runs.length,
        owner=owner,
        extra=extra,
        amount=amount,
        tail=tail,
    )


def _over_groups(scales: Array, tile: Tile, groups: Array) -> Float[Array, "accounts sums"]:
    """The same over the groups of each account."""
    runs, owner = tile.runs, tile.runs.owner
    scaled = groups[:, None] * scales[jnp.asarray(tile.instruments)[owner, runs.start]]
    if tile.dense is not None:
        return jax.ops.segment_sum(scaled, owner, len(tile.equity))
    table = jnp.concatenate([scaled, jnp.zeros((1, scaled.shape[1]), scaled.dtype)])
    most = max(2, 1 << (len(owner) // len(tile.equity) - 1).bit_length())
    place = jnp.arange(most)
    mine = jnp.where(place < runs.count[:, None], runs.first[:, None] + place, len(groups))
    return accumulate(table, mine, jnp.ones(mine.shape, scaled.dtype))


class DependenceCharge(eqx.Module):
    """The share of the benefit of diversification that is denied; a leaf."""

    share: Float[Any, ""]
    against: str = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Dependence) -> "DependenceCharge | None":
        """The charge that a configuration describes; None where it is off."""
        return cls(np.asarray(settings.share), settings.against) if settings.share else None

    def charge(self, bound: Any, shortfall: Any) -> Any:
        """share x (bound - ES)+, so that ES + charge = (1 - share) ES + share x bound where the bound is greater.

        Of NumPy arrays or of JAX's, by account.
        """
        array = shortfall.__array_namespace__()
        return array.asarray(self.share, dtype=shortfall.dtype) * array.maximum(bound - shortfall, 0)


def independent_orders(seed: int, history: FactorHistory, count: int) -> Int[np.ndarray, "scenarios underlyings"]:
    """An order of the first `count` scenarios for each underlying, by the seed and its name alone."""
    names = history.names[: history.underlyings]
    return resampling_orders([f"independent:{name}" for name in names], count, seed=seed)


def independent_cube(
    cube: Float[Array, "rows scenarios"],
    groups: Int[Array, " rows"],
    orders: Int[Array, "historical underlyings"],
    live: Bool[Array, " historical"],
) -> Float[Array, "rows scenarios"]:
    """The cube with the scenarios of each underlying in an order of its own: the same laws, nothing moves together.

    Those that are put in order come first and have equal weights where they are `live`, none elsewhere; the others stay
    where they are. `groups` is the underlying of each row but the last, the row of zeros.
    """
    count = len(orders)
    order = resampled_rows(jnp.broadcast_to(live[:, None], orders.shape), orders)
    mixed = jnp.take_along_axis(cube[:-1, :count], order.T[groups], axis=1)
    mixed = jnp.concatenate([mixed, jnp.zeros((1, count), cube.dtype)])
    return jnp.concatenate([mixed, cube[:, count:]], axis=1)
