"""The scenarios of a configuration: past bars or draws, then stress windows, events and a grid, over one filter."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import (
    FactorArrays,
    FillDraws,
    Observed,
    VolatilityFilter,
    factor_arrays,
    horizon_bars,
)
from marginax.scenarios.historical import HistoricalDraws, HistoricalScenarios
from marginax.scenarios.monte_carlo import MonteCarloDraws, MonteCarloScenarios
from marginax.scenarios.pegs import PegDraws, PegJumps
from marginax.scenarios.sets import ScenarioSet
from marginax.scenarios.stress import Stress, StressDraws


class SourceDraws(eqx.Module):
    """What the host settles once: what fills gaps, what becomes scenarios, the moves of stress, and a correlation that
    scenarios are to have (None: the one that is estimated)."""

    filling: FillDraws
    main: HistoricalDraws | MonteCarloDraws
    stress: StressDraws
    pegs: PegDraws
    correlation: Float[Any, "correlated correlated"] | None = None


class ScenarioSource(eqx.Module):
    """A filter, a main source that carries what mass stress and lost pegs leave, stress, and pegs."""

    volatility: VolatilityFilter
    main: HistoricalScenarios | MonteCarloScenarios
    stress: Stress
    pegs: PegJumps

    @classmethod
    def from_config(cls, config: Config) -> "ScenarioSource":
        """The source that a configuration describes."""
        kind = MonteCarloScenarios if config.scenarios.source == "monte_carlo" else HistoricalScenarios
        return cls(
            VolatilityFilter.from_config(config),
            kind.from_config(config),
            Stress.from_config(config),
            PegJumps.from_config(config),
        )

    @property
    def independent(self) -> bool:
        """False: neither history nor the points of one scramble are independent draws."""
        return False

    @property
    def scrambles(self) -> int:
        """Independent scrambles among the first `drawn` scenarios; 0 for history."""
        return self.main.scrambles if isinstance(self.main, MonteCarloScenarios) else 0

    @property
    def drawn(self) -> int:
        """Scenarios that are drawn; 0 for history."""
        return self.main.count if isinstance(self.main, MonteCarloScenarios) else 0

    @property
    def name(self) -> str:
        """The configuration's word for the main source."""
        return "monte_carlo" if isinstance(self.main, MonteCarloScenarios) else self.main.kind

    def lookback(self, bars_per_day: float) -> int:
        """The window of a replay. Raises BadInput for stress, whose windows a replay cannot place yet."""
        if self.stress.windows or self.stress.events or self.stress.grid.prices:
            what = "stress windows, events and grids would be known in a replay before they happened"
            raise BadInput([Problem("configuration", "scenarios.stress", None, what, "Leave them out of the model")])
        return self.window(bars_per_day)

    def window(self, bars_per_day: float) -> int:
        """Returns that scenarios are made of."""
        if isinstance(self.main, MonteCarloScenarios):
            return self.main.config.scenarios.window
        bars, _ = horizon_bars(self.main.horizon_days, bars_per_day)
        return self.main.window + bars - 1

    def draw(self, seed: int, history: FactorHistory) -> SourceDraws:
        """Everything random, the same for the same seed and history; raises BadInput for a history it cannot use."""
        filling = self.volatility.draw(seed, history)
        if isinstance(self.main, MonteCarloScenarios):
            main: HistoricalDraws | MonteCarloDraws = self.main.draw(seed, history, self.volatility, filling)
        else:
            main = self.main.draw(history)
        pegs = self.pegs.draw(history)
        mass = self.stress.mass + self.pegs.mass(pegs, history)
        if mass >= 1:
            what = f"lost pegs and stress have a mass of {mass:.2f} together and leave nothing to the other scenarios"
            raise BadInput([Problem("configuration", "pegs", None, what, "Lower the rates, or shorten the horizon")])
        return SourceDraws(filling, main, self.stress.draw(history), pegs)

    def observe(self, factors: FactorArrays) -> Observed:
        """Run the filter over a whole history."""
        return self.volatility.observe(factors)

    def shocks(
        self, observed: Observed, draws: SourceDraws
    ) -> tuple[Float[Array, "scenarios factors"], Float[Array, " scenarios"]]:
        """Shocks over the horizon and their weights: the main source's scenarios, then stress, then lost pegs."""
        source: Any = self.main
        main, weights = source.shocks(self.volatility, observed, draws.filling, draws.main, draws.correlation)
        blocks, masses = self.stress.shocks(self.volatility, observed, draws.filling, draws.stress)
        if draws.pegs.factors:
            jumps, lost = self.pegs.shocks(observed.factors, draws.pegs)
            blocks, masses = [*blocks, jumps], [*masses, lost]
            weights = weights * (1 - jnp.sum(lost) / (1 - self.stress.mass))
        return jnp.concatenate([main, *blocks]), jnp.concatenate([(1 - self.stress.mass) * weights, *masses])

    def behind(self, draws: SourceDraws, bars_per_day: float) -> int:
        """Scenarios that stand behind the main ones: stress and lost pegs."""
        bars, _ = horizon_bars(self.stress.horizon_days, bars_per_day)
        windows = sum(end - begin - bars + 1 for begin, end in draws.stress.windows)
        return windows + len(draws.stress.moves) + len(draws.pegs.factors)

    def correlation(self, observed: Observed, draws: SourceDraws) -> Float[Array, "correlated correlated"]:
        """The correlation of the main scenarios, factors in the order of `correlated`."""
        return self.main.correlation(self.volatility, observed, draws.filling, draws.main)  # type: ignore[arg-type]

    def scenario_set(self, history: FactorHistory, *, seed: int) -> ScenarioSet:
        """The scenarios of this source on a history, as a set to look at or to join with others."""
        with jax.enable_x64(True):
            shocks, weights = _shocks(self, factor_arrays(history), self.draw(seed, history))
            return ScenarioSet(
                factors=history.names,
                shocks=np.asarray(shocks),
                weights=np.asarray(weights),
                labels=self.labels(history),
                scrambles=self.scrambles,
                drawn=self.drawn,
            )

    def capped(self, observed: Observed) -> Int[Array, " factors"]:
        """How many past returns of each factor were cut at the residual cap; none unless returns are rescaled."""
        if self.name in ("historical", "age_weighted"):
            return jnp.zeros(len(observed.factors.own), int)
        return self.volatility.capped(observed)

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """A label for every scenario."""
        names = [history.names[k] for k in self.pegs.draw(history).factors]
        behind = (*self.stress.labels(history), *(f"{name} loses its peg" for name in names))
        if isinstance(self.main, MonteCarloScenarios):
            return (*self.main.labels(), *behind)
        return (*self.main.labels(history), *behind)

    def effective_count(self, history: FactorHistory) -> float:
        """How many scenarios of equal weight the main source is worth."""
        return self.main.effective_count(history)

    def diagnostics(self, history: FactorHistory, draws: SourceDraws, shocks: np.ndarray) -> Mapping[str, Any]:
        """What the draws rest on; nothing for history."""
        if isinstance(self.main, MonteCarloScenarios):
            assert isinstance(draws.main, MonteCarloDraws)
            return self.main.diagnostics(history, draws.main, shocks)
        return {}


@jax.jit
def _shocks(source: ScenarioSource, factors: FactorArrays, draws: SourceDraws) -> tuple[Array, Array]:
    return source.shocks(source.observe(factors), draws)
