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
from marginax.scenarios.filtering import FactorArrays, Observed, VolatilityFilter, factor_arrays
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
            factors=FactorArrays(
                returns=jnp.where(live[:, None] & own, window(factors.returns), jnp.nan),
                bars=window(factors.bars),
                gap_return=factors.gap_return,
                gap_bars=factors.gap_bars,
                own=own,
                beta=factors.beta,
                level=self.level[bar],
                noise=self.noise[bar],
                classes=factors.classes,
                proxy=factors.proxy,
                bars_per_day=factors.bars_per_day,
                live=live,
                correlated=factors.correlated,
                underlyings=factors.underlyings,
                bars_per_year=factors.bars_per_year,
                absolute=factors.absolute,
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
    path = volatility_filter.path(factors)
    before = ((lookback, 0), (0, 0))
    padded = eqx.tree_at(
        lambda arrays: (arrays.returns, arrays.bars),
        factors,
        (
            jnp.pad(jnp.asarray(factors.returns), before, constant_values=jnp.nan),
            jnp.pad(jnp.asarray(factors.bars), before, constant_values=1),
        ),
    )
    return Past(
        factors=padded,
        variance=jnp.pad(path.variance[:-1], before),
        today=path.ahead,
        long_run=volatility(path.long_run),
        own=jnp.asarray(own),
        level=jnp.asarray(level),
        noise=jnp.asarray(noise),
        lookback=lookback,
    )
