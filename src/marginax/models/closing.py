"""What closing an account costs, and when its equity is exhausted: by the loss over the horizon and that cost together.

    stress_score = P(loss + cost of closing > equity), 1 for who holds positions and has no equity left

The loss is that of positions and collateral together, the cost of closing the sum of the parts of the requirement that
close positions or turn collateral into money; what prices may be wrong by (`oracle`) is doubt and no cost. Equity that
is exhausted now is exhausted within the horizon, whatever prices do after. An account without positions has nothing to
close: its score is the probability that its collateral falls below what it owes. Amounts are in account currency;
arrays are NumPy's or JAX's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marginax.models.protocol import Parts

# Parts that are a cost of closing, in any model that has them.
CLOSING = ("haircut", "concentration", "liquidity", "liquidation_fee")


def cost_of_closing(parts: "Parts") -> Any:
    """The sum of the parts that close positions or turn collateral into money, by account."""
    first = parts.values[0]
    nothing = first.__array_namespace__().zeros_like(first)
    return sum((value for name, value in zip(parts.names, parts.values, strict=True) if name in CLOSING), nothing)


def exhausting_loss(equity: Any, closing: Any) -> Any:
    """The loss beyond which equity is exhausted: what is left of it once everything is closed."""
    return equity - closing


def stress_score(exceedance: Any, equity: Any, has: Any) -> Any:
    """The score from the probability of a loss beyond `exhausting_loss`, for accounts that have positions or not."""
    return exceedance.__array_namespace__().where(has & (equity <= 0), 1, exceedance)
