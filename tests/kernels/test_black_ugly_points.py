"""Options where formulas divide by zero or run out of floats: values, slopes and curvatures stay what they mean."""

from functools import cache

import jax
import numpy as np
import pytest

from marginax_kernels import bachelier, black76, implied_deviation, option_greeks, reprice_black76

INF, NAN = np.inf, np.nan
# Forward, strike, deviation; value and delta of the call and of the put.
SETTLED = [
    (100.0, 90.0, 0.0, (10.0, 0.0), (1.0, 0.0)),
    (90.0, 100.0, 0.0, (0.0, 10.0), (0.0, -1.0)),
    (100.0, 100.0, 0.0, (0.0, 0.0), (0.5, -0.5)),
    (100.0, 101.0, 1e-30, (0.0, 1.0), (0.0, -1.0)),
    (100.0, 1.0, 1e-3, (99.0, 0.0), (1.0, 0.0)),
    (1.0, 100.0, 1e-3, (0.0, 99.0), (0.0, -1.0)),
]
LOGNORMAL = [
    (100.0, 0.0, 0.2, (100.0, 0.0), (1.0, 0.0)),
    (0.0, 100.0, 0.2, (0.0, 100.0), (0.0, -1.0)),
    (0.0, 0.0, 0.2, (0.0, 0.0), (0.5, -0.5)),
    (100.0, 90.0, 25.0, (100.0, 90.0), (1.0, 0.0)),
    (100.0, 90.0, 1e10, (100.0, 90.0), (1.0, 0.0)),
    (1e30, 1e-30, 0.3, (1e30, 0.0), (1.0, 0.0)),
]


@cache
def compiled(model, call: bool):
    function = lambda x: model(x[0], x[1], x[2], call=call)  # noqa: E731
    orders = (function, jax.grad(function), jax.jacrev(jax.grad(function)), jax.jacfwd(jax.jacfwd(function)))
    return jax.jit(lambda x: tuple(each(x) for each in orders))


def derivatives(model, call: bool, point: tuple[float, ...], precision: np.dtype) -> tuple[np.ndarray, ...]:
    """Value, gradient and Hessian by forward, strike and deviation, the Hessian by reverse and by forward mode."""
    return tuple(np.asarray(each, float) for each in compiled(model, call)(np.asarray(point, precision)))


# A normal forward has no end at zero, so the lognormal cases are Black's alone.
@pytest.mark.parametrize(
    ("model", "case"),
    [*((black76, case) for case in SETTLED + LOGNORMAL), *((bachelier, case) for case in SETTLED)],
    ids=lambda each: getattr(each, "__name__", None) or str(each),
)
def test_where_nothing_is_left_to_happen_the_value_is_intrinsic_and_delta_a_step(
    model, case: tuple, precision: np.dtype
) -> None:
    *point, values, deltas = case
    for call, wanted, delta in zip((True, False), values, deltas, strict=True):
        got, slope, *curvatures = derivatives(model, call, tuple(point), precision)
        # Half a deviation of 12.5 leaves 4e-36 of a probability, and a forward of 1e30 is no whole number.
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-30)
        assert slope[0] == pytest.approx(delta, abs=1e-30)
        for curvature in curvatures:
            assert np.isfinite(curvature).all()
            np.testing.assert_allclose(curvature, 0, atol=1e-25)


@pytest.mark.parametrize("model", [black76, bachelier])
def test_vega_at_the_money_tends_to_its_limit_as_the_deviation_vanishes(model, precision: np.dtype) -> None:
    unit = 100.0 if model is black76 else 1.0
    for deviation in (0.0, 1e-30, 1e-6):
        _, slope, *_ = derivatives(model, True, (100.0, 100.0, deviation), precision)
        # One density of a deviation as small: 3 roundings of float32.
        assert slope[2] == pytest.approx(unit / np.sqrt(2 * np.pi), rel=4e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e9, 1e30])
def test_prices_far_from_one_are_priced_as_those_near_it(scale: float, precision: np.dtype) -> None:
    for strike in (0.9, 1.0, 1.2):
        near, far = (derivatives(black76, True, (k, strike * k, 0.3), precision) for k in (1.0, scale))
        # Casting the scaled strike rounds its moneyness once, and every figure by a few of that.
        close = 32 * np.finfo(precision).eps
        np.testing.assert_allclose(far[0], near[0] * scale, rtol=close)
        np.testing.assert_allclose(far[1], near[1] * [1, 1, scale], rtol=close)
        for curvature, wanted in zip(far[2:], near[2:], strict=True):
            units = np.array([[1 / scale, 1 / scale, 1], [1 / scale, 1 / scale, 1], [1, 1, scale]])
            assert (np.abs(curvature - wanted * units) <= 8 * close * (np.abs(wanted) + 1) * units).all()


