"""One tile, traced: its gradients, the edge that no rounding decides, and that it lowers for machines not at hand."""

from fractions import Fraction
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export

from kernels._books import assert_same_bits
from marginax_kernels import (
    dense_tile_tail,
    exact_value_at_risk,
    expected_shortfall_error,
    losses_tail,
    tail_weights,
    tile_tail,
    value_at_risk,
)
from marginax_kernels.native_tail import plan_sweep
from marginax_kernels.tile_tail import mass_grid, scenarios_needed
from reference import tail as twin
from reference.samples import SCENARIOS, distinct_losses, losses, rounding, tails, weights

TAIL = 0.1


class Tile(NamedTuple):
    """The operands of `tile_tail`."""

    cube: np.ndarray
    rows: np.ndarray
    quantities: np.ndarray
    weights: np.ndarray | None
    amounts: np.ndarray


def a_tile(rng: np.random.Generator, precision: np.dtype, *, weighted: bool, scenarios: int = 96) -> Tile:
    """64 accounts of up to four positions in eight instruments."""
    cube = np.concatenate([rng.standard_t(4, (8, scenarios)), np.zeros((1, scenarios))])
    rows = rng.integers(0, 9, (64, 4)).astype(np.int32)
    quantities = np.where(rows < 8, rng.normal(0, 10, rows.shape), 0)
    mass = rng.dirichlet(np.ones(scenarios)).astype(precision) if weighted else None
    return Tile(cube.astype(precision), rows, quantities.astype(precision), mass, np.full(64, 20, precision))


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_gradients_in_quantities_and_cube_are_finite_differences(
    double: None, rng: np.random.Generator, weighted: bool
) -> None:
    tile = a_tile(rng, np.dtype(float), weighted=weighted)
    seeds = rng.normal(size=64)

    @jax.jit
    def total(cube: jax.Array, quantities: jax.Array) -> jax.Array:
        answer = tile_tail(cube, tile.rows, quantities, tile.weights, tile.amounts, tail=TAIL)
        return jnp.vdot(answer.expected_shortfall, seeds) + jnp.vdot(answer.var, seeds)

    by_cube, by_quantity = jax.jit(jax.grad(total, argnums=(0, 1)))(tile.cube, tile.quantities)
    assert np.isfinite(by_cube).all()
    steps = {"cube": rng.normal(size=by_cube.shape), "quantities": rng.normal(size=by_quantity.shape)}
    for name, gradient in (("cube", by_cube), ("quantities", by_quantity)):
        way = steps[name]
        move = [1e-7 * way if each == name else 0 for each in steps]
        up, down = (total(tile.cube + s * move[0], tile.quantities + s * move[1]) for s in (1, -1))
        slope = (float(up) - float(down)) / 2e-7
        # Piecewise linear in each: what is left is the rounding of a total of some thousands over the step.
        assert slope == pytest.approx(float(np.vdot(gradient, way)), abs=1e4 * np.finfo(float).eps / 1e-7)


