"""Heterogeneous autoregression (HAR): tomorrow's variance from the realised variance of a day, a week and a month.

Conventions: variance is per bar; a day has `day` bars, a week 5 and a month 22 days of trading. The last squares of a
month are kept, the newest last, so that a new bar costs the same however long the history is.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

WEEK, MONTH = 5, 22


def har_ring(variance: Float[Array, " factors"], *, day: int) -> Float[Array, "bars factors"]:
    """A month of squares, all at a variance that is known before the first bar."""
    return jnp.broadcast_to(variance, (MONTH * day, *variance.shape))


def har_push(
    squares: Float[Array, "bars factors"], square: Float[Array, " factors"], known: Bool[Array, " factors"]
) -> Float[Array, "bars factors"]:
    """A month of squares one bar on: the oldest leaves, except of a factor whose return is missing.

    Units: squared returns per bar. Gradient: exact. Cost: one copy of the month.
    """
    moved = jnp.concatenate([squares[1:], square[None]])
    return jnp.where(known, moved, squares)


def har_variance(
    squares: Float[Array, "bars factors"],
    long_run: Float[Array, " factors"],
    *,
    daily: Float[ArrayLike, "*factors"],
    weekly: Float[ArrayLike, "*factors"],
    monthly: Float[ArrayLike, "*factors"],
    days: int,
) -> Float[Array, " factors"]:
    """The mean variance that is forecast over the next `days` days.

    v = (1 - d - w - m) long run + d RV(day) + w RV(week) + m RV(month), with RV the mean square; of the days after the
    first each takes the forecasts before it for what is not known yet. Weights are not negative and sum to at most one.

    Units: variance per bar. Gradient: exact. Source: Corsi (2009).
    """
    recent = jnp.mean(squares.reshape(MONTH, -1, *squares.shape[1:]), axis=1)
    rest = (1 - daily - weekly - monthly) * long_run
    total = jnp.zeros_like(long_run)
    for _ in range(days):
        month, week = jnp.mean(recent, axis=0), jnp.mean(recent[-WEEK:], axis=0)
        ahead = rest + daily * recent[-1] + weekly * week + monthly * month
        recent = jnp.concatenate([recent[1:], ahead[None]])
        total = total + ahead
    return total / days
