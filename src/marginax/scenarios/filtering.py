"""The volatility filter that scenarios from history and draws alike stand on: what the past was worth on its day.

Filtered historical simulation rescales each past return by today's volatility over that of its day, factor by factor.
A return over n bars after a gap counts as one bar of its size over sqrt(n). Everything here is traceable but the draws.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.scenarios.correlation import CorrelationUpdate
from marginax.scenarios.proxies import fill, levels, resampled_rows, resampling_orders, stream
from marginax.scenarios.volatility import (
    FilterPath,
    FilterState,
    Shared,
    VolatilityModel,
    filter_path,
    filter_step,
    volatility_model,
)
from marginax_kernels import filtered_residuals, volatility

# Degrees of freedom of the stand-in for a factor that knows nothing but its size: as heavy as daily returns are.
NOISE_FREEDOM = 4


class FactorArrays(eqx.Module):
    """The numbers of a `FactorHistory`, for tracing; what is static is known before.

    `live` says which bars are any: a window that is longer than the history begins with bars that are none (None: all
    are). `leaning` are the factors that move by beta times their proxy and by noise of their own; `settlements` those
    that have the law of their proxy and are independent of it, each with the place of its time among all settlements;
    `correlated` those whose correlation can be brought up to date, the first listed first. The first `underlyings`
    factors are prices; `absolute` are those that are shocked absolutely; `classes` rows of leaves by asset class.
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
    correlated: tuple[int, ...] = eqx.field(static=True, default=())
    underlyings: int = eqx.field(static=True, default=0)
    bars_per_year: float = eqx.field(static=True, default=365.0)
    absolute: tuple[bool, ...] = eqx.field(static=True, default=())
    classes: Int[Any, " factors"] | None = None

    def by_factor(self, leaves: Any) -> Any:
        """Leaves by asset class, laid out by factor; what holds for all stays as it is."""

        def laid_out(leaf: Any) -> Any:
            return leaf if isinstance(leaf, Shared) or not jnp.ndim(leaf) else leaf[self.classes]

        return jax.tree.map(laid_out, leaves, is_leaf=lambda leaf: isinstance(leaf, Shared))


class Observed(eqx.Module):
    """A history as the filter has seen it: the variance known before each bar, today's, and the long run (per bar)."""

    factors: FactorArrays
    variance: Float[Array, "bars factors"]
    today: Float[Array, " factors"]
    long_run: Float[Array, " factors"]


def with_paths(observed: Observed, history: FactorHistory) -> Observed:
    """What was observed, with the paths to settlement that `history` has beside its factors."""
    known = observed.factors
    arrays = replace(
        factor_arrays(history),
        returns=widened(known.returns, history, jnp.nan),
        bars=widened(known.bars, history, 1.0),
        own=widened(known.own, history, False),
        noise=widened(known.noise, history, jnp.nan),
        live=known.live,
    )
    variance, today, long_run = (
        widened(each, history, 0.0) for each in (observed.variance, observed.today, observed.long_run)
    )
    return Observed(arrays, variance, today, long_run)


def widened(values: Array, history: FactorHistory, fill: float) -> Array:
    """Values by factor, the last axis, with room for the paths to settlement of a history."""
    at = len(history.names) - history.volatilities - len(history.settlements)
    room = jnp.full((*values.shape[:-1], len(history.settlements)), fill, values.dtype)
    return jnp.concatenate([values[..., :at], room, values[..., at:]], axis=-1)


class FillDraws(eqx.Module):
    """What fills the gaps: orders in which residuals are borrowed, stand-in noise, an order of bars by settlement.

    It depends on the number of bars and the names of the factors, and on no price.
    """

    orders: Int[Any, "bars factors"]
    noise: Float[Any, "bars factors"]
    shuffle: Int[Any, "settlements bars"]


