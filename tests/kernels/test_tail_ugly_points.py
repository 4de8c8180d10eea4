"""The tail where it is ugly: ties, lonely scenarios, weights of zero, tails of everything, and numbers that are none."""

import jax
import numpy as np
import pytest

from marginax_kernels import (
    expected_shortfall,
    expected_shortfall_error,
    first_worst,
    tail_weights,
    value_at_risk,
)
from reference import tail as twin
from reference.samples import SCENARIOS, TAILS, rounding

var = jax.jit(value_at_risk, static_argnames="tail")
shortfall = jax.jit(expected_shortfall, static_argnames="tail")
shares = jax.jit(tail_weights, static_argnames="tail")
error = jax.jit(expected_shortfall_error, static_argnames="tail")
worst = jax.jit(first_worst)

EVEN = np.full(SCENARIOS, 1 / SCENARIOS)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("level", [0.0, -3.5, 1e6])
def test_a_loss_that_never_changes_is_its_own_tail(precision: np.dtype, level: float, tail: float) -> None:
    row, mass = np.full(SCENARIOS, level, precision), EVEN.astype(precision)
    # No loss exceeds the edge, so nothing is summed and nothing is rounded.
    assert float(var(row, mass, tail=tail)) == level
    assert float(shortfall(row, mass, tail=tail)) == level
    assert float(error(row, mass, tail=tail)) == 0
    np.testing.assert_allclose(shares(row, mass, tail=tail), EVEN, atol=rounding(precision, SCENARIOS, 1.0))
    assert int(worst(row)) == 0


@pytest.mark.parametrize("tail", [0.05, 0.1, 0.25])
def test_scenarios_that_tie_on_the_edge_share_what_is_left_by_weight(
    precision: np.dtype, tail: float
) -> None:
    # One scenario of weight 0.04 loses 10, and four of weights in the ratio 1 : 2 : 3 : 4 lose 5.
    row, mass = np.zeros(SCENARIOS), np.zeros(SCENARIOS)
    row[:5], mass[:5] = [10, 5, 5, 5, 5], [0.04, 0.03, 0.06, 0.09, 0.12]
    mass[5:] = 0.66 / (SCENARIOS - 5)
    row, mass = row.astype(precision), mass.astype(precision)
    unit = rounding(precision, SCENARIOS, 1.0)
    assert float(var(row, mass, tail=tail)) == 5
    assert float(shortfall(row, mass, tail=tail)) == pytest.approx(5 + 5 * 0.04 / tail, abs=10 * unit)
    got = np.asarray(shares(row, mass, tail=tail), float)
    left = 1 - 0.04 / tail
    np.testing.assert_allclose(got[:5], [0.04 / tail, *(left * np.array([0.1, 0.2, 0.3, 0.4]))], atol=unit)
    assert (got[5:] == 0).all()


