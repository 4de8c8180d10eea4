"""What the dynamic margin knows of the market: filters, the stressed stretch, multipliers of tools and of the regime.

All of it is market-level and the same for every account; at one bar it knows nothing of the bars that come later.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.known import KnownHistory
from marginax.models.addons.procyclicality import Levels, ProcyclicalityTools
from marginax.models.addons.regime import RegimeCarried, RegimeMultiplier, SignalArrays
from marginax.scenarios.carried import Bar, Carried
from marginax.scenarios.filtering import FactorArrays, Observed, VolatilityFilter, factor_arrays
from marginax.scenarios.past import KnownRows, Past, past_along
from marginax.scenarios.stress_period import Stretch, bar_scores, bar_squares, stretch_at, stretch_starts
from marginax.scenarios.volatility import FilterPath
from marginax_kernels import volatility


class DynamicState(eqx.Module):
    """What the filters observed; the stretch and the multipliers by underlying, of the tools and of the regime, and
    which signals are not known of which underlyings; None where they are off."""

    observed: Observed
    stretch: Stretch | None
    multiplier: Float[Array, " underlyings"] | None
    regime: Float[Array, " underlyings"] | None = None
    unknown: Bool[Array, "signals underlyings"] | None = None


class StretchState(NamedTuple):
    """The most volatile stretch so far and how volatile it is, and the volatility of each of the last bars."""

    stretch: Stretch
    greatest: Float[Array, ""]
    scores: Float[Array, " rows"]


class DynamicCarried(eqx.Module):
    """A state that is carried forward: the filters and their window, the tools' levels, the squares that a floor of
    years looks back on, the multipliers, the stretch, and the regime."""

    plain: Carried
    levels: Levels | None
    squares: Float[Array, "bars underlyings"] | None
    multiplier: Float[Array, " underlyings"] | None
    stretch: StretchState | None
    regime: RegimeCarried | None = None

    @property
    def known(self) -> DynamicState:
        """What a margin is prepared from."""
        stretch, observed = None, self.plain.known
        if self.stretch is not None:
            found = self.stretch.stretch
            stretch = Stretch(jnp.where(observed.factors.own, found.returns, jnp.nan), found.bars, found.live)
        regime = unknown = None
        if self.regime is not None:
            regime, unknown = self.regime.levels.multiplier, self.regime.levels.unknown(self.regime.places)
        return DynamicState(observed, stretch, self.multiplier, regime, unknown)


class Follower(eqx.Module):
    """The parts of a model that follow the market; `stretch_bars` is 0 where no stress is looked for."""

    volatility: VolatilityFilter
    tools: ProcyclicalityTools | None
    stretch_bars: int = eqx.field(static=True)
    regime: RegimeMultiplier | None = None

    def rows(self, bars: int) -> int:
        """Rows of the stretch in a history of so many bars."""
        return min(self.stretch_bars, bars)

    def observe(self, factors: FactorArrays, signals: SignalArrays | None = None) -> DynamicState:
        """The state after a whole history."""
        path = self.volatility.path(factors)
        observed = self.volatility.observed(factors, path)
        path = path._replace(ahead=path.ahead.at[-1].set(observed.today))
        multiplier = None if self.tools is None else self.multipliers(path, factors)[0][-1]
        stretch, bars = None, len(factors.returns)
        if self.stretch_bars:
            rows = self.rows(bars)
            start = stretch_starts(factors, path.long_run[1:], rows=rows)[-1]
            stretch = stretch_at(factors, start, jnp.asarray(bars), factors.own, rows=rows)
        regime = unknown = None
        if self.regime is not None and signals is not None:
            today = self.regime.today(signals, bars_per_day=factors.bars_per_day)
            regime, unknown = today.multiplier, today.unknown(signals.places)
        return DynamicState(observed, stretch, multiplier, regime, unknown)

    def multipliers(
        self, path: FilterPath, factors: FactorArrays
    ) -> tuple[Float[Array, "bars_and_one underlyings"], Levels]:
        """The multiplier of each underlying at each bar, and what the tools remember at the end."""
        assert self.tools is not None
        prices = slice(0, factors.underlyings)
        level = self.volatility.today(path.ahead, volatility(path.long_run), factors)[:, prices]
        squares, seen = (path.long_run * path.seen)[:, prices], path.seen[:, prices]
        least = self.tools.least(squares, seen, bars_per_year=factors.bars_per_year)
        return self.tools.path(level, least, bars_per_day=factors.bars_per_day)

    def carried(
        self, plain: Carried, path: FilterPath, factors: FactorArrays, signals: SignalArrays | None = None
    ) -> DynamicCarried:
        """The state after a whole history, whose filters and window are carried already along this path."""
        prices = slice(0, factors.underlyings)
        levels = squares = multiplier = stretch = None
        if self.tools is not None:
            multipliers, levels = self.multipliers(path, factors)
            multiplier = multipliers[-1]
            bars = self.tools.floor_bars(factors.bars_per_year)
            if bars:
                squares = _last(bar_squares(factors.returns, factors.bars)[:, prices], bars, jnp.nan)
        if self.stretch_bars:
            rows, count = self.stretch_bars, len(factors.returns)
            usual = path.long_run[1:]
            start = stretch_starts(factors, usual, rows=self.rows(count))[-1]
            every = jnp.ones(len(factors.proxy), bool)  # what stands on its own is asked when the stretch is used
            found = stretch_at(factors, start, jnp.asarray(count), every, rows=self.rows(count))
            scores = bar_scores(factors, usual)
            window = lax.dynamic_slice_in_dim(scores, start, self.rows(count))
            missing = rows - self.rows(count)
            found = Stretch(
                _last(found.returns, rows, jnp.nan), _last(found.bars, rows, 1.0), jnp.pad(found.live, (missing, 0))
            )
            stretch = StretchState(found, jnp.sum(window), jnp.pad(scores[-rows:], (missing, 0)))
        regime = None
        if self.regime is not None and signals is not None:
            _, last = self.regime.path(signals, bars_per_day=factors.bars_per_day)
            regime = RegimeCarried(last, signals.places)
        return DynamicCarried(plain, levels, squares, multiplier, stretch, regime)

    def step(self, state: DynamicCarried, bar: Bar) -> DynamicCarried:
        """The state one bar on."""
        plain = state.plain.step(self.volatility, bar)
        observed, factors = plain.observed, plain.observed.factors
        prices, bars_per_day = slice(0, factors.underlyings), factors.bars_per_day
        levels, squares, multiplier, stretch = state.levels, state.squares, state.multiplier, state.stretch
        newest = bar_squares(factors.returns[-1:], factors.bars[-1:])
        if self.tools is not None:
            least = jnp.zeros(factors.underlyings)
            if squares is not None:
                squares = jnp.concatenate([squares[1:], newest[:, prices]])
                seen = jnp.sum(~jnp.isnan(squares), axis=0)
                least = volatility(jnp.nansum(squares, axis=0) / jnp.maximum(seen, 1))
            level = self.volatility.today(observed.today, observed.long_run, factors)[prices]
            assert levels is not None
            levels, multiplier = self.tools.step(levels, level, least, jnp.asarray(bar.bars), bars_per_day=bars_per_day)
        if stretch is not None:
            score = bar_scores(factors, plain.filter.long_run.variance[None], last=1)
            scores = jnp.concatenate([stretch.scores[1:], score])
            total = jnp.sum(scores)
            rows = len(scores)
            assert factors.live is not None
            latest = Stretch(factors.returns[-rows:], factors.bars[-rows:], factors.live[-rows:])
            worse = total >= stretch.greatest
            kept = jax.tree.map(lambda new, old: jnp.where(worse, new, old), latest, stretch.stretch)
            stretch = StretchState(kept, jnp.maximum(total, stretch.greatest), scores)
        regime = state.regime
        if self.regime is not None and regime is not None:
            assert bar.signals is not None
            places = regime.places.stepped(bar.signals.begun)
            regime = RegimeCarried(self.regime.step(regime.levels, bar.signals, places), places)
        return DynamicCarried(plain, levels, squares, multiplier, stretch, regime)


class DynamicPast(eqx.Module):
    """The past of the filters, and by bar of the grid where the stretch begins and what the multipliers are."""

    past: Past
    starts: Int[Array, " bars_and_one"] | None
    multiplier: Float[Array, "bars_and_one underlyings"] | None
    rows: int = eqx.field(static=True)
    regime: Float[Array, "bars_and_one underlyings"] | None = None

    def before(self, bar: Any, first: Any) -> DynamicState:
        """The state at the close of a bar of a history that begins at `first`.

        The stretch may be older than that: what a portfolio holds and was not listed yet takes its proxy's moves.
        """
        stretch = None
        if self.starts is not None:
            own, before = self.past.own[bar], self.past.lookback
            stretch = stretch_at(self.past.factors, self.starts[bar], bar, own, rows=self.rows, before=before)
        multiplier = None if self.multiplier is None else self.multiplier[bar]
        regime = None if self.regime is None else self.regime[bar]
        return DynamicState(self.past.before(bar, first), stretch, multiplier, regime)


def dynamic_past(
    follower: Follower, known: KnownHistory, *, lookback: int, signals: SignalArrays | None = None
) -> DynamicPast:
    """The past over a history, for windows of `lookback` bars."""
    return _past(follower, factor_arrays(known.history), KnownRows.of(known), lookback, signals)


@partial(jax.jit, static_argnames="lookback")
def _past(
    follower: Follower, factors: FactorArrays, known: KnownRows, lookback: int, signals: SignalArrays | None
) -> DynamicPast:
    path, rows = follower.volatility.path(factors), follower.rows(len(factors.returns))
    regime = None
    if follower.regime is not None and signals is not None:
        regime, _ = follower.regime.path(signals, bars_per_day=factors.bars_per_day)
    return DynamicPast(
        past=past_along(path, factors, known, lookback=lookback),
        starts=stretch_starts(factors, path.long_run[1:], rows=rows) if rows else None,
        multiplier=None if follower.tools is None else follower.multipliers(path, factors)[0],
        rows=rows,
        regime=regime,
    )


def _last(table: Array, rows: int, fill: float) -> Array:
    """The last rows of a table, filled up in front."""
    return jnp.pad(table[-rows:], ((max(rows - len(table), 0), 0), (0, 0)), constant_values=fill)
