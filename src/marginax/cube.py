"""The cube: P&L of one unit of everything that can be held, in every scenario, once per market.

Rows are the instruments, then the assets (one per underlying: what one unit of it gains), then a row of zeros that
padding points at. P&L is in account currency, from today's mark.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marginax.instruments import INVERSE, LINEAR
from marginax_kernels import inverse_pnl, linear_pnl, price_change, spot_pnl

# A basis of -99 % is a contract at a hundredth of its index: beyond it a mark would pass through zero.
LEAST_BASIS = -0.99


class InstrumentArrays(eqx.Module):
    """Instruments by number: `underlying`, `quote` and `settle` point at assets (one past the last for the account
    currency), `basis` at a factor (one past the last for none), `style` is SPOT, LINEAR or INVERSE."""

    underlying: Int[Any, " instruments"]
    quote: Int[Any, " instruments"]
    settle: Int[Any, " instruments"]
    basis: Int[Any, " instruments"]
    style: Int[Any, " instruments"]
    multiplier: Float[Any, " instruments"]


class MarketArrays(eqx.Module):
    """Prices now: marks in quote currency, index prices in account currency, and how each underlying is shocked."""

    mark: Float[Any, " instruments"]
    index: Float[Any, " underlyings"]
    absolute: Bool[Any, " underlyings"]
    level: Float[Any, " underlyings"]


def revalue(
    instruments: InstrumentArrays, market: MarketArrays, shocks: Float[Array, "scenarios factors"]
) -> Float[Array, "rows scenarios"]:
    """The cube. Gradient: exact in shocks, marks and index prices."""
    scenarios = shocks.shape[0]
    assets = market.index.shape[0]
    prices = shocks[:, :assets].T
    change = jnp.where(market.absolute[:, None], prices, market.index[:, None] * jnp.expm1(prices))
    still = jnp.zeros((1, scenarios), shocks.dtype)
    factors = jnp.concatenate([shocks.T, still])
    now = jnp.concatenate([market.index, jnp.ones(1, market.index.dtype)])[:, None]
    later = jnp.concatenate([change, still])
    index, index_change = now[instruments.settle], later[instruments.settle]
    quote, quote_change = now[instruments.quote], later[instruments.quote]
    mark, multiplier = market.mark[:, None], instruments.multiplier[:, None]
    # Shocks move prices in account currency; a mark follows in its own, so it rises where its quote currency falls.
    worth = price_change(
        mark * quote,
        factors[instruments.underlying],
        jnp.maximum(factors[instruments.basis], LEAST_BASIS),
        absolute=market.absolute[instruments.underlying][:, None],
        basis_level=market.level[instruments.underlying][:, None],
    )
    moved = (worth - mark * quote_change) / (quote + quote_change)
    style = instruments.style[:, None]
    # Only inverse contracts divide by a mark, and theirs is positive.
    invertible = jnp.where(style == INVERSE, mark, 1.0)
    inverse_move = jnp.where(style == INVERSE, moved, 0.0)
    pnl = jnp.where(
        style == INVERSE,
        inverse_pnl(invertible, inverse_move, multiplier, index, index_change),
        jnp.where(
            style == LINEAR,
            linear_pnl(moved, multiplier, index, index_change),
            spot_pnl(mark, moved, multiplier, index, index_change),
        ),
    )
    return jnp.concatenate([pnl, change, still])
