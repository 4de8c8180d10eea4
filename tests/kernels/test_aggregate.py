"""Positions times the cube: the sum it is, and the bits that no padding, tile or neighbour may change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marginax_kernels import accumulate

INSTRUMENTS, SCENARIOS = 12, 96
ZERO_ROW = INSTRUMENTS
WIDTHS = (2, 4, 8, 16, 32, 64)

together = jax.jit(accumulate)


@pytest.fixture
def cube(precision: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """Heavy-tailed unit P&L of contracts of very different size, and the row of zeros that padding points at."""
    sizes = 10.0 ** rng.uniform(-3, 4, (INSTRUMENTS, 1))
    unit_pnl = rng.standard_t(3, (INSTRUMENTS, SCENARIOS)) * sizes
    return np.concatenate([unit_pnl, np.zeros((1, SCENARIOS))]).astype(precision)


def tile(
    rng: np.random.Generator, precision: np.dtype, *, accounts: int, held: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accounts with `held` positions each in rising instruments, padded to `width`."""
    rows = np.full((accounts, width), ZERO_ROW, np.int32)
    quantities = np.zeros((accounts, width), precision)
    for account in range(accounts):
        rows[account, :held] = np.sort(rng.choice(INSTRUMENTS, held, replace=False))
        quantities[account, :held] = rng.normal(0, 300, held)
    return rows, quantities


def padded(cells: np.ndarray, width: int, value: float) -> np.ndarray:
    """The same rows, filled up to `width`."""
    out = np.full((len(cells), width), value, cells.dtype)
    out[:, : cells.shape[1]] = cells
    return out


def by_hand(cube: np.ndarray, rows: np.ndarray, quantities: np.ndarray) -> np.ndarray:
    """Account by account, position by position, in float64."""
    total = np.zeros((len(rows), cube.shape[1]))
    for account in range(len(rows)):
        for row, quantity in zip(rows[account], quantities[account], strict=True):
            total[account] += float(quantity) * cube[row].astype(float)
    return total


def loss_of_digits(cube: np.ndarray, rows: np.ndarray, quantities: np.ndarray) -> np.ndarray:
    """What a sum of products in the cube's own precision may lose: one rounding a product and one an addition."""
    gross = by_hand(np.abs(cube), rows, np.abs(quantities))
    return (rows.shape[1] + 1) * np.finfo(cube.dtype).eps * gross


@pytest.mark.parametrize("width", [2, 8, 32])
def test_an_account_s_pnl_is_the_sum_over_its_positions(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator, width: int
) -> None:
    rows, quantities = tile(rng, precision, accounts=16, held=min(width, INSTRUMENTS), width=width)
    got = np.asarray(together(cube, rows, quantities))
    assert got.dtype == precision
    error = np.abs(got - by_hand(cube, rows, quantities))
    assert (error <= loss_of_digits(cube, rows, quantities)).all()


@pytest.mark.parametrize("held", [1, 2])
def test_an_account_has_the_same_bits_at_every_padded_width(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator, held: int
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=held, width=2)
    narrow = np.asarray(together(cube, rows, quantities))
    for width in WIDTHS[1:]:
        wide = together(cube, padded(rows, width, ZERO_ROW), padded(quantities, width, 0))
        np.testing.assert_array_equal(np.asarray(wide), narrow, err_msg=f"width {width}")


def test_eleven_positions_have_the_same_bits_in_widths_16_32_and_64(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=11, width=16)
    narrow = np.asarray(together(cube, rows, quantities))
    for width in (32, 64):
        wide = together(cube, padded(rows, width, ZERO_ROW), padded(quantities, width, 0))
        np.testing.assert_array_equal(np.asarray(wide), narrow, err_msg=f"width {width}")


@pytest.mark.parametrize("width", [2, 8])
def test_an_account_has_the_same_bits_in_tiles_of_64_128_and_256_rows(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator, width: int
) -> None:
    rows, quantities = tile(rng, precision, accounts=256, held=width, width=width)
    tall = np.asarray(together(cube, rows, quantities))
    for height in (64, 128):
        short = np.asarray(together(cube, rows[-height:], quantities[-height:]))
        np.testing.assert_array_equal(short, tall[-height:], err_msg=f"{height} rows")


