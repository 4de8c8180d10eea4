"""The stressed stretch: which bars it is, as it was known then, and what those not listed do in it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marginax.scenarios.filtering import FactorArrays
from marginax.scenarios.stress_period import stretch_at, stretch_shocks, stretch_starts

BARS, ROWS = 300, 40


def factors(returns: np.ndarray, *, proxy: tuple[int, ...] = (-1, 0, 0), beta: float = np.nan) -> FactorArrays:
    count = returns.shape[1]
    return FactorArrays(
        returns=jnp.asarray(returns),
        bars=jnp.ones(returns.shape),
        gap_return=jnp.full(count, jnp.nan),
        gap_bars=jnp.ones(count),
        own=jnp.ones(count, bool),
        beta=jnp.full(count, beta),
        level=jnp.ones(count),
        noise=jnp.full(count, jnp.nan),
        proxy=proxy,
        bars_per_day=1.0,
        underlyings=count,
    )


def calm(rng: np.random.Generator) -> np.ndarray:
    returns = 0.01 * rng.standard_normal((BARS, 3))
    returns[100:140] *= 5
    returns[200:240] *= 8
    returns[:150, 2] = np.nan
    return returns


def mean_squares(returns: np.ndarray) -> np.ndarray:
    count = np.cumsum(~np.isnan(returns), axis=0)
    return np.nancumsum(returns**2, axis=0) / np.maximum(count, 1)


def test_the_most_volatile_stretch_is_found_as_it_was_known_at_each_bar(double: None, rng: np.random.Generator) -> None:
    returns = calm(rng)
    usual = mean_squares(returns)
    starts = jax.jit(partial(stretch_starts, rows=ROWS))(factors(returns), jnp.asarray(usual))
    with np.errstate(invalid="ignore", divide="ignore"):
        score = np.nansum(np.minimum(np.nan_to_num(returns**2 / usual), 25), axis=1)
    assert len(starts) == BARS + 1
    for bar in (0, 10, ROWS, 101, 139, 180, 230, BARS):
        sums = [score[k : k + ROWS].sum() for k in range(max(bar - ROWS, 0) + 1)]
        assert int(starts[bar]) == int(np.argmax(sums)), bar
    assert abs(int(starts[180]) - 100) < 5
    assert abs(int(starts[BARS]) - 200) < 5


def test_what_was_not_listed_takes_its_proxy_s_move_and_bars_that_are_none_have_no_weight(
    double: None, rng: np.random.Generator
) -> None:
    returns = calm(rng)
    world = factors(returns, beta=2.0)
    found = stretch_at(world, jnp.asarray(110), jnp.asarray(140), jnp.ones(3, bool), rows=ROWS)
    shocks, weights = stretch_shocks(found, world, default_beta=jnp.asarray(1.5), horizon_days=1.0)
    np.testing.assert_allclose(weights, np.where(np.arange(ROWS) < 30, 1 / 30, 0))
    np.testing.assert_array_equal(shocks[:30, :2], returns[110:140, :2])
    np.testing.assert_allclose(shocks[:30, 2], 2 * returns[110:140, 0])
    np.testing.assert_array_equal(shocks[30:], 0)


def test_without_a_stated_beta_the_default_holds_and_several_days_are_sums(
    double: None, rng: np.random.Generator
) -> None:
    returns = calm(rng)
    world = factors(returns)
    found = stretch_at(world, jnp.asarray(100), jnp.asarray(BARS), jnp.ones(3, bool), rows=ROWS)
    shocks, weights = stretch_shocks(found, world, default_beta=jnp.asarray(1.5), horizon_days=3.0)
    assert shocks.shape == (ROWS - 2, 3)
    assert float(jnp.sum(weights)) == pytest.approx(1)
    np.testing.assert_allclose(shocks[0, 2], 1.5 * returns[100:103, 0].sum())


def test_a_price_that_jumps_alone_is_no_stress_of_the_market(double: None, rng: np.random.Generator) -> None:
    returns = 0.01 * rng.standard_normal((BARS, 3))
    returns[60:100] *= 2
    returns[250, 1] = 3.0
    starts = stretch_starts(factors(returns), jnp.asarray(mean_squares(returns)), rows=ROWS)
    assert abs(int(starts[-1]) - 60) < 8
