"""Gradients of the tail: of expected shortfall the tail weights, of value at risk the scenario on the edge.

Expected shortfall is piecewise linear in the losses, so that away from ties a finite difference is exact but for rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marginax_kernels import accumulate, expected_shortfall, tail_weights, value_at_risk
from reference.samples import SCENARIOS, TAILS, distinct_losses, losses, rounding, tails, weights

shares = jax.jit(tail_weights, static_argnames="tail")
var_gradient = jax.jit(jax.grad(value_at_risk), static_argnames="tail")
shortfall_gradient = jax.jit(jax.grad(expected_shortfall), static_argnames="tail")
var = jax.jit(value_at_risk, static_argnames="tail")
shortfall = jax.jit(expected_shortfall, static_argnames="tail")


@given(row=distinct_losses(), mass=weights(least=1), tail=tails())
def test_the_gradient_of_expected_shortfall_is_the_tail_weights(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    np.testing.assert_allclose(
        shortfall_gradient(*cells, tail=tail),
        shares(*cells, tail=tail),
        rtol=0,
        atol=2 * rounding(precision, SCENARIOS, 1.0),
    )


@given(row=distinct_losses(), mass=weights(least=1), tail=tails())
def test_the_gradient_of_value_at_risk_is_one_on_the_edge_scenario(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    on_edge = cells[0] == np.asarray(var(*cells, tail=tail))
    assert on_edge.sum() == 1
    # The edge's share of its own weight is a quotient of two equal numbers, which a compiler may round once.
    eps = float(np.finfo(precision).eps)
    np.testing.assert_allclose(var_gradient(*cells, tail=tail), on_edge, rtol=eps, atol=0)


@given(row=distinct_losses(), mass=weights(least=1), tail=tails(), way=losses())
def test_the_gradient_of_expected_shortfall_is_its_finite_difference(
    double: None, row: np.ndarray, mass: np.ndarray, tail: float, way: np.ndarray
) -> None:
    # Losses are 1/2 apart and no step moves one by more than 1/8: none overtakes another, and the function is linear.
    way = way / max(1.0, 8 * np.abs(way).max())
    slope = float(jnp.vdot(shortfall_gradient(row, mass, tail=tail), way))
    up, down = (float(shortfall(row + sign * way, mass, tail=tail)) for sign in (1, -1))
    # Losses are at most 30, and each of the two values is rounded as a sum over the scenarios.
    allowed = rounding(np.dtype(float), SCENARIOS, 2 * 31.0)
    assert abs((up - down) / 2 - slope) <= 2 * allowed


@given(row=losses(), mass=weights(), tail=tails())
def test_the_gradient_sums_to_one_and_gives_back_the_shortfall_even_on_ties(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    gradient = np.asarray(shortfall_gradient(*cells, tail=tail), float)
    unit = 4 * rounding(precision, SCENARIOS, 1.0)
    assert abs(gradient.sum() - 1) <= unit
    assert (gradient >= -unit).all()
    size = max(1.0, float(np.abs(row).max()))
    assert abs(gradient @ row - float(shortfall(*cells, tail=tail))) <= SCENARIOS * unit * size


@pytest.mark.parametrize("tail", TAILS)
def test_an_account_that_cannot_lose_has_a_gradient_that_is_a_number(precision: np.dtype, tail: float) -> None:
    nothing = np.zeros(SCENARIOS, precision)
    mass = np.full(SCENARIOS, 1 / SCENARIOS, precision)
    unit = rounding(precision, SCENARIOS, 1.0)
    for gradient in (shortfall_gradient, var_gradient):
        np.testing.assert_allclose(gradient(nothing, mass, tail=tail), mass, rtol=0, atol=2 * unit)


def test_the_slope_of_a_weight_is_the_loss_beyond_the_edge_over_the_tail(
    double: None, rng: np.random.Generator
) -> None:
    row = rng.permutation(SCENARIOS) / 2.0
    mass = rng.dirichlet(np.full(SCENARIOS, 9.0))
    edge = float(var(row, mass, tail=0.25))
    slope = jax.jit(jax.grad(lambda each: expected_shortfall(row, each, tail=0.25)))(mass)
    # The minimum of Rockafellar and Uryasev: its edge is a minimiser, so only the explicit weights have a slope.
    np.testing.assert_allclose(slope, np.maximum(row - edge, 0) / 0.25, rtol=1e-15)


def test_a_broken_account_leaves_the_gradients_of_the_others(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    rows = rng.standard_t(3, (8, SCENARIOS)).astype(precision)
    mass = np.full(SCENARIOS, 1 / SCENARIOS, precision)
    spoilt = rows.copy()
    spoilt[2, 5] = np.nan
    slope = jax.jit(jax.grad(lambda each: jnp.sum(expected_shortfall(each, mass, tail=0.05))))
    others = np.arange(8) != 2
    np.testing.assert_array_equal(np.asarray(slope(spoilt))[others], np.asarray(slope(rows))[others])


@pytest.mark.parametrize("tail", [0.01, 0.025, 0.1])
def test_each_position_s_tail_mean_sums_to_the_risk_of_the_book(
    precision: np.dtype, rng: np.random.Generator, tail: float
) -> None:
    scenarios, width = 400, 8
    unit_pnl = rng.standard_t(3, (width + 1, scenarios))
    unit_pnl[-1] = 0
    cube = jnp.asarray(unit_pnl, precision)
    mass = rng.dirichlet(np.ones(scenarios)).astype(precision)
    rows = jnp.arange(width)[None]
    held = rng.normal(0, 100, (1, width)).astype(precision)

    def risk(quantities: jax.Array) -> jax.Array:
        return expected_shortfall(-accumulate(cube, rows, quantities), mass, tail=tail)[0]

    value, slopes = jax.jit(jax.value_and_grad(risk))(held)
    losses_now = -np.asarray(accumulate(cube, rows, held))
    each = -unit_pnl[:width].astype(precision).astype(float) @ np.asarray(shares(losses_now, mass, tail=tail), float)[0]
    # A tail mean is a sum over the scenarios of unit losses, and the risk a sum over the positions of those.
    unit = rounding(precision, scenarios, float(np.abs(unit_pnl).max()))
    np.testing.assert_allclose(np.asarray(slopes)[0], each, rtol=0, atol=4 * unit)
    gross = float(np.abs(held).sum())
    assert abs(float(np.sum(held * np.asarray(slopes))) - float(value)) <= 4 * unit * gross
