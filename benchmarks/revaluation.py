"""Black-76 revaluation of 2,000 options in 8,192 scenarios: nanoseconds a cell, against fair rivals on the same cores.

All sides get the same float64 or float32 inputs and give the undiscounted value of every cell in a new array. Every
rival shares the work that depends on expiry and scenario alone, as our kernel does; ours is compiled as the engine
does. Answers are compared with a float64 reference before any clock starts; then all are timed in turn, warm and waited
for. QuantLib's `blackFormula` runs over a subsample in a Python loop and is scaled up: that is what calling it costs.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtr

from benchmarks.context import context
from marginax.engine.compilation import WIDE_VECTORS
from marginax_kernels import reprice_black76

OPTIONS, SCENARIOS, UNDERLYINGS, EXPIRIES = 2_000, 8_192, 10, 20
ROUNDS = 9
SAMPLE = 2_000
"""Cells that QuantLib prices."""
BLOCK = 8
"""Options a task of the NumPy rival; its three buffers of 8,192 float64 numbers are 64 KiB each and stay in cache."""
# Errors allowed, over the greater of forward and strike: ours in roundings, scipy's and libm's alike.
ROUNDINGS = 8

Work = Callable[[], Any]


class Chain(NamedTuple):
    """The inputs of `reprice_black76`, in one precision."""

    log_move: np.ndarray
    multiple: np.ndarray
    expiry: np.ndarray
    forward: np.ndarray
    strike: np.ndarray
    deviation: np.ndarray
    call: np.ndarray


def run() -> dict[str, Any]:
    """The benchmark's record."""
    cells = OPTIONS * SCENARIOS
    figures: dict[str, Any] = {}
    for name in ("float32", "float64"):
        with jax.enable_x64(name == "float64"):
            chain = _chain(np.dtype(name))
            work = {"ours": _ours(chain), "numpy_scipy": _numpy(chain)}
            if find_spec("numba"):
                work["numba"] = _numba(chain)
            _check(chain, work)
            times = _interleaved(work)
        nanoseconds, processor = ({each: 1e9 * t / cells for each, t in clock.items()} for clock in times)
        if find_spec("QuantLib"):
            nanoseconds["quantlib_loop_scaled_up"] = _quantlib(chain)
        figures[name] = {
            "nanoseconds_a_cell": nanoseconds,
            "processor_nanoseconds_a_cell": processor,
            "best_rival_over_ours": _ratio(nanoseconds),
            "best_rival_over_ours_processor": _ratio(processor),
            "missing_rivals": [each for each in ("numba", "QuantLib") if not find_spec(each)],
        }
    return {
        "benchmark": "revaluation",
        "options": OPTIONS,
        "scenarios": SCENARIOS,
        "expiries": EXPIRIES,
        "context": context() | {name: version(name) for name in ("numba", "QuantLib", "scipy") if find_spec(name)},
        "figures": figures,
    }


def _ratio(times: dict[str, float]) -> float:
    return min(value for each, value in times.items() if each != "ours") / times["ours"]


def _chain(dtype: np.dtype) -> Chain:
    rng = np.random.default_rng(20260103)
    # Instruments are numbered by underlying and expiry, so options of one expiry stand together.
    underlying, expiry = np.arange(EXPIRIES) % UNDERLYINGS, np.sort(np.arange(OPTIONS) % EXPIRIES)
    forward = np.exp(rng.uniform(0, 11, UNDERLYINGS))[underlying][expiry]
    years = np.linspace(0.02, 1, EXPIRIES)[expiry]
    deviation = rng.uniform(0.3, 1.2, OPTIONS) * np.sqrt(years)
    strike = forward * np.exp(rng.normal(0, 1, OPTIONS) * deviation)
    log_move = rng.standard_t(4, (UNDERLYINGS, SCENARIOS))[underlying] * 0.04
    multiple = np.exp(rng.normal(0, 0.15, (UNDERLYINGS, SCENARIOS)))[underlying]
    floats = [each.astype(dtype) for each in (log_move, multiple, forward, strike, deviation)]
    return Chain(floats[0], floats[1], expiry.astype(np.int32), *floats[2:], rng.random(OPTIONS) < 0.5)


def _ours(chain: Chain) -> Work:
    *arrays, call = (jax.device_put(each) for each in chain)
    compiled = jax.jit(reprice_black76, compiler_options=WIDE_VECTORS)
    return lambda: compiled(*arrays, call=call).block_until_ready()


