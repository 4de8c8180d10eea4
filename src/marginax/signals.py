"""The table `signals` as series on a grid of bars: what was new at each bar, and how old it was.

A series is a name that the configuration reads, of one underlying or (None) of the whole market. A row counts from its
time on, and its age from there, in calendar days; the order of rows says nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64

from marginax.calendars import DAY, DAY_MICROS, Grid
from marginax.problems import BadInput, Problem, suggestion
from marginax.regime_section import Regime
from marginax.tables.findings import FILE, find, raise_findings

# Names that a feed may bring whether or not they are read; any other must be read, or it is a slip of the pen.
USUAL = ("sentiment", "funding", "open_interest", "volume", "range")

Series = tuple[str, str | None]
_NOTHING = (np.array([], "datetime64[us]"), np.array([]))


class SignalBar(NamedTuple):
    """What a bar brings: new values by series, NaN where there is none, their ages in days, the trading days and
    calendar days since the bar before, and for a state that is carried forward which series begin that it does not
    have (None: all are there)."""

    values: Float[Any, "*bars series"]
    ages: Float[Any, "*bars series"]
    trading_days: Float[Any, "*bars"]
    days: Float[Any, "*bars"]
    begun: Bool[Any, "signals underlyings"] | None = None


@dataclass(frozen=True)
class SignalHistory:
    """Signals at each bar of a grid, its first included: a `SignalBar` of rows.

    `now` is a bar of its own where the time of the margin, `at`, is one or more after the last; `last` is the time of
    each series' newest value by then (NaT: none). `later` counts rows that are after it, `of_nothing` names underlyings
    that the market does not have, `begun_later` the series that a state which is carried forward has no window for.
    """

    series: tuple[Series, ...]
    rows: SignalBar
    now: SignalBar | None
    at: np.datetime64
    last: np.ndarray
    later: int = 0
    of_nothing: tuple[str, ...] = ()
    begun_later: tuple[tuple[str, str], ...] = ()

    @property
    def age(self) -> Float64[np.ndarray, " series"]:
        """Days since each series' newest value; NaN where there is none."""
        micros = (self.at - self.last).astype("timedelta64[us]").astype(float)
        return np.where(np.isnat(self.last), np.nan, micros / DAY_MICROS)

    def begun(self) -> "SignalHistory":
        """The same without rows: what a state that is carried forward keeps."""
        return replace(self, rows=SignalBar(*(each[:0] for each in self.rows[:4])))

    def stepped(
        self,
        rows: pl.DataFrame,
        settings: Regime,
        underlyings: Sequence[str],
        at: np.datetime64,
        *,
        trading_days: float,
        days: float,
    ) -> tuple["SignalHistory", SignalBar]:
        """The history after a bar, and what rows of the table bring there: values newer than those before.

        A series that was not there at the beginning has no window, and is `begun_later`. Raises BadInput as
        `signal_history` does.
        """
        begun = np.zeros((len(settings.names), len(underlyings)), bool)
        if self.now is not None and at == self.at:
            return replace(self, now=None), self.now._replace(begun=begun)
        found = _by_series(_known(rows, settings.names, at)[0])
        values, ages = np.full((2, len(self.series)), np.nan)
        last = self.last.copy()
        for k, each in enumerate(self.series):
            stamps, numbers = found.get(each, _NOTHING)
            if len(stamps) and not stamps[-1] <= last[k]:
                values[k], ages[k], last[k] = numbers[-1], (at - stamps[-1]) / DAY, stamps[-1]
        new = {(name, of) for name, of in found.keys() - {*self.series} if of is not None}
        strange = {of for _, of in new} - {*underlyings}
        later = {(name, of) for name, of in new if of in underlyings and _speaks_of(settings, name, of)}
        for name, of in later:
            begun[settings.names.index(name), list(underlyings).index(of)] = True
        history = replace(
            self,
            at=at,
            last=last,
            of_nothing=tuple(sorted({*self.of_nothing, *strange})),
            begun_later=tuple(sorted({*self.begun_later, *later})),
        )
        return history, SignalBar(values, ages, np.asarray(trading_days), np.asarray(days), begun)


