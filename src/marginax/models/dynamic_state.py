"""What the dynamic margin knows of the market: the filters, the stressed stretch, the multipliers of its tools.

All of it is market-level and the same for every account; at one bar it knows nothing of the bars that come later.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marginax.known import KnownHistory
from marginax.models.addons.procyclicality import ProcyclicalityTools
from marginax.scenarios.filtering import FactorArrays, Observed, VolatilityFilter, factor_arrays
from marginax.scenarios.past import Past, past_of
from marginax.scenarios.stress_period import Stretch, stretch_at, stretch_starts
from marginax.scenarios.volatility import FilterPath
from marginax_kernels import volatility


class DynamicState(eqx.Module):
    """What the filters observed; the stretch and the multipliers by underlying, None where they are off."""

    observed: Observed
    stretch: Stretch | None
    multiplier: Float[Array, " underlyings"] | None


class Follower(eqx.Module):
    """The parts of a model that follow the market; `stretch_bars` is 0 where no stress is looked for."""

    volatility: VolatilityFilter
    tools: ProcyclicalityTools | None
    stretch_bars: int = eqx.field(static=True)

    def rows(self, bars: int) -> int:
        """Rows of the stretch in a history of so many bars."""
        return min(self.stretch_bars, bars)

    def observe(self, factors: FactorArrays) -> DynamicState:
        """The state after a whole history."""
        observed = self.volatility.observe(factors)
        path = self.volatility.path(factors)
        path = path._replace(ahead=path.ahead.at[-1].set(observed.today))
        multiplier = None if self.tools is None else self.multipliers(path, factors)[-1]
        stretch, bars = None, len(factors.returns)
        if self.stretch_bars:
            rows = self.rows(bars)
            start = stretch_starts(factors, path.long_run[1:], rows=rows)[-1]
            stretch = stretch_at(factors, start, jnp.asarray(bars), factors.own, rows=rows)
        return DynamicState(observed, stretch, multiplier)

    def multipliers(self, path: FilterPath, factors: FactorArrays) -> Float[Array, "bars_and_one underlyings"]:
        """The multiplier of each underlying at each bar."""
        assert self.tools is not None
        prices = slice(0, factors.underlyings)
        level = self.volatility.today(path.ahead, volatility(path.long_run), factors)[:, prices]
        squares, seen = (path.long_run * path.seen)[:, prices], path.seen[:, prices]
        least = self.tools.least(squares, seen, bars_per_year=factors.bars_per_year)
        return self.tools.path(level, least, bars_per_day=factors.bars_per_day)[0]


class DynamicPast(eqx.Module):
    """The past of the filters, and by bar of the grid where the stretch begins and what the multipliers are."""

    past: Past
    starts: Int[Array, " bars_and_one"] | None
    multiplier: Float[Array, "bars_and_one underlyings"] | None
    rows: int = eqx.field(static=True)

    def before(self, bar: Any, first: Any) -> DynamicState:
        """The state at the close of a bar of a history that begins at `first`.

        The stretch may be older than that: what a portfolio holds and was not listed yet takes its proxy's moves.
        """
        stretch = None
        if self.starts is not None:
            own, before = self.past.own[bar], self.past.lookback
            stretch = stretch_at(self.past.factors, self.starts[bar], bar, own, rows=self.rows, before=before)
        multiplier = None if self.multiplier is None else self.multiplier[bar]
        return DynamicState(self.past.before(bar, first), stretch, multiplier)


def dynamic_past(follower: Follower, known: KnownHistory, *, lookback: int) -> DynamicPast:
    """The past over a history, for windows of `lookback` bars."""
    past = past_of(follower.volatility, known, lookback=lookback)
    starts, multiplier = _followed(follower, factor_arrays(known.history))
    return DynamicPast(past, starts, multiplier, follower.rows(len(known.history.times)))


@jax.jit
def _followed(follower: Follower, factors: FactorArrays) -> tuple[Array | None, Array | None]:
    path = follower.volatility.path(factors)
    multiplier = None if follower.tools is None else follower.multipliers(path, factors)
    if not follower.stretch_bars:
        return None, multiplier
    return stretch_starts(factors, path.long_run[1:], rows=follower.rows(len(factors.returns))), multiplier
