"""Dates that the commands of this floor take."""

from typing import Any

from marginax.problems import BadInput, Problem


def time_of(given: str | None, flag: str, *, last: bool) -> Any:
    """A date or time as UTC microseconds; a date that ends a stretch means all of that day."""
    import numpy as np

    from marginax.market import utc_time

    if given is None:
        return None
    try:
        time = np.datetime64(utc_time(given).replace(tzinfo=None), "us")
    except BadInput:
        what, remedy = f"'{given}' was given", "Write a UTC date or time such as 2026-01-31"
        raise BadInput([Problem(flag, None, None, what, remedy)]) from None
    whole_day = last and len(given.strip()) <= len("2026-01-31")
    return time + np.timedelta64(1, "D") - np.timedelta64(1, "us") if whole_day else time
