"""One grid of bars for series that keep different calendars.

Joint returns run between the timestamps of the slowest calendar in the set: coins trade on Sundays, oil does not, and a
weekend's move of a coin belongs beside Monday's move of oil. A calendar is a habit, not a gap: a weekday counts when a
series has bars on it in at least a third of the weeks that it lives, so holidays and lost days slow nothing down.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

DAY = np.timedelta64(1, "D")
HABIT = 1 / 3
# Calendars within this share of the slowest count as the slowest: 252 and 250 business days are one calendar.
SAME = 0.02
BUSINESS_DAYS = 5


@dataclass(frozen=True)
class Grid:
    """The joint bars: `times` (UTC microseconds, rising), and how many of them make a trading day."""

    times: np.ndarray
    bars_per_day: float
    bars_per_week: float

    def bars_between(self, first: np.ndarray, last: np.datetime64) -> np.ndarray:
        """How many bars of this calendar fit between times, rounded; shape of `first`."""
        weeks = (last - first) / (7 * DAY)
        return np.rint(weeks * self.bars_per_week)


def joint_grid(bars: pl.DataFrame) -> Grid:
    """The grid of price bars with columns time (UTC) and underlying. Empty bars give an empty daily grid."""
    if bars.is_empty():
        return Grid(np.array([], "datetime64[us]"), 1.0, 7.0)
    dated = bars.select("underlying", "time", day=pl.col("time").dt.date())
    pace = _pace(dated)
    slowest = pace["bars_per_week"].min()
    slow = pace.filter(pl.col("bars_per_week") <= slowest * (1 + SAME))
    per_day, per_week = float(slow["bars_per_day"][0]), float(slow["bars_per_week"][0])
    members = dated.filter(pl.col("underlying").is_in(slow["underlying"].implode()))
    days = _habitual_days(dated, slow["underlying"])
    first, last = members["time"].min(), members["time"].max()
    outside = dated.filter(~pl.col("time").is_between(first, last))
    if days:
        outside = outside.filter(pl.col("day").dt.weekday().is_in(days))
    rows = pl.concat([members, outside])
    if per_day <= 1:
        # One bar a day, at the latest stamp of that day: exchanges close at different hours.
        times = rows.group_by("day").agg(pl.col("time").max())["time"]
    else:
        times = rows["time"].unique()
    grid = times.sort().dt.replace_time_zone(None).to_numpy()
    return Grid(grid.astype("datetime64[us]"), per_day, per_week)


def on_grid(grid: Grid, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The last value in each interval of the grid (after the bar before, up to this bar); NaN where there is none."""
    column = np.full(len(grid.times), np.nan)
    bar = np.searchsorted(grid.times, times, side="left")
    inside = bar < len(grid.times)
    column[bar[inside]] = values[inside]  # times rise, so the last value of an interval stays
    return column


def _pace(dated: pl.DataFrame) -> pl.DataFrame:
    """Per underlying: bars per trading day and bars per week by habit."""
    daily = dated.group_by("underlying", "day").agg(pl.len().alias("bars"))
    life = daily.group_by("underlying").agg(
        pl.col("bars").median().alias("bars_per_day"),
        pl.col("bars").sum().alias("count"),
        ((pl.col("day").max() - pl.col("day").min()).dt.total_days() + 1).alias("days"),
    )
    habit = (
        daily.group_by("underlying", pl.col("day").dt.weekday().alias("weekday"))
        .agg(pl.len().alias("seen"))
        .join(life, on="underlying")
        .filter(pl.col("seen") >= HABIT * (pl.col("days") / 7).ceil())
        .group_by("underlying")
        .agg(pl.len().alias("habit"))
    )
    rare = 7 * pl.col("count") / pl.col("days")  # weekly bars and slower keep no weekday
    busy = pl.col("habit") * pl.col("bars_per_day")
    return (
        life.join(habit, on="underlying", how="left")
        .with_columns(pl.when(pl.col("habit") > 1).then(busy).otherwise(rare).alias("bars_per_week"))
        .with_columns(
            pl.when(pl.col("bars_per_week") < 2)
            .then(pl.col("bars_per_week") / BUSINESS_DAYS)
            .otherwise(pl.col("bars_per_day"))
            .alias("bars_per_day")
        )
        .sort("bars_per_week", "underlying")
    )


def _habitual_days(dated: pl.DataFrame, slow: pl.Series) -> list[int]:
    rows = dated.filter(pl.col("underlying").is_in(slow.implode()))
    seen = rows.select(pl.col("day").unique().dt.weekday().alias("weekday"))["weekday"].value_counts()
    weeks = max(1, -(-((rows["day"].max() - rows["day"].min()).days + 1) // 7))  # type: ignore[operator, union-attr]
    return seen.filter(pl.col("count") >= HABIT * weeks)["weekday"].to_list()
