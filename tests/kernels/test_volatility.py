"""Volatility filters and residuals: against loops, over gaps, against published tables, and their gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marginax_kernels import (
    ewma_update,
    ewma_variance,
    filtered_residuals,
    initial_variance,
    long_run_volatility,
    overlapping_sums,
    volatility,
)
from reference import filters as twin

BARS, FACTORS = 30, 4
FROM_DECAY = {0.94: np.log(0.5) / np.log(0.94), 0.97: np.log(0.5) / np.log(0.97)}

update = jax.jit(ewma_update, static_argnames="half_life")
variances = jax.jit(ewma_variance, static_argnames="half_life")
first = jax.jit(initial_variance, static_argnames="count")
long_run = jax.jit(long_run_volatility)
residuals = jax.jit(filtered_residuals, static_argnames=("least_share", "cap"))


def histories() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Returns of up to 50 %, a quarter of them missing, and the bars they span: one, or more after what is missing."""
    sizes = st.integers(-500, 500).map(lambda count: count / 1_000)
    known = arrays(np.bool_, (BARS, FACTORS), elements=st.integers(0, 3).map(bool))
    return st.tuples(arrays(np.float64, (BARS, FACTORS), elements=sizes), known).map(lambda pair: gapped(*pair))


def gapped(moves: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bars = np.ones(known.shape)
    for t, k in np.argwhere(known & (np.arange(len(known)) > 0)[:, None]):
        while t - bars[t, k] >= 0 and not known[int(t - bars[t, k]), k]:
            bars[t, k] += 1
    return np.where(known, moves, np.nan), bars


def cast(precision: np.dtype, *cells: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(each.astype(precision) for each in cells)


def relative(precision: np.dtype, roundings: int) -> float:
    """Sums and products of numbers that are not negative keep their relative error: it only adds up."""
    return roundings * float(np.finfo(precision).eps)


# One bar multiplies by a decay (a power of two rounded in its exponent and its result), adds a square over bars,
# and casts.
A_BAR = 8


@given(history=histories(), start=arrays(np.float64, FACTORS, elements=st.integers(0, 50).map(float)))
def test_the_filter_is_the_loop_with_gaps_and_missing_bars(
    precision: np.dtype, history: tuple[np.ndarray, np.ndarray], start: np.ndarray
) -> None:
    returns, bars = history
    path, final = variances(*cast(precision, returns, bars, start / 1_000), half_life=11.2)
    wanted_path, wanted_final = twin.ewma_variance(returns, bars, start / 1_000, half_life=11.2)
    # Below the smallest normal number a square may vanish.
    close = {"rtol": relative(precision, A_BAR * BARS), "atol": float(np.finfo(precision).tiny)}
    np.testing.assert_allclose(path, wanted_path, **close)
    np.testing.assert_allclose(final, wanted_final, **close)


@given(history=histories(), count=st.sampled_from([1, 7, 100]))
def test_the_seed_and_the_long_run_are_mean_squares_per_bar(
    precision: np.dtype, history: tuple[np.ndarray, np.ndarray], count: int
) -> None:
    returns, bars = history
    cells = cast(precision, returns, bars)
    rtol = relative(precision, BARS + A_BAR)
    np.testing.assert_allclose(first(*cells, count=count), twin.mean_square(returns, bars, count=count), rtol=rtol)
    np.testing.assert_allclose(long_run(*cells), np.sqrt(twin.mean_square(returns, bars)), rtol=rtol)


@given(
    history=histories(),
    path=arrays(np.float64, (BARS, FACTORS), elements=st.integers(0, 40).map(lambda n: n / 300)),
)
def test_residuals_are_returns_over_the_volatility_of_their_day_floored_and_capped(
    precision: np.dtype, history: tuple[np.ndarray, np.ndarray], path: np.ndarray
) -> None:
    returns, bars = history
    typical = np.sqrt(twin.mean_square(returns, bars))
    got, capped = residuals(*cast(precision, returns, bars, path, typical), least_share=0.25, cap=3.0)
    wanted, count = twin.filtered_residuals(returns, bars, path, typical, least_share=0.25, cap=3.0)
    np.testing.assert_allclose(got, wanted, rtol=relative(precision, A_BAR))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(returns))
    # A residual may stand on the cap itself: then rounding decides whether it counts, and its size does not change.
    raw, _ = twin.filtered_residuals(returns, bars, path, typical, least_share=0.25, cap=np.inf)
    on_cap = np.sum(np.abs(np.abs(raw) - 3) <= 3 * relative(precision, A_BAR), axis=0)
    assert (np.abs(np.asarray(capped) - count) <= on_cap).all()


@given(history=histories(), cut=st.integers(0, BARS - 1))
def test_a_variance_knows_the_bars_before_it_and_not_its_own(
    precision: np.dtype, history: tuple[np.ndarray, np.ndarray], cut: int
) -> None:
    returns, bars, start = cast(precision, *history, np.full(FACTORS, 1e-3))
    later = returns.copy()
    later[cut:] = 7.0
    before = np.asarray(variances(returns, bars, start, half_life=11.2)[0])
    after = np.asarray(variances(later, bars, start, half_life=11.2)[0])
    np.testing.assert_array_equal(after[: cut + 1], before[: cut + 1])


@given(history=histories())
def test_twice_the_returns_are_four_times_the_variance_and_the_same_residuals(
    precision: np.dtype, history: tuple[np.ndarray, np.ndarray]
) -> None:
    returns, bars, start = cast(precision, *history, np.full(FACTORS, 1e-3))
    once, today = variances(returns, bars, start, half_life=11.2)
    twice, then = variances(2 * returns, bars, 4 * start, half_life=11.2)
    np.testing.assert_array_equal(twice, 4 * once)
    np.testing.assert_array_equal(then, 4 * today)
    scale = {"least_share": 0.25, "cap": 3.0}
    plain = residuals(returns, bars, jnp.sqrt(once), long_run(returns, bars), **scale)[0]
    doubled = residuals(2 * returns, bars, jnp.sqrt(twice), long_run(2 * returns, bars), **scale)[0]
    np.testing.assert_array_equal(doubled, plain)


@pytest.mark.parametrize("span", [1, 2, 5, 90])
def test_a_return_over_a_gap_ages_the_past_by_all_its_bars(precision: np.dtype, span: int) -> None:
    # An unmoved price, seen once after n bars or on each of them, says the same.
    still = np.zeros((), precision)
    at_once = update(precision.type(0.04), still, precision.type(span), half_life=11.2)
    step_by_step = precision.type(0.04)
    for _ in range(span):
        step_by_step = update(step_by_step, still, precision.type(1), half_life=11.2)
    rtol = relative(precision, A_BAR * (span + 1))
    assert float(at_once) == pytest.approx(float(step_by_step), rel=rtol)
    # And a move over n bars that fits today's volatility changes nothing.
    fitting = update(precision.type(0.04), precision.type(0.2 * np.sqrt(span)), precision.type(span), half_life=11.2)
    assert float(fitting) == pytest.approx(0.04, rel=relative(precision, A_BAR))


def test_a_missing_return_changes_no_bit_and_a_pause_of_a_half_life_halves_the_variance(
    precision: np.dtype,
) -> None:
    now = precision.type(0.0123)
    assert update(now, precision.type(np.nan), precision.type(40), half_life=11.2) == now
    half = update(now, precision.type(0), precision.type(8), half_life=8.0)
    assert float(half) == pytest.approx(float(now) / 2, rel=relative(precision, A_BAR))


def test_a_factor_without_returns_has_no_variance_and_no_residuals(precision: np.dtype) -> None:
    nothing = np.full((BARS, 1), np.nan, precision)
    bars = np.ones((BARS, 1), precision)
    assert float(first(nothing, bars, count=30)[0]) == 0
    assert float(long_run(nothing, bars)[0]) == 0
    path, final = variances(nothing, bars, np.zeros(1, precision), half_life=11.2)
    assert (np.asarray(path) == 0).all()
    assert float(final[0]) == 0
    got, capped = residuals(nothing, bars, path, np.zeros(1, precision), least_share=0.25, cap=15.0)
    assert np.isnan(got).all()
    assert int(capped[0]) == 0


def test_a_peg_that_breaks_once_is_capped_and_counted(precision: np.dtype) -> None:
    returns = np.full((BARS, 1), 1e-4)
    returns[20] = -0.12
    bars = np.ones((BARS, 1))
    path = np.full((BARS, 1), 1e-4)
    # The floor is a quarter of the long run, 0.0219: the jump is 21.9 volatilities and is cut at 15.
    typical = np.sqrt(twin.mean_square(returns, bars))
    cells = cast(precision, returns, bars, path, typical)
    got, capped = residuals(*cells, least_share=0.25, cap=15.0)
    assert float(got[20, 0]) == -15
    assert int(capped[0]) == 1
    free, none = residuals(*cells, least_share=0.25, cap=np.inf)
    assert float(free[20, 0]) == pytest.approx(-0.12 / (0.25 * typical[0]), rel=relative(precision, A_BAR))
    assert int(none[0]) == 0


@pytest.mark.parametrize("bars", [1, 2, 5])
def test_a_horizon_s_shocks_are_overlapping_sums(precision: np.dtype, rng: np.random.Generator, bars: int) -> None:
    shocks = rng.normal(size=(12, 3)).astype(precision)
    got = np.asarray(jax.jit(overlapping_sums, static_argnames="bars")(shocks, bars=bars))
    wanted = np.stack([shocks[t : t + bars].astype(float).sum(axis=0) for t in range(12 - bars + 1)])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=bars * float(np.finfo(precision).eps) * 4 * bars)


