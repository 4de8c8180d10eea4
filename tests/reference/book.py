"""The tail of a whole book, account by account and position by position, in float64.

Conventions: as in `reference.tail`; ids are rows of the cube, -1 for padding; a quantity of zero holds nothing.
"""

from typing import NamedTuple

import numpy as np

from reference import tail as twin


class Answers(NamedTuple):
    """What `book_tail` answers, in its order."""

    var: np.ndarray
    expected_shortfall: np.ndarray
    std_error: np.ndarray
    exceedance: np.ndarray
    venue_loss: np.ndarray
    worst_scenario: np.ndarray


def losses(instrument_ids: np.ndarray, quantities: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """Loss of each account in each scenario."""
    total = np.zeros((len(instrument_ids), cube.shape[1]))
    for account, (ids, held) in enumerate(zip(instrument_ids, quantities, strict=True)):
        for instrument, quantity in zip(ids, held, strict=True):
            if instrument >= 0 and quantity != 0:
                total[account] -= float(quantity) * cube[instrument].astype(float)
    return total


def gross(instrument_ids: np.ndarray, quantities: np.ndarray, cube: np.ndarray) -> np.ndarray:
    """The largest sum of absolute products that an account's loss is made of, over the scenarios."""
    return -losses(instrument_ids, np.abs(quantities), np.abs(cube)).min(axis=1, initial=0)


def book_tail(
    instrument_ids: np.ndarray,
    quantities: np.ndarray,
    cube: np.ndarray,
    weights: np.ndarray | None,
    *,
    tail: float,
    amounts: np.ndarray,
) -> Answers:
    """Every figure of every account, by sorting."""
    book = losses(instrument_ids, quantities, cube)
    mass = np.full(cube.shape[1], 1 / cube.shape[1]) if weights is None else weights.astype(float)
    beyond = np.maximum(book - amounts[:, None].astype(float), 0)
    return Answers(
        np.array([twin.value_at_risk(row, mass, tail=tail) for row in book]),
        np.array([twin.expected_shortfall(row, mass, tail=tail) for row in book]),
        np.array([twin.expected_shortfall_error(row, mass, tail=tail) for row in book]),
        np.array([twin.exceedance_probability(row, mass, amount) for row, amount in zip(book, amounts, strict=True)]),
        np.where(np.isfinite(beyond), beyond, 0).sum(axis=0),
        book.argmax(axis=1),
    )
