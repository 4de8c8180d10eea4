"""What collateral is not worth beside its haircut: too much of one asset, and assets that fall when positions lose.

The price moves of collateral are in the joint loss already, and its haircut is the cost of selling an ordinary amount.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.models.protocol import Tile
from marginax.sections import Collateral
from marginax_kernels import accumulate


class CollateralTerms(eqx.Module):
    """By row of the cube, in currency: what one unit is worth, its haircut, and the values from which on it is cut."""

    price: Float[Array, " rows"]
    haircut: Float[Array, " rows"]
    limit: Float[Array, " rows"]
    size: Float[Array, " rows"]


class CollateralCharge(eqx.Module):
    """`concentration` and `wrong_way` are leaves."""

    concentration: Float[Any, ""]
    wrong_way: Float[Any, ""] | None
    settings: Collateral = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Collateral) -> "CollateralCharge":
        """The charge that a configuration describes."""
        wrong_way = np.asarray(settings.wrong_way) if settings.wrong_way else None
        return cls(np.asarray(settings.concentration), wrong_way, settings)

    @property
    def concentrates(self) -> bool:
        """Whether any asset has a limit or a size."""
        return bool(self.settings.limits or self.settings.sizes)

    def concentration_by_asset(self, terms: CollateralTerms, tile: Tile) -> Float[Array, "accounts collateral_width"]:
        """Beyond its limit an asset does not count; beyond its size the haircut rises with every further multiple.

        With V the value held: (V - limit)+ (1 - haircut) + min(1 - haircut, c (V / size - 1)+) min(V, limit). Debts are
        no collateral. Gradient: exact, one-sided at the kinks.
        """
        rows = tile.assets
        value = terms.price[rows] * jnp.maximum(tile.amounts, 0)
        limit, size, left = terms.limit[rows], terms.size[rows], 1 - terms.haircut[rows]
        counted = jnp.minimum(value, limit)
        bounded = jnp.isfinite(size)
        multiple = jnp.where(bounded, jnp.maximum(value / jnp.where(bounded, size, 1) - 1, 0), 0)
        rise = jnp.minimum(left, self.concentration * multiple)
        return (value - counted) * left + rise * counted

    def unhedging(self, units: Float[Array, "rows 2"], tile: Tile) -> Float[Array, " accounts"]:
        """The sum of the expected shortfalls of the assets in whose underlying no position is held."""
        held = jnp.where(tile.runs.asset_alone, jnp.maximum(tile.amounts, 0), 0)
        return accumulate(units[:, :1], tile.assets, held)[:, 0]

    def wrong_way_charge(self, unhedging: Any, traded: Any, joint: Any) -> Any:
        """A share of what collateral that hedges nothing saves by falling at other times than all else.

        With E the amount `unhedging`, and `traded` the expected shortfall of positions and all other assets: the
        benefit is (traded + E - joint)+, at most E. Under the worst dependence between the two there is none. Of NumPy
        arrays or of JAX's, by account. Gradient: exact, one-sided at the kinks.
        """
        array = traded.__array_namespace__()
        benefit = array.clip(traded + unhedging - joint, 0, array.maximum(unhedging, 0))
        return array.asarray(self.wrong_way, dtype=traded.dtype) * benefit
