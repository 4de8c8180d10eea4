"""`python -m benchmarks`: run them all, print the records as JSON and keep them in benchmarks/results/."""

import json
from pathlib import Path

from benchmarks import commands, margin_pass, monte_carlo, revaluation


def main() -> None:
    """Run every benchmark."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    for benchmark in (margin_pass, revaluation, monte_carlo, commands):
        record = benchmark.run()
        text = json.dumps(record, indent=2)
        print(text)
        (folder / f"{record['benchmark']}.json").write_text(text + "\n")


main()
