"""The deviation that an option's price implies, under Black-76 or Bachelier.

Conventions: those of `black`: undiscounted values, deviation = volatility x sqrt(years). Inside, a price is its time
value over a unit that makes it dimensionless: the smaller of forward and strike, or (Bachelier) their distance.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from marginax_kernels.black import bachelier, black76

# Newton's method settles in 8 steps at every moneyness and deviation tried; twice that leaves room for bisection.
STEPS = 16
ROOT_TWO_PI = 2.5066282746310002


def implied_deviation(
    value: Float[ArrayLike, "*#shape"],
    forward: Float[ArrayLike, "*#shape"],
    strike: Float[ArrayLike, "*#shape"],
    *,
    call: Bool[ArrayLike, "*#shape"],
    normal: Bool[ArrayLike, "*#shape"] = False,
) -> Float[Array, "*shape"]:
    """The deviation at which `black76` (`bachelier` where `normal`) gives an undiscounted value.

    Units: those of `deviation` in the two. Zero at intrinsic, infinite at the bound (Black-76: the forward for a
    call, the strike for a put); NaN below the one, above the other, and where anything is NaN. The value's own
    rounding moves the answer by that rounding over vega: little at the money, much deep in the money.

    Gradient: exact twice, by the implicit function: 1 / vega by the value. Cost: `STEPS` values.
    Source: Newton's method inside a bracket, on transforms of the time value that are nearly straight (Jäckel, 2015).
    """
    dtype = jnp.promote_types(jnp.result_type(value, forward, strike), jnp.float32)
    arrays = jnp.broadcast_arrays(*(jnp.asarray(each, dtype) for each in (value, forward, strike)))
    return _implied(*arrays, jnp.asarray(call), jnp.asarray(normal))


@jax.custom_jvp
def _implied(value: Array, forward: Array, strike: Array, call: Array, normal: Array) -> Array:
    low, distance = jnp.minimum(forward, strike), jnp.abs(forward - strike)
    wanted = value - jnp.maximum(jnp.where(call, forward - strike, strike - forward), 0)
    # So near the money the normal deviation is sqrt(2 pi) (time value + distance / 2), whose last term rounds away.
    at_money = normal & (distance <= jnp.finfo(value.dtype).eps / 8 * wanted)
    natural = jnp.where(normal, jnp.where(at_money, 1, distance), low)
    unit = jnp.where(natural > 0, natural, 1)
    target = wanted / unit
    ratio = jnp.where(normal | (low <= 0), 1, 1 + distance / unit)
    solved = jnp.where(at_money, target * ROOT_TWO_PI, _solve(target, ratio, normal))
    bound = jnp.where(normal, jnp.inf, jnp.where(low > 0, 1, 0))
    solved = jnp.where(target >= bound, jnp.where(target > 0, jnp.inf, 0), jnp.where(target == 0, 0, solved))
    possible = (target >= 0) & (target <= bound)
    return jnp.where(possible, solved * jnp.where(normal, unit, 1), jnp.nan)


@_implied.defjvp
def _implied_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    value, forward, strike, call, normal = primals
    deviation = _implied(*primals)

    def price(forward: Array, strike: Array, deviation: Array) -> Array:
        lognormal = black76(forward, strike, deviation, call=call)
        return jnp.where(normal, bachelier(forward, strike, deviation, call=call), lognormal)

    point, still = (forward, strike, deviation), jnp.zeros_like(value)
    moved = jax.jvp(price, point, (tangents[1], tangents[2], still))[1]
    vega = jax.jvp(price, point, (still, still, jnp.ones_like(value)))[1]
    return deviation, jnp.where(vega > 0, (tangents[0] - moved) / jnp.where(vega > 0, vega, 1), 0)


def _solve(target: Array, ratio: Array, normal: Array) -> Array:
    """The deviation of a time value between zero and the bound, in units.

    Vega is greatest where d1 x d2 = 0 (Black-76), and there the search is cut in two. Below, -2 log(time value) is near
    (distance / deviation)^2, so Newton's method works on its inverse root; above, on the time value, or on the
    logarithm of what it lacks to the bound.
    """
    moneyness = jnp.log(ratio)
    centre = jnp.where(normal, 1, jnp.sqrt(2 * moneyness))
    # The time value is at most deviation / sqrt(2 pi); a deviation beyond the upper ends misses the bound by less
    # than a rounding (Black-76), or has a time value of more than deviation / sqrt(2 pi) - 1/2 (Bachelier).
    floor = target * ROOT_TWO_PI
    ceiling = jnp.where(normal, floor + ROOT_TWO_PI / 2, 10 + jnp.sqrt(100 + 2 * moneyness))
    low = target < _time_value(centre, ratio, normal)[0]
    bracket = jnp.where(low, floor, jnp.maximum(floor, centre)), jnp.where(low, centre, ceiling)
    near = partial(_step, target=target, ratio=ratio, normal=normal, low=low)

    def narrow(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        deviation, least, most = state
        excess, step = near(deviation)
        least, most = jnp.where(excess <= 0, deviation, least), jnp.where(excess >= 0, deviation, most)
        newton = deviation - step
        inside = (newton >= least) & (newton <= most)
        # A step away from where the excess points is rounding: the answer is reached.
        elsewhere = jnp.where(step * excess <= 0, deviation, (least + most) / 2)
        return jnp.where(inside, newton, elsewhere), least, most

    far = jnp.where(normal, 1, moneyness) / jnp.sqrt(-2 * jnp.log(jnp.where(low, target, 0.5)))
    start = jnp.clip(jnp.where(low, far, centre), *bracket)
    deviation: Array = lax.fori_loop(0, STEPS, narrow, (start, *bracket))[0]
    return deviation


def _time_value(deviation: Array, ratio: Array, normal: Array) -> tuple[Array, Array, Array]:
    """Time value over the unit, its slope, and what it lacks to the bound of one (Black-76)."""
    safe = jnp.maximum(deviation, jnp.finfo(deviation.dtype).tiny)
    d = jnp.where(normal, 1, jnp.log(ratio)) / safe
    half = jnp.where(normal, 0, deviation / 2)
    above, below = jax.scipy.special.ndtr(half - d), jax.scipy.special.ndtr(-half - d)
    slope = jnp.exp(-0.5 * (d - half) ** 2) / ROOT_TWO_PI
    value = jnp.where(normal, deviation * slope - below, above - ratio * below)
    return value, slope, jax.scipy.special.ndtr(d - half) + ratio * below


def _step(deviation: Array, *, target: Array, ratio: Array, normal: Array, low: Array) -> tuple[Array, Array]:
    """How much too high the time value is, and Newton's step on whichever transform is nearly straight there."""
    value, slope, lack = _time_value(deviation, ratio, normal)
    root, wanted = (jnp.sqrt(-2 * jnp.log(each)) for each in (value, target))
    # With q = 1 / root, dq/dvalue = q^3 / value.
    tail = (1 / root - 1 / wanted) * value * root**3
    top = (jnp.log1p(-target) - jnp.log(lack)) * lack
    plain = value - target
    moved = jnp.where(low, tail, jnp.where(normal | (target < 0.5), plain, top))
    return plain, moved / slope
