"""Tools against procyclicality, as recursions over the level of one risk factor: floors, buffers and speed limits.

Conventions: a level is today's volatility, or any number that a margin is proportional to; each function is one bar.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def buffered(
    level: Float[Array, "*factors"], reference: Float[Array, "*factors"], *, buffer: Float[ArrayLike, ""]
) -> Float[Array, "*factors"]:
    """A level with a buffer that is there in calm and used up in stress.

    max(level, min((1 + buffer) level, reference)): the buffer is full while it stays below the reference, is released
    bit by bit while the level climbs from reference / (1 + buffer) to the reference, so that the buffered level stands
    still, and is empty above. Gradient: exact, one-sided at the kinks. Source: EMIR RTS 153/2013, Article 28(1)(a).
    """
    return jnp.maximum(level, jnp.minimum((1 + jnp.asarray(buffer)) * level, reference))


def limited(
    level: Float[Array, "*factors"],
    before: Float[Array, "*factors"],
    *,
    rise: Float[ArrayLike, ""] | None = None,
    fall: Float[ArrayLike, ""] | None = None,
) -> Float[Array, "*factors"]:
    """A level that rises by at most `rise` and falls by at most `fall` from where it was, as shares; None: no limit.

    before (1 - fall) <= answer <= before (1 + rise); a level before of zero limits nothing.
    Gradient: exact, one-sided at the kinks. Source: Murphy, Vasios and Vause (2016), Bank of England working paper 597.
    """
    some = before > 0
    if rise is not None:
        level = jnp.where(some, jnp.minimum(level, before * (1 + jnp.asarray(rise))), level)
    if fall is not None:
        level = jnp.where(some, jnp.maximum(level, before * (1 - jnp.asarray(fall))), level)
    return level
