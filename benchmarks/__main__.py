"""`python -m benchmarks [NAME ...]`: run them, all if none is named, and keep the records in benchmarks/results/.

Each runs in a process of its own, so that none measures the memory or the threads of another.
"""

import subprocess
import sys
from pathlib import Path

NAMES = (
    "margin_pass",
    "revaluation",
    "monte_carlo",
    "backtest",
    "dynamic_margin",
    "calibration",
    "commands",
    "book_tail",
    "equal_accuracy",
    "large_book",
    "venue_view",
    "epochs",
)


def main() -> None:
    """Run the benchmarks that the command line names."""
    chosen = sys.argv[1:] or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark is called {unknown[0]}; there are {', '.join(NAMES)}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for name in chosen:
        program = f"import json; from benchmarks import {name}; print(json.dumps({name}.run(), indent=2))"
        record = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
        print(record, end="")
        (folder / f"{name}.json").write_text(record)


main()
