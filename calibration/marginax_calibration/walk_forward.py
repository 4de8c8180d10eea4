"""Walking forward through a history: when a model is fitted anew, and on which bars.

A fit at bar b looks at returns up to b less a gap. The gap is the purge, the bars by which the horizon of a scenario
reaches into the days it is used on, plus an embargo of the user's own choice.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from marginax.calendars import Grid
from marginax.config import Config
from marginax.scenarios.filtering import horizon_bars


@dataclass(frozen=True)
class Schedule:
    """Bars between refits (0: nothing is ever kept) and bars before a refit that it does not look at."""

    every: int
    gap: int

    @classmethod
    def of(cls, config: Config, grid: Grid) -> "Schedule":
        """The schedule of a configuration on a grid of bars."""
        settings = config.replay
        yearly = round(settings.refit_years * grid.bars_per_year)
        bars, _ = horizon_bars(config.risk.horizon_days, grid.bars_per_day)
        every = max(1, yearly) if settings.refit_years else settings.refit_bars
        return cls(every, bars - 1 + settings.embargo_bars)

    def refits(self, begin: int, end: int) -> Int64[np.ndarray, " refits"]:
        """The bars from `begin` up to `end` at which a portfolio that begins there is fitted; the first is `begin`."""
        return np.arange(begin, max(end, begin + 1), self.every or 1)

    def last_refit(self, begin: int, bars: Int64[np.ndarray, " bars"]) -> Int64[np.ndarray, " bars"]:
        """The number of the refit that holds at each bar."""
        return np.maximum(bars - begin, 0) // (self.every or 1)
