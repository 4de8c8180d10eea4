"""Draws: balanced points, a mixing variable whose weights undo its stretch, and shocks with the copula's law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginax_kernels import (
    copula_draws,
    copula_shocks,
    effective_sample_size,
    principal_root,
    scrambles_for,
    sobol_uniforms,
    stretch_for,
    stretched_mixing,
    tail_weights,
)
from marginax_kernels.draws import GREATEST_WEIGHT
from reference import draws as twin
from reference.samples import rounding

shocks = jax.jit(copula_shocks)
sample_size = jax.jit(effective_sample_size)
FREEDOMS = st.sampled_from([2.1, 3.0, 5.0, 12.5, 60.0])
STRETCHES = st.sampled_from([1.0, 1.4, 2.0, 2.5, 4.0, 8.0])


@given(seed=st.integers(0, 2**63), scrambles=st.sampled_from([1, 3, 16]), power=st.integers(0, 7))
def test_every_scramble_puts_one_point_into_each_slice_of_each_axis(seed: int, scrambles: int, power: int) -> None:
    points = 2**power
    made = sobol_uniforms(6, draws=scrambles * points, scrambles=scrambles, seed=seed)
    assert made.shape == (scrambles * points, 6)
    assert (made > 0).all()
    assert (made < 1).all()
    slices = np.sort(np.floor(made.reshape(scrambles, points, 6) * points), axis=1)
    np.testing.assert_array_equal(slices, np.broadcast_to(np.arange(points)[:, None], slices.shape))


def test_a_seed_and_nothing_else_decides_the_draws() -> None:
    make = {"draws": 512, "scrambles": 16, "freedom": 5.0, "stretch": 2.5}
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    first = copula_draws(8, seed=3, **make)
    again = copula_draws(8, seed=3, **make)
    other = copula_draws(8, seed=4, **make)
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_scrambles_are_independent_of_each_other_and_of_how_many_follow() -> None:
    few = sobol_uniforms(4, draws=256, scrambles=2, seed=3)
    many = sobol_uniforms(4, draws=32_768, scrambles=256, seed=3)
    np.testing.assert_array_equal(few, many[:256])
    # What one scramble's mean is off by says nothing of its neighbour's: a correlation of 255 pairs is beyond 0.25 once
    # in 15,000.
    off = np.mean(many.reshape(256, 128, 4).prod(axis=2), axis=1) - 1 / 16
    assert abs(np.corrcoef(off[:-1], off[1:])[0, 1]) < 0.25
    assert abs(off.mean()) < 4 * off.std() / 16


@pytest.mark.parametrize(("draws", "scrambles"), [(1_000, 10), (2_048, 3), (96, 2), (8, 16), (16, 0), (0, 1)])
def test_draws_that_cannot_be_cut_into_powers_of_two_are_refused(draws: int, scrambles: int) -> None:
    with pytest.raises(ValueError, match=f"`draws={draws}` cannot be cut into `scrambles={scrambles}` blocks"):
        sobol_uniforms(3, draws=draws, scrambles=scrambles, seed=1)


def test_more_factors_than_sobol_has_directions_for_are_refused() -> None:
    with pytest.raises(ValueError, match="21202 dimensions are outside the 21201"):
        sobol_uniforms(21_202, draws=2, scrambles=1, seed=1)


@pytest.mark.parametrize(
    ("draws", "scrambles"), [(512, 16), (1_024, 16), (2_048, 16), (10_240, 20), (8_192, 16), (24_576, 24)]
)
def test_a_set_is_cut_into_the_least_number_of_blocks_that_tells_its_error(draws: int, scrambles: int) -> None:
    assert scrambles_for(draws) == scrambles
    assert sobol_uniforms(1, draws=draws, scrambles=scrambles, seed=1).shape == (draws, 1)


@pytest.mark.parametrize("draws", [1, 256, 1_000, 2_047, 10_000])
def test_a_set_that_gives_no_blocks_of_32_points_is_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=f"`draws={draws}` cannot be cut into 16 or more blocks"):
        scrambles_for(draws)


@given(freedom=FREEDOMS, stretch=STRETCHES, seed=st.integers(0, 2**32 - 1))
def test_the_mixing_variable_is_the_bisected_one(freedom: float, stretch: float, seed: int) -> None:
    uniform = np.append(np.random.default_rng(seed).random(12), [2**-31, 1 - 2**-31])
    scale, weights = stretched_mixing(uniform, freedom=freedom, stretch=stretch)
    wanted, mass = twin.mixing(uniform, freedom=freedom, stretch=stretch, greatest=GREATEST_WEIGHT)
    # Newton and bisection both end within a few roundings of the root. At 1 - 2^-31 that is 2^-20 of its distance from
    # 1, on which the chi-square quantile depends.
    np.testing.assert_allclose(scale, wanted, rtol=2.0**-20)
    np.testing.assert_allclose(weights, mass, rtol=1e-12)


@given(freedom=FREEDOMS, stretch=STRETCHES)
def test_weights_undo_the_stretch_whatever_is_averaged(freedom: float, stretch: float) -> None:
    # Midpoints are the best quadrature of one variable. Means over the weighted draws are those over the chi-square;
    # 4,000 midpoints leave an error of 1 / 4,000 in a distribution function and less in smooth means.
    uniform = (np.arange(4_000) + 0.5) / 4_000
    scale, weights = stretched_mixing(uniform, freedom=freedom, stretch=stretch)
    chi_square = freedom / scale**2
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights.min() > 0
    assert weights.max() <= GREATEST_WEIGHT / 4_000 * (1 + 1e-3)
    for share in (0.001, 0.01, 0.2, 0.5, 0.9):
        below = chi_square <= stats.chi2.ppf(share, freedom)
        assert weights[below].sum() == pytest.approx(share, abs=GREATEST_WEIGHT / 4_000)
    assert weights @ np.minimum(chi_square, 100) == pytest.approx(
        stats.chi2.expect(lambda w: np.minimum(w, 100.0), (freedom,), ub=2_000.0), rel=2e-3
    )


def test_a_stretch_of_one_and_a_normal_copula_are_plain_draws() -> None:
    uniform = sobol_uniforms(1, draws=64, scrambles=1, seed=1)[:, 0]
    scale, weights = stretched_mixing(uniform, freedom=5.0, stretch=1)
    np.testing.assert_array_equal(weights, np.full(64, 1 / 64))
    np.testing.assert_array_equal(scale, np.sqrt(5 / stats.chi2.ppf(uniform, 5)))
    scale, weights = stretched_mixing(uniform, freedom=np.inf, stretch=2.5)
    np.testing.assert_array_equal(scale, np.ones(64))
    np.testing.assert_array_equal(weights, np.full(64, 1 / 64))


def test_deeper_tails_are_stretched_more_and_the_whole_not_at_all() -> None:
    assert stretch_for(1.0) == 1
    assert [round(stretch_for(tail), 2) for tail in (0.05, 0.01, 0.0025)] == [2.0, 2.54, 3.0]
    for tail in (0.0, -0.01, 1.5, np.nan):
        with pytest.raises(ValueError, match="is no probability"):
            stretch_for(tail)
    with pytest.raises(ValueError, match=r"`stretch=0.5` would draw calm days"):
        stretched_mixing(np.full(2, 0.5), freedom=5.0, stretch=0.5)


@pytest.mark.parametrize("freedom", [5.0, np.inf])
def test_shocks_have_the_correlation_and_the_tails_of_the_copula(precision: np.dtype, freedom: float) -> None:
    correlation = np.array([[1.0, 0.7, -0.2], [0.7, 1.0, 0.1], [-0.2, 0.1, 1.0]])
    made = copula_draws(3, draws=65_536, scrambles=16, seed=5, freedom=freedom, stretch=2.5)
    normals, scale, weights = (each.astype(precision) for each in made)
    x = np.asarray(shocks(normals, principal_root(jnp.asarray(correlation, precision)), scale), float)
    law = stats.norm if np.isinf(freedom) else stats.t(freedom)
    # A probability p of 65,536 draws has a standard error of sqrt(p (1 - p) x 2 / 65,536) if they were plain; four.
    for probability in (0.001, 0.01, 0.3, 0.9, 0.995):
        allowed = 4 * np.sqrt(probability * (1 - probability) * GREATEST_WEIGHT / 65_536)
        got = weights @ (x <= law.ppf(probability))
        np.testing.assert_allclose(got, probability, atol=allowed)
    # Kendall's tau of every elliptical law is 2 / pi asin(rho): the sign of products of independent pairs tells it.
    order = np.random.default_rng(1).permutation(len(x))
    apart, mass = x - x[order], weights * weights[order]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        tau = np.sum(mass * np.sign(apart[:, i] * apart[:, j])) / mass.sum()
        # The variance of a sign is 1; each draw stands in two pairs, and pairs weigh up to four.
        assert abs(tau - 2 / np.pi * np.arcsin(correlation[i, j])) <= 4 * np.sqrt(2 * GREATEST_WEIGHT**2 / len(x))


def test_a_hedge_of_one_factor_by_itself_leaves_nothing_but_rounding(precision: np.dtype) -> None:
    # Two factors with a correlation of 1 - 1e-6: what is left of a hedge is a thousandth of it. TF32 would leave more.
    correlation = jnp.asarray([[1, 1 - 1e-6], [1 - 1e-6, 1]], precision)
    normals, scale, _ = (
        each.astype(precision) for each in copula_draws(2, draws=512, scrambles=16, seed=5, freedom=5.0, stretch=2.5)
    )
    root = np.asarray(principal_root(correlation), float)
    x = np.asarray(shocks(normals, root.astype(precision), scale), float)
    wanted = normals.astype(float) @ root.T * scale.astype(float)[:, None]
    allowed = rounding(precision, 2, 1) * np.abs(scale * np.abs(normals).sum(axis=1))
    assert (np.abs((x - wanted)[:, 0] - (x - wanted)[:, 1]) <= 2 * allowed).all()


@given(count=st.integers(1, 40))
def test_equal_weights_are_worth_as_many_draws_as_there_are(precision: np.dtype, count: int) -> None:
    weights = np.where(np.arange(40) < count, 1 / count, 0).astype(precision)
    assert float(sample_size(weights)) == pytest.approx(count, rel=rounding(precision, 40, 2.0))
    assert float(sample_size(np.eye(40, dtype=precision)[3])) == 1


def test_the_stretched_tail_of_2048_draws_holds_several_times_its_share(precision: np.dtype) -> None:
    # A plain set has 20 draws in its worst 1 %, and they are worth 20.
    made = copula_draws(5, draws=2_048, scrambles=16, seed=5, freedom=5.0, stretch=stretch_for(0.01))
    normals, scale, weights = (each.astype(precision) for each in made)
    shares = tail_weights(shocks(normals, np.eye(5, dtype=precision), scale).T, weights, tail=0.01)
    held = np.sum(np.asarray(shares) > 0, axis=1)
    assert ((held > 80) & (held < 250)).all()
    assert (np.asarray(sample_size(shares)) > 30).all()
