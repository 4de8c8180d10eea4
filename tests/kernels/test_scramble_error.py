"""The error of expected shortfall from independent scrambles: against loops, by its laws, and held to what it says."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from marginax_kernels import copula_draws, expected_shortfall, expected_shortfall_scramble_error
from reference import draws as twin
from reference import tail as tails_twin
from reference.samples import SCENARIOS, TAILS, losses, rounding, weights

scramble_error = jax.jit(expected_shortfall_scramble_error, static_argnames=("tail", "scrambles", "draws"))


@given(row=losses(), mass=weights(), tail=st.sampled_from(TAILS), cut=st.sampled_from([(40, 8), (30, 5), (36, 2)]))
def test_the_error_is_that_of_the_blocks_one_by_one(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, cut: tuple[int, int]
) -> None:
    draws, scrambles = cut
    if mass[:draws].sum() == 0:
        return
    row, mass = row.astype(precision), mass.astype(precision)
    got = float(scramble_error(row, mass, tail=tail, scrambles=scrambles, draws=draws))
    wanted = twin.scramble_error(
        row.astype(float),
        mass.astype(float),
        edge=tails_twin.value_at_risk(row, mass, tail=tail),
        shortfall=tails_twin.expected_shortfall(row, mass, tail=tail),
        tail=tail,
        scrambles=scrambles,
        draws=draws,
    )
    # Each block's sum is rounded as a sum over the scenarios of excesses over the tail, and the answer is at most
    # sqrt(2) x the root of `scrambles` of them, times Student's factor, greatest where one draw stands beyond the edge.
    # That factor comes from a table with an error of 5e-5.
    widened = stats.t.ppf(0.975, 1 / (1 / (scrambles - 1) + 1)) / stats.norm.ppf(0.975)
    allowed = rounding(precision, SCENARIOS, 4 * float(np.abs(row).max()) / tail) * np.sqrt(2 * scrambles) * widened
    assert abs(got - wanted) <= allowed + 5e-5 * wanted


@given(row=losses(), tail=st.sampled_from(TAILS), size=st.sampled_from([0.25, 4.0]))
def test_the_error_grows_with_the_book_and_not_with_cash(
    precision: np.dtype, row: np.ndarray, tail: float, size: float
) -> None:
    row, mass = row.astype(precision), np.full(SCENARIOS, 1 / SCENARIOS, precision)
    # Losses that differ by less than the rounding of cash would tie, and other draws lie beyond the edge of ties.
    assume(len(np.unique(row + 1_024)) == len(np.unique(row)))
    error = partial(scramble_error, tail=tail, scrambles=8, draws=SCENARIOS)
    once, scaled, richer = (float(error(each, mass)) for each in (row, row * precision.type(size), row + 1_024))
    # Powers of two scale without rounding, except of what is too small to count.
    assert scaled == pytest.approx(size * once, rel=4 * float(np.finfo(precision).eps), abs=1e-30)
    allowed = 16 * rounding(precision, SCENARIOS, (float(np.abs(row).max()) + 1_024) / tail)
    assert richer == pytest.approx(once, abs=float(allowed))


def test_stress_windows_behind_the_draws_carry_no_error_of_their_own(precision: np.dtype) -> None:
    rng = np.random.default_rng(4)
    drawn, stressed = rng.standard_t(4, 512), rng.standard_t(4, 100) * 5
    row = np.concatenate([drawn, stressed]).astype(precision)
    mass = np.concatenate([np.full(512, 0.98 / 512), np.full(100, 0.02 / 100)]).astype(precision)
    error = partial(scramble_error, tail=0.05, scrambles=16, draws=512)
    whole = float(error(row, mass))
    # Where they stand among themselves changes nothing; how bad the worst of them is, neither.
    assert float(error(np.concatenate([row[:512], row[:511:-1]]), mass)) == whole
    worst = 512 + int(np.argmax(stressed))
    row[worst] *= 10
    assert float(error(row, mass)) == whole
    # Draws that all agree have no error, whatever the stress windows say.
    row[:512] = 1
    assert float(error(row, mass)) <= rounding(precision, 512, 50 / 0.05)


def test_equal_scrambles_have_no_error_and_order_of_scrambles_does_not_matter(precision: np.dtype) -> None:
    block = np.random.default_rng(4).standard_t(4, 32).astype(precision)
    mass = np.full(512, 1 / 512, precision)
    error = partial(scramble_error, tail=0.05, scrambles=16, draws=512)
    size = float(np.abs(block).max()) / 0.05
    assert float(error(np.tile(block, 16), mass)) <= 16 * rounding(precision, 512, size)
    blocks = np.random.default_rng(5).standard_t(4, (16, 32)).astype(precision)
    there, back = float(error(blocks.ravel(), mass)), float(error(blocks[::-1].ravel(), mass))
    assert there == pytest.approx(back, abs=16 * rounding(precision, 512, size))


def test_a_missing_loss_spoils_its_own_account_and_no_other(precision: np.dtype) -> None:
    rows = np.random.default_rng(4).standard_t(4, (3, 64)).astype(precision)
    mass = np.full(64, 1 / 64, precision)
    alone = [float(scramble_error(row, mass, tail=0.1, scrambles=16, draws=64)) for row in rows]
    for place in (5, 63):
        spoilt = rows.copy()
        spoilt[1, place] = np.nan
        got = np.asarray(scramble_error(spoilt, mass, tail=0.1, scrambles=16, draws=48 if place == 63 else 64))
        assert np.isnan(got[1])
        assert np.isfinite(got[[0, 2]]).all()
    got = np.asarray(scramble_error(rows, mass, tail=0.1, scrambles=16, draws=64))
    np.testing.assert_allclose(got, alone, rtol=64 * np.finfo(precision).eps)


@pytest.mark.parametrize(("scrambles", "draws"), [(1, 64), (0, 64), (16, 65), (16, 128), (3, 64), (16, 0)])
def test_draws_that_are_no_equal_blocks_are_refused(scrambles: int, draws: int) -> None:
    with pytest.raises(
        ValueError, match=rf"`draws={draws}` of 64 scenarios cannot be cut into `scrambles={scrambles}`"
    ):
        expected_shortfall_scramble_error(np.zeros(64), np.full(64, 1 / 64), tail=0.1, scrambles=scrambles, draws=draws)


def over_300_sets(
    loss: Callable[[np.ndarray], np.ndarray], *, tail: float, draws: int, stretch: float
) -> tuple[np.ndarray, np.ndarray]:
    """Expected shortfall and its reported error, of a loss on one t(5) factor, from 300 sets of 16 scrambles."""
    rows, masses = [], []
    for seed in range(300):
        normals, scale, mass = copula_draws(1, draws=draws, scrambles=16, seed=seed, freedom=5.0, stretch=stretch)
        rows.append(loss(normals[:, 0] * scale))
        masses.append(mass)

    def each(row: np.ndarray, mass: np.ndarray) -> tuple[jax.Array, jax.Array]:
        error = expected_shortfall_scramble_error(row, mass, tail=tail, scrambles=16, draws=draws)
        return expected_shortfall(row, mass, tail=tail), error

    shortfall, error = jax.jit(jax.vmap(each))(np.array(rows), np.array(masses))
    return np.asarray(shortfall), np.asarray(error)


def test_two_standard_errors_hold_the_true_value_in_95_of_100_sets(double: None) -> None:
    # One t(5) factor: its ES 99 % is known exactly. 300 sets of 16 x 64 draws; at 95 % the share inside has a standard
    # error of 1.3 %, and the mean square of the reported error 2.5 %.
    edge = stats.t.ppf(0.99, 5)
    truth = stats.t.pdf(edge, 5) / 0.01 * (5 + edge**2) / 4
    shortfall, error = over_300_sets(lambda moves: moves, tail=0.01, draws=1_024, stretch=2.5)
    off = shortfall - truth
    assert 0.91 <= np.mean(np.abs(off) <= 2 * error) <= 0.985
    # Student's factor for 16 blocks and some 20 draws is 1.16; sampling noise of either root mean square is 4 %.
    assert np.sqrt(np.mean(error**2) / np.mean(off**2)) == pytest.approx(1.16, abs=0.15)


def test_few_draws_beyond_the_edge_widen_the_error_as_few_blocks_do(double: None) -> None:
    # Blocks of four, one of them with one loss of 1 and, of the other 63, all at 0: one draw stands behind the answer.
    row = np.zeros(64)
    row[5] = 1
    mass = np.full(64, 1 / 64)
    got = float(scramble_error(row, mass, tail=0.05, scrambles=16, draws=64))
    # The block is off by 15 / 16 of 1 / 64 / 0.05 and each of the others by 1 / 16 of it the other way.
    bare = np.sqrt(16 / 15 * (15**2 + 15) / 16**2) / 64 / 0.05
    assert got == pytest.approx(bare * stats.t.ppf(0.975, 15 / 16) / stats.norm.ppf(0.975), rel=5e-5)
    # Two draws of equal weight beyond the edge, in blocks of their own, know twice as much.
    row[40] = 1
    got = float(scramble_error(row, mass, tail=0.05, scrambles=16, draws=64))
    bare = np.sqrt(16 / 15 * (2 * 14**2 + 14 * 2**2) / 16**2) / 64 / 0.05
    assert got == pytest.approx(bare * stats.t.ppf(0.975, 1 / (1 / 15 + 1 / 2)) / stats.norm.ppf(0.975), rel=5e-5)


def test_two_standard_errors_hold_the_true_value_where_few_draws_are_left_in_the_tail(double: None) -> None:
    # A bought straddle on one t(5) factor loses most where it does not move: its tail of 0.0025 holds three draws. Its
    # ES is known exactly, minus the mean of |x| below the edge q of that probability. At 95 % the share has a standard
    # error of 1.3 %, and three draws know their own error poorly enough to cost some more.
    edge = stats.t.isf(0.49875, 5)
    truth = -stats.t.expect(np.abs, (5,), lb=-edge, ub=edge) / 0.0025
    shortfall, error = over_300_sets(lambda moves: -np.abs(moves), tail=0.0025, draws=2_048, stretch=3.0)
    assert 0.9 <= np.mean(np.abs(shortfall - truth) <= 2 * error) <= 0.985
