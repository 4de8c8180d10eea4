"""How tiles of books are answered over one cube: what is placed on the devices once, and the call for a tile.

`PurePass` is `tile_tail` on any device, `NativePass` the same function in machine code on CPU. Both answer a tile
with NumPy arrays; the venue's losses come by blocks of 64 accounts, scenarios in the order of `order`.
"""

from functools import cached_property, partial
from math import ceil
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from marginax_kernels.aggregate import accumulate
from marginax_kernels.book_tiles import ROW_STEP, Piece, Positions, dense_tile, position_tile
from marginax_kernels.native_tail import native_tile_tail, plan_sweep, slice_length, sliced
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


class Answer(NamedTuple):
    """A tile on the host: what is known of each account by name, accounts last, tails before them where they differ by
    tail; and the venue's losses by blocks of accounts."""

    figures: dict[str, np.ndarray]
    venue_loss: Float64[np.ndarray, "blocks scenarios"]


class BookPass(Protocol):
    """How tiles are answered; `rows` is the fitting number of accounts of one, `least` the usual minimum, `fewest` that
    of accounts that are very wide."""

    rows: int
    least: int
    fewest: int
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
        self.fewest = self.least
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
        static = {"tails": asked.tails, "scrambles": asked.scrambles}
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
        self.rows, self.least, self.fewest = NATIVE_ROWS, ROW_STEP, 1
        self._scenarios, self._dtype, self._tails = cube.shape[1], cube.dtype, len(question.tails)
        sweep = plan_sweep(self._scenarios, question.weights, tails=question.tails, scrambles=question.scrambles)
        self.order = sweep.order
        lane = slice_length(len(cube), cube.dtype)
        slices = sliced(cube, sweep, lane=lane, threads=len(devices))
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
                *operands,
                self._asked[stream],
                self._firsts[stream],
                scenarios=self._scenarios,
                tails=self._tails,
                dense=piece.dense,
            )
            return _on_host(found)


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


def _on_host(found: TileTail) -> Answer:
    figures = {name: np.asarray(figure) for name, figure in found._asdict().items() if figure is not None}
    return Answer(figures, figures.pop("venue_loss", np.zeros((0, 0))))


def _placed(array: np.ndarray | None, devices: list[jax.Device]) -> list[jax.Array | None]:
    """The array on the device of each stream; once on each device."""
    if array is None:
        return [None] * len(devices)
    once = {device: jax.device_put(array, device) for device in set(devices)}
    return [once[device] for device in devices]
