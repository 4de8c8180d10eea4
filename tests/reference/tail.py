"""The weighted tail by sorting: one row of losses, walked from the worst scenario down.

Conventions: losses are positive when money is lost; weights sum to one; `tail` is the small probability. Value at
risk is the first loss at which the cumulated weight reaches `tail`, with a relative slack of 1e-5; the scenario on
that edge counts in expected shortfall with whatever of `tail` is left for it.
"""

import numpy as np
from numpy.typing import ArrayLike

SLACK = 1e-5


def value_at_risk(losses: ArrayLike, weights: ArrayLike, *, tail: float) -> float:
    """The first loss, from the worst down, at which the cumulated weight reaches `tail`; NaN where a loss is NaN."""
    losses, weights = np.asarray(losses, float), np.asarray(weights, float)
    if np.isnan(losses).any():
        return np.nan
    cumulated = 0.0
    for scenario in np.argsort(-losses, kind="stable"):
        cumulated += weights[scenario]
        if cumulated >= tail * (1 - SLACK):
            return float(losses[scenario])
    return float(losses.min())


def expected_shortfall(losses: ArrayLike, weights: ArrayLike, *, tail: float) -> float:
    """Mean loss in the worst `tail` of the probability: each scenario's loss times its share of the tail."""
    losses = np.asarray(losses, float)
    shares = tail_weights(losses, weights, tail=tail)
    held = shares > 0
    return float(np.sum(shares[held] * losses[held])) if not np.isnan(shares).any() else np.nan


def tail_weights(losses: ArrayLike, weights: ArrayLike, *, tail: float) -> np.ndarray:
    """Each scenario's share of the tail: all of its weight beyond the edge, what is left shared by weight on it."""
    losses, weights = np.asarray(losses, float), np.asarray(weights, float)
    edge = value_at_risk(losses, weights, tail=tail)
    if np.isnan(edge):
        return np.full(len(losses), np.nan)
    shares = np.zeros(len(losses))
    left = tail
    for scenario in range(len(losses)):
        if losses[scenario] > edge:
            shares[scenario] = weights[scenario]
            left -= weights[scenario]
    on_edge = losses == edge
    shares[on_edge] = left * weights[on_edge] / weights[on_edge].sum()
    return shares / tail


def rockafellar_uryasev(losses: ArrayLike, weights: ArrayLike, *, tail: float) -> float:
    """The least of c + sum of weights x (loss - c)+ / tail: it is piecewise linear, so some loss is a minimiser."""
    losses, weights = np.asarray(losses, float), np.asarray(weights, float)
    return min(float(c + np.sum(weights * np.maximum(losses - c, 0)) / tail) for c in losses)


def expected_shortfall_error(losses: ArrayLike, weights: ArrayLike, *, tail: float) -> float:
    """Standard error of expected shortfall from independent weighted draws, through its influence function."""
    losses, weights = np.asarray(losses, float), np.asarray(weights, float)
    edge = value_at_risk(losses, weights, tail=tail)
    mean = expected_shortfall(losses, weights, tail=tail)
    influence = np.maximum(losses - edge, 0) / tail + edge - mean
    return float(np.sqrt(np.sum(weights**2 * influence**2)))


def exceedance_probability(losses: ArrayLike, weights: ArrayLike, amount: float) -> float:
    """Weight of the scenarios whose loss is strictly greater than `amount`."""
    return sum(float(weight) for loss, weight in zip(np.ravel(losses), np.ravel(weights), strict=True) if loss > amount)


def first_worst(losses: ArrayLike) -> int:
    """Index of the greatest loss, the first where several tie; the number of scenarios where a loss is NaN."""
    row = np.asarray(losses, float).tolist()
    if any(np.isnan(row)):
        return len(row)
    return row.index(max(row))
