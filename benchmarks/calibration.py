"""A gradient of the whole objective against the objective: ten years of daily data, 20 underlyings, 200 portfolios.

`by_differences` is what the same gradient costs from the same compiled objective, one more evaluation for each number;
`fit_seconds` is a fit of so many numbers from three starts on batches of days, cold programs included.
"""

import resource
import time
from typing import Any

import numpy as np

from benchmarks.context import context
from benchmarks.ten_years import NAMES, PORTFOLIOS, UNDERLYINGS, market
from marginax.models.load import model_config
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.fit import Fitting
from marginax_calibration.fitting.state import Settings
from marginax_calibration.portfolios import LINEAR_KINDS, venue_portfolios

# One number for each of twenty underlyings, four for all, and the floors of six: 30 together.
KEYS = ("filter.alpha", "correlation.half_life_days", "correlation.shrinkage", "stress_period.weight",
        "dependence.share", *(f"classes.parameters.{name}.volatility_floor" for name in NAMES[:6]))  # fmt: skip
SEARCH = Settings(steps=30, batch=4, starts=3, check_every=15)


def run(repeats: int = 3) -> dict[str, Any]:
    """The benchmark's record."""
    panel = market()
    linear = venue_portfolios(panel.names, neutral=PORTFOLIOS - 2 * UNDERLYINGS - 2 - UNDERLYINGS // 2)
    linear = [each for each in linear if each.kind in LINEAR_KINDS]
    group = CalendarGroup(panel, tuple(linear), {}, {})
    common: dict[str, Any] = {"keys": KEYS, "by": "underlying", "settings": SEARCH}
    whole = Fitting(model_config("dynamic"), [group], check_share=0.0, **common)
    search, free = whole.search, whole.search.begin().free[:1]
    parts, softness = search.fitted, SEARCH.softness[1]
    search.judged(free, parts)
    search.value(free, parts, softness)
    objective, gradient = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        search.judged(free, parts)
        objective.append(time.perf_counter() - started)
        started = time.perf_counter()
        search.value(free, parts, softness)
        gradient.append(time.perf_counter() - started)
    one, slope = float(np.median(objective)), float(np.median(gradient))
    started = time.perf_counter()
    fitting = Fitting(model_config("dynamic"), [group], **common)
    numbers = len(fitting.tunable.free)
    found = fitting.run()
    taken = time.perf_counter() - started
    return {
        "benchmark": "calibration",
        "bars": len(panel.grid.times),
        "underlyings": UNDERLYINGS,
        "portfolios": len(linear),
        "context": context(),
        "figures": {
            "objective_seconds": one,
            "gradient_seconds": slope,
            "gradient_over_objective": slope / one,
            "numbers": numbers,
            "by_differences_seconds": (numbers + 1) * one,
            "times_faster_than_differences": (numbers + 1) * one / slope,
            "fit_seconds": taken,
            "fit_steps": int(found.path["step"].max() or 0),  # type: ignore[call-overload]
            "fit_starts": SEARCH.starts,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    }
