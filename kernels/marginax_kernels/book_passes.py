"""How tiles of books are answered over one cube: what is placed on the devices once, and the call for a tile.

`PurePass` runs `tile_tail` on any device, `NativePass` the same function in machine code on CPU. Both answer a tile
with NumPy arrays; the venue's losses come by blocks of 64 accounts, scenarios in the order of `order`.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Float64, Int

from marginax_kernels.book_tiles import ROW_STEP, Piece, Positions, dense_tile, position_tile
from marginax_kernels.native_tail import fill_slices, native_tile_tail, plan_sweep, slice_length
from marginax_kernels.standalone import LEAST_NUMBERS
from marginax_kernels.tile_tail import TileTail, dense_tile_tail, tile_tail

# Accounts of a tile: pure tiles keep their losses near a core's cache, or fill a GPU; native ones keep none, and the
# more accounts share a sweep of the cube, the less its slices cost.
PURE_ROWS, GPU_ROWS, NATIVE_ROWS = 128, 2048, 1024

_pure_tile = jax.jit(tile_tail, static_argnames=("tail", "scrambles"))
_pure_dense_tile = jax.jit(dense_tile_tail, static_argnames=("tail", "scrambles"))


class Question(NamedTuple):
    """What is asked of every account, checked: the cube, masses (None for equal), the tail, scrambles and draws."""

    cube: Float[np.ndarray, "instruments scenarios"]
    weights: Float[np.ndarray, " scenarios"] | None
    tail: float
    scrambles: tuple[int, int]


class Answer(NamedTuple):
    """A tile on the host: what is known of each account by name, and the venue's losses by blocks of accounts."""

    figures: dict[str, np.ndarray]
    venue_loss: Float64[np.ndarray, "blocks scenarios"]


class BookPass(Protocol):
    """How tiles are answered; `rows` is the fitting number of accounts of one, `least` the fewest."""

    rows: int
    least: int
    order: Int[np.ndarray, " scenarios"]

    def answer(
        self, stream: int, positions: Positions, piece: Piece, limits: Float[np.ndarray, " rows"] | None
    ) -> Answer:
        """The tail of the accounts of a piece, on the device of that stream; `limits` are their amounts."""


class PurePass:
    """The pass in JAX, on the CPU or the GPUs of the host."""

    def __init__(self, question: Question, devices: list[jax.Device]) -> None:
        cube = question.cube
        self.rows = PURE_ROWS if devices[0].platform == "cpu" else GPU_ROWS
        self.least = ROW_STEP * ceil(LEAST_NUMBERS / (cube.shape[1] * ROW_STEP))
        self.order = np.arange(cube.shape[1])
        self._question, self._devices = question, devices
        with jax.enable_x64(True):
            self._cubes = _placed(np.concatenate([cube, np.zeros_like(cube[:1], shape=(1, cube.shape[1]))]), devices)
            self._weights = _placed(question.weights, devices)

    def answer(
        self, stream: int, positions: Positions, piece: Piece, limits: Float[np.ndarray, " rows"] | None
    ) -> Answer:
        """See `BookPass`."""
        asked, rows = self._question, len(self._question.cube)
        static = {"tail": asked.tail, "scrambles": asked.scrambles}
        beside = (self._weights[stream], limits)
        with jax.enable_x64(True):
            if piece.dense:
                held = dense_tile(positions, piece, instruments=rows)
                return _on_host(_pure_dense_tile(self._finite[stream], held, *beside, **static))
            tile = position_tile(positions, piece, zero_row=rows)
            return _on_host(_pure_tile(self._cubes[stream], tile.instruments, tile.quantities, *beside, **static))

    @cached_property
    def _finite(self) -> list[jax.Array | None]:
        """The cube with zero for what is not finite: no dense account holds that."""
        cube = self._question.cube
        return _placed(np.where(np.isfinite(cube), cube, 0), self._devices)


class NativePass:
    """The pass in machine code, on the cores of a CPU."""

    def __init__(self, question: Question, devices: list[jax.Device]) -> None:
        cube = question.cube if len(question.cube) else np.zeros_like(question.cube, shape=(1, question.cube.shape[1]))
        self.rows, self.least = NATIVE_ROWS, ROW_STEP
        self._scenarios, self._dtype = cube.shape[1], cube.dtype
        sweep = plan_sweep(self._scenarios, question.weights, tail=question.tail, scrambles=question.scrambles)
        self.order = sweep.order
        lane = slice_length(len(cube), cube.dtype)
        slices = _aligned((-(-self._scenarios // lane), len(cube), lane), cube.dtype)
        bounds = np.linspace(0, len(cube), len(devices) + 1).astype(int).tolist()
        with ThreadPoolExecutor(len(devices)) as pool:
            shares = [range(*ends) for ends in pairwise(bounds)]
            list(pool.map(lambda rows: fill_slices(slices, cube, sweep.order, rows), shares))
        with jax.enable_x64(True):
            self._slices = _placed(slices, devices)
            operands = (sweep.weights.astype(cube.dtype), sweep.asked, sweep.firsts)
            self._weights, self._asked, self._firsts = (_placed(each, devices) for each in operands)

    def answer(
        self, stream: int, positions: Positions, piece: Piece, limits: Float[np.ndarray, " rows"] | None
    ) -> Answer:
        """See `BookPass`."""
        amounts = np.zeros(0, self._dtype) if limits is None else limits
        tile = position_tile(positions, piece, zero_row=0)
        operands = (self._slices[stream], *tile, self._weights[stream], amounts)
        with jax.enable_x64(True):
            found = native_tile_tail(
                *operands, self._asked[stream], self._firsts[stream], scenarios=self._scenarios, dense=piece.dense
            )
            return _on_host(found)


def _on_host(found: TileTail) -> Answer:
    figures = {name: np.asarray(figure) for name, figure in found._asdict().items() if figure is not None}
    return Answer(figures, figures.pop("venue_loss", np.zeros((0, 0))))


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
