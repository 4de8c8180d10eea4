"""The tail of any book over one cube, which is placed on the devices once and asked again and again.

Conventions: as in `book_tail`. Accounts x scenarios is never stored: accounts are cut into tiles (`book_tiles`) that
stream over the cores of a CPU, in machine code where a compiler is found (`native_path` says), or over the GPUs of a
host in pure JAX. No tile, stream, chunk or neighbour changes an account's answers by one bit.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32

from marginax_kernels.book_checks import (
    check_ids,
    check_kinds,
    check_places,
    checked_amounts,
    checked_cube,
    checked_tails,
    checked_weights,
)
from marginax_kernels.book_passes import BookPass, NativePass, PurePass, Question
from marginax_kernels.book_tiles import ROW_STEP, Piece, Positions, cut, live_entries
from marginax_kernels.native import native_path
from marginax_kernels.native_tail import BY_TAIL
from marginax_kernels.streams import run_streams, stream_devices
from marginax_kernels.tail import check_scrambles

# Accounts of so many positions, in half of all instruments or more, are summed as a product of matrices. Its
# multiply-adds cost 0.6 to 0.9 of those that gather their rows where every instrument is held, and as much at half.
DENSE_WIDTH = 128
DENSE_SHARE = 2

Progress = Callable[[int, int], None]
"""Called with accounts done and accounts in all."""


class BookTail(NamedTuple):
    """Answers by account, in the cube's precision; money in the currency of the cube.

    Where several tails are asked, the first three have a row for each.

    var: value at risk, the first loss at which the cumulated weight reaches `tail` (less 1e-5 of it: `RELATIVE_SLACK`).
    expected_shortfall: mean loss in the worst `tail` of the mass.
    std_error: standard error of the expected shortfall, if the scenarios are independent weighted draws, or scrambles.
    exceedance: probability of a loss beyond the account's amount; None without amounts.
    venue_loss: sum over accounts of their losses beyond their amounts, by scenario; what is not finite is not counted.
        None without amounts.
    worst_scenario: the scenario of the greatest loss, the first of them where several tie; -1 where a loss is NaN.
    """

    var: Float[np.ndarray, "*tails accounts"]
    expected_shortfall: Float[np.ndarray, "*tails accounts"]
    std_error: Float[np.ndarray, "*tails accounts"]
    exceedance: Float[np.ndarray, " accounts"] | None
    venue_loss: Float64[np.ndarray, " scenarios"] | None
    worst_scenario: Int32[np.ndarray, " accounts"]


class CubeTail:
    """A cube, its weights and a tail, ready to be asked of any book; see `book_tail` for units, gradient and the rest.

    `tail` may be several: all are answered in one pass, which costs little more than the greatest of them alone, and
    each as if it were alone.
    `scrambles` are how many independent scrambles the first so many draws of the scenarios are made of, (0, 0) for
    independent draws. Raises ValueError as `book_tail` does, and for draws that cannot be cut into scrambles.
    """

    def __init__(
        self,
        cube: Float[np.ndarray, "instruments scenarios"],
        weights: Float[np.ndarray, " scenarios"] | None,
        *,
        tail: float | Sequence[float],
        scrambles: tuple[int, int] = (0, 0),
        dense_width: int = DENSE_WIDTH,
        streams: int = 0,
        tile: int = 0,
    ) -> None:
        check_places(streams=streams, tile=tile, dense_width=dense_width)
        self._cube = checked_cube(cube)
        scenarios = self._cube.shape[1]
        if scrambles[0]:
            check_scrambles(scenarios, scrambles=scrambles[0], draws=scrambles[1])
        mass = checked_weights(weights, scenarios, self._cube.dtype)
        tails = checked_tails(tail)
        # The pass takes them from the greatest down, and `_rank` puts them back.
        falling = sorted(set(tails), reverse=True)
        self._rank = falling.index(tails[0]) if np.ndim(tail) == 0 else [falling.index(each) for each in tails]
        self._tails = len(falling)
        question = Question(self._cube, mass, tuple(falling), scrambles)
        self._devices, self._dense_width = stream_devices(streams), dense_width
        native = self._devices[0].platform == "cpu" and native_path(self._cube.dtype.name).in_use
        if scrambles[0]:  # machine code keeps scenarios as numbers beside their losses
            native = native and scenarios <= 2 ** (np.finfo(self._cube.dtype).nmant + 1)
        self._pass: BookPass = (NativePass if native else PurePass)(question, self._devices)
        self._rows = -(-(tile or self._pass.rows) // ROW_STEP) * ROW_STEP

    def of(
        self,
        starts: Int[np.ndarray, " accounts_and_one"],
        instrument_ids: Int[np.ndarray, " entries"],
        quantities: Float[np.ndarray, " entries"],
        amounts: Float[np.ndarray, " accounts"] | None = None,
        *,
        progress: Progress | None = None,
    ) -> BookTail:
        """The tail of a book in row-compressed form; arguments and errors are those of `ragged_book_tail`."""
        bounds, ids, held = (np.asarray(each) for each in (starts, instrument_ids, quantities))
        check_kinds(bounds, held)
        if bounds.ndim != 1 or not len(bounds) or ids.ndim != 1 or ids.shape != held.shape:
            raise ValueError(
                f"`starts` of shape {bounds.shape}, `instrument_ids` of shape {ids.shape} and `quantities` of shape "
                f"{held.shape} must be vectors: the last two one number an entry, the first one an account and one "
                "more."
            )
        bounds = bounds.astype(np.int64, copy=False)
        if bounds[0] != 0 or bounds[-1] != len(ids) or (np.diff(bounds) < 0).any():
            raise ValueError(
                f"`starts` must rise from 0 to the number of entries, {len(ids)}; they go from {bounds[0]} to "
                f"{bounds[-1]}. Give the `indptr` of a CSR matrix."
            )
        check_ids(ids, len(self._cube))
        positions = live_entries(bounds, ids, held, self._cube.dtype)
        limits = checked_amounts(amounts, len(bounds) - 1, self._cube.dtype)
        return self._of(positions, limits, progress)

    def _of(self, positions: Positions, amounts: np.ndarray | None, progress: Progress | None) -> BookTail:
        accounts, (_, scenarios) = len(positions.starts) - 1, self._cube.shape
        found = {name: np.zeros((self._tails, accounts), self._cube.dtype) for name in BY_TAIL}
        found["worst_scenario"] = np.zeros(accounts, np.int32)
        if amounts is not None:
            found["exceedance"] = np.zeros(accounts, self._cube.dtype)
        visited, done, streams = np.zeros(scenarios), 0, len(self._devices)

        def work(stream: int, piece: Piece) -> Float64[np.ndarray, "blocks scenarios"]:
            return self._pass.answer(stream, positions, piece, amounts, found)

        limits = {"least": self._pass.least, "fewest": self._pass.fewest}
        pieces = cut(positions.counts, self._dense(positions), rows=self._rows, streams=streams, **limits)
        for piece, blocks in run_streams(work, pieces, streams):
            # One block after the other, whatever tile brought them: the sum does not hang on tiles.
            for block in blocks:
                visited += block[:scenarios]
            done += len(piece.accounts)
            if progress is not None:
                progress(done, accounts)
        for figure in found.values():
            figure += 0  # no loss is 0, never -0
        venue_loss = None
        if amounts is not None:
            venue_loss = np.zeros(scenarios)
            venue_loss[self._pass.order] = visited
        var, shortfall, error = (found[name][self._rank] for name in BY_TAIL)
        return BookTail(var, shortfall, error, found.get("exceedance"), venue_loss, found["worst_scenario"])

    def _dense(self, positions: Positions) -> Bool[np.ndarray, " accounts"]:
        """Which accounts are summed as a product of matrices: wide ones that hold nothing without a finite P&L."""
        counts = positions.counts
        wide = (counts >= self._dense_width) & (DENSE_SHARE * counts >= len(self._cube))
        for account in np.flatnonzero(wide) if wide.any() and self._broken.any() else ():
            entries = slice(positions.starts[account], positions.starts[account + 1])
            wide[account] = not self._broken[positions.instruments[entries]].any()
        return wide

    @cached_property
    def _broken(self) -> Bool[np.ndarray, " instruments"]:
        # A sum is finite where all of it is: float64 holds that of any float32, and what it does not hold is gathered.
        with np.errstate(over="ignore", invalid="ignore"):
            return ~np.isfinite(self._cube.sum(axis=1, dtype=float))
