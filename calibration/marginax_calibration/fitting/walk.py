"""Walking forward: fitted anew at each date on what was known by then, and margined with that until the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from marginax.config import Config
from marginax.models import MarginModel
from marginax.problems import BadInput, Problem
from marginax.tables.read import Source
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.dates import Time, time_of
from marginax_calibration.fitting.arguments import groups_of
from marginax_calibration.fitting.fit import fit
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.result import Fit
from marginax_calibration.fitting.state import Report, Settings
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay import NothingReplayed, replay

FITTED = "fitted"


@dataclass(frozen=True)
class Walk:
    """`daily` as `replay` gives it, of the model `fitted`, out of sample; and the fits, by the date they hold from."""

    daily: pl.DataFrame
    fits: dict[np.datetime64, Fit]

    def __repr__(self) -> str:
        dates = ", ".join(str(date)[:10] for date in self.fits)
        return f"Walk({self.daily.height:,} rows, fitted on {dates})"


def walk_forward(
    model: str | Path | Config,
    history: Source | Sequence[CalendarGroup],
    dates: Sequence[Time],
    portfolios: Source | Sequence[Portfolio] | None = None,
    *,
    last_time: Time | None = None,
    objective: Weights | Mapping[str, float] | None = None,
    settings: Settings | None = None,
    purge_days: int = 1,
    name: str = FITTED,
    report: Callable[[np.datetime64, Any, Any], None] | None = None,
    **options: Any,
) -> Walk:
    """Fit at each date, and margin from it to the next (the last to `last_time`) with what was fitted.

    A fit looks at losses up to `purge_days` before its date: the horizon of a margin, and what embargo one likes. It
    starts from the configuration and, where there are several starts, from the fit before it too. `history`,
    `portfolios`, `objective` and `options` are those of `fit`. Raises BadInput for dates that are none, do not rise or
    have no history before the first, and for a purge of less than a bar.
    """
    given = [dates] if isinstance(dates, Time) else list(dates)
    times = [time_of(each, "dates") for each in given]
    until = None if last_time is None else time_of(last_time, "last_time", last=True)
    if not times:
        raise BadInput([Problem("dates", None, None, "are none", "Give the dates of the refits, in order")])
    if any(later <= sooner for sooner, later in pairwise(times)):
        raise BadInput([Problem("dates", None, None, "do not rise", "Give each date of a refit once, in order")])
    settings = settings or Settings()
    groups = groups_of(history, portfolios, settings.seed)
    longest = max(1 / group.panel.grid.bars_per_day for group in groups)
    if purge_days < max(1, longest):
        what, remedy = f"is {purge_days}", f"Give {int(np.ceil(max(1, longest)))} or more: a bar, and a day at least"
        raise BadInput([Problem("purge_days", None, None, what, remedy)])
    fits: dict[np.datetime64, Fit] = {}
    tables: list[pl.DataFrame] = []
    ends = [*(time - np.timedelta64(1, "us") for time in times[1:]), until]
    others: list[Sequence[float]] = []
    for date, end in zip(times, ends, strict=True):
        # Times of losses: the last that a fit knows is that of the purge.
        known = date - np.timedelta64(purge_days, "D")

        def told(state: Any, rows: Any, date: np.datetime64 = date) -> None:
            if report is not None:
                report(date, state, rows)

        tell: Report = told
        found = fit(
            model,
            groups,
            objective=objective,
            last_time=known,
            settings=settings,
            others=others,
            report=tell,
            **options,
        )
        fits[date] = found
        others = [found.values.tolist()] if settings.starts > 1 else []
        tables += margined(name, found.model, groups, date, end, settings.seed)
        # The next fit compiles its own programs. Each takes a dozen memory maps, and a Linux process has 65,530.
        jax.clear_caches()
    if not tables:
        raise BadInput([Problem("dates", None, None, "have no loss after them", "Give earlier dates")])
    return Walk(pl.concat(tables).sort("date", "portfolio", "model"), fits)


def margined(
    name: str,
    model: MarginModel,
    groups: Sequence[CalendarGroup],
    first: np.datetime64,
    last: np.datetime64 | None,
    seed: int,
) -> list[pl.DataFrame]:
    """The daily tables of a model on the losses between two times; calendars without any have none."""
    tables = []
    for group in groups:
        try:
            played = replay({name: model}, group.panel, group.portfolios, seed=seed, first_time=first, last_time=last)
        except NothingReplayed:
            continue
        tables.append(played.daily)
    return tables


def yearly(first: np.datetime64, last: np.datetime64, years: int) -> list[np.datetime64]:
    """The same day of the year, every so many years, from the first date on and before the last."""
    begin, end = (each.astype("datetime64[D]").item() for each in (first, last))
    dates = pl.date_range(begin, end, interval=f"{years}y", eager=True)
    return [date for date in dates.to_numpy().astype("datetime64[us]") if date < last]
