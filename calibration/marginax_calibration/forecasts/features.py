"""What is known of each underlying at the close of a day: returns, ranges, volume, funding and sentiment.

Days are those of UTC. A row of `signals` (time, name, underlying, value) belongs to the day of its time and is known at
that day's close; several of a day count with their mean; where `underlying` is null it is of all that have none of
their own. Names that are read: `range` (log high over low, more than zero), `volume` (more than zero, any unit),
`funding` (of any interval), `sentiment`. What is missing is NaN, and zero with a mark beside it once standardised.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from marginax.problems import BadInput, Problem
from marginax.scenarios.network_filter import FEATURES, return_features
from marginax.scenarios.volatility import SEED_RETURNS, FilterState, LongRun, TwoSpeed, filter_step
from marginax_kernels import initial_variance
from marginax_kernels.har import MONTH, WEEK

SIGNALS = ("range", "volume", "funding", "sentiment")
COLUMNS = (*FEATURES, "range", "range_week", "range_month", "market_range", "volume", "funding", "sentiment", "mood")
# The two speeds that networks correct: those of the preset `dynamic`, its bound too.
BASE = TwoSpeed(np.asarray(4.0), np.asarray(30.0), np.asarray(0.5), np.asarray(4.0))
# log high over low of a Brownian motion has a mean square of 4 log 2 variances. Source: Parkinson (1980).
PARKINSON = 4 * np.log(2)
# A signal that ended is kept for so many days.
KEPT = 5
# In standard deviations of the training window.
MOST = 5.0


@dataclass(frozen=True)
class DailyFeatures:
    """By day and underlying, NaN where not known: log returns and the bars they span, Parkinson's variance of the day,
    the base's variance for the next day, and the features in `COLUMNS`."""

    days: np.ndarray
    names: tuple[str, ...]
    returns: Float64[np.ndarray, "days underlyings"]
    bars: Float64[np.ndarray, "days underlyings"]
    range_variance: Float64[np.ndarray, "days underlyings"]
    base: Float64[np.ndarray, "days underlyings"]
    values: Float64[np.ndarray, "days underlyings columns"]

    @property
    def next_square(self) -> Float64[np.ndarray, "days underlyings"]:
        """The squared return of the next day, what a forecast made at this day's close is judged by."""
        return shifted(np.where(self.bars == 1, self.returns, np.nan) ** 2)

    @property
    def next_range(self) -> Float64[np.ndarray, "days underlyings"]:
        """Parkinson's variance of the next day."""
        return shifted(self.range_variance)


@dataclass(frozen=True)
class Scaling:
    """Mean and spread of each column in a training window; a column that never moved there has a spread of one."""

    mean: Float64[np.ndarray, " columns"]
    spread: Float64[np.ndarray, " columns"]

    @classmethod
    def of(cls, values: Float64[np.ndarray, "days underlyings columns"]) -> "Scaling":
        """Of the numbers that are known; zero and one where none is."""
        known = np.isfinite(values)
        count = np.maximum(known.sum((0, 1)), 1)
        mean = np.where(known, values, 0).sum((0, 1)) / count
        spread = np.sqrt((np.where(known, values - mean, 0) ** 2).sum((0, 1)) / count)
        return cls(mean, np.where(spread > 0, spread, 1))

    def __call__(self, values: Float64[np.ndarray, "days underlyings columns"]) -> np.ndarray:
        """Columns at most five spreads from their mean, what is missing at it, and a mark beside each, one if known."""
        known = np.isfinite(values)
        scaled = np.clip((np.where(known, values, self.mean) - self.mean) / self.spread, -MOST, MOST)
        return np.concatenate([scaled, known], axis=-1)


def daily_features(history: pl.DataFrame, signals: pl.DataFrame) -> DailyFeatures:
    """The features of a history (time, underlying, price) of daily closes, with what `signals` add, in any order.

    A day without a price leaves its return to the next day that has one, as a return over its length. Raises BadInput
    for a column that lacks, a history without rows, prices that are not above zero, two prices of a day, and signals of
    an unknown name.
    """
    _check_columns(history, "history", ("time", "underlying", "price"))
    _check_columns(signals, "signals", ("time", "name", "underlying", "value"))
    if history.is_empty():
        raise BadInput([Problem("history", None, None, "has no rows", "Give a close of each day and underlying")])
    prices = _by_day(history.rename({"price": "value"}), "history", once=True)
    names = tuple(sorted(each for each in prices.columns if each != "day"))
    days = pl.DataFrame({"day": pl.date_range(prices["day"].min(), prices["day"].max(), eager=True)})  # type: ignore[arg-type]
    closes = days.join(prices, on="day", how="left").select(names).to_numpy().astype(float)
    if (closes <= 0).any():
        what = "has prices that are not above zero"
        raise BadInput([Problem("history", "price", None, what, "Leave out what has no logarithmic return")])
    unknown = sorted(set(signals["name"].unique().to_list()) - set(SIGNALS))
    if unknown:
        what = f"`{unknown[0]}` is no signal that is read"
        raise BadInput([Problem("signals", "name", None, what, f"Name some of {', '.join(SIGNALS)}")])
    returns, bars = _returns(closes)
    given = {name: _signal(signals.filter(pl.col("name") == name), days, names) for name in SIGNALS}
    ranges = _positive(given["range"]) ** 2 / PARKINSON
    base, own = _base_features(returns, bars)
    values = np.concatenate([own, _signal_features(ranges, given, base)], axis=-1)
    return DailyFeatures(days["day"].to_numpy(), names, returns, bars, ranges, base, values)


