"""How tiles of books are answered over one cube: what is placed on the devices once, and the call for a tile.

`PurePass` is `tile_tail` on any device, `NativePass` the same function in machine code on CPU. Both write what is known
of each account where the book has it; the venue's losses come by blocks of 64 accounts, scenarios in the order of
`order`.
"""

from collections.abc import Mapping
from functools import cached_property, partial
from math import ceil
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from marginax_kernels.aggregate import accumulate
from marginax_kernels.book_tiles import ROW_STEP, Piece, Positions, dense_tile, position_tile
from marginax_kernels.native_tail import answer_tile, plan_sweep, slice_length, sliced
from marginax_kernels.standalone import LEAST_NUMBERS
from marginax_kernels.tile_tail import TileTail, dense_pnl, losses_tail

# Accounts of a tile: pure tiles keep their losses near a core's cache, or fill a GPU; native ones keep none, and the
# more accounts share a sweep of the cube, the less its slices cost.
PURE_ROWS, GPU_ROWS, NATIVE_ROWS = 128, 2048, 1024


class Question(NamedTuple):
    """What is asked of every account, checked: the cube, masses (None for equal), tails from the greatest down,
    scrambles and draws."""

    cube: Float[np.ndarray, "instruments scenarios"]
    weights: Float[np.ndarray, " scenarios"] | None
    tails: tuple[float, ...]
    scrambles: tuple[int, int]


class BookPass(Protocol):
    """How tiles are answered; `rows` is the fitting number of accounts of one, `least` the usual minimum, `fewest` that
    of accounts that are very wide."""

    rows: int
    least: int
    fewest: int
    order: Int[np.ndarray, " scenarios"]

    def answer(
        self,
        stream: int,
        positions: Positions,
        piece: Piece,
        amounts: Float[np.ndarray, " accounts"] | None,
        into: Mapping[str, np.ndarray],
    ) -> Float64[np.ndarray, "blocks scenarios"]:
        """The tail of the accounts of a piece, on the device of that stream, `into` the figures of the book (accounts
        last, tails before them); `amounts` are the book's. Back come the venue's losses."""


class PurePass:
    """The pass in JAX, on the CPU or the GPUs of the host."""

    def __init__(self, question: Question, devices: list[jax.Device]) -> None:
        cube = question.cube
        self.rows = PURE_ROWS if devices[0].platform == "cpu" else GPU_ROWS
        self.least = ROW_STEP * ceil(LEAST_NUMBERS / (cube.shape[1] * ROW_STEP))
        self.fewest = self.least
        self.order = np.arange(cube.shape[1])
        self._question, self._devices = question, devices
        with jax.enable_x64(True):
            self._cubes = _placed(np.concatenate([cube, np.zeros_like(cube[:1], shape=(1, cube.shape[1]))]), devices)
            self._weights = _placed(question.weights, devices)

    def answer(
        self,
        stream: int,
        positions: Positions,
        piece: Piece,
        amounts: Float[np.ndarray, " accounts"] | None,
        into: Mapping[str, np.ndarray],
    ) -> Float64[np.ndarray, "blocks scenarios"]:
        """See `BookPass`."""
        asked, rows = self._question, len(self._question.cube)
        static = {"tails": asked.tails, "scrambles": asked.scrambles}
        beside = (self._weights[stream], _limits(amounts, piece))
        with jax.enable_x64(True):
            if piece.dense:
                held = dense_tile(positions, piece, instruments=rows)
                found = _pure_dense_tile(self._finite[stream], held, *beside, **static)
            else:
                tile = position_tile(positions, piece, zero_row=rows)
                found = _pure_tile(self._cubes[stream], *tile, *beside, **static)
        for name, figures in into.items():
            figures[..., piece.accounts] = np.asarray(getattr(found, name))[..., : len(piece.accounts)]
        return np.zeros((0, 0)) if found.venue_loss is None else np.asarray(found.venue_loss)

    @cached_property
    def _finite(self) -> list[jax.Array | None]:
        """The cube with zero for what is not finite: no dense account holds that."""
        cube = self._question.cube
        return _placed(np.where(np.isfinite(cube), cube, 0), self._devices)


class NativePass:
    """The pass in machine code, on the cores of a CPU."""

    def __init__(self, question: Question, devices: list[jax.Device]) -> None:
        cube = question.cube if len(question.cube) else np.zeros_like(question.cube, shape=(1, question.cube.shape[1]))
        self.rows, self.least, self.fewest = NATIVE_ROWS, ROW_STEP, 1
        self._sweep = plan_sweep(cube.shape[1], question.weights, tails=question.tails, scrambles=question.scrambles)
        self.order = self._sweep.order
        self._slices = sliced(cube, self._sweep, lane=slice_length(len(cube), cube.dtype), threads=len(devices))

    def answer(
        self,
        stream: int,
        positions: Positions,
        piece: Piece,
        amounts: Float[np.ndarray, " accounts"] | None,
        into: Mapping[str, np.ndarray],
    ) -> Float64[np.ndarray, "blocks scenarios"]:
        """See `BookPass`."""
        return answer_tile(self._slices, self._sweep, positions, piece.accounts, amounts, into, dense=piece.dense)


@partial(jax.jit, static_argnames=("tails", "scrambles"))
def _pure_tile(
    cube: Array,
    rows: Array,
    quantities: Array,
    weights: Array | None,
    amounts: Array | None,
    *,
    tails: tuple[float, ...],
    scrambles: tuple[int, int],
) -> TileTail:
    return _by_tail(-accumulate(cube, rows, quantities), weights, amounts, tails, scrambles)


@partial(jax.jit, static_argnames=("tails", "scrambles"))
def _pure_dense_tile(
    cube: Array,
    held: Array,
    weights: Array | None,
    amounts: Array | None,
    *,
    tails: tuple[float, ...],
    scrambles: tuple[int, int],
) -> TileTail:
    return _by_tail(-dense_pnl(cube, held), weights, amounts, tails, scrambles)


def _by_tail(
    losses: Array, weights: Array | None, amounts: Array | None, tails: tuple[float, ...], scrambles: tuple[int, int]
) -> TileTail:
    """`losses_tail` at each tail: value at risk, shortfall and error are tails x accounts."""
    found = [losses_tail(losses, weights, amounts, tail=tail, scrambles=scrambles) for tail in tails]
    var, shortfall, error = (jnp.stack(figures) for figures in zip(*(one[:3] for one in found), strict=True))
    return found[0]._replace(var=var, expected_shortfall=shortfall, std_error=error)


def _limits(amounts: np.ndarray | None, piece: Piece) -> Float[np.ndarray, " rows"] | None:
    """Amounts of a piece; rows without an account have one that no loss exceeds."""
    if amounts is None:
        return None
    limits = np.full(piece.rows, np.inf, amounts.dtype)
    limits[: len(piece.accounts)] = amounts[piece.accounts]
    return limits


def _placed(array: np.ndarray | None, devices: list[jax.Device]) -> list[jax.Array | None]:
    """The array on the device of each stream; once on each device."""
    if array is None:
        return [None] * len(devices)
    once = {device: jax.device_put(array, device) for device in set(devices)}
    return [once[device] for device in devices]
