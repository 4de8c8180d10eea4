"""Value at risk and expected shortfall: against sorting, by the laws of a fixed scenario set, and as published."""

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginax_kernels import exceedance_probability, value_at_risk
from reference import tail as twin
from reference.samples import SCENARIOS, TAILS, losses, orders, rounding, tails, weights

Measure = Callable[..., Any]
exceedance = jax.jit(exceedance_probability)


def allowed(precision: np.dtype, *rows: np.ndarray) -> float:
    """Rounding of an expected shortfall: a sum over the scenarios of excesses, at most twice the largest loss."""
    return rounding(precision, SCENARIOS, 2 * sum(float(np.abs(row).max()) for row in rows))


def cast(precision: np.dtype, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(row.astype(precision) for row in rows)


@given(row=losses(), mass=weights(), tail=tails())
def test_value_at_risk_is_the_loss_that_sorting_finds(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    got = measure(*cast(precision, row, mass), tail=tail)
    assert float(got.var) == twin.value_at_risk(row, mass, tail=tail)
    assert int(got.worst) == twin.first_worst(row)


@given(row=losses(), mass=weights(), tail=tails())
def test_expected_shortfall_is_the_mean_of_the_sorted_tail(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    got = float(measure(*cast(precision, row, mass), tail=tail).shortfall)
    assert abs(got - twin.expected_shortfall(row, mass, tail=tail)) <= allowed(precision, row)


@given(row=losses(), mass=weights(), tail=tails())
def test_expected_shortfall_is_the_rockafellar_uryasev_minimum(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    got = float(measure(*cast(precision, row, mass), tail=tail).shortfall)
    # Where the slack picks the k-th loss, up to 1e-5 of the tail lies one loss deeper than the true minimiser's
    # edge.
    slack = twin.SLACK * float(np.ptp(row))
    assert abs(got - twin.rockafellar_uryasev(row, mass, tail=tail)) <= slack + allowed(precision, row)


@given(row=losses(), mass=weights(), tail=tails())
def test_tail_weights_turn_losses_into_expected_shortfall(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    figures = measure(*cast(precision, row, mass), tail=tail)
    got = np.asarray(figures.shares, float)
    # What is left for the edge is one minus a sum over the scenarios: rounded as such, and nothing smaller.
    unit = 2 * rounding(precision, SCENARIOS, 1.0)
    np.testing.assert_allclose(got, twin.tail_weights(row, mass, tail=tail), rtol=0, atol=unit)
    assert abs(got.sum() - 1) <= unit
    assert (got >= -unit).all()
    assert (got * tail <= mass + twin.SLACK * tail + unit).all()
    # Euler: the losses' shares are the whole.
    assert abs(got @ row - float(figures.shortfall)) <= 4 * allowed(precision, row)


@given(one=losses(), other=losses(), mass=weights(), tail=tails())
def test_a_merged_book_is_never_riskier_than_its_halves(
    measure: Measure, precision: np.dtype, one: np.ndarray, other: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    one, other, mass = cast(precision, one, other, mass)
    together, *apart = (float(measure(row, mass, tail=tail).shortfall) for row in (one + other, one, other))
    assert together <= sum(apart) + 2 * allowed(precision, one, other)


@given(row=losses(), mass=weights(), tail=tails(), size=st.sampled_from([0.25, 1.7, 30.0]))
def test_risk_grows_in_proportion_to_the_book(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, size: float
) -> None:
    row, mass = cast(precision, row, mass)
    size = precision.type(size)
    once, scaled = (measure(each, mass, tail=tail) for each in (row, row * size))
    # Scaling keeps the order of the losses, rounding and all: the edge stays on its scenario, to the bit.
    assert scaled.var == once.var * size
    apart = float(scaled.shortfall) - float(size) * float(once.shortfall)
    assert abs(apart) <= 2 * allowed(precision, row * size)


@given(row=losses(), mass=weights(), tail=tails(), cash=st.sampled_from([-1e3, 0.5, 7e4]))
def test_cash_moves_risk_by_exactly_its_amount(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, cash: float
) -> None:
    row, mass = cast(precision, row, mass)
    cash = precision.type(cash)
    before, after = (measure(each, mass, tail=tail) for each in (row, row + cash))
    assert after.var == before.var + cash
    apart = float(after.shortfall) - float(before.shortfall) - float(cash)
    assert abs(apart) <= 2 * allowed(precision, row, np.array([cash]))


@given(row=losses(), more=losses(), mass=weights(), tail=tails())
def test_losing_more_somewhere_never_lowers_risk(
    measure: Measure, precision: np.dtype, row: np.ndarray, more: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    row, mass, deeper = cast(precision, row, mass, row + np.abs(more))
    before, after = (measure(each, mass, tail=tail) for each in (row, deeper))
    assert after.var >= before.var
    assert float(after.shortfall) >= float(before.shortfall) - 2 * allowed(precision, row, deeper)


@given(row=losses(), mass=weights(), tail=tails(), order=orders())
def test_the_order_of_the_scenarios_does_not_matter(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, order: np.ndarray
) -> None:
    row, mass = cast(precision, row, mass)
    plain, shuffled = measure(row, mass, tail=tail), measure(row[order], mass[order], tail=tail)
    assert shuffled.var == plain.var
    assert abs(float(shuffled.shortfall) - float(plain.shortfall)) <= 2 * allowed(precision, row)
    unit = rounding(precision, SCENARIOS, 1.0)
    np.testing.assert_allclose(shuffled.shares, np.asarray(plain.shares)[order], rtol=0, atol=4 * unit)


@given(row=losses(), mass=weights())
def test_a_narrower_tail_is_never_cheaper_and_never_below_value_at_risk(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray
) -> None:
    narrow_to_wide = [measure(*cast(precision, row, mass), tail=tail) for tail in TAILS]
    means = [float(figures.shortfall) for figures in narrow_to_wide]
    assert (np.diff(means) <= 2 * allowed(precision, row)).all()
    assert all(mean >= float(figures.var) for mean, figures in zip(means, narrow_to_wide, strict=True))


@given(row=losses(), mass=weights(least=1), tail=tails())
def test_the_standard_error_is_that_of_the_influence_function(
    measure: Measure, precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    got = float(measure(*cast(precision, row, mass), tail=tail).error)
    wanted = twin.expected_shortfall_error(row, mass, tail=tail)
    # An influence is an excess over `tail`, so an error in it is that of a shortfall over `tail`; the root of the
    # sum of their squares, weighted, is at most the largest of them.
    assert abs(got - wanted) <= allowed(precision, row) / tail


@given(row=losses(), mass=weights(), place=st.integers(0, SCENARIOS - 1))
def test_a_loss_that_equals_the_equity_is_not_beyond_it(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, place: int
) -> None:
    row, mass = cast(precision, row, mass)
    got = float(exceedance(row, mass, row[place]))
    wanted = twin.exceedance_probability(row, mass, row[place])
    assert abs(got - wanted) <= rounding(precision, SCENARIOS, 1.0)


@pytest.mark.parametrize("tail", [0.01, 0.025])
def test_k_of_s_scenarios_are_k_of_s_whatever_rounding_says(precision: np.dtype, tail: float) -> None:
    most = 2_048
    counts = np.arange(20, most + 1)
    # Losses fall from the first scenario on, so the loss on the edge tells its rank; padding weighs nothing.
    ranked = np.arange(most, 0, -1, dtype=precision)
    mass = (np.arange(most) < counts[:, None]) / counts[:, None].astype(precision)
    edges = jax.jit(jax.vmap(lambda row: value_at_risk(ranked, row, tail=tail)))(mass.astype(precision))
    exact = [ceil(count * Fraction(tail).limit_denominator(1_000)) for count in counts.tolist()]
    # A set whose k / S falls short of the tail by less than the slack would count as reached: none this small does.
    np.testing.assert_array_equal(most + 1 - np.asarray(edges), exact)


def test_rows_of_a_batch_are_what_they_are_alone(
    measure: Measure, precision: np.dtype, rng: np.random.Generator
) -> None:
    rows = rng.standard_t(3, (4, 3, SCENARIOS)).astype(precision)
    mass = rng.dirichlet(np.ones(SCENARIOS)).astype(precision)
    together = measure(rows, mass, tail=0.1)
    for place in np.ndindex(4, 3):
        alone = measure(rows[place], mass, tail=0.1)
        assert together.var[place] == alone.var
        assert together.worst[place] == alone.worst
        # A sum over one row may be vectorised in another order than over twelve.
        apart = float(together.shortfall[place]) - float(alone.shortfall)
        assert abs(apart) <= 2 * allowed(precision, rows[place])


def test_an_account_has_the_same_bits_in_tiles_of_64_128_and_256_rows(
    measure: Measure, precision: np.dtype, rng: np.random.Generator
) -> None:
    rows = rng.standard_t(3, (256, 500)).astype(precision)
    mass = rng.dirichlet(np.ones(500)).astype(precision)
    tall = measure(rows, mass, tail=0.01)
    for height in (64, 128):
        for short, whole in zip(measure(rows[-height:], mass, tail=0.01), tall, strict=True):
            np.testing.assert_array_equal(np.asarray(short), np.asarray(whole)[-height:])


def test_ten_thousand_normal_draws_leave_an_error_of_1_72_percent(measure: Measure, precision: np.dtype) -> None:
    # The error's closed form for a normal loss, sqrt((Var(L | L > q) + (1 - a) (ES - q)^2) / (N a)), is 1.72 % of
    # the ES at a = 1 % and N = 10,000. Midpoint strata hold the tail's variance to 2 % with a hundred scenarios
    # beyond the edge, and the root halves that.
    draws = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    got = measure(*cast(precision, draws, np.full(10_000, 1e-4)), tail=0.01)
    assert float(got.error / got.shortfall) == pytest.approx(0.0172, rel=0.01)


def test_jorion_s_canadian_dollars_carry_41_percent_of_the_risk_and_his_euros_59(
    measure: Measure, double: None
) -> None:
    # Jorion, Value at Risk (3rd edition, 2007), chapter 7: 2 million in CAD with a volatility of 5 %, 1 million in
    # EUR with 12 %, uncorrelated. At 95 % the portfolio's VaR is 256.94 thousand and its parts are as 100^2 to
    # 120^2.
    step = 0.02
    grid = np.arange(-6, 6 + step / 2, step)
    density = stats.norm.pdf(grid)
    mass = np.outer(density, density).ravel() / density.sum() ** 2
    each = np.stack([100.0 * np.repeat(grid, len(grid)), 120.0 * np.tile(grid, len(grid))])
    got = measure(each.sum(axis=0), mass, tail=0.05)
    # Every normal draw moves to a point of the grid by at most half a step, so a loss moves by 2.2 at most.
    assert abs(float(got.var) - 256.94) <= 220 * step / 2 + 0.005
    parts = each @ np.asarray(got.shares)
    np.testing.assert_allclose(parts / parts.sum(), [100**2 / 24_400, 120**2 / 24_400], atol=0.005)
