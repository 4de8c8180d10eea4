"""What it costs to close a position: the square-root law of impact, a walk through an order book, selling over days.

Conventions: sizes and volumes are positive amounts of one unit (USD of delta, or units of delta where prices move by
units); `deviation` and `distance` are what one of that unit loses, relative for USD. Every cost is then in USD.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def square_root_impact(
    size: Float[Array, "*batch"],
    *,
    deviation: Float[Array, "*batch"],
    volume: Float[Array, "*batch"],
    strength: Float[Array, ""],
) -> Float[Array, "*batch"]:
    """Cost of trading `size`: size x strength x deviation x sqrt(size / volume), both of one day.

    Homogeneous of degree 3/2 in `size`; infinite where `volume` is zero and `size` is not.
    Gradient: exact; zero at size zero. Cost: one square root a number.
    Source: Almgren, Thum, Hauptmann and Li (2005); Toth et al. (2011) for the square root over many markets, Donier and
    Bonart (2015) for Bitcoin.
    """
    return strength * deviation * _power(size) / jnp.sqrt(volume)


def days_to_sell_scale(size: Float[Array, "*batch"], capacity: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """How much a day's risk grows where at most `capacity` is sold in one: sqrt(1 + (size / capacity - 1)+ / 3).

    A position that is sold evenly over n days has the variance of a third of those days: the integral of (1 - t / n)^2.
    One where all is sold on the first day. Gradient: exact, one-sided at size = capacity.
    """
    return jnp.sqrt(1 + jnp.maximum(size / capacity - 1, 0) / 3)


class OrderBooks(NamedTuple):
    """Books side by side: of each level its distance from the touch, and the depth and the cost up to and with it."""

    depth: Float[Array, "books levels"]
    distance: Float[Array, "books levels"]
    cost: Float[Array, "books levels"]


def order_books(depth: Float[Array, "books levels"], distance: Float[Array, "books levels"]) -> OrderBooks:
    """Books from their cumulated depth and the distance of each level from the touch.

    Neither falls along a row, and padding repeats the last level. Gradient: exact.
    """
    own = jnp.diff(depth, axis=1, prepend=0)
    return OrderBooks(jnp.asarray(depth), jnp.asarray(distance), jnp.cumsum(distance * own, axis=1))


def walk_books(size: Float[Array, "*batch"], book: Int[Array, "*batch"], books: OrderBooks) -> Float[Array, "*batch"]:
    """Cost of trading `size` against the levels of the row `book` of `books`, counted from the touch.

    Beyond the last level a price is as far as the square root says, distance x sqrt(size / depth), so that nothing
    there is cheaper than the last level. A book without depth costs nothing. Convex in `size`, exact on the book.

    Gradient: the distance of the level that is reached. Cost: log2(levels) gathers a number.
    """
    depth, distance, cost = (jnp.ravel(each) for each in books)
    levels = books.depth.shape[1]
    row = book * levels
    place, step = jnp.zeros_like(row), 1 << (levels.bit_length() - 1)
    while step:
        ahead = place + step
        fits = (ahead < levels) & (depth[row + jnp.minimum(ahead, levels) - 1] < size)
        place, step = jnp.where(fits, ahead, place), step // 2
    at, before, last = row + place, row + jnp.maximum(place - 1, 0), row + levels - 1
    inner = place > 0
    whole = depth[last]
    over = jnp.minimum(size, whole) - jnp.where(inner, depth[before], 0)
    within = jnp.where(inner, cost[before], 0) + distance[at] * over
    return within + _beyond(size, depth=whole, distance=distance[last])


def even_book(
    size: Float[Array, "*batch"], *, depth: Float[Array, "*batch"], distance: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Cost of trading `size` where `depth` lies evenly between the touch and `distance`, and as above beyond it.

    Convex in `size`, falls with `depth`. Gradient: exact.
    """
    inside = jnp.minimum(size, depth)
    return distance * inside**2 / (2 * depth) + _beyond(size, depth=depth, distance=distance)


class Liquidation(NamedTuple):
    """A schedule: what is left at the end of each period, its expected cost, the variance of the cost, its half-life.

    The half-life is the time in which an unhurried schedule falls to 1 / e, in the unit of the horizon.
    """

    left: Float[Array, " periods_and_one"]
    cost: Float[Array, ""]
    variance: Float[Array, ""]
    half_life: Float[Array, ""]


def optimal_liquidation(
    shares: Float[Array, ""],
    *,
    horizon: Float[Array, ""],
    deviation: Float[Array, ""],
    risk_aversion: Float[Array, ""],
    fixed: Float[Array, ""],
    permanent: Float[Array, ""],
    temporary: Float[Array, ""],
    periods: int,
) -> Liquidation:
    """The schedule of least cost + risk_aversion x variance under linear impact, in equal periods.

    `deviation` is absolute, per root of time; a trade of n shares in a period tau pays `fixed` a share and `temporary`
    x n / tau, and moves the price by `permanent` x n for all that is left. `risk_aversion` is above zero. Units: the
    currency of the prices. It is what a margin's charge is compared with: the least that a patient seller pays.

    Gradient: exact. Source: Almgren and Chriss (2000), formulas 17 to 21.
    """
    tau = horizon / periods
    stiffness = temporary - permanent * tau / 2
    squared = risk_aversion * deviation**2 / stiffness
    rate = 2 / tau * jnp.arcsinh(jnp.sqrt(squared) * tau / 2)
    times = tau * jnp.arange(periods + 1)
    left = shares * jnp.sinh(rate * (horizon - times)) / jnp.sinh(rate * horizon)
    sold = left[:-1] - left[1:]
    cost = permanent * shares**2 / 2 + fixed * jnp.sum(jnp.abs(sold)) + stiffness / tau * jnp.sum(sold**2)
    return Liquidation(left, cost, deviation**2 * tau * jnp.sum(left[1:] ** 2), 1 / rate)


def _beyond(
    size: Float[Array, "*batch"], *, depth: Float[Array, "*batch"], distance: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The integral of distance x sqrt(n / depth) over n from `depth` to `size`; zero below, and where there is none."""
    some = (size > depth) & (depth > 0)
    whole = jnp.where(some, depth, 1)
    further = _power(jnp.where(some, size, 1)) / jnp.sqrt(whole) - whole
    return jnp.where(some, 2 / 3 * distance * further, 0)


def _power(size: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """size^(3/2), with a slope at zero."""
    some = size > 0
    return jnp.where(some, size * jnp.sqrt(jnp.where(some, size, 1)), 0)
