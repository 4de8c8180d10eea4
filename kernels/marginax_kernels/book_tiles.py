"""Positions of a whole book, row by row, and the tiles of one shape that they are cut into.

An account's positions are those of quantity other than zero, in the caller's order. Their number alone decides its
width, the smallest power of two that holds them, and with the number of instruments whether it goes the dense way: its
neighbours decide nothing, so an account's bits are the same in every book.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64

# Rows of a tile come in steps of this; it is also what the venue's losses are summed in first.
ROW_STEP = 64
# Positions of a tile at most: wide accounts are work enough in few rows.
ENTRIES = 2**17


class Positions(NamedTuple):
    """Account `a` holds entries `starts[a]` to `starts[a + 1]`: of which instrument, and how much."""

    starts: Int64[np.ndarray, " accounts_and_one"]
    instruments: Int32[np.ndarray, " entries"]
    quantities: Float[np.ndarray, " entries"]

    @property
    def counts(self) -> Int64[np.ndarray, " accounts"]:
        """Positions of each account."""
        return np.diff(self.starts)


def live_entries(
    starts: Int[np.ndarray, " accounts_and_one"],
    instrument_ids: Int[np.ndarray, " entries"],
    quantities: Float[np.ndarray, " entries"],
    dtype: np.dtype,
) -> Positions:
    """What is held: neither padding (id -1) nor a quantity of zero; what is beyond `dtype` becomes infinite."""
    with np.errstate(over="ignore"):
        amounts, instruments = np.ascontiguousarray(quantities, dtype), np.asarray(instrument_ids)
    live: Bool[np.ndarray, " entries"] = (instruments >= 0) & (amounts != 0)
    if not live.all():
        before = np.concatenate([[0], np.cumsum(live)])
        starts, instruments, amounts = before[starts], instruments[live], amounts[live]
    return Positions(np.ascontiguousarray(starts, np.int64), np.ascontiguousarray(instruments, np.int32), amounts)


class Piece(NamedTuple):
    """Accounts of one tile, the shape they are padded to, and whether they go the dense way."""

    accounts: Int64[np.ndarray, " accounts"]
    rows: int
    width: int
    dense: bool


def cut(
    counts: Int64[np.ndarray, " accounts"],
    dense: Bool[np.ndarray, " accounts"],
    *,
    rows: int,
    streams: int,
    least: int,
    fewest: int,
) -> Iterator[Piece]:
    """Pieces over all accounts, from wide to narrow, so that streams end together.

    `rows` is the most a tile may have, halved while a width has less than two tiles for each stream; never fewer than
    `least`, which is what a dense tile always has. Where `ENTRIES` hold fewer accounts of a width than that, a tile of
    it has `fewest` at least.
    """
    shapes = 2 * np.ceil(np.log2(np.maximum(counts, 2))).astype(np.int64) + dense
    for shape in np.flatnonzero(np.bincount(shapes))[::-1].tolist():
        members, width, is_dense = np.flatnonzero(shapes == shape), 2 ** (shape // 2), bool(shape % 2)
        fit = ENTRIES // width
        if is_dense:
            most = least
        elif fit >= ROW_STEP:
            most = max(least, min(rows, fit // ROW_STEP * ROW_STEP))
        else:
            most = max(fewest, fit)
        while most // 2 >= max(least, 4 * ROW_STEP) and len(members) < 2 * streams * most:
            most = most // 2 // ROW_STEP * ROW_STEP
        for first in range(0, len(members), most):
            yield Piece(members[first : first + most], most, width, is_dense)


def position_tile(
    positions: Positions, piece: Piece, *, zero_row: int
) -> tuple[Int32[np.ndarray, "rows width"], Float[np.ndarray, "rows width"]]:
    """Instruments and quantities of a piece: positions in order, then padding with `zero_row` and quantity zero."""
    instruments = np.full((piece.rows, piece.width), zero_row, np.int32)
    quantities = np.zeros((piece.rows, piece.width), positions.quantities.dtype)
    counts = positions.counts[piece.accounts]
    entries = _entries(positions, piece.accounts, counts)
    filled = np.arange(piece.width) < np.pad(counts, (0, piece.rows - len(counts)))[:, None]
    instruments[filled] = positions.instruments[entries]
    quantities[filled] = positions.quantities[entries]
    return instruments, quantities


def dense_tile(positions: Positions, piece: Piece, *, instruments: int) -> Float[np.ndarray, "rows instruments"]:
    """Quantities of a dense piece by instrument; several positions in one instrument are summed."""
    held = np.zeros((piece.rows, instruments), positions.quantities.dtype)
    counts = positions.counts[piece.accounts]
    entries, row = _entries(positions, piece.accounts, counts), np.repeat(np.arange(len(counts)), counts)
    np.add.at(held, (row, positions.instruments[entries]), positions.quantities[entries])
    return held


def _entries(positions: Positions, accounts: np.ndarray, counts: np.ndarray) -> np.ndarray | slice:
    """The entries of these accounts, one account after the other; neighbours need not be gathered."""
    if len(accounts) and accounts[-1] - accounts[0] == len(accounts) - 1:
        return slice(positions.starts[accounts[0]], positions.starts[accounts[-1] + 1])
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(positions.starts[accounts] - before, counts)