def test_riskmetrics_own_table_of_exponential_variances(precision: np.dtype) -> None:
    # RiskMetrics Technical Document, 4th edition (1996), section 5.2: returns in per cent, decay 0.94, the first
    # variance is the square of the first return; printed to three digits.
    returns = np.array([0.633, 0.115, -0.459, 0.093, 0.176, -0.087])[:, None]
    table = [0.401, 0.378, 0.368, 0.346, 0.327, 0.308]
    cells = cast(precision, returns[1:], np.ones((5, 1)), returns[0] ** 2)
    path, final = variances(*cells, half_life=FROM_DECAY[0.94])
    np.testing.assert_allclose([*np.ravel(path), *np.ravel(final)], table, rtol=0, atol=1e-3)


def test_hull_s_asset_of_300_dollars_and_1_3_percent(precision: np.dtype) -> None:
    # Hull, Options, Futures and Other Derivatives, problem on EWMA: 300 falls to 298, volatility 1.3 %, decay 0.94:
    # the variance becomes 0.00016153 and the volatility 1.271 %.
    moved = update(
        precision.type(0.013**2),
        precision.type((298 - 300) / 300),
        precision.type(1),
        half_life=FROM_DECAY[0.94],
    )
    assert float(moved) == pytest.approx(0.00016153, abs=5e-9)
    assert float(jnp.sqrt(moved)) == pytest.approx(0.01271, abs=5e-6)


