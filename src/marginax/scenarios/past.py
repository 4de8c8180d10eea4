"""What a volatility filter knew at the close of each bar of a history, computed once for all of them.

A replay asks for the state of thousands of bars. Filters run once over the whole history; what was known at one bar is
then a slice of fixed shape, with nothing in it of the bars that came later.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.known import KnownHistory
from marginax.scenarios.filtering import FactorArrays, Observed, VolatilityFilter, factor_arrays
from marginax.scenarios.volatility import FilterPath
from marginax_kernels import volatility


class Past(eqx.Module):
    """Returns with `lookback` rows of nothing before them, and by bar of the grid what was known at its close."""

    factors: FactorArrays
    variance: Float[Array, "padded_bars factors"]
    today: Float[Array, "bars factors"]
    long_run: Float[Array, "bars factors"]
    own: Bool[Array, "bars factors"]
    level: Float[Array, "bars factors"]
    noise: Float[Array, "bars factors"]
    lookback: int = eqx.field(static=True)

    def before(self, bar: Int[Array, ""], first: Int[Array, ""]) -> Observed:
        """What was observed at the close of bar `bar`: the last `lookback` returns, of which those before `first` are
        none.

        Gradient: exact in the filter.
        """
        factors, size = self.factors, self.lookback
        live = bar - size + jnp.arange(size) >= first

        def window(rows: Array) -> Array:
            return lax.dynamic_slice_in_dim(rows, bar, size)

        own = self.own[bar]
        return Observed(
            # A replay has neither leaning volatilities nor settlements: the last bar's would be known too early.
            factors=replace(
                factors,
                returns=jnp.where(live[:, None] & own, window(factors.returns), jnp.nan),
                bars=window(factors.bars),
                own=own,
                level=self.level[bar],
                noise=self.noise[bar],
                live=live,
                leaning=(),
                settlements=(),
            ),
            variance=window(self.variance),
            today=self.today[bar],
            long_run=self.long_run[bar],
        )


def past_of(volatility_filter: VolatilityFilter, known: KnownHistory, *, lookback: int) -> Past:
    """The past of a filter over a history, for windows of `lookback` bars."""
    return _past(volatility_filter, factor_arrays(known.history), KnownRows.of(known), lookback)


class KnownRows(NamedTuple):
    """What was known of each factor at the close of each bar."""

    own: Bool[Any, "bars factors"]
    level: Float[Any, "bars factors"]
    noise: Float[Any, "bars factors"]

    @classmethod
    def of(cls, known: KnownHistory) -> "KnownRows":
        """The rows of a history."""
        return cls(known.own, known.level, known.noise)


def past_along(path: FilterPath, factors: FactorArrays, known: KnownRows, *, lookback: int) -> Past:
    """The past from a path of the filter; traceable."""
    before = ((lookback, 0), (0, 0))
    padded = replace(
        factors,
        returns=jnp.pad(jnp.asarray(factors.returns), before, constant_values=jnp.nan),
        bars=jnp.pad(jnp.asarray(factors.bars), before, constant_values=1),
    )
    return Past(
        factors=padded,
        variance=jnp.pad(path.variance[:-1], before),
        today=path.ahead,
        long_run=volatility(path.long_run),
        own=jnp.asarray(known.own),
        level=jnp.asarray(known.level),
        noise=jnp.asarray(known.noise),
        lookback=lookback,
    )


@partial(jax.jit, static_argnames="lookback")
def _past(volatility_filter: VolatilityFilter, factors: FactorArrays, known: KnownRows, lookback: int) -> Past:
    return past_along(volatility_filter.path(factors), factors, known, lookback=lookback)
