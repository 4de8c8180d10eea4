"""Dates that the commands of this floor take."""

from typing import Any


def time_of(given: str | None, flag: str, *, last: bool) -> Any:
    """A date or time as UTC microseconds; a date that ends a stretch means all of that day. Raises BadInput."""
    if given is None:
        return None
    from marginax_calibration.dates import time_of as heavy

    return heavy(given, flag, last=last)
