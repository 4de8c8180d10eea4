"""The history that a backtest replays: prices on one grid of bars, and the volatilities that options are priced at.

An underlying lives from its first price to its last. A bar without a price between the two is a hole: the position is
marked at the last price, and the move comes, whole, with the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.calendars import DAY_MICROS, Grid, joint_grid, on_grid
from marginax.options import DAYS_A_YEAR
from marginax.problems import BadInput, Problem
from marginax.sections import Scenarios
from marginax.series import by_underlying, logs, returns_of
from marginax.tables.read import Source
from marginax_calibration.prices import Prices, read_prices
from marginax_kernels import ewma_variance, initial_variance

# An underlying without a quote of volatility has the one that an EWMA (0.97) fits, times this. The figure is a choice:
# sellers ask for more than they expect. With quotes, options begin with the first: from a fitted volatility to a quoted
# one is no move of the market.
MARK_UP = 1.1
HALF_LIFE_DAYS, SEED_RETURNS = 22.7566, 30


@dataclass(frozen=True)
class Panel:
    """Prices by bar and underlying, NaN where there is none; `volatility` is a year's, mark-up included; `signals` are
    rows of the table, where there is one."""

    grid: Grid
    names: tuple[str, ...]
    prices: Float64[np.ndarray, "bars underlyings"]
    volatility: Float64[np.ndarray, "bars underlyings"]
    absolute: Bool[np.ndarray, " underlyings"]
    digests: dict[str, str]
    signals: pl.DataFrame | None = None

    @property
    def first(self) -> Int64[np.ndarray, " underlyings"]:
        """The bar of each underlying's first price."""
        return np.argmax(~np.isnan(self.prices), axis=0)

    @property
    def last(self) -> Int64[np.ndarray, " underlyings"]:
        """The bar of each underlying's last price."""
        return len(self.prices) - 1 - np.argmax(~np.isnan(self.prices[::-1]), axis=0)

    @property
    def marked(self) -> Float64[np.ndarray, "bars underlyings"]:
        """The last known price, from the first one on to the end."""
        return carried(self.prices)

    @property
    def holes(self) -> dict[str, int]:
        """Bars without a price inside each underlying's life."""
        place = np.arange(len(self.prices))[:, None]
        inside = (place > self.first) & (place < self.last) & np.isnan(self.prices)
        return {name: int(count) for name, count in zip(self.names, inside.sum(axis=0), strict=True) if count}

    @property
    def years_between(self) -> Float64[np.ndarray, " bars"]:
        """Calendar time to the next bar, in years; nothing after the last."""
        micros = np.diff(self.grid.times).astype("timedelta64[us]").astype(float)
        return np.append(micros / (DAYS_A_YEAR * DAY_MICROS), 0.0)


def read_panel(files: Source, *, absolute: Sequence[str] = ()) -> Panel:
    """The panel of history files on the calendar that suits them all; see `read_prices` and `panel_of`."""
    return panel_of(read_prices(files, absolute=absolute))


def panel_of(prices: Prices, held: Sequence[str] | None = None) -> Panel:
    """The panel of all prices on the joint calendar of those that are held.

    By default all are that have more bars than the least window. Raises BadInput where there are less than two bars.
    """
    names = prices.names
    if held is None:
        counts = prices.rows.group_by("underlying").len()
        grid = joint_grid(prices.rows, counts.filter(pl.col("len") > Scenarios().least_bars)["underlying"])
    else:
        grid = joint_grid(prices.rows.filter(pl.col("underlying").is_in(list(held))))
    if len(grid.times) < 2:
        what, remedy = f"holds {len(grid.times)} bars, and a return needs two", "Give more history"
        raise BadInput([Problem(", ".join(prices.digests), None, None, what, remedy, table="history")])
    table = np.full((len(grid.times), len(names)), np.nan)
    for name, series in by_underlying(prices.rows).items():
        table[:, names.index(name)] = on_grid(grid, *series)
    shocked = np.array([name in prices.absolute for name in names], bool)
    volatility = _fitted(grid, table, shocked)
    for name, series in by_underlying(prices.quotes).items():
        if name in names:
            volatility[:, names.index(name)] = carried(on_grid(grid, *series)[:, None])[:, 0]
    volatility = np.where(np.isnan(table), np.nan, volatility)
    return Panel(grid, names, table, volatility, shocked, prices.digests, prices.signals)


def _fitted(grid: Grid, prices: np.ndarray, absolute: np.ndarray) -> np.ndarray:
    """Volatility of a year by the EWMA at the close of each bar, times the mark-up; of price units where absolute.

    The least volatility is added in squares: under a floor the volatility of a calm price would stand still, and one
    that never moved has no history.
    """
    returns, bars = returns_of(np.where(absolute, prices, logs(np.where(absolute, 1.0, prices))))
    with jax.enable_x64(True):
        moves, spans = jnp.asarray(returns), jnp.asarray(bars)
        seed = initial_variance(moves, spans, count=SEED_RETURNS)
        path, final = ewma_variance(moves, spans, seed, half_life=HALF_LIFE_DAYS * grid.bars_per_day)
    variance = np.concatenate([np.asarray(path), np.asarray(final)[None]])
    least = Scenarios().minimum_volatility / np.sqrt(grid.bars_per_day)
    unit = np.where(absolute, np.maximum.accumulate(np.abs(np.nan_to_num(prices))), 1.0)
    yearly = np.sqrt(grid.bars_per_year)
    return MARK_UP * yearly * np.sqrt(variance + (least * unit) ** 2)


def carried(values: np.ndarray) -> np.ndarray:
    """Each column's last known value; NaN before the first."""
    known = np.where(np.isnan(values), -1, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(known, axis=0)
    return np.where(last >= 0, values[np.maximum(last, 0), np.arange(values.shape[1])], np.nan)
