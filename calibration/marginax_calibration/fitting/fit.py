"""Fitting a margin model to history, from start to result."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.config import Config, preset_names
from marginax.models import MarginModel, load_model
from marginax.models.load import model_config
from marginax.tables.read import Source
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.ground import Ground, Part
from marginax_calibration.fitting.intervals import Intervals, intervals
from marginax_calibration.fitting.objective import TERMS, Weights
from marginax_calibration.fitting.parameters import By, Tunable, tunable
from marginax_calibration.fitting.search import Search
from marginax_calibration.fitting.state import Report, Row, Settings, State
from marginax_calibration.judgement import check_horizons, read_groups
from marginax_calibration.portfolios import LINEAR_KINDS, Portfolio

# Starts that end within so much of the best objective, and all numbers within so much of its in the free scale, agree.
SAME_OBJECTIVE, SAME_PLACE = 0.01, 0.5


@dataclass(frozen=True)
class Ended:
    """How one start ended: its best objective where it is checked, when, its numbers, and how far from the winner's."""

    objective: float
    step: int
    values: Float64[np.ndarray, " numbers"]
    distance: float
    agrees: bool


@dataclass(frozen=True)
class Fit:
    """Fitted numbers of a model, and what they rest on.

    `base` is the configuration of the preset or installed model `name`. `path` has a row for each step and start: the
    terms of the objective, fitted and checked. `before` and `after` are the terms on all stretches, at the numbers of
    the configuration (moved off the edges of what is allowed) and at the fitted ones.
    """

    name: str
    base: Config
    tunable: Tunable
    values: Float64[np.ndarray, " numbers"]
    intervals: Intervals | None
    starts: tuple[Ended, ...]
    path: pl.DataFrame
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    weights: Weights
    settings: Settings
    reference: dict[str, float]
    data: dict[str, Any]

    @property
    def config(self) -> Config:
        """The configuration with the fitted numbers."""
        return self.tunable.config_at(self.values.tolist())

    @property
    def model(self) -> MarginModel:
        """The model with the fitted numbers."""
        return load_model(self.config)

    @property
    def agreed(self) -> bool:
        """Whether all starts ended at one optimum."""
        return all(each.agrees for each in self.starts)


