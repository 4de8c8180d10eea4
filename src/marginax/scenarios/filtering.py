"""The volatility filter that scenarios from history and draws alike stand on: what the past was worth on its day.

Filtered historical simulation rescales each past return by today's volatility over that of its day, factor by factor.
A return over n bars after a gap counts as one bar of its size over sqrt(n). Everything here is traceable but the draws.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.scenarios.proxies import fill, levels, resampled_rows, resampling_orders, stream
from marginax_kernels import (
    ewma_update,
    ewma_variance,
    filtered_residuals,
    initial_variance,
    long_run_volatility,
    volatility,
)

# Returns that seed the filter: about one half-life of the default.
SEED_RETURNS = 30
# Degrees of freedom of the stand-in for a factor that knows nothing but its size: as heavy as daily returns are.
NOISE_FREEDOM = 4


class FactorArrays(eqx.Module):
    """The numbers of a `FactorHistory`, for tracing; `proxy`, `leaning` and `bars_per_day` are known before.

    `live` says which bars are any: a window that is longer than the history begins with bars that are none (None: all
    are). `leaning` are the factors that move by beta times their proxy and by noise of their own; `settlements` those
    that have the law of their proxy and are independent of it, each with the place of its time among all settlements.
    """

    returns: Float[Any, "bars factors"]
    bars: Float[Any, "bars factors"]
    gap_return: Float[Any, " factors"]
    gap_bars: Float[Any, " factors"]
    own: Bool[Any, " factors"]
    beta: Float[Any, " factors"]
    level: Float[Any, " factors"]
    noise: Float[Any, " factors"]
    proxy: tuple[int, ...] = eqx.field(static=True)
    bars_per_day: float = eqx.field(static=True)
    live: Bool[Any, " bars"] | None = None
    leaning: tuple[int, ...] = eqx.field(static=True, default=())
    settlements: tuple[tuple[int, int], ...] = eqx.field(static=True, default=())


class Observed(eqx.Module):
    """A history as the filter has seen it: the variance known before each bar, today's, and the long run (per bar)."""

    factors: FactorArrays
    variance: Float[Array, "bars factors"]
    today: Float[Array, " factors"]
    long_run: Float[Array, " factors"]


class FillDraws(eqx.Module):
    """What fills the gaps: orders in which residuals are borrowed, stand-in noise, an order of bars by settlement.

    It depends on the number of bars and the names of the factors, and on no price.
    """

    orders: Int[Any, "bars factors"]
    noise: Float[Any, "bars factors"]
    shuffle: Int[Any, "settlements bars"]


