"""What lies beyond an amount, smoothly: the probability of a loss beyond it with a gradient, and the mean excess.

Conventions: losses are positive when money is lost; scenarios are the last axis; weights sum to one. The hard
probability (`exceedance_probability`) is a step function of every loss, and its gradient is zero.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def smooth_exceedance(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    amounts: Float[Array, "*batch"],
    bandwidths: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Weighted probability that the loss is greater than `amounts`, each scenario counted by how far it is beyond.

    sum of w K((loss - amount) / bandwidth), K(u) = 1/2 + 3/4 u - 1/4 u^3 on [-1, 1], 0 below and 1 above: the integral
    of the Epanechnikov kernel. Units: all amounts in the currency of `losses`; a bandwidth is positive, and the answer
    differs from the hard probability by half the mass within it at most. A bandwidth of zero asks for the hard one.

    Gradient: exact and continuous; only scenarios within the bandwidth carry any. Cost: one pass.
    Source: Nadaraya (1964), kernel estimates of a distribution function; Epanechnikov (1969).
    """
    smooth = bandwidths > 0
    distance = losses - amounts[..., None]
    u = jnp.clip(distance / jnp.where(smooth, bandwidths, 1)[..., None], -1, 1)
    counted = 0.5 + 0.75 * u - 0.25 * u**3
    counted = jnp.where(smooth[..., None], counted, distance > 0)
    return jnp.sum(weights * counted, axis=-1)


def mean_excess(
    losses: Float[Array, "*batch scenarios"],
    weights: Float[Array, " scenarios"],
    amounts: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Weighted mean of what the loss is beyond `amounts`, zero where it is not: E[(loss - amount)+].

    Units: the currency of `losses`. Gradient: exact wherever no loss equals the amount. Cost: one pass.
    """
    return jnp.sum(weights * jnp.maximum(losses - amounts[..., None], 0), axis=-1)