def _numpy(chain: Chain) -> Work:
    """`ndtr` in place, block by block, one thread a core (NumPy lets go of the lock inside its loops)."""
    cores = len(os.sched_getaffinity(0))
    log_moneyness = np.log(chain.forward / chain.strike)
    pool = ThreadPoolExecutor(cores)

    def blocks(first: int, values: np.ndarray, moves: np.ndarray, narrowing: np.ndarray) -> None:
        a, b = (np.empty(SCENARIOS, values.dtype) for _ in range(2))
        for option in range(first, min(first + BLOCK, OPTIONS)):
            row = chain.expiry[option]
            out, strike, deviation = values[option], chain.strike[option], chain.deviation[option]
            sign = values.dtype.type(1 if chain.call[option] else -1)
            np.add(chain.log_move[row], log_moneyness[option], out=a)
            a *= narrowing[row]
            a *= sign / deviation
            np.multiply(chain.multiple[row], sign * deviation / 2, out=b)
            np.add(a, b, out=out)
            a -= b
            ndtr(out, out=out)
            ndtr(a, out=a)
            out *= moves[row]
            out *= sign * chain.forward[option]
            a *= sign * strike
            out -= a

    def work() -> np.ndarray:
        values = np.empty((OPTIONS, SCENARIOS), chain.forward.dtype)
        moves, narrowing = np.exp(chain.log_move), 1 / chain.multiple
        list(pool.map(lambda first: blocks(first, values, moves, narrowing), range(0, OPTIONS, BLOCK)))
        return values

    return work


def _numba(chain: Chain) -> Work:
    """One loop over cells, compiled with fast mathematics, options shared out over the cores."""
    import numba
    from numba import njit, prange

    numba.set_num_threads(len(os.sched_getaffinity(0)))
    number = chain.forward.dtype.type
    half, root = number(0.5), number(np.sqrt(0.5))
    from math import erfc

    @njit(parallel=True, fastmath=True)  # type: ignore[misc,unused-ignore]
    def fill(log_move, moves, multiple, narrowing, expiry, forward, strike, deviation, log_moneyness, sign, values):  # type: ignore[no-untyped-def]
        for option in prange(len(expiry)):
            row, w = expiry[option], sign[option]
            inverse, width = root / deviation[option], root * half * deviation[option]
            for scenario in range(values.shape[1]):
                h = (log_move[row, scenario] + log_moneyness[option]) * inverse * narrowing[row, scenario]
                t = width * multiple[row, scenario]
                up, down = erfc(-w * (h + t)), erfc(-w * (h - t))
                moved = forward[option] * moves[row, scenario]
                values[option, scenario] = half * w * (moved * up - strike[option] * down)

    log_moneyness = np.log(chain.forward / chain.strike)
    sign = np.where(chain.call, 1, -1).astype(number)

    def work() -> np.ndarray:
        values = np.empty((OPTIONS, SCENARIOS), chain.forward.dtype)
        moves, narrowing = np.exp(chain.log_move), 1 / chain.multiple
        moneyness = (log_moneyness, sign, values)
        fill(chain.log_move, moves, chain.multiple, narrowing, *chain[2:6], *moneyness)
        return values

    return work


def _quantlib(chain: Chain) -> float:
    """Nanoseconds a cell of `blackFormula`, called from Python over a subsample."""
    import QuantLib as ql

    cells = np.random.default_rng(1).integers((OPTIONS, SCENARIOS), size=(SAMPLE, 2))
    rows = []
    for option, scenario in cells:
        row = chain.expiry[option]
        forward = float(chain.forward[option]) * float(np.exp(chain.log_move[row, scenario]))
        deviation = float(chain.deviation[option]) * float(chain.multiple[row, scenario])
        side = ql.Option.Call if chain.call[option] else ql.Option.Put
        rows.append((side, float(chain.strike[option]), forward, deviation))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for row in rows:
            ql.blackFormula(*row)
        times.append(time.perf_counter() - started)
    return 1e9 * median(times) / SAMPLE


def _check(chain: Chain, work: dict[str, Work]) -> None:
    """Every side's answers against float64, over the greater of forward and strike."""
    wide = Chain(*(each.astype(float) if each.dtype.kind == "f" else each for each in chain))
    sign = np.where(wide.call, 1, -1)[:, None]
    moved = wide.forward[:, None] * np.exp(wide.log_move)[wide.expiry]
    deviation = wide.deviation[:, None] * wide.multiple[wide.expiry]
    d1 = np.log(moved / wide.strike[:, None]) / deviation + deviation / 2
    exact = sign * (moved * ndtr(sign * d1) - wide.strike[:, None] * ndtr(sign * (d1 - deviation)))
    size = np.maximum(moved, wide.strike[:, None])
    allowed = ROUNDINGS * np.finfo(chain.forward.dtype).eps
    for name, each in work.items():
        error = float((np.abs(np.asarray(each(), float) - exact) / size).max())
        if not error <= allowed:
            raise SystemExit(f"{name} is off by {error:.2e}, more than {allowed:.2e}; no clock was started")


def _interleaved(work: dict[str, Work]) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each, in turn: on the wall's clock, and of all cores together (which a busy machine spares)."""
    wall: dict[str, list[float]] = {name: [] for name in work}
    cores: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, each in work.items():
            started, spent = time.perf_counter(), time.process_time()
            each()
            wall[name].append(time.perf_counter() - started)
            cores[name].append(time.process_time() - spent)
    medians = ({name: median(each) for name, each in clock.items()} for clock in (wall, cores))
    return next(medians), next(medians)
