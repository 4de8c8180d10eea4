"""The study of calibration: fitted walking forward on coins, judged out of sample against every baseline.

Numbers are fitted on the linear portfolios of a history at each date on what was known by then, and margin until the
next: the later days of the same underlyings, then other histories, and of those the portfolios without a single
underlying that a fit has seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from marginax.config import Config
from marginax.models import load_model
from marginax.models.load import model_config
from marginax.parameter_file import settings_over
from marginax_calibration.baselines import BASELINES
from marginax_calibration.calendar_groups import CalendarGroup, calendar_groups
from marginax_calibration.fitting.fit import Fit, fit
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.state import Settings
from marginax_calibration.fitting.walk import FITTED, Walk, margined, walk_forward, yearly
from marginax_calibration.models import load_models
from marginax_calibration.portfolios import LINEAR_KINDS, venue_portfolios
from marginax_calibration.prices import read_prices
from marginax_calibration.replay import Progress
from marginax_calibration.studies import baselines
from marginax_calibration.studies.calibration_targets import HAND, Aims
from marginax_calibration.studies.histories import HISTORIES

HOME = "seven coins"
LAST = np.datetime64("2026-01-14T23:59:59", "us")
# No fit is made for less than this.
LEAST_HELD = np.timedelta64(90, "D")
# What a search starts from and is anchored to: numbers set by hand before any fit. (The preset has those of a fit.)
BY_HAND: dict[str, dict[str, float]] = {
    "scenarios": {"volatility_floor": 0.4},
    "filter": {"alpha": 0.12, "beta": 0.87, "bound": 4.0},
    "correlation": {"half_life_days": 60.0, "shrinkage": 0.05},
    "stress_period": {"weight": 0.25},
    "dependence": {"share": 0.05},
}
SETTINGS = Settings(steps=30, batch=12, rate=0.08, starts=1, check_every=10)


@dataclass(frozen=True)
class Plan:
    """A history to fit on, the date of the first fit, years between fits, other histories that are judged on, and what
    is wanted."""

    history: str
    first: np.datetime64
    years: int
    others: tuple[str, ...] = ()
    aims: Aims = field(default_factory=Aims)
    settings: Settings = SETTINGS

    @property
    def dates(self) -> list[np.datetime64]:
        """The dates of its fits."""
        return [date for date in yearly(self.first, LAST, self.years) if LAST - date >= LEAST_HELD]


PLANS = {
    "crypto": Plan(HOME, np.datetime64("2019-12-01", "us"), 1, ("crypto", "wide crypto")),
    "multi-asset": Plan(
        "multi-asset",
        np.datetime64("2000-01-01", "us"),
        13,
        aims=Aims(1.0, all_of_them=False, kinds={}),
        settings=replace(SETTINGS, steps=20),
    ),
}


def groups_of(history: str, folder: Path) -> list[CalendarGroup]:
    """The linear portfolios of a study's history, by calendar."""
    study = baselines.STUDIES[history]
    prices = read_prices(HISTORIES[study.history](folder), absolute=study.absolute)
    chosen = [each for each in venue_portfolios(prices.names) if each.kind in LINEAR_KINDS]
    return calendar_groups(prices, chosen)


def by_hand() -> Config:
    """The dynamic margin with the numbers set by hand."""
    return settings_over(model_config("dynamic"), BY_HAND, HAND)


def walk(
    plan: Plan,
    folder: Path,
    *,
    weights: Weights | None = None,
    report: Callable[[np.datetime64, Any, Any], None] | None = None,
) -> Walk:
    """The walk of a plan, with the weights that a fit has unless others are given."""
    return walk_forward(
        by_hand(),
        groups_of(plan.history, folder),
        plan.dates,
        last_time=LAST,
        objective=weights,
        settings=plan.settings,
        check_share=0.0,
        report=report,
    )


def apart(history: str, folder: Path, seen: str) -> list[str]:
    """The portfolios of a history that hold no underlying of the one that was fitted on."""
    known = {name for group in groups_of(seen, folder) for each in group.portfolios for name in each.underlyings}
    own = [each for group in groups_of(history, folder) for each in group.portfolios]
    return [each.name for each in own if known.isdisjoint(each.underlyings)]


def elsewhere(found: Walk, history: str, folder: Path) -> pl.DataFrame:
    """What the fits of a walk would have charged on another history."""
    groups, dates = groups_of(history, folder), list(found.fits)
    ends = [*(date - np.timedelta64(1, "us") for date in dates[1:]), LAST]
    tables = [
        table
        for date, end in zip(dates, ends, strict=True)
        for table in margined(FITTED, found.fits[date].model, groups, date, end, found.fits[date].settings.seed)
    ]
    return pl.concat(tables).sort("date", "portfolio", "model")


def rivals(history: str, folder: Path, *, progress: Progress | None = None) -> pl.DataFrame:
    """The daily table of the baselines, and of the numbers set by hand, on a history."""
    models = {**load_models(BASELINES), HAND: load_model(by_hand())}
    return baselines.run(history, models, folder, options=False, progress=progress).daily


def defaults(folder: Path, *, report: Callable[[np.datetime64, Any, Any], None] | None = None) -> Fit:
    """The fit that the preset's numbers come from: all of the history up to LAST, from several starts."""

    def told(state: Any, rows: Any) -> None:
        if report is not None:
            report(LAST, state, rows)

    settings = replace(SETTINGS, starts=3)
    return fit(
        by_hand(), groups_of(HOME, folder), last_time=LAST, settings=settings, check_share=0.0,
        with_intervals=True, report=told,
    )  # fmt: skip


def through_time(found: Walk) -> pl.DataFrame:
    """The fitted numbers by the date that they hold from: key, date, value, start."""
    rows = [
        {"key": each.key, "date": date.astype("datetime64[D]").item(), "value": float(made.values[k]),
         "start": each.value}
        for date, made in found.fits.items()
        for k, each in enumerate(made.tunable.free)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def numbers(found: Walk) -> str:
    """The fitted numbers by date as Markdown."""
    dates = list(found.fits)
    free = found.fits[dates[0]].tunable.free
    lines = [f"| key | {HAND} | {' | '.join(str(date)[:10] for date in dates)} |", f"|---|---:|{'---:|' * len(dates)}"]
    for k, each in enumerate(free):
        values = " | ".join(f"{found.fits[date].values[k]:.3g}" for date in dates)
        lines.append(f"| `{each.key}` | {each.value:.3g} | {values} |")
    return "\n".join(lines)
