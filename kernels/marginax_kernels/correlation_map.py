"""From past scenarios to scenarios of today's correlation.

Conventions: correlation matrices are symmetric and definite (`ewma_correlation` promises it); scenarios are rows.
"""

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


def correlation_map(
    past: Float[Array, "factors factors"], today: Float[Array, "factors factors"]
) -> Float[Array, "factors factors"]:
    """The lower triangular A with A past A' = today: z A' has correlation `today` where z has `past`.

    A = K(today) K(past)^-1 with K the Cholesky factor. A factor is moved by those before it alone, the first one not at
    all: in order of listing, what is listed later changes no scenario of what was there. It is the identity where
    nothing has changed.

    Cost: two Cholesky factors and a triangular solve. Gradient: exact.
    Source: Duffie and Pan (1997), on bringing past returns up to date.
    """
    before, now = jnp.linalg.cholesky(past), jnp.linalg.cholesky(today)
    return solve_triangular(before, now.T, lower=True, trans="T").T
