"""The baseline study: six models on real history, pooled, by kind, and through each crisis.

Linear portfolios only, but for the coins of the panel, which have options too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from marginax.models import MarginModel
from marginax_calibration.backtests import judge
from marginax_calibration.calendar_groups import calendar_groups
from marginax_calibration.judgement import Backtest, backtest
from marginax_calibration.portfolios import LINEAR_KINDS, venue_portfolios
from marginax_calibration.prices import read_prices
from marginax_calibration.replay import Progress
from marginax_calibration.studies.histories import HISTORIES, RATES


@dataclass(frozen=True)
class Study:
    """A history, the first date of a loss, and whether portfolios hold options."""

    history: str
    first: date
    options: bool = False
    absolute: tuple[str, ...] = ()


STUDIES = {
    # 750 bars after the first of the six coins that list last.
    "seven coins": Study("seven coins", date(2019, 12, 1)),
    "crypto": Study("crypto", date(2019, 12, 1), options=True),
    "wide crypto": Study("wide crypto", date(2019, 12, 1)),
    "multi-asset": Study("multi-asset", date(1992, 1, 1), absolute=RATES),
}
# What the picture of March 2020 shows.
SPRING = (date(2020, 2, 8), date(2020, 6, 19))
CRISES = {
    "September to November 2008": (date(2008, 9, 12), date(2008, 11, 30)),
    "March 2020": (date(2020, 3, 8), date(2020, 3, 19)),
    "May 2021": (date(2021, 5, 12), date(2021, 5, 24)),
    "May and June 2022": (date(2022, 5, 5), date(2022, 6, 20)),
    "November 2022": (date(2022, 11, 6), date(2022, 11, 14)),
    "August 2024": (date(2024, 8, 2), date(2024, 8, 7)),
    "April 2025": (date(2025, 4, 3), date(2025, 4, 9)),
    "10 October 2025": (date(2025, 10, 9), date(2025, 10, 13)),
}
FIGURES = (
    ("breaches", lambda each: f"{each['breaches'] / each['days']:.2%}"),
    ("Kupiec p", lambda each: _p(each["kupiec_p"])),
    ("independence p", lambda each: _p(each["independence_p"])),
    ("Z2 p", lambda each: _p(each["z2_p"])),
    ("FZ0", lambda each: f"{each['mean_fz0']:.3f}"),
    ("charged", lambda each: f"{each['mean_charged']:.2%}"),
    ("uncovered", lambda each: f"{1e4 * each['mean_uncovered_loss']:.2f} bp"),
    ("worst", lambda each: f"{each['max_uncovered_loss']:.0%}"),
    ("peak/trough", lambda each: f"{each['peak_to_trough']:.1f}"),
    ("+1 bar", lambda each: f"{each['max_increase_1d']:+.0%}"),
    ("+5 bars", lambda each: f"{each['max_increase_5d']:+.0%}"),
)


def run(
    name: str,
    models: Mapping[str, MarginModel],
    folder: Path,
    *,
    seed: int = 7,
    options: bool | None = None,
    signals: pl.DataFrame | None = None,
    progress: Progress | None = None,
) -> Backtest:
    """One study: the backtest of its history and portfolios, with `options` or without (None: as the study has it).

    `signals` are for models that read them. Raises BadInput where the data is not there.
    """
    study = STUDIES[name] if options is None else replace(STUDIES[name], options=options)
    prices = read_prices(HISTORIES[study.history](folder), absolute=study.absolute, signals=signals)
    portfolios = [
        each for each in venue_portfolios(prices.names, seed=seed) if study.options or each.kind in LINEAR_KINDS
    ]
    first = np.datetime64(study.first, "us")
    return backtest(models, calendar_groups(prices, portfolios), first_time=first, seed=seed, progress=progress)


def tables(name: str, result: Backtest, models: Sequence[str]) -> str:
    """The tables of a study in Markdown: pooled over linear kinds, by kind, and through each crisis it lived."""
    linear = result.daily.filter(pl.col("kind").is_in(LINEAR_KINDS))
    pooled = result.judgement["pooled"]
    if linear.height < result.daily.height:
        pooled = judge(linear)["pooled"]
    count = linear["portfolio"].n_unique()
    first, last = (str(linear["date"].sort()[place]) for place in (0, -1))
    head = f"### {name}: {count} linear portfolios, {first} to {last}\n"
    body = markdown([title for title, _ in FIGURES], {m: [show(pooled[m]) for _, show in FIGURES] for m in models})
    parts = [head, body]
    if linear.height < result.daily.height:
        kinds = {kind: each for kind, each in result.judgement["kinds"].items() if kind not in LINEAR_KINDS}
        for kind, each in kinds.items():
            parts += [f"\n{kind.replace('_', ' ')}:\n"]
            parts += [markdown([t for t, _ in FIGURES], {m: [show(each[m]) for _, show in FIGURES] for m in models})]
    parts += ["\nRejections of portfolios at a false discovery rate of 5 %:\n", _rejections(result, models)]
    for crisis, (begin, end) in CRISES.items():
        window = linear.filter(pl.col("date").is_between(begin, end))
        if window.height:
            parts += [
                f"\n{crisis} ({window['portfolio'].n_unique()} portfolios):\n",
                _crisis(linear, window, models, begin),
            ]
    return "\n".join(parts) + "\n"


def _crisis(linear: pl.DataFrame, window: pl.DataFrame, models: Sequence[str], begin: date) -> str:
    """Breaches, uncovered losses and how far margins rose, in the window against the day before it."""
    rows = {}
    for model in models:
        mine = window.filter(pl.col("model") == model)
        before = linear.filter((pl.col("model") == model) & (pl.col("date") < begin)).group_by("portfolio").last()
        top = mine.group_by("portfolio").agg(pl.col("charged").max().alias("top")).join(before, on="portfolio")
        beyond = (mine["loss"] - mine["charged"]).clip(lower_bound=0)
        rise = (top["top"] / top["charged"] - 1).mean() if top.height else None
        rows[model] = [
            f"{(mine['loss'] > mine['var']).sum()} of {0.01 * mine.height:.0f}",
            f"{1e4 * float(beyond.mean() or 0):.1f} bp",  # type: ignore[arg-type]
            f"{float(beyond.max() or 0):.1%}",  # type: ignore[arg-type]
            "-" if rise is None else f"{float(rise):+.0%}",  # type: ignore[arg-type]
        ]
    return markdown(["breaches, of expected", "uncovered", "worst", "margin at its highest"], rows)


def _rejections(result: Backtest, models: Sequence[str]) -> str:
    counts: Mapping[str, Mapping[str, Any]] = result.judgement["rejections"]
    tests = list(next(iter(counts.values())))
    total = len(result.judgement["portfolios"])
    return markdown([f"{test} (of {total})" for test in tests], {m: [str(counts[m][t]) for t in tests] for m in models})


def markdown(titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table of Markdown, a row for each model."""
    lines = [f"| model | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    return "\n".join([*lines, *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows.items())])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
