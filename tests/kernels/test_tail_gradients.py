"""Gradients of the tail: of expected shortfall the tail weights, of value at risk the scenario on the edge.

Expected shortfall is piecewise linear in the losses, so that away from ties a finite difference is exact but for
rounding.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marginax_kernels import accumulate, expected_shortfall, tail_weights, value_at_risk
from reference.samples import SCENARIOS, TAILS, distinct_losses, losses, rounding, tails, weights


class Slopes(NamedTuple):
    """Value at risk, expected shortfall, their slopes in each loss, and the tail weights."""

    var: jax.Array
    shortfall: jax.Array
    of_var: jax.Array
    of_shortfall: jax.Array
    shares: jax.Array


@partial(jax.jit, static_argnames="tail")
def slopes(losses: jax.Array, weights: jax.Array, *, tail: float) -> Slopes:
    """All of it, compiled once for each precision and tail."""
    var, of_var = jax.value_and_grad(value_at_risk)(losses, weights, tail=tail)
    shortfall, of_shortfall = jax.value_and_grad(expected_shortfall)(losses, weights, tail=tail)
    return Slopes(var, shortfall, of_var, of_shortfall, tail_weights(losses, weights, tail=tail))


@given(row=distinct_losses(), mass=weights(least=1), tail=tails())
def test_the_gradient_of_expected_shortfall_is_the_tail_weights(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    got = slopes(*cells, tail=tail)
    np.testing.assert_allclose(got.of_shortfall, got.shares, rtol=0, atol=2 * rounding(precision, SCENARIOS, 1.0))


@given(row=distinct_losses(), mass=weights(least=1), tail=tails())
def test_the_gradient_of_value_at_risk_is_one_on_the_edge_scenario(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    got = slopes(*cells, tail=tail)
    on_edge = cells[0] == np.asarray(got.var)
    assert on_edge.sum() == 1
    # The edge's share of its own weight is a quotient of two equal numbers, which a compiler may round once.
    eps = float(np.finfo(precision).eps)
    np.testing.assert_allclose(got.of_var, on_edge, rtol=eps, atol=0)


@given(row=distinct_losses(), mass=weights(least=1), tail=tails(), way=losses())
def test_the_gradient_of_expected_shortfall_is_its_finite_difference(
    double: None, row: np.ndarray, mass: np.ndarray, tail: float, way: np.ndarray
) -> None:
    # Losses are 1/2 apart and no step moves one by more than 1/8: none overtakes another.
    way = way / max(1.0, 8 * np.abs(way).max())
    slope = float(np.asarray(slopes(row, mass, tail=tail).of_shortfall) @ way)
    up, down = (float(slopes(row + sign * way, mass, tail=tail).shortfall) for sign in (1, -1))
    # Losses are at most 30, and each of the two values is rounded as a sum over the scenarios.
    allowed = rounding(np.dtype(float), SCENARIOS, 2 * 31.0)
    assert abs((up - down) / 2 - slope) <= 2 * allowed


@given(row=losses(), mass=weights(), tail=tails())
def test_the_gradient_sums_to_one_and_gives_back_the_shortfall_even_on_ties(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    cells = row.astype(precision), mass.astype(precision)
    got = slopes(*cells, tail=tail)
    gradient = np.asarray(got.of_shortfall, float)
    unit = 4 * rounding(precision, SCENARIOS, 1.0)
    assert abs(gradient.sum() - 1) <= unit
    assert (gradient >= -unit).all()
    size = max(1.0, float(np.abs(row).max()))
    assert abs(gradient @ row - float(got.shortfall)) <= SCENARIOS * unit * size


@pytest.mark.parametrize("tail", TAILS)
def test_an_account_that_cannot_lose_has_a_gradient_that_is_a_number(precision: np.dtype, tail: float) -> None:
    nothing = np.zeros(SCENARIOS, precision)
    mass = np.full(SCENARIOS, 1 / SCENARIOS, precision)
    unit = rounding(precision, SCENARIOS, 1.0)
    got = slopes(nothing, mass, tail=tail)
    for gradient in (got.of_shortfall, got.of_var):
        np.testing.assert_allclose(gradient, mass, rtol=0, atol=2 * unit)


def test_the_slope_of_a_weight_is_the_loss_beyond_the_edge_over_the_tail(
    double: None, rng: np.random.Generator
) -> None:
    row = rng.permutation(SCENARIOS) / 2.0
    mass = rng.dirichlet(np.full(SCENARIOS, 9.0))
    edge = float(slopes(row, mass, tail=0.1).var)
    slope = jax.jit(jax.grad(lambda each: expected_shortfall(row, each, tail=0.1)))(mass)
    # The minimum of Rockafellar and Uryasev: its edge is a minimiser, so only the explicit weights have a slope.
    np.testing.assert_allclose(slope, np.maximum(row - edge, 0) / 0.1, rtol=1e-15)


def test_a_broken_account_leaves_the_gradients_of_the_others(precision: np.dtype, rng: np.random.Generator) -> None:
    rows = rng.standard_t(3, (8, SCENARIOS)).astype(precision)
    mass = np.full(SCENARIOS, 1 / SCENARIOS, precision)
    spoilt = rows.copy()
    spoilt[2, 5] = np.nan
    slope = jax.jit(jax.grad(lambda each: jnp.sum(expected_shortfall(each, mass, tail=0.1))))
    others = np.arange(8) != 2
    np.testing.assert_array_equal(np.asarray(slope(spoilt))[others], np.asarray(slope(rows))[others])


@pytest.mark.parametrize("tail", [0.01, 0.1])
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

    def risk(quantities: jax.Array) -> tuple[jax.Array, jax.Array]:
        book = -accumulate(cube, rows, quantities)
        return expected_shortfall(book, mass, tail=tail)[0], tail_weights(book, mass, tail=tail)[0]

    (value, shares), by_position = jax.jit(jax.value_and_grad(risk, has_aux=True))(held)
    each = -np.asarray(cube[:width], float) @ np.asarray(shares, float)
    # A tail mean is a sum over the scenarios of unit losses, and the risk a sum over the positions of those.
    unit = rounding(precision, scenarios, float(np.abs(unit_pnl).max()))
    np.testing.assert_allclose(np.asarray(by_position)[0], each, rtol=0, atol=4 * unit)
    gross = float(np.abs(held).sum())
    assert abs(float(np.sum(held * np.asarray(by_position))) - float(value)) <= 4 * unit * gross