@pytest.mark.parametrize("tail", TAILS)
def test_a_scenario_with_all_the_weight_is_the_whole_tail(precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    mass = np.zeros(SCENARIOS, precision)
    mass[11] = 1
    assert var(row, mass, tail=tail) == row[11]
    # 28 deeper losses weigh nothing: their excess times zero is zero.
    assert shortfall(row, mass, tail=tail) == row[11]
    np.testing.assert_array_equal(shares(row, mass, tail=tail), mass)


@pytest.mark.parametrize("tail", [1e-9, 1e-4, 0.02])
def test_a_tail_smaller_than_any_weight_is_the_worst_loss(precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    mass = EVEN.astype(precision)
    assert var(row, mass, tail=tail) == row[-1]
    assert shortfall(row, mass, tail=tail) == row[-1]
    np.testing.assert_array_equal(shares(row, mass, tail=tail), np.arange(SCENARIOS) == SCENARIOS - 1)


@pytest.mark.parametrize("tail", TAILS)
def test_scenarios_without_mass_enter_worst_cases_only(precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS)
    mass = np.where(np.arange(SCENARIOS) % 3 == 0, 0.0, 1.0)
    mass /= mass.sum()
    deep = np.where(mass == 0, 50 + row, row)  # whatever they lose, and wherever they stand
    shallow = np.where(mass == 0, -50 + row, row)
    cells = mass.astype(precision)
    for kernel in (var, shortfall, error):
        answers = {float(kernel(each.astype(precision), cells, tail=tail)) for each in (row, deep, shallow)}
        assert len(answers) == 1
    assert int(worst(deep.astype(precision))) == SCENARIOS - 1
    assert (np.asarray(shares(deep.astype(precision), cells, tail=tail))[mass == 0] == 0).all()


def test_a_tail_of_everything_is_the_mean_and_the_least_loss_with_weight(precision: np.dtype) -> None:
    row = np.linspace(-7, 9, SCENARIOS).astype(precision)
    mass = np.arange(SCENARIOS) / np.arange(SCENARIOS).sum()  # the least loss weighs nothing
    cells = mass.astype(precision)
    assert var(row, cells, tail=1.0) == row[1]
    assert float(shortfall(row, cells, tail=1.0)) == pytest.approx(
        float(row.astype(float) @ mass), abs=rounding(precision, SCENARIOS, 18.0)
    )
    np.testing.assert_allclose(shares(row, cells, tail=1.0), mass, atol=rounding(precision, SCENARIOS, 1.0))


def test_a_book_that_only_gains_has_a_negative_tail(precision: np.dtype) -> None:
    row = -np.linspace(100, 139, SCENARIOS).astype(precision)
    mass = EVEN.astype(precision)
    assert var(row, mass, tail=0.05) == row[1]
    assert float(shortfall(row, mass, tail=0.05)) == pytest.approx(
        -100.5, abs=rounding(precision, SCENARIOS, 280)
    )


def test_losses_across_all_sizes_and_both_zeros_are_ordered(precision: np.dtype) -> None:
    info = np.finfo(precision)
    ladder = np.array([-info.max, -1.0, -info.tiny, -0.0, 0.0, info.tiny, 1.0, info.max], precision)
    mass = np.full(8, 1 / 8, precision)
    for rank, wanted in enumerate(ladder[::-1], start=1):
        assert float(var(ladder, mass, tail=rank / 8)) == wanted


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cells", [slice(3, 4), slice(None)])
def test_a_row_that_is_no_number_leaves_the_bits_of_the_others(
    precision: np.dtype, rng: np.random.Generator, broken: float, cells: slice
) -> None:
    rows = rng.standard_t(3, (64, SCENARIOS)).astype(precision)
    mass = EVEN.astype(precision)
    spoilt = rows.copy()
    spoilt[17, cells] = broken
    others = np.arange(64) != 17
    for kernel in (var, shortfall, shares, error):
        clean = np.asarray(kernel(rows, mass, tail=0.05))[others]
        np.testing.assert_array_equal(np.asarray(kernel(spoilt, mass, tail=0.05))[others], clean)
    np.testing.assert_array_equal(np.asarray(worst(spoilt))[others], np.asarray(worst(rows))[others])


def test_a_loss_that_is_unknown_makes_every_figure_of_its_row_unknown(precision: np.dtype) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    row[0] = np.nan  # far from the tail: still nobody knows where it belongs
    mass = EVEN.astype(precision)
    assert np.isnan(var(row, mass, tail=0.05))
    assert np.isnan(shortfall(row, mass, tail=0.05))
    assert np.isnan(error(row, mass, tail=0.05))
    assert np.isnan(shares(row, mass, tail=0.05)).all()
    assert int(worst(row)) == SCENARIOS


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_loss_without_bound_is_never_a_finite_shortfall(precision: np.dtype, count: int) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    row[10 : 10 + count] = np.inf
    mass = EVEN.astype(precision)
    edge = float(var(row, mass, tail=0.05))
    assert edge == twin.value_at_risk(row, mass, tail=0.05)
    assert not np.isfinite(float(shortfall(row, mass, tail=0.05)))
    assert int(worst(row)) == 10
