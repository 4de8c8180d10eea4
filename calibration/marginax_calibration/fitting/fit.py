"""Fitting a margin model to history, from start to result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from marginax.config import Config, preset_names
from marginax.models.load import model_config
from marginax.tables.read import Source
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.dates import Time, time_of
from marginax_calibration.fitting.arguments import check_ranges, check_times, groups_of, keys_of, split, weights_of
from marginax_calibration.fitting.ground import Ground, Part
from marginax_calibration.fitting.intervals import intervals
from marginax_calibration.fitting.objective import TERMS, Weights
from marginax_calibration.fitting.parameters import By, tunable
from marginax_calibration.fitting.result import Fit, ended, values_of
from marginax_calibration.fitting.search import Search
from marginax_calibration.fitting.state import Report, Row, Settings, State
from marginax_calibration.judgement import check_horizons
from marginax_calibration.portfolios import Portfolio

__all__ = ["Fit", "Fitting", "fit"]


class Fitting:
    """A fit that is ready to run: the search, and what it is of."""

    def __init__(
        self,
        model: str | Path | Config,
        groups: Sequence[CalendarGroup],
        *,
        name: str = "",
        weights: Weights | Mapping[str, float] | None = None,
        settings: Settings | None = None,
        keys: str | Sequence[str] = (),
        by: By = "all",
        classes: Mapping[str, str] | None = None,
        first_time: Time | None = None,
        last_time: Time | None = None,
        check_share: float = 0.2,
        embargo_bars: int = 0,
        left_out: Mapping[str, str] | None = None,
        streams: int = 0,
    ) -> None:
        """`name` is the preset or installed model that a configuration is a change of (default: its `model`);
        `left_out` says of portfolios that are in no group why not.

        Raises BadInput and ValueError as `fit` does.
        """
        check_ranges(by, check_share, embargo_bars)
        first = None if first_time is None else time_of(first_time, "first_time")
        last = None if last_time is None else time_of(last_time, "last_time", last=True)
        check_times(groups, first, last)
        self.config = model if isinstance(model, Config) else model_config(model)
        # A parameter file stands on what everybody has: a preset or an installed model, not a file of one's own.
        self.name = name or (str(model) if str(model) in preset_names() else self.config.model)
        self.base = model_config(self.name)
        self.weights, self.settings = weights_of(weights), settings or Settings()
        self._classes = dict(classes or {})
        self._underlyings = sorted({name for group in groups for each in group.portfolios for name in each.underlyings})
        self.tunable = tunable(
            self.config, keys_of(keys), by=by, underlyings=self._underlyings, classes=self._classes or None
        )
        for group in groups:
            check_horizons({self.name: self.tunable.model}, group.panel)
        self._checking = {"share": check_share, "embargo_bars": embargo_bars}
        ground = Ground(
            self.tunable, groups, first_time=first, last_time=last, seed=self.settings.seed, streams=streams
        )
        self.left_out = {**(left_out or {}), **ground.left_out}
        fitted, checked = split(ground, check_share, embargo_bars)
        self.search = Search(ground, fitted, checked, self.weights, self.settings)

    @property
    def data(self) -> dict[str, Any]:
        """What the fit stands on."""
        told = _data(self.search.ground, self.search.fitted, self.search.checked, self._underlyings)
        return {**told, "check": self._checking, "left_out": dict(sorted(self.left_out.items()))}

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a search hangs on, ready for JSON: one that was stopped goes on with the same alone."""
        return {
            "model": self.name,
            "configuration": self.config.model_dump(mode="json"),
            "classes": dict(sorted(self._classes.items())),
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
        clock = perf_counter()

        def told(state: State, more: list[Row]) -> None:
            rows.extend(more)
            if report is not None:
                report(state, more)

        begin = search.begin([np.asarray(each, float) for each in others])
        end = search.run(begin if state is None else state, told)
        searched = perf_counter()
        best = int(np.argmin(end.best_value))
        free, origin = end.best[best], numbers.space.free(numbers.start)
        both = {"fitted": search.fitted, "checked": search.checked}
        before, after = (
            {on: _terms(search, each, parts) for on, parts in both.items() if parts} for each in (origin, free)
        )
        judged = perf_counter()
        sure = intervals(search, free) if with_intervals else None
        return Fit(
            name=self.name,
            base=self.base,
            tunable=numbers,
            values=values_of(numbers, free),
            intervals=sure,
            starts=tuple(ended(numbers, begin.free, end, k, best) for k in range(len(end.best))),
            path=pl.DataFrame(rows, schema=_PATH),
            before=before,
            after=after,
            weights=self.weights,
            settings=self.settings,
            reference=search.reference._asdict(),
            data=self.data,
            seconds={
                "searched": round(searched - clock, 3),
                "judged": round(judged - searched, 3),
                "intervals": round(perf_counter() - judged, 3),
            },
        )


def fit(
    model: str | Path | Config,
    history: Source | Sequence[CalendarGroup],
    portfolios: Source | Sequence[Portfolio] | None = None,
    objective: Weights | Mapping[str, float] | None = None,
    *,
    settings: Settings | None = None,
    keys: str | Sequence[str] = (),
    by: By = "all",
    classes: Mapping[str, str] | None = None,
    first_time: Time | None = None,
    last_time: Time | None = None,
    check_share: float = 0.2,
    embargo_bars: int = 0,
    others: Sequence[Sequence[float]] = (),
    with_intervals: bool = False,
    report: Report | None = None,
    streams: int = 0,
) -> Fit:
    """Fit the free numbers of a model to a history.

    `history` is a table (or several files), or groups as `read_groups` makes them; `portfolios` a table, portfolios, or
    None for a venue's linear ones. `objective` has the weights, or those that differ from the usual ones. `keys` are
    keys of the configuration (none: `usual_keys`), `by` whether each asset class or underlying has its own; `classes`
    places underlyings, before the configuration. Losses after `last_time` are not looked at; the last `check_share` of
    the stretches are not fitted on but checked on. `others` are sets of numbers to start from beside the
    configuration's.

    Returns the numbers of the start that was best where it is checked. Raises BadInput for what cannot be read or
    fitted, ValueError for weights or settings out of range, and NotFinite where the objective is no number.
    """
    settings = settings or Settings()
    fitting = Fitting(
        model,
        groups_of(history, portfolios, settings.seed),
        weights=objective,
        settings=settings,
        keys=keys,
        by=by,
        classes=classes,
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


def _terms(search: Search, free: np.ndarray, parts: Sequence[Part]) -> dict[str, float]:
    totals, told = search.judged(free[None], parts)
    return {**told[0], "objective": float(totals[0])}


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
        "absolute": sorted(
            {name for group in ground.groups for name in group.panel.names if _is_absolute(group, name)}
        ),
        "underlyings": list(underlyings),
        "portfolios": sum(life.rows > 0 for calendar in ground.calendars for life in calendar.lives),
        "fitted": dates(fitted),
        "checked": dates(checked),
    }


def _is_absolute(group: CalendarGroup, name: str) -> bool:
    return bool(group.panel.absolute[group.panel.names.index(name)])
