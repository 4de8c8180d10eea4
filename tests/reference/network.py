"""The network filter as loops: two exponential variances, four features of a return, a gated unit, a correction.

One factor; NaN is a missing return.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def logistic(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def gated(weights: Mapping[str, np.ndarray], hidden: np.ndarray, features: np.ndarray) -> np.ndarray:
    """One step of the unit, number by number."""
    size, after = len(hidden), np.empty(len(hidden))
    for j in range(size):
        seen = [weights["inputs"][gate * size + j] @ features + weights["bias"][gate * size + j] for gate in range(3)]
        carried = [weights["carried"][gate * size + j] @ hidden for gate in range(3)]
        reset, update = logistic(seen[0] + carried[0]), logistic(seen[1] + carried[1])
        candidate = np.tanh(seen[2] + reset * carried[2])
        after[j] = (1 - update) * candidate + update * hidden[j]
    return after


def correction(weights: Mapping[str, np.ndarray], hidden: np.ndarray) -> float:
    return float(np.log(3) * np.tanh(weights["readout"] @ hidden + weights["offset"]))


def within(value: float, most: float) -> float:
    return max(-most, min(most, value))


def variances(
    file: Mapping[str, Any], returns: np.ndarray, bars: np.ndarray, *, seed: float, bound: float
) -> tuple[np.ndarray, list[float]]:
    """The variance known before each bar and after the last, and the members' last corrections, from a file's table."""
    members = [{key: np.asarray(value) for key, value in each.items()} for each in file["members"]]
    hidden = [np.zeros(file["hidden"]) for _ in members]
    fast = slow = seed
    share, squares, seen, path = file["fast_share"], 0.0, 0, []
    for move, span in zip([*returns, np.nan], [*bars, 1.0], strict=True):
        mix = share * fast + (1 - share) * slow
        each = [correction(own, carried) for own, carried in zip(members, hidden, strict=True)]
        path.append(mix * np.exp(np.mean(each)))
        if np.isnan(move):
            continue
        long_run = squares / seen if seen else 0.0
        square = min(move**2 / span, bound**2 * mix)
        fast, slow = (
            0.5 ** (span / file[f"{speed}_half_life_days"]) * old
            + (1 - 0.5 ** (span / file[f"{speed}_half_life_days"])) * square
            for speed, old in (("fast", fast), ("slow", slow))
        )
        scaled = within(move / np.sqrt(span * mix), 4)
        level = within(np.log((share * fast + (1 - share) * slow) / long_run), 3) if long_run > 0 else 0.0
        features = np.array([scaled, np.log(0.1 + scaled**2), within(np.log(fast / slow), 3), level])
        hidden = [gated(own, carried, features) for own, carried in zip(members, hidden, strict=True)]
        squares, seen = squares + move**2 / span, seen + 1
    return np.array(path), [correction(own, carried) for own, carried in zip(members, hidden, strict=True)]


def qlike(realised: Sequence[float], forecast: Sequence[float]) -> list[float]:
    return [float(np.log(h) + x / h) for x, h in zip(realised, forecast, strict=True)]
