"""The study of calibration: fitted walking forward on coins, judged out of sample against every baseline.

Numbers are fitted on the linear portfolios of seven coins at each date on what was known by then, and margin until the
next: the later days of the same coins, then other coins that no fit has seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from marginax.config import Config
from marginax.models import load_model
from marginax.models.load import model_config
from marginax.parameter_file import settings_over
from marginax_calibration.backtests import judge
from marginax_calibration.baselines import BASELINES
from marginax_calibration.calendar_groups import CalendarGroup, calendar_groups
from marginax_calibration.fitting.fit import Fit, fit
from marginax_calibration.fitting.parameters import with_values
from marginax_calibration.fitting.state import Settings
from marginax_calibration.fitting.walk import FITTED, Walk, margined, walk_forward, yearly
from marginax_calibration.models import load_models
from marginax_calibration.portfolios import LINEAR_KINDS, venue_portfolios
from marginax_calibration.prices import read_prices
from marginax_calibration.replay import Progress
from marginax_calibration.studies import baselines
from marginax_calibration.studies.baselines import markdown
from marginax_calibration.studies.histories import HISTORIES

HOME = "seven coins"
LAST = np.datetime64("2026-01-14T23:59:59", "us")
# Shares of stress in the charge that the frontier is drawn through.
STRESS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
HAND = "by hand"
# What a search starts from and is anchored to: numbers set by hand before any fit. (The preset has those of a fit.)
BY_HAND: dict[str, dict[str, float]] = {
    "scenarios": {"volatility_floor": 0.4},
    "filter": {"fast_half_life_days": 4.0, "slow_half_life_days": 30.0, "fast_share": 0.5, "bound": 4.0},
    "correlation": {"half_life_days": 60.0, "shrinkage": 0.05},
    "stress_period": {"weight": 0.25},
    "dependence": {"share": 0.05},
}
SETTINGS = Settings(steps=40, batch=12, rate=0.08, starts=1, check_every=10)


@dataclass(frozen=True)
class Plan:
    """A history to fit on, the date of the first fit, years between fits, and the histories that are judged on."""

    history: str
    first: np.datetime64
    years: int
    judged: tuple[str, ...]
    settings: Settings = SETTINGS


PLANS = {
    "crypto": Plan(HOME, np.datetime64("2019-12-01", "us"), 1, (HOME, "crypto", "wide crypto")),
    "multi-asset": Plan(
        "multi-asset", np.datetime64("2000-01-01", "us"), 13, ("multi-asset",), replace(SETTINGS, steps=30)
    ),
}
FIGURES = (
    *((title, show) for title, show in baselines.FIGURES if title in ("breaches", "FZ0", "charged", "uncovered")),
    *((title, show) for title, show in baselines.FIGURES if title in ("peak/trough", "+5 bars")),
)


def groups_of(history: str, folder: Path) -> list[CalendarGroup]:
    """The linear portfolios of a study's history, by calendar."""
    study = baselines.STUDIES[history]
    prices = read_prices(HISTORIES[study.history](folder), absolute=study.absolute)
    chosen = [each for each in venue_portfolios(prices.names) if each.kind in LINEAR_KINDS]
    return calendar_groups(prices, chosen)


def by_hand() -> Config:
    """The dynamic margin with the numbers set by hand."""
    return settings_over(model_config("dynamic"), BY_HAND, HAND)


def walk(plan: Plan, folder: Path, *, report: Callable[[np.datetime64, Any, Any], None] | None = None) -> Walk:
    """The walk of a plan."""
    dates = yearly(plan.first, LAST, plan.years)
    return walk_forward(
        by_hand(),
        groups_of(plan.history, folder),
        dates,
        last_time=LAST,
        settings=plan.settings,
        check_share=0.0,
        report=report,
    )


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


def frontier(found: Walk, folder: Path) -> pl.DataFrame:
    """Figures of the fitted numbers with other shares of stress in the charge, pooled over the history they were fitted
    on: weight, charged, uncovered, FZ0 and the greatest five-day rise."""
    groups, dates = groups_of(HOME, folder), list(found.fits)
    ends = [*(date - np.timedelta64(1, "us") for date in dates[1:]), LAST]
    tables = []
    for weight in STRESS:
        for date, end in zip(dates, ends, strict=True):
            config = with_values(found.fits[date].config, {("stress_period", "weight"): weight})
            tables += margined(f"{weight:g}", load_model(config), groups, date, end, found.fits[date].settings.seed)
    pooled = judge(pl.concat(tables).sort("date", "portfolio", "model"))["pooled"]
    return pl.DataFrame(
        [
            {
                "weight": weight,
                "charged": pooled[f"{weight:g}"]["mean_charged"],
                "uncovered": 1e4 * pooled[f"{weight:g}"]["mean_uncovered_loss"],
                "fz0": pooled[f"{weight:g}"]["mean_fz0"],
                "rise": pooled[f"{weight:g}"]["max_increase_5d"],
            }
            for weight in STRESS
        ]
    )


