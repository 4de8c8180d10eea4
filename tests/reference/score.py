"""The stress score as a loop over scenarios, and the reliability of scores as a loop over rows.

Losses are positive when money is lost, weights sum to one; `limit` is equity less the cost of closing.
"""

import numpy as np


def smooth_exceedance(losses: np.ndarray, weights: np.ndarray, limit: float, bandwidth: float) -> float:
    """The weight of each scenario times the share of an Epanechnikov kernel around its loss that lies beyond."""
    total = 0.0
    for loss, weight in zip(losses, weights, strict=True):
        u = (loss - limit) / bandwidth if bandwidth > 0 else np.sign(loss - limit) or -1
        if u >= 1:
            total += weight
        elif u > -1:
            total += weight * (0.5 + 0.75 * u - 0.25 * u**3)
    return total


def mean_excess(losses: np.ndarray, weights: np.ndarray, limit: float) -> float:
    """What is lost beyond, on average over all scenarios."""
    return sum(weight * (loss - limit) for loss, weight in zip(losses, weights, strict=True) if loss > limit)


def brier(scores: np.ndarray, failed: np.ndarray, edges: tuple[float, ...]) -> dict[str, float]:
    """The Brier score and its parts, and by bin (of its lower edge) rows, mean score and share that failed."""
    members: dict[float, list[tuple[float, float]]] = {}
    for score, fail in zip(scores, failed, strict=True):
        low = max(edge for edge in edges[:-1] if edge <= score)
        members.setdefault(low, []).append((score, float(fail)))
    rate, count = float(np.mean(failed)), len(scores)
    parts = {"brier": float(np.mean((scores - failed) ** 2)), "uncertainty": rate * (1 - rate)}
    reliability = resolution = 0.0
    for each in members.values():
        own = np.array(each)
        mean, share = own.mean(axis=0)
        reliability += len(own) / count * (mean - share) ** 2
        resolution += len(own) / count * (share - rate) ** 2
        # Scores of a bin are not all the same.
        resolution -= ((own[:, 0] - mean) ** 2).sum() / count
        resolution += 2 * ((own[:, 0] - mean) * (own[:, 1] - share)).sum() / count
    bins = {low: (len(each), *np.mean(each, axis=0).tolist()) for low, each in sorted(members.items())}
    return {**parts, "reliability": reliability, "resolution": resolution, "bins": bins}
