"""The view of a venue as a specification: loops over positions, accounts and scenarios, in float64.

Conventions: a position is (holder, account, instrument id, signed contracts); an instrument is a dict with
`underlying`, `kind`, `expiry`, `units` (of the underlying in one contract) and `price` (worth of a unit, account
currency).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Position = tuple[int, str, str, float]


def open_interest(
    positions: Sequence[Position], instruments: Mapping[str, Mapping[str, Any]], at_risk: set[int]
) -> dict[tuple[str, Any, str], dict[str, float]]:
    """Both sides by underlying, expiry and kind; spot has none."""
    found: dict[tuple[str, Any, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    net: dict[str, float] = defaultdict(float)
    for holder, _, name, quantity in positions:
        what = instruments[name]
        if what["kind"] == "spot":
            continue
        kind = "option" if what["kind"] in ("call", "put") else what["kind"]
        row = found[what["underlying"], what["expiry"], kind]
        side = "long" if quantity > 0 else "short"
        amount = abs(quantity) * what["units"] * what["price"]
        row[f"{side}_contracts"] += abs(quantity)
        row[f"{side}_units"] += abs(quantity) * what["units"]
        row["open_interest" if quantity > 0 else "short_interest"] += amount
        row[f"positions_{side}"] += 1
        row["at_risk"] += amount * (holder in at_risk)
        net[name] += quantity
        if kind != "option":
            row["delta"] += max(quantity, 0) * what["units"]
            row["net_delta"] += quantity * what["units"] * (holder in at_risk)
    for name, left in net.items():
        what = instruments[name]
        kind = "option" if what["kind"] in ("call", "put") else what["kind"]
        found[what["underlying"], what["expiry"], kind]["imbalance"] += abs(left) * what["units"] * what["price"]
    return {key: dict(row) for key, row in found.items()}


def shares(amounts: Mapping[str, float]) -> dict[str, float]:
    """Herfindahl's index and the largest share of amounts by account."""
    total = sum(amounts.values())
    own = [amount / total for amount in amounts.values()]
    return {"herfindahl": sum(share**2 for share in own), "largest_share": max(own)}


def by_account(
    positions: Sequence[Position], instruments: Mapping[str, Mapping[str, Any]], underlying: str | None, side: str
) -> dict[str, float]:
    """What each account has of one side of an underlying, or of both sides of all of them."""
    found: dict[str, float] = defaultdict(float)
    for _, account, name, quantity in positions:
        what = instruments[name]
        sign = {"long": quantity, "short": -quantity, "gross": abs(quantity)}[side]
        if what["kind"] != "spot" and sign > 0 and underlying in (None, what["underlying"]):
            found[account] += sign * what["units"] * what["price"]
    return dict(found)


def loss_beyond(losses: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What all accounts lose beyond what each holds, in each scenario."""
    total = np.zeros(losses.shape[1])
    for own, amount in zip(losses, held, strict=True):
        for scenario, loss in enumerate(own):
            total[scenario] += max(loss - amount, 0.0)
    return total


def scaled_fraction(interest: float, lower: float, upper: float, base: float) -> float:
    """min(1, base + max(0, (O - lower) / (upper - lower)) (1 - base)), as dYdX v4 has it."""
    return base if not upper else min(1.0, base + max(0.0, (interest - lower) / (upper - lower)) * (1 - base))


def score(components: Mapping[str, float], scales: Mapping[str, float]) -> float:
    """x / (1 + x) of the sum of components over their scales."""
    x = sum(components[name] / scales[name] for name in scales)
    return x / (1 + x)
