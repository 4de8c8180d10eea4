"""Microseconds an account of a whole-book tail, against what else one would use: answers checked first, interleaved.

Value at risk and expected shortfall at 1 % of the same float32 scenarios, by every contender in turn, again and again;
ours gives the standard error beside them. Two figures each: on all cores of the machine, one stream or thread on each,
and on one pinned core. `wall` is the clock's, `cpu` what all threads together took of a core, which a busy machine
spoils less. Medians. What ours does once per book (cutting, slicing the cube) is inside its figure.

Workloads: 20 positions of 500 and of 2,000 instruments, 10,240 equal scenarios and 2,048 stretched weights; a ragged
book whose numbers of positions follow a power law. `sorted` and `ties` are ours alone, on the first workload: losses
that come sorted by severity, and that tie.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.context import context

TAIL = 0.01
ROUNDS = int(os.environ.get("BOOK_TAIL_ROUNDS", "5"))
ACCOUNTS = int(os.environ.get("BOOK_TAIL_ACCOUNTS", "8192"))


def run() -> dict[str, Any]:
    """The benchmark's record: both figures, each from a process of its own."""
    cores = sorted(os.sched_getaffinity(0))
    program = "import json; from benchmarks.book_tail import figures; print(json.dumps(figures({threads})))"
    results = {}
    for name, allowed in (("all_cores", cores), ("one_core", cores[:1])):
        done = subprocess.run(
            ["taskset", "-c", ",".join(map(str, allowed)), sys.executable, "-c", program.format(threads=len(allowed))],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results[name] = json.loads(done.stdout.splitlines()[-1])
    return {"benchmark": "book_tail", "dtype": "float32", "tail": TAIL, "context": context(), "figures": results}


def figures(threads: int) -> dict[str, Any]:
    """All workloads on this process's cores."""
    from marginax_kernels import native_path

    found: dict[str, Any] = {"threads": threads, "path": native_path().reason.split(":")[0], "rounds": ROUNDS}
    for name, load, contenders in _workloads():
        found[name] = _raced(load, contenders, threads)
        print(name, json.dumps(found[name]), file=sys.stderr)
    return found


def _workloads() -> Any:
    from benchmarks import book_rivals as rivals

    narrow = ["scipy_csr", "numba_kernel", "torch_sparse", "torch_dense", "naive_jax", "hand_written"]
    for instruments in (500, 2000):
        yield f"equal_{instruments}", _load(rivals, instruments, 10_240, weighted=False), narrow
    for instruments in (500, 2000):
        yield f"weighted_{instruments}", _load(rivals, instruments, 2048, weighted=True), narrow[:-1]
    yield "ragged_equal", _load(rivals, 1000, 10_240, weighted=False, ragged=True), narrow[:3]
    yield "ragged_weighted", _load(rivals, 1000, 2048, weighted=True, ragged=True), narrow[:3]
    plain = _load(rivals, 500, 10_240, weighted=False)
    worst = np.argsort(plain.cube.sum(axis=0))
    yield "sorted", plain._replace(cube=np.ascontiguousarray(plain.cube[:, worst])), []
    yield "ties", plain._replace(cube=np.round(plain.cube), quantities=np.sign(plain.quantities)), []


def _load(rivals: Any, instruments: int, scenarios: int, *, weighted: bool, ragged: bool = False) -> Any:
    rng = np.random.default_rng(7)
    counts = np.full(ACCOUNTS, 20)
    if ragged:  # a density falling with the power 1.7: half hold one or two positions, a few hundreds
        counts = np.minimum(np.floor(rng.random(ACCOUNTS) ** (-1 / 0.7)), 800).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    ids = np.concatenate([np.sort(rng.choice(instruments, each, replace=False)) for each in counts]).astype(np.int32)
    factors = rng.standard_t(5, (4, scenarios))
    cube = rng.normal(size=(instruments, 4)) @ factors + rng.standard_t(5, (instruments, scenarios))
    weights = None
    if weighted:
        stretched = 2.5 * ((np.arange(scenarios) + 0.5) / scenarios) ** 1.5
        weights = rng.permutation(stretched / stretched.sum()).astype(np.float32)
    quantities = rng.normal(size=len(ids)).astype(np.float32)
    return rivals.Workload(starts, ids, quantities, cube.astype(np.float32), weights, TAIL)


def _ours(load: Any, threads: int) -> tuple[np.ndarray, np.ndarray]:
    from marginax_kernels import ragged_book_tail

    got = ragged_book_tail(
        load.starts, load.ids, load.quantities, load.cube, load.weights, tail=load.tail, streams=threads
    )
    return got.var, got.expected_shortfall


def _pure(load: Any, threads: int) -> tuple[np.ndarray, np.ndarray]:
    before = os.environ.get("MARGINAX_NATIVE")
    os.environ["MARGINAX_NATIVE"] = "0"
    try:
        return _ours(load, threads)
    finally:
        os.environ.pop("MARGINAX_NATIVE")
        if before is not None:
            os.environ["MARGINAX_NATIVE"] = before


def _raced(load: Any, names: list[str], threads: int) -> dict[str, Any]:
    from benchmarks import book_rivals as rivals

    contenders: dict[str, Callable[[Any, int], Any]] = {"ours": _ours, "ours_pure": _pure}
    contenders |= {name: getattr(rivals, name) for name in names}
    wanted = _ours(load, threads)
    # float32 sums of up to 800 products: a millionth of the largest figure is far more than their rounding.
    for name, work in contenders.items():
        for one, other in zip(work(load, threads), wanted, strict=True):
            if not np.abs(one - other).max() <= 2e-6 * np.abs(other).max():
                sys.exit(f"{name} answers something else; no clock was started")
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    cores: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, work in contenders.items():
            wall, core = time.perf_counter(), time.process_time()
            work(load, threads)
            walls[name].append((time.perf_counter() - wall) / ACCOUNTS * 1e6)
            cores[name].append((time.process_time() - core) / ACCOUNTS * 1e6)
    return {
        name: {"wall_us": round(median(walls[name]), 2), "cpu_us": round(median(cores[name]), 2)} for name in contenders
    }
