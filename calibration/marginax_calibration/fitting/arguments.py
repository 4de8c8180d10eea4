"""What a fit is asked for, in the forms that people give it: names, weights, shares and histories."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from marginax.problems import BadInput, Problem
from marginax.tables.read import Source
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.dates import utc
from marginax_calibration.fitting.ground import Ground, Part
from marginax_calibration.fitting.objective import TERMS, Weights
from marginax_calibration.fitting.parameters import By
from marginax_calibration.judgement import read_groups
from marginax_calibration.portfolios import LINEAR_KINDS, Portfolio

MOST_CHECKED = 0.5


def keys_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Keys as names; one text has commas between them."""
    words = given.split(",") if isinstance(given, str) else given
    return tuple(word.strip() for word in words if word.strip())


def weights_of(given: Weights | Mapping[str, float] | None) -> Weights:
    """Weights, or those that differ from the usual ones. Raises ValueError for a term that is none."""
    if given is None or isinstance(given, Weights):
        return given or Weights()
    if not isinstance(given, Mapping):
        raise TypeError(f"the objective is a {type(given).__name__}; give Weights, or a dict of those that differ")
    for name in given:
        if name not in TERMS:
            raise ValueError(f"`{name}` is no term; name some of {', '.join(TERMS)}")
    return replace(Weights(), **given)


def groups_of(
    history: Source | Sequence[CalendarGroup], portfolios: Source | Sequence[Portfolio] | None, seed: int
) -> list[CalendarGroup]:
    """Groups as they are, or those of a history and portfolios."""
    if isinstance(history, list | tuple) and history and all(isinstance(each, CalendarGroup) for each in history):
        return [each for each in history if isinstance(each, CalendarGroup)]
    return read_groups(history, portfolios, seed=seed, kinds=LINEAR_KINDS)


def check_ranges(by: Any, check_share: Any, embargo_bars: Any) -> None:
    """Raise ValueError, by name, for what is out of range."""
    if by not in get_args(By):
        raise ValueError(f"`by` is {by!r}; say {', '.join(get_args(By)[:-1])} or {get_args(By)[-1]}")
    if not 0 <= check_share <= MOST_CHECKED:
        raise ValueError(f"`check_share` is {check_share!r}; give a share from 0 to {MOST_CHECKED}")
    if embargo_bars < 0:
        raise ValueError(f"`embargo_bars` is {embargo_bars!r}; give 0 or more")


def check_times(groups: Sequence[CalendarGroup], first: np.datetime64 | None, last: np.datetime64 | None) -> None:
    """Raise BadInput where no loss can fall between two times."""
    if first is None:
        return
    if last is not None and last < first:
        what = f"{utc(last):%Y-%m-%d} is before `first_time`, {utc(first):%Y-%m-%d}"
        raise BadInput([Problem("last_time", None, None, what, "Swap the two")])
    latest = max(group.panel.grid.times[-1] for group in groups)
    if first > latest:
        what = f"{utc(first):%Y-%m-%d} is after the last bar, of {utc(latest):%Y-%m-%d}"
        raise BadInput([Problem("first_time", None, None, what, "Give an earlier date, or more history")])


def split(ground: Ground, check_share: float, embargo_bars: int) -> tuple[list[Part], list[Part]]:
    """`Ground.split`; where too little is left to fit on, BadInput names what took it."""
    try:
        return ground.split(check_share, embargo_bars)
    except BadInput as error:
        what = f"the history {error.problems[0].what}"
        cause, remedy = _cause(ground, check_share, embargo_bars)
        raise BadInput([Problem(cause, None, None, what, f"{remedy}more history")]) from None


def _cause(ground: Ground, check_share: float, embargo_bars: int) -> tuple[str, str]:
    def enough(share: float) -> bool:
        try:
            return bool(ground.split(share))
        except BadInput:
            return False

    if embargo_bars and enough(check_share):
        return "embargo_bars", "Give a shorter one, or "
    if check_share and enough(0.0):
        return "check_share", "Check on a smaller share, or give "
    if any(life.begin > life.anchor for calendar in ground.calendars for life in calendar.lives if life.rows):
        return "first_time", "Give an earlier date, or "
    return ", ".join(ground.groups[0].panel.digests) or "history", "Give a later date, or "
