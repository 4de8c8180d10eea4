"""The study of the dynamic margin: against plain models, part by part, tool by tool, and through two crises.

Parts and tools are judged on seven coins, linear portfolios; each variant is the preset with some keys changed.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from marginax.models import MarginModel, load_model
from marginax.models.load import model_config
from marginax.parameter_file import settings_over
from marginax_calibration.backtests import judge
from marginax_calibration.judgement import Backtest
from marginax_calibration.portfolios import LINEAR_KINDS
from marginax_calibration.replay import Progress
from marginax_calibration.studies import baselines
from marginax_calibration.studies.baselines import markdown

RIVALS = ("fhs", "static", "dynamic")
Settings = Mapping[str, Mapping[str, Any]]
# What each part does: the preset without it, or with another in its place.
PARTS: dict[str, Settings] = {
    "dynamic": {},
    "one speed": {"filter": {"kind": "ewma"}, "scenarios": {"half_life_days": 22.7566}},
    "two speeds": {"filter": {"kind": "two_speed"}},
    "HAR": {"filter": {"kind": "har"}},
    "no bound": {"filter": {"bound": None}},
    "correlations of the window": {"correlation": {"follow": False}},
    "no dependence": {"dependence": {"share": 0.0}},
    "correlation break": {"correlation_break": {"multiplier": 1.0}},
}
# What the defaults were chosen among.
CHOICES: dict[str, Settings] = {
    "dynamic": {},
    "window 500": {"scenarios": {"window": 500}},
    "window 2,000": {"scenarios": {"window": 2000}},
    "floor 0.5": {"scenarios": {"volatility_floor": 0.5}},
    "slower GARCH": {"filter": {"alpha": 0.08, "beta": 0.91}},
    "faster GARCH": {"filter": {"alpha": 0.2, "beta": 0.79}},
    "bound 3": {"filter": {"bound": 3.0}},
    "bound 6": {"filter": {"bound": 6.0}},
    "correlation 30 days": {"correlation": {"half_life_days": 30.0}},
    "correlation 120 days": {"correlation": {"half_life_days": 120.0}},
}
_NONE: Settings = {"stress_period": {"weight": 0.0}}
# Each tool alone, beside the preset without any.
TOOLS: dict[str, Settings] = {
    "none": _NONE,
    "stressed weight": {},
    "buffer 25 %": {**_NONE, "procyclicality": {"buffer": 0.25}},
    "ten-year floor": {**_NONE, "procyclicality": {"floor_years": 10.0}},
    "speed limit 10 % a day": {**_NONE, "procyclicality": {"rise_limit": 0.1}},
    "slow release 2 % a day": {**_NONE, "procyclicality": {"fall_limit": 0.02}},
    "all": {"procyclicality": {"buffer": 0.25, "floor_years": 10.0, "rise_limit": 0.1, "fall_limit": 0.02}},
}
CRISES = {
    "March 2020": (date(2020, 3, 1), date(2020, 4, 15)),
    "10 October 2025": (date(2025, 10, 1), date(2025, 11, 15)),
}
# Ten kinds of account of seven coins, which all lived through both.
ACCOUNTS = (
    "long BTC", "short BTC", "long DOGE", "long basket", "spread ADA BCH", "neutral 1", "straddle BTC", "strangle ETH",
    "collar BTC", "market maker 1",
)  # fmt: skip
IN_CRISIS = ("static", "dynamic")
# What is told of each variant: figures of the baselines' tables, and the rise over twenty bars.
TOLD = ("breaches", "FZ0", "charged", "uncovered", "peak/trough", "+1 bar", "+5 bars")
FIGURES = (
    *((title, show) for title, show in baselines.FIGURES if title in TOLD),
    ("+20 bars", lambda each: f"{each['max_increase_20d']:+.0%}"),
)


def variant(settings: Settings, *, preset: str = "dynamic") -> MarginModel:
    """A preset with some keys changed."""
    return load_model(settings_over(model_config(preset), settings, preset))


def variants(table: Mapping[str, Settings]) -> dict[str, MarginModel]:
    """All of a table."""
    return {name: variant(settings) for name, settings in table.items()}


def run(
    history: str, models: Mapping[str, MarginModel], folder: Path, *, progress: Progress | None = None
) -> tuple[Backtest, str]:
    """A backtest on one of the baselines' histories, and its pooled figures over linear portfolios as Markdown."""
    result = baselines.run(history, models, folder, progress=progress)
    linear = result.daily.filter(pl.col("kind").is_in(LINEAR_KINDS))
    pooled = judge(linear)["pooled"]
    rows = {name: [show(pooled[name]) for _, show in FIGURES] for name in models}
    first, last = (str(linear["date"].sort()[place]) for place in (0, -1))
    head = f"### {history}: {linear['portfolio'].n_unique()} linear portfolios, {first} to {last}\n\n"
    return result, head + markdown([title for title, _ in FIGURES], rows) + "\n"


def through(daily: pl.DataFrame, models: Iterable[str]) -> str:
    """What each kind of account owed, was called for and lost in each crisis, as Markdown.

    A call is what an account that stood at its requirement must pay in to stand at it again: the rise of the
    requirement and the loss of the day.
    """
    parts = []
    for crisis, (first, last) in CRISES.items():
        rows = {}
        for account in ACCOUNTS:
            for model in models:
                mine = daily.filter((pl.col("portfolio") == account) & (pl.col("model") == model)).sort("date")
                paid = (pl.col("charged") - pl.col("charged").shift(1) + pl.col("loss").shift(1)).clip(lower_bound=0)
                inside = mine.with_columns(call=paid).filter(pl.col("date").is_between(first, last))
                if not inside.height:
                    continue
                charged, loss, call = (inside[name].to_numpy() for name in ("charged", "loss", "call"))
                rows[f"{account}` `{model}"] = [
                    f"{charged[0]:.1%}",
                    f"{charged.max():.1%}",
                    f"{int((loss > inside['var'].to_numpy()).sum())}",
                    f"{call.sum():.1%}",
                    f"{call.max():.1%}",
                    f"{max(float((loss - charged).max()), 0.0):.1%}",
                ]
        titles = ["at first", "at its highest", "breaches", "calls", "largest call", "uncovered at worst"]
        parts.append(f"### {crisis}: {first} to {last}\n\n{markdown(titles, rows)}\n")
    return "\n".join(parts)


def responses(figures: Mapping[str, Mapping[str, Mapping[str, float | None]]], step: str) -> str:
    """Answers to a step in volatility as Markdown."""
    titles = ["steady / before", "overshoot", "its error", "bars to half", "bars to the peak"]
    rows = {}
    for model, by_step in figures.items():
        each = by_step[step]
        rows[model] = [
            f"{each['multiple']:.2f}",
            f"{each['overshoot']:+.1%}",
            f"{each['overshoot_error']:.1%}",
            f"{each['half_life']}",
            f"{each['peak']}",
        ]
    return f"### Volatility steps to {step} times what it was\n\n{markdown(titles, rows)}\n"
