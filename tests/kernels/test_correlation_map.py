"""Past scenarios of today's correlation: the map that gets there, and its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginax_kernels import correlation_map

mapped = jax.jit(correlation_map)


def correlation(seed: int, factors: int) -> np.ndarray:
    """A definite correlation matrix with a common factor."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((3 * factors, factors)) + rng.standard_normal((3 * factors, 1))
    return 0.95 * np.corrcoef(draws.T).reshape(factors, factors) + 0.05 * np.eye(factors)


@given(seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)), factors=st.integers(1, 9))
def test_the_map_takes_one_correlation_to_the_other(double: None, seeds: tuple[int, int], factors: int) -> None:
    past, today = (correlation(seed, factors) for seed in seeds)
    found = np.asarray(mapped(past, today))
    # The condition of both matrices is below 1e3, so thirteen digits stay.
    np.testing.assert_allclose(found @ past @ found.T, today, atol=1e-12)
    np.testing.assert_array_equal(found, np.tril(found))


def test_nothing_moves_where_nothing_has_changed(double: None) -> None:
    past = correlation(3, 6)
    np.testing.assert_allclose(mapped(past, past), np.eye(6), atol=1e-12)


def test_a_factor_that_is_listed_later_moves_none_of_those_before(double: None) -> None:
    past, today = correlation(1, 5), correlation(2, 5)
    np.testing.assert_allclose(mapped(past, today)[:4, :4], mapped(past[:4, :4], today[:4, :4]), atol=1e-13)


def test_the_slope_is_a_finite_difference(double: None) -> None:
    past = correlation(1, 4)
    weights = np.random.default_rng(5).standard_normal((4, 4))

    def total(today: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(weights) * correlation_map(jnp.asarray(past), today))

    slope = jax.jit(jax.grad(total))(jnp.asarray(past))
    way = np.zeros((4, 4))
    way[0, 2] = way[2, 0] = 1
    difference = float(total(past + 1e-6 * way) - total(past - 1e-6 * way)) / 2e-6
    assert float(jnp.sum(slope * way)) == pytest.approx(difference, rel=1e-6)
