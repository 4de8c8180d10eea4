"""Assets pegged to money that can lose their peg: one scenario for each, with the probability of its stated rate.

A peg that has held for years looks riskless to any filter, and is not. In its scenario the asset falls by a stated
size, prices of classes that fall along with a lost peg fall by theirs, and all else stands still.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.market_sections import at_rows
from marginax.scenarios.filtering import FactorArrays


class PegDraws(eqx.Module):
    """The factors that can lose their peg, and what is stated of each alone (NaN: what holds for its class)."""

    factors: tuple[int, ...] = eqx.field(static=True)
    rate: Float[Any, " pegs"]
    size: Float[Any, " pegs"]


class PegJumps(eqx.Module):
    """Rates a year, relative falls, and what falls along, by asset class; all leaves."""

    rate: Float[Any, "*classes"]
    size: Float[Any, "*classes"]
    along: Float[Any, "*classes"]
    config: Config = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "PegJumps":
        """The jumps that a configuration describes; by itself no asset is pegged."""
        classes = config.classes
        keys = ("jump_rate", "jump_size", "falls_with_pegs")
        rate, size, along = (classes.leaf(key, 0.0) for key in keys)
        return cls(rate, size, along, config)

    def draw(self, history: FactorHistory) -> PegDraws:
        """Which prices of a history have a rate and a size above zero."""
        names, pegs = history.names[: history.underlyings], self.config.pegs
        stated = np.array([[each.get(name, np.nan) for name in names] for each in (pegs.rates, pegs.sizes)])
        by_class = np.array([at_rows(leaf, history.classes[: len(names)]) for leaf in (self.rate, self.size)])
        pegged = np.flatnonzero((np.where(np.isnan(stated), by_class, stated) > 0).all(axis=0))
        return PegDraws(tuple(pegged.tolist()), *stated[:, pegged])

    def mass(self, draws: PegDraws, history: FactorHistory) -> float:
        """The probability of all of them over the horizon."""
        usual = at_rows(self.rate, history.classes[list(draws.factors)])
        years = self.config.risk.horizon_days * history.grid.bars_per_day / history.grid.bars_per_year
        return float(-np.expm1(-np.where(np.isnan(draws.rate), usual, draws.rate) * years).sum())

    def shocks(
        self, factors: FactorArrays, draws: PegDraws
    ) -> tuple[Float[Array, "pegs factors"], Float[Array, " pegs"]]:
        """Shocks over the horizon and their probabilities, 1 - exp(-rate x years).

        Prices fall by shares, of their level where they are shocked absolutely. Gradient: exact in all leaves.
        """
        pegged = np.asarray(draws.factors, int)
        rate, size, along = (
            jnp.broadcast_to(factors.by_factor(leaf), factors.own.shape) for leaf in (self.rate, self.size, self.along)
        )
        rate = jnp.where(jnp.isnan(draws.rate), rate[pegged], jnp.nan_to_num(draws.rate))
        size = jnp.where(jnp.isnan(draws.size), size[pegged], jnp.nan_to_num(draws.size))
        is_price = np.arange(len(factors.proxy)) < factors.underlyings
        calm = np.ones(len(factors.proxy), bool)
        calm[pegged] = False

        def moved(share: Array, absolute: Array, level: Array) -> Array:
            return jnp.where(absolute, -share * level, jnp.log1p(-share))

        absolute = jnp.asarray(factors.absolute)
        others = moved(jnp.where(is_price & calm, along, 0), absolute, factors.level)
        shocks = jnp.tile(others, (len(pegged), 1))
        own = moved(size, absolute[pegged], factors.level[pegged])
        shocks = shocks.at[np.arange(len(pegged)), pegged].set(own)
        paths = np.array([path for path, _ in factors.settlements], int)
        bars = self.config.risk.horizon_days * factors.bars_per_day
        return shocks.at[:, paths].set(jnp.nan), -jnp.expm1(-rate * bars / factors.bars_per_year)
