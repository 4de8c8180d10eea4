"""The smooth form of the stress score, its slopes, and the mean of what is lost beyond equity; traceable, any model.

What the score is, `marginax.models.closing` says. Amounts are in account currency, accounts those of a tile.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.protocol import MarginModel, Prepared, Tile
from marginax.models.tile_losses import has_collateral, owes, tile_losses
from marginax.score_sections import Score
from marginax_kernels import accumulate, mean_excess, smooth_exceedance


def bandwidths(
    prepared: Prepared, tile: Tile, shortfall: Float[Array, " accounts"], settings: Score
) -> Float[Array, " accounts"]:
    """Half-width of the smoothing of each account: a share of its expected shortfall, and at least one of the mean
    absolute moves of all it holds (summed, so that no hedge takes any off); zero only where nothing held can move.

    `shortfall` is that of the joint loss. A share of 0.1 of a 99 % shortfall is what a normal law of 1,000 scenarios
    asks for: the best half-width of this kernel is sqrt(5) x (4 / n)^(1/3) standard deviations, 0.13 of 2.67 of them.
    Source: Altman and Leger (1995), the best bandwidth of a kernel estimate of a distribution function.
    """
    moves = jnp.sum(prepared.weights * jnp.abs(prepared.cube), axis=1)[:, None]
    gross = accumulate(moves, jnp.asarray(tile.instruments), jnp.abs(tile.quantities))[:, 0]
    if has_collateral(tile):
        gross = gross + accumulate(moves, jnp.asarray(tile.assets), jnp.abs(tile.amounts))[:, 0]
    return jnp.maximum(settings.bandwidth * shortfall, settings.least_bandwidth * gross)


def smooth_score(
    model: MarginModel, prepared: Prepared, tile: Tile, widths: Float[Array, " accounts"], further: Array | float = 0.0
) -> Float[Array, " accounts"]:
    """`stress_score` with the probability smoothed over these half-widths; `further` is added to every loss.

    Gradient: exact in what is held and in equity, the half-widths being what they are; zero for who has no equity left.
    """
    joint = tile_losses(prepared, tile)[1] + further
    limit = exhausting_loss(tile.equity, model.closing(prepared, tile))
    return stress_score(smooth_exceedance(joint, prepared.weights, limit, widths), tile.equity, owes(tile))


def excess(model: MarginModel, prepared: Prepared, tile: Tile) -> tuple[Array, Array]:
    """Mean of loss and cost of closing beyond equity, zero where they are not, and the cost of closing; by account."""
    closing = model.closing(prepared, tile)
    joint = tile_losses(prepared, tile)[1]
    return mean_excess(joint, prepared.weights, exhausting_loss(tile.equity, closing)), closing
