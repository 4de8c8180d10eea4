"""Options times scenarios: the revaluation that fills the cube, as few operations a cell as the answer allows.

Conventions: those of `black`; scenarios are the last axis. What depends on expiry and scenario alone (the price
multiple, one over the volatility multiple) is worked out once there; a cell then costs one exponential and one
division. With g = m n(a), m the smaller of forward and strike, and Mills' ratio R(z) = N(-z) / n(z), the time value is
g (R(-a) - R(-b)) where a = half - |h| and b = -half - |h|, because the larger times n(b) is g too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from marginax_kernels.black import bachelier, black76

# Mills' ratio R(z) on z >= 0 as P(z) / Q(z), lowest power first, fitted so that the greatest error of R(z) n(z) on
# [0, 9] is least: 4.7e-10 and 4.5e-17. All coefficients are positive, so nothing cancels.
SINGLE = (
    (1.253314135814387, 0.7551831625242832, 0.22073563939341106, 0.02568675296093072),
    (1.0, 1.4004334358933814, 0.7935074461764451, 0.21935744504912763, 0.025759239360849784),
)
DOUBLE = (
    (
        1.2533141373155003,
        1.2663081691051958,
        0.6444142809806653,
        0.19593818937327132,
        0.037023827333747025,
        0.0040937979177283245,
        0.00020768838221060573,
    ),
    (
        1.0,
        1.8082522981504707,
        1.4569447962849988,
        0.6806451862756773,
        0.20007015773233053,
        0.03722869512107453,
        0.004093933961559677,
        0.00020768516515112998,
    ),
)
# Beyond 40 deviations the density is zero in both precisions, and the eighth power of 40 + 100 still is a float32.
FARTHEST = 40.0
GREATEST_HALF = 100.0
DENSITY_AT_ZERO = 0.3989422804014327


def reprice_black76(
    log_move: Float[Array, "expiries scenarios"],
    multiple: Float[Array, "expiries scenarios"],
    expiry: Int[Array, " options"],
    forward: Float[Array, " options"],
    strike: Float[Array, " options"],
    deviation: Float[Array, " options"],
    *,
    call: Bool[Array, " options"],
) -> Float[Array, "options scenarios"]:
    """Undiscounted Black-76 values of every option in every scenario.

    Units: `log_move` is log(forward in the scenario / forward now), `multiple` what the scenario multiplies deviations
    by, `expiry` each option's row of the two; `forward`, `strike` and values in the strike's currency. The same answers
    as `black76(forward * exp(log_move), strike, deviation * multiple)`, to 1e-14 (float64) or a few roundings (float32)
    of forward and strike; deep out of the money only that absolute error is kept. Intrinsic where a deviation is zero.

    Gradient: that of `black76`, exact twice. Cost: one exponential, one division and 30 multiply-adds a cell.
    Source: Black (1976); Mills' ratio by rational approximation, see `SINGLE` and `DOUBLE`.
    """
    return _reprice(log_move, multiple, expiry, forward, strike, deviation, call)


def reprice_bachelier(
    move: Float[Array, "expiries scenarios"],
    multiple: Float[Array, "expiries scenarios"],
    expiry: Int[Array, " options"],
    forward: Float[Array, " options"],
    strike: Float[Array, " options"],
    deviation: Float[Array, " options"],
    *,
    call: Bool[Array, " options"],
) -> Float[Array, "options scenarios"]:
    """Undiscounted Bachelier values of every option in every scenario.

    Units: `move` is what the scenario adds to the forward; all but `multiple` in the strike's currency.

    Gradient: that of `bachelier`, exact twice. Cost: one `bachelier` a cell. Source: Bachelier (1900).
    """
    shifted = forward[:, None] + move[expiry]
    return bachelier(shifted, strike[:, None], deviation[:, None] * multiple[expiry], call=call[:, None])


@jax.custom_jvp
def _reprice(
    log_move: Array, multiple: Array, expiry: Array, forward: Array, strike: Array, deviation: Array, call: Array
) -> Array:
    dtype = jnp.result_type(log_move, multiple, forward, strike, deviation)
    # A time value is at most 0.4 deviations: below this floor it is no part of any value.
    floor = jnp.asarray(jnp.finfo(dtype).eps / 1024, dtype)
    price_multiple, narrowing = jnp.exp(log_move), 1 / jnp.maximum(multiple, floor)
    settled = (forward <= 0) | (strike <= 0)
    log_moneyness = jnp.where(settled, jnp.inf, jnp.log(jnp.where(settled, 1, forward) / jnp.where(settled, 1, strike)))
    inverse, half = 1 / jnp.maximum(deviation, floor), jnp.where(settled, 0, deviation / 2)
    sign = jnp.where(call, 1, -1).astype(dtype)

    distance = log_move[expiry] + log_moneyness[:, None]
    h = jnp.minimum(jnp.abs(distance * (inverse[:, None] * narrowing[expiry])), FARTHEST)
    t = jnp.minimum(half[:, None] * multiple[expiry], GREATEST_HALF)
    return _cell(forward[:, None] * price_multiple[expiry], strike[:, None], h, t, sign[:, None])


def _cell(moved: Array, strike: Array, h: Array, t: Array, sign: Array) -> Array:
    """Intrinsic plus time value, from moneyness in deviations and half a deviation."""
    gap = moved - strike
    low = jnp.minimum(moved, strike)
    a = t - h
    scaled = low * (jnp.exp(-0.5 * a * a) * DENSITY_AT_ZERO)
    over, under = SINGLE if h.dtype == jnp.float32 else DOUBLE
    near, far = jnp.abs(a), t + h
    top, bottom, other_top, other_bottom = (_polynomial(each, z) for z in (near, far) for each in (over, under))
    # Where a > 0 the nearer probability is one minus what Mills' ratio gives.
    inside = a > 0
    signed = jnp.where(inside, -top, top)
    ratios = (signed * other_bottom - other_top * bottom) / (bottom * other_bottom)
    return jnp.maximum(sign * gap, 0) + (scaled * ratios + jnp.where(inside, low, 0))


def _polynomial(coefficients: tuple[float, ...], z: Array) -> Array:
    total = jnp.full_like(z, coefficients[-1])
    for each in coefficients[-2::-1]:
        total = total * z + jnp.asarray(each, z.dtype)
    return total


@_reprice.defjvp
def _reprice_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # Differentiating the fit would cost digits, and its min and abs the second derivative at the money.
    _, _, expiry, _, _, _, call = primals

    def exact(log_move: Array, multiple: Array, forward: Array, strike: Array, deviation: Array) -> Array:
        moved = forward[:, None] * jnp.exp(log_move)[expiry]
        return black76(moved, strike[:, None], deviation[:, None] * multiple[expiry], call=call[:, None])

    smooth = [place for place in range(7) if place not in (2, 6)]
    slope = jax.jvp(exact, [primals[place] for place in smooth], [tangents[place] for place in smooth])[1]
    return _reprice(*primals), slope
