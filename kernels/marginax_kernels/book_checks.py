"""What the faces of a whole-book pass refuse: each error says what was given, what follows and what to do."""

from collections.abc import Sequence

import numpy as np

# Weights rounded to float32 are off by 2^-24 of themselves each, and so is their sum; whoever divided by a sum of his
# own in float32 may be off by a few roundings more. 16 of them are a tenth of the slack of 1e-5 that lets a tail of
# everything be reached.
WEIGHT_TOLERANCE = 16 * 2.0**-24
# Below this a float32 reciprocal is beyond float32; no scenario that counts weighs less.
LEAST_TAIL = 2.0**-100
# Tails of one pass at most; the machine code has room for so many.
MOST_TAILS = 8


def checked_cube(cube: np.ndarray) -> np.ndarray:
    """The cube, in one piece; float32 or float64, with at least one scenario."""
    array = np.asarray(cube)
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"`cube` is of {array.dtype}, and its precision is that of the whole pass: give float32 or float64."
        )
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(
            f"`cube` of shape {array.shape} must be instruments x scenarios, with at least one scenario: the P&L of "
            "one unit of each instrument."
        )
    return np.ascontiguousarray(array)


def check_places(**numbers: int) -> None:
    """How a pass is laid out: nothing negative."""
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"`{name}={number}` is negative; give 0 for what fits, or how many.")


def check_kinds(starts: np.ndarray, quantities: np.ndarray) -> None:
    """Starts are whole numbers and quantities real ones."""
    if starts.size and not np.issubdtype(starts.dtype, np.integer):
        raise ValueError(f"`starts` are of {starts.dtype}; give whole numbers, the `indptr` of a CSR matrix.")
    if not (np.issubdtype(quantities.dtype, np.floating) or np.issubdtype(quantities.dtype, np.integer)):
        raise ValueError(f"`quantities` are of {quantities.dtype}; give real numbers.")


def check_ids(instrument_ids: np.ndarray, instruments: int) -> None:
    """Rows of the cube, or -1 for padding."""
    if not np.issubdtype(instrument_ids.dtype, np.integer):
        raise ValueError(
            f"`instrument_ids` are of {instrument_ids.dtype}; give whole numbers: rows of the cube, or -1."
        )
    if not instrument_ids.size:
        return
    least, most = int(instrument_ids.min()), int(instrument_ids.max())
    if least < -1 or most >= instruments:
        wrong = least if least < -1 else most
        known = f"ids go from 0 to {instruments - 1}, and -1 is padding" if instruments else "all ids must be -1"
        raise ValueError(f"`instrument_ids` hold {wrong}, and the cube has {instruments} instruments: {known}.")


def checked_tails(tail: float | Sequence[float]) -> tuple[float, ...]:
    """One probability in (0, 1] or several; what is less than `LEAST_TAIL` asks for the worst loss as that does."""
    tails = tuple(float(each) for each in np.atleast_1d(np.asarray(tail, float)))
    for each in tails:
        if not 0 < each <= 1:
            raise ValueError(
                f"`tail={each}` is no probability in (0, 1]; it is the small one, 0.01 for a confidence of 99 %."
            )
    if not 1 <= len(tails) <= MOST_TAILS:
        raise ValueError(f"{len(tails)} tails are asked at once; ask for 1 to {MOST_TAILS}.")
    return tuple(max(each, LEAST_TAIL) for each in tails)


def checked_weights(weights: np.ndarray | None, scenarios: int, dtype: np.dtype) -> np.ndarray | None:
    """Weights in the precision of the pass; None where all are equal, which is the faster case."""
    if weights is None:
        return None
    array = np.asarray(weights)
    if array.shape != (scenarios,):
        raise ValueError(
            f"`weights` of shape {array.shape} do not fit the cube's {scenarios} scenarios: give one weight for each, "
            "or None for equal ones."
        )
    if not (array >= 0).all():
        where = int(np.flatnonzero(~(array >= 0))[0])
        raise ValueError(f"weight {where} is {array[where]}: weights are probabilities, none is negative or NaN.")
    total = float(np.sum(array, dtype=float))
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise ValueError(
            f"`weights` sum to {total:.9g}, and what is off by more than {WEIGHT_TOLERANCE:.2g} is more than rounding: "
            "divide them by their sum."
        )
    return None if (array == array[0]).all() else array.astype(dtype)


def checked_amounts(amounts: np.ndarray | None, accounts: int, dtype: np.dtype) -> np.ndarray | None:
    """An amount for each account, in the precision of the pass; what is beyond it becomes infinite."""
    if amounts is None:
        return None
    array = np.asarray(amounts)
    if array.shape != (accounts,):
        raise ValueError(f"`amounts` of shape {array.shape} do not fit {accounts} accounts: give one for each.")
    with np.errstate(over="ignore"):
        return array.astype(dtype)
