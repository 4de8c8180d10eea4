"""Fair clocks, and what must stand beside a figure: the machine, the versions, how busy it was."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from marginax.bench.machine import context

__all__ = ["command", "context", "seconds"]


def seconds(work: Callable[[], Any], *, repeats: int) -> dict[str, float]:
    """Median and least time of `work`, warm."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return {"median": median(times), "least": min(times)}


def command(words: list[str], **environment: str) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a Python command in a process of its own."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{words} left with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024
