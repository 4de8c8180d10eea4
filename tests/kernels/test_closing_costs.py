"""The cost of closing: against loops, and the laws that it keeps whatever the market."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginax_kernels import (
    days_to_sell_scale,
    even_book,
    order_books,
    row_sums,
    run_rates,
    run_totals,
    square_root_impact,
    walk_books,
)
from reference import liquidity as twin

impact, walked, even = (jax.jit(each) for each in (square_root_impact, walk_books, even_book))
totals, rates, sums, scale = (jax.jit(each) for each in (run_totals, run_rates, row_sums, days_to_sell_scale))
LEVELS = 7
sizes = st.floats(0.01, 1e6)


def book(rng: np.random.Generator, count: int = LEVELS) -> list[tuple[float, float]]:
    distances = np.concatenate([[0.0], np.sort(rng.uniform(0, 0.01, count - 1))])
    return list(zip(rng.uniform(1, 100, count).tolist(), distances.tolist(), strict=True))


def side_by_side(books: list[list[tuple[float, float]]], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Depth and distance, padded with the last level."""
    width = max(len(each) for each in books)
    depth = [np.pad(np.cumsum([size for size, _ in each]), (0, width - len(each)), mode="edge") for each in books]
    distance = [np.pad([far for _, far in each], (0, width - len(each)), mode="edge") for each in books]
    return np.array(depth, dtype), np.array(distance, dtype)


@pytest.mark.parametrize("counts", [(7, 3, 1), (8, 8, 8), (1, 1, 1)])
def test_a_walk_pays_each_level_and_then_rises_with_the_root(
    precision: np.dtype, rng: np.random.Generator, counts: tuple[int, ...]
) -> None:
    books = [book(rng, count) for count in counts]
    made = order_books(*side_by_side(books, precision))
    for number, levels in enumerate(books):
        whole = sum(size for size, _ in levels)
        edges = np.cumsum([size for size, _ in levels])
        asked = np.array([0.0, 0.5, *edges[:6], 0.9 * whole, 1.5 * whole, 20 * whole]).astype(precision)
        got = np.asarray(walked(asked, np.full(len(asked), number), made), float)
        wanted = [twin.walk(float(size), levels) for size in asked]
        # Differences of sums of seven numbers; the loop's pieces are good to 1e-8.
        np.testing.assert_allclose(got, wanted, rtol=64 * np.finfo(precision).eps + 1e-8, atol=1e-6)


def test_a_book_without_depth_costs_nothing(double: None) -> None:
    made = order_books(np.zeros((1, 4)), np.zeros((1, 4)))
    np.testing.assert_array_equal(walked(np.array([0.0, 5.0]), np.zeros(2, int), made), 0)


def test_an_even_book_is_one_of_many_thin_levels(double: None) -> None:
    levels = twin.even_levels(1_000.0, 0.005)
    for size in (1.0, 400.0, 1_000.0, 9_000.0):
        got = float(even(np.array(size), depth=np.array(1_000.0), distance=np.array(0.005)))
        assert got == pytest.approx(twin.walk(size, levels), rel=2e-3)


def test_the_root_law_and_the_days_are_those_of_the_formula(precision: np.dtype) -> None:
    size = np.array([0.0, 1.0, 50.0, 4e6], precision)
    market = {"deviation": 0.04, "volume": 1e5, "strength": 0.7}
    got = impact(size, **{name: np.array(value, precision) for name, value in market.items()})
    wanted = [twin.square_root_impact(each, 0.04, 1e5, 0.7) for each in size.tolist()]
    np.testing.assert_allclose(got, wanted, rtol=16 * np.finfo(precision).eps)
    longer = np.asarray(scale(size, np.array(50.0, precision)), float) - 1
    np.testing.assert_allclose(
        longer, [twin.days_to_sell(1.0, each, 50.0) for each in size.tolist()], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(longer[:3], 0)


@given(one=sizes, other=sizes, seed=st.integers(0, 50))
def test_more_costs_more_and_two_halves_of_one_trade_never_more_than_the_whole(
    double: None, one: float, other: float, seed: int
) -> None:
    """Every cost is zero at zero, rises and is convex: so costs of two sizes are at most that of their sum."""
    made = order_books(*side_by_side([book(np.random.default_rng(seed))], np.dtype(float)))
    laws = (
        lambda size: walked(size, np.zeros(3, int), made),
        lambda size: even(size, depth=np.array(70.0), distance=np.array(0.005)),
        lambda size: impact(size, deviation=np.array(0.02), volume=np.array(1e4), strength=np.array(1.0)),
    )
    for law in laws:
        a, b, both = np.asarray(law(np.array([one, other, one + other])))
        assert 0 <= a <= both + 1e-9
        assert a + b <= both * (1 + 1e-9) + 1e-9


def test_slopes_are_those_of_finite_differences_and_zero_at_no_size(double: None) -> None:
    made = order_books(*side_by_side([book(np.random.default_rng(4))], np.dtype(float)))

    def total(size: jax.Array) -> jax.Array:
        root = square_root_impact(size, deviation=jnp.asarray(0.02), volume=jnp.asarray(1e4), strength=jnp.asarray(1.0))
        spread = even_book(size, depth=jnp.asarray(70.0), distance=jnp.asarray(0.005))
        return root + spread + walk_books(size, jnp.asarray(0), made)

    slope = jax.jit(jax.grad(total))
    for size in (3.0, 61.0, 200.0, 5_000.0):
        step = 1e-5 * size
        wanted = float(total(jnp.asarray(size + step)) - total(jnp.asarray(size - step))) / (2 * step)
        assert float(slope(jnp.asarray(size))) == pytest.approx(wanted, rel=1e-6)
    assert float(slope(jnp.asarray(0.0))) == 0


@pytest.mark.parametrize("width", [2, 8, 32])
def test_runs_are_summed_at_their_last_entry_and_told_to_all_of_theirs(
    precision: np.dtype, rng: np.random.Generator, width: int
) -> None:
    groups = np.sort(rng.integers(0, 4, (5, width)), axis=1)
    amounts = rng.standard_normal((5, width)).astype(precision)
    near = 4 * width * float(np.finfo(precision).eps)
    summed, told = np.asarray(totals(amounts, groups)), np.asarray(rates(amounts, groups))
    for row in range(5):
        for group in set(groups[row].tolist()):
            mine = np.flatnonzero(groups[row] == group)
            assert float(summed[row, mine[-1]]) == pytest.approx(float(amounts[row, mine].sum()), abs=near)
            np.testing.assert_array_equal(summed[row, mine[:-1]], 0)
            np.testing.assert_array_equal(told[row, mine], amounts[row, mine[-1]])
    np.testing.assert_allclose(sums(amounts), amounts.sum(axis=1), atol=near)
    # A row has the same bits beside others.
    many = totals(np.tile(amounts[:1], (64, 1)), np.tile(groups[:1], (64, 1)))
    np.testing.assert_array_equal(np.asarray(many)[7], summed[0])


def test_a_tile_of_a_width_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="width 3 cannot be summed"):
        run_totals(np.zeros((2, 3)), np.zeros((2, 3), int))
