"""The forward and the discount factor of one expiry, from put-call parity of its quotes.

A call less a put of the same strike is a forward bought at that strike, whatever the volatility. Marks are what the
venue shows: coins per coin where options are coin-settled, else money per unit of the underlying. Nothing usable is an
answer too: a forward of NaN, never an exception.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import ArrayLike

Premium = Literal["coin", "upfront", "futures_style"]

# A robust centre needs a majority that is right: of five strikes two may be wrong. More would reach away from the
# money, where the early-exercise premium of American options grows (SPY two years out, at 4.5 %: it lowers the forward
# of the strike 10 % above the money by 1.6 %).
NEAREST = 5
# The slope of call - put over the strikes is read below the money, as far as this share of the index: there neither
# side of an American pair is worth exercising early. Puts in the money are, which makes the slope steeper: on SPY, read
# within 10 % on both sides, discounts of three weeks came to 1.012; below the money to 0.998, at rates of 4.5 %.
SLOPE_REACH = 0.4
# A discount factor outside is a wrong quote and no interest rate: 0.3 is 12 % a year over ten years, 1.1 is -1 % over
# ten years, or a week in which shares are hard to borrow.
LEAST_DISCOUNT, MOST_DISCOUNT = 0.3, 1.1
# The standard deviation of a normal law over its median absolute deviation.
SIGMA_PER_MAD = 1.4826


@dataclass(frozen=True)
class ParityForward:
    """The forward of an expiry and what it rests on.

    `discount` is the factor to today; `strikes_used` how many strikes stand behind the forward; `spread` the robust
    standard deviation of their forwards over the size of the forward, NaN where fewer than two strikes tell.
    """

    forward: float
    discount: float
    strikes_used: int
    spread: float


def parity_forward(
    strike: ArrayLike,
    call: ArrayLike,
    put: ArrayLike,
    *,
    premium: Premium,
    index: float,
    discount: float | None = None,
) -> ParityForward:
    """The forward at which calls and puts of the same strikes agree, and the discount factor that goes with it.

    `strike`, `call` and `put` are arrays over strikes, NaN where a mark is not known; `index` is the price of the
    underlying. By `premium`:

        coin            call - put = 1 - K / F      in coins: the discount cancels, and is index / F unless given
        upfront         call - put = D (F - K)      D as given, else minus the slope over at least five strikes, else 1
        futures_style   call - put = F - K          D is 1

    The forward is the weighted median over the five strikes nearest the money (where call - put is nearest zero), the
    nearest counting most, so that noise, one wrong mark, the early-exercise premium of deep American options and an
    uncertain discount do not matter. It may be negative, except in coins.

    Raises ValueError on an unknown premium, arrays of different lengths and a discount that is not positive.
    """
    _check(premium, discount)
    strikes, calls, puts = (np.atleast_1d(np.asarray(values, np.float64)) for values in (strike, call, put))
    if not strikes.shape == calls.shape == puts.shape or strikes.ndim != 1:
        raise ValueError(
            f"strikes of shape {strikes.shape}, calls of {calls.shape} and puts of {puts.shape} make no pairs. Give "
            "one mark of each per strike, NaN where it is not known."
        )
    given = 1.0 if premium == "futures_style" else discount
    usable = _usable(strikes, calls, puts, premium)
    strikes, gaps = strikes[usable], (calls - puts)[usable]
    if not len(strikes):
        return ParityForward(np.nan, 1.0 if given is None else given, 0, np.nan)
    nearest = np.lexsort((strikes, np.abs(gaps)))
    if premium == "coin":
        factor = 1.0
        forwards = strikes / (1 - gaps)
    else:
        factor = _slope_discount(strikes, gaps, nearest, index) if given is None else given
        forwards = strikes + gaps / factor
    forwards = forwards[nearest[:NEAREST]]
    count = len(forwards)
    forward = _weighted_median(forwards, 2.0 * count - np.arange(count))
    if premium == "coin":
        known = np.isfinite(index) and index > 0
        factor = given if given is not None else float(index) / forward if known else 1.0
    return ParityForward(forward, factor, count, _spread(forwards, forward, index))


def _check(premium: str, discount: float | None) -> None:
    if premium not in get_args(Premium):
        raise ValueError(
            f"`premium={premium!r}` names no way to pay for an option. Use one of {', '.join(get_args(Premium))}."
        )
    if discount is not None and not (np.isfinite(discount) and discount > 0):
        raise ValueError(
            f"`discount={discount}` is no discount factor. Give a positive number, or None to estimate it."
        )


def _usable(
    strikes: Float64[np.ndarray, " strikes"],
    calls: Float64[np.ndarray, " strikes"],
    puts: Float64[np.ndarray, " strikes"],
    premium: str,
) -> Bool[np.ndarray, " strikes"]:
    """Pairs that say something of the forward. Two marks of zero do not: they would put the forward at any strike."""
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(strikes) & np.isfinite(calls) & np.isfinite(puts) & (calls >= 0) & (puts >= 0)
        usable &= (calls > 0) | (puts > 0)
        if premium == "coin":
            usable &= (strikes > 0) & (calls - puts < 1)
    return usable


def _slope_discount(
    strikes: Float64[np.ndarray, " strikes"],
    gaps: Float64[np.ndarray, " strikes"],
    nearest: np.ndarray,
    index: float,
) -> float:
    """Minus the Theil-Sen slope of call - put over the strikes below the money; 1 where that is no discount factor.

    Pairs count alike, however far apart: a wrong mark then moves nothing until it stands in half of them. Where fewer
    than five strikes lie below the money, the five nearest it tell.
    """
    most = SLOPE_REACH * abs(index) if np.isfinite(index) else 0.0
    below = nearest[(gaps[nearest] >= 0) & (gaps[nearest] <= most)]
    near = below if len(below) >= NEAREST else nearest[:NEAREST]
    if len(near) < NEAREST:
        return 1.0
    one, other = np.triu_indices(len(near), k=1)
    apart = strikes[near][one] - strikes[near][other]
    pairs = apart != 0
    if not pairs.any():
        return 1.0
    slopes = (gaps[near][one] - gaps[near][other])[pairs] / apart[pairs]
    discount = -float(np.median(slopes))
    return discount if LEAST_DISCOUNT < discount <= MOST_DISCOUNT else 1.0


def _weighted_median(values: Float64[np.ndarray, " n"], weights: Float64[np.ndarray, " n"]) -> float:
    """The value at which the weight from either side reaches half; the middle of two where both reach it exactly."""
    order = np.argsort(values)
    values, below = values[order], np.cumsum(weights[order])
    half = below[-1] / 2
    # Integers and their halves are exact; other weights meet half only by accident.
    low, high = np.searchsorted(below, half, "left"), np.searchsorted(below, half, "right")
    return float((values[low] + values[min(high, len(values) - 1)]) / 2)


def _spread(forwards: Float64[np.ndarray, " n"], forward: float, index: float) -> float:
    if len(forwards) < 2:
        return np.nan
    # An absolute underlying may trade at zero; then the forward, or nothing, is what its scatter compares with.
    size = max(abs(forward), abs(index) if np.isfinite(index) else 0.0)
    scatter = SIGMA_PER_MAD * float(np.median(np.abs(forwards - forward)))
    return scatter / size if size > 0 else np.nan
