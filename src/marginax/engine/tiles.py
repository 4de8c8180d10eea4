"""Cutting a ragged book into tiles of equal shape, and putting rows back in order.

An account's width is the smallest power of two that holds its positions, and its collateral's likewise in powers of
four: its own numbers alone decide, never its neighbours, so its bits are the same in every book. Tiles of one shape are
compiled once; the last tile of a shape is filled up with empty accounts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from jaxtyping import Float64, Int64

from marginax.book import Entries
from marginax.exposures import Exposures
from marginax.models.protocol import Orders, Tile
from marginax.models.runs import find_runs

# A tile's losses should stay in a core's cache: wide tiles take the least number of rows.
ROW_STEP = 64
WIDE = 256
# XLA on CPU sums arrays of fewer numbers than this in another order: a tile's losses never are that small.
LEAST_NUMBERS = 4096


@dataclass(frozen=True)
class Cut:
    """One tile: the accounts in its rows, and the shape it is padded to."""

    accounts: Int64[np.ndarray, " accounts"]
    rows: int
    width: int
    collateral_width: int
    orders_width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """What a program is compiled for."""
        return self.rows, self.width, self.collateral_width, self.orders_width


def cut(
    exposures: Exposures, accounts: Int64[np.ndarray, " accounts"], *, tile_rows: int, scenarios: int
) -> Iterator[Cut]:
    """Tiles over these accounts, widest first so that streams end together; accounts keep their order in a shape."""
    least = ROW_STEP * ceil(LEAST_NUMBERS / (max(scenarios, 1) * ROW_STEP))
    widths = _power(exposures.positions.counts[accounts], base=2, least=2)
    sides, orders = (_side(held.counts[accounts]) for held in (exposures.collateral, exposures.orders.held))
    base = int(max(sides.max(initial=0), orders.max(initial=0))) + 1
    shapes = (widths * base + sides) * base + orders
    for shape in np.unique(shapes)[::-1].tolist():
        width, side, ordered = shape // base**2, shape // base % base, shape % base
        members = accounts[shapes == shape]
        rows = max(tile_rows if width < WIDE else ROW_STEP, least)
        for first in range(0, len(members), rows):
            yield Cut(members[first : first + rows], rows, width, side, ordered)


def build(exposures: Exposures, cut: Cut, dtype: type[np.floating]) -> Tile:
    """The arrays of one tile."""
    zero = exposures.zero_row
    rows, quantities = _padded(exposures.positions, cut.accounts, cut.rows, cut.width, zero, dtype)
    assets, amounts = _padded(exposures.collateral, cut.accounts, cut.rows, cut.collateral_width, zero, dtype)
    equity = padded(exposures.equity[cut.accounts], cut.rows).astype(dtype)
    runs = find_runs(rows, assets, np.append(exposures.groups, -1))
    return Tile(rows, quantities, assets, amounts, equity, runs, _orders(exposures, cut, dtype))


def padded(numbers: Float64[np.ndarray, " accounts"], rows: int) -> Float64[np.ndarray, " rows"]:
    """A number for each row of a tile: those of its accounts, then zeros."""
    return np.concatenate([numbers, np.zeros(rows - len(numbers))])


def _orders(exposures: Exposures, cut: Cut, dtype: type[np.floating]) -> Orders | None:
    if not cut.orders_width:
        return None
    open_orders, shape = exposures.orders, (cut.rows, cut.orders_width, exposures.zero_row, dtype)
    instruments, quantities = _padded(open_orders.held, cut.accounts, *shape)
    _, cost = _padded(replace(open_orders.held, amounts=open_orders.cost), cut.accounts, *shape)
    return Orders(instruments, quantities, cost)


def _side(counts: np.ndarray) -> np.ndarray:
    """Width of what most accounts have little of: nothing, or a power of four."""
    return np.where(counts == 0, 0, _power(counts, base=4, least=4))


def _power(counts: np.ndarray, *, base: int, least: int) -> np.ndarray:
    """The smallest power of `base`, at least `least`, that is not below each count."""
    ladder = [least]
    while ladder[-1] < counts.max(initial=0):
        ladder.append(ladder[-1] * base)
    return np.array(ladder)[np.searchsorted(ladder, counts)]


def _padded(
    held: Entries, accounts: np.ndarray, rows: int, width: int, zero: int, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    columns = np.full((rows, width), zero, np.int32)
    amounts = np.zeros((rows, width), dtype)
    counts = held.counts[accounts]
    filled = np.arange(width) < counts[:, None]
    first = np.repeat(held.starts[accounts] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    entry = first + np.arange(counts.sum())
    columns[: len(accounts)][filled] = held.columns[entry]
    amounts[: len(accounts)][filled] = held.amounts[entry]
    return columns, amounts
