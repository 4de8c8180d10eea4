"""Margin that follows open interest: the larger a market is against its caps, the larger the fraction it asks.

Conventions: the fraction f of an underlying with open interest O between caps lower and upper is

    f = min(1, base + max(0, (O - lower) / (upper - lower)) (1 - base)),    f = base where upper is 0

and an account owes f of its absolute net delta (derivatives only; an option whose delta nobody knows counts as all of
its underlying). Maintenance would stay a fraction of the base. Amounts are in account currency. What is charged does
not change by it: this is what such a rule would ask beside it.
Source: dYdX v4, `GetAdjustedInitialMarginPpm`; METHODS, 1.13.
"""

import numpy as np
from jaxtyping import Float64


def scaled_fraction(
    interest: Float64[np.ndarray, " underlyings"],
    lower: Float64[np.ndarray, " underlyings"],
    upper: Float64[np.ndarray, " underlyings"],
    *,
    base: float,
) -> Float64[np.ndarray, " underlyings"]:
    """The initial margin fraction of each underlying, in [base, 1]; it never falls where open interest rises."""
    rises = upper > 0
    width = np.where(rises, upper - lower, 1.0)
    over = np.where(rises, np.maximum(interest - lower, 0) / width, 0.0)
    # One straight line of numbers between 0 and 1 cannot fall by rounding; 1 - (1 - base) (1 - over) might.
    return np.minimum(base + np.minimum(over, 1.0) * (1 - base), 1.0)
