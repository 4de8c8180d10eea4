"""Correlation of factors: definite whatever comes in, its root and gradients, and what is no correlation matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marginax_kernels import (
    check_correlation,
    copula_freedom,
    copula_shocks,
    ewma_correlation,
    principal_root,
)
from reference import draws as twin
from reference.samples import rounding

BARS, FACTORS = 12, 18

correlate = jax.jit(ewma_correlation, static_argnames=("half_life", "shrinkage"))
root_of = jax.jit(principal_root)


def histories() -> st.SearchStrategy[np.ndarray]:
    """More factors than bars; missing cells, ties, columns that never move or move as one, residuals of any size."""
    values = st.integers(-40, 40).map(lambda count: count / 10)
    cells = st.one_of(st.just(0.0), st.just(np.nan), values)
    columns = st.lists(st.integers(0, FACTORS - 1), min_size=FACTORS, max_size=FACTORS)
    parts = st.tuples(arrays(np.float64, (BARS, FACTORS), elements=cells), columns, st.sampled_from([1e-6, 1.0, 15.0]))
    return parts.map(lambda each: each[0][:, each[1]] * each[2])


@given(history=histories(), half_life=st.sampled_from([3.0, 250.0]), shrinkage=st.sampled_from([0.01, 0.2, 1.0]))
def test_correlation_is_the_weighted_sum_over_pairs_and_always_definite(
    precision: np.dtype, history: np.ndarray, half_life: float, shrinkage: float
) -> None:
    history = history.astype(precision)
    got = np.asarray(correlate(history, half_life=half_life, shrinkage=shrinkage), float)
    allowed = 4 * rounding(precision, BARS, 1.0)
    wanted = twin.ewma_correlation(history.astype(float), half_life=half_life, shrinkage=shrinkage)
    np.testing.assert_allclose(got, wanted, atol=allowed)
    np.testing.assert_array_equal(np.diag(got), np.ones(FACTORS))
    assert np.abs(got).max() <= 1
    # Entries off by `allowed` move an eigenvalue by at most `FACTORS` times that.
    assert np.linalg.eigvalsh(got)[0] >= shrinkage - FACTORS * allowed
    check_correlation(got)


@given(history=histories(), order=st.permutations(range(FACTORS)))
def test_naming_the_factors_in_another_order_changes_nothing_but_the_order(
    precision: np.dtype, history: np.ndarray, order: list[int]
) -> None:
    history = history.astype(precision)
    plain = np.asarray(correlate(history, half_life=20.0, shrinkage=0.05))
    moved = np.asarray(correlate(history[:, order], half_life=20.0, shrinkage=0.05))
    np.testing.assert_allclose(moved, plain[np.ix_(order, order)], atol=4 * rounding(precision, BARS, 1.0))


def test_the_size_of_a_factor_s_moves_does_not_change_its_correlation(precision: np.dtype) -> None:
    history = np.random.default_rng(1).normal(size=(50, 4)).astype(precision)
    scaled = history * np.array([1, 0.25, 64, 1_024], precision)
    one, two = (np.asarray(correlate(each, half_life=20.0, shrinkage=0.05)) for each in (history, scaled))
    np.testing.assert_allclose(one, two, atol=8 * np.finfo(precision).eps)


def test_the_gradient_of_a_correlation_is_exact_and_finite_where_nothing_moves(double: None) -> None:
    history = np.random.default_rng(1).normal(size=(10, 3))
    history[:, 2] = 0
    history[3, 1] = np.nan
    mix = np.random.default_rng(2).normal(size=(3, 3))

    @jax.jit
    def figure(half_life: jax.Array, shrinkage: jax.Array, scale: jax.Array) -> jax.Array:
        residuals = jnp.where(np.isnan(history), jnp.nan, np.nan_to_num(history) * scale)
        return jnp.sum(mix * ewma_correlation(residuals, half_life=half_life, shrinkage=shrinkage))

    at = (jnp.asarray(5.0), jnp.asarray(0.1), jnp.asarray(np.exp(np.nan_to_num(history))))
    slopes = jax.jit(jax.grad(figure, argnums=(0, 1, 2)))(*at)
    assert all(np.isfinite(np.asarray(slope)).all() for slope in slopes)
    width = 1e-6
    for k in (0, 1):
        up, down = (figure(*(each + sign * width if j == k else each for j, each in enumerate(at))) for sign in (1, -1))
        np.testing.assert_allclose(slopes[k], (up - down) / (2 * width), rtol=1e-6, atol=1e-9)
    for place in ((2, 0), (7, 1)):
        up, down = (figure(at[0], at[1], at[2].at[place].add(sign * width)) for sign in (1, -1))
        np.testing.assert_allclose(slopes[2][place], (up - down) / (2 * width), rtol=1e-6, atol=1e-9)


def definite(seed: int, factors: int) -> np.ndarray:
    """A correlation matrix with one strong common factor."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0.6, 0.2, (factors, 1)), rng.normal(0, 0.4, (factors, 3))
    covariance = sum(each @ each.T for each in loadings) + np.diag(rng.uniform(0.05, 0.5, factors))
    return covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))


