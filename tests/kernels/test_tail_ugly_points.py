"""The tail where it is ugly: ties, lonely scenarios, zero weights, tails of everything, numbers that are none."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from marginax_kernels import value_at_risk
from reference import tail as twin
from reference.samples import SCENARIOS, TAILS, rounding

Measure = Callable[..., Any]
EVEN = np.full(SCENARIOS, 1 / SCENARIOS)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("level", [0.0, -3.5, 1e6])
def test_a_loss_that_never_changes_is_its_own_tail(
    measure: Measure, precision: np.dtype, level: float, tail: float
) -> None:
    got = measure(np.full(SCENARIOS, level, precision), EVEN.astype(precision), tail=tail)
    # No loss exceeds the edge, so nothing is summed and nothing is rounded.
    assert float(got.var) == level
    assert float(got.shortfall) == level
    assert float(got.error) == 0
    assert int(got.worst) == 0
    np.testing.assert_allclose(got.shares, EVEN, atol=rounding(precision, SCENARIOS, 1.0))


def test_scenarios_that_tie_on_the_edge_share_what_is_left_by_weight(measure: Measure, precision: np.dtype) -> None:
    # One scenario of weight 0.04 loses 10, and four of weights in the ratio 1 : 2 : 3 : 4 lose 5.
    row, mass = np.zeros(SCENARIOS), np.zeros(SCENARIOS)
    row[:5], mass[:5] = [10, 5, 5, 5, 5], [0.04, 0.03, 0.06, 0.09, 0.12]
    mass[5:] = 0.66 / (SCENARIOS - 5)
    got = measure(row.astype(precision), mass.astype(precision), tail=0.1)
    unit = rounding(precision, SCENARIOS, 1.0)
    assert float(got.var) == 5
    assert float(got.shortfall) == pytest.approx(5 + 5 * 0.04 / 0.1, abs=10 * unit)
    # The tail holds 0.4 of the worst; the other 0.6 are shared.
    np.testing.assert_allclose(got.shares[:5], [0.4, 0.06, 0.12, 0.18, 0.24], atol=unit)
    assert (np.asarray(got.shares)[5:] == 0).all()


@pytest.mark.parametrize("tail", TAILS)
def test_a_scenario_with_all_the_weight_is_the_whole_tail(measure: Measure, precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    mass = np.zeros(SCENARIOS, precision)
    mass[11] = 1
    got = measure(row, mass, tail=tail)
    # 28 deeper losses weigh nothing: their excess times zero is zero.
    assert got.var == row[11]
    assert got.shortfall == row[11]
    assert float(got.error) == 0
    np.testing.assert_array_equal(got.shares, mass)


@pytest.mark.parametrize("tail", [1e-9, 0.01])
def test_a_tail_smaller_than_any_weight_is_the_worst_loss(measure: Measure, precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    got = measure(row, EVEN.astype(precision), tail=tail)
    assert got.var == row[-1]
    assert got.shortfall == row[-1]
    np.testing.assert_array_equal(got.shares, np.arange(SCENARIOS) == SCENARIOS - 1)


@pytest.mark.parametrize("tail", TAILS)
def test_scenarios_without_mass_enter_worst_cases_only(measure: Measure, precision: np.dtype, tail: float) -> None:
    row = np.linspace(-7, 7, SCENARIOS)
    mass = np.where(np.arange(SCENARIOS) % 3 == 0, 0.0, 1.0)
    mass /= mass.sum()
    # Whatever they lose, and wherever they stand.
    paths = row, np.where(mass == 0, 50 + row, row), np.where(mass == 0, -50 + row, row)
    plain, deep, shallow = (measure(path.astype(precision), mass.astype(precision), tail=tail) for path in paths)
    for name in ("var", "shortfall", "shares", "error"):
        np.testing.assert_array_equal(getattr(deep, name), getattr(plain, name))
        np.testing.assert_array_equal(getattr(shallow, name), getattr(plain, name))
    assert (np.asarray(plain.shares)[mass == 0] == 0).all()
    assert int(deep.worst) == SCENARIOS - 1


def test_a_tail_of_everything_is_the_mean_and_the_least_loss_with_weight(measure: Measure, precision: np.dtype) -> None:
    row = np.linspace(-7, 9, SCENARIOS).astype(precision)
    mass = np.arange(SCENARIOS) / np.arange(SCENARIOS).sum()  # the least loss weighs nothing
    got = measure(row, mass.astype(precision), tail=1.0)
    assert got.var == row[1]
    wanted = float(row.astype(float) @ mass)
    assert float(got.shortfall) == pytest.approx(wanted, abs=rounding(precision, SCENARIOS, 18.0))
    np.testing.assert_allclose(got.shares, mass, atol=rounding(precision, SCENARIOS, 1.0))


def test_a_book_that_only_gains_has_a_negative_tail(measure: Measure, precision: np.dtype) -> None:
    row = -np.linspace(100, 139, SCENARIOS).astype(precision)
    got = measure(row, EVEN.astype(precision), tail=0.1)
    assert got.var == row[3]
    assert float(got.shortfall) == pytest.approx(-101.5, abs=rounding(precision, SCENARIOS, 280))


def test_losses_across_all_sizes_and_both_zeros_are_ordered(precision: np.dtype) -> None:
    info = np.finfo(precision)
    ladder = np.array([-info.max, -1.0, -info.tiny, -0.0, 0.0, info.tiny, 1.0, info.max], precision)
    # In row k the k - 1 worst weigh 0.4 together, the k-th 0.3 and the rest what is left: half is reached at the
    # k-th. Where there is no worse one, or none left, the k-th takes that too.
    mass = np.zeros((8, 8))
    for k in range(8):
        mass[k, :k], mass[k, k], mass[k, k + 1 :] = 0.4 / max(k, 1), 0.3, 0.3 / max(7 - k, 1)
        mass[k, k] += 1 - mass[k].sum()
    mass = mass[:, ::-1]
    edges = jax.jit(jax.vmap(lambda row: value_at_risk(ladder, row, tail=0.5)))(mass.astype(precision))
    np.testing.assert_array_equal(edges, ladder[::-1])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cells", [slice(3, 4), slice(None)], ids=["one scenario", "every scenario"])
def test_a_row_that_is_no_number_leaves_the_bits_of_the_others(
    measure: Measure, precision: np.dtype, rng: np.random.Generator, broken: float, cells: slice
) -> None:
    rows = rng.standard_t(3, (64, SCENARIOS)).astype(precision)
    spoilt = rows.copy()
    spoilt[17, cells] = broken
    others = np.arange(64) != 17
    clean, got = (measure(each, EVEN.astype(precision), tail=0.1) for each in (rows, spoilt))
    for before, after in zip(clean, got, strict=True):
        np.testing.assert_array_equal(np.asarray(after)[others], np.asarray(before)[others])


def test_a_loss_that_is_unknown_makes_every_figure_of_its_row_unknown(measure: Measure, precision: np.dtype) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    row[0] = np.nan  # far from the tail: still nobody knows where it belongs
    got = measure(row, EVEN.astype(precision), tail=0.1)
    for figure in (got.var, got.shortfall, got.error, got.shares):
        assert np.isnan(figure).all()
    assert int(got.worst) == SCENARIOS


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_loss_without_bound_is_never_a_finite_shortfall(measure: Measure, precision: np.dtype, count: int) -> None:
    row = np.linspace(-7, 7, SCENARIOS).astype(precision)
    row[10 : 10 + count] = np.inf
    got = measure(row, EVEN.astype(precision), tail=0.1)
    assert float(got.var) == twin.value_at_risk(row, EVEN, tail=0.1)
    assert not np.isfinite(float(got.shortfall))
    assert int(got.worst) == 10
