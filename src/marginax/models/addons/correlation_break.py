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
from jax import lax
from jaxtyping import Array, Float

from marginax.charge_sections import CorrelationBreak
from marginax_kernels import value_at_risk


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

    def charge(self, excess: Any, shortfall: Any) -> Any:
        """The excess within its bounds, which are shares of `shortfall`, the expected shortfall of all losses.

        Of NumPy arrays or of JAX's, by account. Gradient: exact, one-sided at the bounds.
        """
        array = shortfall.__array_namespace__()
        size = array.maximum(shortfall, 0)
        least, most = (array.asarray(each, dtype=size.dtype) for each in (self.least, self.most))
        return array.minimum(most * size, array.maximum(least * size, excess))

    def excess(self, own: Any, whole: Any) -> Any:
        """multiplier x root mean square over windows of (VaR_window - VaR)+, of VaR by account and window."""
        array = whole.__array_namespace__()
        beyond = array.maximum(own - whole[:, None], 0) ** 2
        # One after the other: XLA sums few numbers in an order that hangs on how many rows there are.
        squares = functools.reduce(array.add, (beyond[:, k] for k in range(self.windows))) / self.windows
        some = squares > 0
        root = array.where(some, array.sqrt(array.where(some, squares, 1)), 0)
        return array.asarray(self.multiplier, dtype=root.dtype) * root

    def edges(self, count: int, live: Any) -> Any:
        """Where windows begin and end, of `count` scenarios of which the last `live` have weight."""
        return count - live + live * np.arange(self.windows + 1) // self.windows

    def windows_of(
        self, losses: Float[Array, "accounts scenarios"], weights: Float[Array, " scenarios"], *, tail: float
    ) -> Float[Array, " accounts"]:
        """The excess of losses in the order of history.

        Windows hold the scenarios that have weight, equally many but for rounding; in front are those before a history
        began, which have none. Gradient: exact.
        """
        count, size = losses.shape[1], -(-losses.shape[1] // self.windows)
        select = jax.vmap(partial(value_at_risk, tail=tail), in_axes=(1, 0), out_axes=1)

        def whole_history() -> Array:
            cut, shares = losses.reshape(-1, self.windows, size), weights.reshape(self.windows, size)
            return select(cut, shares / jnp.sum(shares, axis=1, keepdims=True))

        def begun_within() -> Array:
            live = jnp.sum(weights > 0)
            edges = self.edges(count, live)
            place = edges[:-1, None] + jnp.arange(size)
            column = jnp.minimum(place, count - 1)
            shares = jnp.where(place < edges[1:, None], weights[column], 0)
            mass = jnp.sum(shares, axis=1, keepdims=True)
            own = select(losses[:, column], jnp.where(mass > 0, shares / jnp.where(mass > 0, mass, 1), 1 / size))
            return jnp.where(mass[:, 0] > 0, own, -jnp.inf)

        whole = value_at_risk(losses, weights / jnp.sum(weights), tail=tail)
        # Windows that are slices cost no gathering, and a history that fills the scenarios is the usual case.
        even = count == self.windows * size
        own = lax.cond(jnp.all(weights > 0), whole_history, begun_within) if even else begun_within()
        return self.excess(own, whole)
