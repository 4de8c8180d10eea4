"""The tail of a whole book: every account's value at risk, expected shortfall and what lies beyond its equity.

Conventions: NumPy arrays in, NumPy arrays out; P&L is a gain and losses are its negative; scenarios are the last axis.
Accounts x scenarios is never stored: accounts are cut into tiles (`book_tiles`) that stream over the cores of a CPU, in
machine code where a compiler is found (`native_path` says), or over the GPUs of a host in pure JAX. No tile, stream,
chunk or neighbour changes an account's answers by one bit.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from marginax_kernels.book_checks import (
    check_ids,
    checked_amounts,
    checked_cube,
    checked_tail,
    checked_weights,
)
from marginax_kernels.book_passes import Book, BookPass, NativePass, PurePass
from marginax_kernels.book_tiles import ROW_STEP, Positions, cut, live_entries, live_positions
from marginax_kernels.native import native_path
from marginax_kernels.streams import run_streams, stream_devices

# Accounts of so many positions, in half of all instruments or more, are summed as a product of matrices: a gathered
# multiply-add costs 2 to 4 of a product's, where its row comes from the L2 cache (`python -m benchmarks book_tail`).
DENSE_WIDTH = 1024


class BookTail(NamedTuple):
    """Answers by account, in the cube's precision; money in the currency of the cube.

    var: value at risk, the first loss at which the cumulated weight reaches `tail`.
    expected_shortfall: mean loss in the worst `tail` of the mass.
    std_error: standard error of the expected shortfall, if the scenarios are independent weighted draws.
    exceedance: probability of a loss beyond the account's amount; None without amounts.
    venue_loss: sum over accounts of their losses beyond their amounts, by scenario; what is not finite is not counted.
        None without amounts.
    """

    var: Float[np.ndarray, " accounts"]
    expected_shortfall: Float[np.ndarray, " accounts"]
    std_error: Float[np.ndarray, " accounts"]
    exceedance: Float[np.ndarray, " accounts"] | None
    venue_loss: Float64[np.ndarray, " scenarios"] | None


def book_tail(
    instrument_ids: Int[np.ndarray, "accounts positions"],
    quantities: Float[np.ndarray, "accounts positions"],
    cube: Float[np.ndarray, "instruments scenarios"],
    weights: Float[np.ndarray, " scenarios"] | None,
    *,
    tail: float,
    amounts: Float[np.ndarray, " accounts"] | None = None,
    dense_width: int = DENSE_WIDTH,
    streams: int = 0,
    tile: int = 0,
) -> BookTail:
    """The tail of every account of a book over one set of scenarios.

    `instrument_ids` are rows of the cube, -1 for padding; a quantity of zero contributes exactly zero, whatever its row
    holds. Units: quantities in contracts, the cube in currency per contract, amounts in currency. `weights` sum to one
    and are None for equal ones; `tail` is a probability in (0, 1]. The cube's precision, float32 or float64, is that of
    the pass; sums of money over accounts are float64.

    Accounts of `dense_width` positions or more, in at least half of all instruments, are summed as a product of
    matrices, whose bits are its own: the width is part of the question. `streams` is 0 for one on each core or GPU, and
    `tile` 0 for a fitting number of accounts; neither shows in an answer.

    Cost: a multiply-add for each position and scenario, and a selection for each account. Gradient: see `tile_tail`.
    Raises ValueError for shapes that do not fit, ids out of range, a tail outside (0, 1], weights that are none.
    """
    ids, held, unit_pnl = np.asarray(instrument_ids), np.asarray(quantities), checked_cube(cube)
    if ids.ndim != 2 or ids.shape != held.shape:
        raise ValueError(
            f"`instrument_ids` of shape {ids.shape} and `quantities` of shape {held.shape} must both be accounts x "
            "positions: pad short accounts with id -1, or give rows of any length to `ragged_book_tail`."
        )
    check_ids(ids, len(unit_pnl))
    positions = live_positions(ids, held, unit_pnl.dtype)
    return _answered(positions, unit_pnl, weights, tail, amounts, dense_width, streams, tile)


def ragged_book_tail(
    starts: Int[np.ndarray, " accounts_and_one"],
    instrument_ids: Int[np.ndarray, " entries"],
    quantities: Float[np.ndarray, " entries"],
    cube: Float[np.ndarray, "instruments scenarios"],
    weights: Float[np.ndarray, " scenarios"] | None,
    *,
    tail: float,
    amounts: Float[np.ndarray, " accounts"] | None = None,
    dense_width: int = DENSE_WIDTH,
    streams: int = 0,
    tile: int = 0,
) -> BookTail:
    """`book_tail` of a book in row-compressed form: account `a` holds entries `starts[a]` to `starts[a + 1]`.

    Units, gradient and the rest: see `book_tail`; the answers are the same to the bit. Raises ValueError also for
    `starts` that do not begin at zero, fall, or do not end at the last entry.
    """
    bounds, ids, held = (np.asarray(each) for each in (starts, instrument_ids, quantities))
    unit_pnl = checked_cube(cube)
    if bounds.ndim != 1 or not len(bounds) or ids.ndim != 1 or ids.shape != held.shape:
        raise ValueError(
            f"`starts` of shape {bounds.shape}, `instrument_ids` of shape {ids.shape} and `quantities` of shape "
            f"{held.shape} must be vectors: the last two one number an entry, the first one an account and one more."
        )
    if bounds[0] != 0 or bounds[-1] != len(ids) or (np.diff(bounds) < 0).any():
        raise ValueError(
            f"`starts` must rise from 0 to the number of entries, {len(ids)}; they go from {bounds[0]} to "
            f"{bounds[-1]}. Give the `indptr` of a CSR matrix."
        )
    check_ids(ids, len(unit_pnl))
    positions = live_entries(bounds, ids, held, unit_pnl.dtype)
    return _answered(positions, unit_pnl, weights, tail, amounts, dense_width, streams, tile)


def _answered(
    positions: Positions,
    cube: np.ndarray,
    weights: np.ndarray | None,
    tail: float,
    amounts: np.ndarray | None,
    dense_width: int,
    streams: int,
    tile: int,
) -> BookTail:
    accounts, scenarios = len(positions.starts) - 1, cube.shape[1]
    mass = checked_weights(weights, scenarios, cube.dtype)
    limits = checked_amounts(amounts, accounts, cube.dtype)
    book = Book(positions, cube, mass, limits, checked_tail(tail))
    devices, dense = stream_devices(streams), _dense(positions, cube, dense_width)
    native = devices[0].platform == "cpu" and native_path().in_use
    each: BookPass = (NativePass if native else PurePass)(book, devices, dense=bool(dense.any()))
    rows = -(-(tile or each.rows) // ROW_STEP) * ROW_STEP
    pieces = cut(positions.counts, dense, rows=rows, streams=len(devices), least=each.least)
    figures = [np.zeros(accounts, cube.dtype) for _ in range(3 if limits is None else 4)]
    visited, natural = np.zeros(scenarios), np.zeros(scenarios)
    for piece, answer in run_streams(each.answer, pieces, len(devices)):
        for figure, found in zip(figures, answer.figures, strict=True):
            figure[piece.accounts] = found[: len(piece.accounts)]
        total = visited if piece.width else natural
        # One block after the other, whatever tile brought them: the sum does not hang on tiles.
        for block in answer.venue_loss:
            total += block[:scenarios]
    for figure in figures:
        figure += 0  # no loss is 0, never -0
    natural[each.order] += visited
    var, shortfall, error, *exceedance = figures
    return BookTail(var, shortfall, error, *((exceedance[0], natural) if exceedance else (None, None)))


def _dense(positions: Positions, cube: np.ndarray, dense_width: int) -> Bool[np.ndarray, " accounts"]:
    """Which accounts are summed as a product of matrices: wide ones that hold nothing without a finite P&L."""
    counts = positions.counts
    wide = (counts >= dense_width) & (2 * counts >= len(cube))
    if wide.any():
        broken = ~np.isfinite(cube).all(axis=1)
        for account in np.flatnonzero(wide):
            entries = slice(positions.starts[account], positions.starts[account + 1])
            wide[account] = not broken[positions.instruments[entries]].any()
    return wide