@given(seed=st.integers(0, 2**32 - 1))
def test_the_root_gives_the_correlation_back_with_the_greatest_component_first(precision: np.dtype, seed: int) -> None:
    correlation = definite(seed, FACTORS).astype(precision)
    root = np.asarray(root_of(correlation), float)
    # An orthogonal factorisation is off by a few roundings per dimension of the greatest eigenvalue.
    allowed = 4 * rounding(precision, FACTORS, 1.0) * np.linalg.eigvalsh(correlation.astype(float))[-1]
    np.testing.assert_allclose(root @ root.T, correlation, atol=allowed)
    lengths = np.sum(root**2, axis=0)
    np.testing.assert_allclose(lengths, np.linalg.eigvalsh(correlation.astype(float))[::-1], atol=allowed)
    # Columns are orthogonal, and what they add to the first factors is positive; the error of a column is that of a
    # rotation by K^-1, which the least eigenvalue (0.01 and more here) magnifies.
    gram = root.T @ root
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=100 * allowed)
    first = (root / np.arange(1, FACTORS + 1)[:, None]).sum(axis=0)
    assert (first >= -100 * allowed).all()


@pytest.mark.parametrize("factors", [1, 2, 5])
def test_independent_factors_have_a_root_and_a_finite_gradient(precision: np.dtype, factors: int) -> None:
    # All eigenvalues repeat: the gradient of the eigenvectors would be NaN.
    identity = jnp.eye(factors, dtype=precision)
    root = np.asarray(root_of(identity))
    np.testing.assert_allclose(root @ root.T, identity, atol=8 * np.finfo(precision).eps)
    slope = jax.jit(jax.grad(lambda matrix: jnp.sum(principal_root(matrix) ** 3)))(identity)
    assert np.isfinite(np.asarray(slope)).all()


