"""A scenario set made elsewhere, as a source: by a user, by another system, or by a test."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.history import FactorHistory
from marginax.scenarios.filtering import FactorArrays, Observed
from marginax.scenarios.sets import ScenarioSet


class GivenDraws(eqx.Module):
    """The set's shocks by the factors of a history."""

    shocks: Float[Any, "scenarios factors"]
    weights: Float[Any, " scenarios"]


class OnHost:
    """What a traced model carries along without looking at it: equal to any other, so that nothing compiles anew."""

    def __init__(self, value: ScenarioSet) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnHost)

    def __hash__(self) -> int:
        return hash(OnHost)


class GivenScenarios(eqx.Module):
    """Scenarios as they are: nothing is filtered, filled or summed."""

    held: OnHost = eqx.field(static=True)
    independent: bool = eqx.field(static=True)
    scrambles: int = eqx.field(static=True)
    drawn: int = eqx.field(static=True)

    def __init__(self, scenarios: ScenarioSet) -> None:
        self.held = OnHost(scenarios)
        self.independent = scenarios.independent
        self.scrambles, self.drawn = scenarios.scrambles, scenarios.drawn

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return "given"

    @property
    def scenarios(self) -> ScenarioSet:
        """The set; only on the host."""
        return self.held.value

    def draw(self, seed: int, history: FactorHistory) -> GivenDraws:
        """The shocks in the order of the history's factors; a basis the set does not name stays still.

        Where it names no path to a settlement there is none: all of a move comes before it.
        Raises ValueError when the price of an underlying has no shock.
        """
        place = {name: k for k, name in enumerate(self.scenarios.factors)}
        lacking = [name for name in history.names[: history.underlyings] if name not in place]
        if lacking:
            raise ValueError(f"the scenarios shock no {', '.join(lacking)}; add a column for each underlying")
        shocks = np.tile(np.where(history.is_settlement, np.nan, 0.0), (len(self.scenarios), 1))
        for k, name in enumerate(history.names):
            if name in place:
                shocks[:, k] = self.scenarios.shocks[:, place[name]]
        return GivenDraws(shocks, self.scenarios.weights)

    def step(self, variance: Array, bar: tuple[Array, Array], bars_per_day: float) -> Array:
        """Nothing is carried forward."""
        return variance

    def observe(self, factors: FactorArrays) -> Observed:
        """Nothing is filtered: every volatility is zero."""
        still = jnp.zeros(jnp.shape(factors.own))
        return Observed(factors, jnp.zeros(jnp.shape(factors.returns)), still, still)

    def shocks(self, observed: Observed, draws: GivenDraws) -> tuple[Array, Array]:
        """The set's own shocks and weights."""
        return jnp.asarray(draws.shocks), jnp.asarray(draws.weights)

    def behind(self, draws: GivenDraws, bars_per_day: float) -> int:
        """None stands behind the others."""
        return 0

    def capped(self, observed: Observed) -> Int[Array, " factors"]:
        """Nothing is capped."""
        return jnp.zeros(jnp.shape(observed.factors.own), int)

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """The set's own labels."""
        return self.scenarios.labels

    def diagnostics(self, history: FactorHistory, draws: GivenDraws, shocks: np.ndarray) -> Mapping[str, Any]:
        """Nothing is known of how the set was made."""
        return {}
