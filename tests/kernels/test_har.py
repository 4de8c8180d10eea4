"""HAR: the realised variance of a day, a week and a month, carried forward bar by bar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marginax_kernels import har_push, har_ring, har_variance

WEIGHTS = {"daily": 0.4, "weekly": 0.3, "monthly": 0.2}
DAY = 3


def squares_of(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(5, (22 * DAY + 7, 2)) ** 2


def pushed(squares: np.ndarray) -> jax.Array:
    ring = har_ring(jnp.ones(2), day=DAY)
    for row in squares:
        ring = har_push(ring, jnp.asarray(row), jnp.ones(2, bool))
    return ring


def test_a_month_of_squares_is_the_last_month(double: None, rng: np.random.Generator) -> None:
    squares = squares_of(rng)
    np.testing.assert_array_equal(pushed(squares), squares[-22 * DAY :])


def test_a_factor_without_a_return_keeps_its_month(double: None, rng: np.random.Generator) -> None:
    ring = pushed(squares_of(rng))
    after = har_push(ring, jnp.asarray([5.0, 5.0]), jnp.asarray([True, False]))
    np.testing.assert_array_equal(after[:, 1], ring[:, 1])
    assert after[-1, 0] == 5


def test_the_forecast_is_the_weighted_mean_of_day_week_month_and_long_run(
    double: None, rng: np.random.Generator
) -> None:
    squares, long_run = squares_of(rng), np.array([1.5, 0.5])
    by_day = squares[-22 * DAY :].reshape(22, DAY, 2).mean(axis=1)
    wanted = 0.1 * long_run + 0.4 * by_day[-1] + 0.3 * by_day[-5:].mean(axis=0) + 0.2 * by_day.mean(axis=0)
    found = har_variance(pushed(squares), jnp.asarray(long_run), **WEIGHTS, days=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_days_further_on_take_the_forecasts_before_them_for_what_is_not_known(
    double: None, rng: np.random.Generator
) -> None:
    squares, long_run = squares_of(rng), np.array([1.5, 0.5])
    days = list(squares[-22 * DAY :].reshape(22, DAY, 2).mean(axis=1))
    for _ in range(7):
        week, month = np.mean(days[-5:], axis=0), np.mean(days[-22:], axis=0)
        days.append(0.1 * long_run + 0.4 * days[-1] + 0.3 * week + 0.2 * month)
    found = har_variance(pushed(squares), jnp.asarray(long_run), **WEIGHTS, days=7)
    np.testing.assert_allclose(found, np.mean(days[22:], axis=0), rtol=1e-13)


def test_the_forecast_has_the_slope_of_its_finite_difference(double: None, rng: np.random.Generator) -> None:
    ring = pushed(squares_of(rng))

    def total(weights: jax.Array) -> jax.Array:
        daily, weekly, monthly = weights
        long_run = jnp.asarray([1.5, 0.5])
        return jnp.sum(har_variance(ring, long_run, daily=daily, weekly=weekly, monthly=monthly, days=3))

    at = jnp.asarray([0.4, 0.3, 0.2])
    slope = jax.jit(jax.grad(total))(at)
    for k in range(3):
        step = 1e-6 * jnp.eye(3)[k]
        assert float(slope[k]) == pytest.approx(float(total(at + step) - total(at - step)) / 2e-6, rel=1e-7)
