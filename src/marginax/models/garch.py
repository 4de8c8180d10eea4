"""Margin by a GARCH(1,1) with Student t innovations, fitted to the P&L that the account would have had in the past.

The past is the historical scenarios in their order: what today's positions would have made in each of those bars. The
forecast is that of one bar; a horizon of h bars, whose scenarios are sums of h, is what those sums do from one bar to
the next.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.models.garch_fit import backcast, fit_garch
from marginax.models.protocol import Tile
from marginax.models.scenario_model import Charges, ScenarioModel, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, shares_by, tile_losses
from marginax.problems import BadInput, Problem
from marginax_kernels import discounted_sum, student_quantile_and_shortfall, volatility

SINGLE = ('is "float32"', 'Say "float64": in float32 a likelihood has no sharp maximum')


class Fitted(NamedTuple):
    """The parameters of each account; omega in account currency squared a bar."""

    omega: Float[Array, " accounts"]
    alpha: Float[Array, " accounts"]
    beta: Float[Array, " accounts"]
    freedom: Float[Array, " accounts"]


class Garch(ScenarioModel):
    """VaR and ES of a Student t whose variance a GARCH(1,1) forecasts. Source: Bollerslev (1987).

    The fit needs float64. Gradient: none through the fit; exact in the scenarios where `fitted` is given.
    """

    def sample(self, prepared: ScenarioPrepared, tile: Tile) -> Float[Array, "accounts bars"]:
        """The joint P&L of each account, bar by bar."""
        _, joint = tile_losses(prepared, tile)
        return _in_order(joint, prepared.weights)

    def estimate(self, sample: Float[Array, "series bars"]) -> Fitted:
        """The most likely parameters of each series."""
        return _fit(sample)

    def charges(self, prepared: ScenarioPrepared, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """Multiples of the volatility that is forecast."""
        together, laws = _forecast(_in_order(joint, prepared.weights), fitted)
        alone, own = together, laws
        if has_collateral(tile):
            alone, own = _forecast(_in_order(positions, prepared.weights), None)
        quantile, shortfall = student_quantile_and_shortfall(laws.freedom, tail=self.tail)
        core, charge = (student_quantile_and_shortfall(each.freedom, tail=self.charge_tail)[1] for each in (own, laws))
        nothing = jnp.full_like(together, jnp.nan)
        charges = Charges(core * alone, charge * together, quantile * together, shortfall * together, nothing)
        return Charges(*(each.astype(joint.dtype) for each in charges))

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """Shares by the gradient of the volatility with the parameters held, scaled so that they sum to the charge.

        The scale is there because omega, held, does not grow with the positions.
        """
        return shares_by(lambda losses: self._gradient(losses, prepared.weights), prepared, tile)

    def _gradient(self, losses: Array, weights: Array) -> Float[Array, "accounts scenarios"]:
        """Weights of losses that sum them to the charge."""
        laws = _fit(_in_order(losses, weights))
        charge = student_quantile_and_shortfall(laws.freedom, tail=self.charge_tail)[1]

        def total(losses: Array) -> tuple[Array, Array]:
            sigma = charge * _forecast(_in_order(losses, weights), laws)[0]
            return jnp.sum(sigma), sigma

        slope, sigma = jax.grad(total, has_aux=True)(losses)
        euler = jnp.sum(slope * losses, axis=1)
        scale = jnp.where(euler > 0, sigma / jnp.where(euler > 0, euler, 1), 0)
        return (slope * scale[:, None]).astype(losses.dtype)


def build(config: Config) -> Garch:
    """The model a configuration describes; what the entry point `garch` names.

    Raises BadInput for scenarios that are no sequence of past bars, and for float32.
    """
    scenarios = config.scenarios
    wrong = None
    if scenarios.source != "historical":
        wrong = "scenarios.source", f"is {scenarios.source!r}", 'Say "historical": the fit needs past bars in order'
    elif scenarios.stress or scenarios.events or scenarios.grid.prices:
        wrong = "scenarios.stress", "was given, and a GARCH has no place for stress", "Leave it out"
    elif config.engine.precision != "float64":
        wrong = "engine.precision", *SINGLE
    if wrong is not None:
        key, what, remedy = wrong
        raise BadInput([Problem("configuration", key, None, what, remedy)])
    return Garch.from_config(config, name="garch")


def _in_order(losses: Array, weights: Array) -> Float[Array, "accounts bars"]:
    """P&L bar by bar; NaN for the bars before the history, which have no weight."""
    return jnp.where(weights > 0, -losses, jnp.nan)


def _fit(series: Array) -> Fitted:
    if jnp.result_type(float) != jnp.float64:
        raise BadInput([Problem("engine", "precision", None, *SINGLE)])
    found = fit_garch(series.astype(jnp.float64), law="t")
    laws = Fitted(found.omega, found.alpha, found.beta, found.freedom)
    return jax.lax.stop_gradient(laws)


def _forecast(series: Array, fitted: Fitted | None) -> tuple[Float[Array, " accounts"], Fitted]:
    """The volatility of the next bar, and the parameters behind it.

    The recursion is linear, so the variance after n returns is a sum over them, which costs less than n steps:
    omega (1 - beta^n) / (1 - beta) + alpha (sum of beta^age r^2) + beta^n v, with v the variance before the first.
    """
    laws = _fit(series) if fitted is None else fitted
    omega, alpha, beta = (each.astype(series.dtype) for each in (laws.omega, laws.alpha, laws.beta))
    known = ~jnp.isnan(series)
    squares = jnp.where(known, series, 0) ** 2
    count = jnp.sum(known, axis=1)
    seed = backcast(series, series.shape[1] - count)
    faded = beta**count
    driven = omega * (1 - faded) / (1 - beta) + alpha * discounted_sum(squares, beta)
    return volatility(driven + faded * (omega + (alpha + beta) * seed)), laws
