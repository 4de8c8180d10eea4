"""Contenders timed one after the other, round after round, so that a busy moment falls on all of them alike."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from marginax.bench.contenders import OURS, Contender, check
from marginax.bench.workloads import Workload


def race(
    load: Workload, contenders: Mapping[str, Contender], *, threads: int, rounds: int, rates: Mapping[str, float]
) -> dict[str, Any]:
    """Figures of every contender on one workload, and who was left out and why.

    Answers are compared before the first clock starts, and that call is also what makes everyone warm. `rates` are
    those of `machine_rates`. Raises BadInput for unequal answers.
    """
    left_out = check(load, contenders, threads)
    racing = {name: work for name, work in contenders.items() if name not in left_out}
    walls: dict[str, list[float]] = {name: [] for name in racing}
    cores: dict[str, list[float]] = {name: [] for name in racing}
    for _ in range(rounds):
        for name, work in racing.items():
            wall, core = time.perf_counter(), time.process_time()
            work(load, threads)
            walls[name].append(time.perf_counter() - wall)
            cores[name].append(time.process_time() - core)
    figures = {name: _figures(load, walls[name], cores[name], walls[OURS], rates) for name in racing}
    return {"contenders": figures, "left_out": left_out}


def _figures(
    load: Workload, walls: list[float], cores: list[float], ours: list[float], rates: Mapping[str, float]
) -> dict[str, float]:
    seconds = median(walls)
    return {
        "seconds": seconds,
        "least_seconds": min(walls),
        "greatest_seconds": max(walls),
        "cpu_seconds": median(cores),
        "microseconds_per_account": seconds / load.accounts * 1e6,
        "accounts_per_second": load.accounts / seconds,
        "scenario_positions_per_second": load.flops / 2 / seconds,
        "share_of_product_rate": load.flops / seconds / rates["product_flops_per_second"],
        "share_of_copy_bandwidth": load.least_bytes / seconds / rates["copy_bytes_per_second"],
        "times_as_long_as_marginax": median(one / other for one, other in zip(walls, ours, strict=True)),
    }