class VolatilityFilter(eqx.Module):
    """The filter, its floors and caps, proxy sizes and the update of correlations; all numbers are leaves, some of them
    by asset class."""

    model: VolatilityModel
    correlation: CorrelationUpdate
    volatility_floor: Float[Any, "*classes"]
    denominator_floor: Float[Any, "*classes"]
    residual_cap: Float[Any, "*classes"]
    proxy_beta: Float[Any, ""]
    proxy_residual: Float[Any, ""]
    safety_factor: Float[Any, ""]
    horizon_days: float = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "VolatilityFilter":
        """The filter that a configuration describes."""
        settings, proxy, classes = config.scenarios, config.proxy, config.classes
        return cls(
            model=volatility_model(config.filter, classes, half_life_days=settings.half_life_days),
            correlation=CorrelationUpdate.from_settings(config.correlation),
            volatility_floor=classes.leaf("volatility_floor", settings.volatility_floor),
            denominator_floor=classes.leaf("denominator_floor", settings.denominator_floor),
            residual_cap=classes.leaf("residual_cap", settings.residual_cap),
            proxy_beta=np.asarray(proxy.beta),
            proxy_residual=np.asarray(proxy.residual),
            safety_factor=np.asarray(proxy.safety_factor),
            horizon_days=config.risk.horizon_days,
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

    def step(self, state: FilterState, bar: tuple[Array, Array], factors: FactorArrays) -> FilterState:
        """Carry the filter forward by one bar of (returns, bars spanned)."""
        return filter_step(factors.by_factor(self.model), state, *bar, bars_per_day=factors.bars_per_day)

    def path(self, factors: FactorArrays) -> FilterPath:
        """What the filter knew before each bar and knows after the last."""
        ahead, _ = horizon_bars(self.horizon_days, factors.bars_per_day)
        model = factors.by_factor(self.model)
        return filter_path(model, factors.returns, factors.bars, ahead=ahead, bars_per_day=factors.bars_per_day)

    def ahead(self, state: FilterState, factors: FactorArrays) -> Float[Array, " factors"]:
        """The mean variance per bar over the horizon, from a state."""
        ahead, _ = horizon_bars(self.horizon_days, factors.bars_per_day)
        model = factors.by_factor(self.model)
        long_run = state.long_run.variance
        return model.forecast(state.model, long_run, ahead=ahead, bars_per_day=factors.bars_per_day)

    def observe(self, factors: FactorArrays) -> Observed:
        """Run the filter over a whole history."""
        return self.observed(factors, self.path(factors))

    def observed(self, factors: FactorArrays, path: FilterPath) -> Observed:
        """What a path of the filter came to; the time since the last bar enters as one return over its length.

        A gap never lowers today's variance: the bars that are missing could have moved both ways.
        """
        since = self.ahead(self.step(path.state, (factors.gap_return, factors.gap_bars), factors), factors)
        today = jnp.maximum(path.ahead[-1], since)
        return Observed(factors, path.variance[:-1], today, volatility(path.long_run[-1]))

    def today(self, variance: Float[Array, "*bars factors"], long_run: Array, factors: FactorArrays) -> Array:
        """Today's volatility per bar, floored, of variances and long-run volatilities that were known together."""
        return jnp.maximum(volatility(variance), factors.by_factor(self.volatility_floor) * long_run)

    def plain(self, observed: Observed, draws: FillDraws) -> Float[Array, "bars factors"]:
        """Past returns as they were, one bar each, gaps filled."""
        factors = observed.factors
        return self._filled(factors.returns / jnp.sqrt(factors.bars), factors, draws)

    def rescaled(
        self,
        observed: Observed,
        draws: FillDraws,
        *,
        window_from: int | None = None,
        wanted: Float[Array, "correlated correlated"] | None = None,
    ) -> Float[Array, "bars factors"]:
        """Past returns at today's volatility, one bar each, gaps filled.

        From `window_from` on they are at today's correlation too, where the filter follows it, or at the one that is
        `wanted`; those before are then of no use.
        """
        residuals, _ = self._residuals(observed)
        known = ~jnp.isnan(residuals)
        today = self.today(observed.today, observed.long_run, observed.factors)
        # Multiplied only where it is known: a gradient through NaN is NaN, even where its weight is zero.
        shocks = jnp.where(known, jnp.where(known, residuals, 0) * today, jnp.nan)
        return self._filled(shocks, observed.factors, draws, window_from=window_from, wanted=wanted)

    def correlation_now(
        self, observed: Observed, draws: FillDraws, *, window_from: int
    ) -> Float[Array, "correlated correlated"]:
        """The correlation of the scenarios from `window_from` on, factors in the order of `correlated`."""
        factors = observed.factors
        filled = self.rescaled(observed, draws)[:, np.asarray(factors.correlated, int)]
        live = self._window(factors, len(filled), window_from)
        return self.correlation.now(filled, live, bars_per_day=factors.bars_per_day)

    def _window(self, factors: FactorArrays, bars: int, first: int) -> Bool[Array, " bars"]:
        """The bars from the first of the window on that are any."""
        inside = jnp.arange(bars) >= first
        return inside if factors.live is None else inside & factors.live

    def capped(self, observed: Observed) -> Int[Array, " factors"]:
        """How many past returns of each factor were cut at the residual cap."""
        return self._residuals(observed)[1]

    def _residuals(self, observed: Observed) -> tuple[Array, Array]:
        return filtered_residuals(
            observed.factors.returns,
            observed.factors.bars,
            volatility(observed.variance),
            observed.long_run,
            least_share=observed.factors.by_factor(self.denominator_floor),
            cap=observed.factors.by_factor(self.residual_cap),
        )

    def _filled(
        self,
        shocks: Array,
        factors: FactorArrays,
        draws: FillDraws,
        *,
        window_from: int | None = None,
        wanted: Array | None = None,
    ) -> Float[Array, "bars factors"]:
        noisy = ~jnp.isnan(factors.noise)
        shocks = jnp.where(noisy, jnp.where(noisy, factors.noise, 0) * draws.noise, shocks)
        proxy = np.asarray(factors.proxy, int)

        def without_holes(shocks: Array) -> Array:
            return fill(
                shocks,
                order=levels(proxy),
                proxy=proxy,
                own=factors.own | noisy,
                beta=factors.beta,
                level=factors.level,
                rows=resampled_rows(~jnp.isnan(factors.returns), draws.orders),
                default_beta=self.proxy_beta,
                residual=self.proxy_residual,
                safety_factor=self.safety_factor,
            )

        # Most markets have no hole to fill, and looking for what would fill it costs as much as all else.
        paths = np.array([path for path, _ in factors.settlements], int)
        # Asked of the returns: what is not known does not hang on a parameter, so several sets of them are one batch.
        holes = jnp.any((jnp.isnan(factors.returns) & ~noisy).at[:, paths].set(False))
        filled = lax.cond(holes, without_holes, lambda shocks: shocks, shocks)
        if window_from is not None and (self.correlation.follow or wanted is not None):
            columns = np.asarray(factors.correlated, int)
            live = self._window(factors, len(filled), window_from)
            moved = self.correlation.updated(filled[:, columns], live, bars_per_day=factors.bars_per_day, wanted=wanted)
            filled = filled.at[:, columns].set(moved)
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
    is_price = np.arange(len(history.names)) < history.underlyings
    correlated = np.flatnonzero(is_price | (history.is_volatility & ~history.leaning))
    by_listing = sorted(correlated.tolist(), key=lambda k: (history.listed[k], history.names[k]))
    return FactorArrays(
        returns=history.returns,
        bars=history.bars,
        gap_return=history.gap_return,
        gap_bars=history.gap_bars,
        own=history.own,
        beta=history.beta,
        level=history.level,
        noise=np.where(history.noisy, history.noise, np.nan),
        classes=history.classes,
        live=np.arange(len(history.times)) >= history.padding if history.padding else None,
        proxy=tuple(history.proxy.tolist()),
        bars_per_day=history.grid.bars_per_day,
        leaning=tuple(np.flatnonzero(history.leaning).tolist()),
        settlements=tuple(
            (int(path), times.index(expiry))
            for path, (_, expiry) in zip(np.flatnonzero(history.is_settlement), history.settlements, strict=True)
        ),
        correlated=tuple(by_listing),
        underlyings=history.underlyings,
        bars_per_year=history.grid.bars_per_year,
        absolute=tuple(history.absolute.tolist()),
    )


def _settlement_times(history: FactorHistory) -> list[np.datetime64]:
    return sorted({expiry for _, expiry in history.settlements})


def horizon_bars(horizon_days: float, bars_per_day: float) -> tuple[int, float]:
    """Bars to sum, and the square root of what is left when the horizon is no whole number of bars."""
    wanted = horizon_days * bars_per_day
    bars = max(1, round(wanted))
    return bars, float(np.sqrt(wanted / bars))
