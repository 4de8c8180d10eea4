"""The market that a replay margins in: every underlying worth one USD today, and what portfolios lost in the next bar.

With weights in USD that are constant, a leg is the same number of units at every bar if a unit is what one USD buys: so
the price of an underlying is one at each bar, and portfolios are one tile for the whole replay. Where an underlying is
shocked absolutely its price is its own, and a unit is one over the price level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from marginax.cube import InstrumentArrays, MarketArrays
from marginax.instruments import OWNED
from marginax.known import KnownHistory
from marginax.models.protocol import Dense, Tile
from marginax.models.runs import find_runs
from marginax.options import DAYS_A_YEAR, OptionArrays
from marginax_calibration.panel import Panel, carried
from marginax_calibration.portfolios import Leg, Portfolio
from marginax_kernels import bachelier, black76

# Heights of tiles are few, because each is compiled.
HEIGHTS = (16, 32, 64)
# Groups of options come in blocks of so many, for the same reason.
GROUPS = 32


class UnitMarket(eqx.Module):
    """Instruments without what changes from bar to bar, and by bar what does."""

    instruments: InstrumentArrays
    absolute: Any
    price: Float[Any, "bars underlyings"]
    level: Float[Any, "bars underlyings"]
    mark: Float[Any, "bars instruments"]
    multiplier: Float[Any, "bars instruments"]
    strike: Float[Any, "bars instruments"]
    volatility: Float[Any, "bars instruments"]

    def at(self, bar: Int[Array, ""]) -> tuple[InstrumentArrays, MarketArrays]:
        """Instruments and market at the close of a bar; traceable."""
        price = self.price[bar]
        blocks = tuple(
            eqx.tree_at(
                lambda block: (block.strike, block.volatility, block.forward),
                block,
                (self.strike[bar][block.row], self.volatility[bar][block.row], price[block.underlying]),
            )
            for block in self.instruments.options
        )
        instruments = eqx.tree_at(
            lambda arrays: (arrays.multiplier, arrays.options), self.instruments, (self.multiplier[bar], blocks)
        )
        return instruments, MarketArrays(self.mark[bar], price, self.absolute, self.level[bar])


@dataclass(frozen=True)
class Legs:
    """The instruments of some portfolios: each leg once, whoever holds it, in the order of rows of the cube."""

    legs: tuple[Leg, ...]
    underlying: np.ndarray
    assets: int

    @classmethod
    def of(cls, portfolios: Sequence[Portfolio], panel: Panel) -> "Legs":
        """The different legs of these portfolios, sorted."""
        unit = {
            Leg(leg.underlying, 1.0, leg.option, leg.deviations, leg.days) for each in portfolios for leg in each.legs
        }
        legs = tuple(sorted(unit, key=lambda leg: (leg.underlying, leg.days, leg.option, leg.deviations)))
        place = {name: k for k, name in enumerate(panel.names)}
        return cls(legs, np.array([place[leg.underlying] for leg in legs], np.int32), len(panel.names))

    @property
    def optioned(self) -> tuple[str, ...]:
        """Underlyings that options are held on."""
        return tuple(dict.fromkeys(leg.underlying for leg in self.legs if leg.option))

    def tile(self, portfolios: Sequence[Portfolio]) -> Tile:
        """Portfolios as rows of a dense tile, padded to a height of HEIGHTS or a multiple of the last."""
        row = {(leg.underlying, leg.option, leg.deviations, leg.days): k for k, leg in enumerate(self.legs)}
        zero = len(self.legs) + self.assets
        width = max(2, 1 << (max(len(each.legs) for each in portfolios) - 1).bit_length())
        rows = next((each for each in HEIGHTS if each >= len(portfolios)), -(-len(portfolios) // 64) * 64)
        columns, weights = np.full((rows, width), zero, np.int32), np.zeros((rows, width))
        for k, each in enumerate(portfolios):
            held = sorted((row[leg.underlying, leg.option, leg.deviations, leg.days], leg.weight) for leg in each.legs)
            columns[k, : len(held)] = [place for place, _ in held]
            weights[k, : len(held)] = [weight for _, weight in held]
        none = np.zeros((rows, 0))
        assets = none.astype(np.int32)
        groups = np.concatenate([self.underlying, np.arange(self.assets), [-1]])
        runs = find_runs(columns, assets, groups)
        groups_held = -(-int(np.count_nonzero(runs.length)) // GROUPS) * GROUPS
        runs = eqx.tree_at(
            lambda each: (each.start, each.length, each.owner, each.asset),
            runs,
            tuple(each[:groups_held] for each in (runs.start, runs.length, runs.owner, runs.asset)),
        )
        dense = Dense(_laid_out(columns, weights, zero), _laid_out(columns, np.where(runs.alone, weights, 0), zero))
        return Tile(columns, weights, assets, none, np.zeros(rows), runs, dense=dense)


def _laid_out(columns: np.ndarray, weights: np.ndarray, zero: int) -> Float64[np.ndarray, "accounts rows"]:
    """Positions by row of the cube."""
    table = np.zeros((len(columns), zero + 1))
    np.add.at(table, (np.arange(len(columns))[:, None], columns), weights)
    return table


def unit_market(panel: Panel, legs: Legs, known: KnownHistory) -> UnitMarket:
    """The unit market of these legs over a panel."""
    underlying, normal = legs.underlying, panel.absolute[legs.underlying]
    option = np.array([bool(leg.option) for leg in legs.legs])
    years = np.array([leg.days for leg in legs.legs]) / DAYS_A_YEAR
    level = known.level[:, : len(panel.names)]
    price = np.where(panel.absolute, np.nan_to_num(panel.marked), 1.0)
    volatility = np.where(option, np.nan_to_num(carried(panel.volatility)[:, underlying], nan=1.0), 0.0)
    strike = _strikes(legs, price[:, underlying], volatility, normal)
    value = _values(legs, price[:, underlying], strike, volatility, years, normal)
    factors = {name: k for k, name in enumerate(known.history.names)}
    mood = np.array([factors.get(f"implied_vol:{leg.underlying}", len(factors)) for leg in legs.legs], np.int32)
    none = np.full(len(legs.legs), len(factors), np.int32)
    cash = np.full(len(legs.legs), len(panel.names), np.int32)
    blocks = []
    for law in (False, True):
        rows = np.flatnonzero(option & (normal == law)).astype(np.int32)
        if not len(rows):
            continue
        count = len(rows)
        blocks.append(
            OptionArrays(
                row=rows,
                expiry=np.arange(count, dtype=np.int32),
                strike=np.ones(count),
                volatility=np.ones(count),
                call=np.array([legs.legs[k].option == "call" for k in rows]),
                underlying=underlying[rows],
                quote=cash[rows],
                basis=none[rows],
                factor=mood[rows],
                paths=np.zeros((count, 0), np.int32),
                path_years=np.zeros((count, 0)),
                forward=np.ones(count),
                discount=np.ones(count),
                years=years[rows],
                coin=np.zeros(count, bool),
                smile=None,
                normal=law,
                days_per_trading_day=panel.grid.days_per_trading_day,
            )
        )
    unit = np.where(normal, 1 / level[:, underlying], 1.0)
    style = np.full(len(legs.legs), OWNED, np.int32)
    return UnitMarket(
        instruments=InstrumentArrays(underlying, cash, cash, none, style, np.ones(len(legs.legs)), tuple(blocks)),
        absolute=panel.absolute,
        price=price,
        level=np.where(panel.absolute, level, 1.0),
        mark=np.where(option, value, price[:, underlying]),
        multiplier=unit,
        strike=strike,
        volatility=volatility,
    )


def leg_losses(panel: Panel, legs: Legs, market: UnitMarket) -> Float64[np.ndarray, "bars legs"]:
    """What a long unit of each leg lost in the bar after each bar; NaN after the last.

    Where an underlying has no price at the next bar its move comes later; an option keeps its volatility and loses the
    time that passed.
    """
    underlying, normal = legs.underlying, panel.absolute[legs.underlying]
    option = np.array([bool(leg.option) for leg in legs.legs])
    marked = np.nan_to_num(panel.marked, nan=1.0)[:, underlying]
    now, later = marked[:-1], marked[1:]
    then = np.where(normal, later, later / np.where(normal, 1.0, now))
    years = np.array([leg.days for leg in legs.legs]) / DAYS_A_YEAR
    left = np.maximum(years - panel.years_between[:-1, None], 0)
    value = _values(legs, then, market.strike[:-1], market.volatility[1:], left, normal)
    change = np.where(option, value, then) - market.mark[:-1]
    return np.concatenate([-change * market.multiplier[:-1], np.full((1, len(legs.legs)), np.nan)])


def _strikes(legs: Legs, price: np.ndarray, volatility: np.ndarray, normal: np.ndarray) -> np.ndarray:
    deviations = np.array([leg.deviations for leg in legs.legs])
    years = np.array([leg.days for leg in legs.legs]) / DAYS_A_YEAR
    move = deviations * volatility * np.sqrt(years)
    return np.where(normal, price + move, price * np.exp(np.where(normal, 0, move)))


def _values(
    legs: Legs, forward: np.ndarray, strike: np.ndarray, volatility: np.ndarray, years: np.ndarray, normal: np.ndarray
) -> Float64[np.ndarray, "bars legs"]:
    """Undiscounted prices of the options; zero for what is none."""
    shape = np.broadcast_shapes(forward.shape, np.shape(years))
    years = np.broadcast_to(years, shape)
    value = np.zeros(shape)
    with jax.enable_x64(True):
        for law, price in ((False, black76), (True, bachelier)):
            for kind in ("call", "put"):
                which = [k for k, leg in enumerate(legs.legs) if leg.option == kind and normal[k] == law]
                if which:
                    spread = volatility[:, which] * np.sqrt(years[:, which])
                    value[:, which] = price(forward[:, which], strike[:, which], spread, call=kind == "call")
    return value
