"""What is said of the accounts of a run, of one book or of many one after another: counts, sums, and who is closest.

Sums are over accounts and isolated positions that have a margin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.engine.figures import finite
from marginax.engine.manual import both_notes
from marginax.engine.result import Result
from marginax.limits import joined_notes
from marginax.venue import VenueSums

CLOSEST = 5


@dataclass(frozen=True)
class Tally:
    """Accounts by status and by band; isolated positions; sums by part; how many of both are below zero, called,
    or without a margin; rows set aside; limits.

    `closest` are rows of `margins`, those with the least equity over maintenance first.
    `venue` is what its view is made of, None where none is asked for.
    """

    accounts: int
    isolated: int
    by_status: Mapping[str, int]
    by_band: Mapping[str, int]
    totals: Mapping[str, float | None]
    parts: Mapping[str, float]
    below_zero: int
    called: int
    excepted: int
    quarantined: int
    limits: Mapping[str, Any]
    closest: pl.DataFrame
    uncovered: Float64[np.ndarray, " scenarios"]
    manual: Mapping[str, Any]
    venue: VenueSums | None

    @classmethod
    def of(cls, result: Result) -> "Tally":
        """The tally of one book."""
        both = pl.concat([result.margins, result.isolated], how="diagonal")
        able = both.filter(pl.col("initial_margin").is_not_null())
        return cls(
            accounts=result.margins.height,
            isolated=result.isolated.height,
            by_status=result.manifest["accounts"]["by_status"],
            by_band=result.manifest["accounts"]["by_band"],
            totals=result.manifest["totals"],
            parts=able.select(pl.col(name).sum() for name in result.parts).row(0, named=True),
            below_zero=able.filter(pl.col("equity") < 0).height,
            called=able.filter(pl.col("call") > 0).height,
            excepted=result.excepted,
            quarantined=result.quarantine.height,
            limits=result.manifest["limits"],
            closest=closest(able),
            uncovered=result.uncovered,
            manual=result.manifest["manual"],
            venue=None if result.venue is None else result.venue.sums,
        )

    def __add__(self, other: "Tally") -> "Tally":
        """The tally of two books without a common account."""
        return Tally(
            accounts=self.accounts + other.accounts,
            isolated=self.isolated + other.isolated,
            by_status={name: count + other.by_status[name] for name, count in self.by_status.items()},
            by_band={name: count + other.by_band[name] for name, count in self.by_band.items()},
            totals={name: _sum(amount, other.totals[name]) for name, amount in self.totals.items()},
            parts={name: amount + other.parts[name] for name, amount in self.parts.items()},
            below_zero=self.below_zero + other.below_zero,
            called=self.called + other.called,
            excepted=self.excepted + other.excepted,
            quarantined=self.quarantined + other.quarantined,
            limits=joined_notes(self.limits, other.limits),
            closest=closest(pl.concat([self.closest, other.closest])),
            uncovered=self.uncovered + other.uncovered,
            manual=both_notes(self.manual, other.manual),
            venue=None if self.venue is None or other.venue is None else self.venue + other.venue,
        )


def _sum(one: float | None, other: float | None) -> float | None:
    """None where a sum is beyond float64."""
    return None if one is None or other is None else finite(one + other)


def closest(able: pl.DataFrame) -> pl.DataFrame:
    """The rows with the least equity over maintenance, those with nothing left first."""
    # Who is called without owing maintenance has nothing left at all, and comes first.
    ratio = pl.col("margin_ratio")
    rank = pl.when(pl.col("call") > 0).then(ratio.fill_null(float("-inf"))).otherwise(ratio)
    ranked = able.with_columns(rank=rank).filter(pl.col("rank").is_not_null())
    return ranked.sort("rank", "account_id").head(CLOSEST).drop("rank")
