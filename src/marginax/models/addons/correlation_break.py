"""Correlation break: what a margin would be if the future looked like single windows of the past.

The scenarios, in the order of history, are cut into windows; where the value at risk of a window is above that of all,
its correlations or volatilities were worse for this account than those of the whole. The charge is

    min(most x ES, max(least x ES, multiplier x sqrt(mean over windows of ((VaR_window - VaR)+)^2)))

Source: Eurex PRISMA, the adjustment for correlation breaks.
"""

import functools
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.charge_sections import CorrelationBreak
from marginax_kernels import value_at_risk, volatility


class CorrelationBreakCharge(eqx.Module):
    """Multiplier and bounds are leaves; the number of windows is static."""

    multiplier: Float[Any, ""]
    least: Float[Any, ""]
    most: Float[Any, ""]
    windows: int = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: CorrelationBreak) -> "CorrelationBreakCharge | None":
        """The charge that a configuration describes; None where it is off."""
        if not settings.multiplier:
            return None
        multiplier, least, most = (np.asarray(each) for each in (settings.multiplier, settings.least, settings.most))
        return cls(multiplier, least, most, settings.windows)

    def charge(
        self,
        losses: Float[Array, "accounts scenarios"],
        weights: Float[Array, " scenarios"],
        shortfall: Float[Array, " accounts"],
        *,
        tail: float,
    ) -> Float[Array, " accounts"]:
        """The charge of losses in the order of history, over `shortfall`, the expected shortfall of them all.

        Windows hold the scenarios that have weight, equally many but for rounding; in front are those before a history
        began, which have none. Gradient: exact.
        """
        count, size = losses.shape[1], -(-losses.shape[1] // self.windows)
        live = jnp.sum(weights > 0)
        edges = count - live + live * jnp.arange(self.windows + 1) // self.windows
        place = edges[:-1, None] + jnp.arange(size)
        inside = place < edges[1:, None]
        column = jnp.minimum(place, count - 1)
        shares = jnp.where(inside, weights[column], 0)
        mass = jnp.sum(shares, axis=1, keepdims=True)
        some = mass > 0
        select = jax.vmap(partial(value_at_risk, tail=tail), in_axes=(1, 0), out_axes=1)
        own = select(losses[:, column], jnp.where(some, shares / jnp.where(some, mass, 1), 1 / size))
        whole = value_at_risk(losses, weights / jnp.sum(weights), tail=tail)
        beyond = jnp.where(some[:, 0], jnp.maximum(own - whole[:, None], 0), 0) ** 2
        # One after the other: XLA sums few numbers in an order that hangs on how many rows there are.
        squares = functools.reduce(jnp.add, (beyond[:, k] for k in range(self.windows)))
        excess = self.multiplier * volatility(squares / self.windows)
        size_of = jnp.maximum(shortfall, 0)
        return jnp.minimum(self.most * size_of, jnp.maximum(self.least * size_of, excess))
