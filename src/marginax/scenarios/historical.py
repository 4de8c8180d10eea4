"""Scenarios from history: filtered, as it was, or aged; and named stress windows cut from it by date.

Filtered historical simulation rescales each past return by today's volatility over that of its day, factor by factor.
A return over n bars after a gap counts as one bar of its size over sqrt(n). Horizons of several bars are sums of
consecutive bars, overlapping. Everything but the labels is traceable.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from marginax.config import Config, StressWindow
from marginax.history import FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.proxies import fill, levels, resampled_rows, stream
from marginax.scenarios.sets import ScenarioSet
from marginax_kernels import (
    ewma_update,
    ewma_variance,
    filtered_residuals,
    initial_variance,
    long_run_volatility,
    overlapping_sums,
    volatility,
)

# Returns that seed the filter: about one half-life of the default.
SEED_RETURNS = 30
# Degrees of freedom of the stand-in for a factor that knows nothing but its size: as heavy as daily returns are.
NOISE_FREEDOM = 4


class FactorArrays(eqx.Module):
    """The numbers of a `FactorHistory`, for tracing; `proxy` and `bars_per_day` are known before."""

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


class Observed(eqx.Module):
    """A history as the filter has seen it: the variance known before each bar, today's, and the long run (per bar)."""

    factors: FactorArrays
    variance: Float[Array, "bars factors"]
    today: Float[Array, " factors"]
    long_run: Float[Array, " factors"]


class Cut(eqx.Module):
    """Which bars become scenarios: those from `first` on, and those of each stress window (first, last but one)."""

    first: int = eqx.field(static=True)
    windows: tuple[tuple[int, int], ...] = eqx.field(static=True)


class Draws(eqx.Module):
    """What the host settles once: bars to borrow residuals from, stand-in noise, and which bars become scenarios."""

    rows: Int[Any, "bars factors"]
    noise: Float[Any, "bars factors"]
    cut: Cut


