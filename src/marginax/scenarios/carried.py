"""A market that is carried forward bar by bar: the filters, and a window of the past of fixed length.

A step costs the same however long the history is. What is known at a bar is what a run over the whole history up to it
would have known, but for what is drawn (residuals that fill holes and stand-in noise belong to rows of the window, and
fitted laws of draws stay those of the beginning) and for how a filter of what lists later is seeded.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.scenarios.filtering import FactorArrays, Observed, VolatilityFilter, factor_arrays
from marginax.scenarios.volatility import SEED_RETURNS, FilterPath, FilterState
from marginax.signals import SignalBar
from marginax_kernels import volatility


class Bar(NamedTuple):
    """What a bar brings: where each factor stands (a logarithm, or a price that is shocked absolutely; NaN where it has
    none), the level of each (see `FactorHistory`), the bars and days since the last one, and what signals bring."""

    walk: Float[Any, " factors"]
    level: Float[Any, " factors"]
    bars: Float[Any, ""]
    days: Float[Any, ""]
    signals: SignalBar | None = None


class Carried(eqx.Module):
    """What was observed, and what the next step needs beside it: by factor where it stood last, how many bars and days
    ago, and whether it ever moved."""

    observed: Observed
    filter: FilterState
    walk: Float[Array, " factors"]
    bars: Float[Array, " factors"]
    days: Float[Array, " factors"]
    moved: Bool[Array, " factors"]
    config: Config = eqx.field(static=True)

    @property
    def known(self) -> Observed:
        """What a margin is prepared from: what does not stand on its own has no returns."""
        factors = self.observed.factors
        masked = replace(factors, returns=jnp.where(factors.own, factors.returns, jnp.nan))
        return replace(self.observed, factors=masked)

    def step(self, volatility_filter: VolatilityFilter, bar: Bar) -> "Carried":
        """The state one bar on. A factor without a price keeps its volatility; what it did comes with its next price.

        A factor that has no price for longer than `scenarios.unusable_after_days` takes its proxy, and one that has
        `scenarios.least_bars` returns stands on its own.
        """
        settings, observed = self.config.scenarios, self.observed
        factors = observed.factors
        bars, days = self.bars + bar.bars, self.days + bar.days
        known = ~jnp.isnan(bar.walk)
        returns = jnp.where(known & ~jnp.isnan(self.walk), bar.walk - self.walk, jnp.nan)
        spans = jnp.where(jnp.isnan(returns), 1.0, jnp.maximum(bars, 1))
        model = factors.by_factor(volatility_filter.model)
        usual = self.filter.long_run.variance
        before = model.variance(self.filter.model, usual, bars_per_day=factors.bars_per_day)
        state = volatility_filter.step(self.filter, (returns, spans), factors)
        # The bars that are missing could have moved both ways: what ends a gap may raise a variance and not lower it.
        after = model.variance(state.model, state.long_run.variance, bars_per_day=factors.bars_per_day)
        calmer = (spans > 1) & (after < before)
        state = state._replace(
            model=jax.tree.map(lambda new, old: jnp.where(calmer, old, new), state.model, self.filter.model)
        )
        # A factor that is new has the mean square so far until there is enough of it to seed a filter.
        young = state.long_run.seen < SEED_RETURNS
        seed = model.begin(state.long_run.variance, bars_per_day=factors.bars_per_day)
        state = state._replace(model=jax.tree.map(lambda new, old: jnp.where(young, new, old), seed, state.model))
        moved = self.moved | (jnp.nan_to_num(returns) != 0)
        days = jnp.where(known, 0.0, days)
        alone = np.asarray(factors.proxy) < 0
        fresh = (days <= settings.unusable_after_days) | alone
        is_price = np.arange(len(factors.proxy)) < factors.underlyings
        enough = (state.long_run.seen >= settings.least_bars) & fresh
        # A basis or a volatility stands to the end on what it stood on at the beginning.
        own = jnp.where(is_price, enough, factors.own)
        frozen = own & ~moved
        small = settings.minimum_volatility / np.sqrt(factors.bars_per_day)
        noise = jnp.where(is_price, jnp.where(frozen, small * bar.level, jnp.nan), factors.noise)
        window = replace(
            factors,
            level=bar.level,
            returns=_shifted(factors.returns, returns),
            bars=_shifted(factors.bars, spans),
            own=own,
            noise=noise,
            live=_shifted(factors.live, jnp.asarray(True)),
        )
        return Carried(
            observed=Observed(
                factors=window,
                variance=_shifted(observed.variance, before),
                today=volatility_filter.ahead(state, window),
                long_run=volatility(state.long_run.variance),
            ),
            filter=state,
            walk=jnp.where(known, bar.walk, self.walk),
            bars=jnp.where(known, 0.0, bars),
            days=days,
            moved=moved,
            config=self.config,
        )


def seen_arrays(history: FactorHistory) -> FactorArrays:
    """The numbers of a history with the returns of factors that do not stand on their own yet: a state must know them
    when they do."""
    assert history.seen is not None
    return replace(factor_arrays(history), returns=history.seen)


def carried_from(path: FilterPath, history: FactorHistory, config: Config, *, rows: int) -> Carried:
    """The state after a whole history along which the filter took this path, with a window of `rows` bars; those
    before the history are none."""
    factors = seen_arrays(history)
    padding = max(rows - len(history.times), 0)

    def window(table: Array, fill: float) -> Array:
        return jnp.pad(jnp.asarray(table)[-rows:], ((padding, 0), (0, 0)), constant_values=fill)

    trimmed = replace(
        factors,
        returns=window(factors.returns, jnp.nan),
        bars=window(factors.bars, 1.0),
        live=jnp.arange(rows) >= padding,
        gap_return=jnp.full(len(factors.proxy), jnp.nan),
    )
    last = history.last_bar
    days = (history.times[-1] - last) / np.timedelta64(1, "D")
    bars = history.grid.bars_between(last, history.times[-1])
    return Carried(
        observed=Observed(trimmed, window(path.variance[:-1], 0.0), path.ahead[-1], volatility(path.long_run[-1])),
        filter=path.state,
        walk=jnp.asarray(history.stands),
        bars=jnp.asarray(np.nan_to_num(bars)),
        days=jnp.asarray(np.nan_to_num(days)),
        moved=jnp.any(jnp.nan_to_num(factors.returns) != 0, axis=0),
        config=config,
    )


def _shifted(table: Array | None, row: Array) -> Array:
    """A window one row on."""
    assert table is not None
    return jnp.concatenate([table[1:], row[None]])
