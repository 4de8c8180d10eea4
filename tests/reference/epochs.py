"""A replay in plain loops: what a holder is worth at other prices, and what becomes of one that is called.

Amounts are in account currency; a contract is linear, inverse or owned (spot); marks are in the quote currency.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def moved_mark(mark: float, index: tuple[float, float], quote: tuple[float, float], *, absolute: bool) -> float:
    """A mark that keeps its distance from its index, relative or absolute; pairs are prices before and now."""
    in_currency = mark * quote[0]
    ahead = in_currency + index[1] - index[0] if absolute else in_currency * index[1] / index[0]
    return ahead / quote[1]


def equity(
    balances: Sequence[tuple[str, float]],
    positions: Sequence[tuple[Mapping[str, Any], float, float]],
    marks: Mapping[str, float],
    prices: Mapping[str, float],
) -> float:
    """Balances at their prices, and of every position (terms, quantity, entry mark) what it gained, or is worth."""
    total = sum(amount * prices[asset] for asset, amount in balances)
    for terms, quantity, entry in positions:
        mark, size = marks[terms["instrument_id"]], quantity * terms["multiplier"]
        if terms["kind"] == "spot":
            total += size * mark * prices[terms["quote"]]
        elif terms["settlement"] == "inverse":
            total += size * (1 / entry - 1 / mark) * prices[terms["underlying"]]
        else:
            total += size * (mark - entry) * prices[terms["quote"]]
    return total


@dataclass
class Holder:
    """One holder of a replay: what was paid in, and whether its positions are closed, for how much."""

    paid: float = 0.0
    closed: bool = False
    cash: float = 0.0
    called: bool = False
    written_off: float = 0.0

    def epoch(self, policy: str, equity: float, call: float) -> None:
        """What an epoch with this equity and this call does to it."""
        closes = policy == "closed" and self.called and not self.closed
        if closes:
            self.closed, self.cash = True, max(equity, 0.0)
            self.written_off += max(-equity, 0.0)
        if policy == "paid" and call > 0:
            self.paid += call
        self.called = call > 0 and not closes
