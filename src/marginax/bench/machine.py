"""What must stand beside a figure: the machine, the versions, how busy it was, and what it could do at best."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

VERSIONS = ("marginax", "jax", "jaxlib", "numpy", "scipy", "polars")
# Far beyond any cache; products large enough that their edges cost nothing.
COPIED_BYTES = 2**28
PRODUCT_SIDE = 1536
DEVICE_PRODUCT_SIDE = 8192
TRIES = 5


def context() -> dict[str, Any]:
    """Machine, versions, commit of a checkout (None without one) and load of the last minute."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {len(cores())} cores",
        "processor": _processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine_rates(threads: int) -> dict[str, float]:
    """What this machine, or its GPU, does at best: bytes copied (read and written), float32 operations of a product.

    Both a second, and the best of five tries; the product is the better of NumPy's BLAS and XLA's.
    """
    import jax

    if jax.default_backend() != "cpu":
        return _device_rates()
    import numpy as np

    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    bounds = np.linspace(0, COPIED_BYTES, threads + 1).astype(int)
    parts = [slice(*pair) for pair in pairwise(bounds)]
    with ThreadPoolExecutor(threads) as pool:
        copied = _best(lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts)))
    square = np.random.default_rng(0).standard_normal((PRODUCT_SIDE, PRODUCT_SIDE), np.float32)
    product = jax.jit(lambda a: a @ a)
    multiplied = min(_best(lambda: square @ square), _best(lambda: product(square).block_until_ready()))
    return _rates(2 * COPIED_BYTES / copied, 2 * PRODUCT_SIDE**3 / multiplied)


def _device_rates() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    source = jnp.ones(COPIED_BYTES // 4, jnp.float32)
    copy = jax.jit(lambda a: a + 1)
    square = jnp.ones((DEVICE_PRODUCT_SIDE, DEVICE_PRODUCT_SIDE), jnp.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    copied = _best(lambda: copy(source).block_until_ready())
    multiplied = _best(lambda: product(square).block_until_ready())
    return _rates(2 * COPIED_BYTES / copied, 2 * DEVICE_PRODUCT_SIDE**3 / multiplied)


def _rates(copied: float, multiplied: float) -> dict[str, float]:
    return {"copy_bytes_per_second": copied, "product_flops_per_second": multiplied}


def _best(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
