"""What the funding columns of quotes must satisfy: rates and intervals in their units."""

import polars as pl

from marginax.tables.findings import find

# No venue's rate is half of a position; percentages and annual rates are.
LARGEST_RATE = 0.5
WEEK_HOURS = 168.0


def funding_findings(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Quotes whose rate or interval is in another unit."""
    rate, hours = pl.col("funding_rate"), pl.col("funding_interval_hours")
    return [
        find(
            rows, "quotes", rate.abs() > LARGEST_RATE, "funding_rate", pl.format("{} of the notional was given", rate),
            "Give the share for one interval (0.0001 is a hundredth of a per cent), or leave it empty",
        ),
        find(
            rows, "quotes", hours > WEEK_HOURS, "funding_interval_hours", pl.format("{} hours were given", hours),
            "Give hours, 8 where funding settles every eight, or leave it empty",
        ),
    ]  # fmt: skip
