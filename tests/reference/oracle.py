"""What old and uncertain prices cost, as a specification: one account at a time, by closed deltas of linear contracts.

Prices are as the account holds them: of every underlying its index price, age in days and confidence, of every
instrument the same of its mark; None is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Known = tuple[float | None, float | None]


@dataclass(frozen=True)
class Numbers:
    """The charge's numbers: ages in days."""

    weight: float
    z: float
    grace: float
    worst_age: float
    worst_confidence: float


@dataclass(frozen=True)
class Contract:
    """One instrument: what it pays, in what, and its mark."""

    underlying: str
    quote: str
    style: str
    multiplier: float
    mark: float

    def deltas(self, index: Mapping[str, float]) -> dict[str, float]:
        """What one contract gains, in account currency, by a relative move of each underlying."""
        if self.style == "inverse":  # m (1 / mark - 1 / mark') coins
            return {self.underlying: self.multiplier / self.mark * index[self.underlying]}
        worth = self.multiplier * self.mark * index.get(self.quote, 1.0)
        # Spot is worth its mark times the quote currency: where that rises, the mark falls by as much.
        paid = 0.0 if self.style == "spot" else -worth
        return {self.underlying: worth, self.quote: paid}


def charge(
    positions: Sequence[tuple[str, float]],
    collateral: Sequence[tuple[str, float]],
    contracts: Mapping[str, Contract],
    index: Mapping[str, float],
    known: Mapping[str, Known],
    sigma: Mapping[str, float],
    numbers: Numbers,
) -> float:
    """The charge of one account; `known` is by underlying and by instrument alike."""
    if not any(amount for _, amount in positions):
        return 0.0
    net = dict.fromkeys(index, 0.0)
    for asset, amount in collateral:
        if asset in index:
            net[asset] += amount * index[asset]
    prices: dict[str, list[Known]] = {name: [known[name]] for name in index}
    for name, amount in positions:
        for underlying, delta in contracts[name].deltas(index).items():
            if underlying in index:
                net[underlying] += amount * delta
        if amount:
            prices[contracts[name].underlying].append(known[name])
    total = 0.0
    for name, amount in net.items():
        age = max(worst(each[0], numbers.worst_age) for each in prices[name])
        confidence = max(worst(each[1], numbers.worst_confidence) for each in prices[name])
        moved = sigma[name] * max(age - numbers.grace, 0) ** 0.5
        total += abs(amount) * (numbers.weight * confidence + numbers.z * moved)
    return total


def worst(value: float | None, most: float) -> float:
    """What is not known is the worst, and nothing is worse."""
    return most if value is None else min(value, most)
