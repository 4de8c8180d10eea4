"""What the commands cost: `--help` against `import jax`, the demo cold and warm, and memory against book size."""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.context import command, context

RUN = "from marginax.cli import main; main()"


def run() -> dict[str, Any]:
    """The benchmark's record."""
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")

        def demo(accounts: int) -> tuple[float, float]:
            words = ["-c", RUN, "demo", "--out", f"{folder}/demo", "--accounts", str(accounts), "--json"]
            return command(words, XDG_CACHE_HOME=cache)

        cold, cold_memory = demo(10_000)
        programs = sum(1 for _ in Path(cache).rglob("*-cache"))
        warm, warm_memory = demo(10_000)
        compiled_again = sum(1 for _ in Path(cache).rglob("*-cache")) - programs
        _, large_memory = demo(100_000)
    pairs = [(command(["-c", RUN, "--help"])[0], command(["-c", "import jax"])[0]) for _ in range(7)]
    return {
        "benchmark": "commands",
        "context": context(),
        "figures": {
            "demo_cold": {"seconds": cold, "peak_mib": cold_memory},
            "demo_warm": {"seconds": warm, "peak_mib": warm_memory, "programs_compiled": compiled_again},
            "demo_100000_accounts": {"peak_mib": large_memory},
            "help_seconds": median(pair[0] for pair in pairs),
            "import_jax_seconds": median(pair[1] for pair in pairs),
            "help_over_import_jax": median(pair[0] / pair[1] for pair in pairs),
        },
    }
