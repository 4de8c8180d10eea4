"""A whole backtest: history and portfolios in, the daily table, the judgement on it and a manifest out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from platform import python_version
from time import perf_counter
from typing import Any

import jax
import numpy as np
import polars as pl

from marginax.models import MarginModel
from marginax.problems import BadInput, Problem
from marginax.tables.read import Source
from marginax_calibration.backtests import judge
from marginax_calibration.panel import MARK_UP, Panel, read_panel
from marginax_calibration.portfolios import Portfolio, read_portfolios, venue_portfolios
from marginax_calibration.replay import LEAST_SHORTFALL, Progress, Replay, replay


@dataclass(frozen=True)
class Backtest:
    """`daily` as `replay` gives it, `judgement` ready for JSON, and what it was made of."""

    daily: pl.DataFrame
    judgement: dict[str, Any]
    manifest: dict[str, Any]


def backtest(
    models: Mapping[str, MarginModel],
    history: Source | Panel,
    *,
    portfolios: Source | Sequence[Portfolio] | None = None,
    first_time: np.datetime64 | None = None,
    last_time: np.datetime64 | None = None,
    tail: float = 0.01,
    absolute: Sequence[str] = (),
    seed: int = 7,
    progress: Progress | None = None,
) -> Backtest:
    """Replay the models and judge them.

    `history` are files (or frames) of the table `history`, or a panel; `portfolios` a table, portfolios, or None for a
    venue's own over all underlyings. Rows are those whose loss falls between the two times. Raises BadInput for what
    cannot be read, and where no portfolio has a single row.
    """
    clock = perf_counter()
    panel = history if isinstance(history, Panel) else read_panel(history, absolute=absolute)
    _check_horizons(models, panel)
    chosen = _portfolios(portfolios, panel, seed)
    played = replay(models, panel, chosen, seed=seed, first_time=first_time, last_time=last_time, progress=progress)
    replayed = perf_counter()
    dates = [str(each) for each in (played.daily["date"].min(), played.daily["date"].max())]
    judgement = {
        **judge(played.daily, tail=tail, seed=seed),
        **_lives(played, chosen, panel),
        "holes": panel.holes,
        "es_floored": played.floored,
        "settings": {**_settings(models, tail, seed), "first": dates[0], "last": dates[1]},
    }
    manifest = {
        "versions": {name: version(name) for name in ("marginax", "jax", "numpy", "polars")}
        | {"python": python_version()},
        "device": jax.local_devices()[0].device_kind,
        "inputs": panel.digests,
        "bars": len(panel.grid.times),
        "bars_per_day": panel.grid.bars_per_day,
        "first_bar": str(panel.grid.times[0]),
        "last_bar": str(panel.grid.times[-1]),
        "underlyings": list(panel.names),
        "portfolios": len(chosen),
        "settings": judgement["settings"],
        "configuration": {name: model.settings.model_dump(mode="json") for name, model in models.items()},
        "seconds": {"replayed": round(replayed - clock, 3), "judged": round(perf_counter() - replayed, 3)},
    }
    return Backtest(played.daily, judgement, manifest)


def _check_horizons(models: Mapping[str, MarginModel], panel: Panel) -> None:
    """A loss is that of one bar; a margin for another horizon would be judged by it all the same."""
    bar = 1 / panel.grid.bars_per_day
    for name, model in models.items():
        horizon = model.settings.risk.horizon_days
        if abs(horizon / bar - 1) > 1e-6:
            what = f"`{name}` margins {horizon:g} trading days, and a bar of the history is {bar:g}"
            remedy = "Load it with `horizon_days` of one bar"
            raise BadInput([Problem("configuration", "risk.horizon_days", None, what, remedy)])


def _portfolios(given: Source | Sequence[Portfolio] | None, panel: Panel, seed: int) -> list[Portfolio]:
    if given is None:
        return venue_portfolios(panel.names, seed=seed)
    if isinstance(given, list | tuple) and all(isinstance(each, Portfolio) for each in given):
        return [each for each in given if isinstance(each, Portfolio)]
    return read_portfolios(given, panel.names)


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


def _lives(played: Replay, portfolios: Sequence[Portfolio], panel: Panel) -> dict[str, Any]:
    """Portfolios that begin late or end early, and those that have no row at all, each with the reason."""
    late, out = {}, {}
    for each, life in zip(portfolios, played.lives, strict=True):
        if not life.rows:
            out[each.name] = life.reason
        elif life.reason:
            first, last = (
                str(np.datetime_as_string(panel.grid.times[bar], unit="D")) for bar in (life.begin + 1, life.end)
            )
            late[each.name] = {"first": first, "last": last, "days": life.rows, "reason": life.reason}
    return {"late_or_short": late, "left_out": out}
