"""One grid of bars for series that keep different calendars.

Joint returns run between the timestamps of the slowest calendar in the set: coins trade on Sundays, oil does not, and a
weekend's move of a coin belongs beside Monday's move of oil. A calendar is a habit, not a gap: a weekday counts when a
series has bars on it in at least a third of the weeks that it lives, so holidays and lost days slow nothing down.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

DAY = np.timedelta64(1, "D")
DAY_MICROS = 86_400_000_000
HABIT = 1 / 3
# Calendars within this share of the slowest count as the slowest: 252 and 250 business days are one calendar.
SAME = 0.02
BUSINESS_DAYS = 5
DAYS_A_WEEK = 7
# A life shorter than four weeks has no habits yet: of five days seen, who knows which ones are kept.
HABIT_DAYS = 28


@dataclass(frozen=True)
class Grid:
    """The joint bars: `times` (UTC microseconds, rising), and how many of them make a trading day."""

    times: np.ndarray
    bars_per_day: float
    bars_per_week: float

    @property
    def bars_per_year(self) -> float:
        """Bars of a year of 365 days: 365 of a day round the clock, 261 on business days."""
        return 365 / 7 * self.bars_per_week

    @property
    def days_per_trading_day(self) -> float:
        """Calendar days that pass in a trading day: 1 round the clock, 7 / 5 on business days."""
        return 7 * self.bars_per_day / self.bars_per_week

    def bars_after(self, last: np.datetime64, now: np.datetime64) -> float:
        """How many bars of this calendar come after one time up to another.

        On daily grids that leave days out (business days) the days between that the grid keeps are counted, none if
        `now` is on another; on all others as many as fit between, rounded.
        """
        if self.bars_per_day != 1 or self.bars_per_week > DAYS_A_WEEK * (1 - SAME):
            return float(self.bars_between(np.asarray(last), now))
        days = self.times.astype("datetime64[D]")
        counts = np.bincount(days.astype(int) % DAYS_A_WEEK, minlength=DAYS_A_WEEK)
        kept = counts >= HABIT * counts.max()
        between = np.arange(last.astype("datetime64[D]").astype(int), now.astype("datetime64[D]").astype(int)) + 1
        if not len(between) or not kept[between[-1] % DAYS_A_WEEK]:
            return 0.0
        return float(kept[between % DAYS_A_WEEK].sum())

    def bars_between(self, first: np.ndarray, last: np.datetime64) -> np.ndarray:
        """How many bars of this calendar fit between times, rounded; shape of `first`."""
        micros = (last - first).astype("timedelta64[us]").astype(float)
        weeks = np.where(np.isnat(first), np.nan, micros / (7 * DAY_MICROS))
        return np.rint(weeks * self.bars_per_week)


def joint_grid(bars: pl.DataFrame, leading: pl.Series | None = None) -> Grid:
    """The grid of price bars with columns time (UTC) and underlying. Empty bars give an empty daily grid.

    Only underlyings in `leading` may slow it down (the longest, where there are none): a coin listed last week, or one
    that died years ago, has no calendar that others should keep.
    """
    if bars.is_empty():
        return Grid(np.array([], "datetime64[us]"), 1.0, 7.0)
    dated = bars.select("underlying", "time", day=pl.col("time").dt.date())
    led = dated if leading is None else dated.filter(pl.col("underlying").is_in(leading.implode()))
    if led.is_empty():
        length = pl.len().over("underlying")
        led = dated.filter(length == length.max())
    pace = paces(led)
    slow = pace.filter(pl.col("bars_per_week") <= pl.col("bars_per_week").min() * (1 + SAME))
    per_day, per_week = float(slow["bars_per_day"][0]), float(slow["bars_per_week"][0])
    slow_ones = pl.col("underlying").is_in(slow["underlying"].implode())
    members, others = dated.filter(slow_ones), dated.filter(~slow_ones)
    if per_day < 1:
        times = _strides(members["time"], others["time"], 7 / per_week)
    elif per_day == 1:
        # One bar a day, at the latest stamp of that day: exchanges close at different hours.
        rows = pl.concat([members, _outside(members, others).filter(_habitual_day(members))])
        times = rows.group_by("day").agg(pl.col("time").max())["time"]
    else:
        times = _within_the_day(members, _outside(members, others).filter(_habitual_day(members)))
    grid = times.unique().sort().dt.replace_time_zone(None).to_numpy()
    return Grid(grid.astype("datetime64[us]"), per_day, per_week)


def on_grid(grid: Grid, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The last value in each interval of the grid (after the bar before, up to this bar); NaN where there is none."""
    column = np.full(len(grid.times), np.nan)
    bar = np.searchsorted(grid.times, times, side="left")
    inside = bar < len(grid.times)
    column[bar[inside]] = values[inside]  # times rise, so the last value of an interval stays
    return column


