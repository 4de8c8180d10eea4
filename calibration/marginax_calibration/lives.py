"""From which bar to which a portfolio is replayed, and why not all of the history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marginax.known import KnownHistory
from marginax.models import MarginModel
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.walk_forward import Schedule


@dataclass(frozen=True)
class Life:
    """A portfolio lists at bar `start` with its youngest leg; at `anchor` every model has its least window.

    Margins are those at the close of bars from `begin` up to, not including, `end`; `reason` says why there are fewer
    than the dates ask for, or none.
    """

    start: int
    anchor: int
    begin: int
    end: int
    reason: str

    @property
    def rows(self) -> int:
        """Bars with a margin and the loss that followed."""
        return max(0, self.end - self.begin)


def lives_of(
    portfolios: Sequence[Portfolio],
    panel: Panel,
    known: Mapping[str, KnownHistory],
    models: Mapping[str, MarginModel],
    first_time: np.datetime64 | None,
    last_time: np.datetime64 | None,
) -> list[Life]:
    """The life of each portfolio, given what is known of its legs and the times that losses may fall on.

    A refit that does not look at its last bars has its least window later by as many.
    """
    times = panel.grid.times
    gaps = {name: Schedule.of(model.settings, panel.grid).gap for name, model in models.items()}
    least = max(model.settings.scenarios.least_bars + gaps[name] for name, model in models.items())
    history = next(iter(known.values())).history
    place = {name: k for k, name in enumerate(history.names)}
    all_own = np.logical_and.reduce([_later(each.own, gaps[name]) for name, each in known.items()])
    low = 0 if first_time is None else int(np.searchsorted(times, first_time, side="left")) - 1
    high = len(times) - 1 if last_time is None else int(np.searchsorted(times, last_time, side="right")) - 1
    lives = []
    for each in portfolios:
        columns = [panel.names.index(name) for name in each.underlyings]
        factors = columns + [place[f"implied_vol:{leg.underlying}"] for leg in each.legs if leg.option]
        start, last = int(panel.first[columns].max()), int(panel.last[columns].min())
        youngest = panel.names[max(columns, key=lambda k: panel.first[k])]
        oldest = panel.names[min(columns, key=lambda k: panel.last[k])]
        ready = all_own[:, factors].all(axis=1) & (np.arange(len(times)) >= start + least)
        anchor = int(np.argmax(ready)) if ready.any() else len(times)
        begin, end = max(anchor, low), min(last, high)
        reasons = []
        if anchor >= last:
            bars, lacking = max(0, last - start), [k for k in factors if not all_own[last, k]]
            shared = " with the other legs" if len(each.legs) > 1 else ""
            what = f"{youngest} has {bars + 1} prices{shared}, and the models need {least + 2}"
            if bars > least and lacking:
                name = history.names[lacking[0]].removeprefix("implied_vol:")
                what = (
                    f"{name} never moved, so that options on it have no volatility, or has fewer than {least} returns"
                )
            reasons.append(what)
        elif begin >= end:
            run = f"{_day(times[anchor + 1])} to {_day(times[last])}"
            reasons.append(f"losses run from {run}, none on the dates asked for")
        else:
            if anchor > max(low, least):
                late = f"{youngest} begins on {_day(times[start])}, and the models need {least} returns"
                reasons.append(late if start > panel.first.min() else f"bars are missing: {least} returns take longer")
            if last < min(high, len(times) - 1):
                reasons.append(f"{oldest} ends on {_day(times[last])}")
        lives.append(Life(start, anchor, begin, end, "; ".join(reasons)))
    return lives


def _later(own: np.ndarray, bars: int) -> np.ndarray:
    """What was so some bars before each bar; not so where there was none."""
    return np.concatenate([np.zeros((min(bars, len(own)), own.shape[1]), bool), own[: max(0, len(own) - bars)]])


def _day(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="D"))
