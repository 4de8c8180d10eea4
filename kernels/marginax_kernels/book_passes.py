"""One pass over a book: what is placed on the devices once, and how a piece of the book is answered there.

`PurePass` runs `tile_tail` on any device, `NativePass` the same function in machine code on CPU. Both answer a piece
with NumPy arrays; venue losses come by blocks of 64 accounts in the order of `order`, or as in the cube for dense ones.
"""

from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Float64, Int

from marginax_kernels.book_tiles import ROW_STEP, Piece, Positions, dense_tile, position_tile
from marginax_kernels.native_tail import (
    fill_slices,
    native_dense_tail,
    native_tile_tail,
    plan_sweep,
    slice_length,
)
from marginax_kernels.standalone import LEAST_NUMBERS
from marginax_kernels.tile_tail import TileTail, dense_tile_tail, tile_tail

# Accounts of a tile: pure tiles keep their losses near a core's cache, or fill a GPU; native ones keep none, and the
# more accounts share a sweep of the cube, the less its slices cost.
PURE_ROWS, GPU_ROWS, NATIVE_ROWS = 128, 2048, 1024

_pure_tile = jax.jit(tile_tail, static_argnames="tail")
_pure_dense_tile = jax.jit(dense_tile_tail, static_argnames="tail")


class Answer(NamedTuple):
    """A piece on the host: figures in the order of `TileTail`, and the venue's losses by blocks of accounts."""

    figures: tuple[Float[np.ndarray, " rows"], ...]
    venue_loss: Float64[np.ndarray, "blocks scenarios"]


class BookPass(Protocol):
    """How pieces of one book are answered."""

    rows: int
    least: int
    order: Int[np.ndarray, " scenarios"]

    def answer(self, stream: int, piece: Piece) -> Answer:
        """The tail of the accounts of a piece, on the device of that stream."""


class Book:
    """The inputs of a pass, checked: what is held, the cube, masses (None for equal), amounts and the tail."""

    def __init__(
        self,
        positions: Positions,
        cube: Float[np.ndarray, "instruments scenarios"],
        weights: Float[np.ndarray, " scenarios"] | None,
        amounts: Float[np.ndarray, " accounts"] | None,
        tail: float,
    ) -> None:
        self.positions, self.cube, self.weights, self.amounts, self.tail = positions, cube, weights, amounts, tail

    def limits(self, piece: Piece) -> Float[np.ndarray, " rows"] | None:
        """Amounts of a piece; rows without an account have one that no loss exceeds."""
        if self.amounts is None:
            return None
        limits = np.full(piece.rows, np.inf, self.cube.dtype)
        limits[: len(piece.accounts)] = self.amounts[piece.accounts]
        return limits

    def finite_cube(self) -> Float[np.ndarray, "instruments scenarios"]:
        """The cube with zero for what is not finite: no dense account holds that."""
        return np.where(np.isfinite(self.cube), self.cube, 0)


class PurePass:
    """The pass in JAX, on the CPU or the GPUs of the host."""

    def __init__(self, book: Book, devices: list[jax.Device], *, dense: bool) -> None:
        scenarios = book.cube.shape[1]
        self.rows = PURE_ROWS if devices[0].platform == "cpu" else GPU_ROWS
        self.least = ROW_STEP * ceil(LEAST_NUMBERS / (scenarios * ROW_STEP))
        self.order = np.arange(scenarios)
        self._book = book
        zero = np.zeros((1, scenarios), book.cube.dtype)
        with jax.enable_x64(True):
            self._cubes = _placed(np.concatenate([book.cube, zero]), devices)
            self._weights = _placed(book.weights, devices)
            self._finite = _placed(book.finite_cube() if dense else None, devices)

    def answer(self, stream: int, piece: Piece) -> Answer:
        """See `BookPass`."""
        book, weights = self._book, self._weights[stream]
        with jax.enable_x64(True):
            if not piece.width:
                held = dense_tile(book.positions, piece, instruments=len(book.cube))
                found = _pure_dense_tile(self._finite[stream], held, weights, book.limits(piece), tail=book.tail)
            else:
                tile = position_tile(book.positions, piece, zero_row=len(book.cube))
                cube, limits = self._cubes[stream], book.limits(piece)
                found = _pure_tile(cube, tile.instruments, tile.quantities, weights, limits, tail=book.tail)
            return _on_host(found)


class NativePass:
    """The pass in machine code, on the cores of a CPU."""

    def __init__(self, book: Book, devices: list[jax.Device], *, dense: bool) -> None:
        cube = book.cube if len(book.cube) else np.zeros((1, book.cube.shape[1]), book.cube.dtype)
        self._scenarios = cube.shape[1]
        self.rows, self.least = NATIVE_ROWS, ROW_STEP
        self._book = book
        sweep = plan_sweep(self._scenarios, book.weights, tail=book.tail)
        self.order = sweep.order
        lane = slice_length(len(cube), cube.dtype)
        slices = _aligned((-(-self._scenarios // lane), len(cube), lane), cube.dtype)
        shares = [range(k, len(slices), len(devices)) for k in range(len(devices))]
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(lambda which: fill_slices(slices, cube, sweep.order, which), shares))
        with jax.enable_x64(True):
            self._slices = _placed(slices, devices)
            self._asked = _placed(sweep.asked, devices)
            self._weights = _placed(sweep.weights.astype(book.cube.dtype), devices)
            self._natural = _placed(sweep.natural_weights.astype(book.cube.dtype), devices)
            self._finite = _placed(book.finite_cube() if dense else None, devices)

    def answer(self, stream: int, piece: Piece) -> Answer:
        """See `BookPass`."""
        book, asked = self._book, self._asked[stream]
        limits = book.limits(piece)
        amounts = np.zeros(0, book.cube.dtype) if limits is None else limits
        with jax.enable_x64(True):
            if not piece.width:
                held = np.where(np.arange(piece.rows) < len(piece.accounts), 0, -1).astype(np.int32)
                matrix = dense_tile(book.positions, piece, instruments=len(book.cube))
                weights = self._natural[stream]
                found = native_dense_tail(self._finite[stream], matrix, held, weights, amounts, asked)
            else:
                operands = (self._slices[stream], *position_tile(book.positions, piece, zero_row=0))
                weights = self._weights[stream]
                found = native_tile_tail(*operands, weights, amounts, asked, scenarios=self._scenarios)
            return _on_host(found)


def _on_host(found: TileTail) -> Answer:
    var, shortfall, error, exceedance, venue = found
    if exceedance is None or venue is None:
        return Answer(tuple(np.asarray(each) for each in (var, shortfall, error)), np.zeros((0, 0)))
    return Answer(tuple(np.asarray(each) for each in (var, shortfall, error, exceedance)), np.asarray(venue))


def _placed(array: np.ndarray | None, devices: list[jax.Device]) -> list[jax.Array | None]:
    """The array on the device of each stream; once on each device."""
    if array is None:
        return [None] * len(devices)
    once = {device: jax.device_put(array, device) for device in set(devices)}
    return [once[device] for device in devices]


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a cache line, as jax asks of memory that it uses without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
