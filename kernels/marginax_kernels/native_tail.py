"""The tail of one tile of accounts in machine code (`machine/book_tail.cc`): what it needs once per cube, and its call.

Conventions: scenarios stand in the order in which they are visited. Blocks of 64 follow each other in strides, so that
a set sorted by severity looks like any other to the running bound; what is left of a whole block comes last. The order
is a function of the number of scenarios alone. The answers are those of `tile_tail`: value at risk to the bit, the
others, summed in float64, nearer to the truth by the roundings of its sums.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from marginax_kernels.native import fill, target
from marginax_kernels.tail import student_widths
from marginax_kernels.tile_tail import VENUE_BLOCK, TileTail, mass_grid, scenarios_needed

# Scenarios that are summed at a time; slices are made of whole halves of them.
BLOCK = 64
# Bytes of a slice of the cube: half of the L2 cache of a core, since the next slice is fetched meanwhile.
SLICE_BYTES = 2**18
# Scenarios of a slice at most: longer runs of a row gain nothing.
LONGEST_LANE = 512


class Sweep(NamedTuple):
    """What machine code is asked: the order of visits and where its blocks begin, the numbers of `asked`, and weights.

    `weights` are in the order of visits, and empty where all are equal.
    """

    order: Int[np.ndarray, " scenarios"]
    firsts: Int32[np.ndarray, " blocks"]
    asked: Float[np.ndarray, " numbers"]
    weights: Float[np.ndarray, " padded"]


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
        most, grid, squares, masses = int(needed[0]), 1.0, 1 / scenarios, np.zeros(0)
    else:
        grids = [mass_grid(scenarios, tail=tail) for tail in tails]
        grid, squares = 2.0 ** grids[0].bits, float(np.sum(wide**2))
        on_grid = np.cumsum(np.sort(np.floor(wide * grid)))
        needed = [min(float(each.needed), on_grid[-1]) for each in grids]  # all is enough, whatever floors lost
        most = 1 + int(np.searchsorted(on_grid, needed[0]))
        masses = np.concatenate([weights[order], np.zeros(-scenarios % BLOCK, weights.dtype)])
    room = min(_blocks(5 * most // 2) + BLOCK, _blocks(scenarios) + BLOCK)
    asked = np.concatenate([[grid, squares, room, len(tails)], np.stack([needed, tails], axis=1).ravel()])
    blocks, draws = scrambles
    if blocks:
        shares = wide[:draws].reshape(blocks, -1).sum(axis=1)
        asked = np.concatenate([asked, [draws], student_widths(blocks), shares])
    return Sweep(order, order[::BLOCK].astype(np.int32), asked, masses)


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
        list(pool.map(lambda ends: fill(cube, slices, sweep.firsts, range(*ends)), pairwise(bounds)))
    return slices


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that begins at a cache line, as jax asks of memory that it uses without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@partial(jax.jit, static_argnames=("scenarios", "tails", "dense"))
def native_tile_tail(
    slices: Float[Array, "slices rows lane"],
    held: Int[Array, " accounts"],
    instruments: Int[Array, "accounts width"],
    quantities: Float[Array, "accounts width"],
    weights: Float[Array, " padded"],
    amounts: Float[Array, " accounts"],
    asked: Float[Array, " numbers"],
    firsts: Int[Array, " blocks"],
    *,
    scenarios: int,
    tails: int,
    dense: bool,
) -> TileTail:
    """`tile_tail` in machine code, or `dense_tile_tail` of the same positions; `amounts` empty for none. Value at risk,
    shortfall and error are tails x accounts.

    Rows with `held` -1 have NaN. Dense accounts are summed in the order of the cube; they must hold finite rows.
    Needs 64-bit types enabled. Gradient: none.
    """
    dtype, accounts = amounts.dtype, len(held)
    figure = jax.ShapeDtypeStruct((tails, accounts), dtype)
    asks = amounts.size > 0
    blocks = -(-accounts // VENUE_BLOCK) if asks else 0
    results = (
        *(figure,) * 3,
        jax.ShapeDtypeStruct((accounts,), dtype),
        jax.ShapeDtypeStruct((accounts,), jnp.int32),
        jax.ShapeDtypeStruct((blocks, _blocks(scenarios)), jnp.float64),
    )
    call = jax.ffi.ffi_call(target(dtype.name), results)
    operands = (slices, held, instruments, quantities, weights, amounts, asked, firsts)
    var, shortfall, error, exceedance, worst, beyond = call(
        *operands, scenarios=np.int64(scenarios), dense=np.int64(dense)
    )
    return TileTail(var, shortfall, error, exceedance if asks else None, beyond if asks else None, worst)


def _blocks(scenarios: int) -> int:
    """So many scenarios, rounded up to whole blocks."""
    return -(-scenarios // BLOCK) * BLOCK
