"""The regime: one bounded multiplier for each underlying, from where signals stand among their own past.

    rank       share of the values of the last `window_days` that are below today's, those equal to it counted half
    pressure   2 rank - 1 where high values are dangerous, 1 - 2 rank where low ones are, |4 rank - 2| - 1
               where both are; from there to 1 while the value ages from `stale_after_days` to
               `worst_age_days`; 1 where it is not known
    wanted     1 + P (most - 1) where P > 0, 1 + P (1 - least) elsewhere, P the weighted mean of pressures
    multiplier wanted, within the last one x (1 - fall_limit)^days and x (1 + rise_limit)^days

A signal of an underlying's own takes the place of that of the whole market from its first value on, and is not known
until it has values enough to be ranked. All of it is market-level state, one step a bar; an account's multiplier is the
mean of its underlyings', by their expected shortfalls. What is not known counts as the worst, never as calm: no margin
falls for a signal that is late, or that has lost values after its first. An underlying without any of its own goes by
the market's.
Ranks know the past alone, need no law of the signal and are blind to its unit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.regime_section import Regime
from marginax.signals import SignalBar, SignalHistory
from marginax_kernels import limited

# Pressures of a rank r in (0, 1): a (2 r - 1) + b (|4 r - 2| - 1).
SLOPES = {"high": (1.0, 0.0), "low": (-1.0, 0.0), "both": (0.0, 1.0)}
# In `SignalPlaces.own`: no series, and one that began after the state did, so that there is no window to rank it in.
NONE, BEGUN_LATER = -1, -2


class SignalPlaces(eqx.Module):
    """Which series stands for which signal and underlying: `own` may be `NONE` or `BEGUN_LATER`, `market` is the
    series of the whole market; `speaks` says where a signal has a word at all; `slopes` are `SLOPES` by series."""

    own: Int[Any, "signals underlyings"]
    market: Int[Any, " signals"]
    speaks: Bool[Any, "signals underlyings"]
    slopes: Float[Any, "series 2"]

    @classmethod
    def of(cls, signals: SignalHistory, settings: Regime, underlyings: Sequence[str]) -> "SignalPlaces":
        """The places of the series of a history."""
        place = {series: k for k, series in enumerate(signals.series)}
        names = settings.names
        listed = [settings.signals[name].underlyings or underlyings for name in names]
        return cls(
            own=np.array([[place.get((name, of), NONE) for of in underlyings] for name in names]),
            market=np.array([place[name, None] for name in names]),
            speaks=np.array([[of in each for of in underlyings] for each in listed]),
            slopes=np.array([SLOPES[settings.signals[name].direction] for name, _ in signals.series]),
        )

    def stepped(self, begun: Bool[Any, "signals underlyings"] | None) -> "SignalPlaces":
        """The places after a bar that brought first values of series that are none of these."""
        if begun is None:
            return self
        own = jnp.where((jnp.asarray(self.own) == NONE) & jnp.asarray(begun), BEGUN_LATER, jnp.asarray(self.own))
        return SignalPlaces(own, self.market, self.speaks, self.slopes)

    def standing(self, age: Float[Array, " series"]) -> Int[Array, "signals underlyings"]:
        """The series that stands for each signal and underlying: its own from the first value on, or the market's."""
        own = jnp.asarray(self.own)
        return jnp.where((own >= 0) & ~jnp.isnan(jnp.asarray(age)[own]), own, jnp.asarray(self.market)[:, None])


class SignalArrays(eqx.Module):
    """A `SignalHistory` for tracing: rows, the bar of the margin where it is one, and places."""

    rows: SignalBar
    now: SignalBar | None
    places: SignalPlaces

    @classmethod
    def of(cls, signals: SignalHistory, settings: Regime, underlyings: Sequence[str]) -> "SignalArrays":
        """The numbers of a history."""
        return cls(signals.rows, signals.now, SignalPlaces.of(signals, settings, underlyings))


class RegimeLevels(NamedTuple):
    """What is remembered: values of the window (NaN: nothing new at that bar), the pressure of each series' newest
    value (NaN: not known) and its age in days (NaN: there was none yet), and the last multipliers (0: none yet)."""

    window: Float[Array, "rows series"]
    pressure: Float[Array, " series"]
    age: Float[Array, " series"]
    multiplier: Float[Array, " underlyings"]

    def unknown(self, places: SignalPlaces) -> Bool[Array, "signals underlyings"]:
        """Whether a signal that has a word on an underlying is not known."""
        unranked = jnp.isnan(jnp.asarray(self.pressure)[places.standing(self.age)])
        return (unranked | (jnp.asarray(places.own) == BEGUN_LATER)) & jnp.asarray(places.speaks)


class RegimeCarried(eqx.Module):
    """Levels that are carried forward, and the places of their series."""

    levels: RegimeLevels
    places: SignalPlaces


