"""What prices of doubtful quality cost: how uncertain they are, and what may have happened since they were fresh.

    charge = sum over underlyings of |N_u| (w confidence_u + z sigma_u sqrt(days of age beyond the grace period))

N_u is the net delta of what an account holds, positions and collateral, in account currency: what it gains by a
relative move of u, or by one of its level where u is shocked absolutely; sigma_u is the volatility of a day in the same
measure. Age and confidence are the worst of the index price and of the marks that the account holds on u. What is not
known counts as the worst that is configured, and nothing counts for more: no price is cheaper for being older, less
certain or less known. A calendar day holds a trading day at most, so calendar days of age never charge too little.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.charge_sections import Oracle
from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.models.protocol import Tile
from marginax.models.tile_losses import has_collateral
from marginax.options import OptionPricing
from marginax.price_quality import PriceQuality
from marginax_kernels import accumulate, volatility

MINUTES_A_DAY = 1440
# A tile has 64 rows at least, and XLA on CPU sums arrays of fewer than 4,096 numbers in another order.
LEAST_COLUMNS = 64


class OracleTerms(eqx.Module):
    """Deltas of one unit of each row of the cube, in account currency, and the quality of every price.

    Columns are the underlyings, and zeros up to `LEAST_COLUMNS`. `doubt` is a confidence, `wait` the square root of the
    days beyond the grace period: of index prices by underlying, of marks by row (zero for assets and for the row of
    zeros). `group` is the underlying of each row.
    """

    deltas: Float[Array, "rows underlyings"]
    sigma: Float[Array, " underlyings"]
    group: Int[Array, " rows"]
    doubt: Float[Array, " underlyings"]
    wait: Float[Array, " underlyings"]
    row_doubt: Float[Array, " rows"]
    row_wait: Float[Array, " rows"]


class OracleCharge(eqx.Module):
    """`confidence_weight` and `z` are leaves."""

    confidence_weight: Float[Any, ""]
    z: Float[Any, ""]
    settings: Oracle = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Oracle) -> "OracleCharge | None":
        """The charge that a configuration describes; None where it is off."""
        if not settings.on:
            return None
        return cls(np.asarray(settings.confidence_weight), np.asarray(settings.z), settings)

    def doubt(self, confidence: Float[Array, " prices"]) -> Float[Array, " prices"]:
        """The confidence that is charged for; NaN is not known."""
        worst = self.settings.worst_confidence
        return jnp.where(jnp.isnan(confidence), worst, jnp.minimum(confidence, worst))

    def wait(self, age: Float[Array, " prices"]) -> Float[Array, " prices"]:
        """Square root of the days that are charged for, of ages in days; NaN is not known."""
        worst = self.settings.worst_age_days
        known = jnp.where(jnp.isnan(age), worst, jnp.minimum(age, worst))
        return jnp.sqrt(jnp.maximum(known - self.settings.grace_minutes / MINUTES_A_DAY, 0))

    def terms(
        self,
        instruments: InstrumentArrays,
        market: MarketArrays,
        quality: PriceQuality,
        shocks: Float[Array, "scenarios factors"],
        weights: Float[Array, " scenarios"],
        *,
        horizon_days: float,
        pricing: OptionPricing,
    ) -> OracleTerms:
        """Deltas at no move, and daily volatilities of the scenarios that have weight; once per market."""
        assets = len(market.index)
        still, moves = jnp.zeros((assets, shocks.shape[1])), jnp.eye(assets, shocks.shape[1])
        _, deltas = jax.jvp(lambda each: revalue(instruments, market, each, pricing=pricing), (still,), (moves,))
        level = jnp.where(market.absolute, market.level, 1)
        variance = weights @ jnp.square(shocks[:, :assets]) / horizon_days
        beside, columns = jnp.zeros(assets + 1), (0, max(LEAST_COLUMNS - assets, 0))
        return OracleTerms(
            deltas=jnp.pad(deltas * level, ((0, 0), columns)),
            # Zero where it is not known: whoever holds that has no margin at all, and nobody else is to lose theirs.
            sigma=jnp.pad(volatility(variance) / level, columns),
            group=jnp.concatenate([instruments.underlying, jnp.arange(assets), jnp.zeros(1, int)]),
            doubt=jnp.pad(self.doubt(quality.confidence), columns),
            wait=jnp.pad(self.wait(quality.age), columns),
            row_doubt=jnp.concatenate([self.doubt(quality.quote_confidence), beside]),
            row_wait=jnp.concatenate([self.wait(quality.quote_age), beside]),
        )

    def charge(self, terms: OracleTerms, tile: Tile) -> Float[Array, " accounts"]:
        """The charge of every account, in account currency. Gradient: exact in what is held, zero where N_u is."""
        net = accumulate(terms.deltas, tile.instruments, tile.quantities)
        if has_collateral(tile):
            net = net + accumulate(terms.deltas, tile.assets, tile.amounts)
        doubt, wait = (
            self._worst(of_index, of_marks, terms.group, tile)
            for of_index, of_marks in ((terms.doubt, terms.row_doubt), (terms.wait, terms.row_wait))
        )
        weight, z = (jnp.asarray(each, net.dtype) for each in (self.confidence_weight, self.z))
        return jnp.sum(jnp.abs(net) * (weight * doubt + z * terms.sigma * wait), axis=1)

    def _worst(
        self, of_index: Array, of_marks: Array, group: Array, tile: Tile
    ) -> Float[Array, "accounts underlyings"]:
        """By account and underlying the worst of the index price and of the marks that are held on it."""
        every = jnp.broadcast_to(of_index, (len(tile.equity), len(of_index)))
        held = jnp.where(tile.quantities != 0, of_marks[tile.instruments], 0)
        return every.at[jnp.arange(len(tile.equity))[:, None], group[tile.instruments]].max(held)
