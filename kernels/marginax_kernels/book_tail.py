"""The tail of a whole book: every account's value at risk, expected shortfall and what lies beyond its equity.

Conventions: NumPy arrays in, NumPy arrays out; P&L is a gain and losses are its negative; scenarios are the last axis.
Who asks several books of one cube prepares it once: `CubeTail`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from marginax_kernels.cube_tail import DENSE_WIDTH, BookTail, CubeTail


def book_tail(
    instrument_ids: Int[np.ndarray, "accounts positions"],
    quantities: Float[np.ndarray, "accounts positions"],
    cube: Float[np.ndarray, "instruments scenarios"],
    weights: Float[np.ndarray, " scenarios"] | None,
    *,
    tail: float | Sequence[float],
    amounts: Float[np.ndarray, " accounts"] | None = None,
    dense_width: int = DENSE_WIDTH,
    streams: int = 0,
    tile: int = 0,
) -> BookTail:
    """The tail of every account of a book over one set of scenarios.

    `instrument_ids` are rows of the cube, -1 for padding; a quantity of zero contributes exactly zero, whatever its row
    holds. Units: quantities in contracts, the cube in currency per contract, amounts in currency. `weights` sum to one
    and are None for equal ones; `tail` is a probability in (0, 1], or several, answered in one pass. The cube's
    precision, float32 or float64, is that of the pass; sums of money over accounts are float64.

    Accounts of `dense_width` positions or more, in at least half of all instruments, are summed as a product of
    matrices in the cube's own order, so their last bits may hang on the width: it is part of the question. `streams` is
    0 for one on each core or GPU, and `tile` 0 for a fitting number of accounts; neither shows in an answer.

    Cost: a multiply-add for each position and scenario, and a selection for each account. Gradient: see `tile_tail`.
    Raises ValueError for shapes that do not fit, ids out of range, a tail outside (0, 1], weights that are none.
    """
    ids, held = np.asarray(instrument_ids), np.asarray(quantities)
    if ids.ndim != 2 or ids.shape != held.shape:
        raise ValueError(
            f"`instrument_ids` of shape {ids.shape} and `quantities` of shape {held.shape} must both be accounts x "
            "positions: pad short accounts with id -1, or give rows of any length to `ragged_book_tail`."
        )
    ready = CubeTail(cube, weights, tail=tail, dense_width=dense_width, streams=streams, tile=tile)
    return ready.of(np.arange(len(ids) + 1) * ids.shape[1], ids.ravel(), held.ravel(), amounts)


def ragged_book_tail(
    starts: Int[np.ndarray, " accounts_and_one"],
    instrument_ids: Int[np.ndarray, " entries"],
    quantities: Float[np.ndarray, " entries"],
    cube: Float[np.ndarray, "instruments scenarios"],
    weights: Float[np.ndarray, " scenarios"] | None,
    *,
    tail: float | Sequence[float],
    amounts: Float[np.ndarray, " accounts"] | None = None,
    dense_width: int = DENSE_WIDTH,
    streams: int = 0,
    tile: int = 0,
) -> BookTail:
    """`book_tail` of a book in row-compressed form: account `a` holds entries `starts[a]` to `starts[a + 1]`.

    Units, gradient and the rest: see `book_tail`; the answers are the same to the bit. Raises ValueError also for
    `starts` that do not begin at zero, fall, or do not end at the last entry.
    """
    ready = CubeTail(cube, weights, tail=tail, dense_width=dense_width, streams=streams, tile=tile)
    return ready.of(starts, instrument_ids, quantities, amounts)
