"""Money that changes hands, one position or account at a time, as readable as can be: funding, fees, calls."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def accrued(
    quantity: float,
    rate: float | None,
    interval: float | None,
    left: float | None,
    *,
    worst_rate: float,
    worst_interval: float,
    worst_elapsed: float,
) -> float:
    """Share of its notional that a position has accrued (negative: owes), with so many hours left to the settlement."""
    hours = worst_interval if interval is None else interval
    longest = max(hours, worst_elapsed)
    certain = rate is not None and interval is not None and left is not None and 0 < left <= interval
    elapsed = longest
    if interval is not None and left is not None and left <= interval:
        elapsed = min(interval - left, longest)
    if rate is None:
        return -worst_rate * elapsed / 24
    received = rate * elapsed / hours
    if quantity > 0:
        received = -received
    if not certain and received > 0:
        return 0.0
    return received


def projected(
    quantity: float,
    rate: float | None,
    interval: float | None,
    *,
    days: float,
    least: float,
    worst: float,
    cap: float,
    worst_interval: float,
) -> float:
    """Share of its notional that a position is charged for so many days."""
    if rate is None:
        return worst * days
    a_day = rate * 24 / (worst_interval if interval is None else interval)
    pays = a_day if quantity > 0 else -a_day
    return min(cap, max(least, pays)) * days


def liquidation_fee(positions: Sequence[tuple[float, float | None, float | None]], fee: float, minimum: float) -> float:
    """The fee of an account that holds so much gross notional, each at the fee of its kind and of its class (None: it
    has none of its own)."""
    if not positions:
        return 0.0
    total = 0.0
    for notional, of_kind, of_class in positions:
        stated = [each for each in (of_kind, of_class) if each is not None]
        total += notional * (max(stated) if stated else fee)
    return max(total, minimum)


def transfer(amount: str, minimum: str, step: str, *, called: bool) -> Decimal:
    """What changes hands of an amount: nothing below the minimum, whole steps up where it is called, down where it is
    returned."""
    exact, whole = Decimal(amount), Decimal(step)
    if exact < Decimal(minimum):
        return Decimal(0)
    steps = (exact / whole).to_integral_value(ROUND_CEILING if called else ROUND_FLOOR)
    return steps * whole