@pytest.mark.parametrize("neighbour", ["another", "empty", "nan", "infinite", "huge"])
def test_no_account_sees_another(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator, neighbour: str
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=3, width=4)
    before = np.asarray(together(cube, rows, quantities))
    others = np.arange(64) != 31
    new_rows, new_quantities = tile(rng, precision, accounts=64, held=4, width=4)
    values = {"empty": 0.0, "nan": np.nan, "infinite": np.inf, "huge": float(np.finfo(precision).max)}
    new_quantities *= 1 if neighbour == "another" else 0
    new_quantities += values.get(neighbour, 0.0)
    new_rows[31], new_quantities[31] = rows[31], quantities[31]
    after = np.asarray(together(cube, new_rows, new_quantities))
    np.testing.assert_array_equal(after[31], before[31])
    assert not np.array_equal(after[others], before[others])


def test_where_an_account_stands_in_the_tile_changes_no_bit(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=3, width=4)
    order = rng.permutation(64)
    before = np.asarray(together(cube, rows, quantities))
    np.testing.assert_array_equal(np.asarray(together(cube, rows[order], quantities[order])), before[order])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_instrument_without_a_price_hurts_those_who_hold_it_and_never_padding(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator, broken: float
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=3, width=8)
    spoilt = cube.copy()
    spoilt[0] = broken  # row 0 is where a careless padding would point
    holders = (rows == 0).any(axis=1)
    assert 0 < holders.sum() < 64
    clean = np.asarray(together(cube, rows, quantities))
    got = np.asarray(together(spoilt, rows, quantities))
    assert not np.isfinite(got[holders]).any()
    np.testing.assert_array_equal(got[~holders], clean[~holders])


def test_doubling_every_position_doubles_every_pnl_to_the_bit(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator
) -> None:
    rows, quantities = tile(rng, precision, accounts=64, held=8, width=8)
    once = np.asarray(together(cube, rows, quantities))
    np.testing.assert_array_equal(np.asarray(together(cube, rows, 2 * quantities)), 2 * once)
    np.testing.assert_array_equal(np.asarray(together(cube, rows, -quantities)), -once)


def test_a_perfectly_hedged_book_has_no_pnl_beyond_one_rounding(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator
) -> None:
    twins = cube.copy()
    twins[1::2] = twins[:-1:2]  # each odd contract moves as the even one before it
    rows = np.tile(np.arange(4, dtype=np.int32), (64, 1))
    quantities = np.repeat(rng.normal(0, 300, (64, 2)), 2, axis=1).astype(precision)
    quantities[:, 1::2] *= -1
    got = np.abs(np.asarray(together(twins, rows, quantities), float))
    # A product may be rounded before one side is added and not before the other (fused multiply-add): half an eps
    # of the running sum for each of the four. Products in TF32 or bfloat16 would be off by a thousand times as
    # much.
    running = by_hand(np.abs(twins), rows, np.abs(quantities))
    assert (got <= 2 * np.finfo(precision).eps * running).all()


def test_gradients_are_the_cube_and_the_quantities(
    precision: np.dtype, cube: np.ndarray, rng: np.random.Generator
) -> None:
    rows, quantities = tile(rng, precision, accounts=8, held=3, width=4)
    seeds = rng.normal(size=(8, SCENARIOS)).astype(precision)

    def total(unit_pnl: jax.Array, held: jax.Array) -> jax.Array:
        return jnp.vdot(accumulate(unit_pnl, rows, held), seeds)

    by_cube, by_quantity = jax.jit(jax.grad(total, argnums=(0, 1)))(cube, quantities)
    wanted_cube = np.zeros(cube.shape)
    size = np.zeros(cube.shape)
    for row, quantity, seed in zip(rows, quantities, seeds, strict=True):
        for k, amount in zip(row, quantity, strict=True):
            wanted_cube[k] += float(amount) * seed
            size[k] += abs(float(amount) * seed)
    eps = np.finfo(precision).eps
    assert (np.abs(np.asarray(by_cube) - wanted_cube) <= rows.size * eps * size).all()
    products = cube[rows].astype(float) * seeds[:, None, :]
    error = np.abs(np.asarray(by_quantity) - products.sum(axis=2))
    assert (error <= SCENARIOS * eps * np.abs(products).sum(axis=2)).all()


@pytest.mark.parametrize("width", [1, 3])
def test_a_width_that_would_change_bits_is_refused_with_what_to_do(cube: np.ndarray, width: int) -> None:
    rows, quantities = np.full((64, width), ZERO_ROW, np.int32), np.zeros((64, width), cube.dtype)
    with pytest.raises(ValueError, match=f"width {width}.*power of two"):
        accumulate(jnp.asarray(cube), jnp.asarray(rows), jnp.asarray(quantities))
