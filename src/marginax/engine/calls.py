"""Calls: what is asked for of a shortfall, and what may be given back, in transfers of a least size and whole steps.

An account whose equity is below its maintenance margin is short of its initial margin. The whole shortfall is called,
unless it is less than the minimum transfer amount, and rounded up to a multiple of the step; collateral beyond the
initial margin is given back by the same minimum, rounded down. The minimum is held against the amount before it is
rounded (ISDA 1994 Credit Support Annex, paragraphs 3 and 13). Units: account currency.
"""

import numpy as np
from jaxtyping import Float64

from marginax.payment_sections import Calls

# Shares of a step that are rounding of floating point: 1.1 / 0.1 is 11.000000000000002. Of very many steps it is more:
# float64 holds 1e12 steps to 1e-4 of one, and the difference and the quotient behind them round too.
SLACK = 1e-9
NOISE = 4 * np.finfo(np.float64).eps

Amounts = Float64[np.ndarray, " holders"]


def call_columns(equity: Amounts, initial: Amounts, maintenance: Amounts, settings: Calls) -> dict[str, Amounts]:
    """The columns of the margins that are calls, by name; NaN for a holder without a margin.

    `call` is what is called. Where the section is on, `shortfall` is what is missing, called or not, and `returnable`
    what may be given back; where it is off, `call` is the shortfall.
    """
    shortfall = np.where(equity < maintenance, initial - equity, np.where(np.isnan(initial), np.nan, 0.0))
    if not settings.on:
        return {"call": shortfall}
    excess = np.maximum(equity - initial, 0.0)
    return {
        "call": _transfer(shortfall, np.ceil, -1.0, settings),
        "shortfall": shortfall,
        "returnable": _transfer(excess, np.floor, 1.0, settings),
    }


def _transfer(amount: Amounts, whole: np.ufunc, sign: float, settings: Calls) -> Amounts:
    """Whole steps of an amount; `sign` is the way in which rounding of floating point is forgiven."""
    enough = np.where(amount < settings.minimum_transfer, 0.0, amount)
    if settings.rounding == 0:
        return enough
    # What is beyond float64 is no whole number of steps, and stays what it is.
    with np.errstate(over="ignore", invalid="ignore"):
        steps = enough / settings.rounding
        slack = np.maximum(SLACK, NOISE * np.abs(steps))
        rounded = np.maximum(whole(steps + sign * slack), 0.0) * settings.rounding
    return np.where(np.isfinite(rounded), rounded, enough)
