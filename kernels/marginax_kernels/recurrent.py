"""A gated recurrent unit: a few numbers that are carried from bar to bar and say what to remember of them.

Conventions: features and hidden numbers come first, whatever they are of (factors, series) follows, so that a state has
the factors on its last axis. Rows of weights are those of the reset gate, the update gate and the candidate, in turn.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gated_update(
    hidden: Float[Array, "hidden *batch"],
    features: Float[Array, "features *batch"],
    *,
    inputs: Float[Array, "gates features"],
    carried: Float[Array, "gates hidden"],
    bias: Float[Array, " gates"],
) -> Float[Array, "hidden *batch"]:
    """h' = (1 - z) n + z h, with n = tanh(W x + b + r (U h)), r and z logistic in W x + b + U h; `gates` is 3 x hidden.

    Units: none; hidden numbers stay within (-1, 1) where they begin there. Gradient: exact in all inputs. Cost: one
    product with each matrix. Source: Cho et al. (2014), the reset gate after the product.
    """
    spread = bias.reshape(-1, *(1,) * (features.ndim - 1))
    reset, update, candidate = jnp.split(jnp.tensordot(inputs, features, 1) + spread, 3)
    reset_carried, update_carried, carries = jnp.split(jnp.tensordot(carried, hidden, 1), 3)
    fresh = jnp.tanh(candidate + jax.nn.sigmoid(reset + reset_carried) * carries)
    kept = jax.nn.sigmoid(update + update_carried)
    return fresh + kept * (hidden - fresh)