class HistoricalScenarios(eqx.Module):
    """A source of scenarios. Decays, floors and proxy sizes are leaves; windows, counts and the horizon are static."""

    half_life_days: Float[Any, ""]
    age_half_life_days: Float[Any, ""]
    volatility_floor: Float[Any, ""]
    denominator_floor: Float[Any, ""]
    residual_cap: Float[Any, ""]
    proxy_beta: Float[Any, ""]
    proxy_residual: Float[Any, ""]
    safety_factor: Float[Any, ""]
    source: str = eqx.field(static=True)
    window: int = eqx.field(static=True)
    horizon_days: float = eqx.field(static=True)
    stress: tuple[StressWindow, ...] = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "HistoricalScenarios":
        """The source that a configuration describes."""
        settings, proxy = config.scenarios, config.proxy
        return cls(
            half_life_days=np.asarray(settings.half_life_days),
            age_half_life_days=np.asarray(settings.age_half_life_days),
            volatility_floor=np.asarray(settings.volatility_floor),
            denominator_floor=np.asarray(settings.denominator_floor),
            residual_cap=np.asarray(settings.residual_cap),
            proxy_beta=np.asarray(proxy.beta),
            proxy_residual=np.asarray(proxy.residual),
            safety_factor=np.asarray(proxy.safety_factor),
            source=settings.source,
            window=settings.window,
            horizon_days=config.risk.horizon_days,
            stress=settings.stress,
        )

    def draw(self, seed: int, history: FactorHistory) -> Draws:
        """Resampled bars and stand-in noise, the same for the same seed and factor names."""
        bars = len(history.times)
        strata = stats.t.ppf((np.arange(bars) + 0.5) / bars, NOISE_FREEDOM)
        size = np.sqrt(np.mean(strata**2))
        strata = strata / (size if size > 0 else 1)
        noise = np.zeros((bars, len(history.names)))
        for k in np.flatnonzero(history.noisy):
            noise[:, k] = stream(seed, f"noise:{history.names[k]}").permutation(strata)
        rows = resampled_rows(history.names, ~np.isnan(history.returns), seed=seed)
        return Draws(rows=rows, noise=noise, cut=self.cut(history))

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

    def shocks(
        self, observed: Observed, draws: Draws
    ) -> tuple[Float[Array, "scenarios factors"], Float[Array, " scenarios"]]:
        """Shocks over the horizon and their weights: the history's scenarios first, then each stress window's."""
        factors, cut = observed.factors, draws.cut
        plain = self._filled(factors.returns / jnp.sqrt(factors.bars), factors, draws)
        recent = plain
        if self.source == "filtered_historical":
            recent = self._filled(self._filtered(observed), factors, draws)
        bars, scale = self.horizon(factors.bars_per_day)
        blocks = [overlapping_sums(recent[cut.first :], bars=bars)]
        blocks += [overlapping_sums(plain[begin:end], bars=bars) for begin, end in cut.windows]
        masses = [window.mass for window in self.stress]
        raw = self._age_weights(blocks[0].shape[0], factors.bars_per_day)
        weights = [(1 - sum(masses)) * raw / jnp.sum(raw)]
        weights += [jnp.full(len(block), mass / len(block)) for block, mass in zip(blocks[1:], masses, strict=True)]
        return jnp.concatenate(blocks) * scale, jnp.concatenate(weights)

    def scenario_set(self, history: FactorHistory, *, seed: int) -> ScenarioSet:
        """The scenarios of this source on a history, as a set to look at or to join with others."""
        with jax.enable_x64(True):
            observed = self.observe(factor_arrays(history))
            shocks, weights = self.shocks(observed, self.draw(seed, history))
            return ScenarioSet(
                factors=history.names,
                shocks=np.asarray(shocks),
                weights=np.asarray(weights),
                labels=self.labels(history),
            )

    def capped(self, observed: Observed) -> Int[Array, " factors"]:
        """How many past returns of each factor were cut at the residual cap; none unless returns are rescaled."""
        if self.source != "filtered_historical":
            return jnp.zeros(len(observed.factors.own), int)
        return self._residuals(observed)[1]

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """One label per scenario: the bar it ends at, or the stretch of bars, after the window's name if it has one."""
        bars, _ = self.horizon(history.grid.bars_per_day)
        unit: Literal["D", "m"] = "D" if history.grid.bars_per_day <= 1 else "m"
        stamps = np.char.replace(np.datetime_as_string(history.times, unit=unit), "T", " ")

        def stretch(last: int) -> str:
            return str(stamps[last]) if bars == 1 else f"{stamps[last - bars + 1]} to {stamps[last]}"

        cut = self.cut(history)
        labels = [stretch(last) for last in range(cut.first + bars - 1, len(stamps))]
        for window, (begin, end) in zip(self.stress, cut.windows, strict=True):
            labels += [f"{window.name}: {stretch(last)}" for last in range(begin + bars - 1, end)]
        return tuple(labels)

    def effective_count(self, history: FactorHistory) -> float:
        """How many scenarios of the heaviest weight make up the history: their number where weights are equal."""
        bars, _ = self.horizon(history.grid.bars_per_day)
        count = len(history.times) - self.cut(history).first - bars + 1
        weights = np.asarray(self._age_weights(count, history.grid.bars_per_day), float)
        return float(weights.sum() / weights.max())

    def _age_weights(self, count: int, bars_per_day: float) -> Float[Array, " scenarios"]:
        """Weights of the history's scenarios, the last one 1: equal, or halved with each half-life of age."""
        if self.source != "age_weighted":
            return jnp.ones(count)
        return jnp.exp2(-jnp.arange(count - 1, -1, -1) / (self.age_half_life_days * bars_per_day))

    def horizon(self, bars_per_day: float) -> tuple[int, float]:
        """Bars to sum, and the square root of what is left when the horizon is no whole number of bars."""
        wanted = self.horizon_days * bars_per_day
        bars = max(1, round(wanted))
        return bars, float(np.sqrt(wanted / bars))

    def cut(self, history: FactorHistory) -> Cut:
        """The bars that become scenarios. Raises BadInput for a horizon or a window that the history does not cover."""
        bars, _ = self.horizon(history.grid.bars_per_day)
        count = len(history.times)
        if count < bars:
            what = f"the horizon of {self.horizon_days:g} days needs {bars} returns and the history has {count}"
            raise BadInput([_key_problem("risk.horizon_days", what, "Give more history, or shorten the horizon")])
        days = history.times.astype("datetime64[D]")
        windows = []
        for window in self.stress:
            begin = int(np.searchsorted(days, np.datetime64(window.first), side="left"))
            end = int(np.searchsorted(days, np.datetime64(window.last), side="right"))
            if end - begin < bars:
                what = (
                    f"'{window.name}' from {window.first} to {window.last} holds {end - begin} returns of the history "
                    f"and the horizon needs {bars}"
                )
                remedy = f"Choose dates between {days[0]} and {days[-1]}, or remove the window"
                raise BadInput([_key_problem("scenarios.stress", what, remedy)])
            windows.append((begin, end))
        return Cut(max(0, count - (self.window + bars - 1)), tuple(windows))

    def _residuals(self, observed: Observed) -> tuple[Array, Array]:
        return filtered_residuals(
            observed.factors.returns,
            observed.factors.bars,
            volatility(observed.variance),
            observed.long_run,
            least_share=self.denominator_floor,
            cap=self.residual_cap,
        )

    def _filtered(self, observed: Observed) -> Float[Array, "bars factors"]:
        residuals, _ = self._residuals(observed)
        known = ~jnp.isnan(residuals)
        today = jnp.maximum(volatility(observed.today), self.volatility_floor * observed.long_run)
        # Multiplied only where it is known: a gradient through NaN is NaN, even where its weight is zero.
        return jnp.where(known, jnp.where(known, residuals, 0) * today, jnp.nan)

    def _filled(self, shocks: Array, factors: FactorArrays, draws: Draws) -> Float[Array, "bars factors"]:
        noisy = ~jnp.isnan(factors.noise)
        shocks = jnp.where(noisy, jnp.where(noisy, factors.noise, 0) * draws.noise, shocks)
        proxy = np.asarray(factors.proxy, int)
        return fill(
            shocks,
            order=levels(proxy),
            proxy=proxy,
            own=factors.own | noisy,
            beta=factors.beta,
            level=factors.level,
            rows=draws.rows,
            default_beta=self.proxy_beta,
            residual=self.proxy_residual,
            safety_factor=self.safety_factor,
        )


def factor_arrays(history: FactorHistory) -> FactorArrays:
    """The numbers of a history, ready for tracing; what stands on noise keeps it, all others have NaN there."""
    return FactorArrays(
        returns=history.returns,
        bars=history.bars,
        gap_return=history.gap_return,
        gap_bars=history.gap_bars,
        own=history.own,
        beta=history.beta,
        level=history.level,
        noise=np.where(history.noisy, history.noise, np.nan),
        proxy=tuple(history.proxy.tolist()),
        bars_per_day=history.grid.bars_per_day,
    )


def _key_problem(key: str, what: str, remedy: str) -> Problem:
    return Problem("configuration", key, None, what, remedy)
