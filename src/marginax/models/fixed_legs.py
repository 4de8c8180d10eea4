"""What most venues charge: a fixed share of every leg, the same for long and short, and no offset between legs.

The share is a quantile, or the tail mean, of the absolute P&L of one unit over the scenarios; an account's figures are
the sums over its positions, and over its collateral, of size times share.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.models.protocol import Tile
from marginax.models.scenario_model import Charges, ScenarioModel, ScenarioPrepared
from marginax.models.tile_losses import has_collateral
from marginax_kernels import accumulate, expected_shortfall, shortfall_beyond, value_at_risk


class FixedLegs(ScenarioModel):
    """Sums over legs of a quantile (`var`) or tail mean of absolute moves."""

    selects: ClassVar[bool] = True

    def charges(self, prepared: ScenarioPrepared, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """Sums over legs; the losses of the account as a whole play no part."""
        moves, weights = jnp.abs(prepared.cube), prepared.weights
        var = value_at_risk(moves, weights, tail=self.tail)
        shortfall = shortfall_beyond(moves, weights, var, tail=self.tail)
        charge = self._unit_charge(prepared)
        core = _over_positions(charge, tile)
        return Charges(
            core,
            core + _over_assets(charge, tile),
            _over_positions(var, tile) + _over_assets(var, tile),
            _over_positions(shortfall, tile) + _over_assets(shortfall, tile),
            jnp.full_like(core, jnp.nan),
        )

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """Each leg's own charge."""
        charge = self._unit_charge(prepared)
        own = jnp.abs(tile.quantities) * charge[tile.instruments]
        return own, jnp.concatenate([own, jnp.abs(tile.amounts) * charge[tile.assets]], axis=1)

    def _unit_charge(self, prepared: ScenarioPrepared) -> Float[Array, " rows"]:
        return expected_shortfall(jnp.abs(prepared.cube), prepared.weights, tail=self.charge_tail)


def build(config: Config) -> FixedLegs:
    """The model a configuration describes; what the entry point `fixed_legs` names."""
    return FixedLegs.from_config(config, name="fixed_legs")


def _over_positions(unit: Array, tile: Tile) -> Float[Array, " accounts"]:
    return accumulate(unit[:, None], tile.instruments, jnp.abs(tile.quantities))[:, 0]


def _over_assets(unit: Array, tile: Tile) -> Float[Array, " accounts"]:
    if not has_collateral(tile):
        return jnp.zeros_like(tile.equity)
    return accumulate(unit[:, None], tile.assets, jnp.abs(tile.amounts))[:, 0]
