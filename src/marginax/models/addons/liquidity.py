"""Liquidity: what it costs to close the positions of an account. With N the net delta in one underlying,

    sum over instruments of gross notional x (spread / 2 + fee)
    + sum over underlyings of the greater of N eta sigma_day sqrt(N / ADV) and a walk through the order book
    + the same square root for the net vega of each underlying and bucket of expiries
    + sum over underlyings of ES_u (sqrt(1 + (N / (participation x ADV) - 1)+ / 3) - 1)

Underlyings do not offset one another: each is closed in a market of its own. Positions alone are closed; collateral is
sold at its haircut and has limits of its own. Where no book is given, `depth` is taken to lie evenly within 50 bp.
`sigma_day` is the root mean square of a factor's shocks in the scenarios, over the root of the horizon.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.charge_sections import Liquidity
from marginax.cube import InstrumentArrays, MarketArrays
from marginax.liquidity import DEPTH_WITHIN
from marginax.models.protocol import Tile
from marginax.options import OptionPricing
from marginax.sensitivities import unit_sensitivities
from marginax_kernels import (
    OrderBooks,
    days_to_sell_scale,
    even_book,
    order_books,
    row_sums,
    run_rates,
    run_totals,
    square_root_impact,
    volatility,
    walk_books,
)


class LiquidityTerms(eqx.Module):
    """What closing costs, by row of the cube and by underlying; the row of zeros is of no underlying (-1).

    By row: delta, vega, and the account currency that one unit pays in spread and fees. `bucket` tells apart the
    expiries whose vega is closed together. By underlying, in units of delta: the volatility of a day of price and of
    implied volatility, what is traded in a day, vega likewise, and a book of which `depth` lies within `distance`.
    """

    underlying: Int[Array, " rows"]
    bucket: Int[Array, " rows"]
    rates: Float[Array, "rows 3"]
    deviation: Float[Array, " underlyings"]
    vega_deviation: Float[Array, " underlyings"]
    volume: Float[Array, " underlyings"]
    vega_volume: Float[Array, " underlyings"]
    depth: Float[Array, " underlyings"]
    distance: Float[Array, " underlyings"]
    books: OrderBooks | None


class LiquidityCharge(eqx.Module):
    """Every number is a leaf but the ends of the buckets; `participation` is None where a day is enough for all."""

    spread: Float[Any, ""]
    fee: Float[Any, ""]
    impact: Float[Any, ""]
    vega_share: Float[Any, ""]
    participation: Float[Any, ""] | None
    worst_adv: Float[Any, ""]
    worst_depth: Float[Any, ""]
    worst_spread: Float[Any, ""]
    settings: Liquidity = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Liquidity) -> "LiquidityCharge | None":
        """The charge that a configuration describes; None where it is off."""
        if not settings.on:
            return None
        return cls(
            spread=np.asarray(settings.spread),
            fee=np.asarray(settings.fee),
            impact=np.asarray(settings.impact),
            vega_share=np.asarray(settings.vega_share),
            participation=np.asarray(settings.participation) if settings.participation else None,
            worst_adv=np.asarray(settings.worst_adv),
            worst_depth=np.asarray(settings.worst_depth),
            worst_spread=np.asarray(settings.worst_spread_bps / 1e4),
            settings=settings,
        )

    def terms(
        self,
        instruments: InstrumentArrays,
        market: MarketArrays,
        shocks: Float[Array, "scenarios factors"],
        weights: Float[Array, " scenarios"],
        pricing: OptionPricing,
        *,
        horizon_days: float,
    ) -> LiquidityTerms:
        """What closing costs in a market, found once for all accounts; traceable.

        What is not known counts as the worst, and nothing for more than that. Gradient: exact.
        """
        known = market.liquidity
        assert known is not None
        assets, own = market.index.shape[0], jnp.asarray(instruments.underlying)
        slopes = unit_sensitivities(instruments, market, shocks.shape[1], pricing)
        day = volatility(weights @ jnp.nan_to_num(shocks) ** 2 / horizon_days)
        implied, day_and_none = jnp.zeros(assets), jnp.append(day, 0.0)
        for block in instruments.options:
            implied = implied.at[block.underlying].set(day_and_none[block.factor])
        # The account currency in one unit of delta.
        worth = jnp.where(market.absolute, market.level, 1.0)
        adv = jnp.maximum(known.adv, self.worst_adv)
        some = jnp.asarray(known.spread) > 0
        spread = jnp.where(some, jnp.minimum(known.spread, self.worst_spread), self.worst_spread)
        closing = gross_notional(instruments, market, slopes.delta) * (self.spread * spread / 2 + self.fee)[own]
        bucket = jnp.searchsorted(jnp.asarray(self.settings.expiry_days), jnp.asarray(known.days), side="left")
        by_row = jnp.stack([slopes.delta, slopes.vega, closing], axis=1)
        return LiquidityTerms(
            underlying=jnp.concatenate([own, jnp.arange(assets), jnp.full(1, -1)]),
            bucket=jnp.concatenate([bucket, jnp.zeros(assets + 1, bucket.dtype)]),
            rates=jnp.concatenate([by_row, jnp.zeros((assets + 1, 3))]),
            deviation=day[:assets],
            vega_deviation=implied,
            volume=adv / worth,
            vega_volume=self.vega_share * adv,
            depth=jnp.maximum(known.depth, self.worst_depth) / worth,
            distance=DEPTH_WITHIN * worth,
            books=None if known.levels is None else order_books(*known.levels),
        )

    def charge(
        self, terms: LiquidityTerms, tile: Tile, shortfalls: Float[Array, "accounts width"] | None
    ) -> Float[Array, " accounts"]:
        """The whole charge; `shortfalls` are ES_u at the last position of each underlying, None where a day is enough.

        Gradient: exact, one-sided where a net delta is zero or the greater of two costs changes.
        """
        closing, nets = self._costs(terms, tile, shortfalls)
        return row_sums(sum((cost for _, _, _, cost in nets), closing))

    def shares(
        self, terms: LiquidityTerms, tile: Tile, shortfalls: Float[Array, "accounts width"] | None
    ) -> Float[Array, "accounts width"]:
        """The charge by position: spread and fees its own, all else by its share of the net delta or vega.

        A position that offsets others has a negative share; shares sum to the charge.
        """
        shares, nets = self._costs(terms, tile, shortfalls)
        for amounts, groups, net, cost in nets:
            some = net != 0
            rate = jnp.where(some, cost / jnp.where(some, net, 1), 0)
            shares = shares + amounts * run_rates(rate, groups)
        return shares

    def _costs(
        self, terms: LiquidityTerms, tile: Tile, shortfalls: Array | None
    ) -> tuple[Array, list[tuple[Array, Array, Array, Array]]]:
        """Spread and fees by position; of delta and of vega: amounts, runs, and at the end of runs net and its cost."""
        rows, quantities = jnp.asarray(tile.instruments), jnp.asarray(tile.quantities)
        own, rates = terms.underlying[rows], terms.rates[rows]
        delta, vega = quantities * rates[..., 0], quantities * rates[..., 1]
        net = run_totals(delta, own)
        size = jnp.abs(net)
        cost = self._of_delta(terms, own, net)
        if shortfalls is not None and self.participation is not None:
            longer = days_to_sell_scale(size, self.participation * terms.volume[own]) - 1
            cost = cost + jnp.maximum(shortfalls, 0) * longer
        nets = [(delta, own, net, cost)]
        if self.settings.vega_share:
            bucket = own * (len(self.settings.expiry_days) + 1) + terms.bucket[rows]
            net = run_totals(vega, bucket)
            impact = square_root_impact(
                jnp.abs(net), deviation=terms.vega_deviation[own], volume=terms.vega_volume[own], strength=self.impact
            )
            nets.append((vega, bucket, net, impact))
        return jnp.abs(quantities) * rates[..., 2], nets

    def _of_delta(self, terms: LiquidityTerms, own: Array, net: Array) -> Float[Array, "accounts width"]:
        """The greater of the square root and the order book: bids take what is long, asks what is short."""
        if not self.settings.impact:
            return jnp.zeros_like(net)
        size = jnp.abs(net)
        impact = square_root_impact(
            size, deviation=terms.deviation[own], volume=terms.volume[own], strength=self.impact
        )
        walk = even_book(size, depth=terms.depth[own], distance=terms.distance[own])
        if terms.books is not None:
            book = 2 * own + (net < 0)
            walk = jnp.where(terms.books.depth[book, -1] > 0, walk_books(size, book, terms.books), walk)
        return jnp.maximum(impact, walk)


def gross_notional(
    instruments: InstrumentArrays, market: MarketArrays, delta: Float[Array, " instruments"]
) -> Float[Array, " instruments"]:
    """What one unit of each instrument controls, in account currency: options that of their underlying."""
    own, settle = jnp.asarray(instruments.underlying), jnp.asarray(instruments.settle)
    level = jnp.where(market.absolute, market.level, market.index)
    price = jnp.append(market.index, 1.0)
    notional = jnp.abs(delta) * jnp.where(market.absolute, market.level, 1.0)[own]
    for block in instruments.options:
        row = block.row
        paid = jnp.where(settle[row] == own[row], 1, price[settle[row]] / price[instruments.quote[row]])
        notional = notional.at[row].set(instruments.multiplier[row] * jnp.abs(level)[own[row]] * paid)
    return notional


def shortfall_by_run(
    units: Float[Array, "rows 2"], groups: Float[Array, " runs"], tile: Tile
) -> Float[Array, "accounts width"]:
    """ES_u at the last position of each underlying, from those of single units and of the groups of a tile."""
    rows, quantities, runs = jnp.asarray(tile.instruments), jnp.asarray(tile.quantities), tile.runs
    unit = jnp.where(quantities < 0, units[rows, 1], units[rows, 0])
    single = jnp.where(runs.alone, jnp.abs(quantities) * unit, 0)
    # Padding of the groups falls beside the tile.
    end = jnp.where(runs.length > 0, runs.start + runs.length - 1, rows.shape[1])
    return single.at[runs.owner, end].add(groups, mode="drop")
