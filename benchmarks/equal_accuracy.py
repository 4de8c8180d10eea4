"""What an expected shortfall that is off by 4 % costs: the stretched law in our kernel, other draws in the best rival.

Market, books and references are those of `benchmarks.monte_carlo`; a method's number of draws is the least of those
tried at which the mean error of ES 99 % over the 200 books, measured, is at most 4 %. Then accounts of 20 positions of
500 instruments are margined under so many scenarios: ours with stretched weights, and plain Monte Carlo and scrambled
Sobol, whose weights are equal, by every contender that answers them, in turn. Answers are checked first; medians of
wall time on all cores.
"""

import os
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.book_rivals import CONTENDERS
from benchmarks.context import context
from benchmarks.monte_carlo import MARKET_SEED, TAILS, Study, _plain, _stretched, reference, study
from marginax.bench.contenders import OURS, ours
from marginax.bench.machine import machine_rates
from marginax.bench.race import race
from marginax.bench.workloads import narrow
from marginax_kernels import expected_shortfall, scrambles_for, stretch_for

WANTED, TAIL = 0.04, 0.01
# What users write; the loop is no library's, and the workers run our own pure path.
RIVALS = {name: work for name, work in CONTENDERS.items() if name not in ("hand_written", "pure_workers")}
REPEATS = 40
ACCOUNTS, ROUNDS = 8_192, 5

Draw = Callable[[int, int], tuple[np.ndarray, ...]]


def _ours(draws: int, seed: int) -> tuple[np.ndarray, ...]:
    return _stretched(draws, seed, scrambles=scrambles_for(draws), stretch=stretch_for(TAIL))


def _sobol(draws: int, seed: int) -> tuple[np.ndarray, ...]:
    """As few scrambles of a power of two as make up the number."""
    return _stretched(draws, seed, scrambles=draws // (draws & -draws), stretch=1)


# The draws of each method, and the numbers of them that are tried: ours in multiples of 512, plain ones in steps of a
# thirtieth, Sobol points in one scramble of a power of two or up to seven.
METHODS: dict[str, tuple[Draw, list[int]]] = {
    "stretched": (_ours, [512 * k for k in range(1, 17)]),
    "plain": (_plain, [512 * round(4 * 1.033**k) for k in range(80)]),
    "sobol": (_sobol, [eighths * 2**k for k in range(8, 13) for eighths in (4, 5, 6, 7)]),
}


def run() -> dict[str, Any]:
    """The benchmark's record."""
    figures: dict[str, Any] = {}
    rates = machine_rates(len(os.sched_getaffinity(0)))
    for marginals in ("t", "empirical"):
        each = study(marginals, MARKET_SEED)
        truth = reference(each)[0][TAILS.index(TAIL)]
        found = {name: _least(each, truth, draw, numbers) for name, (draw, numbers) in METHODS.items()}
        draws = {name: number for name, (number, _) in found.items()}
        errors = {name: round(100 * error, 2) for name, (_, error) in found.items()}
        figures[marginals] = {"draws": draws, "error_percent": errors, **_priced(draws, rates)}
    return {"benchmark": "equal_accuracy", "wanted": WANTED, "tail": TAIL, "context": context(), "figures": figures}


def _least(each: Study, truth: np.ndarray, draw: Draw, numbers: list[int]) -> tuple[int, float]:
    """The least of the numbers whose error is at most the one wanted, and that error; errors fall with the number."""
    errors: dict[int, float] = {}

    def enough(number: int) -> bool:
        errors[number] = _error(each, truth, draw, number)
        return errors[number] <= WANTED

    number = numbers[bisect_left(numbers, True, key=enough)]
    return number, errors[number]


def _error(each: Study, truth: np.ndarray, draw: Draw, draws: int) -> float:
    """Mean over the books of the root mean square error over repeats, as a share of expected shortfall."""
    measure = jax.jit(
        lambda normals, scale, weights: expected_shortfall(each.losses(normals, scale), weights, tail=TAIL)
    )
    runs = np.array([np.asarray(measure(*draw(draws, seed))) for seed in range(1, REPEATS + 1)], float)
    _stretched.cache_clear()
    _plain.cache_clear()
    return float(np.sqrt(np.mean((runs / truth - 1) ** 2, axis=0)).mean())


def _priced(draws: dict[str, int], rates: Any) -> dict[str, Any]:
    """Microseconds an account of ours, and of every contender under the draws of the other methods."""
    threads = len(os.sched_getaffinity(0))
    timed = partial(race, threads=threads, rounds=ROUNDS, rates=rates)
    own = timed(narrow(ACCOUNTS, draws["stretched"], weighted=True), {OURS: ours()[OURS]})["contenders"][OURS]
    told: dict[str, Any] = {"ours_us": round(own["microseconds_per_account"], 2)}
    for method in ("plain", "sobol"):
        load = narrow(ACCOUNTS, draws[method], weighted=False)
        raced = timed(load, {OURS: ours()[OURS], **RIVALS})["contenders"]
        cost = {name: round(each["microseconds_per_account"], 2) for name, each in raced.items()}
        best = min(cost[name] for name in RIVALS)
        told[method] = {"us": cost, "best_rival_us": best, "times_ours": round(best / told["ours_us"], 1)}
    return told
