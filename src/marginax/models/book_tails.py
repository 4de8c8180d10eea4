"""What models that store no loss share: the kernel's answers of positions alone, and the worst of two cubes."""

import numpy as np
from jaxtyping import Float, Float64, Int64

from marginax.book import Entries
from marginax.models.protocol import Holders
from marginax_kernels import BookTail

# The question of all scenarios that have weight.
MAIN = "main"


def shortfall_alone(holders: Holders, question: str, joint: BookTail) -> Float[np.ndarray, "tails accounts"]:
    """Expected shortfalls of the positions alone, at each tail; `joint` is the answer of all that is held.

    Whose collateral does not move is asked once.
    """
    pledging = np.flatnonzero(holders.collateral.counts)
    if not len(pledging):
        return joint.expected_shortfall
    alone = joint.expected_shortfall.copy()
    alone[:, pledging] = holders.tails(question, holders.positions.taken(pledging)).expected_shortfall
    return alone


def worst_of(
    held: Entries,
    first: tuple[Float[np.ndarray, "rows scenarios"], Int64[np.ndarray, " accounts"]],
    second: tuple[Float[np.ndarray, "rows scenarios"], Int64[np.ndarray, " accounts"]],
) -> Int64[np.ndarray, " accounts"]:
    """The worst of the scenarios of two cubes side by side, of the worst in each; -1 where either has none."""
    one, other = (_loss_in(held, *each) for each in (first, second))
    worst = np.where(other > one, first[0].shape[1] + second[1], first[1])
    return np.where((first[1] < 0) | (second[1] < 0), -1, worst)


def _loss_in(held: Entries, cube: np.ndarray, scenario: np.ndarray) -> Float64[np.ndarray, " accounts"]:
    """The loss of each account in a scenario of its own."""
    pnl = held.amounts * cube[held.columns, scenario[held.owners]]
    return -np.bincount(held.owners, pnl, minlength=len(scenario))
