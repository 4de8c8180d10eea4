"""What else one would compute a book's value at risk and expected shortfall with, each as its own users would write it.

Every rival takes a `Workload` and a number of threads and answers (value at risk, expected shortfall) by account, of
the same scenarios in float32. Tiles are of the size that suits it best here.
"""

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numba
import numpy as np
from scipy import sparse

from marginax_kernels.native_tail import fill_slices, plan_sweep, slice_length

Answers = tuple[np.ndarray, np.ndarray]
SLACK = 1e-5
TILE = 64


class Workload(NamedTuple):
    """A book in row-compressed form, its cube, weights (None for equal) and tail."""

    starts: np.ndarray
    ids: np.ndarray
    quantities: np.ndarray
    cube: np.ndarray
    weights: np.ndarray | None
    tail: float

    @property
    def most(self) -> int:
        """The most scenarios that a tail can need: all of least weight."""
        scenarios = self.cube.shape[1]
        if self.weights is None:
            return int(np.ceil(self.tail * (1 - SLACK) * scenarios))
        return 1 + int(np.searchsorted(np.cumsum(np.sort(self.weights.astype(float))), self.tail))


def _tiled(work: Callable[[slice], Answers], accounts: int, threads: int, tile: int = TILE) -> Answers:
    tiles = [slice(first, first + tile) for first in range(0, accounts, tile)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, tiles))
    var, shortfall = (np.concatenate(each) for each in zip(*found, strict=True))
    return var, shortfall


def _tail_of(losses: np.ndarray, load: Workload) -> Answers:
    """Value at risk and expected shortfall of a tile's losses, which are overwritten."""
    scenarios, most = losses.shape[1], load.most
    if load.weights is None:
        losses.partition(scenarios - most, axis=1)
        worst = losses[:, scenarios - most :]
        edge = worst[:, 0]
        return edge, edge + (worst - edge[:, None]).sum(axis=1) / (load.tail * scenarios)
    where = np.argpartition(losses, scenarios - most, axis=1)[:, scenarios - most :]
    worst = np.take_along_axis(losses, where, axis=1)
    order = np.argsort(-worst, axis=1)
    worst = np.take_along_axis(worst, order, axis=1)
    mass = load.weights[np.take_along_axis(where, order, axis=1)]
    reached = np.cumsum(mass, axis=1, dtype=float) >= load.tail * (1 - SLACK)
    edge = np.take_along_axis(worst, reached.argmax(axis=1)[:, None], axis=1)
    return edge[:, 0], edge[:, 0] + (mass * np.maximum(worst - edge, 0)).sum(axis=1) / load.tail


def scipy_csr(load: Workload, threads: int) -> Answers:
    """CSR times dense, then `np.partition`, or `argpartition` and cumulated weights."""
    shape = (len(load.starts) - 1, len(load.cube))
    held = sparse.csr_matrix((-load.quantities, load.ids, load.starts), shape=shape)
    return _tiled(lambda tile: _tail_of(held[tile] @ load.cube, load), shape[0], threads)


BLOCK = 256


