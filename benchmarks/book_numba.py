"""The book's tail as a numba kernel: parallel over accounts, products fused with sums, selected as it accumulates."""

import numba
import numpy as np

from marginax.bench.contenders import Answers, tail_scenarios
from marginax.bench.workloads import Workload

SLACK = 1e-5
# Accounts that share a sweep of the cube, and scenarios that are summed at a time: the fastest here.
TILE, BLOCK = 64, 256
JIT = {"fastmath": {"contract"}, "cache": False}


@numba.njit(**JIT, inline="always")
def _sum(losses, begin, end, ids, quantities, cube, first, length):  # type: ignore[no-untyped-def]
    """Losses of one account in some scenarios; four rows at a time, so that sums are stored once for four products."""
    losses[:length] = 0
    p = begin
    while p + 4 <= end:
        q0, q1, q2, q3 = quantities[p], quantities[p + 1], quantities[p + 2], quantities[p + 3]
        r0 = cube[ids[p], first : first + length]
        r1 = cube[ids[p + 1], first : first + length]
        r2 = cube[ids[p + 2], first : first + length]
        r3 = cube[ids[p + 3], first : first + length]
        for s in range(length):
            losses[s] -= q0 * r0[s] + q1 * r1[s] + q2 * r2[s] + q3 * r3[s]
        p += 4
    while p < end:
        row = cube[ids[p], first : first + length]
        for s in range(length):
            losses[s] -= quantities[p] * row[s]
        p += 1


@numba.njit(parallel=True, **JIT)
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
                _sum(losses, starts[begin + a], starts[begin + a + 1], ids, quantities, cube, first, length)
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


@numba.njit(parallel=True, **JIT)
def _numba_weighted(starts, ids, quantities, cube, weights, most, tail, needed):  # type: ignore[no-untyped-def]
    accounts, scenarios = len(starts) - 1, cube.shape[1]
    var, shortfall = np.empty(accounts, np.float32), np.empty(accounts, np.float32)
    for a in numba.prange(accounts):
        losses = np.empty(scenarios, np.float32)
        _sum(losses, starts[a], starts[a + 1], ids, quantities, cube, 0, scenarios)
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
    most = tail_scenarios(load)
    book = load.starts, load.ids, load.quantities, load.cube
    if load.weights is None:
        return _numba_equal(*book, most, 1 / (load.tail * load.scenarios))
    return _numba_weighted(*book, load.weights, most, load.tail, load.tail * (1 - SLACK))
