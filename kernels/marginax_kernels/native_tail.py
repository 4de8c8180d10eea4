"""The tail of one tile of accounts in machine code (`machine/book_tail.cc`): what it needs once per cube, and its call.

Conventions: scenarios stand in the order in which they are visited. Blocks of 64 follow each other in strides, so that
a set sorted by severity looks like any other to the running bound; what is left of a whole block comes last. The order
is a function of the number of scenarios alone. The answers are those of `tile_tail`: value at risk to the bit, the
others, summed in float64, nearer to the truth by the roundings of its sums.
"""

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import gcd
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int, Int32, Int64

from marginax_kernels import native
from marginax_kernels.book_tiles import Positions
from marginax_kernels.tail import student_widths
from marginax_kernels.tile_tail import VENUE_BLOCK, mass_grid, scenarios_needed

# Scenarios that are summed at a time; slices are made of whole halves of them.
BLOCK = 64
# Bytes of a slice of the cube: half of the L2 cache of a core, since the next slice is fetched meanwhile.
SLICE_BYTES = 2**18
# Scenarios of a slice at most: longer runs of a row gain nothing.
LONGEST_LANE = 512
# Figures of a book by tail and account, and by account alone.
BY_TAIL = ("var", "expected_shortfall", "std_error")
BY_ACCOUNT = ("exceedance", "worst_scenario")


class Asked(ctypes.Structure):
    """What is asked of every account at one tail: `selection.h` says what each number is."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("needed", "tail", "grid", "squares", "even")),
        *((name, ctypes.c_int64) for name in ("room", "scrambles", "draws")),
        *((name, ctypes.c_void_p) for name in ("shares", "widths")),
    )


class Tile(ctypes.Structure):
    """Some accounts of a book, the cube they are asked of, and where their answers go: see `sweep.h`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("scenarios", "rows", "lane", "tails", "count", "book", "dense")),
        *((name, ctypes.c_void_p) for name in ("slices", "firsts", "weights")),
        *((name, ctypes.c_void_p) for name in ("accounts", "starts", "instruments", "quantities", "amounts")),
        *((name, ctypes.c_void_p) for name in (*BY_TAIL, *BY_ACCOUNT, "venue")),
    )


class Sweep(NamedTuple):
    """What machine code is asked of every book: the order of visits and where its blocks begin, weights in that order
    (None where all are equal), what each tail asks, and the arrays that this points to."""

    order: Int[np.ndarray, " scenarios"]
    firsts: Int32[np.ndarray, " blocks"]
    weights: Float[np.ndarray, " padded"] | None
    asked: "ctypes.Array[Asked]"
    scrambled: tuple[np.ndarray, ...]