def signal_history(
    rows: pl.DataFrame, settings: Regime, underlyings: Sequence[str], grid: Grid, as_of: np.datetime64 | None = None
) -> SignalHistory:
    """The series that a configuration reads, on a grid; `as_of` is the time of the margin (None: that of the last bar).

    `rows` are those of the table `signals`. Where less than a bar has passed since the last, what came in between
    belongs to it. Raises BadInput for names that nothing reads, for signals that are all later, and for signals of
    underlyings that the market does not have: those meant instead would lose a signal, and margins fall.
    """
    problems = [
        Problem(
            "configuration", f"regime.signals.{name}.underlyings", None, f"'{of}' is no underlying of the market",
            f"Correct it or take it off the list; {suggestion(of, underlyings)}",
        )
        for name in settings.names
        for of in settings.signals[name].underlyings
        if of not in underlyings
    ]  # fmt: skip
    if problems:
        raise BadInput(problems)
    times = grid.times if len(grid.times) else np.array([as_of], "datetime64[us]")
    at = times[-1] if as_of is None else as_of.astype("datetime64[us]")
    ahead = grid.bars_after(times[-1], at)
    times = np.append(times if ahead >= 1 else times[:-1], max(times[-1], at))
    past, later = _known(rows, settings.names, at)
    found = _by_series(past)
    series = tuple(
        (name, of)
        for name in settings.names
        for of in (None, *underlyings)
        if of is None or ((name, of) in found and _speaks_of(settings, name, of))
    )
    values, ages = np.full((2, len(times), len(series)), np.nan)
    last = np.full(len(series), np.datetime64("NaT", "us"))
    for k, each in enumerate(series):
        stamps, numbers = found.get(each, _NOTHING)
        place = np.searchsorted(stamps, times, side="right") - 1
        new = np.flatnonzero(np.diff(place, prepend=-1) > 0)
        values[new, k], ages[new, k] = numbers[place[new]], (times[new] - stamps[place[new]]) / DAY
        if place[-1] >= 0:
            last[k] = stamps[place[-1]]
    trading_days = np.full(len(times), 1 / grid.bars_per_day)
    trading_days[-1] *= max(ahead, 1)
    every = SignalBar(values, ages, trading_days, np.diff(times, prepend=times[:1]) / DAY)
    return SignalHistory(
        series=series,
        rows=SignalBar(*(each[:-1] for each in every[:4])) if ahead >= 1 else every,
        now=SignalBar(*(each[-1] for each in every[:4])) if ahead >= 1 else None,
        at=times[-1],
        last=last,
        later=later,
        of_nothing=tuple(sorted({of for _, of in found if of is not None} - {*underlyings})),
    )


def begun_signals(series: Sequence[Series], last: np.ndarray, at: np.datetime64) -> SignalHistory:
    """The history of a state that was saved: its series, and when each had its newest value."""
    none = np.zeros((0, len(series)))
    return SignalHistory(tuple(series), SignalBar(none, none, np.zeros(0), np.zeros(0)), None, at, last)


def _speaks_of(settings: Regime, name: str, underlying: str) -> bool:
    listed = settings.signals[name].underlyings
    return not listed or underlying in listed


def _known(rows: pl.DataFrame, names: Iterable[str], at: np.datetime64) -> tuple[pl.DataFrame, int]:
    """The rows of these names that are known at a time, and how many are later. Raises BadInput for a name that is no
    signal, and where all are later."""
    known = sorted({*USUAL, *names})
    unknown = ~pl.col("name").is_in(known)
    strange = rows.filter(unknown)["name"]
    if len(strange):
        words = pl.format("'{}' is read by no table [regime.signals] and is no usual name", "name")
        remedy = f"Correct it or remove the row; {suggestion(str(strange[0]), known)}"
        raise_findings(find(rows, "signals", unknown, "name", words, remedy))
    named = rows.filter(pl.col("name").is_in(list(names)))
    past = named.filter(pl.col("time").dt.replace_time_zone(None) <= pl.lit(at))
    if named.height and not past.height:
        begin, end = str(named["time"].min())[:16], np.datetime_as_string(at, unit="m").replace("T", " ")
        file, what = ", ".join(named[FILE].unique().sort()), f"begin at {begin}, and the margin is of {end}"
        remedy = "Give what was known by then; times are UTC"
        raise BadInput([Problem(file, "time", None, what, remedy, table="signals")])
    return past, named.height - past.height


def _by_series(rows: pl.DataFrame) -> dict[Series, tuple[np.ndarray, np.ndarray]]:
    """Times, rising, and values of each series."""
    parts = rows.sort("time").partition_by("name", "underlying", as_dict=True, maintain_order=True)
    return {
        (str(name), None if of is None else str(of)): (
            part["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]"),
            part["value"].to_numpy(),
        )
        for (name, of), part in parts.items()
    }
