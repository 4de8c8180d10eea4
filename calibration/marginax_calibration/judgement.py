"""A whole backtest: history and portfolios in, the daily table, the judgement on it and a manifest out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from platform import python_version
from time import perf_counter
from typing import Any

import jax
import numpy as np
import polars as pl

from marginax.models import MarginModel
from marginax.problems import BadInput, Problem, suggestion
from marginax.tables.read import Source, read_parts
from marginax_calibration.backtests import judge
from marginax_calibration.calendar_groups import CalendarGroup, calendar_groups
from marginax_calibration.lives import Life
from marginax_calibration.panel import MARK_UP, Panel
from marginax_calibration.portfolios import Portfolio, read_portfolios, venue_portfolios
from marginax_calibration.prices import read_prices
from marginax_calibration.replay import LEAST_SHORTFALL, NothingReplayed, Progress, replay


@dataclass(frozen=True)
class Backtest:
    """`daily` as `replay` gives it, `judgement` ready for JSON, and what it was made of."""

    daily: pl.DataFrame
    judgement: dict[str, Any]
    manifest: dict[str, Any]


def read_groups(
    history: Source,
    portfolios: Source | Sequence[Portfolio] | None = None,
    *,
    absolute: Sequence[str] = (),
    seed: int = 7,
    kinds: Sequence[str] = (),
    until: datetime | None = None,
    signals: Source | None = None,
) -> list[CalendarGroup]:
    """History (files or frames) and portfolios, by calendar: what `backtest` replays.

    `portfolios` are a table, portfolios, or None for a venue's own over all underlyings, of some `kinds` or of all;
    prices after `until` are not looked at; `signals` is the table of that name. Raises BadInput for what
    cannot be read.
    """
    groups, _ = known_groups(
        history, portfolios, absolute=absolute, seed=seed, kinds=kinds, until=until, signals=signals
    )
    return groups


def known_groups(
    history: Source,
    portfolios: Source | Sequence[Portfolio] | None = None,
    *,
    absolute: Sequence[str] = (),
    seed: int = 7,
    kinds: Sequence[str] = (),
    until: datetime | None = None,
    signals: Source | None = None,
) -> tuple[list[CalendarGroup], dict[str, str]]:
    """`read_groups`, and by name why a portfolio is in none of them: what it holds lists after `until`."""
    every = read_prices(history, absolute=absolute, signals=signals)
    prices = every if until is None else every.until(until)
    inputs = {}
    if portfolios is None:
        made = venue_portfolios(prices.names, forwards=prices.forwards, seed=seed)
        chosen = [each for each in made if not kinds or each.kind in kinds]
    elif isinstance(portfolios, list | tuple) and all(isinstance(each, Portfolio) for each in portfolios):
        chosen = [each for each in portfolios if isinstance(each, Portfolio)]
    else:
        chosen = read_portfolios(portfolios, every.names)
        inputs = {part.name: part.digest for part in read_parts(portfolios, "portfolios")}
    begins = dict(every.rows.group_by("underlying").agg(pl.col("time").min()).iter_rows())
    out = {}
    for each in chosen:
        unknown = [name for name in each.underlyings if name not in begins]
        if unknown:
            what = f"'{each.name}' holds '{unknown[0]}', which is no underlying of the history"
            remedy = f"Correct the name; {suggestion(unknown[0], list(begins))}"
            raise BadInput([Problem("portfolios", None, None, what, remedy)])
        late = [name for name in each.underlyings if name not in prices.names]
        if late:
            youngest = max(late, key=lambda name: begins[name])
            out[each.name] = f"{youngest} begins on {begins[youngest]:%Y-%m-%d}, after the data ends"
    kept = [each for each in chosen if each.name not in out]
    if out and not kept:
        what = f"no portfolio is left: {'; '.join(sorted(set(out.values()))[:3])}"
        raise BadInput([Problem(", ".join(inputs) or "portfolios", None, None, what, "Give a later date")])
    return calendar_groups(prices, kept, inputs), out


def backtest(
    models: Mapping[str, MarginModel],
    groups: Sequence[CalendarGroup],
    *,
    first_time: np.datetime64 | None = None,
    last_time: np.datetime64 | None = None,
    tail: float = 0.01,
    seed: int = 7,
    progress: Progress | None = None,
) -> Backtest:
    """Replay the models over `read_groups` and judge them.

    Rows are those whose loss falls between the two times. Raises BadInput where no portfolio has a single row, and for
    a model whose horizon is not one bar.
    """
    clock = perf_counter()
    for group in groups:
        check_horizons(models, group.panel)
    daily, floored, told = _replayed(models, groups, first_time, last_time, seed, progress)
    replayed = perf_counter()
    dates = [str(each) for each in (daily["date"].min(), daily["date"].max())]
    judgement = {
        **judge(daily, tail=tail, seed=seed),
        **told,
        "holes": _most(group.panel.holes for group in groups),
        "between_bars": _most(group.between for group in groups),
        "es_floored": floored,
        "settings": {**_settings(models, tail, seed), "first": dates[0], "last": dates[1]},
    }
    manifest = {
        "versions": {name: version(name) for name in ("marginax", "jax", "numpy", "polars")}
        | {"python": python_version()},
        "device": jax.local_devices()[0].device_kind,
        "inputs": dict(groups[0].inputs),
        "calendars": [_calendar(group) for group in groups],
        "underlyings": list(groups[0].panel.names),
        "portfolios": sum(len(group.portfolios) for group in groups),
        "settings": judgement["settings"],
        "configuration": {name: model.settings.model_dump(mode="json") for name, model in models.items()},
        "seconds": {"replayed": round(replayed - clock, 3), "judged": round(perf_counter() - replayed, 3)},
    }
    return Backtest(daily, judgement, manifest)


def _replayed(
    models: Mapping[str, MarginModel],
    groups: Sequence[CalendarGroup],
    first_time: np.datetime64 | None,
    last_time: np.datetime64 | None,
    seed: int,
    progress: Progress | None,
) -> tuple[pl.DataFrame, dict[str, int], dict[str, Any]]:
    """The daily table of all groups, how often shortfalls were lifted to the floor, and who is late, short or left out.

    Progress is told in portfolio-bars of whole histories.
    """
    sizes = [len(models) * len(group.portfolios) * len(group.panel.grid.times) for group in groups]
    parts, floored = [], Counter[str]()
    late: dict[str, Any] = {}
    out: dict[str, str] = {}
    nothing: NothingReplayed | None = None
    for k, group in enumerate(groups):

        def count(model: str, done: int, total: int, k: int = k) -> None:
            if progress is not None:
                progress(model, sum(sizes[:k]) + round(done / total * sizes[k]), sum(sizes))

        try:
            played = replay(
                models,
                group.panel,
                group.portfolios,
                seed=seed,
                first_time=first_time,
                last_time=last_time,
                progress=count,
            )
            parts.append(played.daily)
            floored.update(played.floored)
            lives: Sequence[Life] = played.lives
        except NothingReplayed as error:
            nothing, lives = error, error.lives
        for each, life in zip(group.portfolios, lives, strict=True):
            if not life.rows:
                out[each.name] = life.reason
            elif life.reason:
                late[each.name] = _late(life, group.panel)
    if not parts and nothing is not None:
        raise nothing
    daily = pl.concat(parts).sort("date", "portfolio", "model")
    return daily, {model: floored[model] for model in models}, {"late_or_short": late, "left_out": out}


def _late(life: Life, panel: Panel) -> dict[str, Any]:
    first, last = (str(np.datetime_as_string(panel.grid.times[bar], unit="D")) for bar in (life.begin + 1, life.end))
    return {"first": first, "last": last, "days": life.rows, "reason": life.reason}


def _most(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The greatest count of each underlying over the calendars that it is held on."""
    most: dict[str, int] = {}
    for each in counts:
        most |= {name: max(count, most.get(name, 0)) for name, count in each.items()}
    return dict(sorted(most.items()))