class RegimeMultiplier(eqx.Module):
    """Weights, bounds and speed limits are leaves; windows, ages and directions are static."""

    weights: Float[Any, " signals"]
    most: Float[Any, ""]
    least: Float[Any, ""]
    rise_limit: Float[Any, ""]
    fall_limit: Float[Any, ""]
    settings: Regime = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Regime) -> "RegimeMultiplier | None":
        """The multiplier that a configuration describes; None where it is off."""
        if not settings.on:
            return None
        return cls(
            weights=np.array([settings.signals[name].weight for name in settings.names]),
            most=np.asarray(settings.most),
            least=np.asarray(settings.least),
            rise_limit=np.asarray(settings.rise_limit),
            fall_limit=np.asarray(settings.fall_limit),
            settings=settings,
        )

    def begin(self, places: SignalPlaces, *, bars_per_day: float) -> RegimeLevels:
        """Nothing known, and no multiplier that a limit could start from."""
        rows, count = max(2, round(self.settings.window_days * bars_per_day)), len(places.slopes)
        unknown = jnp.full(count, jnp.nan)
        return RegimeLevels(jnp.full((rows, count), jnp.nan), unknown, unknown, jnp.zeros(places.own.shape[1]))

    def step(self, levels: RegimeLevels, bar: SignalBar, places: SignalPlaces) -> RegimeLevels:
        """The levels one bar on; the cost is that of the window.

        Gradient: exact in all leaves, one-sided where the weighted pressure is zero or a limit binds.
        """
        values = jnp.asarray(bar.values)
        new = ~jnp.isnan(values)
        window = jnp.concatenate([levels.window[1:], values[None]])
        pressure = jnp.where(new, self._pressure(window, values, places), levels.pressure)
        age = jnp.where(new, bar.ages, levels.age + bar.days)
        wanted = self.wanted(pressure, age, places)
        days = jnp.asarray(bar.trading_days)
        rise, fall = (1 + self.rise_limit) ** days - 1, 1 - (1 - self.fall_limit) ** days
        return RegimeLevels(window, pressure, age, limited(wanted, levels.multiplier, rise=rise, fall=fall))

    def wanted(
        self, pressure: Float[Array, " series"], age: Float[Array, " series"], places: SignalPlaces
    ) -> Float[Array, " underlyings"]:
        """The multiplier of each underlying that its signals ask for, before limits."""
        settings = self.settings
        passed = jnp.where(jnp.isnan(age), 0, age) - settings.stale_after_days
        late = jnp.clip(passed / (settings.worst_age_days - settings.stale_after_days), 0, 1)
        fresh = jnp.where(jnp.isnan(pressure), 1, pressure)
        full = fresh + (1 - fresh) * late
        by_signal = jnp.where(jnp.asarray(places.own) == BEGUN_LATER, 1, full[places.standing(age)])
        weights = jnp.where(places.speaks, jnp.asarray(self.weights)[:, None], 0)
        total = jnp.sum(weights, axis=0)
        mean = jnp.sum(weights * by_signal, axis=0) / jnp.where(total > 0, total, 1)
        return 1 + mean * jnp.where(mean > 0, self.most - 1, 1 - self.least)

    def path(
        self, signals: SignalArrays, *, bars_per_day: float
    ) -> tuple[Float[Array, "bars underlyings"], RegimeLevels]:
        """Multipliers at each bar of the rows, and the levels after the last; the bar of the margin is none of them."""

        def one(levels: RegimeLevels, bar: SignalBar) -> tuple[RegimeLevels, Array]:
            levels = self.step(levels, bar, signals.places)
            return levels, levels.multiplier

        begin = self.begin(signals.places, bars_per_day=bars_per_day)
        last, multipliers = lax.scan(one, begin, jax.tree.map(jnp.asarray, signals.rows))
        return multipliers, last

    def today(self, signals: SignalArrays, *, bars_per_day: float) -> RegimeLevels:
        """The levels at the time of the margin."""
        _, levels = self.path(signals, bars_per_day=bars_per_day)
        return levels if signals.now is None else self.step(levels, signals.now, signals.places)

    def _pressure(self, window: Array, values: Array, places: SignalPlaces) -> Float[Array, " series"]:
        """Pressures of the newest values, which the window ends with; NaN where it holds too few."""
        count = jnp.sum(~jnp.isnan(window), axis=0)
        below, equal = jnp.sum(window < values, axis=0), jnp.sum(window == values, axis=0)
        rank = (below + 0.5 * equal) / jnp.maximum(count, 1)
        slopes = jnp.asarray(places.slopes, values.dtype)
        pressure = slopes[:, 0] * (2 * rank - 1) + slopes[:, 1] * (jnp.abs(4 * rank - 2) - 1)
        return jnp.where(count >= self.settings.least_observations, pressure, jnp.nan)


def regime_notes(
    signals: SignalHistory,
    settings: Regime,
    underlyings: Sequence[str],
    multipliers: Sequence[float],
    lost: Bool[np.ndarray, "signals underlyings"],
) -> Mapping[str, Any]:
    """What the manifest says: multipliers that are not one, how old each signal is, which are old, and which are not
    known (`lost`), for all underlyings or for some."""
    ages = dict(zip(signals.series, signals.age.tolist(), strict=True))
    unknown = []
    for name, row in zip(settings.names, lost.tolist(), strict=True):
        listed = [of for of in underlyings if of in (settings.signals[name].underlyings or underlyings)]
        lacking = [of for of, is_lost in zip(underlyings, row, strict=True) if is_lost]
        if lacking:
            unknown.append(name if lacking == listed else f"{name} of {', '.join(lacking)}")
    named = {name if of is None else f"{name} of {of}": age for (name, of), age in ages.items()}
    return {
        "multipliers": {
            name: round(number, 4) for name, number in zip(underlyings, multipliers, strict=True) if number != 1
        },
        "age_days": {name: round(age, 4) for name, age in named.items() if not np.isnan(age)},
        "not_known": unknown,
        "stale": [name for name, age in named.items() if age > settings.stale_after_days],
        "after_as_of": signals.later,
        "of_nothing": list(signals.of_nothing),
        "begun_later": [f"{name} of {of}" for name, of in signals.begun_later],
    }
