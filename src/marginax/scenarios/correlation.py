"""Past scenarios brought to today's correlation: what moves together now need not have in the window's mean.

Correlations are those of de-volatilised returns: of today exponentially weighted, of the past with equal weights, both
shrunk towards independence by the same share, which keeps them definite.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from marginax.market_sections import Correlation
from marginax_kernels import correlation_map, ewma_correlation, volatility


class CorrelationUpdate(eqx.Module):
    """Decay and shrinkage, both leaves, and whether past scenarios follow at all."""

    half_life_days: Float[Any, ""]
    shrinkage: Float[Any, ""]

    follow: bool = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Correlation) -> "CorrelationUpdate":
        """The update that a configuration describes."""
        return cls(np.asarray(settings.half_life_days), np.asarray(settings.shrinkage), settings.follow)

    def now(
        self, shocks: Float[Array, "bars factors"], live: Bool[Array, " bars"], *, bars_per_day: float
    ) -> Float[Array, "factors factors"]:
        """The correlation that scenarios are to have: today's, or the window's where today's is not followed."""
        _, unit = standardised(shocks, live)
        return self.today(unit, bars_per_day=bars_per_day) if self.follow else self.past(unit)

    def updated(
        self,
        shocks: Float[Array, "bars factors"],
        live: Bool[Array, " bars"],
        *,
        bars_per_day: float,
        wanted: Float[Array, "factors factors"] | None = None,
    ) -> Float[Array, "bars factors"]:
        """Shocks of the same sizes and of today's correlation, or of a `wanted` one; bars that are none stay zero.

        Factors come in the order of listing: those that were there first are not moved by later ones.

        Gradient: exact in the shocks and in both leaves.
        """
        size, unit = standardised(shocks, live)
        now = self.today(unit, bars_per_day=bars_per_day) if wanted is None else wanted
        way = correlation_map(self.past(unit), now)
        moved = jnp.matmul(unit, way.T, precision=lax.Precision.HIGHEST)
        return size * standardised(moved, live)[1]

    def past(self, unit: Float[Array, "bars factors"]) -> Float[Array, "factors factors"]:
        """The correlation of the window as a whole."""
        return ewma_correlation(unit, half_life=jnp.inf, shrinkage=self.shrinkage)

    def today(self, unit: Float[Array, "bars factors"], *, bars_per_day: float) -> Float[Array, "factors factors"]:
        """The correlation of the latest bars."""
        return ewma_correlation(unit, half_life=self.half_life_days * bars_per_day, shrinkage=self.shrinkage)


def standardised(
    shocks: Float[Array, "bars factors"], live: Bool[Array, " bars"] | None
) -> tuple[Float[Array, " factors"], Float[Array, "bars factors"]]:
    """The root mean square of each factor, and the shocks over it; a factor that never moves keeps zeros.

    Where `live` says that a bar is none, the shocks are zero.
    """
    if live is not None:
        shocks = jnp.where(live[:, None], shocks, 0)
    count = len(shocks) if live is None else jnp.maximum(jnp.sum(live), 1)
    size = volatility(jnp.sum(shocks**2, axis=0) / count)
    return size, shocks / jnp.where(size > 0, size, 1)