def _calendar(group: CalendarGroup) -> dict[str, Any]:
    grid = group.panel.grid
    return {
        "portfolios": len(group.portfolios),
        "bars": len(grid.times),
        "bars_per_day": grid.bars_per_day,
        "bars_per_week": grid.bars_per_week,
        "first_bar": str(grid.times[0]),
        "last_bar": str(grid.times[-1]),
    }


def check_horizons(models: Mapping[str, MarginModel], panel: Panel) -> None:
    """A loss is that of one bar; a margin for another horizon would be judged by it all the same."""
    bar = 1 / panel.grid.bars_per_day
    for name, model in models.items():
        horizon = model.settings.risk.horizon_days
        if abs(horizon / bar - 1) > 1e-6:
            what = f"`{name}` margins {horizon:g} trading days, and a bar of the history is {bar:g}"
            remedy = "Load it with `horizon_days` of one bar"
            raise BadInput([Problem("configuration", "risk.horizon_days", None, what, remedy)])


def _settings(models: Mapping[str, MarginModel], tail: float, seed: int) -> dict[str, Any]:
    charged = {name: model.settings.risk.charge_tail or model.settings.risk.tail for name, model in models.items()}
    return {
        "tail": tail,
        "charge_tail": charged,
        "horizon": "one bar",
        "seed": seed,
        "option_mark_up": MARK_UP,
        "least_es": LEAST_SHORTFALL,
    }
