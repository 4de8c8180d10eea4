"""Delta and vega of one unit of every row of the cube: its own slopes at no move, by automatic differentiation.

Exact for options and inverse contracts. A row's delta is to its own underlying; the currencies that it is quoted and
settled in stand still.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.options import OptionPricing

# At no move at all volatilities stand on the seam of two laws with one slope, where each side would count half.
BELOW = -1e-9


class Sensitivities(NamedTuple):
    """By instrument, in account currency: per logarithm of the price (per unit where shocks are absolute), and per
    logarithm of the implied volatility of 30 days."""

    delta: Float[Array, " instruments"]
    vega: Float[Array, " instruments"]


def unit_sensitivities(
    instruments: InstrumentArrays, market: MarketArrays, factors: int, pricing: OptionPricing
) -> Sensitivities:
    """Slopes of the cube's instruments at no move and no time, in one forward derivative of two scenarios; traceable.

    `factors` counts them all. Gradient: exact in marks, index prices, volatilities and forwards.
    """
    assets, rows = market.index.shape[0], len(instruments.style)
    market = eqx.tree_at(
        lambda each: (each.index, each.absolute, each.level),
        market,
        tuple(
            jnp.concatenate([each, each]) for each in map(jnp.asarray, (market.index, market.absolute, market.level))
        ),
    )
    apart = _apart(instruments, assets)
    still = jnp.zeros((2, assets + factors))
    # Prices move in the first scenario, volatilities in the second.
    move = still.at[0, :assets].set(1)
    for block in apart.options:
        still = still.at[1, block.factor].set(BELOW)
        move = move.at[1, block.factor].set(1)
    _, slopes = jax.jvp(lambda shocks: revalue(apart, market, shocks, pricing=pricing), (still,), (move,))
    return Sensitivities(slopes[:rows, 0], slopes[:rows, 1])


def _apart(instruments: InstrumentArrays, assets: int) -> InstrumentArrays:
    """The same instruments where every asset is there twice, and money that is not the underlying is of the second."""

    def money(place: Int[Array, " rows"], underlying: Int[Array, " rows"]) -> Array:
        return jnp.where(place == underlying, place, place + assets)

    def behind(factor: Int[Array, " rows"]) -> Array:
        return jnp.asarray(factor) + assets

    blocks = tuple(
        eqx.tree_at(
            lambda each: (each.quote, each.basis, each.factor, each.paths),
            block,
            (money(block.quote, block.underlying), *map(behind, (block.basis, block.factor, block.paths))),
        )
        for block in instruments.options
    )
    own = instruments.underlying
    return eqx.tree_at(
        lambda each: (each.quote, each.settle, each.basis, each.options),
        instruments,
        (money(instruments.quote, own), money(instruments.settle, own), behind(instruments.basis), blocks),
        is_leaf=lambda leaf: leaf is instruments.options,
    )
