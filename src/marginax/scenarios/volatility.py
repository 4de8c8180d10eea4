"""Volatility behind one interface: a filter over returns that knows today's variance and its forecast.

Variances are per bar and by factor. A step takes one bar and costs the same however long the history is. A return that
is missing changes nothing: a market that is halted keeps the volatility it had, and the return that ends the gap enters
as one return over its length. What a filter tends to in the long run is given to it, the mean squared return so far.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from marginax.market_sections import AssetClasses, Filter
from marginax_kernels import (
    faded,
    har_push,
    har_ring,
    har_variance,
    initial_variance,
    squared_move,
)

# Returns that seed a filter: about one half-life of the default.
SEED_RETURNS = 30


class VolatilityModel(eqx.Module):
    """A filter. Leaves are numbers, one for all factors or one for each."""

    @abstractmethod
    def begin(self, seed: Float[Array, " factors"], *, bars_per_day: float) -> Any:
        """The state before the first bar, at a variance that is known then."""

    @abstractmethod
    def step(self, state: Any, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float) -> Any:
        """The state one bar on: `returns` over so many `bars`, `long_run` the mean squared return known before."""

    @abstractmethod
    def variance(self, state: Any, long_run: Array, *, bars_per_day: float) -> Float[Array, " factors"]:
        """The variance of the next bar."""

    def forecast(self, state: Any, long_run: Array, *, ahead: int, bars_per_day: float) -> Float[Array, " factors"]:
        """The mean variance of the next `ahead` bars; by itself what the next bar has."""
        return self.variance(state, long_run, bars_per_day=bars_per_day)


class Shared(eqx.Module):
    """Leaves that hold for all factors, whatever their shape."""


class Ewma(VolatilityModel):
    """Exponentially weighted squares; the state is the variance. Source: RiskMetrics (1996), section 5.2."""

    half_life_days: Float[Any, "*factors"]
    bound: Float[Any, "*factors"]

    def begin(self, seed: Array, *, bars_per_day: float) -> Array:
        """The seed."""
        return seed

    def step(self, state: Array, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """Fade and add."""
        square = squared_move(returns, bars, state, bound=self.bound)
        after = faded(state, square, bars, half_life=self.half_life_days * bars_per_day)
        return jnp.where(jnp.isnan(returns), state, after)

    def variance(self, state: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """The state."""
        return state


class TwoSpeed(VolatilityModel):
    """A fast and a slow exponential filter, mixed: v = s fast + (1 - s) slow, which is what the bound counts in."""

    fast_half_life_days: Float[Any, "*factors"]
    slow_half_life_days: Float[Any, "*factors"]
    fast_share: Float[Any, "*factors"]
    bound: Float[Any, "*factors"]

    def begin(self, seed: Array, *, bars_per_day: float) -> Array:
        """Fast and slow, both at the seed."""
        return jnp.stack([seed, seed])

    def step(self, state: Array, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """Both take the same square."""
        square = squared_move(returns, bars, self._mix(state), bound=self.bound)
        fast, slow = (
            faded(each, square, bars, half_life=half_life * bars_per_day)
            for each, half_life in zip(state, (self.fast_half_life_days, self.slow_half_life_days), strict=True)
        )
        return jnp.where(jnp.isnan(returns), state, jnp.stack([fast, slow]))

    def variance(self, state: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """The mix."""
        return self._mix(state)

    def _mix(self, state: Array) -> Array:
        return self.fast_share * state[0] + (1 - self.fast_share) * state[1]


class Garch(VolatilityModel):
    """GARCH(1,1) that tends to the long run: v' = (1 - a - b) long run + a r^2 + b v. The state is the variance.

    Over a gap of n bars the variance relaxes for n - 1 of them and takes one return of size r / sqrt(n). Source:
    Bollerslev (1986); Francq, Horvath and Zakoian (2011) on targeting the variance.
    """

    alpha: Float[Any, "*factors"]
    beta: Float[Any, "*factors"]
    bound: Float[Any, "*factors"]

    def begin(self, seed: Array, *, bars_per_day: float) -> Array:
        """The seed."""
        return seed

    def step(self, state: Array, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """One update, and the way back to the long run for the bars without a price."""
        square = squared_move(returns, bars, state, bound=self.bound)
        persistence = self.alpha + self.beta
        after = (1 - persistence) * long_run + self.alpha * square + self.beta * state
        # Over one bar there is no power to take, and 0^0 has no slope.
        left = jnp.where(bars > 1, persistence ** jnp.where(bars > 1, bars - 1, 1), 1)
        return jnp.where(jnp.isnan(returns), state, long_run + left * (after - long_run))

    def variance(self, state: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """The state."""
        return state

    def forecast(self, state: Array, long_run: Array, *, ahead: int, bars_per_day: float) -> Array:
        """The mean of long run + (a + b)^k (v - long run), k from 0 to `ahead` - 1."""
        persistence = jnp.asarray(self.alpha + self.beta)
        powers = persistence[..., None] ** jnp.arange(1, max(ahead, 2))
        left = (1 + jnp.sum(powers, axis=-1)) / ahead if ahead > 1 else 1.0
        return long_run + left * (state - long_run)


class Har(VolatilityModel):
    """Realised variance of the last day, week and month of bars; the state is a month of squares. Source: Corsi (2009).

    On bars within the day realised variance is the sum of their squares; on daily bars, and on longer ones, a day is a
    single square, and week and month are 5 and 22 of them.
    """

    daily: Float[Any, "*factors"]
    weekly: Float[Any, "*factors"]
    monthly: Float[Any, "*factors"]
    bound: Float[Any, "*factors"]

    def begin(self, seed: Array, *, bars_per_day: float) -> Array:
        """A month at the seed."""
        return har_ring(seed, day=_day(bars_per_day))

    def step(self, state: Array, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """The newest square in, the oldest out."""
        usual = self.variance(state, long_run, bars_per_day=bars_per_day)
        return har_push(state, squared_move(returns, bars, usual, bound=self.bound), ~jnp.isnan(returns))

    def variance(self, state: Array, long_run: Array, *, bars_per_day: float) -> Array:
        """The forecast of the next day."""
        return self._over(state, long_run, 1)

    def forecast(self, state: Array, long_run: Array, *, ahead: int, bars_per_day: float) -> Array:
        """The mean over the days that hold the next `ahead` bars."""
        return self._over(state, long_run, -(-ahead // _day(bars_per_day)))

    def _over(self, state: Array, long_run: Array, days: int) -> Array:
        weights = {"daily": self.daily, "weekly": self.weekly, "monthly": self.monthly}
        return har_variance(state, long_run, **weights, days=days)


class LongRun(NamedTuple):
    """Squared returns per bar that were seen, summed and counted, by factor."""

    squares: Float[Array, " factors"]
    seen: Float[Array, " factors"]

    @property
    def variance(self) -> Float[Array, " factors"]:
        """Their mean; zero for a factor that was never seen."""
        return self.squares / jnp.maximum(self.seen, 1)

    def step(self, returns: Array, bars: Array) -> "LongRun":
        """The same one bar on."""
        known = ~jnp.isnan(returns)
        square = squared_move(returns, bars, jnp.zeros_like(self.squares))
        return LongRun(self.squares + square, self.seen + known)


class FilterState(NamedTuple):
    """What a filter carries from bar to bar."""

    model: Any
    long_run: LongRun


class FilterPath(NamedTuple):
    """What was known before each bar and after the last one, variances per bar: of the next bar, over the horizon,
    and in the long run, which is the mean of `seen` squares; and the state at the end."""

    variance: Float[Array, "bars_and_one factors"]
    ahead: Float[Array, "bars_and_one factors"]
    long_run: Float[Array, "bars_and_one factors"]
    seen: Float[Array, "bars_and_one factors"]
    state: FilterState


def filter_step(
    model: VolatilityModel, state: FilterState, returns: Array, bars: Array, *, bars_per_day: float
) -> FilterState:
    """The filter one bar on, O(1) in the length of the history."""
    after = model.step(state.model, returns, bars, state.long_run.variance, bars_per_day=bars_per_day)
    return FilterState(after, state.long_run.step(returns, bars))


def filter_path(
    model: VolatilityModel,
    returns: Float[Array, "bars factors"],
    bars: Float[Array, "bars factors"],
    *,
    ahead: int,
    bars_per_day: float,
) -> FilterPath:
    """A filter over a whole history, seeded by each factor's first returns. Gradient: exact in the model."""

    def known(state: FilterState) -> tuple[Array, ...]:
        long_run = state.long_run.variance
        now = model.variance(state.model, long_run, bars_per_day=bars_per_day)
        mean = now if ahead == 1 else model.forecast(state.model, long_run, ahead=ahead, bars_per_day=bars_per_day)
        return now, mean, long_run, state.long_run.seen

    def step(state: FilterState, bar: tuple[Array, Array]) -> tuple[FilterState, tuple[Array, ...]]:
        return filter_step(model, state, *bar, bars_per_day=bars_per_day), known(state)

    seed = initial_variance(returns, bars, count=SEED_RETURNS)
    none = jnp.zeros_like(seed)
    begin = FilterState(model.begin(seed, bars_per_day=bars_per_day), LongRun(none, none))
    state, before = lax.scan(step, begin, (returns, bars))
    now, mean, long_run, seen = (jnp.concatenate([a, b[None]]) for a, b in zip(before, known(state), strict=True))
    return FilterPath(now, mean, long_run, seen, state)


def volatility_model(settings: Filter, classes: AssetClasses, *, half_life_days: float) -> VolatilityModel:
    """The filter that a configuration describes; leaves have a row for each asset class where classes differ.

    `half_life_days` is that of the plain exponential filter, which stands under [scenarios]. Raises BadInput for a
    network that cannot be read.
    """

    def leaf(name: str) -> np.ndarray:
        return classes.leaf(name, getattr(settings, name))

    bound = leaf("bound")
    if settings.kind == "two_speed":
        return TwoSpeed(leaf("fast_half_life_days"), leaf("slow_half_life_days"), leaf("fast_share"), bound)
    if settings.kind == "garch":
        return Garch(leaf("alpha"), leaf("beta"), bound)
    if settings.kind == "har":
        return Har(leaf("daily"), leaf("weekly"), leaf("monthly"), bound)
    if settings.network is not None:
        from marginax.scenarios.network_filter import network_filter

        return network_filter(Path(settings.network), bound=bound)
    return Ewma(classes.leaf("half_life_days", half_life_days), bound)


def _day(bars_per_day: float) -> int:
    """Bars of a day; a bar that is longer than a day counts as one."""
    return max(1, round(bars_per_day))
