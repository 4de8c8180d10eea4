"""The smooth probability of a loss beyond an amount, and the mean excess: loops, laws, slopes."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marginax_kernels import exceedance_probability, mean_excess, smooth_exceedance
from reference import score as twin
from reference.samples import SCENARIOS, losses, rounding, weights

smooth, excess, hard = jax.jit(smooth_exceedance), jax.jit(mean_excess), jax.jit(exceedance_probability)
slopes = jax.jit(jax.grad(smooth_exceedance, argnums=(0, 2)))
# What the kernel's cubic may lose: its slope is 3/4 at most, and u is rounded where it is at most one.
SHARE = 8.0


def cast(precision: np.dtype, *arrays: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(each, precision) for each in arrays]


@given(row=losses(), mass=weights(), limit=st.integers(-20, 20), width=st.sampled_from([0.0, 0.5, 4.0, 1e5]))
def test_the_smooth_probability_and_the_mean_excess_are_what_a_loop_finds(
    precision: np.dtype, row: np.ndarray, mass: np.ndarray, limit: int, width: float
) -> None:
    row, mass, amount, band = cast(precision, row, mass, np.array(limit), np.array(width))
    near = rounding(precision, SCENARIOS, SHARE)
    assert abs(float(smooth(row, mass, amount, band)) - twin.smooth_exceedance(row, mass, limit, width)) <= near
    largest = float(np.abs(row).max()) + abs(limit)
    wanted = twin.mean_excess(row.astype(float), mass.astype(float), limit)
    assert abs(float(excess(row, mass, amount)) - wanted) <= rounding(precision, SCENARIOS, largest)


@given(row=losses(), mass=weights(), limit=st.integers(-20, 20), width=st.sampled_from([0.25, 2.0, 64.0]))
def test_it_lies_within_half_the_mass_near_the_amount_of_the_hard_one_and_falls_with_the_amount(
    double: None, row: np.ndarray, mass: np.ndarray, limit: int, width: float
) -> None:
    amount = float(limit)
    found = float(smooth(row, mass, amount, width))
    near = mass[np.abs(row - amount) < width].sum()
    assert -1e-12 <= found <= 1 + 1e-12
    assert abs(found - float(hard(row, mass, amount))) <= near / 2 + 1e-12
    assert float(smooth(row, mass, amount + 0.7, width)) <= found + 1e-12


@given(row=losses(), mass=weights())
def test_the_narrower_the_nearer_to_the_hard_one(double: None, row: np.ndarray, mass: np.ndarray) -> None:
    amount = float(np.median(row)) + 0.25  # whole numbers are a quarter away at least
    gap = np.abs(row - amount).min()
    if gap > 1e-6:
        assert abs(float(smooth(row, mass, amount, gap / 2)) - float(hard(row, mass, amount))) <= 1e-12


@given(row=losses(), mass=weights(), limit=st.integers(-20, 20))
def test_slopes_are_those_of_finite_differences(double: None, row: np.ndarray, mass: np.ndarray, limit: int) -> None:
    amount, width, step = limit + 0.3, 7.0, 1e-5
    by_loss, by_amount = (np.asarray(each) for each in slopes(row, mass, amount, width))
    up, down = (float(smooth(row, mass, amount + each, width)) for each in (step, -step))
    # The second difference of the cubic is 3/2 over the squared width at most, the rounding of a sum of one in 1e-5.
    assert abs((up - down) / (2 * step) - by_amount) <= 1e-9
    # The sum of all slopes is that of moving every loss at once.
    assert abs(by_loss.sum() + by_amount) <= 1e-12
    assert (by_loss >= 0).all()
    assert (by_loss[np.abs(row - amount) >= width] == 0).all()
