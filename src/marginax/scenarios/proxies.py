"""What a factor does on a bar it has no price for: it follows its proxy, with a residual of its own.

With history of its own elsewhere: beta x proxy + a residual drawn from its own. Without: the same from stated sizes,
the residual times a safety factor. (On beta it would let a hedge with the proxy owe less for what is not known.) A
factor without a proxy draws from its own past. Two proxied coins never move as one.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from marginax.history import NO_PROXY

# What has no history moves by itself even where nothing ties it to its proxy: by the beta that the configuration's
# defaults give to a coin pegged to money, the calmest thing a venue lists.
LEAST_SLOPE = 0.05


def levels(proxy: Int[np.ndarray, " factors"]) -> list[np.ndarray]:
    """Factors in the order in which they can be filled: those without a proxy, those that follow them, and so on."""
    depth = np.zeros(len(proxy), int)
    for _ in range(len(proxy)):
        deeper = np.where(proxy == NO_PROXY, 0, depth[proxy] + 1)
        if (deeper == depth).all():
            break
        depth = deeper
    return [np.flatnonzero(depth == level) for level in range(depth.max(initial=0) + 1)]


def resampling_orders(names: Sequence[str], bars: int, *, seed: int) -> Int[np.ndarray, "bars factors"]:
    """For every factor an order of the bars, from which `resampled_rows` takes what it borrows.

    Each factor has a stream of its own, named by the seed and its name, so that listing one changes no other.
    """
    orders = [stream(seed, name).permutation(bars).astype(np.int32) for name in names]
    return np.stack(orders, axis=1) if orders else np.empty((bars, 0), np.int32)


def resampled_rows(
    known: Bool[Array, "bars factors"], orders: Int[ArrayLike, "bars factors"]
) -> Int[Array, "bars factors"]:
    """For every cell a bar at which its factor is known, each used equally often; any bar for a factor without."""
    bars, factors = known.shape
    count = jnp.sum(known, axis=0)
    rank = jnp.where(known, jnp.cumsum(known, axis=0) - 1, bars)
    place = jnp.broadcast_to(jnp.arange(bars, dtype=jnp.int32)[:, None], known.shape)
    nth = jnp.zeros((bars, factors), jnp.int32).at[rank, jnp.arange(factors)].set(place, mode="drop")
    orders = jnp.asarray(orders)
    return jnp.where(count > 0, jnp.take_along_axis(nth, orders % jnp.maximum(count, 1), axis=0), orders)


def stream(seed: int, name: str) -> np.random.Generator:
    """A random stream that depends on the seed and a name only."""
    return np.random.default_rng(np.random.SeedSequence([seed, *name.encode()]))


def fill(
    shocks: Float[Array, "bars factors"],
    *,
    order: Sequence[np.ndarray],
    proxy: Int[np.ndarray, " factors"],
    own: Bool[Array, " factors"],
    beta: Float[Array, " factors"],
    level: Float[Array, " factors"],
    rows: Int[ArrayLike, "bars factors"],
    default_beta: Float[ArrayLike, ""],
    residual: Float[ArrayLike, ""],
    safety_factor: Float[ArrayLike, ""],
) -> Float[Array, "bars factors"]:
    """Shocks without gaps. `order` and `proxy` are known before tracing; `level` makes a shock a relative move.

    A given `beta` holds; NaN is estimated on the bars both know (least squares through zero), or `default_beta` for a
    factor without history. Gradient: exact in the shocks and in every parameter.
    """
    known, rows = ~jnp.isnan(shocks), jnp.asarray(rows)
    moves = jnp.where(known, shocks, 0) / level
    for depth, columns in enumerate(order):
        mine, here, pick = moves[:, columns], known[:, columns], rows[:, columns]
        if depth == 0:
            filled = jnp.where(here, mine, jnp.take_along_axis(mine, pick, axis=0))
        else:
            theirs = moves[:, proxy[columns]]
            both = jnp.sum(jnp.where(here, theirs**2, 0), axis=0)
            fitted = jnp.sum(jnp.where(here, mine * theirs, 0), axis=0) / jnp.where(both > 0, both, 1)
            given = beta[columns]
            usual = jnp.where(own[columns], fitted, default_beta)
            slope = jnp.where(jnp.isnan(given), usual, given)
            rest = jnp.take_along_axis(mine - slope * theirs, pick, axis=0)
            borrowed = residual * jnp.maximum(jnp.abs(slope), LEAST_SLOPE) * jnp.take_along_axis(theirs, pick, axis=0)
            stand_in = slope * theirs + safety_factor * borrowed
            filled = jnp.where(own[columns], jnp.where(here, mine, slope * theirs + rest), stand_in)
        moves = moves.at[:, columns].set(filled)
    return moves * level
