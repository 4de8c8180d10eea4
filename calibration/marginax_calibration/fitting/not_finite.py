"""Which term, which number and which day an objective comes from that is none."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from marginax_calibration.fitting.gradient_replay import Stretch
from marginax_calibration.fitting.ground import Ground, Part
from marginax_calibration.fitting.state import Row


def what_is_no_number(
    ground: Ground,
    values: Float64[np.ndarray, " numbers"],
    told: Row,
    tables: Sequence[np.ndarray],
    parts: Sequence[Part],
) -> str:
    """The terms of one start that are no number, and the first day whose margin is to blame, in words."""
    bad = [name for name, number in told.items() if not np.isfinite(number)]
    return f"{_names(bad)} is no number{_day_of_margins(ground, tables, parts)}; at {_at(ground, values)}"


def what_has_no_slope(
    ground: Ground,
    values: Float64[np.ndarray, " numbers"],
    told: Row,
    gradient: Float64[np.ndarray, " numbers"],
    slopes: Sequence[np.ndarray],
    parts: Sequence[Part],
    pulled: Callable[[Part, np.ndarray], Float64[np.ndarray, " numbers"]],
) -> str:
    """The numbers of one start in which the objective has no slope, and the first day that it is lost on, in words.

    `slopes` are those of the objective in every margin, a table for each calendar; `pulled` takes those of a stretch to
    the numbers. Costs a gradient of each stretch up to the one to blame, and of each of its days.
    """
    lost = [each.key for each, slope in zip(ground.tunable.free, gradient, strict=True) if not np.isfinite(slope)]
    terms = ", ".join(f"`{name}` {number:.6g}" for name, number in told.items())
    day = _day_of_slopes(ground, slopes, parts, pulled)
    return f"the slope in {_names(lost)} is no number{day}; terms there: {terms}; at {_at(ground, values)}"


def _names(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _at(ground: Ground, values: np.ndarray) -> str:
    return ", ".join(f"{each.key} = {value:.6g}" for each, value in zip(ground.tunable.free, values, strict=True))


def _day_of_margins(ground: Ground, tables: Sequence[np.ndarray], parts: Sequence[Part]) -> str:
    found = []
    for group, table, rows in zip(_groups(parts), tables, ground.rows(parts), strict=True):
        wrong = ~np.isfinite(table).all(axis=2) & rows.alive
        if wrong.any():
            row, portfolio = (int(k) for k in np.argwhere(wrong)[0])
            mine = [part for part in parts if part.group == group]
            chunk = len(wrong) // len(mine)
            part = mine[row // chunk]
            day = _day(ground, part, part.stretch.low + row % chunk)
            found.append((day, ground.groups[group].portfolios[portfolio].name))
    return ": on {} a margin is none of '{}'".format(*min(found)) if found else ""


def _day_of_slopes(
    ground: Ground,
    slopes: Sequence[np.ndarray],
    parts: Sequence[Part],
    pulled: Callable[[Part, np.ndarray], np.ndarray],
) -> str:
    for part, own in parted(slopes, parts):
        if np.isfinite(pulled(part, own)).all():
            continue
        for row, bar in enumerate(range(part.stretch.low, part.stretch.high)):
            alone = np.zeros_like(own)
            alone[0] = own[row]
            if not np.isfinite(pulled(Part(part.group, _one_bar(part.stretch, bar)), alone)).all():
                return f" on {_day(ground, part, bar)}"
        return f" between {_day(ground, part, part.stretch.low)} and {_day(ground, part, part.stretch.high - 1)}"
    return ""


def parted(slopes: Sequence[np.ndarray], parts: Sequence[Part]) -> list[tuple[Part, np.ndarray]]:
    """Tables by calendar cut into those of each stretch, in the order of the stretches."""
    found, place = [], dict.fromkeys(_groups(parts), 0)
    for part in parts:
        table = np.asarray(slopes[list(place).index(part.group)])
        chunk = len(table) // sum(each.group == part.group for each in parts)
        found.append((part, table[place[part.group] : place[part.group] + chunk]))
        place[part.group] += chunk
    return found


def _groups(parts: Sequence[Part]) -> list[int]:
    return sorted({part.group for part in parts})


def _one_bar(stretch: Stretch, bar: int) -> Stretch:
    """One bar of a stretch, as one: compiled calls repeat it, and slopes of all but the first are zero."""
    works = tuple(replace(work, bars=work.bars[work.bars == bar]) for work in stretch.works)
    return Stretch(bar, bar + 1, works)


def _day(ground: Ground, part: Part, bar: int) -> Any:
    times = ground.calendars[part.group].times
    return np.datetime_as_string(times[min(bar + 1, len(times) - 1)], unit="D")