def test_a_book_s_risk_has_the_gradient_of_its_finite_difference(double: None) -> None:
    # The variance of shocks has a closed form: the gradient of w' L L' w by rho is that of w' C w, path by path too.
    base, other = definite(3, 5), definite(4, 5)
    weights = np.random.default_rng(1).normal(size=5)
    normals = jnp.asarray(np.random.default_rng(2).normal(size=(50_000, 5)))

    def blended(share: jax.Array) -> jax.Array:
        return (1 - share) * base + share * other

    def exact(share: jax.Array) -> jax.Array:
        root = principal_root(blended(share))
        return weights @ root @ root.T @ weights

    slope = jax.jit(jax.grad(exact))(jnp.asarray(0.3))
    np.testing.assert_allclose(slope, weights @ (other - base) @ weights, rtol=1e-9)

    def excess(share: jax.Array) -> jax.Array:
        pnl = copula_shocks(normals, principal_root(blended(share)), jnp.ones(len(normals))) @ weights
        return jnp.maximum(pnl - 1, 0)

    # Of a normal P&L of size s, E(pnl - 1)+ has the derivative phi(1 / s) by s, and s that of w' C w over 2 s.
    size = np.sqrt(weights @ np.asarray(blended(jnp.asarray(0.3))) @ weights)
    wanted = np.exp(-0.5 / size**2) / np.sqrt(2 * np.pi) * (weights @ (other - base) @ weights) / (2 * size)
    slopes = np.asarray(jax.jvp(excess, (jnp.asarray(0.3),), (jnp.asarray(1.0),))[1])
    assert abs(slopes.mean() - wanted) < 4 * slopes.std() / np.sqrt(len(slopes))


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.ones((2, 3)), r"a matrix of shape \(2, 3\) correlates nothing"),
        (np.ones(3), r"a matrix of shape \(3,\) correlates nothing"),
        (np.zeros((0, 0)), r"a matrix of shape \(0, 0\) correlates nothing"),
        ([[1, np.nan], [np.nan, 1]], "in row 0, column 1 is nan. Give a number"),
        ([[1, 0.5], [0.4, 1]], "is 0.5 and 0.4 the other way round"),
        ([[1, 0.5], [0.5, 4]], "a factor's correlation with itself is 1, not 4.0 as in row 1"),
        ([[1, 1.2], [1.2, 1]], "is 1.2, beyond 1"),
        ([[1, 1], [1, 1]], "the least eigenvalue is .*Shrink the matrix"),
        ([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]], "the least eigenvalue is -0.8"),
    ],
)
def test_what_is_no_correlation_matrix_is_refused_with_the_reason(matrix: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_correlation(np.asarray(matrix, float))


def test_correlation_matrices_pass_the_check() -> None:
    for factors in (1, 2, 40):
        check_correlation(np.eye(factors))
        check_correlation(definite(factors, factors))
        check_correlation(np.round(definite(factors, factors), 6))


def simulated(rng: np.random.Generator, freedom: float, correlation: np.ndarray, bars: int) -> np.ndarray:
    """Residuals with a t copula and, by their signs and powers, other marginals."""
    normals = rng.normal(size=(bars, len(correlation))) @ np.linalg.cholesky(correlation).T
    x = normals if np.isinf(freedom) else normals * np.sqrt(freedom / rng.chisquare(freedom, bars))[:, None]
    return np.sign(x) * np.abs(x) ** 0.7


@pytest.mark.parametrize("freedom", [3.0, 6.0, np.inf])
@pytest.mark.parametrize("factors", [2, 5, 30])
def test_the_copula_s_degrees_of_freedom_are_found_again(
    rng: np.random.Generator, freedom: float, factors: int
) -> None:
    correlation = definite(1, factors)
    found = copula_freedom(simulated(rng, freedom, correlation, 4_000), correlation)
    # One pair of 4,000 bars knows 1 / freedom to 0.02; more pairs share bars and know it better. Three of those.
    assert abs(1 / found - 1 / freedom) < (0.06 if factors == 2 else 0.04)


def test_missing_cells_cost_their_own_pairs_and_marginals_do_not_matter(rng: np.random.Generator) -> None:
    correlation = definite(1, 6)
    residuals = simulated(rng, 4.0, correlation, 3_000)
    whole = copula_freedom(residuals, correlation)
    assert copula_freedom(np.exp(residuals / 10), correlation) == pytest.approx(whole, rel=1e-9)
    holes = np.where(rng.random(residuals.shape) < 0.2, np.nan, residuals)
    assert abs(1 / copula_freedom(holes, correlation) - 1 / whole) < 0.03
    # Nothing known together: no copula to be seen, so a normal one.
    apart = np.where((np.arange(3_000) % 6)[:, None] == np.arange(6), residuals, np.nan)
    assert copula_freedom(apart, correlation) == 60
    assert copula_freedom(residuals[:, :1], np.eye(1)) == 60
