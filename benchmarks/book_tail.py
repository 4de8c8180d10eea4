"""The whole-book kernel against what else one would use: `marginax bench`, size M, with the rivals of this folder."""

from typing import Any


def run() -> dict[str, Any]:
    """The benchmark's record."""
    from marginax.bench.run import measure, planned

    return measure(planned(size="M", rivals="benchmarks.book_rivals"))
