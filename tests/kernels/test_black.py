"""Options on forwards: against the textbook, by the laws that hold in every model, and back from price to deviation.

Tolerances: a value is made of products of forward and strike with probabilities; what moneyness in deviations is
rounded by enters through the density, at most 0.7 of it up to three deviations of 1.5. Eight roundings of the greater
of forward and strike cover it; a rounding is `eps` of the precision.
"""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads

from marginax_kernels import (
    bachelier,
    black76,
    implied_deviation,
    option_greeks,
    reprice_bachelier,
    reprice_black76,
)
from reference import black as twin

OPTIONS, EXPIRIES, SCENARIOS = 12, 3, 40
value = jax.jit(black76)
normal_value = jax.jit(bachelier)
greeks = jax.jit(option_greeks)
implied = jax.jit(implied_deviation)
reprice = jax.jit(reprice_black76)
normal_reprice = jax.jit(reprice_bachelier)


def numbers(least: float, most: float) -> st.SearchStrategy[np.ndarray]:
    """A row of float32 numbers, so that both precisions see the same ones."""
    return arrays(
        np.float64, OPTIONS, elements=st.floats(np.float32(least), np.float32(most), width=32, allow_subnormal=False)
    )


def forwards() -> st.SearchStrategy[np.ndarray]:
    return numbers(-4, 11).map(lambda row: np.exp(row).astype(np.float32).astype(float))


moneyness = numbers(-3, 3)
deviations = st.one_of(numbers(0, 3), numbers(0, 0.01), st.just(np.zeros(OPTIONS)))
sides = arrays(bool, OPTIONS)


def strikes(forward: np.ndarray, moneyness: np.ndarray) -> np.ndarray:
    return (forward * np.exp(moneyness)).astype(np.float32).astype(float)


def allowed(precision: np.dtype, *sizes: np.ndarray) -> np.ndarray:
    return 8 * np.finfo(precision).eps * np.maximum.reduce([np.abs(each) for each in sizes])


def cast(precision: np.dtype, *rows: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(row, precision) for row in rows]


def each(model, *rows: np.ndarray) -> np.ndarray:
    return np.array([model(*(x.item() for x in row)) for row in zip(*rows, strict=True)])