def trailing_mean(values: Float64[np.ndarray, "days *more"], days: int) -> np.ndarray:
    """The mean of what is known among the last so many days, this one included; NaN where nothing is."""
    known = np.isfinite(values)
    sums, counts = (_trailing_sum(each, days) for each in (np.where(known, values, 0), known.astype(float)))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def shifted(values: Float64[np.ndarray, "days *more"]) -> np.ndarray:
    """Tomorrow's value today; NaN on the last day."""
    return np.concatenate([values[1:], np.full_like(values[:1], np.nan)])


def _trailing_sum(values: np.ndarray, days: int) -> np.ndarray:
    # Window by window: differences of a cumulated sum would carry rounding of all that was before.
    padded = np.concatenate([np.zeros((days - 1, *values.shape[1:])), values])
    return np.lib.stride_tricks.sliding_window_view(padded, days, axis=0).sum(-1)


def _check_columns(rows: pl.DataFrame, table: str, columns: tuple[str, ...]) -> None:
    lacking = [each for each in columns if each not in rows.columns]
    if lacking:
        raise BadInput([Problem(table, lacking[0], None, "is missing", f"Give the columns {', '.join(columns)}")])


def _by_day(rows: pl.DataFrame, table: str, *, once: bool = False) -> pl.DataFrame:
    dated = rows.with_columns(pl.col("time").dt.date().alias("day")).drop_nulls("value")
    if once and dated.select("day", "underlying").is_duplicated().any():
        raise BadInput([Problem(table, "time", None, "has two prices of a day", "Give one close a day and underlying")])
    return dated.pivot(on="underlying", index="day", values="value", aggregate_function="mean").sort("day")


def _returns(closes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(closes)
    at = np.where(known, np.arange(len(closes))[:, None], -1)
    last = np.concatenate([np.full_like(at[:1], -1), np.maximum.accumulate(at)[:-1]])
    usable = known & (last >= 0)
    before = np.take_along_axis(closes, np.maximum(last, 0), 0)
    returns = np.log(np.where(usable, closes, 1)) - np.log(np.where(usable, before, 1))
    spans = np.where(usable, np.arange(len(closes))[:, None] - last, 1)
    return np.where(usable, returns, np.nan), spans.astype(float)


def _signal(rows: pl.DataFrame, days: pl.DataFrame, names: tuple[str, ...]) -> Float64[np.ndarray, "days underlyings"]:
    """A signal by day: each underlying's own where it has one, else that of all."""
    if rows.is_empty():
        return np.full((days.height, len(names)), np.nan)
    own = _by_day(rows.filter(pl.col("underlying").is_not_null()), "signals")
    all_of_it = _by_day(rows.filter(pl.col("underlying").is_null()).with_columns(underlying=pl.lit("all")), "signals")
    wide = days.join(own, on="day", how="left")
    common = days.join(all_of_it, on="day", how="left")
    shared = common["all"].to_numpy().astype(float) if "all" in common.columns else np.full(days.height, np.nan)
    columns = [wide[name].to_numpy().astype(float) if name in wide.columns else shared for name in names]
    found = np.stack(columns, axis=1)
    return np.where(np.isfinite(found), found, shared[:, None])


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _log(values: np.ndarray) -> np.ndarray:
    good: Bool[np.ndarray, "..."] = values > 0
    return np.where(good, np.log(np.where(good, values, 1)), np.nan)


def _signal_features(ranges: np.ndarray, given: dict[str, np.ndarray], base: np.ndarray) -> np.ndarray:
    day, week, month = (_log(trailing_mean(ranges, days) / base) for days in (1, WEEK, MONTH))
    known = np.isfinite(day)
    market = np.where(known, day, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    market = np.where(known.any(1, keepdims=True), market, np.nan) + np.zeros_like(day)
    volume = _positive(given["volume"])
    busy = _log(volume / trailing_mean(volume, MONTH))
    funding, sentiment = (trailing_mean(given[name], KEPT) for name in ("funding", "sentiment"))
    mood = sentiment - trailing_mean(given["sentiment"], MONTH)
    return np.stack([day, week, month, market, busy, funding, sentiment, mood], axis=-1)


def _base_features(returns: np.ndarray, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The base's variance after each day, and what each return says; NaN before the first and where one is missing."""
    with jax.enable_x64(True):
        base, values = (np.asarray(each) for each in _scan(jnp.asarray(returns), jnp.asarray(bars)))
    seen = np.maximum.accumulate(np.isfinite(returns), axis=0)
    values = np.moveaxis(values, 1, -1)
    return np.where(seen & (base > 0), base, np.nan), np.where(np.isfinite(returns)[..., None], values, np.nan)


@jax.jit
def _scan(returns: jax.Array, bars: jax.Array) -> tuple[jax.Array, jax.Array]:
    def step(state: FilterState, bar: tuple[jax.Array, jax.Array]) -> tuple[FilterState, tuple[jax.Array, jax.Array]]:
        moves, spans = bar
        long_run = state.long_run.variance
        before = BASE.variance(state.model, long_run, bars_per_day=1.0)
        after = filter_step(BASE, state, moves, spans, bars_per_day=1.0)
        base = BASE.variance(after.model, long_run, bars_per_day=1.0)
        return after, (base, return_features(moves, spans, before, after.model, base, long_run))

    seed = initial_variance(returns, bars, count=SEED_RETURNS)
    none = jnp.zeros_like(seed)
    return jax.lax.scan(step, FilterState(BASE.begin(seed, bars_per_day=1.0), LongRun(none, none)), (returns, bars))[1]
