"""Volatility filters over a history, and the residuals that filtered historical simulation rescales.

Conventions: axes are bars x factors; variance and volatility are per bar; `returns[t]` is the return that ends at bar
t, NaN where the factor has no price there, and `bars[t]` the number of bars it spans (more than one after a gap).
`variance[t]` knows the bars before t and not bar t itself.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int


def squared_move(
    returns: Float[Array, "*factors"],
    bars: Float[Array, "*factors"],
    variance: Float[Array, "*factors"],
    *,
    bound: Float[ArrayLike, "*factors"] = jnp.inf,
) -> Float[Array, "*factors"]:
    """The squared return per bar of a return over `bars` bars, at most `bound`^2 variances; zero where it is missing.

    One outlier doubles the volatility of an exponential filter and says little of the days to come: a bound keeps what
    a single bar can do. A variance of zero bounds nothing.

    Units: variance per bar; `bound` in volatilities. Gradient: exact, in the returns zero beyond the bound.
    Source: Muler and Yohai (2008), bounded effects in GARCH filters.
    """
    known = ~jnp.isnan(returns)
    square = jnp.where(known, jnp.where(known, returns, 0) ** 2 / bars, 0)
    binds = (variance > 0) & jnp.isfinite(bound)
    most = jnp.where(binds, jnp.where(jnp.isfinite(bound), bound, 1) ** 2 * variance, jnp.inf)
    return jnp.minimum(square, most)


def ewma_update(
    variance: Float[Array, "*factors"],
    returns: Float[Array, "*factors"],
    bars: Float[Array, "*factors"],
    *,
    half_life: Float[ArrayLike, "*factors"],
) -> Float[Array, "*factors"]:
    """One step of the exponentially weighted variance: one return over `bars` bars.

    v' = d v + (1 - d) r^2 / bars with d = 2^(-bars / half_life); a missing return (NaN) changes nothing.
    Units: variance per bar, half-life in bars (0.94 is a half-life of 11.2 bars, 0.97 one of 22.8).

    Gradient: exact in all inputs. Source: RiskMetrics Technical Document (1996), section 5.2.
    """
    known = ~jnp.isnan(returns)
    square = squared_move(returns, bars, variance)
    return jnp.where(known, faded(variance, square, bars, half_life=half_life), variance)


def faded(
    variance: Float[Array, "*factors"],
    square: Float[Array, "*factors"],
    bars: Float[Array, "*factors"],
    *,
    half_life: Float[ArrayLike, "*factors"],
) -> Float[Array, "*factors"]:
    """d v + (1 - d) s with d = 2^(-bars / half_life): an old variance and a new square. Gradient: exact."""
    decay = jnp.exp2(-bars / half_life)
    return decay * variance + (1 - decay) * square


def ewma_variance(
    returns: Float[Array, "bars factors"],
    bars: Float[Array, "bars factors"],
    initial: Float[Array, " factors"],
    *,
    half_life: Float[ArrayLike, ""],
) -> tuple[Float[Array, "bars factors"], Float[Array, " factors"]]:
    """The variance known before each bar, and the variance after the last one.

    Units: per bar; half-life in bars. Gradient: exact in all inputs. Cost: one pass. Source: see `ewma_update`.
    """

    def step(variance: Array, bar: tuple[Array, Array]) -> tuple[Array, Array]:
        return ewma_update(variance, bar[0], bar[1], half_life=half_life), variance

    final, path = lax.scan(step, initial, (returns, bars))
    return path, final


def volatility(variance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root of a variance. Gradient: exact, and zero where the variance is zero (a factor without returns)."""
    moves = variance > 0
    return jnp.where(moves, jnp.sqrt(jnp.where(moves, variance, 1)), 0)


def initial_variance(
    returns: Float[Array, "bars factors"], bars: Float[Array, "bars factors"], *, count: int
) -> Float[Array, " factors"]:
    """Mean squared return per bar over each factor's first `count` returns; zero for a factor without any.

    Units: variance per bar. Gradient: exact.
    """
    known = ~jnp.isnan(returns)
    early = known & (jnp.cumsum(known, axis=0) <= count)
    squared = jnp.where(early, jnp.where(known, returns, 0) ** 2 / bars, 0)
    return jnp.sum(squared, axis=0) / jnp.maximum(jnp.sum(early, axis=0), 1)


def long_run_volatility(
    returns: Float[Array, "bars factors"], bars: Float[Array, "bars factors"]
) -> Float[Array, " factors"]:
    """Root mean squared return per bar over the whole history; zero for a factor without returns.

    Units: volatility per bar. Gradient: exact.
    """
    known = ~jnp.isnan(returns)
    squared = jnp.where(known, jnp.where(known, returns, 0) ** 2 / bars, 0)
    return volatility(jnp.sum(squared, axis=0) / jnp.maximum(jnp.sum(known, axis=0), 1))


def filtered_residuals(
    returns: Float[Array, "bars factors"],
    bars: Float[Array, "bars factors"],
    path: Float[Array, "bars factors"],
    long_run: Float[Array, " factors"],
    *,
    least_share: Float[ArrayLike, "*factors"],
    cap: Float[ArrayLike, "*factors"],
) -> tuple[Float[Array, "bars factors"], Int[Array, " factors"]]:
    """Returns over the volatility of their day, and how many of each factor's were capped.

    The denominator is `path`, the volatility known before each bar, but at least `least_share` of the long-run
    volatility and residuals are cut at +-`cap`: a pegged coin that jumps once has a residual of 167 otherwise, and
    rescaling then shows a loss beyond 100 %. A return over n bars is divided by sqrt(n); a factor that never moved has
    residual zero; missing stays NaN.

    Gradient: exact where nothing is floored or capped. Source: Barone-Adesi, Giannopoulos and Vosper (1999).
    """
    known = ~jnp.isnan(returns)
    scale = jnp.maximum(path, least_share * long_run) * jnp.sqrt(bars)
    moves = jnp.where(known, returns, 0)
    raw = jnp.where(scale > 0, moves / jnp.where(scale > 0, scale, 1), 0)
    cut = jnp.clip(raw, -jnp.asarray(cap), cap)
    return jnp.where(known, cut, jnp.nan), jnp.sum(jnp.abs(raw) > cap, axis=0)


def overlapping_sums(shocks: Float[Array, "bars factors"], *, bars: int) -> Float[Array, "windows factors"]:
    """Sums of each run of `bars` consecutive rows: the shocks of a horizon of several bars. Gradient: exact."""
    windows = shocks.shape[0] - bars + 1
    return functools.reduce(jnp.add, (shocks[first : first + windows] for first in range(bars)))