@numba.njit(parallel=True, fastmath={"contract"}, cache=False)
def _numba_equal(starts, ids, quantities, cube, most, scale):  # type: ignore[no-untyped-def]
    accounts, scenarios = len(starts) - 1, cube.shape[1]
    var, shortfall = np.empty(accounts, np.float32), np.empty(accounts, np.float32)
    room = 4 * most + BLOCK
    chunks = (accounts + TILE - 1) // TILE
    for chunk in numba.prange(chunks):
        begin, end = chunk * TILE, min(accounts, chunk * TILE + TILE)
        kept = np.empty((end - begin, room), np.float32)
        count = np.zeros(end - begin, np.int64)
        bound = np.full(end - begin, -np.inf, np.float32)
        losses = np.empty(BLOCK, np.float32)
        for first in range(0, scenarios, BLOCK):
            length = min(BLOCK, scenarios - first)
            for a in range(end - begin):
                losses[:] = 0
                p, last = starts[begin + a], starts[begin + a + 1]
                while p + 4 <= last:
                    q0, q1, q2, q3 = quantities[p], quantities[p + 1], quantities[p + 2], quantities[p + 3]
                    r0 = cube[ids[p], first : first + length]
                    r1 = cube[ids[p + 1], first : first + length]
                    r2 = cube[ids[p + 2], first : first + length]
                    r3 = cube[ids[p + 3], first : first + length]
                    for s in range(length):
                        losses[s] -= q0 * r0[s] + q1 * r1[s] + q2 * r2[s] + q3 * r3[s]
                    p += 4
                while p < last:
                    row = cube[ids[p], first : first + length]
                    for s in range(length):
                        losses[s] -= quantities[p] * row[s]
                    p += 1
                n, mine, edge = count[a], kept[a], bound[a]
                for s in range(length):
                    mine[n] = losses[s]
                    n += losses[s] > edge
                if n > room - BLOCK:
                    mine[:n] = np.partition(mine[:n], n - most)
                    mine[:most] = mine[n - most : n].copy()
                    bound[a], n = mine[0], most
                count[a] = n
        for a in range(end - begin):
            worst = np.partition(kept[a, : count[a]], count[a] - most)[count[a] - most :]
            total = 0.0
            for k in range(most):
                total += worst[k] - worst[0]
            var[begin + a], shortfall[begin + a] = worst[0], worst[0] + total * scale
    return var, shortfall


@numba.njit(parallel=True, fastmath={"contract"}, cache=False)
def _numba_weighted(starts, ids, quantities, cube, weights, most, tail, needed):  # type: ignore[no-untyped-def]
    accounts, scenarios = len(starts) - 1, cube.shape[1]
    var, shortfall = np.empty(accounts, np.float32), np.empty(accounts, np.float32)
    for a in numba.prange(accounts):
        losses = np.zeros(scenarios, np.float32)
        for p in range(starts[a], starts[a + 1]):
            quantity, row = quantities[p], cube[ids[p]]
            for s in range(scenarios):
                losses[s] -= quantity * row[s]
        bound = np.partition(losses, scenarios - most)[scenarios - most]
        where = np.flatnonzero(losses >= bound)
        where = where[np.argsort(-losses[where])]
        mass, total, edge, k = 0.0, 0.0, 0.0, 0
        while mass < needed:
            edge = losses[where[k]]
            mass += weights[where[k]]
            k += 1
        for j in range(k):
            total += weights[where[j]] * (losses[where[j]] - edge)
        var[a], shortfall[a] = edge, edge + total / tail
    return var, shortfall


