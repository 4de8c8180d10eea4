"""Dates and times as people give them, as the UTC microseconds that a replay counts in."""

from datetime import UTC, date, datetime

import numpy as np

from marginax.market import utc_time
from marginax.problems import BadInput, Problem

Time = str | date | np.datetime64
"""An ISO date or time (UTC unless it has a zone), a date, a datetime, or a time of numpy."""


def time_of(given: Time, name: str, *, last: bool = False) -> np.datetime64:
    """A date or time as UTC microseconds; a date that ends a stretch (`last`) means all of that day.

    A time of numpy is the moment that it says. Raises BadInput under `name` for what is none.
    """
    if isinstance(given, np.datetime64) and not np.isnat(given):
        return given.astype("datetime64[us]")
    words = given.strip() if isinstance(given, str) else given
    time = _moment(words)
    if time is None:
        shown = f"'{given}'" if isinstance(given, str | np.datetime64) else f"a {type(given).__name__}"
        what, remedy = f"{shown} was given", "Write a UTC date or time such as 2026-01-31"
        raise BadInput([Problem(name, None, None, what, remedy)])
    whole = len(words) <= len("2026-01-31") if isinstance(words, str) else not isinstance(words, datetime)
    return time + np.timedelta64(1, "D") - np.timedelta64(1, "us") if last and whole else time


def utc(time: np.datetime64) -> datetime:
    """A time of numpy with its zone."""
    return time.astype("datetime64[us]").item().replace(tzinfo=UTC)


def _moment(given: object) -> np.datetime64 | None:
    if not isinstance(given, str | date):
        return None
    try:
        return np.datetime64(utc_time(given).replace(tzinfo=None), "us")
    except BadInput:
        return None