def test_the_gradient_of_expected_shortfall_is_each_position_s_tail_mean(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    tile = a_tile(rng, precision, weighted=True)
    shortfalls = partial(tile_tail, tail=TAIL)

    def total(quantities: jax.Array) -> jax.Array:
        return jnp.sum(shortfalls(tile.cube, tile.rows, quantities, tile.weights).expected_shortfall)

    value, slope = jax.jit(jax.value_and_grad(total))(tile.quantities)
    book = -(tile.quantities[:, :, None] * tile.cube[tile.rows]).sum(axis=1)
    shares = np.asarray(tail_weights(book, tile.weights, tail=TAIL), float)
    wanted = -np.einsum("aps,as->ap", tile.cube[tile.rows].astype(float), shares)
    unit = rounding(precision, 96, float(np.abs(tile.cube).max()) / TAIL)
    np.testing.assert_allclose(slope, wanted, rtol=0, atol=unit)
    # Euler: positions times their slopes are the risk of the book.
    gross = float(np.abs(tile.quantities).sum())
    assert abs(float(np.vdot(tile.quantities, slope)) - float(value)) <= gross * unit


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_an_account_that_cannot_lose_has_gradients_that_are_numbers(rng: np.random.Generator, weighted: bool) -> None:
    tile = a_tile(rng, np.dtype("float32"), weighted=weighted)

    def total(quantities: jax.Array) -> jax.Array:
        answer = tile_tail(tile.cube, tile.rows, quantities, tile.weights, tile.amounts, tail=TAIL)
        return jnp.sum(answer.expected_shortfall + answer.var + answer.std_error + answer.exceedance)

    assert np.isfinite(jax.jit(jax.grad(total))(np.zeros_like(tile.quantities))).all()


edges = jax.jit(exact_value_at_risk, static_argnames="tail")
measure = jax.jit(losses_tail, static_argnames="tail")
roughly = jax.jit(value_at_risk, static_argnames="tail")
errors = jax.jit(expected_shortfall_error, static_argnames="tail")


@given(row=losses(), mass=weights(), tail=tails())
def test_the_edge_is_the_one_that_sorting_finds(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, tail: float
) -> None:
    got = edges(row[None].astype(precision), mass.astype(precision), tail=tail)
    assert float(got[0]) == twin.value_at_risk(row, mass, tail=tail)


@given(row=losses(), mass=weights())
def test_the_error_is_that_of_expected_shortfall(precision: np.dtype, row: np.ndarray, mass: np.ndarray) -> None:
    cells = row[None].astype(precision), mass.astype(precision)
    got, wanted = measure(*cells, tail=TAIL).std_error[0], errors(*cells, tail=TAIL)[0]
    unit = rounding(precision, SCENARIOS, 2 * float(np.abs(row).max()) / TAIL)
    assert abs(float(got) - float(wanted)) <= unit


def exact_edge(row: np.ndarray, mass: np.ndarray, tail: float) -> float:
    """The edge by fractions, without the grid."""
    needed, cumulated = Fraction(tail * (1 - twin.SLACK)), Fraction(0)
    for scenario in np.argsort(-row, kind="stable"):
        cumulated += Fraction(float(mass[scenario]))
        if cumulated >= needed:
            return float(row[scenario])
    return float(row.min())


def test_no_rounding_of_a_sum_of_weights_decides_which_scenario_is_the_edge(rng: np.random.Generator) -> None:
    scenarios = 3000
    row = rng.permutation(scenarios).astype(np.float32)
    mass = rng.random(scenarios).astype(np.float32)
    mass /= mass.sum()
    cumulated = np.cumsum(mass[np.argsort(-row)].astype(float))
    rough = 0
    for k, side in ((333, -1), (333, 1), (2500, -1), (2500, 1)):
        # The edge is decided by a billionth of the mass, which a float32 sum does not see.
        tail = float(cumulated[k]) * (1 + side * 1e-9) / (1 - twin.SLACK)
        wanted = exact_edge(row, mass, tail)
        assert float(edges(row[None], mass, tail=tail)[0]) == wanted
        rough += float(roughly(row[None], mass, tail=tail)[0]) != wanted
    assert rough > 0


@given(scenarios=st.integers(1, 10**6), data=st.data())
def test_k_of_so_many_equal_scenarios_are_k(scenarios: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(1, min(scenarios, 10**4)))
    assert scenarios_needed(scenarios, tail=few / scenarios) == few
    grid = mass_grid(scenarios, tail=few / scenarios)
    each = int(np.float32(1 / scenarios) * 2.0**grid.bits)
    assert (few - 1) * each < grid.needed <= few * each


@given(row=distinct_losses())
def test_no_weights_are_equal_weights(row: np.ndarray) -> None:
    even = np.full(SCENARIOS, 1 / SCENARIOS, np.float32)
    cells = row[None].astype(np.float32)
    none, equal = measure(cells, None, tail=TAIL), measure(cells, even, tail=TAIL)
    assert_same_bits((*none[:2], *none[3:]), (*equal[:2], *equal[3:]))
    # A weight that the compiler knows may be multiplied in elsewhere: two roundings a term, two of the root.
    np.testing.assert_allclose(none.std_error, equal.std_error, rtol=4 * np.finfo(np.float32).eps)


def test_all_of_very_many_scenarios_reach_a_tail_of_everything() -> None:
    # So many floors of weights together lose more than the slack of the tail.
    scenarios = 2**23
    weights = np.random.default_rng(5).random(scenarios)
    weights = (weights / weights.sum()).astype(np.float32)
    row = np.linspace(-1, 1, scenarios, dtype=np.float32)[None]
    assert float(edges(row, weights, tail=1.0)[0]) == -1
    (asked,) = plan_sweep(scenarios, weights, tails=(1.0,)).asked
    assert asked.needed == np.floor(weights.astype(float) * asked.grid).sum()


@pytest.mark.parametrize("scrambles", [(0, 0), (8, 64)], ids=["draws", "scrambles"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_the_whole_path_lowers_and_exports_for_cpu_and_cuda(
    rng: np.random.Generator, weighted: bool, scrambles: tuple[int, int]
) -> None:
    tile = a_tile(rng, np.dtype("float32"), weighted=weighted)
    held = rng.normal(size=(64, 9)).astype(np.float32)
    for body, operands in ((tile_tail, tile), (dense_tile_tail, (tile.cube, held, tile.weights, tile.amounts))):
        plain = jax.jit(lambda *each, body=body: tuple(body(*each, tail=TAIL, scrambles=scrambles)))
        written = export.export(plain, platforms=["cpu", "cuda"])(*operands)
        assert set(written.platforms) == {"cpu", "cuda"}
        assert "callback" not in written.mlir_module()
        # What is not asked for in full, a GPU computes in TF32.
        products = [line for line in written.mlir_module().splitlines() if "stablehlo.dot_general" in line]
        assert bool(products) == (body is dense_tile_tail)
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
        assert written.serialize()