def plan_sweep(
    scenarios: int,
    weights: Float[np.ndarray, " scenarios"] | None,
    *,
    tails: tuple[float, ...],
    scrambles: tuple[int, int] = (0, 0),
) -> Sweep:
    """The order of visits, and how many candidates of an account have room; `tails` come with the greatest first.

    Room is for two and a half times the fewest scenarios that any tail can need: those of least weight. The factor is
    the fastest of 1.5 to 10 at 1 % of 10,240 equal and of 2,048 stretched weights, by a little.
    """
    order = visiting_order(scenarios)
    wide = np.full(scenarios, 1 / scenarios) if weights is None else weights.astype(np.float64)
    if weights is None:
        needed = [float(scenarios_needed(scenarios, tail=tail)) for tail in tails]
        most, grid, squares, masses = int(needed[0]), 1.0, 1 / scenarios, None
    else:
        grids = [mass_grid(scenarios, tail=tail) for tail in tails]
        grid, squares = 2.0 ** grids[0].bits, float(np.sum(wide**2))
        on_grid = np.cumsum(np.sort(np.floor(wide * grid)))
        needed = [min(float(each.needed), on_grid[-1]) for each in grids]  # all is enough, whatever floors lost
        most = 1 + int(np.searchsorted(on_grid, needed[0]))
        masses = np.concatenate([weights[order], np.zeros(-scenarios % BLOCK, weights.dtype)])
    room = min(_blocks(5 * most // 2) + BLOCK, _blocks(scenarios) + BLOCK)
    blocks, draws = scrambles
    shares = wide[:draws].reshape(blocks, -1).sum(axis=1) if blocks else np.zeros(0)
    widths = np.ascontiguousarray(student_widths(blocks), float) if blocks else np.zeros(0)
    common = (grid, squares, 1 / scenarios, room, blocks, draws, shares.ctypes.data, widths.ctypes.data)
    asked = [Asked(mass, tail, *common) for mass, tail in zip(needed, tails, strict=True)]
    return Sweep(order, order[::BLOCK].astype(np.int32), masses, (Asked * len(asked))(*asked), (shares, widths))


def visiting_order(scenarios: int) -> Int[np.ndarray, " scenarios"]:
    """Which scenario is visited when: whole blocks in strides near the golden section of their number."""
    blocks = scenarios // BLOCK
    stride = max(1, round(0.618 * blocks))
    while blocks and gcd(stride, blocks) > 1:
        stride += 1
    first = BLOCK * (np.arange(blocks) * stride % max(blocks, 1))
    return np.concatenate([(first[:, None] + np.arange(BLOCK)).ravel(), np.arange(blocks * BLOCK, scenarios)])


def slice_length(rows: int, dtype: np.dtype) -> int:
    """Scenarios of a slice: whole blocks that fit `SLICE_BYTES`, or half of one where none fits."""
    fit = SLICE_BYTES // (rows * dtype.itemsize)
    return min(LONGEST_LANE, fit // BLOCK * BLOCK) or BLOCK // 2


def sliced(
    cube: Float[np.ndarray, "rows scenarios"], sweep: Sweep, *, lane: int, threads: int
) -> Float[np.ndarray, "slices rows lane"]:
    """The cube in slices, scenarios as visited; what lies behind the last is zero."""
    rows, scenarios = cube.shape
    slices = _aligned((-(-scenarios // lane), rows, lane), cube.dtype)
    bounds = np.linspace(0, rows, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda ends: native.fill(cube, slices, sweep.firsts, range(*ends)), pairwise(bounds)))
    return slices


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a cache line: vectors of it lie in one each."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def answer_tile(
    slices: Float[np.ndarray, "slices rows lane"],
    sweep: Sweep,
    positions: Positions,
    accounts: Int64[np.ndarray, " some"],
    amounts: Float[np.ndarray, " accounts"] | None,
    into: Mapping[str, np.ndarray],
    *,
    dense: bool,
) -> Float64[np.ndarray, "blocks padded"]:
    """`tile_tail` of some accounts of a book in machine code, or `dense_tile_tail` of the same positions: figures by
    account are written `into` those of the book, and the venue's losses come by blocks of 64 of these accounts,
    scenarios in the order of visits.

    Arrays are in one piece, those of numbers in the precision of the slices. Dense accounts are summed in the order of
    the cube; they must hold finite rows. Gradient: none.
    """
    scenarios = len(sweep.order)
    blocks = 0 if amounts is None else -(-len(accounts) // VENUE_BLOCK)
    venue = np.zeros((blocks, _blocks(scenarios)))
    places = {
        "slices": slices,
        "firsts": sweep.firsts,
        "weights": sweep.weights,
        "accounts": accounts,
        **positions._asdict(),
        "amounts": amounts,
        **into,
        "venue": venue,
    }
    tile = Tile(
        scenarios=scenarios,
        rows=slices.shape[1],
        lane=slices.shape[2],
        tails=len(sweep.asked),
        count=len(accounts),
        book=len(positions.starts) - 1,
        dense=dense,
        **{name: None if array is None else _place(array) for name, array in places.items()},
    )
    native.sweep(slices.dtype.name, tile, sweep.asked)
    return venue


def _place(array: np.ndarray) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data


def _blocks(scenarios: int) -> int:
    """So many scenarios, rounded up to whole blocks."""
    return -(-scenarios // BLOCK) * BLOCK
