"""What must stand beside a figure: the machine, the versions, how busy it was, and fair clocks."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any


def context() -> dict[str, Any]:
    """Machine, versions and commit of a benchmark run."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("marginax", "jax", "numpy", "polars")},
        "commit": commit.stdout.strip(),
        "load_before": round(os.getloadavg()[0], 2),
    }


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
