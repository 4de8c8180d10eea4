"""Scenarios by Monte Carlo: a Student t copula over all factors, drawn with scrambled Sobol points that aim at the
tail.

Factors keep their own volatility of today and a law of their own: t or normal, or their own filtered residuals.
Correlations are those of de-volatilised returns, exponentially weighted and shrunk towards the identity. The mixing
variable that all factors share decides the tail; its law is stretched and the likelihood ratio is the weight. Shocks
are bounded: with t log-shocks the expected shortfall of a short position does not exist. Horizons of several bars scale
the shocks of one by the square root of their number.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.correlation import standardised
from marginax.scenarios.filtering import FillDraws, Observed, VolatilityFilter, factor_arrays
from marginax_kernels import (
    MarginalMap,
    TailMap,
    apply_map,
    check_correlation,
    copula_draws,
    copula_freedom,
    copula_shocks,
    effective_sample_size,
    empirical_map,
    ewma_correlation,
    marginal_map,
    principal_root,
    scrambles_for,
    stretch_for,
    t_freedom,
    tail_map,
)


class MonteCarloDraws(eqx.Module):
    """What the host settles once per key: points, mixing, weights, laws and bounds; constants, not parameters.

    `stated` are correlations that the configuration gives (NaN: estimated); `bound` is the largest shock of each
    factor.
    """

    normals: Float[Any, "draws factors"]
    mixing: Float[Any, " draws"]
    weights: Float[Any, " draws"]
    stated: Float[Any, "factors factors"] | None
    bound: Float[Any, " factors"]
    marginal: MarginalMap | None
    tails: TailMap | None
    freedom: Float[Any, " factors"]
    copula_freedom: Float[Any, ""]
    stretch: Float[Any, ""]
    first: int = eqx.field(static=True)


class MonteCarloScenarios(eqx.Module):
    """Draws from a copula. Decay and shrinkage of the correlations are leaves; counts and laws are static."""

    correlation_half_life_days: Float[Any, ""]
    shrinkage: Float[Any, ""]
    config: Config = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "MonteCarloScenarios":
        """The source that a configuration describes."""
        settings = config.monte_carlo
        return cls(np.asarray(settings.correlation_half_life_days), np.asarray(settings.shrinkage), config)

    @property
    def count(self) -> int:
        """Scenarios drawn."""
        return self.config.monte_carlo.draws

    @property
    def scrambles(self) -> int:
        """Independent scrambles among them, in equal consecutive blocks."""
        settings = self.config.monte_carlo
        return settings.scrambles or scrambles_for(settings.draws)

    def draw(
        self, seed: int, history: FactorHistory, volatility: VolatilityFilter, filling: FillDraws
    ) -> MonteCarloDraws:
        """Points from the seed, laws by likelihood on the history. Raises BadInput for stated correlations that are
        none.

        Degrees of freedom are host inputs: no gradient flows through them.
        """
        settings = self.config.monte_carlo
        first = max(0, len(history.times) - self.config.scenarios.window)
        residuals, correlation = (
            np.asarray(each) for each in _fitted(self, volatility, factor_arrays(history), filling, first=first)
        )
        residuals = residuals[max(history.padding - first, 0) :]
        stated = self._stated(history)
        if stated is not None:
            _check(np.where(np.isnan(stated), correlation, stated))
        if settings.marginals == "normal":
            freedom = np.full(len(history.names), np.inf)
        elif settings.marginal_freedom is not None:
            freedom = np.full(len(history.names), settings.marginal_freedom)
        else:
            freedom = t_freedom(residuals)
        joint = settings.copula_freedom
        if joint is None:
            own = np.flatnonzero(history.own[: history.underlyings] & ~history.frozen[: history.underlyings])
            own = own if len(own) else np.arange(history.underlyings)
            joint = copula_freedom(residuals[:, own], correlation[np.ix_(own, own)])
        stretch = stretch_for(self.config.risk.tail) if settings.stretch is None else settings.stretch
        normals, mixing, weights = copula_draws(
            len(history.names),
            draws=settings.draws,
            scrambles=self.scrambles,
            seed=seed,
            freedom=joint,
            stretch=stretch,
        )
        empirical = settings.marginals == "empirical"
        return MonteCarloDraws(
            normals=normals,
            mixing=mixing,
            weights=weights,
            stated=stated,
            bound=self._bounds(history),
            marginal=None if empirical else marginal_map(joint, freedom),
            tails=tail_map(joint) if empirical else None,
            freedom=freedom,
            copula_freedom=np.asarray(joint),
            stretch=np.asarray(stretch),
            first=first,
        )

    def shocks(
        self,
        volatility: VolatilityFilter,
        observed: Observed,
        filling: FillDraws,
        draws: MonteCarloDraws,
        wanted: Array | None = None,
    ) -> tuple[Float[Array, "scenarios factors"], Float[Array, " scenarios"]]:
        """Shocks over the horizon and weights that sum to one; at a `wanted` correlation where one is given.

        Gradient: exact in the filter. In the correlations the points keep their place on the principal components (see
        `principal_root`): right for the law, and not the slope of this one finite set of draws.
        """
        size, residuals, correlation = self._estimated(volatility, observed, filling, draws)
        if wanted is not None:
            place = np.asarray(observed.factors.correlated, int)
            correlation = correlation.at[place[:, None], place].set(wanted)
        root = principal_root(correlation)
        x = copula_shocks(jnp.asarray(draws.normals), root, jnp.asarray(draws.mixing))
        if draws.marginal is not None:
            unit = apply_map(draws.marginal, x)
        else:
            assert draws.tails is not None
            unit = empirical_map(jnp.sort(residuals, axis=0), x, table=draws.tails, freedom=draws.freedom)
        bars = self.config.risk.horizon_days * observed.factors.bars_per_day
        shocks = unit * size * np.sqrt(bars)
        return jnp.clip(shocks, -draws.bound, draws.bound), jnp.asarray(draws.weights)

    def correlation(
        self, volatility: VolatilityFilter, observed: Observed, filling: FillDraws, draws: MonteCarloDraws
    ) -> Float[Array, "correlated correlated"]:
        """The correlation that the scenarios have, factors in the order of `correlated`."""
        place = np.asarray(observed.factors.correlated, int)
        return self._estimated(volatility, observed, filling, draws)[2][place[:, None], place]

    def _estimated(
        self, volatility: VolatilityFilter, observed: Observed, filling: FillDraws, draws: MonteCarloDraws
    ) -> tuple[Array, Array, Array]:
        """Sizes, de-volatilised returns, and correlations: those that are stated, and the estimated ones."""
        rescaled = volatility.rescaled(observed, filling)[draws.first :]
        live = observed.factors.live
        size, residuals = standardised(rescaled, None if live is None else live[draws.first :])
        correlation = self.estimate(residuals, observed.factors.bars_per_day)
        if draws.stated is not None:
            correlation = jnp.where(jnp.isnan(draws.stated), correlation, jnp.nan_to_num(draws.stated))
        return size, residuals, correlation

    def labels(self) -> list[str]:
        """The number of each draw."""
        width = len(str(self.count))
        return [f"draw {k:0{width}d}" for k in range(1, self.count + 1)]

    def effective_count(self, history: FactorHistory) -> float:
        """Scenarios drawn: the stretch gives the tail more of them than its share, never fewer."""
        return float(self.count)

    def diagnostics(self, history: FactorHistory, draws: MonteCarloDraws, shocks: np.ndarray) -> Mapping[str, Any]:
        """Laws, effective sample size, and how often each factor's shock was cut at its bound."""
        cut = np.abs(shocks[: self.count]) >= draws.bound * (1 - 1e-9)
        names = np.array(history.names)
        # The mixing variable that all factors share decides the tail of nearly every book.
        weights, order = np.asarray(draws.weights), np.argsort(-np.asarray(draws.mixing), kind="stable")
        freedom = dict(zip(history.names[: history.underlyings], draws.freedom.tolist(), strict=False))
        return {
            "draws": self.count,
            "scrambles": self.scrambles,
            "marginals": self.config.monte_carlo.marginals,
            "copula_freedom": round(float(draws.copula_freedom), 3),
            "marginal_freedom": {name: round(nu, 3) for name, nu in freedom.items() if np.isfinite(nu)},
            "stretch": round(float(draws.stretch), 4),
            "draws_in_tail": int((np.cumsum(weights[order]) < self.config.risk.tail).sum()) + 1,
            "effective_sample_size": round(float(effective_sample_size(jnp.asarray(weights))), 1),
            "shocks_bounded": {str(names[k]): int(cut[:, k].sum()) for k in np.flatnonzero(cut.any(axis=0))},
            "mass_bounded": float(weights @ cut.any(axis=1)),
            "price_caps_of_nothing": sorted(set(self.config.monte_carlo.price_caps) - set(history.names)),
        }

    def estimate(self, residuals: Array, bars_per_day: float) -> Float[Array, "factors factors"]:
        """Correlations of de-volatilised returns (bars x factors), the latest bar last."""
        half_life = self.correlation_half_life_days * bars_per_day
        return ewma_correlation(residuals, half_life=half_life, shrinkage=self.shrinkage)

    def _bounds(self, history: FactorHistory) -> np.ndarray:
        """Price multiples and multiples of volatility as logs; a basis, or what is shocked absolutely, by its level.

        A bridge of two bounded moves may pass the bound, by at most 1.21 times.
        """
        settings, swing = self.config.monte_carlo, self.config.volatility.cap
        cap = np.array([settings.price_caps.get(name, settings.price_cap) for name in history.names])
        cap[history.is_settlement] = [
            settings.price_caps.get(name, settings.price_cap) for name, _ in history.settlements
        ]
        logs = np.where(history.is_volatility, np.log(swing), np.log(cap))
        return np.where(history.absolute, (cap - 1) * history.level, logs)

    def _stated(self, history: FactorHistory) -> np.ndarray | None:
        """The stated correlations by factor; NaN where none is."""
        pairs = self.config.monte_carlo.correlations
        if not pairs:
            return None
        place = {name: k for k, name in enumerate(history.names)}
        stated = np.full((len(place), len(place)), np.nan)
        for first, others in pairs.items():
            for second, number in others.items():
                unknown = [name for name in (first, second) if name not in place]
                if unknown:
                    raise BadInput([_problem(f"{unknown[0]} is no factor", "Name underlyings of the market")])
                stated[place[first], place[second]] = stated[place[second], place[first]] = number
        return stated


@partial(jax.jit, static_argnames="first")
def _fitted(
    source: MonteCarloScenarios, volatility: VolatilityFilter, factors: Any, filling: FillDraws, first: int
) -> tuple[Array, Array]:
    """De-volatilised returns and their correlations, for what the host settles."""
    rescaled = volatility.rescaled(volatility.observe(factors), filling)[first:]
    _, residuals = standardised(rescaled, None if factors.live is None else factors.live[first:])
    return residuals, source.estimate(residuals, factors.bars_per_day)


def _check(correlation: np.ndarray) -> None:
    try:
        check_correlation(correlation)
    except ValueError as error:
        what = f"with the estimated correlations of the others they are no correlation matrix: {error}"
        remedy = "State correlations nearer to the estimated ones, or raise `shrinkage`"
        raise BadInput([_problem(what, remedy)]) from None


def _problem(what: str, remedy: str) -> Problem:
    return Problem("configuration", "monte_carlo.correlations", None, what, remedy)
