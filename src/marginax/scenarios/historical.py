"""Scenarios from history: filtered, as it was, or aged. Horizons of several bars are overlapping sums of bars."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import FillDraws, Observed, VolatilityFilter, horizon_bars
from marginax_kernels import overlapping_sums


class HistoricalDraws(eqx.Module):
    """Which bars become scenarios: those from `first` on."""

    first: int = eqx.field(static=True)


class HistoricalScenarios(eqx.Module):
    """Past bars as scenarios. The decay of the age weights is a leaf; window, horizon and kind are static."""

    age_half_life_days: Float[Any, ""]
    kind: str = eqx.field(static=True)
    window: int = eqx.field(static=True)
    horizon_days: float = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "HistoricalScenarios":
        """The source that a configuration describes."""
        settings = config.scenarios
        return cls(
            age_half_life_days=np.asarray(settings.age_half_life_days),
            kind=settings.source,
            window=settings.window,
            horizon_days=config.risk.horizon_days,
        )

    def draw(self, history: FactorHistory) -> HistoricalDraws:
        """The bars to take. Raises BadInput for a horizon that the history does not cover."""
        bars, _ = horizon_bars(self.horizon_days, history.grid.bars_per_day)
        count = len(history.times)
        if count < bars:
            what = f"the horizon of {self.horizon_days:g} days needs {bars} returns and the history has {count}"
            remedy = "Give more history, or shorten the horizon"
            raise BadInput([Problem("configuration", "risk.horizon_days", None, what, remedy)])
        return HistoricalDraws(max(0, count - (self.window + bars - 1)))

    def shocks(
        self,
        volatility: VolatilityFilter,
        observed: Observed,
        filling: FillDraws,
        draws: HistoricalDraws,
        wanted: Array | None = None,
    ) -> tuple[Float[Array, "scenarios factors"], Float[Array, " scenarios"]]:
        """Shocks over the horizon, and weights that sum to one; at a `wanted` correlation where one is given."""
        rescale = self.kind == "filtered_historical"
        if rescale:
            past = volatility.rescaled(observed, filling, window_from=draws.first, wanted=wanted)
        else:
            past = volatility.plain(observed, filling)
        bars, scale = horizon_bars(self.horizon_days, observed.factors.bars_per_day)
        shocks = overlapping_sums(past[draws.first :], bars=bars) * scale
        raw = self._age_weights(shocks.shape[0], observed.factors.bars_per_day)
        if observed.factors.live is not None:  # a stretch is known when its first bar is
            raw = raw * observed.factors.live[draws.first : draws.first + len(raw)]
        return shocks, raw / jnp.sum(raw)

    def correlation(
        self, volatility: VolatilityFilter, observed: Observed, filling: FillDraws, draws: HistoricalDraws
    ) -> Float[Array, "correlated correlated"]:
        """The correlation that the scenarios have, factors in the order of `correlated`."""
        return volatility.correlation_now(observed, filling, window_from=draws.first)

    def labels(self, history: FactorHistory) -> list[str]:
        """The bar that each scenario ends at, or its stretch of bars."""
        bars, _ = horizon_bars(self.horizon_days, history.grid.bars_per_day)
        return stretches(history, self.draw(history).first, len(history.times), bars)

    def count_in(self, history: FactorHistory) -> int:
        """How many scenarios a history makes."""
        bars, _ = horizon_bars(self.horizon_days, history.grid.bars_per_day)
        return len(history.times) - self.draw(history).first - bars + 1

    def effective_count(self, history: FactorHistory) -> float:
        """How many scenarios of the heaviest weight make up the history: their number where weights are equal."""
        weights = np.asarray(self._age_weights(self.count_in(history), history.grid.bars_per_day), float)
        return float(weights.sum() / weights.max())

    def _age_weights(self, count: int, bars_per_day: float) -> Float[Array, " scenarios"]:
        """Weights of the history's scenarios, the last one 1: equal, or halved with each half-life of age."""
        if self.kind != "age_weighted":
            return jnp.ones(count)
        return jnp.exp2(-jnp.arange(count - 1, -1, -1) / (self.age_half_life_days * bars_per_day))


def stretches(history: FactorHistory, begin: int, end: int, bars: int) -> list[str]:
    """A label for each run of `bars` bars from `begin` up to `end`: its only bar, or its first and last."""
    unit: Literal["D", "m"] = "D" if history.grid.bars_per_day <= 1 else "m"
    stamps = np.char.replace(np.datetime_as_string(history.times, unit=unit), "T", " ")
    lasts = range(begin + bars - 1, end)
    return [str(stamps[last]) if bars == 1 else f"{stamps[last - bars + 1]} to {stamps[last]}" for last in lasts]
