"""What closing costs as a specification: numbers and loops, one account and one underlying at a time."""

from collections.abc import Sequence

import numpy as np


def square_root_impact(size: float, deviation: float, volume: float, strength: float) -> float:
    """The square-root law."""
    return strength * size * deviation * np.sqrt(size / volume)


def walk(size: float, levels: Sequence[tuple[float, float]], pieces: int = 20_000) -> float:
    """Eating (size, distance from the touch) level by level; beyond the last, in small pieces at a rising distance."""
    cost, left = 0.0, size
    for available, distance in levels:
        taken = min(left, available)
        cost, left = cost + taken * distance, left - taken
    if left > 0:
        depth, last = sum(available for available, _ in levels), levels[-1][1]
        middles = depth + (np.arange(pieces) + 0.5) * left / pieces
        cost += float(np.sum(last * np.sqrt(middles / depth)) * left / pieces)
    return cost


def even_levels(depth: float, distance: float, count: int = 4_000) -> list[tuple[float, float]]:
    """A book of many thin levels up to a distance."""
    return [(depth / count, distance * (k + 0.5) / count) for k in range(count - 1)] + [(depth / count, distance)]


def days_to_sell(shortfall: float, size: float, capacity: float) -> float:
    """What a shortfall grows by where only so much can be sold a day."""
    return max(shortfall, 0) * (np.sqrt(1 + max(size / capacity - 1, 0) / 3) - 1)
