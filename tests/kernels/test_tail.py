"""Value at risk and expected shortfall against sorting, the laws they keep on a fixed scenario set, and published figures."""

from fractions import Fraction
from math import ceil

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginax_kernels import (
    exceedance_probability,
    expected_shortfall,
    expected_shortfall_error,
    first_worst,
    tail_weights,
    value_at_risk,
)
from reference import tail as twin
from reference.samples import SCENARIOS, TAILS, losses, orders, rounding, tails, weights

var = jax.jit(value_at_risk, static_argnames="tail")
shortfall = jax.jit(expected_shortfall, static_argnames="tail")
shares = jax.jit(tail_weights, static_argnames="tail")
error = jax.jit(expected_shortfall_error, static_argnames="tail")
exceedance = jax.jit(exceedance_probability)
worst = jax.jit(first_worst)


def allowed(precision: np.dtype, *rows: np.ndarray) -> float:
    """Rounding of an expected shortfall: a sum over the scenarios of excesses that are at most twice the largest loss."""
    return rounding(precision, SCENARIOS, 2 * sum(float(np.abs(row).max()) for row in rows))


def cast(precision: np.dtype, *rows: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(row.astype(precision) for row in rows)


@given(row=losses(), mass=weights(), tail=tails())
def test_value_at_risk_is_the_loss_that_sorting_finds(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    assert float(var(*cast(precision, row, mass), tail=tail)) == twin.value_at_risk(row, mass, tail=tail)


@given(row=losses(), mass=weights(), tail=tails())
def test_expected_shortfall_is_the_mean_of_the_sorted_tail(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    wanted = twin.expected_shortfall(row, mass, tail=tail)
    assert abs(float(shortfall(*cast(precision, row, mass), tail=tail)) - wanted) <= allowed(precision, row)


@given(row=losses(), mass=weights(), tail=tails())
def test_expected_shortfall_is_the_rockafellar_uryasev_minimum(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    least = twin.rockafellar_uryasev(row, mass, tail=tail)
    # Where the slack picks the k-th loss, up to 1e-5 of the tail lies one loss deeper than the true minimiser's edge.
    slack = twin.SLACK * float(np.ptp(row))
    got = float(shortfall(*cast(precision, row, mass), tail=tail))
    assert abs(got - least) <= slack + allowed(precision, row)


@given(row=losses(), mass=weights(), tail=tails())
def test_tail_weights_turn_losses_into_expected_shortfall(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = cast(precision, row, mass)
    got = np.asarray(shares(*cells, tail=tail), float)
    # What is left for the edge is one minus a sum over the scenarios: rounded as such, and nothing smaller.
    unit = 2 * rounding(precision, SCENARIOS, 1.0)
    np.testing.assert_allclose(got, twin.tail_weights(row, mass, tail=tail), rtol=0, atol=unit)
    assert abs(got.sum() - 1) <= unit
    assert (got >= -unit).all()
    assert (got * tail <= mass + twin.SLACK * tail + unit).all()
    assert abs(got @ row - float(shortfall(*cells, tail=tail))) <= 4 * allowed(precision, row)


@given(one=losses(), other=losses(), mass=weights(), tail=tails())
def test_a_merged_book_is_never_riskier_than_its_halves(
    precision: np.dtype, one: np.ndarray, other: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    one, other, mass = cast(precision, one, other, mass)
    apart = float(shortfall(one, mass, tail=tail)) + float(shortfall(other, mass, tail=tail))
    assert float(shortfall(one + other, mass, tail=tail)) <= apart + 2 * allowed(precision, one, other)


@given(row=losses(), mass=weights(), tail=tails(), size=st.sampled_from([0.25, 1.7, 30.0]))
def test_risk_grows_in_proportion_to_the_book(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, size: float
) -> None:
    row, mass = cast(precision, row, mass)
    size = precision.type(size)
    # Scaling keeps the order of the losses, rounding and all: the edge stays on its scenario, to the bit.
    assert var(row * size, mass, tail=tail) == var(row, mass, tail=tail) * size
    scaled = float(shortfall(row * size, mass, tail=tail))
    wanted = float(size) * float(shortfall(row, mass, tail=tail))
    assert abs(scaled - wanted) <= 2 * allowed(precision, row * size)


@given(row=losses(), mass=weights(), tail=tails(), cash=st.sampled_from([-1e3, 0.5, 7e4]))
def test_cash_moves_risk_by_exactly_its_amount(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, cash: float
) -> None:
    row, mass = cast(precision, row, mass)
    cash = precision.type(cash)
    assert var(row + cash, mass, tail=tail) == var(row, mass, tail=tail) + cash
    moved = float(shortfall(row + cash, mass, tail=tail))
    wanted = float(shortfall(row, mass, tail=tail)) + float(cash)
    assert abs(moved - wanted) <= 2 * allowed(precision, row, np.array([cash]))


@given(row=losses(), more=losses(), mass=weights(), tail=tails())
def test_losing_more_somewhere_never_lowers_risk(
    precision: np.dtype, row: np.ndarray, more: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    row, mass, deeper = cast(precision, row, mass, row + np.abs(more))
    assert var(deeper, mass, tail=tail) >= var(row, mass, tail=tail)
    before, after = (float(shortfall(cells, mass, tail=tail)) for cells in (row, deeper))
    assert after >= before - 2 * allowed(precision, row, deeper)


@given(row=losses(), mass=weights(), tail=tails(), order=orders())
def test_the_order_of_the_scenarios_does_not_matter(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float, order: np.ndarray
) -> None:
    row, mass = cast(precision, row, mass)
    shuffled = row[order], mass[order]
    assert var(*shuffled, tail=tail) == var(row, mass, tail=tail)
    apart = float(shortfall(*shuffled, tail=tail)) - float(shortfall(row, mass, tail=tail))
    assert abs(apart) <= 2 * allowed(precision, row)
    np.testing.assert_allclose(
        np.asarray(shares(*shuffled, tail=tail)),
        np.asarray(shares(row, mass, tail=tail))[order],
        rtol=0,
        atol=4 * rounding(precision, SCENARIOS, 1.0),
    )


@given(row=losses(), mass=weights())
def test_a_narrower_tail_is_never_cheaper_and_never_below_value_at_risk(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray
) -> None:
    cells = cast(precision, row, mass)
    narrow_to_wide = [float(shortfall(*cells, tail=tail)) for tail in TAILS]
    assert (np.diff(narrow_to_wide) <= 2 * allowed(precision, row)).all()
    for tail, mean in zip(TAILS, narrow_to_wide, strict=True):
        assert mean >= float(var(*cells, tail=tail))


@given(row=losses(), mass=weights(least=1), tail=tails())
def test_the_standard_error_is_that_of_the_influence_function(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    wanted = twin.expected_shortfall_error(row, mass, tail=tail)
    # An influence is an excess over `tail`, so an error in it is that of a shortfall over `tail`; the root of the sum of
    # their squares, weighted, is at most the largest of them.
    assert abs(float(error(*cast(precision, row, mass), tail=tail)) - wanted) <= allowed(precision, row) / tail


@given(row=losses(), mass=weights(), place=st.integers(0, SCENARIOS - 1))
def test_a_loss_that_equals_the_equity_is_not_beyond_it(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, place: int
) -> None:
    row, mass = cast(precision, row, mass)
    got = float(exceedance(row, mass, row[place]))
    wanted = twin.exceedance_probability(row, mass, row[place])
    assert abs(got - wanted) <= rounding(precision, SCENARIOS, 1.0)


@given(row=losses())
def test_the_worst_scenario_is_the_first_of_those_that_tie(precision: np.dtype, row: np.ndarray) -> None:
    assert int(worst(row.astype(precision))) == twin.first_worst(row)


@pytest.mark.parametrize("tail", [0.01, 0.025, 0.05])
def test_k_of_s_scenarios_are_k_of_s_whatever_rounding_says(precision: np.dtype, tail: float) -> None:
    most = 2_048
    counts = np.arange(20, most + 1)
    # Losses fall from the first scenario on, so the loss on the edge tells its rank; padding weighs nothing.
    ranked = np.arange(most, 0, -1, dtype=precision)
    mass = (np.arange(most) < counts[:, None]) / counts[:, None].astype(precision)
    rank = most + 1 - np.asarray(jax.vmap(lambda row: var(ranked, row, tail=tail))(mass.astype(precision)))
    exact = [ceil(count * Fraction(tail).limit_denominator(1_000)) for count in counts.tolist()]
    # A set whose k / S falls short of the tail by less than the slack would count as reached: there is none this small.
    np.testing.assert_array_equal(rank, exact)


def test_rows_of_a_batch_are_what_they_are_alone(precision: np.dtype, rng: np.random.Generator) -> None:
    rows = rng.standard_t(3, (4, 3, SCENARIOS)).astype(precision)
    mass = rng.dirichlet(np.ones(SCENARIOS)).astype(precision)
    together = var(rows, mass, tail=0.05), shortfall(rows, mass, tail=0.05), worst(rows)
    for place in np.ndindex(4, 3):
        alone = rows[place]
        assert together[0][place] == var(alone, mass, tail=0.05)
        # A sum over one row may be vectorised in another order than over twelve.
        apart = float(together[1][place]) - float(shortfall(alone, mass, tail=0.05))
        assert abs(apart) <= 2 * allowed(precision, alone)
        assert together[2][place] == worst(alone)


def test_an_account_has_the_same_bits_in_tiles_of_64_128_and_256_rows(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    rows = rng.standard_t(3, (256, 500)).astype(precision)
    mass = rng.dirichlet(np.ones(500)).astype(precision)
    kernels = (value_at_risk, expected_shortfall, tail_weights, expected_shortfall_error)
    figures = jax.jit(lambda tile: [kernel(tile, mass, tail=0.01) for kernel in kernels])
    tall = figures(rows)
    for height in (64, 128):
        for short, whole in zip(figures(rows[-height:]), tall, strict=True):
            np.testing.assert_array_equal(np.asarray(short), np.asarray(whole)[-height:])


def test_ten_thousand_normal_draws_leave_an_error_of_1_72_percent(precision: np.dtype) -> None:
    # The error's closed form for a normal loss, sqrt((Var(L | L > q) + (1 - a) (ES - q)^2) / (N a)), is 1.72 % of the ES at
    # a = 1 % and N = 10,000 (shared METHODS, section 2.8). Its midpoint strata hold the tail's variance to 2 % at a hundred
    # scenarios beyond the edge, and the root halves that.
    draws = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    cells = cast(precision, draws, np.full(10_000, 1e-4))
    assert float(error(*cells, tail=0.01) / shortfall(*cells, tail=0.01)) == pytest.approx(0.0172, rel=0.01)


def test_jorion_s_canadian_dollars_carry_41_percent_of_the_risk_and_his_euros_59(double: None) -> None:
    # Jorion, Value at Risk (3rd edition, 2007), chapter 7: 2 million in CAD with a volatility of 5 %, 1 million in EUR with
    # 12 %, uncorrelated. At 95 % the portfolio's VaR is 256.94 thousand and its parts are to each other as 100^2 to 120^2.
    step = 0.02
    grid = np.arange(-6, 6 + step / 2, step)
    density = stats.norm.pdf(grid)
    mass = np.outer(density, density).ravel() / density.sum() ** 2
    each = np.stack([100.0 * np.repeat(grid, len(grid)), 120.0 * np.tile(grid, len(grid))])
    together = each.sum(axis=0)
    # Every normal draw moves to a point of the grid by at most half a step, so a loss moves by 2.2 at most.
    assert abs(float(var(together, mass, tail=0.05)) - 256.94) <= 220 * step / 2 + 0.005
    parts = each @ np.asarray(shares(together, mass, tail=0.05))
    np.testing.assert_allclose(parts / parts.sum(), [100**2 / 24_400, 120**2 / 24_400], atol=0.005)
