"""The distribution of what the venue loses, and what an insurance fund has to pay of it.

Conventions: losses are of all accounts together, one for each scenario, from the same pass as the margins, positive,
in account currency, over the horizon of the margins. Weights sum to one; scenarios without mass (stress windows and
events) are in the worst loss only. The loss at a tail is the first, from the worst down, at which the cumulated weight
reaches the tail, and the tail mean counts the scenario on the edge with the fraction left, both as in
`marginax_kernels.tail`. JSON has no infinity: None is beyond float64.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

from marginax_kernels.tail import RELATIVE_SLACK

Losses = Float64[np.ndarray, " scenarios"]


def loss_at(losses: Losses, weights: Losses, *, tail: float) -> float:
    """The loss that is exceeded with a probability below `tail`: value at risk."""
    order = np.argsort(-losses, kind="stable")
    reached = np.cumsum(weights[order]) >= tail * (1 - RELATIVE_SLACK)
    return float(losses[order][np.argmax(reached) if reached.any() else -1])


def tail_mean(losses: Losses, weights: Losses, *, tail: float) -> float:
    """Mean loss in the worst `tail` of the mass: c + E(L - c)+ / tail at the loss c of the tail.

    Source: Rockafellar and Uryasev (2002), theorem 10.
    """
    edge = loss_at(losses, weights, tail=tail)
    if not np.isfinite(edge):
        return edge
    return edge + float(_mean(np.maximum(losses - edge, 0), weights)) / tail


def probability_beyond(losses: Losses, weights: Losses, amount: float) -> float:
    """Probability of a loss greater than `amount`."""
    return float(min(weights[losses > amount].sum(), 1.0))


def distribution(
    losses: Losses, weights: Losses, labels: tuple[str, ...], *, tail: float, quantiles: tuple[float, ...]
) -> dict[str, Any]:
    """Mean, probability of any loss, quantiles, the loss and the mean at the tail, and the worst with its label."""
    worst = int(np.argmax(losses))
    return {
        "mean": known(_mean(losses, weights)),
        "probability": probability_beyond(losses, weights, 0.0),
        "quantiles": {f"{p:g}": known(loss_at(losses, weights, tail=1 - p)) for p in quantiles},
        "tail": tail,
        "at_tail": known(loss_at(losses, weights, tail=tail)),
        "tail_mean": known(tail_mean(losses, weights, tail=tail)),
        "worst": known(losses[worst]),
        "worst_scenario": labels[worst],
    }


def against_fund(losses: Losses, weights: Losses, fund: float, *, tail: float) -> dict[str, Any]:
    """Expected bad debt, the bad debt of the tail (99 % at 0.01), the probability that it exhausts the fund, and what
    is left of it then: mean, and mean of the tail."""
    beyond = np.maximum(losses - fund, 0)
    at_tail = loss_at(losses, weights, tail=tail)
    return {
        "fund": fund,
        "expected": known(_mean(losses, weights)),
        "at_tail": known(at_tail),
        "exhaustion_probability": probability_beyond(losses, weights, fund),
        "beyond_fund": {
            "mean": known(_mean(beyond, weights)),
            "tail_mean": known(tail_mean(beyond, weights, tail=tail)),
            "worst": known(float(beyond.max(initial=0.0))),
        },
        "fund_over_tail": known(fund / at_tail) if at_tail > 0 else None,
    }


def known(number: float) -> float | None:
    """A number for the manifest; None where it is beyond float64, or not known."""
    return float(number) if np.isfinite(number) else None


def _mean(losses: Losses, weights: Losses) -> float:
    # An infinite loss without mass is in no mean.
    some = weights > 0
    return float(losses[some] @ weights[some])
