"""A small ground to fit on: the usual five underlyings and eight portfolios, one stream, few bars."""

from functools import cache
from typing import Any

import numpy as np

from calibration._histories import DAYS, configured, held, usual_panel
from marginax.config import Config
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.ground import Ground
from marginax_calibration.fitting.parameters import Tunable, tunable


def config(**sections: Any) -> Config:
    """The dynamic margin on windows of 260 bars, every part on that a gradient flows through."""
    parts = {
        "scenarios": {"window": 260},
        "stress_period": {"weight": 0.3, "bars": 60},
        "dependence": {"share": 0.2},
        "procyclicality": {"buffer": 0.25, "rise_limit": 0.05, "fall_limit": 0.01},
    }
    speeds = {"kind": "two_speed", **sections.pop("filter", {})}
    return configured("dynamic", **{**parts, **sections, "filter": speeds}).settings


@cache
def group() -> CalendarGroup:
    """The panel and the eight portfolios."""
    return CalendarGroup(usual_panel(), tuple(held().values()), {}, {"history": "of the tests"})


def ground(numbers: Tunable | None = None, *, last: int = 540, **options: Any) -> Ground:
    """A ground of losses up to a bar."""
    end = np.datetime64(DAYS[last].replace(tzinfo=None), "us")
    return Ground(numbers or tunable(config()), [group()], last_time=end, streams=1, **options)
