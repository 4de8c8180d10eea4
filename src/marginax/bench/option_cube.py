"""A cube of option P&L: many strikes and expiries of few underlyings, repriced by Black-76 in every scenario.

Rows are the futures of the underlyings first, then their options, by underlying, expiry, strike, and call before put.
Units: every forward is 100; moves are of one day.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from marginax_kernels import reprice_black76

FUTURES, EXPIRIES, STRIKES = 4, 8, 32
INSTRUMENTS = FUTURES * (1 + EXPIRIES * STRIKES * 2)
# Positions in futures of an account that holds options for the rest.
BOOK_FUTURES = 2
FORWARD = 100.0
DAY = 1 / 365
VOLATILITY = np.linspace(0.2, 0.8, FUTURES)  # of a year, by underlying
YEARS = np.geomspace(7, 365, EXPIRIES) * DAY
DEVIATIONS = np.linspace(-2.5, 2.5, STRIKES)  # of strikes, in deviations of the forward at expiry
MOVE_OF_VOLATILITY = 0.05  # standard deviation of its logarithm in a day, at 30 days; falls with the root of time
# Ten deviations, so that no draw of a Student t leaves the world.
FARTHEST = 10.0


def option_cube(
    prices: Float32[np.ndarray, "futures scenarios"], volatilities: Float32[np.ndarray, "futures scenarios"]
) -> Float32[np.ndarray, "instruments scenarios"]:
    """P&L of one unit of each future and option, from standardised moves of prices and volatilities."""
    moves = (np.clip(prices, -FARTHEST, FARTHEST) * (VOLATILITY[:, None] * DAY**0.5)).astype(np.float32)
    term = (30 * DAY / YEARS) ** 0.5
    shocks = np.clip(volatilities, -FARTHEST, FARTHEST)[:, None, :] * (MOVE_OF_VOLATILITY * term)[:, None]
    fading = ((YEARS - DAY) / YEARS) ** 0.5
    multiple = (np.exp(shocks) * fading[:, None]).reshape(-1, prices.shape[1]).astype(np.float32)
    deviation = VOLATILITY[:, None] * YEARS**0.5
    strike = FORWARD * np.exp(deviation[:, :, None] * DEVIATIONS)
    each = FUTURES * EXPIRIES * STRIKES
    terms = (
        np.repeat(np.arange(FUTURES * EXPIRIES), STRIKES * 2),
        np.full(2 * each, FORWARD, np.float32),
        np.repeat(strike.ravel(), 2).astype(np.float32),
        np.repeat(deviation.ravel(), STRIKES * 2).astype(np.float32),
    )
    call = jnp.asarray(np.tile([True, False], each))
    value = jax.jit(partial(reprice_black76, call=call))
    still = np.zeros((FUTURES * EXPIRIES, 1), np.float32)
    now = np.asarray(value(still, still + 1, *terms))
    options = np.asarray(value(np.repeat(moves, EXPIRIES, axis=0), multiple, *terms)) - now
    return np.concatenate([np.float32(FORWARD) * np.expm1(moves), options])