def paces(bars: pl.DataFrame) -> pl.DataFrame:
    """Per underlying: bars_per_day (of a trading day) and bars_per_week by habit, the slowest first."""
    dated = bars.select("underlying", "time", day=pl.col("time").dt.date())
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
    # Weekly bars and slower keep no weekday; one day of bars has no pace yet.
    paced = (pl.col("count") - 1) / (pl.col("days") - 1)
    rare = 7 * pl.when(pl.col("days") > 1).then(paced).otherwise(pl.col("bars_per_day"))
    busy = pl.col("habit") * pl.col("bars_per_day")
    settled = pl.col("days") >= HABIT_DAYS
    return (
        life.join(habit, on="underlying", how="left")
        .with_columns(habit=pl.when(settled).then("habit").otherwise(7))
        .with_columns(pl.when(pl.col("habit") > 1).then(busy).otherwise(rare).alias("bars_per_week"))
        .with_columns(
            pl.when(pl.col("bars_per_week") < 2)
            .then(pl.col("bars_per_week") / BUSINESS_DAYS)
            .otherwise(pl.col("bars_per_day"))
            .alias("bars_per_day")
        )
        .sort("bars_per_week", "underlying")
    )


def _outside(members: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Bars before and after the lives of the slow series, from series that are faster."""
    first, last = members["time"].min(), members["time"].max()
    return others.filter(~pl.col("time").is_between(first, last))


def _habitual_day(members: pl.DataFrame) -> pl.Expr:
    """Whether a bar lies on a weekday of the slow series."""
    days = members.select(pl.col("day").unique())
    span = _span(days["day"])
    if span < HABIT_DAYS:
        return pl.lit(True)
    weeks = -(-span // 7)
    seen = days.group_by(pl.col("day").dt.weekday().alias("weekday")).len()
    habit = seen.filter(pl.col("len") >= HABIT * weeks)["weekday"]
    return pl.col("day").dt.weekday().is_in(habit.implode())


def _within_the_day(members: pl.DataFrame, outside: pl.DataFrame) -> pl.Series:
    """Several bars a day: one per step, at the latest stamp near it; outside, only at habitual hours."""
    step = members.sort("time").select(pl.col("time").diff().over("underlying", "day").median())["time"].item()
    micros = max(1, int(step.total_seconds() * 1e6))
    bar = (pl.col("time").dt.timestamp("us") + micros // 2) // micros
    hour = bar * micros % DAY_MICROS
    used = members.select("day", hour.alias("hour")).unique().group_by("hour").len()
    habit = used.filter(pl.col("len") >= HABIT * members["day"].n_unique())["hour"]
    rows = pl.concat([members, outside.filter(hour.is_in(habit.implode()))])
    return rows.group_by(bar.alias("bar")).agg(pl.col("time").max())["time"]


def _strides(members: pl.Series, others: pl.Series, days: float) -> pl.Series:
    """Bars rarer than two a week; outside their life the last bar of each whole stride of as many days."""
    stride = round(days * DAY_MICROS)
    slow, fast = members.dt.timestamp("us"), others.dt.timestamp("us").rename("time")
    first, last, end = (int(number) for number in (slow.min(), slow.max(), fast.max() or 0))  # type: ignore[arg-type]
    whole = last + max(0, end - last) // stride * stride
    # Bars just before the first belong to the first; a stride that is not over yet is no bar.
    before = fast.filter(fast <= first - stride)
    after = fast.filter((fast > last) & (fast <= whole))
    bars = [-((first - before) // stride), (after - last - 1) // stride + 1]
    rows = pl.DataFrame({"time": pl.concat([before, after]), "bar": pl.concat(bars)})
    times = rows.group_by("bar").agg(pl.col("time").max())["time"]
    return pl.concat([members, times.cast(members.dtype)])


def _span(days: pl.Series) -> int:
    """Days from the first to the last, both counted."""
    return int(days.to_physical().max()) - int(days.to_physical().min()) + 1  # type: ignore[arg-type]
