"""Unit P&L of contracts whose value follows the price of one underlying: spot, linear and inverse futures.

Conventions: P&L is a gain of one long contract, in account currency, from today's mark to the mark of the scenario.
`mark` and `change` are in quote currency, `settle` is today's price of the asset that P&L is paid in (account currency)
and `settle_change` what the scenario adds to it. Arrays broadcast; gradients are exact everywhere.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def price_change(
    mark: Float[Array, "*#shape"],
    shock: Float[Array, "*#shape"],
    basis: Float[Array, "*#shape"],
    *,
    absolute: Bool[Array, "*#shape"],
    basis_level: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """What a scenario adds to a mark: its underlying takes `shock`, its basis factor moves by `basis` (relative).

    Log shocks multiply: mark x (exp(shock) x (1 + basis) - 1). Where `absolute`, shocks are in units of price and may
    carry it through zero: shock + basis x `basis_level`, with a level of the price that is not zero.
    """
    log_change = mark * (jnp.expm1(jnp.where(absolute, 0, shock)) * (1 + basis) + basis)
    return jnp.where(absolute, shock + basis * basis_level, log_change)


def spot_pnl(
    mark: Float[Array, "*#shape"],
    change: Float[Array, "*#shape"],
    multiplier: Float[Array, "*#shape"],
    settle: Float[Array, "*#shape"],
    settle_change: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """P&L of what is owned outright: the whole value moves with the price and with the quote currency."""
    return multiplier * (change * (settle + settle_change) + mark * settle_change)


def linear_pnl(
    change: Float[Array, "*#shape"],
    multiplier: Float[Array, "*#shape"],
    settle: Float[Array, "*#shape"],
    settle_change: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """P&L of a linear future: multiplier x change, at the settlement asset's price in the scenario."""
    return multiplier * change * (settle + settle_change)


def inverse_pnl(
    mark: Float[Array, "*#shape"],
    change: Float[Array, "*#shape"],
    multiplier: Float[Array, "*#shape"],
    settle: Float[Array, "*#shape"],
    settle_change: Float[Array, "*#shape"],
) -> Float[Array, "*shape"]:
    """P&L of an inverse future: multiplier x (1/mark - 1/new mark) coins, at the coin's price in the scenario.

    `multiplier` is in quote currency per contract. A fall costs more coins than the same rise earns, and what is lost
    in coins is worth less: in account currency the contract is linear as long as coin and mark move together.
    """
    return multiplier * change / (mark * (mark + change)) * (settle + settle_change)
