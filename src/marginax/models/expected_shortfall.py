"""The plain model: what is charged is the expected shortfall of the joint loss of positions and collateral.

`var` and `expected_shortfall` are at `risk.tail`; the charge is the expected shortfall at `risk.charge_tail`, the same
unless said otherwise.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.models.protocol import Tile
from marginax.models.scenario_model import Charges, ScenarioDraws, ScenarioModel, ScenarioPrepared, check_tail
from marginax.models.tile_losses import has_collateral, loss_shares, tile_losses
from marginax_kernels import (
    expected_shortfall,
    expected_shortfall_error,
    expected_shortfall_scramble_error,
    shortfall_beyond,
    tail_weights,
    value_at_risk,
)


class ExpectedShortfall(ScenarioModel):
    """Margin by expected shortfall."""

    def draw(self, seed: int, history: FactorHistory) -> ScenarioDraws:
        """What the scenario source draws; raises BadInput when a tail holds less than one scenario."""
        draws = super().draw(seed, history)
        check_tail(self.tail, "tail", self.source, history)
        check_tail(self.charge_tail, "charge_tail", self.source, history)
        return draws

    def charges(self, prepared: ScenarioPrepared, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """Expected shortfalls, and the error of that at `tail`."""
        weights = prepared.weights
        var = value_at_risk(joint, weights, tail=self.tail)
        shortfall = shortfall_beyond(joint, weights, var, tail=self.tail)
        same = self.charge_tail == self.tail
        charge = shortfall if same else expected_shortfall(joint, weights, tail=self.charge_tail)
        core = expected_shortfall(positions, weights, tail=self.charge_tail) if has_collateral(tile) else charge
        scrambles, drawn = self.scrambles
        if scrambles:
            error = expected_shortfall_scramble_error(joint, weights, tail=self.tail, scrambles=scrambles, draws=drawn)
        elif self.independent:
            error = expected_shortfall_error(joint, weights, tail=self.tail)
        else:
            error = jnp.full_like(var, jnp.nan)
        return Charges(core, charge, var, shortfall, error)

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """The tail mean of each position's own loss: shares of an expected shortfall sum to it."""
        positions, joint = tile_losses(prepared, tile)
        alone = tail_weights(positions, prepared.weights, tail=self.charge_tail)
        together = tail_weights(joint, prepared.weights, tail=self.charge_tail)
        cube = prepared.cube
        own = loss_shares(cube, tile.instruments, tile.quantities, alone)
        within = loss_shares(cube, tile.instruments, tile.quantities, together)
        assets = loss_shares(cube, tile.assets, tile.amounts, together)
        return own, jnp.concatenate([within, assets], axis=1)


def build(config: Config) -> ExpectedShortfall:
    """The model a configuration describes; what the entry point `expected_shortfall` names."""
    return ExpectedShortfall.from_config(config, name="expected_shortfall")
