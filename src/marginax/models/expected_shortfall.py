"""The plain model: what is charged is the expected shortfall of the joint loss of positions and collateral.

`var` and `expected_shortfall` are at `risk.tail`; the charge is the expected shortfall at `risk.charge_tail`, the same
unless said otherwise.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.models.book_tails import MAIN, shortfall_alone
from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.protocol import Holders, Margin, Question, Tile, Totals
from marginax.models.scenario_model import Charges, ScenarioModel, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, shares_by
from marginax_kernels import (
    BookTail,
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
    def asks_tails(self) -> bool:
        """Yes; what inherits from this model charges more, and says for itself."""
        return type(self) is ExpectedShortfall

    def questions(self, prepared: ScenarioPrepared) -> Mapping[str, Question]:
        """Its two tails of all scenarios."""
        return {MAIN: Question(prepared.cube, prepared.weights, self.tails, self.scrambles)}

    @property
    def venue_questions(self) -> tuple[str, ...]:
        """The one there is."""
        return (MAIN,)

    @property
    def tails(self) -> tuple[float, ...]:
        """The tail of the figures, and that of the charge where it is another."""
        return tuple(dict.fromkeys((self.tail, self.charge_tail)))

    def margin_by_tails(self, prepared: ScenarioPrepared, holders: Holders) -> tuple[Margin, Totals]:
        """The same requirement and figures from the tails of what accounts hold."""
        held, has = holders.collateral, holders.positions.counts > 0
        with np.errstate(all="ignore"):  # what is beyond float64 becomes infinite, and its holder `numerical`
            costs = np.asarray(prepared.haircuts)[held.columns] * np.maximum(held.amounts, 0)
            haircut = np.bincount(held.owners, costs, minlength=len(has))
            limit = exhausting_loss(holders.equity, np.where(has, haircut, 0))
        charges, told = self.charges_by_tails(holders, limit)
        assert told.venue_loss is not None
        score = stress_score(told.exceedance, holders.equity, has)
        with np.errstate(all="ignore"):
            margin = self.requirement(charges, has, haircut, score, told.worst_scenario)
        return margin, Totals(told.venue_loss[None])

    def charges_by_tails(self, holders: Holders, limit: Float[np.ndarray, " accounts"]) -> tuple[Charges, BookTail]:
        """The charges of positions and of all that is held, and the kernel's answer of the latter beyond `limit`."""
        told = holders.tails(MAIN, holders.both, limit)
        figures, charged = (self.tails.index(tail) for tail in (self.tail, self.charge_tail))
        error = told.std_error[figures]
        if not (self.independent or self.scrambles[0]):
            error = np.full_like(error, np.nan)
        alone = shortfall_alone(holders, MAIN, told)[charged]
        shortfalls = told.expected_shortfall
        return Charges(alone, shortfalls[charged], told.var[figures], shortfalls[figures], error), told

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """The tail mean of each position's own loss: shares of an expected shortfall sum to it."""
        return shares_by(lambda losses: tail_weights(losses, prepared.weights, tail=self.charge_tail), prepared, tile)


def build(config: Config) -> ExpectedShortfall:
    """The model a configuration describes; what the entry point `expected_shortfall` names."""
    return ExpectedShortfall.from_config(config, name="expected_shortfall")