@given(forward=forwards(), distance=moneyness, deviation=deviations, call=sides)
def test_a_value_is_that_of_the_textbook(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    strike = strikes(forward, distance)
    got = np.asarray(value(*cast(precision, forward, strike, deviation), call=call), float)
    assert (
        np.abs(got - each(twin.black76, forward, strike, deviation, call)) <= allowed(precision, forward, strike)
    ).all()


@given(forward=numbers(-50, 50), strike=numbers(-50, 50), deviation=numbers(0, 60), call=sides)
def test_a_normal_value_is_that_of_the_textbook_at_prices_of_any_sign(
    precision: np.dtype, forward: np.ndarray, strike: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    got = np.asarray(normal_value(*cast(precision, forward, strike, deviation), call=call), float)
    error = np.abs(got - each(twin.bachelier, forward, strike, deviation, call))
    assert (error <= allowed(precision, forward, strike, deviation)).all()


@given(forward=forwards(), distance=moneyness, deviation=deviations)
def test_a_call_less_a_put_is_the_forward_less_the_strike(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray
) -> None:
    forward, strike, deviation = cast(precision, forward, strikes(forward, distance), deviation)
    for model in (value, normal_value):
        call, put = (np.asarray(model(forward, strike, deviation, call=side)) for side in (True, False))
        # They share the time value: only the sum with the intrinsic value is rounded, once on each side.
        assert (np.abs((call - put) - (forward - strike)) <= 2 * np.finfo(precision).eps * np.maximum(call, put)).all()


@given(forward=forwards(), distance=moneyness, deviation=deviations, call=sides)
def test_a_value_lies_between_intrinsic_and_what_is_bought_or_sold(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    forward, strike, deviation = cast(precision, forward, strikes(forward, distance), deviation)
    got = np.asarray(value(forward, strike, deviation, call=call))
    assert (got >= np.maximum(np.where(call, forward - strike, strike - forward), 0)).all()
    assert (got <= np.where(call, forward, strike) + allowed(precision, forward, strike)).all()


@given(forward=forwards(), distance=moneyness, deviation=deviations, more=numbers(0, 1), call=sides)
def test_more_deviation_never_makes_an_option_cheaper(
    precision: np.dtype,
    forward: np.ndarray,
    distance: np.ndarray,
    deviation: np.ndarray,
    more: np.ndarray,
    call: np.ndarray,
) -> None:
    forward, strike, deviation, more = cast(precision, forward, strikes(forward, distance), deviation, more)
    for model in (value, normal_value):
        before, after = (np.asarray(model(forward, strike, each, call=call)) for each in (deviation, deviation + more))
        assert (after >= before - allowed(precision, forward, strike)).all()


@given(forward=forwards(), distance=moneyness, width=numbers(0, 0.5), deviation=deviations)
def test_calls_fall_with_the_strike_no_faster_than_it_rises_and_are_convex_in_it(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, width: np.ndarray, deviation: np.ndarray
) -> None:
    middle = strikes(forward, distance)
    gap = width * middle / 2
    forward, deviation, *ladder = cast(precision, forward, deviation, middle - gap, middle, middle + gap)
    low, mid, high = (np.asarray(value(forward, strike, deviation, call=True), float) for strike in ladder)
    slack = 2 * allowed(precision, forward, ladder[2])
    assert (low >= high - slack).all()
    assert (low - high <= 2 * gap + slack).all()
    assert (low - 2 * mid + high >= -2 * slack).all()


@given(forward=forwards(), distance=moneyness, deviation=deviations, call=sides)
def test_counting_in_another_unit_of_money_changes_nothing_else(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    forward, strike, deviation = cast(precision, forward, strikes(forward, distance), deviation)
    once = np.asarray(value(forward, strike, deviation, call=call))
    # A power of two moves no digit, unless a term is below the least normal number and its eightfold is not.
    least = 16 * np.finfo(precision).tiny
    np.testing.assert_allclose(value(8 * forward, 8 * strike, deviation, call=call), 8 * once, rtol=0, atol=least)


@given(forward=forwards(), distance=moneyness, volatility=numbers(0.05, 2), years=numbers(0.01, 3), call=sides)
@pytest.mark.parametrize("normal", [False, True])
def test_greeks_are_the_closed_forms(
    double: None,
    normal: bool,
    forward: np.ndarray,
    distance: np.ndarray,
    volatility: np.ndarray,
    years: np.ndarray,
    call: np.ndarray,
) -> None:
    strike = strikes(forward, distance)
    # A normal volatility is an amount of money a root of a year.
    volatility = volatility * forward if normal else volatility
    discount = np.linspace(0.8, 1, OPTIONS)
    flags = np.full(OPTIONS, normal)
    got = np.array(greeks(forward, strike, volatility, years, discount, call=call, normal=flags)).T
    wanted = each(twin.greeks, forward, strike, volatility, years, discount, call, flags)
    d = np.abs(np.log(strike / forward) / (volatility * np.sqrt(years))) if not normal else np.abs(distance)
    # Each Greek in units of its size at the money; a density is rounded by d^2 roundings of itself, and d^2 n(d) < 1.
    root = volatility * np.sqrt(years)
    spread = root if normal else forward * root
    units = np.array([np.maximum(forward, strike), np.ones(OPTIONS), 1 / spread, spread / volatility])
    scale = np.array([*units, spread / years, (1 + d) / volatility * np.sqrt(years)]).T
    assert (np.abs(got - wanted) <= 64 * np.finfo(float).eps * np.maximum(scale, np.abs(wanted))).all()


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
@pytest.mark.parametrize("model", [black76, bachelier])
def test_derivatives_agree_with_finite_differences_twice_also_at_the_money(model, strike: float, double: None) -> None:
    deviation = 0.2 if model is black76 else 20.0
    for call in (True, False):
        check_grads(lambda *at, call=call: model(*at, call=call), (100.0, strike, deviation), order=2, rtol=1e-4)


@given(forward=forwards(), distance=moneyness, deviation=numbers(0.01, 3), call=sides)
def test_a_price_gives_its_deviation_back(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    forward, strike, deviation = cast(precision, forward, strikes(forward, distance), deviation)
    price = value(forward, strike, deviation, call=call)
    got = np.asarray(implied(price, forward, strike, call=call), float)
    wanted = deviation.astype(float)
    d1 = np.log(forward.astype(float) / strike) / wanted + wanted / 2
    vega = forward * np.exp(-(d1**2) / 2) / np.sqrt(2 * np.pi)
    known = vega > 1e-3 * forward
    # The rounding of the price and of the value that is matched to it, over vega.
    error = 2 * allowed(precision, forward, strike)[known] / vega[known]
    assert (np.abs(got - wanted)[known] <= error).all()


def test_deviations_are_implied_to_ten_digits_over_a_wide_grid(double: None) -> None:
    forward = 100.0
    strike, deviation = (
        each.ravel() for each in np.meshgrid(forward * np.exp(np.linspace(-4, 4, 33)), np.geomspace(0.01, 4, 40))
    )
    call = strike >= forward
    price = np.asarray(black76(forward, strike, deviation, call=call))
    got = np.asarray(implied(price, forward, strike, call=call))
    # Down to prices of 1e-12 of the forward, where an absolute rounding of 1e-16 is a relative one of 1e-4 in the
    # price and (deviation / distance)^2 of that in the deviation.
    known = (price > 1e-7 * forward) & (price < 0.99 * np.minimum(forward, strike))
    assert known.sum() > 500
    np.testing.assert_allclose(got[known], deviation[known], rtol=1e-10)
    rough = (price > 1e-13 * forward) & (price < (1 - 1e-9) * np.minimum(forward, strike))
    np.testing.assert_allclose(got[rough], deviation[rough], rtol=1e-4)


@given(forward=numbers(-50, 50), distance=numbers(-40, 40), deviation=numbers(10, 60), call=sides)
def test_a_normal_price_gives_its_deviation_back(
    precision: np.dtype, forward: np.ndarray, distance: np.ndarray, deviation: np.ndarray, call: np.ndarray
) -> None:
    forward, strike, deviation = cast(precision, forward, forward + distance, deviation)
    price = normal_value(forward, strike, deviation, call=call)
    got = np.asarray(implied(price, forward, strike, call=call, normal=True), float)
    slope = np.exp(-(((forward - strike) / deviation).astype(float) ** 2) / 2) / np.sqrt(2 * np.pi)
    # The distance of two floats may be rounded as much as they are.
    assert (
        np.abs(got - deviation) <= 2 * allowed(precision, forward, strike, deviation, np.asarray(price)) / slope
    ).all()


def test_an_implied_deviation_moves_by_one_over_vega(double: None) -> None:
    for normal, deviation in ((False, 0.3), (True, 25.0)):
        model = bachelier if normal else black76
        price = float(model(100.0, 110.0, deviation, call=True))
        solve = lambda *at, normal=normal: implied_deviation(*at, call=True, normal=normal)  # noqa: E731
        check_grads(solve, (price, 100.0, 110.0), order=2, rtol=1e-4)
        vega = jax.grad(lambda at, model=model: model(100.0, 110.0, at, call=True))(deviation)
        assert float(jax.grad(solve)(price, 100.0, 110.0)) == pytest.approx(1 / float(vega), rel=1e-9)


def book(precision: np.dtype, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """log_move, multiple, expiry, forward, strike, deviation; and who is a call."""
    expiry = np.arange(OPTIONS) % EXPIRIES
    forward = np.exp(rng.uniform(-2, 10, EXPIRIES))[expiry]
    strike = forward * np.exp(rng.normal(0, 0.4, OPTIONS))
    deviation = rng.uniform(0, 0.8, OPTIONS)
    deviation[0], strike[1] = 0, forward[1]
    log_move = rng.standard_t(3, (EXPIRIES, SCENARIOS)) * 0.1
    multiple = np.exp(rng.normal(0, 0.3, (EXPIRIES, SCENARIOS)))
    log_move[:, 0], multiple[:, 1] = 0, 0
    floats = cast(precision, log_move, multiple, forward, strike, deviation)
    return [*floats[:2], expiry.astype(np.int32), *floats[2:]], np.arange(OPTIONS) % 2 == 0


def cells(arguments: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The same cells in float64: forward, strike and deviation of each."""
    log_move, multiple, expiry, forward, strike, deviation = arguments
    wide = [np.asarray(each, float) for each in (log_move, multiple, forward, strike, deviation)]
    moved = wide[2][:, None] * np.exp(wide[0])[expiry]
    return moved, np.broadcast_to(wide[3][:, None], moved.shape), wide[4][:, None] * wide[1][expiry]


def test_every_cell_of_a_cube_is_the_option_s_value_in_the_scenario(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    arguments, call = book(precision, rng)
    got = np.asarray(reprice(*arguments, call=call), float)
    moved, strike, deviation = cells(arguments)
    sides = np.broadcast_to(call[:, None], moved.shape)
    wanted = each(twin.black76, *(x.ravel() for x in (moved, strike, deviation, sides))).reshape(moved.shape)
    assert (np.abs(got - wanted) <= allowed(precision, moved, strike)).all()


def test_every_cell_of_a_normal_cube_is_the_option_s_value(precision: np.dtype, rng: np.random.Generator) -> None:
    arguments, call = book(precision, rng)
    move, multiple, expiry, forward, strike, deviation = arguments
    width = deviation * forward
    got = np.asarray(normal_reprice(move, multiple, expiry, forward, strike, width, call=call), float)
    moved, widths = forward[:, None].astype(float) + move[expiry], width[:, None].astype(float) * multiple[expiry]
    every = [x.ravel() for x in np.broadcast_arrays(moved, strike[:, None].astype(float), widths, call[:, None])]
    wanted = each(twin.bachelier, *every).reshape(moved.shape)
    size = np.maximum(np.abs(moved), np.maximum(strike[:, None], widths))
    assert (np.abs(got - wanted) <= allowed(precision, size)).all()


def test_a_cube_s_derivatives_are_those_of_its_cells(double: None, rng: np.random.Generator) -> None:
    (log_move, multiple, expiry, forward, strike, deviation), call = book(np.dtype(float), rng)
    mix = rng.normal(size=(OPTIONS, SCENARIOS))

    def fast(log_move, multiple, forward, strike, deviation):
        return (mix * reprice_black76(log_move, multiple, expiry, forward, strike, deviation, call=call)).sum()

    def slow(log_move, multiple, forward, strike, deviation):
        moved = forward[:, None] * jax.numpy.exp(log_move[expiry])
        return (mix * black76(moved, strike[:, None], deviation[:, None] * multiple[expiry], call=call[:, None])).sum()

    at = (log_move, multiple, forward, strike, deviation)
    for got, wanted in zip(jax.jit(jax.grad(fast, range(5)))(*at), jax.jit(jax.grad(slow, range(5)))(*at), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
    got, wanted = (jax.jit(jax.hessian(each, 2))(*at) for each in (fast, slow))
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())
