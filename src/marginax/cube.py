"""The cube: P&L of one unit of everything that can be held, in every scenario, once per market.

Rows are the instruments, then the assets (one per underlying: what one unit of it gains), then a row of zeros that
padding points at. P&L is in account currency, from today's mark.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marginax.funding import FundingArrays
from marginax.instruments import INVERSE, LINEAR
from marginax.liquidity import LiquidityArrays
from marginax.options import LEAST_BASIS, OptionArrays, OptionPricing, Prices, mark_changes
from marginax.price_quality import PriceQuality
from marginax_kernels import inverse_pnl, linear_pnl, price_change, spot_pnl


class InstrumentArrays(eqx.Module):
    """Instruments by number: `underlying`, `quote` and `settle` point at assets (one past the last for the account
    currency), `basis` at a factor (one past the last for none), `style` is OWNED, LINEAR or INVERSE; `options` are the
    instruments that are, in a block for each pricing law, and `kind` a place in `KINDS` (None where no fee asks)."""

    underlying: Int[Any, " instruments"]
    quote: Int[Any, " instruments"]
    settle: Int[Any, " instruments"]
    basis: Int[Any, " instruments"]
    style: Int[Any, " instruments"]
    multiplier: Float[Any, " instruments"]
    options: tuple[OptionArrays, ...] = ()
    kind: Int[Any, " instruments"] | None = None


class MarketArrays(eqx.Module):
    """Prices now: marks in quote currency, index prices in account currency, and how each underlying is shocked.

    `liquidity` says how they trade, `quality` how old and how certain they are; None where they are no feed's, as in a
    replay of history. `funding` is what perpetuals pay, None where it is not counted either.
    """

    mark: Float[Any, " instruments"]
    index: Float[Any, " underlyings"]
    absolute: Bool[Any, " underlyings"]
    level: Float[Any, " underlyings"]
    liquidity: LiquidityArrays | None = None
    quality: PriceQuality | None = None
    funding: FundingArrays | None = None


def revalue(
    instruments: InstrumentArrays,
    market: MarketArrays,
    shocks: Float[Array, "scenarios factors"],
    *,
    horizon_days: float = 0.0,
    pricing: OptionPricing | None = None,
) -> Float[Array, "rows scenarios"]:
    """The cube, from today's marks to those at the end of a horizon in trading days (0: no time passes).

    `pricing` says how options follow (default: that of an empty configuration); where the shock of a path to a
    settlement inside the horizon is NaN, all of a move comes before it. Gradient: exact in shocks, marks, index prices,
    volatilities and forwards.
    """
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
    if instruments.options:
        prices_by_asset = Prices(now, later, factors, market.level)
        pricing = OptionPricing.from_settings() if pricing is None else pricing
        moved = _with_options(moved, instruments, market, prices_by_asset, pricing, horizon_days)
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


def _with_options(
    moved: Array,
    instruments: InstrumentArrays,
    market: MarketArrays,
    prices: Prices,
    pricing: OptionPricing,
    horizon_days: float,
) -> Float[Array, "instruments scenarios"]:
    """The changes of marks with those of options put in their rows (gathered: a scatter costs more)."""
    place = jnp.arange(moved.shape[0])
    changes, end = [moved], moved.shape[0]
    for block in instruments.options:
        changes.append(mark_changes(block, market.mark[block.row], prices, pricing, horizon_days=horizon_days))
        count = len(block.row)
        place = place.at[block.row].set(jnp.arange(end, end + count))
        end += count
    return jnp.concatenate(changes)[place]