def test_deep_out_of_the_money_values_keep_their_sign_and_vanish(precision: np.dtype) -> None:
    strike = 100 * np.exp(np.linspace(0, 60, 400))
    values = np.asarray(black76(100.0, strike.astype(precision), 0.5, call=True))
    assert (values >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert values[-1] == 0


def test_missing_numbers_stay_missing_and_stay_where_they_are(precision: np.dtype) -> None:
    point = np.full((3, 4), [[100.0], [110.0], [0.3]], precision)
    for place in range(3):
        point[place, place] = NAN
    for model in (black76, bachelier):
        assert np.isnan(np.asarray(model(*point, call=True))).tolist() == [True, True, True, False]


def test_greeks_at_expiry_and_without_volatility_are_those_of_the_payoff(precision: np.dtype) -> None:
    forward = np.array([100, 100, 100, 90, 110, 100], precision)
    strike = np.full(6, 100, precision)
    volatility = np.array([0.5, 0, 0, 0.5, 0.5, 0], precision)
    years = np.array([0, 1, 0, 0, 0, 4], precision)
    for normal in (True, False):
        got = option_greeks(forward, strike, volatility, years, np.full(6, 0.5, precision), call=True, normal=normal)
        assert np.isfinite(np.array(got)).all()
        np.testing.assert_allclose(got.value, [0, 0, 0, 0, 5, 0], rtol=1e-6)
        np.testing.assert_array_equal(got.delta, [0.25, 0.25, 0.25, 0, 0.5, 0.25])
        for name in ("gamma", "theta", "vanna"):
            np.testing.assert_array_equal(getattr(got, name), 0)
        # Without volatility, at the money, with time to go, the first bit of volatility is worth something.
        unit = 0.5 * (1 if normal else 100) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(got.vega, [0, unit, 0, 0, 0, 2 * unit], rtol=1e-6)


def test_prices_that_no_deviation_gives_have_none(precision: np.dtype) -> None:
    #          below 0, intrinsic, possible, at the forward, above it, missing
    prices = np.array([-1.0, 0.0, 5.0, 100.0, 101.0, NAN], precision)
    got = np.asarray(implied_deviation(prices, 100.0, 110.0, call=True))
    assert np.isnan(got).tolist() == [True, False, False, False, True, True]
    assert got[1] == 0
    assert np.isinf(got[3])
    normal = np.asarray(implied_deviation(prices, 100.0, 110.0, call=True, normal=True))
    assert np.isnan(normal).tolist() == [True, False, False, False, False, True]
    # In the money by 10: less than that is no price.
    assert np.isnan(implied_deviation(9.5, 110.0, 100.0, call=True))
    assert implied_deviation(10.0, 110.0, 100.0, call=True) == 0
    # A strike or a forward of zero leaves nothing to imply but zero.
    assert implied_deviation(100.0, 100.0, 0.0, call=True) == 0
    assert np.isnan(implied_deviation(101.0, 100.0, 0.0, call=True))
    assert implied_deviation(0.0, 0.0, 100.0, call=True) == 0


def test_an_implied_deviation_has_finite_slopes_where_it_has_none(precision: np.dtype) -> None:
    slope = jax.jit(jax.grad(lambda price, forward: implied_deviation(price, forward, 90.0, call=True), (0, 1)))
    assert np.isfinite(np.array(slope(10.0, 100.0))).all()


@pytest.mark.parametrize("case", SETTLED + LOGNORMAL, ids=str)
def test_a_cube_says_the_same_at_every_ugly_point(case: tuple, precision: np.dtype) -> None:
    forward, strike, deviation, values, _ = case
    log_move = np.array([[0.0, 0.1, -0.1]], precision)
    multiple = np.array([[1.0, 1.0, 0.0]], precision)
    rows = [np.full(2, each, precision) for each in (forward, strike, deviation)]
    expiry, call = np.zeros(2, np.int32), np.array([True, False])
    got = np.asarray(reprice_black76(log_move, multiple, expiry, *rows, call=call), float)
    np.testing.assert_allclose(got[:, 0], values, rtol=1e-6, atol=1e-30)
    moved = rows[0][:, None] * np.exp(log_move)
    one_by_one = black76(moved, rows[1][:, None], rows[2][:, None] * multiple, call=call[:, None])
    size = np.maximum(moved, rows[1][:, None])
    assert (np.abs(got - np.asarray(one_by_one, float)) <= 8 * np.finfo(precision).eps * size).all()


def test_a_missing_scenario_spoils_its_own_cells_only(precision: np.dtype) -> None:
    log_move = np.array([[0.0, NAN, 0.1], [0.0, 0.1, 0.1]], precision)
    multiple = np.array([[1.0, 1.0, 1.0], [1.0, NAN, 1.0]], precision)
    rows = [np.array(each, precision) for each in ([100, 100, NAN], [90, 90, 90], [0.2, 0.2, 0.2])]
    got = reprice_black76(log_move, multiple, np.array([0, 1, 0], np.int32), *rows, call=np.array([True, True, True]))
    wanted = [[False, True, False], [False, True, False], [True, True, True]]
    assert np.isnan(np.asarray(got)).tolist() == wanted
