"""What else one would compute a book's value at risk and expected shortfall with, each as its own users would write it.

Every contender takes a workload and a number of threads and answers (value at risk, expected shortfall) by account, of
the same scenarios in float32. Tiles are of the size that suits it best here. Run with
`marginax bench --rivals benchmarks.book_rivals` in this folder.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from benchmarks.book_numba import numba_kernel
from benchmarks.book_workers import workers
from marginax.bench.contenders import Answers, tail_scenarios
from marginax.bench.workloads import Workload
from marginax_kernels.native_tail import plan_sweep, slice_length, sliced

SLACK = 1e-5
TILE = 64
# Numbers that a tile of the naive formulation may gather: 256 MB.
GATHERED = 2**26


def _tiled(work: Callable[[slice], Answers], accounts: int, threads: int, tile: int = TILE) -> Answers:
    tiles = [slice(first, first + tile) for first in range(0, accounts, tile)]
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, tiles))
    var, shortfall = (np.concatenate(each) for each in zip(*found, strict=True))
    return var, shortfall


def _tail_of(losses: np.ndarray, load: Workload) -> Answers:
    """Value at risk and expected shortfall of a tile's losses, which are overwritten."""
    scenarios, most = losses.shape[1], tail_scenarios(load)
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
    shape = (load.accounts, len(load.cube))
    held = sparse.csr_matrix((-load.quantities, load.ids, load.starts), shape=shape)
    return _tiled(lambda tile: _tail_of(held[tile] @ load.cube, load), shape[0], threads)


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
    most, found = tail_scenarios(load), []
    with torch.inference_mode():
        for first in range(0, load.accounts, 256):
            last = min(load.accounts, first + 256)
            begin, end = load.starts[first], load.starts[last]
            rows, columns = (
                torch.from_numpy(each) for each in (load.starts[first : last + 1] - begin, load.ids[begin:end])
            )
            values = torch.from_numpy(-load.quantities[begin:end])
            held = torch.sparse_csr_tensor(rows, columns.long(), values, size=(last - first, len(load.cube)))
            # Equal scenarios are only summed, and need no order among the worst.
            worst, where = torch.topk(product(held), most, dim=1, sorted=load.weights is not None)
            if load.weights is None:
                edge = worst.amin(dim=1, keepdim=True)
                shortfall = edge[:, 0] + (worst - edge).sum(dim=1) / (load.tail * load.scenarios)
            else:
                mass = torch.from_numpy(load.weights)[where]
                reached = torch.cumsum(mass.double(), dim=1) >= load.tail * (1 - SLACK)
                edge = torch.gather(worst, 1, reached.int().argmax(dim=1, keepdim=True))
                shortfall = edge[:, 0] + (mass * (worst - edge).clamp(min=0)).sum(dim=1) / load.tail
            found.append((edge[:, 0].numpy(), shortfall.numpy()))
    var, shortfall = (np.concatenate(each) for each in zip(*found, strict=True))
    return var, shortfall


@partial(jax.jit, static_argnames=("most", "tail"))
def _one_width(ids: Any, held: Any, cube: Any, weights: Any, *, most: int, tail: float) -> Any:
    return _naive_tail(-jnp.einsum("ap,aps->as", held, cube[ids]), weights, most, tail)


@partial(jax.jit, static_argnames=("accounts", "most", "tail"))
def _any_width(entries: Any, cube: Any, weights: Any, *, accounts: int, most: int, tail: float) -> Any:
    owner, ids, held = entries
    losses = -jax.ops.segment_sum(held[:, None] * cube[ids], owner, num_segments=accounts)
    return _naive_tail(losses, weights, most, tail)


@partial(jax.jit, static_argnames=("most", "tail"))
def _product(held: Any, cube: Any, weights: Any, *, most: int, tail: float) -> Any:
    return _naive_tail(-held @ cube, weights, most, tail)


