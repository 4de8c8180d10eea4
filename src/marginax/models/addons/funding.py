"""Projected funding: what perpetuals will pay over the horizon at the rate of now.

    charge = sum over perpetuals of notional x min(cap, max(least, rate of its side)) x days

The rate of a long is `funding_rate` a day, that of a short its negative. A side that would receive is charged the least
rate, never credited; one whose rate is not known is charged the worst. What accrued before is in equity, so that the
charge begins now. Units: account currency; rates are shares of notional a day.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.cube import InstrumentArrays, MarketArrays
from marginax.funding import HOURS_A_DAY, settlement_notional
from marginax.models.protocol import Tile
from marginax.payment_sections import Funding
from marginax_kernels import row_sums


class FundingCharge(eqx.Module):
    """Rates and `days` are leaves."""

    least_rate: Float[Any, ""]
    worst_rate: Float[Any, ""]
    cap: Float[Any, ""]
    days: Float[Any, ""]

    @classmethod
    def from_settings(cls, settings: Funding, *, horizon_days: float) -> "FundingCharge | None":
        """The charge that a configuration describes; None where it is off."""
        if not settings.projected:
            return None
        days = horizon_days if settings.hours is None else settings.hours / HOURS_A_DAY
        numbers = (settings.least_rate, settings.worst_rate, settings.largest_rate, days)
        return cls(*(np.asarray(number) for number in numbers))

    def rates(self, instruments: InstrumentArrays, market: MarketArrays) -> Float[Array, "rows 2"]:
        """What one contract of each row of the cube pays, long and short, in account currency; traceable.

        Gradient: exact in marks and index prices; in a rate one-sided where it is capped or the least.
        """
        known = market.funding
        assert known is not None
        rate = jnp.nan_to_num(known.rate)
        paid = jnp.clip(jnp.stack([rate, -rate], axis=1), self.least_rate, self.cap)
        paid = jnp.where(jnp.isnan(known.rate)[:, None], self.worst_rate, paid)
        notional = settlement_notional(instruments.style, jnp.asarray(instruments.multiplier), jnp.asarray(market.mark))
        worth = notional * jnp.append(market.index, 1.0)[instruments.settle] * self.days
        # What is no perpetual may have a notional that is no number: it is not multiplied.
        by_row = jnp.where(jnp.asarray(known.perpetual)[:, None], worth[:, None] * paid, 0)
        return jnp.concatenate([by_row, jnp.zeros((len(market.index) + 1, 2))])

    def charge(self, rates: Float[Array, "rows 2"], tile: Tile) -> Float[Array, " accounts"]:
        """The charge of every account. Gradient: exact in what is held, so that its shares sum to it."""
        quantities = jnp.asarray(tile.quantities)
        unit = rates[jnp.asarray(tile.instruments)]
        return row_sums(jnp.abs(quantities) * jnp.where(quantities < 0, unit[..., 1], unit[..., 0]))
