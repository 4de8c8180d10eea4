"""What a volatility filter knew at the close of each bar of a history, computed once for all of them.

A replay asks for the state of thousands of bars. Filters run once over the whole history; what was known at one bar is
then a slice of fixed shape, with nothing in it of the bars that came later.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.known import KnownHistory
from marginax.scenarios.filtering import SEED_RETURNS, FactorArrays, Observed, VolatilityFilter, factor_arrays
from marginax_kernels import ewma_variance, initial_variance, volatility


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
            factors=FactorArrays(
                returns=jnp.where(live[:, None] & own, window(factors.returns), jnp.nan),
                bars=window(factors.bars),
                gap_return=factors.gap_return,
                gap_bars=factors.gap_bars,
                own=own,
                beta=factors.beta,
                level=self.level[bar],
                noise=self.noise[bar],
                proxy=factors.proxy,
                bars_per_day=factors.bars_per_day,
                live=live,
            ),
            variance=window(self.variance),
            today=self.today[bar],
            long_run=self.long_run[bar],
        )


def past_of(volatility_filter: VolatilityFilter, known: KnownHistory, *, lookback: int) -> Past:
    """The past of a filter over a history, for windows of `lookback` bars."""
    return _past(volatility_filter, factor_arrays(known.history), known.own, known.level, known.noise, lookback)


@eqx.filter_jit
def _past(
    volatility_filter: VolatilityFilter,
    factors: FactorArrays,
    own: np.ndarray,
    level: np.ndarray,
    noise: np.ndarray,
    lookback: int,
) -> Past:
    returns, bars = jnp.asarray(factors.returns), jnp.asarray(factors.bars)
    half_life = volatility_filter.half_life_days * factors.bars_per_day
    seed = initial_variance(returns, bars, count=SEED_RETURNS)
    path, final = ewma_variance(returns, bars, seed, half_life=half_life)
    some = ~jnp.isnan(returns)
    squares = jnp.where(some, jnp.where(some, returns, 0) ** 2 / bars, 0)
    none = jnp.zeros((1, returns.shape[1]))
    mean = jnp.cumsum(squares, axis=0) / jnp.maximum(jnp.cumsum(some, axis=0), 1)
    before = ((lookback, 0), (0, 0))
    padded = eqx.tree_at(
        lambda arrays: (arrays.returns, arrays.bars),
        factors,
        (jnp.pad(returns, before, constant_values=jnp.nan), jnp.pad(bars, before, constant_values=1)),
    )
    return Past(
        factors=padded,
        variance=jnp.pad(path, before),
        today=jnp.concatenate([path, final[None]]),
        long_run=jnp.concatenate([none, volatility(mean)]),
        own=jnp.asarray(own),
        level=jnp.asarray(level),
        noise=jnp.asarray(noise),
        lookback=lookback,
    )
