"""Figures of a margin that are no tests: its score, its cost, what it leaves uncovered, how it runs with the cycle.

Amounts are fractions of gross notional; losses are positive where money is lost. FZ0 judges `var` and `es`; cost,
uncovered loss and procyclicality judge what is `charged`.
"""

import jax
import numpy as np
from jaxtyping import Float64

from marginax_kernels import fissler_ziegel

_score = jax.jit(fissler_ziegel, static_argnames="tail")

STEPS = {"max_increase_1d": 1, "max_increase_5d": 5, "max_increase_20d": 20}


def fz0(
    loss: Float64[np.ndarray, "*shape"],
    var: Float64[np.ndarray, "*shape"],
    shortfall: Float64[np.ndarray, "*shape"],
    *,
    tail: float,
) -> Float64[np.ndarray, "*shape"]:
    """The joint score of VaR and ES of every row, in float64: the lower the better, least in the mean at the truth."""
    with jax.enable_x64(True):
        return np.asarray(_score(loss, var, shortfall, tail=tail))


def costs(
    loss: Float64[np.ndarray, " days"], charged: Float64[np.ndarray, " days"], score: Float64[np.ndarray, " days"]
) -> dict[str, float]:
    """Mean score, what is charged on average, and what losses beyond it cost on average and at worst."""
    uncovered = np.maximum(loss - charged, 0)
    return {
        "mean_fz0": float(score.mean()),
        "mean_charged": float(charged.mean()),
        "mean_uncovered_loss": float(uncovered.mean()),
        "max_uncovered_loss": float(uncovered.max()),
    }


def procyclicality(charged: Float64[np.ndarray, " days"]) -> dict[str, float | None]:
    """Of one portfolio held constant: peak over trough, and the greatest increase within 1, 5 and 20 of its rows.

    An increase of 0.5 is one of half. None where there are too few rows, or where nothing, or less, was charged on a
    day. Source: Murphy, Vasios and Vause (2014).
    """
    figures: dict[str, float | None] = dict.fromkeys(("peak_to_trough", *STEPS))
    if not charged.min() > 0:
        return figures
    figures["peak_to_trough"] = finite(charged.max() / charged.min())
    for name, rows in STEPS.items():
        if len(charged) > rows:
            figures[name] = finite((charged[rows:] / charged[:-rows]).max() - 1)
    return figures


def finite(value: float) -> float | None:
    """A Python float, or None for what JSON has no number for."""
    return float(value) if np.isfinite(value) else None
