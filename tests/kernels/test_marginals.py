"""Marginals: maps against SciPy's quantiles, empirical quantiles with a tail, and degrees of freedom found again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from marginax_kernels import apply_map, empirical_map, marginal_map, t_freedom, tail_map, tail_probability
from reference import draws as twin

FREEDOMS = (2.1, 2.5, 3.0, 4.0, 5.0, 8.0, 20.0, 60.0, np.inf)
# What the maps promise: the polynomials' own error, and that of adding 13 or 17 terms in float32.
MAP_ERROR, TAIL_ERROR = 4e-5, 2e-4
BARS, DRAWS = 25, 16

mapped = jax.jit(apply_map)
probability = jax.jit(tail_probability)
residual = jax.jit(empirical_map)


def copula_shocks_to(outermost: float, freedom: float) -> np.ndarray:
    """Shocks from the middle to the tail probability `outermost`, ten a decade."""
    beyond = 10.0 ** np.arange(-0.31, np.log10(outermost), -0.1)
    return -special.ndtri(beyond) if np.isinf(freedom) else -special.stdtrit(freedom, beyond)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_shocks_are_the_marginals_own_quantiles(precision: np.dtype, freedom: float) -> None:
    x = copula_shocks_to(1e-14, freedom).astype(precision)
    table = marginal_map(freedom, np.array(FREEDOMS))
    got = np.asarray(mapped(table, np.tile(x[:, None], len(FREEDOMS))), float)
    wanted = np.array([[twin.marginal(float(each), freedom, of) for of in FREEDOMS] for each in x])
    np.testing.assert_allclose(got, wanted, rtol=MAP_ERROR)
    np.testing.assert_array_equal(np.asarray(mapped(table, np.tile(-x[:, None], len(FREEDOMS))), float), -got)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_tail_probabilities_are_exact_far_out(precision: np.dtype, freedom: float) -> None:
    x = copula_shocks_to(1e-14, freedom).astype(precision)
    got = np.asarray(probability(tail_map(freedom), np.stack([x, -x])), float)
    wanted = stats.norm.sf(x.astype(float)) if np.isinf(freedom) else stats.t.sf(x.astype(float), freedom)
    np.testing.assert_allclose(got, np.stack([wanted, wanted]), rtol=TAIL_ERROR)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_maps_rise_everywhere_and_never_end(precision: np.dtype, freedom: float) -> None:
    x = np.concatenate([np.linspace(-20, 20, 2_001), np.geomspace(20.5, 1e8, 200)]).astype(precision)[:, None]
    got = np.asarray(mapped(marginal_map(freedom, np.array(FREEDOMS)), np.tile(x, len(FREEDOMS))), float)
    assert np.isfinite(got).all()
    assert (np.diff(got, axis=0) > 0).all()
    beyond = np.asarray(probability(tail_map(freedom), np.abs(x)), float)
    assert ((beyond > 0) & (beyond <= 0.5)).all()


def test_the_same_t_is_a_factor_and_has_unit_variance(precision: np.dtype) -> None:
    x = np.linspace(-9, 9, 7, dtype=precision)[:, None]
    table = marginal_map(5.0, np.full(1, 5.0))
    assert len(table.coefficients) == 1
    eps = float(np.finfo(precision).eps)
    np.testing.assert_allclose(mapped(table, x), np.sqrt(0.6) * x, rtol=4 * eps)
    for marginals in ([3.0, 5.0, 60.0, np.inf], [12.0] * 4):
        u = (np.arange(200_000) + 0.5) / 200_000
        unit = mapped(marginal_map(4.0, np.array(marginals)), np.tile(stats.t.ppf(u, 4)[:, None], 4).astype(precision))
        # Midpoints miss part of the variance beyond the outermost of them: of a t(3) 1.7 %.
        np.testing.assert_allclose(np.mean(np.asarray(unit, float) ** 2, axis=0), 1, atol=0.02)


def test_marginals_without_a_variance_are_refused() -> None:
    with pytest.raises(ValueError, match=r"marginals of 2\.0 degrees of freedom have no variance"):
        marginal_map(5.0, np.array([5.0, 2.0]))


@pytest.mark.parametrize("freedom", [3.0, 8.0, np.inf])
def test_the_gradient_of_a_map_is_its_slope(double: None, freedom: float) -> None:
    x = np.concatenate([copula_shocks_to(1e-10, freedom), [0.0, 1e7]])
    width = 1e-5 * (1 + np.abs(x))
    for of in (2.5, 5.0, np.inf):
        table = marginal_map(freedom, np.full(1, of))
        slope = jax.vmap(jax.grad(lambda each, table=table: apply_map(table, each[None, None])[0, 0]))(jnp.asarray(x))
        up, down = (np.asarray(mapped(table, (x + sign * width)[:, None]))[:, 0] for sign in (1, -1))
        # A central difference is off by the square of its width, 1e-10, and by rounding over it, 1e-11.
        np.testing.assert_allclose(slope, (up - down) / (2 * width), rtol=1e-6)


def samples() -> st.SearchStrategy[np.ndarray]:
    """Residuals of one factor; some missing, some of one sign only, ties."""
    some = st.integers(-300, 300).map(lambda count: count / 100)
    shift = st.sampled_from([0.0, 4.0, -4.0])
    missing = arrays(np.bool_, BARS, elements=st.booleans())
    parts = st.tuples(arrays(np.float64, BARS, elements=some), missing, shift)
    return parts.map(lambda each: np.where(each[1] & (np.arange(BARS) > 0), np.nan, each[0] + each[2]))


@given(sample=samples(), other=samples(), seed=st.integers(0, 99))
def test_empirical_shocks_are_interpolated_residuals_with_a_t_tail_beyond(
    precision: np.dtype, sample: np.ndarray, other: np.ndarray, seed: int
) -> None:
    columns = np.stack([sample, other], axis=1)
    x = np.random.default_rng(seed).standard_t(2, (DRAWS, 2)).astype(precision)
    ranked = np.sort(columns, axis=0).astype(precision)
    tails = np.array([3.0, np.inf])
    got = residual(ranked, x, table=tail_map(5.0), freedom=tails.astype(precision))
    wanted = [
        [twin.empirical(columns[:, k], float(x[s, k]), freedom=5.0, tail_freedom=tails[k]) for k in (0, 1)]
        for s in range(DRAWS)
    ]
    # A probability off by TAIL_ERROR moves a quantile by that share of the bars times the gap between two residuals,
    # and a shock beyond by a third of it.
    allowed = TAIL_ERROR * BARS * 6.5
    np.testing.assert_allclose(np.asarray(got, float), wanted, atol=allowed, rtol=TAIL_ERROR)


def test_empirical_shocks_do_not_stop_at_the_worst_day_seen(precision: np.dtype) -> None:
    ranked = np.sort(np.random.default_rng(1).standard_t(4, (500, 1)), axis=0).astype(precision)
    x = np.array([[-50.0], [50.0]], precision)
    held, grown = (
        np.asarray(residual(ranked, x, table=tail_map(4.0), freedom=np.asarray(each, precision)))[:, 0]
        for each in ([np.inf], [4.0])
    )
    np.testing.assert_array_equal(held, [ranked[0, 0], ranked[-1, 0]])
    # A t(4) tail is a power law: 50 is beyond with probability 4.8e-7, 1,000 bars see 2,089 times less.
    growth = (1_000 * stats.t.sf(50, 4)) ** -0.25
    np.testing.assert_allclose(grown, held * growth, rtol=TAIL_ERROR)


def test_empirical_shocks_rise_with_the_copula_shock_and_meet_in_the_middle(precision: np.dtype) -> None:
    for bars in (1, 2, 7, 500):
        ranked = np.sort(np.random.default_rng(bars).standard_t(4, (bars, 1)), axis=0).astype(precision)
        x = np.concatenate([np.linspace(-30, 30, 4_001), [-1e-6, 1e-6]]).astype(precision)
        got = np.asarray(residual(ranked, np.sort(x)[:, None], table=tail_map(4.0), freedom=np.full(1, 4, precision)))
        # Interpolation rounds at the size of the residuals it is between.
        assert (np.diff(got[:, 0].astype(float)) >= -8 * np.finfo(precision).eps * np.abs(ranked).max()).all()


def test_a_factor_without_residuals_has_no_shocks_and_spoils_no_other(precision: np.dtype) -> None:
    ranked = np.stack([np.full(9, np.nan), np.arange(9.0)], axis=1).astype(precision)
    got = residual(ranked, np.ones((3, 2), precision), table=tail_map(4.0), freedom=np.full(2, 4, precision))
    assert np.isnan(np.asarray(got)[:, 0]).all()
    assert np.isfinite(np.asarray(got)[:, 1]).all()


def test_the_gradient_of_an_empirical_shock_is_the_quantile_s_own_weights(double: None) -> None:
    ranked = jnp.asarray(np.sort(np.random.default_rng(2).standard_t(4, (40, 1)), axis=0))
    table, freedom = tail_map(4.0), jnp.full(1, 4.0)
    for x in (-30.0, -1.3, -0.2, 0.4, 2.0, 30.0):

        def shock(sample: jax.Array, at: jax.Array) -> jax.Array:
            return empirical_map(sample, at[None, None], table=table, freedom=freedom)[0, 0]

        by_sample, slope = jax.jit(jax.grad(shock, argnums=(0, 1)))(ranked, jnp.asarray(x))
        width = 1e-6
        wanted = (shock(ranked, jnp.asarray(x + width)) - shock(ranked, jnp.asarray(x - width))) / (2 * width)
        np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-9)
        # A quantile is positively homogeneous in the residuals (Euler).
        np.testing.assert_allclose(jnp.sum(by_sample * ranked), shock(ranked, jnp.asarray(x)), rtol=1e-12)


@pytest.mark.parametrize("freedom", [2.5, 3.0, 5.0, 10.0, 60.0])
def test_degrees_of_freedom_are_found_again(rng: np.random.Generator, freedom: float) -> None:
    found = t_freedom(rng.standard_t(freedom, (2_000, 200)) * np.sqrt((freedom - 2) / freedom))
    # Fisher information in 1 / freedom: its standard error is about 0.018 on 2,000 draws, near 60 half of a normal's
    # spread, folded at the bound. The median over 200 columns has a tenth of it.
    assert abs(np.median(1 / found) - 1 / freedom) < 0.006
    assert np.std(1 / found) < 0.03


def test_missing_residuals_are_left_out_and_absent_ones_get_four(rng: np.random.Generator) -> None:
    whole = rng.standard_t(5, (400, 4)) * np.sqrt(0.6)
    holes = whole.copy()
    holes[:100, 1], holes[:, 2] = np.nan, np.nan
    found = t_freedom(holes)
    np.testing.assert_allclose(found[[0, 3]], t_freedom(whole)[[0, 3]])
    np.testing.assert_allclose(found[1], t_freedom(whole[100:, 1:2])[0])
    assert found[2] == 4
    assert ((found >= 2.1) & (found <= 60)).all()


def test_likelihood_is_greatest_at_the_degrees_of_freedom_given(rng: np.random.Generator) -> None:
    sample = rng.standard_t(6, (300, 3)) * np.sqrt(4 / 6)
    found = t_freedom(sample)

    def likelihood(freedom: float, column: np.ndarray) -> float:
        return stats.t.logpdf(column, freedom, scale=np.sqrt((freedom - 2) / freedom)).sum()

    for column, best in zip(sample.T, found, strict=True):
        assert all(likelihood(best, column) >= likelihood(best * by, column) for by in (0.9, 0.99, 1.01, 1.1))
