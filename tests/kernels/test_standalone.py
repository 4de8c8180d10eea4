"""Expected shortfall of holdings on their own: units, and groups of entries, against sums in loops."""

import jax
import numpy as np
import pytest

from marginax_kernels import group_shortfalls, unit_shortfalls
from reference import tail as twin
from reference.samples import rounding

ROWS, SCENARIOS, WIDTH, TAIL = 30, 300, 8, 0.05
found = jax.jit(group_shortfalls, static_argnames="tail")
units = jax.jit(unit_shortfalls, static_argnames="tail")


def cube_and_weights(rng: np.random.Generator, precision: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    cube = rng.standard_t(4, (ROWS + 1, SCENARIOS)).astype(precision)
    cube[-1] = 0
    weights = rng.random(SCENARIOS)
    return cube, (weights / weights.sum()).astype(precision)


def test_a_unit_long_and_a_unit_short_have_the_shortfall_of_their_losses(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    cube, weights = cube_and_weights(rng, precision)
    both = np.asarray(units(cube, weights, tail=TAIL), float)
    for row in range(ROWS + 1):
        for side, sign in enumerate((-1, 1)):
            wanted = twin.expected_shortfall(sign * cube[row].astype(float), weights.astype(float), tail=TAIL)
            assert both[row, side] == pytest.approx(wanted, abs=rounding(precision, SCENARIOS, 20.0))


@pytest.mark.parametrize("count", [1, 40, 100])
def test_groups_have_the_shortfall_of_their_sum(precision: np.dtype, rng: np.random.Generator, count: int) -> None:
    """More groups than a block holds, groups of any length, with and without collateral; padding has none."""
    cube, weights = cube_and_weights(rng, precision)
    rows = rng.integers(0, ROWS, (64, WIDTH)).astype(np.int32)
    quantities = rng.standard_normal((64, WIDTH)).astype(precision)
    length = rng.integers(1, WIDTH + 1, count)
    start = np.array([rng.integers(0, WIDTH - each + 1) for each in length])
    owner, extra = np.sort(rng.integers(0, 64, count)), rng.integers(0, ROWS, count)
    amount = np.where(rng.random(count) < 0.5, rng.standard_normal(count), 0).astype(precision)
    padding = 7
    padded = {
        name: np.append(values, np.zeros(padding, values.dtype))
        for name, values in {"start": start, "length": length, "owner": owner, "extra": extra, "amount": amount}.items()
    }
    got = np.asarray(found(cube, weights, rows, quantities, **padded, tail=TAIL), float)
    for k in range(count):
        held = slice(start[k], start[k] + length[k])
        gain = quantities[owner[k], held].astype(float) @ cube[rows[owner[k], held]] + amount[k] * cube[extra[k]]
        wanted = twin.expected_shortfall(-gain.astype(float), weights.astype(float), tail=TAIL)
        assert got[k] == pytest.approx(wanted, abs=rounding(precision, SCENARIOS, 60.0))
    np.testing.assert_array_equal(got[count:], 0)
    # The same group among other neighbours has the same bits.
    alone = {name: values[:1] for name, values in padded.items()}
    assert np.asarray(found(cube, weights, rows, quantities, **alone, tail=TAIL), float)[0] == got[0]
