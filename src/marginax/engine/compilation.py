"""Compiled once, kept: the second run of a command compiles nothing. And how the cube is compiled."""

import os
from pathlib import Path

import jax

# XLA keeps to 256 bits where a processor has 512: right for short loops, and a third slower for the long exponentials,
# divisions and polynomials of a revaluation (benchmarks/revaluation.py). Processors without them are not touched.
WIDE_VECTORS = {"xla_cpu_prefer_vector_width": 512}


def persistent_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless jax has been told of another or to keep none.

    The folder is `$XDG_CACHE_HOME/marginax/jax` (`~/.cache` where that is not set); jax keys every program by its own
    version, the device and the code. A folder that cannot be made means no cache, not an error.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marginax" / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Tiles compile in tenths of a second each: keep those too, whatever their size.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
