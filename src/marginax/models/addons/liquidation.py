"""The liquidation fee: what a venue keeps of what it closes when an account is liquidated.

    charge = max(minimum, sum over positions of gross notional x fee)

for an account that holds anything. The fee of a position is the greater of what its kind and the asset class of its
underlying say, and the fee of all where neither says anything. The gross notional of an option is that of its
underlying. Units: account currency; fees are shares of notional.
"""

from typing import Any, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.cube import InstrumentArrays, MarketArrays
from marginax.market_sections import AssetClasses
from marginax.models.addons.liquidity import gross_notional
from marginax.models.protocol import Tile
from marginax.models.tile_losses import owes
from marginax.options import OptionPricing
from marginax.payment_sections import Kind, Liquidation
from marginax.sensitivities import unit_sensitivities
from marginax.tables.schemas import KINDS
from marginax_kernels import row_sums

# A fee that nobody states. Leaves are compared, and NaN is not equal to itself.
NOT_STATED = -1.0
assert get_args(Kind) == KINDS


class LiquidationCharge(eqx.Module):
    """Every number is a leaf; `by_kind` follows `KINDS`, `NOT_STATED` where a kind has no fee of its own."""

    fee: Float[Any, ""]
    by_kind: Float[Any, " kinds"]
    minimum: Float[Any, ""]

    @classmethod
    def from_settings(cls, settings: Liquidation, classes: AssetClasses) -> "LiquidationCharge | None":
        """The charge that a configuration describes; None where it is off."""
        by_class = any(each.liquidation_fee for each in classes.parameters.values())
        if not (settings.on or by_class):
            return None
        by_kind = np.array([settings.kinds.get(kind, NOT_STATED) for kind in get_args(Kind)])
        return cls(np.asarray(settings.fee), by_kind, np.asarray(settings.minimum))

    def rates(
        self,
        instruments: InstrumentArrays,
        market: MarketArrays,
        by_class: Float[Array, " underlyings"],
        pricing: OptionPricing,
        *,
        factors: int,
    ) -> Float[Array, " rows"]:
        """What closing one contract of each row of the cube costs in fees, in account currency; traceable.

        `by_class` are the fees of the classes of the underlyings. Gradient: exact in prices and fees.
        """
        slopes = unit_sensitivities(instruments, market, factors, pricing)
        stated = jnp.maximum(jnp.asarray(self.by_kind)[instruments.kind], jnp.asarray(by_class)[instruments.underlying])
        fee = jnp.where(stated < 0, self.fee, stated)
        by_row = gross_notional(instruments, market, slopes.delta) * fee
        return jnp.concatenate([by_row, jnp.zeros(len(market.index) + 1)])

    def charge(self, rates: Float[Array, " rows"], tile: Tile) -> Float[Array, " accounts"]:
        """The fee of every account. Gradient: exact, zero below the minimum."""
        least = jnp.where(owes(tile), jnp.asarray(self.minimum, rates.dtype), 0)
        return jnp.maximum(row_sums(self._costs(rates, tile)), least)

    def shares(self, rates: Float[Array, " rows"], tile: Tile) -> Float[Array, "accounts width"]:
        """The fee by position: its own, what a minimum adds in proportion; evenly where no position has any."""
        costs, held = self._costs(rates, tile), (jnp.asarray(tile.quantities) != 0).astype(rates.dtype)
        total = row_sums(costs)[:, None]
        parts = jnp.where(total > 0, costs, held)
        whole = jnp.where(total > 0, total, jnp.maximum(row_sums(held)[:, None], 1))
        return self.charge(rates, tile)[:, None] * parts / whole

    def _costs(self, rates: Float[Array, " rows"], tile: Tile) -> Float[Array, "accounts width"]:
        return jnp.abs(jnp.asarray(tile.quantities)) * rates[jnp.asarray(tile.instruments)]
