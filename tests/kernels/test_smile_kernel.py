"""Raw SVI and Durrleman's factor: the density of the log forward, and the published slice that admits arbitrage."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginax_kernels import svi_density_factor, svi_total_variance
from reference import black as twin

GRID = np.linspace(-1.5, 1.5, 61)
variance = jax.jit(svi_total_variance)
factor = jax.jit(svi_density_factor)
slices = st.tuples(
    st.floats(0.005, 0.1), st.floats(0, 0.5), st.floats(-0.9, 0.9), st.floats(-0.3, 0.3), st.floats(0.05, 0.5)
)


@given(parameters=slices)
def test_total_variance_is_the_formula(precision: np.dtype, parameters: tuple[float, ...]) -> None:
    got = variance(GRID.astype(precision), *(precision.type(each) for each in parameters))
    # Four roundings of terms of at most b (|k - m| + sigma) and a.
    size = parameters[0] + 2 * parameters[1] * (2 + parameters[4])
    error = np.abs(got - twin.svi_total_variance(GRID, *parameters))
    assert (error <= 4 * np.finfo(precision).eps * size).all()


@given(parameters=slices)
def test_the_factor_is_the_density_of_the_log_forward_over_that_of_a_normal(
    double: None, parameters: tuple[float, ...]
) -> None:
    step = 2e-3
    k = np.arange(-0.5, 0.5, step)
    w = twin.svi_total_variance(k, *parameters)
    d2 = -k / np.sqrt(w) - np.sqrt(w) / 2
    got = np.asarray(factor(k, *parameters)) * stats.norm.pdf(d2) / np.sqrt(w)
    wanted = twin.density_of_log_forward(k, w)
    # Central differences err by step^2 times a fourth derivative, (1/w^2 and 1/sigma^2) of the greatest density.
    thin = min(float(w.min()), parameters[4] ** 2)
    assert np.abs(got[1:-1] - wanted).max() <= step**2 / thin * max(1.0, np.abs(wanted).max())


def test_a_flat_smile_has_the_factor_of_a_normal_everywhere(precision: np.dtype) -> None:
    np.testing.assert_array_equal(factor(GRID.astype(precision), 0.04, 0.0, 0.3, 0.1, 0.2), 1)


def test_the_slice_of_axel_vogt_admits_arbitrage(double: None) -> None:
    # Gatheral and Jacquier (2014), example 3.1: g turns negative in the right wing.
    k = np.linspace(-1.5, 1.5, 301)
    got = np.asarray(factor(k, -0.0410, 0.1331, 0.3060, 0.3586, 0.4153))
    assert (np.asarray(variance(k, -0.0410, 0.1331, 0.3060, 0.3586, 0.4153)) > 0).all()
    assert got.min() < 0
    assert 0.5 < k[got.argmin()] < 1.2


def test_gradients_are_finite_at_the_corner_and_exact_elsewhere(precision: np.dtype) -> None:
    at = (0.1, 0.04, 0.2, -0.3, 0.1, 0.0)
    slope = np.array(jax.jit(jax.grad(svi_total_variance, range(6)))(*at))
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[:3], [0.2 * -0.3, 1, 0], atol=1e-6)


def test_the_factor_agrees_with_derivatives_of_the_variance(double: None) -> None:
    parameters = (0.02, 0.3, -0.4, 0.1, 0.2)
    for k in (-0.7, 0.0, 0.1, 0.9):
        w = float(svi_total_variance(k, *parameters))
        first = float(jax.grad(svi_total_variance)(k, *parameters))
        second = float(jax.grad(jax.grad(svi_total_variance))(k, *parameters))
        wanted = (1 - k * first / (2 * w)) ** 2 - first**2 / 4 * (1 / w + 0.25) + second / 2
        assert float(svi_density_factor(k, *parameters)) == pytest.approx(wanted, rel=1e-12)


def test_variance_that_is_not_positive_has_no_factor(precision: np.dtype) -> None:
    got = np.asarray(svi_density_factor(np.array([0.0, 0.1, np.nan]), np.array([-0.1, 0.1, 0.1]), 0.1, 0.0, 0.0, 0.1))
    assert np.isnan(got).tolist() == [True, False, True]
