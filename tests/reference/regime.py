"""The regime as a specification: one underlying, one day after the other, plain numbers.

A signal is a list of (day, value), days counted from the first bar and rising, and what it says of danger; None in
place of a list is a signal that is not there. Bars are days.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Signal:
    """One signal of an underlying: its own values, those of the whole market, and how it counts."""

    own: Series
    market: Series
    direction: str
    weight: float


@dataclass(frozen=True)
class Numbers:
    """The multiplier's numbers, in days."""

    most: float
    least: float
    window: int
    observations: int
    stale: float
    worst_age: float
    rise: float
    fall: float


def multipliers(signals: Sequence[Signal], days: Sequence[float], numbers: Numbers) -> list[float]:
    """The multiplier at each bar, by what was known then."""
    found: list[float] = []
    for bar, day in enumerate(days):
        parts = [(each.weight, pressure(each, days[: bar + 1], numbers)) for each in signals]
        total = sum(weight for weight, _ in parts)
        mean = sum(weight * part for weight, part in parts) / total if total else 0.0
        wanted = 1 + mean * (numbers.most - 1 if mean > 0 else 1 - numbers.least)
        if found:
            passed = 1 if bar == 0 else days[bar] - days[bar - 1]
            wanted = min(wanted, found[-1] * (1 + numbers.rise) ** passed)
            wanted = max(wanted, found[-1] * (1 - numbers.fall) ** passed)
        found.append(wanted)
        assert day == days[bar]
    return found


def pressure(signal: Signal, days: Sequence[float], numbers: Numbers) -> float:
    """From -1, calm, to 1, the worst, at the last of these days."""
    begun = any(time <= days[-1] for time, _ in signal.own)
    score, since = _score(signal.own if begun else signal.market, signal.direction, days, numbers)
    if score is None:
        return 1.0
    late = (since - numbers.stale) / (numbers.worst_age - numbers.stale)
    return score + (1 - score) * min(max(late, 0.0), 1.0)


def _score(series: Series, direction: str, days: Sequence[float], numbers: Numbers) -> tuple[float | None, float]:
    """Where the newest value stood when it came, None where there were too few beside it, and its age."""
    # The newest value of each bar, where one came since the bar before.
    seen: list[tuple[int, float, float]] = []
    for bar, day in enumerate(days):
        before = days[bar - 1] if bar else float("-inf")
        new = [entry for entry in series if before < entry[0] <= day]
        if new:
            seen.append((bar, *new[-1]))
    if not seen:
        return None, 0.0
    last, time, value = seen[-1]
    window = [entry for bar, _, entry in seen if bar > last - numbers.window]
    age = days[-1] - time
    if len(window) < numbers.observations:
        return None, age
    rank = sum(entry < value for entry in window) + 0.5 * sum(entry == value for entry in window)
    rank /= len(window)
    scores = {"high": 2 * rank - 1, "low": 1 - 2 * rank, "both": abs(4 * rank - 2) - 1}
    return scores[direction], age
