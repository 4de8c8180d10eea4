"""European options on forwards: Black-76 and Bachelier values, and their Greeks.

Conventions: values are undiscounted, in the strike's currency; `deviation` is volatility x sqrt(years), the standard
deviation of the log forward at expiry (Black-76) or of the forward itself (Bachelier). Arrays broadcast. A value is
intrinsic plus time value, and calls and puts share the time value, so parity holds to one rounding. Where nothing is
left to happen (no deviation, strike or forward at zero or below under Black-76) the value is intrinsic, delta is a
step with 1/2 at the money, and second derivatives are zero. NaN in, NaN out, element by element.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

# The normal density underflows in float64 beyond 38.6 deviations; moneyness is cut here, and slopes stay finite.
FARTHEST = 40.0
# Half a deviation of 200 is beyond the density's reach too: a call is worth the forward long before.
GREATEST_DEVIATION = 200.0


class Greeks(NamedTuple):
    """Discounted value of an option and its derivatives, per unit of what they are taken by (vega per 1.00)."""

    value: Array
    delta: Array
    gamma: Array
    vega: Array
    theta: Array
    vanna: Array


def black76(
    forward: Float[ArrayLike, "*#shape"],
    strike: Float[ArrayLike, "*#shape"],
    deviation: Float[ArrayLike, "*#shape"],
    *,
    call: Bool[ArrayLike, "*#shape"],
) -> Float[Array, "*shape"]:
    """Undiscounted value of a European option on a lognormal forward.

    Units: the strike's currency; `deviation` is volatility x sqrt(years), dimensionless. A strike of zero makes a call
    the forward and a put worthless; a forward of zero makes a put the strike.

    Gradient: closed form, exact twice (delta w N(w d1), strike -w N(w d2), vega F n(d1)); at zero deviation at the
    money delta is 1/2 and vega F n(0), the limits. Error: a few roundings of the smaller of forward and strike.
    Cost: two normal probabilities, one logarithm. Source: Black (1976); time value by put-call symmetry.
    """
    return _black76(*_alike(forward, strike, deviation), jnp.asarray(call))


def bachelier(
    forward: Float[ArrayLike, "*#shape"],
    strike: Float[ArrayLike, "*#shape"],
    deviation: Float[ArrayLike, "*#shape"],
    *,
    call: Bool[ArrayLike, "*#shape"],
) -> Float[Array, "*shape"]:
    """Undiscounted value of a European option on a normal forward; forward and strike may have any sign.

    Units: all in the strike's currency; `deviation` is absolute volatility x sqrt(years).

    Gradient: closed form, exact twice (delta w N(w d), vega n(d)); 1/2 and n(0) at zero deviation at the money.
    Cost: one normal probability, one exponential. Source: Bachelier (1900); Choi, Kwak, Tee and Wang (2022).
    """
    return _bachelier(*_alike(forward, strike, deviation), jnp.asarray(call))


def option_greeks(
    forward: Float[ArrayLike, "*#shape"],
    strike: Float[ArrayLike, "*#shape"],
    volatility: Float[ArrayLike, "*#shape"],
    years: Float[ArrayLike, "*#shape"],
    discount: Float[ArrayLike, "*#shape"],
    *,
    call: Bool[ArrayLike, "*#shape"],
    normal: Bool[ArrayLike, "*#shape"],
) -> Greeks:
    """Discounted value and Greeks, by differentiating the value itself.

    Units: value in the strike's currency; delta and gamma per unit of the forward, vega per 1.00 of volatility (per
    unit of price a sqrt(year) where `normal`, which selects Bachelier), vanna per both, theta per year of calendar time
    at fixed forward and discount: -d value / d years. At expiry theta, vega, gamma and vanna are zero.

    Gradient: exact once more for delta and vega. Cost: about six values. Source: `black76` and `bachelier`.
    """
    arrays = jnp.broadcast_arrays(*_alike(forward, strike, volatility, years, discount))
    forward, strike, volatility, years, discount = arrays
    one, is_call, is_normal = jnp.ones_like(forward), jnp.asarray(call), jnp.asarray(normal)

    def value(forward: Array, volatility: Array, years: Array) -> Array:
        left = years > 0
        deviation = volatility * jnp.where(left, jnp.sqrt(jnp.where(left, years, 1)), jnp.where(years <= 0, 0, years))
        lognormal = _black76(forward, strike, deviation, is_call)
        return discount * jnp.where(is_normal, _bachelier(forward, strike, deviation, is_call), lognormal)

    def slope(by: int) -> Callable[..., Array]:
        def sloped(*point: Array) -> Array:
            along = tuple(one if place == by else jnp.zeros_like(one) for place in range(3))
            return jax.jvp(value, point, along)[1]

        return sloped

    point = (forward, volatility, years)
    delta, gamma = jax.jvp(lambda at: slope(0)(at, volatility, years), (forward,), (one,))
    vega, vanna = jax.jvp(lambda at: slope(1)(at, volatility, years), (forward,), (one,))
    return Greeks(value(*point), delta, gamma, vega, -slope(2)(*point), vanna)


def _alike(*arrays: ArrayLike) -> tuple[Array, ...]:
    """Arrays of one floating type."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return tuple(jnp.asarray(each, dtype) for each in arrays)