class Fitting:
    """A fit that is ready to run: the search, and what it is of."""

    def __init__(
        self,
        model: str | Path | Config,
        groups: Sequence[CalendarGroup],
        *,
        name: str = "",
        weights: Weights | None = None,
        settings: Settings | None = None,
        keys: Sequence[str] = (),
        by: By = "all",
        first_time: np.datetime64 | None = None,
        last_time: np.datetime64 | None = None,
        check_share: float = 0.2,
        embargo_bars: int = 0,
        streams: int = 0,
    ) -> None:
        """`name` is the preset or installed model that a configuration is a change of (default: its `model`).

        Raises BadInput and ValueError as `fit` does.
        """
        config = model if isinstance(model, Config) else model_config(model)
        # A parameter file stands on what everybody has: a preset or an installed model, not a file of one's own.
        self.name = name or (str(model) if str(model) in preset_names() else config.model)
        self.base = model_config(self.name)
        self.weights, self.settings = weights or Weights(), settings or Settings()
        self._underlyings = sorted({name for group in groups for each in group.portfolios for name in each.underlyings})
        self.tunable = tunable(config, keys, by=by, underlyings=self._underlyings)
        for group in groups:
            check_horizons({self.name: self.tunable.model}, group.panel)
        self._checking = {"share": check_share, "embargo_bars": embargo_bars}
        ground = Ground(
            self.tunable, groups, first_time=first_time, last_time=last_time, seed=self.settings.seed, streams=streams
        )
        fitted, checked = ground.split(check_share, embargo_bars)
        self.search = Search(ground, fitted, checked, self.weights, self.settings)

    @property
    def data(self) -> dict[str, Any]:
        """What the fit stands on."""
        told = _data(self.search.ground, self.search.fitted, self.search.checked, self._underlyings)
        return {**told, "check": self._checking}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a search hangs on, ready for JSON: one that was stopped goes on with the same alone."""
        return {
            "model": self.name,
            "configuration": self.tunable.config.model_dump(mode="json"),
            "numbers": [each.key for each in self.tunable.free],
            "weights": asdict(self.weights),
            "search": asdict(self.settings),
            "data": self.data,
        }

    def run(
        self,
        state: State | None = None,
        path: Sequence[Row] = (),
        *,
        others: Sequence[Sequence[float]] = (),
        with_intervals: bool = False,
        report: Report | None = None,
    ) -> Fit:
        """Search from a state (None: from the start) to the end, and tell what was found. Raises NotFinite."""
        search, rows, numbers = self.search, list(path), self.tunable

        def told(state: State, more: list[Row]) -> None:
            rows.extend(more)
            if report is not None:
                report(state, more)

        end = search.run(search.begin([np.asarray(each, float) for each in others]) if state is None else state, told)
        best = int(np.argmin(end.best_value))
        free, origin = end.best[best], numbers.space.free(numbers.start)
        both = {"fitted": search.fitted, "checked": search.checked}
        before, after = (
            {on: _terms(search, each, parts) for on, parts in both.items() if parts} for each in (origin, free)
        )
        return Fit(
            name=self.name,
            base=self.base,
            tunable=numbers,
            values=_values(numbers, free),
            intervals=intervals(search, free) if with_intervals else None,
            starts=tuple(_ended(numbers, end, k, best) for k in range(len(end.best))),
            path=pl.DataFrame(rows, schema=_PATH),
            before=before,
            after=after,
            weights=self.weights,
            settings=self.settings,
            reference=search.reference._asdict(),
            data=self.data,
        )


def fit(
    model: str | Path | Config,
    history: Source | Sequence[CalendarGroup],
    portfolios: Source | Sequence[Portfolio] | None = None,
    objective: Weights | None = None,
    *,
    settings: Settings | None = None,
    keys: Sequence[str] = (),
    by: By = "all",
    first_time: np.datetime64 | None = None,
    last_time: np.datetime64 | None = None,
    check_share: float = 0.2,
    embargo_bars: int = 0,
    others: Sequence[Sequence[float]] = (),
    with_intervals: bool = False,
    report: Report | None = None,
    streams: int = 0,
) -> Fit:
    """Fit the free numbers of a model to a history.

    `history` is a table (or several files), or groups as `read_groups` makes them; `portfolios` a table, portfolios, or
    None for a venue's linear ones. `keys` are keys of the configuration (none: `usual_keys`), `by` whether each asset
    class or underlying has its own. Losses after `last_time` are not looked at; the last `check_share` of the stretches
    are not fitted on but checked on. `others` are sets of numbers to start from beside the configuration's.

    Returns the numbers of the start that was best where it is checked. Raises BadInput for what cannot be read or
    fitted, ValueError for weights or settings out of range, and NotFinite where the objective is no number.
    """
    settings = settings or Settings()
    fitting = Fitting(
        model,
        _groups(history, portfolios, settings.seed),
        weights=objective,
        settings=settings,
        keys=keys,
        by=by,
        first_time=first_time,
        last_time=last_time,
        check_share=check_share,
        embargo_bars=embargo_bars,
        streams=streams,
    )
    return fitting.run(others=others, with_intervals=with_intervals, report=report)


_PATH = {"step": pl.Int64, "start": pl.Int64, "on": pl.String, "softness": pl.Float64} | dict.fromkeys(
    (*TERMS, "objective"), pl.Float64
)


def _groups(
    history: Source | Sequence[CalendarGroup], portfolios: Source | Sequence[Portfolio] | None, seed: int
) -> list[CalendarGroup]:
    if isinstance(history, list | tuple) and history and all(isinstance(each, CalendarGroup) for each in history):
        return [each for each in history if isinstance(each, CalendarGroup)]
    return read_groups(history, portfolios, seed=seed, kinds=LINEAR_KINDS)


def _values(numbers: Tunable, free: np.ndarray) -> Float64[np.ndarray, " numbers"]:
    with jax.enable_x64(True):
        return np.asarray(numbers.space.allowed(jnp.asarray(free)))


def _terms(search: Search, free: np.ndarray, parts: Sequence[Part]) -> dict[str, float]:
    totals, told = search.judged(free[None], parts)
    return {**told[0], "objective": float(totals[0])}


def _ended(numbers: Tunable, end: State, k: int, best: int) -> Ended:
    distance = float(np.abs(end.best[k] - end.best[best]).max())
    close = end.best_value[k] - end.best_value[best] <= SAME_OBJECTIVE and distance <= SAME_PLACE
    return Ended(float(end.best_value[k]), int(end.best_step[k]), _values(numbers, end.best[k]), distance, bool(close))


def _data(
    ground: Ground, fitted: Sequence[Part], checked: Sequence[Part], underlyings: Sequence[str]
) -> dict[str, Any]:
    def dates(parts: Sequence[Part]) -> dict[str, Any] | None:
        if not parts:
            return None
        first, last = min(ground.time(part) for part in parts), max(ground.end(part) for part in parts)
        day = [str(np.datetime_as_string(each, unit="D")) for each in (first, last)]
        return {"first": day[0], "last": day[1], "portfolio_bars": ground.count(parts)}

    return {
        "inputs": dict(ground.groups[0].inputs),
        "absolute": [name for group in ground.groups[:1] for name in group.panel.names if _is_absolute(group, name)],
        "underlyings": list(underlyings),
        "portfolios": sum(len(group.portfolios) for group in ground.groups),
        "fitted": dates(fitted),
        "checked": dates(checked),
    }


def _is_absolute(group: CalendarGroup, name: str) -> bool:
    return bool(group.panel.absolute[group.panel.names.index(name)])