def slope_by_difference(function: Callable[[float], float], at: float) -> float:
    """Central difference with a step of 1e-5 of the argument: its error is 1e-10 of the third derivative."""
    step = 1e-5 * at
    return (function(at + step) - function(at - step)) / (2 * step)


def test_the_filter_s_slope_in_its_half_life_is_its_finite_difference(double: None, rng: np.random.Generator) -> None:
    returns, bars = gapped(rng.standard_t(4, (BARS, FACTORS)) / 50, rng.random((BARS, FACTORS)) < 0.7)
    start = jnp.full(FACTORS, 4e-4)

    @jax.jit
    def today(half_life: float) -> jax.Array:
        return jnp.sum(ewma_variance(returns, bars, start, half_life=half_life)[1]) * 1e4

    slope = float(jax.jit(jax.grad(today))(11.2))
    # Values near ten are rounded at 1e-15 and divided by a step of 1e-4.
    assert slope == pytest.approx(slope_by_difference(lambda x: float(today(x)), 11.2), rel=1e-7)


def test_the_slope_of_residuals_in_the_half_life_survives_missing_bars(double: None, rng: np.random.Generator) -> None:
    returns, bars = gapped(rng.standard_t(4, (BARS, FACTORS)) / 50, rng.random((BARS, FACTORS)) < 0.7)
    start = jnp.full(FACTORS, 4e-4)

    @jax.jit
    def size(half_life: float) -> jax.Array:
        path, _ = ewma_variance(returns, bars, start, half_life=half_life)
        got, _ = filtered_residuals(returns, bars, jnp.sqrt(path), jnp.full(FACTORS, 0.02), least_share=0.25, cap=15.0)
        return jnp.sum(jnp.where(jnp.isnan(returns), 0, got) ** 2)

    slope = float(jax.jit(jax.grad(size))(11.2))
    assert slope == pytest.approx(slope_by_difference(lambda x: float(size(x)), 11.2), rel=1e-7)


def test_a_price_that_never_moved_has_a_volatility_of_zero_and_no_slope_there(precision: np.dtype) -> None:
    variances_now = jnp.array([0.0, 0.04, 0.25], precision)
    slope = jax.jit(jax.grad(lambda each: jnp.sum(volatility(each))))(variances_now)
    # A square root rounds once; its slope is 1 / (2 sqrt(v)).
    eps = float(np.finfo(precision).eps)
    np.testing.assert_allclose(jax.jit(volatility)(variances_now), [0, 0.2, 0.5], rtol=2 * eps)
    np.testing.assert_allclose(slope, [0, 2.5, 1.0], rtol=4 * eps)
    still = jnp.zeros((BARS, FACTORS), precision)
    lasting = jax.jit(jax.grad(lambda each: jnp.sum(long_run_volatility(each, jnp.ones_like(each)))))(still)
    assert (np.asarray(lasting) == 0).all()