def _density(z: Array) -> Array:
    return jnp.exp(-0.5 * z * z) * 0.3989422804014327


@jax.custom_jvp
def _probability(z: Array) -> Array:
    """Normal distribution function; its slope is the density, with no branch for autodiff to trip over."""
    return jax.scipy.special.ndtr(z)


@_probability.defjvp
def _probability_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _probability(primals[0]), _density(primals[0]) * tangents[0]


@jax.custom_jvp
def _log_ratio(above: Array, below: Array) -> Array:
    """log(above / below), exact to the last digits also where the two are close."""
    near = jnp.abs(above - below) < 0.5 * below
    return jnp.where(near, jnp.log1p((above - below) / below), jnp.log(above / below))


@_log_ratio.defjvp
def _log_ratio_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Autodiff of the quotient would square `below`, which overflows long before its reciprocal does.
    return _log_ratio(*primals), tangents[0] / primals[0] - tangents[1] / primals[1]


def _standardised(distance: Array, side: Array, deviation: Array, settled: Array) -> tuple[Array, Array]:
    """Distance in deviations, and whether nothing is left to happen.

    The distance is constant where the density is zero anyhow, or where nothing is left. A deviation below the root of
    the smallest float counts as zero: autodiff needs the reciprocal of its square.
    """
    settled = settled | (deviation <= jnp.finfo(deviation.dtype).tiny ** 0.5)
    divisor = jnp.where(settled, 1, deviation)
    far = settled | (jnp.abs(distance) >= FARTHEST * divisor)
    return jnp.where(far, side * FARTHEST, jnp.where(far, 0, distance) / divisor), settled


def _lognormal(forward: Array, strike: Array, deviation: Array) -> tuple[Array, Array, Array]:
    """Moneyness in deviations and half a deviation (d1 and d2 are sum and difference); whether nothing is left."""
    settled = (forward <= 0) | (strike <= 0)
    distance = _log_ratio(jnp.where(settled, 1, forward), jnp.where(settled, 1, strike))
    bounded = jnp.minimum(deviation, GREATEST_DEVIATION)
    standard, settled = _standardised(distance, jnp.sign(forward - strike), bounded, settled)
    return standard, jnp.where(settled, 0, bounded / 2), settled


def _black76_time_value(forward: Array, strike: Array, deviation: Array) -> Array:
    standard, half, _ = _lognormal(forward, strike, deviation)
    away = -jnp.abs(standard)
    low, high = jnp.minimum(forward, strike), jnp.maximum(forward, strike)
    return jnp.maximum(low * _probability(away + half) - high * _probability(away - half), 0)


def _intrinsic(forward: Array, strike: Array, call: Array) -> Array:
    return jnp.maximum(jnp.where(call, forward - strike, strike - forward), 0)


@jax.custom_jvp
def _black76(forward: Array, strike: Array, deviation: Array, call: Array) -> Array:
    return _intrinsic(forward, strike, call) + _black76_time_value(forward, strike, deviation)


@_black76.defjvp
def _black76_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    # The time value has min and max in it, whose second derivatives at the money autodiff gets wrong; these have none.
    forward, strike, deviation, call = primals
    standard, half, settled = _lognormal(forward, strike, deviation)
    sign = jnp.where(call, 1, -1).astype(forward.dtype)
    by_forward = sign * _probability(sign * (standard + half))
    by_strike = -sign * _probability(sign * (standard - half))
    # At zero deviation at the money vega is a limit, and no function of the forward.
    scale = jnp.where(settled, lax.stop_gradient(jnp.maximum(forward, 0)), forward)
    by_deviation = scale * _density(standard + half)
    slope = by_forward * tangents[0] + by_strike * tangents[1] + by_deviation * tangents[2]
    return _black76(*primals), slope


def _bachelier_time_value(forward: Array, strike: Array, deviation: Array) -> Array:
    distance = jnp.abs(forward - strike)
    standard, settled = _standardised(distance, jnp.sign(distance), deviation, jnp.zeros_like(distance, bool))
    width = jnp.where(settled, 0, deviation)
    return jnp.maximum(width * _density(standard) - distance * _probability(-standard), 0)


@jax.custom_jvp
def _bachelier(forward: Array, strike: Array, deviation: Array, call: Array) -> Array:
    return _intrinsic(forward, strike, call) + _bachelier_time_value(forward, strike, deviation)


@_bachelier.defjvp
def _bachelier_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    forward, strike, deviation, call = primals
    distance = forward - strike
    standard, _ = _standardised(distance, jnp.sign(distance), deviation, jnp.zeros_like(distance, bool))
    sign = jnp.where(call, 1, -1).astype(forward.dtype)
    by_forward = sign * _probability(sign * standard)
    slope = by_forward * (tangents[0] - tangents[1]) + _density(standard) * tangents[2]
    return _bachelier(*primals), slope
