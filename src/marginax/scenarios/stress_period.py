"""The stressed observations: the most volatile stretch of bars that the history holds so far, used unscaled.

The volatility of a bar is the sum over prices of their squared return over their mean square up to then (at most 25:
one price that jumps is no stress of the market); a price that is not listed yet adds nothing. In the stretch a price
that was not listed takes its proxy's move times beta.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from marginax.scenarios.filtering import FactorArrays, horizon_bars
from marginax.scenarios.proxies import levels
from marginax_kernels import overlapping_sums

GREATEST = 25.0


class Stretch(eqx.Module):
    """The returns of the stretch, NaN where there is none, the bars they span, and which rows are any."""

    returns: Float[Array, "rows factors"]
    bars: Float[Array, "rows factors"]
    live: Bool[Array, " rows"]


def bar_squares(
    returns: Float[Array, "bars factors"], bars: Float[Array, "bars factors"]
) -> Float[Array, "bars factors"]:
    """Squared returns per bar; NaN where there is none."""
    return returns**2 / bars


def bar_scores(
    factors: FactorArrays, mean_square: Float[Array, "bars factors"], *, last: int | None = None
) -> Float[Array, " bars"]:
    """How volatile each of the `last` bars was (all: None); `mean_square` is that of each factor after each bar."""
    rows, prices = slice(None if last is None else -last, None), slice(0, factors.underlyings)
    square = bar_squares(factors.returns[rows, prices], factors.bars[rows, prices])
    usual = mean_square[:, prices]
    known = ~jnp.isnan(square) & (usual > 0)
    ratio = jnp.where(known, square, 0) / jnp.where(known, usual, 1)
    return jnp.sum(jnp.minimum(ratio, GREATEST), axis=1)


def stretch_starts(
    factors: FactorArrays, mean_square: Float[Array, "bars factors"], *, rows: int
) -> Int[Array, " bars_and_one"]:
    """The first row of the most volatile stretch of `rows` bars, as it was known after each number of bars from none.

    `mean_square` is that of each price after each bar. Before `rows` bars are known the stretch begins with them.
    """
    cumulated = jnp.concatenate([jnp.zeros(1), jnp.cumsum(bar_scores(factors, mean_square))])
    early = jnp.zeros(min(rows, len(cumulated)), int)
    if len(cumulated) <= rows:
        return early
    sums = cumulated[rows:] - cumulated[:-rows]
    best = lax.cummax(jnp.where(sums >= lax.cummax(sums), jnp.arange(len(sums)), 0))
    return jnp.concatenate([early, best])


def stretch_at(
    factors: FactorArrays,
    start: Int[Array, ""],
    end: Int[Array, ""],
    own: Bool[Array, " factors"],
    *,
    rows: int,
    before: int = 0,
) -> Stretch:
    """`rows` returns from `start`, of which those from `end` on are none; `before` rows of nothing lead the history."""

    def window(table: Array) -> Array:
        return lax.dynamic_slice_in_dim(table, start + before, rows)

    live = start + jnp.arange(rows) < end
    returns = jnp.where(live[:, None] & own, window(factors.returns), jnp.nan)
    return Stretch(returns, window(factors.bars), live)


def stretch_shocks(
    stretch: Stretch, factors: FactorArrays, *, default_beta: Float[Any, ""], horizon_days: float
) -> tuple[Float[Array, "scenarios factors"], Float[Array, " scenarios"]]:
    """Shocks of the stretch over the horizon, unscaled, and equal weights of those that are any.

    Gradient: exact in the returns.
    """
    moves = stretch.returns / jnp.sqrt(stretch.bars) / factors.level
    proxy = np.asarray(factors.proxy, int)
    is_price = np.arange(len(proxy)) < factors.underlyings
    filled = jnp.where(jnp.isnan(moves), 0, moves)
    for columns in levels(proxy)[1:]:
        usual = jnp.where(is_price[columns], default_beta, 0)
        slope = jnp.where(jnp.isnan(factors.beta[columns]), usual, factors.beta[columns])
        theirs = slope * filled[:, proxy[columns]]
        filled = filled.at[:, columns].set(jnp.where(jnp.isnan(moves[:, columns]), theirs, filled[:, columns]))
    paths = np.array([path for path, _ in factors.settlements], int)
    bars, scale = horizon_bars(horizon_days, factors.bars_per_day)
    shocks = overlapping_sums(filled * factors.level, bars=bars) * scale
    live = stretch.live[bars - 1 :]
    return shocks.at[:, paths].set(jnp.nan), live / jnp.maximum(jnp.sum(live), 1)