class VolatilityFilter(eqx.Module):
    """Decays, floors and proxy sizes; all of them leaves."""

    half_life_days: Float[Any, ""]
    volatility_floor: Float[Any, ""]
    denominator_floor: Float[Any, ""]
    residual_cap: Float[Any, ""]
    proxy_beta: Float[Any, ""]
    proxy_residual: Float[Any, ""]
    safety_factor: Float[Any, ""]

    @classmethod
    def from_config(cls, config: Config) -> "VolatilityFilter":
        """The filter that a configuration describes."""
        settings, proxy = config.scenarios, config.proxy
        return cls(
            half_life_days=np.asarray(settings.half_life_days),
            volatility_floor=np.asarray(settings.volatility_floor),
            denominator_floor=np.asarray(settings.denominator_floor),
            residual_cap=np.asarray(settings.residual_cap),
            proxy_beta=np.asarray(proxy.beta),
            proxy_residual=np.asarray(proxy.residual),
            safety_factor=np.asarray(proxy.safety_factor),
        )

    def draw(self, seed: int, history: FactorHistory) -> FillDraws:
        """Resampled bars and stand-in noise, the same for the same seed and factor names."""
        bars = len(history.times)
        strata = stats.t.ppf((np.arange(bars) + 0.5) / bars, NOISE_FREEDOM)
        size = np.sqrt(np.mean(strata**2))
        strata = strata / (size if size > 0 else 1)
        noise = np.zeros((bars, len(history.names)))
        for k, name in enumerate(history.names):
            noise[:, k] = stream(seed, f"noise:{name}").permutation(strata)
        orders = [stream(seed, f"settlement:{time}").permutation(bars) for time in _settlement_times(history)]
        borrowed = resampling_orders(history.names, bars, seed=seed)
        return FillDraws(orders=borrowed, noise=noise, shuffle=np.reshape(np.array(orders, np.int64), (-1, bars)))

    def step(self, variance: Array, bar: tuple[Array, Array], bars_per_day: float) -> Float[Array, " factors"]:
        """Carry each factor's variance (per bar) forward by one bar of (returns, bars spanned)."""
        return ewma_update(variance, *bar, half_life=self.half_life_days * bars_per_day)

    def observe(self, factors: FactorArrays) -> Observed:
        """Run the filter over a whole history; the time since the last bar enters as one return over its length.

        A gap never lowers today's variance: the bars that are missing could have moved both ways.
        """
        half_life = self.half_life_days * factors.bars_per_day
        seed = initial_variance(factors.returns, factors.bars, count=SEED_RETURNS)
        path, final = ewma_variance(factors.returns, factors.bars, seed, half_life=half_life)
        since = self.step(final, (factors.gap_return, factors.gap_bars), factors.bars_per_day)
        long_run = long_run_volatility(factors.returns, factors.bars)
        return Observed(factors, path, jnp.maximum(final, since), long_run)

    def plain(self, observed: Observed, draws: FillDraws) -> Float[Array, "bars factors"]:
        """Past returns as they were, one bar each, gaps filled."""
        factors = observed.factors
        return self._filled(factors.returns / jnp.sqrt(factors.bars), factors, draws)

    def rescaled(self, observed: Observed, draws: FillDraws) -> Float[Array, "bars factors"]:
        """Past returns at today's volatility, one bar each, gaps filled."""
        residuals, _ = self._residuals(observed)
        known = ~jnp.isnan(residuals)
        today = jnp.maximum(volatility(observed.today), self.volatility_floor * observed.long_run)
        # Multiplied only where it is known: a gradient through NaN is NaN, even where its weight is zero.
        shocks = jnp.where(known, jnp.where(known, residuals, 0) * today, jnp.nan)
        return self._filled(shocks, observed.factors, draws)

    def capped(self, observed: Observed) -> Int[Array, " factors"]:
        """How many past returns of each factor were cut at the residual cap."""
        return self._residuals(observed)[1]

    def _residuals(self, observed: Observed) -> tuple[Array, Array]:
        return filtered_residuals(
            observed.factors.returns,
            observed.factors.bars,
            volatility(observed.variance),
            observed.long_run,
            least_share=self.denominator_floor,
            cap=self.residual_cap,
        )

    def _filled(self, shocks: Array, factors: FactorArrays, draws: FillDraws) -> Float[Array, "bars factors"]:
        noisy = ~jnp.isnan(factors.noise)
        shocks = jnp.where(noisy, jnp.where(noisy, factors.noise, 0) * draws.noise, shocks)
        proxy = np.asarray(factors.proxy, int)
        rows = resampled_rows(~jnp.isnan(factors.returns), draws.orders)
        filled = fill(
            shocks,
            order=levels(proxy),
            proxy=proxy,
            own=factors.own | noisy,
            beta=factors.beta,
            level=factors.level,
            rows=rows,
            default_beta=self.proxy_beta,
            residual=self.proxy_residual,
            safety_factor=self.safety_factor,
        )
        for path, order in factors.settlements:
            # The same price's move of some other day: of its law, independent of today's, and together with others'.
            filled = filled.at[:, path].set(filled[draws.shuffle[order], proxy[path]])
        if not factors.leaning:
            return filled
        leaning = np.asarray(factors.leaning)
        followed = proxy[leaning]
        lean = factors.beta[leaning] * filled[:, followed] / factors.level[followed]
        return filled.at[:, leaning].add(lean)


def factor_arrays(history: FactorHistory) -> FactorArrays:
    """The numbers of a history, ready for tracing; what stands on noise keeps it, all others have NaN there."""
    times = _settlement_times(history)
    return FactorArrays(
        returns=history.returns,
        bars=history.bars,
        gap_return=history.gap_return,
        gap_bars=history.gap_bars,
        own=history.own,
        beta=history.beta,
        level=history.level,
        noise=np.where(history.noisy, history.noise, np.nan),
        live=np.arange(len(history.times)) >= history.padding if history.padding else None,
        proxy=tuple(history.proxy.tolist()),
        bars_per_day=history.grid.bars_per_day,
        leaning=tuple(np.flatnonzero(history.leaning).tolist()),
        settlements=tuple(
            (int(path), times.index(expiry))
            for path, (_, expiry) in zip(np.flatnonzero(history.is_settlement), history.settlements, strict=True)
        ),
    )


def _settlement_times(history: FactorHistory) -> list[np.datetime64]:
    return sorted({expiry for _, expiry in history.settlements})


def horizon_bars(horizon_days: float, bars_per_day: float) -> tuple[int, float]:
    """Bars to sum, and the square root of what is left when the horizon is no whole number of bars."""
    wanted = horizon_days * bars_per_day
    bars = max(1, round(wanted))
    return bars, float(np.sqrt(wanted / bars))
