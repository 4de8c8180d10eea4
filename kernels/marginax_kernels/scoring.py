"""Scores of forecasts of value at risk and expected shortfall: the lower the better, least in the mean at the truth.

Conventions: losses are positive where money is lost, VaR and ES are amounts of loss, `tail` is the small probability.
Arrays broadcast; NaN in, NaN out.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def fissler_ziegel(
    loss: Float[ArrayLike, "*#shape"],
    var: Float[ArrayLike, "*#shape"],
    shortfall: Float[ArrayLike, "*#shape"],
    *,
    tail: float,
) -> Float[Array, "*shape"]:
    """FZ0: the joint score of VaR and ES that scaling all amounts leaves alone but for a constant.

    (loss - var)+ / (tail x shortfall) + var / shortfall + log(shortfall) - 1. Its mean is least where both are true. ES
    must be positive, or the score is NaN: a model that promises gains in the worst days has no logarithm.

    Units: none. Gradient: exact; by `var` that of the breach where loss equals it. Source: Fissler and Ziegel (2016);
    Patton, Ziegel and Chen (2019), equation 6.
    """
    loss, var, shortfall = (jnp.asarray(each) for each in (loss, var, shortfall))
    positive = shortfall > 0
    safe = jnp.where(positive, shortfall, 1)
    score = jnp.maximum(loss - var, 0) / (tail * safe) + var / safe + jnp.log(safe) - 1
    return jnp.where(positive, score, jnp.nan)


def pinball(
    loss: Float[ArrayLike, "*#shape"], var: Float[ArrayLike, "*#shape"], *, tail: float
) -> Float[Array, "*shape"]:
    """The quantile score of VaR alone: (loss - var) x (1 - tail) beyond it, (var - loss) x tail within.

    Units: the currency of `loss`. Gradient: exact but at loss = var. Source: Koenker and Bassett (1978).
    """
    excess = jnp.asarray(loss) - jnp.asarray(var)
    return jnp.maximum((1 - tail) * excess, -tail * excess)
