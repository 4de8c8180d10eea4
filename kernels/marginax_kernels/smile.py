"""The implied-volatility smile of one expiry: raw SVI, and whether a slice admits butterfly arbitrage.

Conventions: log-moneyness is log(strike / forward); total variance is volatility^2 x years, the square of the
`deviation` of `black`. Parameters are Gatheral's raw ones: a (level), b >= 0 (slope of the wings), rho in (-1, 1)
(skew), m (position), sigma >= 0 (width of the bottom). Arrays broadcast; NaN in, NaN out.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


def svi_total_variance(
    log_moneyness: Float[ArrayLike, "*#shape"],
    a: Float[ArrayLike, "*#shape"],
    b: Float[ArrayLike, "*#shape"],
    rho: Float[ArrayLike, "*#shape"],
    m: Float[ArrayLike, "*#shape"],
    sigma: Float[ArrayLike, "*#shape"],
) -> Float[Array, "*shape"]:
    """Total variance of raw SVI: a + b (rho (k - m) + sqrt((k - m)^2 + sigma^2)).

    Units: total variance, dimensionless. It may come out negative: a + b sigma sqrt(1 - rho^2) >= 0 rules that out.

    Gradient: exact; zero by k, m and sigma through the root where it is zero (sigma = 0 at k = m). Cost: one root.
    Source: Gatheral and Jacquier (2014), Arbitrage-free SVI volatility surfaces, equation 3.1.
    """
    distance = jnp.asarray(log_moneyness) - jnp.asarray(m)
    return jnp.asarray(a) + b * (rho * distance + _length(distance, jnp.asarray(sigma)))


def svi_density_factor(
    log_moneyness: Float[ArrayLike, "*#shape"],
    a: Float[ArrayLike, "*#shape"],
    b: Float[ArrayLike, "*#shape"],
    rho: Float[ArrayLike, "*#shape"],
    m: Float[ArrayLike, "*#shape"],
    sigma: Float[ArrayLike, "*#shape"],
) -> Float[Array, "*shape"]:
    """Durrleman's g(k): the density of the log forward at expiry over n(d2) / sqrt(w), in closed form.

    g = (1 - k w' / 2w)^2 - w'^2 / 4 (1/w + 1/4) + w'' / 2. A slice with positive total variance admits no butterfly
    arbitrage exactly where g >= 0 for every k and call prices vanish for great strikes (b (1 + |rho|) < 2 suffices).

    Units: dimensionless; 1 for a flat smile. NaN where total variance is not positive, infinite at the corner
    sigma = 0, k = m, where all the curvature sits in one strike. Gradient: exact elsewhere. Cost: one root.
    Source: Gatheral and Jacquier (2014), equation 2.1; Durrleman (2005).
    """
    distance, width = jnp.asarray(log_moneyness) - jnp.asarray(m), jnp.asarray(sigma)
    length = _length(distance, width)
    corner = length == 0
    inner = jnp.where(corner, 1, length)
    variance = jnp.asarray(a) + b * (rho * distance + length)
    slope = b * (rho + distance / inner)
    curvature = jnp.where(corner, jnp.inf, b * (width / inner) ** 2 / inner)
    positive = variance > 0
    safe = jnp.where(positive, variance, 1)
    factor = (1 - log_moneyness * slope / (2 * safe)) ** 2 - slope**2 / 4 * (1 / safe + 0.25) + curvature / 2
    return jnp.where(positive, factor, jnp.nan)


def _length(distance: Array, width: Array) -> Array:
    squared = distance**2 + width**2
    return jnp.where(squared != 0, jnp.sqrt(jnp.where(squared != 0, squared, 1)), 0)
