"""The plain model: what is charged is the expected shortfall of the joint loss of positions and collateral.

`var` and `expected_shortfall` are at `risk.tail`; the charge is the expected shortfall at `risk.charge_tail`, the same
unless said otherwise.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from marginax.book import Entries
from marginax.config import Config
from marginax.models.protocol import Margin, Tails, Tile
from marginax.models.scenario_model import Charges, ScenarioModel, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, shares_by
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

    selects: ClassVar[bool] = True

    def charges(self, prepared: ScenarioPrepared, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """Expected shortfalls, and the error of that at `tail`."""
        return self.shortfalls(prepared.weights, tile, positions, joint)

    def shortfalls(self, weights: Array, tile: Tile, positions: Array, joint: Array) -> Charges:
        """The same of losses (accounts x scenarios) under these weights."""
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

    @property
    def asked_tails(self) -> tuple[float, ...] | None:
        """Its two tails; what inherits from this model charges more, and sees losses."""
        return tuple(dict.fromkeys((self.tail, self.charge_tail))) if type(self) is ExpectedShortfall else None

    def margin_of(self, prepared: ScenarioPrepared, tails: Tails) -> Margin:
        """The same requirement and figures from the tails of what accounts hold."""
        figures, charged = tails.joint[self.tail], tails.joint[self.charge_tail]
        tells = self.independent or self.scrambles[0]
        error = figures.std_error if tells else np.full_like(figures.var, np.nan)
        alone, joint = tails.alone[self.charge_tail], charged.expected_shortfall
        charges = Charges(alone, joint, figures.var, figures.expected_shortfall, error)
        with np.errstate(all="ignore"):  # what is beyond float64 becomes infinite, and its holder `numerical`
            haircut = _haircuts(prepared, tails.collateral)
            return self.requirement(charges, tails.has_positions, haircut, figures.exceedance, figures.worst_scenario)

    def closing_of(self, prepared: ScenarioPrepared, positions: Entries, collateral: Entries) -> np.ndarray:
        """The haircut of who has positions."""
        with np.errstate(all="ignore"):
            return np.where(positions.counts > 0, _haircuts(prepared, collateral), 0.0)

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """The tail mean of each position's own loss: shares of an expected shortfall sum to it."""
        return shares_by(lambda losses: tail_weights(losses, prepared.weights, tail=self.charge_tail), prepared, tile)


def build(config: Config) -> ExpectedShortfall:
    """The model a configuration describes; what the entry point `expected_shortfall` names."""
    return ExpectedShortfall.from_config(config, name="expected_shortfall")


def _haircuts(prepared: ScenarioPrepared, held: Entries) -> np.ndarray:
    """What turning all collateral into money costs, debts aside; by account."""
    costs = np.asarray(prepared.haircuts)[held.columns] * np.maximum(held.amounts, 0)
    return np.bincount(held.owners, costs, minlength=len(held.counts))
