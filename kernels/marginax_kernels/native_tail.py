"""The tail of one tile of accounts in machine code (`book_tail.cc`): what it needs once per book, and its calls.

Conventions: scenarios stand in the order in which they are visited. Blocks of 64 follow each other in strides, so that
a set sorted by severity looks like any other to the running bound; what is left of a whole block comes last. The order
is a function of the number of scenarios alone. The answers are those of `tile_tail`: value at risk to the bit, the
others, summed in float64, nearer to the truth by the roundings of its sums.
"""

from functools import partial
from math import gcd
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax_kernels.tile_tail import VENUE_BLOCK, TileTail, dense_pnl, mass_grid, scenarios_needed

# Scenarios that are summed at a time; slices are made of whole halves of them.
BLOCK = 64
# Bytes of a slice of the cube: half of the L2 cache of a small core, since the next slice is fetched meanwhile.
SLICE_BYTES = 2**17
# Scenarios of a slice at most: longer runs of a row gain nothing.
LONGEST_LANE = 512


class Sweep(NamedTuple):
    """What machine code is asked for: candidates' room and masses in `asked`, weights as visited (empty for equal)."""

    order: Int[np.ndarray, " scenarios"]
    asked: Float[np.ndarray, " five"]
    weights: Float[np.ndarray, " padded"]
    natural_weights: Float[np.ndarray, " padded"]


def plan_sweep(scenarios: int, weights: Float[np.ndarray, " scenarios"] | None, *, tail: float) -> Sweep:
    """The order of visits, and how many candidates of an account have room.

    Room is for two and a half times the fewest scenarios that any tail can need: those of least weight. The factor is
    the fastest of 1.5 to 10 at 1 % of 10,240 equal and of 2,048 stretched weights, by a little.
    """
    order = visiting_order(scenarios)
    if weights is None:
        most = scenarios_needed(scenarios, tail=tail)
        needed, grid, squares, empty = float(most), 1.0, 1 / scenarios, np.zeros(0)
        masses, natural = empty, empty
    else:
        on_grid = mass_grid(scenarios, tail=tail)
        needed, grid = float(on_grid.needed), 2.0**on_grid.bits
        wide = weights.astype(np.float64)
        squares = float(np.sum(wide**2))
        most = 1 + int(np.searchsorted(np.cumsum(np.sort(np.floor(wide * grid))), needed))
        padding = np.zeros(-scenarios % BLOCK, weights.dtype)
        masses, natural = np.concatenate([weights[order], padding]), np.concatenate([weights, padding])
    room = min(_blocks(5 * most // 2) + BLOCK, _blocks(scenarios) + BLOCK)
    return Sweep(order, np.array([needed, tail, grid, squares, room]), masses, natural)


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


def fill_slices(
    slices: Float[np.ndarray, "slices rows lane"],
    cube: Float[np.ndarray, "rows scenarios"],
    order: Int[np.ndarray, " scenarios"],
    which: range,
) -> None:
    """Copy some slices of the cube, scenarios as visited; what lies behind the last one is zero. Several may run."""
    half, lane = BLOCK // 2, slices.shape[2]
    whole = cube.shape[1] // half
    runs = cube[:, : whole * half].reshape(len(cube), whole, half)
    for number in which:
        visited = order[number * lane : (number + 1) * lane]
        full = len(visited) // half
        slices[number, :, : full * half].reshape(len(cube), full, half)[...] = runs[
            :, visited[: full * half : half] // half
        ]
        slices[number, :, full * half : len(visited)] = cube[:, visited[full * half :]]
        slices[number, :, len(visited) :] = 0


@partial(jax.jit, static_argnames="scenarios")
def native_tile_tail(
    slices: Float[Array, "slices rows lane"],
    held: Int[Array, " accounts"],
    instruments: Int[Array, "accounts width"],
    quantities: Float[Array, "accounts width"],
    weights: Float[Array, " padded"],
    amounts: Float[Array, " accounts"],
    asked: Float[Array, " five"],
    *,
    scenarios: int,
) -> TileTail:
    """`tile_tail` in machine code; `amounts` empty for none. Rows with `held` -1 have NaN.

    Needs 64-bit types enabled. Gradient: none.
    """
    operands = (slices, held, instruments, quantities, weights, amounts, asked)
    return _call("positions", operands, (len(held), scenarios), amounts, scenarios=np.int64(scenarios))


@jax.jit
def native_dense_tail(
    cube: Float[Array, "instruments scenarios"],
    positions: Float[Array, "accounts instruments"],
    held: Int[Array, " accounts"],
    weights: Float[Array, " padded"],
    amounts: Float[Array, " accounts"],
    asked: Float[Array, " five"],
) -> TileTail:
    """`dense_tile_tail` with the product by XLA and the tail in machine code; scenarios stand as in the cube."""
    losses = -dense_pnl(cube, positions)
    return _call("losses", (losses, held, weights, amounts, asked), (len(held), cube.shape[1]), amounts)


def _call(
    kind: str, operands: tuple[Array, ...], shape: tuple[int, int], amounts: Array, **attributes: np.int64
) -> TileTail:
    dtype = amounts.dtype
    accounts, scenarios = shape
    figure = jax.ShapeDtypeStruct((accounts,), dtype)
    blocks = -(-accounts // VENUE_BLOCK) if amounts.size else 0
    venue = jax.ShapeDtypeStruct((blocks, _blocks(scenarios)), jnp.float64)
    target = f"marginax_{kind}_f{8 * dtype.itemsize}"
    answers = jax.ffi.ffi_call(target, (figure, figure, figure, figure, venue))(*operands, **attributes)
    var, shortfall, error, exceedance, beyond = answers
    return TileTail(var, shortfall, error, *((exceedance, beyond) if amounts.size else (None, None)))


def _blocks(scenarios: int) -> int:
    """So many scenarios, rounded up to whole blocks."""
    return -(-scenarios // BLOCK) * BLOCK
