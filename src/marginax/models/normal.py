"""Margin by the normal law: the volatility of the joint P&L over the scenarios, times a quantile of the normal law.

On age-weighted history this is the RiskMetrics variance of the account itself: with weights (1 - d) d^age the weighted
mean square of its past P&L is its exponentially weighted variance, correlations included.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float
from scipy import stats

from marginax.config import Config
from marginax.models.protocol import Tile
from marginax.models.scenario_model import Charges, ScenarioModel, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, shares_by
from marginax_kernels import volatility


class Normal(ScenarioModel):
    """VaR = z sigma, ES = phi(z) / tail x sigma, with sigma^2 the weighted mean square of P&L; the mean is taken as 0.

    Source: RiskMetrics Technical Document (1996), section 6.
    """

    def charges(self, prepared: ScenarioPrepared, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """Multiples of the volatility."""
        sigma = _deviation(joint, prepared.weights)
        alone = _deviation(positions, prepared.weights) if has_collateral(tile) else sigma
        charge = _shortfall(self.charge_tail)
        nothing = jnp.full_like(sigma, jnp.nan)
        return Charges(
            charge * alone,
            charge * sigma,
            float(stats.norm.isf(self.tail)) * sigma,
            _shortfall(self.tail) * sigma,
            nothing,
        )

    def shares(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Array, Array]:
        """Covariance with the joint loss over its volatility: shares of a volatility sum to it."""
        return shares_by(
            lambda losses: _shortfall(self.charge_tail) * _gradient(losses, prepared.weights), prepared, tile
        )


def build(config: Config) -> Normal:
    """The model a configuration describes; what the entry point `normal` names."""
    return Normal.from_config(config, name="normal")


def _shortfall(tail: float) -> float:
    """Expected shortfall of the standard normal law."""
    return float(stats.norm.pdf(stats.norm.isf(tail)) / tail)


def _deviation(losses: Array, weights: Array) -> Float[Array, " accounts"]:
    return volatility(jnp.sum(weights * losses**2, axis=1))


def _gradient(losses: Array, weights: Array) -> Float[Array, "accounts scenarios"]:
    sigma = _deviation(losses, weights)[:, None]
    return jnp.where(sigma > 0, weights * losses / jnp.where(sigma > 0, sigma, 1), 0)
