"""Settlement against an average: the variance it leaves, and what of it is still open.

Conventions: `years` to expiry; the settlement price is the mean of the price over the last `window` years before it (0:
the price at expiry). Arrays broadcast.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def effective_years(years: Float[ArrayLike, "*#shape"], window: Float[ArrayLike, "*#shape"]) -> Float[Array, "*shape"]:
    """Years of variance that the settlement price has: a mean over a window has a third of the window's.

    years - 2/3 window before the window begins, years^3 / (3 window^2) inside it. Gradient: exact, zero in a window of
    length zero. Source: the variance of the time integral of a Brownian motion, as in Turnbull and Wakeman (1991).
    """
    years, window = jnp.asarray(years), jnp.asarray(window)
    averaged = window > 0
    length = jnp.where(averaged, window, 1)
    inside = jnp.minimum(years, length) ** 3 / (3 * length**2)
    return jnp.where(averaged, jnp.where(years >= length, years - 2 * length / 3, inside), years)


def unfixed_share(years: Float[ArrayLike, "*#shape"], window: Float[ArrayLike, "*#shape"]) -> Float[Array, "*shape"]:
    """Share of the settlement average that is still to come: 1 before its window begins, 0 at expiry.

    Gradient: exact, zero in a window of length zero.
    """
    years, window = jnp.asarray(years), jnp.asarray(window)
    averaged = window > 0
    return jnp.where(averaged, jnp.minimum(years / jnp.where(averaged, window, 1), 1), 1)