def numba_kernel(load: Workload, threads: int) -> Answers:
    """One parallel kernel that accumulates, keeps what is beyond a running bound, and selects, account by account."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    book = load.starts, load.ids, load.quantities, load.cube
    if load.weights is None:
        return _numba_equal(*book, load.most, 1 / (load.tail * load.cube.shape[1]))
    return _numba_weighted(*book, load.weights, load.most, load.tail, load.tail * (1 - SLACK))


def torch_sparse(load: Workload, threads: int) -> Answers:
    """PyTorch: sparse CSR times dense, `topk`."""
    import torch

    return _torch(load, threads, lambda held: held @ torch.from_numpy(load.cube))


def torch_dense(load: Workload, threads: int) -> Answers:
    """PyTorch: dense positions times dense cube, `topk`."""
    import torch

    return _torch(load, threads, lambda held: held.to_dense() @ torch.from_numpy(load.cube))


def _torch(load: Workload, threads: int, product: Callable[[Any], Any]) -> Answers:
    import torch

    torch.set_num_threads(threads)
    accounts, scenarios, most = len(load.starts) - 1, load.cube.shape[1], load.most
    found = []
    for first in range(0, accounts, 256):
        last = min(accounts, first + 256)
        begin, end = load.starts[first], load.starts[last]
        rows, columns = (
            torch.from_numpy(each) for each in (load.starts[first : last + 1] - begin, load.ids[begin:end])
        )
        values = torch.from_numpy(-load.quantities[begin:end])
        held = torch.sparse_csr_tensor(rows, columns.long(), values, size=(last - first, len(load.cube)))
        worst, where = torch.topk(product(held), most, dim=1)
        if load.weights is None:
            edge = worst[:, -1:]
            shortfall = edge[:, 0] + (worst - edge).sum(dim=1) / (load.tail * scenarios)
        else:
            mass = torch.from_numpy(load.weights)[where]
            reached = (torch.cumsum(mass.double(), dim=1) >= load.tail * (1 - SLACK)).int().argmax(dim=1, keepdim=True)
            edge = torch.gather(worst, 1, reached)
            shortfall = edge[:, 0] + (mass * (worst - edge).clamp(min=0)).sum(dim=1) / load.tail
        found.append((edge[:, 0].numpy(), shortfall.numpy()))
    var, shortfall = (np.concatenate(each) for each in zip(*found, strict=True))
    return var, shortfall


@partial(jax.jit, static_argnames=("most", "tail"))
def _naive(ids: Any, held: Any, cube: Any, weights: Any, *, most: int, tail: float) -> Any:
    losses = -jnp.einsum("ap,aps->as", held, cube[ids])
    worst, where = jax.lax.top_k(losses, most)
    mass = jnp.full(worst.shape, 1 / cube.shape[1]) if weights is None else weights[where]
    reached = jnp.argmax(jnp.cumsum(mass, axis=1) >= tail * (1 - SLACK), axis=1)
    edge = jnp.take_along_axis(worst, reached[:, None], axis=1)
    return edge[:, 0], edge[:, 0] + jnp.sum(mass * jnp.maximum(worst - edge, 0), axis=1) / tail


def naive_jax(load: Workload, threads: int) -> Answers:
    """What one would write first: gather, sum, `top_k`; for accounts of one width."""
    accounts = len(load.starts) - 1
    shape = (accounts, -1)
    ids, held = load.ids.reshape(shape), load.quantities.reshape(shape)
    cube, weights = jnp.asarray(load.cube), None if load.weights is None else jnp.asarray(load.weights)

    def tile(part: slice) -> Answers:
        var, shortfall = _naive(ids[part], held[part], cube, weights, most=load.most, tail=load.tail)
        return np.asarray(var), np.asarray(shortfall)

    return _tiled(tile, accounts, threads)


@cache
def _loop() -> Any:
    """The hand-written loop, compiled."""
    place = tempfile.mkdtemp(prefix="marginax-loop-")
    library = Path(place) / "book_loop.so"
    source = Path(__file__).with_name("book_loop.cc")
    flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
    subprocess.run([os.environ.get("CXX", "g++"), *flags, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library)).book_loop


def hand_written(load: Workload, threads: int) -> Answers:
    """A loop in C++ for this answer alone: equal weights, accounts of one width."""
    accounts, scenarios = len(load.starts) - 1, load.cube.shape[1]
    lane = max(64, slice_length(len(load.cube), load.cube.dtype))
    slices = np.empty((-(-scenarios // lane), len(load.cube), lane), np.float32)
    fill_slices(slices, load.cube, plan_sweep(scenarios, None, tail=load.tail).order, range(len(load.cube)))
    width = len(load.ids) // accounts

    def tile(part: slice) -> Answers:
        ids = np.ascontiguousarray(load.ids.reshape(accounts, width)[part], np.int32)
        held = np.ascontiguousarray(load.quantities.reshape(accounts, width)[part])
        out = np.empty((len(ids), 2), np.float32)
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (slices, ids, held, out)]
        numbers = [ctypes.c_int64(each) for each in (scenarios, len(load.cube), lane, len(ids), width, load.most)]
        _loop()(pointers[0], *numbers[:3], *pointers[1:3], *numbers[3:], pointers[3])
        return out[:, 0], out[:, 0] + out[:, 1] / (load.tail * scenarios)

    return _tiled(tile, accounts, threads, tile=1024)