def _naive_tail(losses: Any, weights: Any, most: int, tail: float) -> Any:
    worst, where = jax.lax.top_k(losses, most)
    mass = jnp.full(worst.shape, 1 / losses.shape[1]) if weights is None else weights[where]
    reached = jnp.argmax(jnp.cumsum(mass, axis=1) >= tail * (1 - SLACK), axis=1)
    edge = jnp.take_along_axis(worst, reached[:, None], axis=1)
    return edge[:, 0], edge[:, 0] + jnp.sum(mass * jnp.maximum(worst - edge, 0), axis=1) / tail


def naive_jax(load: Workload, threads: int) -> Answers:
    """What one would write first: gather and sum, `top_k`; sums by segment where accounts are of many widths, and a
    product of matrices where they hold most instruments."""
    cube, weights = jnp.asarray(load.cube), None if load.weights is None else jnp.asarray(load.weights)
    asked = {"most": tail_scenarios(load), "tail": load.tail}
    counts = np.diff(load.starts)
    wide, alike = 2 * counts.min() >= len(load.cube), (counts == counts[0]).all()

    def tile(part: slice) -> Answers:
        begin, end = load.starts[part.start], load.starts[min(part.stop, load.accounts)]
        mine, ids, held = counts[part], load.ids[begin:end], load.quantities[begin:end]
        owner = np.repeat(np.arange(len(mine)), mine)
        if wide:
            matrix = np.zeros((len(mine), len(load.cube)), np.float32)
            matrix[owner, ids] = held
            found = _product(matrix, cube, weights, **asked)
        elif alike:
            shape = (len(mine), -1)
            found = _one_width(ids.reshape(shape), held.reshape(shape), cube, weights, **asked)
        else:  # entries of nobody make the shapes few
            more = (0, 2 ** int(np.ceil(np.log2(len(ids)))) - len(ids))
            entries = np.pad(owner, more, constant_values=len(mine)), np.pad(ids, more), np.pad(held, more)
            found = _any_width(entries, cube, weights, accounts=len(mine), **asked)
        return np.asarray(found[0]), np.asarray(found[1])

    rows = TILE if wide else min(TILE, max(1, int(GATHERED / (counts.mean() * load.scenarios))))
    return _tiled(tile, load.accounts, threads, rows)


@cache
def _loop() -> Any:
    """The hand-written loop, compiled."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NotImplementedError("no compiler is on the path")
    place = tempfile.mkdtemp(prefix="marginax-loop-")
    library = Path(place) / "book_loop.so"
    source = Path(__file__).with_name("book_loop.cc")
    flags = ["-std=c++17", "-O3", "-march=native", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library)).book_loop


def hand_written(load: Workload, threads: int) -> Answers:
    """A loop in C++ for this answer alone, and equal weights alone."""
    if load.weights is not None:
        raise NotImplementedError("written for equal weights")
    lane = max(64, slice_length(len(load.cube), load.cube.dtype))
    sweep = plan_sweep(load.scenarios, None, tails=(load.tail,))
    slices = sliced(load.cube, sweep, lane=lane, threads=threads)
    most = tail_scenarios(load)

    def tile(part: slice) -> Answers:
        starts = load.starts[part.start : part.stop + 1]
        out = np.empty((len(starts) - 1, 2), np.float32)
        pointers = [ctypes.c_void_p(each.ctypes.data) for each in (slices, starts, load.ids, load.quantities, out)]
        numbers = [ctypes.c_int64(each) for each in (load.scenarios, len(load.cube), lane, len(out), most)]
        _loop()(pointers[0], *numbers[:3], *pointers[1:4], *numbers[3:], pointers[4])
        return out[:, 0], out[:, 0] + out[:, 1] / (load.tail * load.scenarios)

    # As many accounts as share a sweep well, and tiles enough that all threads end together.
    rows = min(1024, max(TILE, load.accounts // (2 * threads)))
    return _tiled(tile, load.accounts, threads, rows)


CONTENDERS = {
    "scipy_csr": scipy_csr,
    "numba_kernel": numba_kernel,
    "torch_sparse": torch_sparse,
    "torch_dense": torch_dense,
    "naive_jax": naive_jax,
    "pure_workers": workers,
    "hand_written": hand_written,
}
