"""The whole-book kernel against what else one would use: `marginax bench` with all rivals of this folder.

The slowest of them take a millisecond an account, so the book is smaller than size M.
"""

from typing import Any

ACCOUNTS = 4_096


def run() -> dict[str, Any]:
    """The benchmark's record."""
    from marginax.bench.run import measure, planned

    return measure(planned(accounts=ACCOUNTS, rounds=3, rivals="benchmarks.book_rivals"))