def frontier_table(points: pl.DataFrame) -> str:
    """The frontier as Markdown."""
    lines = ["| share of stress | charged | uncovered | FZ0 | +5 bars |", "|---:|---:|---:|---:|---:|"]
    for row in points.iter_rows(named=True):
        cells = f"{row['charged']:.2%} | {row['uncovered']:.2f} bp | {row['fz0']:.3f} | {row['rise']:+.0%}"
        lines.append(f"| {row['weight']:.0%} | {cells} |")
    return "\n".join(lines)


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


def shown(judgement: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The models that the frontier is drawn among; what charges twice as much would hide it."""
    return {name: judgement["pooled"][name] for name in ("static", "fhs", "garch", HAND)}


def verdict(rivals: pl.DataFrame, mine: pl.DataFrame) -> dict[str, Any]:
    """The judgement of all models on the rows that all have."""
    daily = pl.concat([rivals, mine.select(rivals.columns)])
    every = daily["model"].n_unique()
    counts = daily.group_by("date", "portfolio").agg(pl.col("model").n_unique().alias("models"))
    common = daily.join(counts.filter(pl.col("models") == every), on=["date", "portfolio"], how="semi")
    return judge(common.sort("date", "portfolio", "model"))


def targets(judgement: Mapping[str, Any], name: str = FITTED) -> str:
    """Each target of the study, what was reached, and whether that is enough, as Markdown."""
    pooled, kinds = judgement["pooled"], judgement["kinds"]
    mine, static, fhs = pooled[name], pooled["static"], pooled["fhs"]
    portfolios = judgement["portfolios"]
    rejected = sum(each[name]["conditional_coverage_p"] < 0.05 for each in portfolios.values())
    rate = mine["breaches"] / mine["days"]
    rest = [model for model in pooled if model not in (name, HAND)]
    best = min(rest, key=lambda model: pooled[model]["mean_fz0"])
    worst_p = max(rest, key=lambda model: mine["dm_p"][model])
    cost = mine["mean_charged"] / static["mean_charged"]
    left = mine["mean_uncovered_loss"] / static["mean_uncovered_loss"]
    rise = mine["max_increase_5d"] / fhs["max_increase_5d"]
    rows = [
        ("breaches of VaR 99", "0.7 to 1.2 %", f"{rate:.2%}", 0.007 <= rate <= 0.012),
        (
            "portfolios whose conditional coverage is not rejected at 5 %",
            "80 % at least",
            f"{1 - rejected / len(portfolios):.0%}",
            rejected <= 0.2 * len(portfolios),
        ),
        (
            "FZ0 below every baseline's",
            f"{pooled[best]['mean_fz0']:.3f} (`{best}`)",
            f"{mine['mean_fz0']:.3f}",
            mine["mean_fz0"] < pooled[best]["mean_fz0"],
        ),
        (
            "Diebold-Mariano p against each",
            "below 0.05",
            f"{mine['dm_p'][worst_p]:.3f} (`{worst_p}`)",
            mine["dm_p"][worst_p] < 0.05,
        ),
        ("uncovered, over that of `static`", "1 at most", f"{left:.2f}", left <= 1),
        ("charged, over that of `static`", "0.85 at most", f"{cost:.2f}", cost <= 0.85),
    ]
    for kind, most in (("long", 0.75), ("short", 0.75), ("spread", 0.35), ("neutral", 0.35)):
        if kind in kinds:
            share = kinds[kind][name]["mean_charged"] / kinds[kind]["fixed_legs"]["mean_charged"]
            reached = f"{share:.2f}"
            rows.append((f"{kind}: charged, over that of `fixed_legs`", f"{most} at most", reached, share <= most))
    rows.append(("greatest five-day rise, over that of `fhs`", "0.9 at most", f"{rise:.2f}", rise <= 0.9))
    lines = ["| target | wanted | reached | |", "|---|---:|---:|---|"]
    return "\n".join([*lines, *(f"| {a} | {b} | {c} | {'yes' if d else '**no**'} |" for a, b, c, d in rows)])


def table(judgement: Mapping[str, Any]) -> str:
    """Pooled figures of all models as Markdown, with the Diebold-Mariano p of the fitted one against each."""
    pooled = judgement["pooled"]
    titles = [*(title for title, _ in FIGURES), f"DM p of `{FITTED}`"]
    rows = {}
    for model, each in pooled.items():
        p = pooled[FITTED]["dm_p"].get(model)
        rows[model] = [*(show(each) for _, show in FIGURES), "-" if p is None else f"{p:.3f}"]
    return markdown(titles, rows)


def numbers(found: Walk) -> str:
    """The fitted numbers by date as Markdown."""
    dates = list(found.fits)
    free = found.fits[dates[0]].tunable.free
    lines = [f"| key | {HAND} | {' | '.join(str(date)[:10] for date in dates)} |", f"|---|---:|{'---:|' * len(dates)}"]
    for k, each in enumerate(free):
        values = " | ".join(f"{found.fits[date].values[k]:.3g}" for date in dates)
        lines.append(f"| `{each.key}` | {each.value:.3g} | {values} |")
    return "\n".join(lines)
