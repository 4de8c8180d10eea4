"""Unit P&L of spot, linear and inverse contracts: the value in the scenario less the value now, to the last digit.

Shocks reach from a ten-thousandth of a percent to a fall of nine tenths, where differences of values cancel in
float32 and the kernels may not: their twins are computed in float64, from the same float32 numbers.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marginax_kernels import inverse_pnl, linear_pnl, price_change, spot_pnl

COUNT = 24

changes = jax.jit(price_change)
spot = jax.jit(spot_pnl)
linear = jax.jit(linear_pnl)
inverse = jax.jit(inverse_pnl)


def numbers(low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """Float32 numbers in a range; what is below a millionth is zero, so that no product is subnormal."""
    low, high = float(np.float32(low)), float(np.float32(high))
    drawn = arrays(np.float64, COUNT, elements=st.floats(low, high, width=32, allow_subnormal=False))
    return drawn.map(lambda row: np.where(np.abs(row) < 1e-6, 0.0, row))


def prices() -> st.SearchStrategy[np.ndarray]:
    """From a coin at a ten-thousandth of a dollar to one at a million."""
    return numbers(1e-4, 1e6)


def relative_moves() -> st.SearchStrategy[np.ndarray]:
    """Moves of a price as a share of it, down by nine tenths at most."""
    return numbers(-0.9, 4.0)


def cast(precision: np.dtype, *cells: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(each.astype(precision) for each in cells)


def close(got: jax.Array, wanted: np.ndarray, precision: np.dtype, size: np.ndarray, roundings: int) -> None:
    """Equal up to so many roundings of numbers as large as `size`."""
    error = np.abs(np.asarray(got, float) - wanted)
    allowed = roundings * float(np.finfo(precision).eps) * np.abs(size)
    assert (error <= allowed).all(), f"off by {error.max()}, by {(error - allowed).max()} too much"


@given(mark=prices(), shock=numbers(-2.5, 1.6), basis=numbers(-0.5, 0.5))
def test_a_log_shock_and_a_basis_multiply_the_mark(
    precision: np.dtype, mark: np.ndarray, shock: np.ndarray, basis: np.ndarray
) -> None:
    got = changes(*cast(precision, mark, shock, basis), absolute=False, basis_level=precision.type(1))
    wanted = mark * (np.exp(shock) * (1 + basis) - 1)
    # expm1 loses up to 3 units in the last place (measured, jax 0.10 on CPU); then a sum, a product, a sum and a
    # product, of numbers no larger than these; the twin's own float64 roundings are two more.
    size = mark * (np.abs(np.expm1(shock)) * (1 + basis) + np.abs(basis) + 1)
    close(got, wanted, precision, size, 3 + 4 + 2)


@given(mark=numbers(-200, 200), shock=numbers(-300, 300), basis=numbers(-0.5, 0.5), level=numbers(1, 200))
def test_an_absolute_shock_may_carry_a_price_through_zero(
    precision: np.dtype, mark: np.ndarray, shock: np.ndarray, basis: np.ndarray, level: np.ndarray
) -> None:
    mark, shock, basis, level = cast(precision, mark, shock, basis, level)
    got = changes(mark, shock, basis, absolute=True, basis_level=level)
    size = np.abs(shock.astype(float)) + np.abs(basis.astype(float) * level)
    close(got, shock.astype(float) + basis.astype(float) * level, precision, size, 2)


def test_a_millionth_of_a_shock_keeps_its_digits(precision: np.dtype) -> None:
    # exp(1e-6) - 1 in float32 is off by 5 %; expm1 is not.
    got = changes(
        *cast(precision, np.array([40_000.0]), np.array([1e-6]), np.array([0.0])),
        absolute=False,
        basis_level=precision.type(1),
    )
    assert float(got[0]) == pytest.approx(40_000 * np.expm1(1e-6), rel=4 * float(np.finfo(precision).eps))


@given(mark=prices(), move=relative_moves(), settle=prices(), settle_move=relative_moves(), size=prices())
def test_spot_gains_its_whole_value_in_the_scenario_less_its_value_now(
    precision: np.dtype,
    mark: np.ndarray,
    move: np.ndarray,
    settle: np.ndarray,
    settle_move: np.ndarray,
    size: np.ndarray,
) -> None:
    cells = cast(precision, mark, mark * move, size, settle, settle * settle_move)
    mark, change, size, settle, settle_change = (each.astype(float) for each in cells)
    wanted = size * ((mark + change) * (settle + settle_change) - mark * settle)
    gross = size * (np.abs(change) * (settle + np.abs(settle_change)) + mark * np.abs(settle_change))
    # The twin cancels too, in float64: mark x settle is at most 2^52 of what it leaves, or the answer is zero for
    # both.
    own = 4 * np.finfo(float).eps * size * mark * settle
    close(spot(*cells), wanted, precision, gross + own / float(np.finfo(precision).eps), 5)


@given(move=relative_moves(), mark=prices(), settle=prices(), settle_move=relative_moves(), size=prices())
def test_a_linear_future_pays_its_change_at_the_settlement_price_of_the_scenario(
    precision: np.dtype,
    move: np.ndarray,
    mark: np.ndarray,
    settle: np.ndarray,
    settle_move: np.ndarray,
    size: np.ndarray,
) -> None:
    cells = cast(precision, mark * move, size, settle, settle * settle_move)
    change, size, settle, settle_change = (each.astype(float) for each in cells)
    gross = size * np.abs(change) * (settle + np.abs(settle_change))
    close(linear(*cells), size * change * (settle + settle_change), precision, gross, 4)


@given(mark=prices(), move=relative_moves(), settle=prices(), settle_move=relative_moves(), size=prices())
def test_an_inverse_future_pays_coins_at_the_coin_s_price_of_the_scenario(
    precision: np.dtype,
    mark: np.ndarray,
    move: np.ndarray,
    settle: np.ndarray,
    settle_move: np.ndarray,
    size: np.ndarray,
) -> None:
    cells = cast(precision, mark, mark * move, size, settle, settle * settle_move)
    mark, change, size, settle, settle_change = (each.astype(float) for each in cells)
    wanted = size * (1 / mark - 1 / (mark + change)) * (settle + settle_change)
    # After a fall of nine tenths mark + change is a tenth of the mark: its rounding counts ten times, and so does
    # that of the coin's price. The twin's own difference of inverses is rounded in float64.
    gross = size * np.abs(change) / (mark * (mark + change)) * (settle + np.abs(settle_change))
    own = 4 * np.finfo(float).eps * size * (1 / mark + 1 / (mark + change)) * (settle + settle_change)
    close(inverse(*cells), wanted, precision, 10 * gross + own / float(np.finfo(precision).eps), 8)


@given(mark=prices(), move=relative_moves(), size=prices())
def test_an_inverse_future_on_its_own_coin_is_linear_in_dollars(
    precision: np.dtype, mark: np.ndarray, move: np.ndarray, size: np.ndarray
) -> None:
    mark, change, size = cast(precision, mark, mark * move, size)
    wanted = size.astype(float) * change / mark
    close(inverse(mark, change, size, mark, change), wanted, precision, 10 * wanted, 8)


@given(mark=prices(), move=relative_moves(), size=prices())
def test_a_coin_and_a_short_inverse_future_of_its_worth_keep_their_dollars(
    precision: np.dtype, mark: np.ndarray, move: np.ndarray, size: np.ndarray
) -> None:
    mark, change, coins = cast(precision, mark, mark * move, size)
    one, nothing = np.ones_like(mark), np.zeros_like(mark)
    owned = np.asarray(spot(mark, change, coins, one, nothing), float)
    short = -np.asarray(inverse(mark, change, coins * mark, mark, change), float)
    close(owned + short, nothing.astype(float), precision, 10 * owned, 10)


@pytest.mark.parametrize("kernel", [spot, inverse])
def test_what_does_not_move_gains_nothing(
    precision: np.dtype, kernel: Callable[..., jax.Array], rng: np.random.Generator
) -> None:
    mark, size, settle = rng.uniform(1, 1_000, (3, COUNT)).astype(precision)
    nothing = np.zeros(COUNT, precision)
    assert (np.asarray(kernel(mark, nothing, size, settle, nothing)) == 0).all()
    assert (np.asarray(linear(nothing, size, settle, settle)) == 0).all()


def test_gradients_are_those_of_the_formulas(double: None) -> None:
    mark, shock, basis, size, settle, settle_shock = 250.0, -0.3, 0.02, 3.0, 40.0, 0.1

    def future(kernel: Callable[..., jax.Array], cells: jax.Array) -> jax.Array:
        now, move, spread, coin, coin_move = cells
        change = price_change(now, move, spread, absolute=jnp.asarray(False), basis_level=jnp.asarray(1.0))
        args = (change, size, coin, coin * jnp.expm1(coin_move))
        return kernel(*args) if kernel is linear_pnl else kernel(now, *args)

    then, paid = mark * np.exp(shock) * (1 + basis), settle * np.exp(settle_shock)
    wanted = {
        # by mark, underlying shock, basis, coin, coin shock
        spot_pnl: [
            size * (then * paid / mark - settle),
            size * then * paid,
            size * then * paid / (1 + basis),
            size * (then * paid / settle - mark),
            size * then * paid,
        ],
        linear_pnl: [
            size * (then / mark - 1) * paid,
            size * then * paid,
            size * then * paid / (1 + basis),
            size * (then - mark) * paid / settle,
            size * (then - mark) * paid,
        ],
        inverse_pnl: [
            size * (-1 / mark**2 + 1 / (then * mark)) * paid,
            size / then * paid,
            size / then * paid / (1 + basis),
            size * (1 / mark - 1 / then) * paid / settle,
            size * (1 / mark - 1 / then) * paid,
        ],
    }
    cells = jnp.array([mark, shock, basis, settle, settle_shock])
    for kernel, slopes in wanted.items():
        got = jax.jit(jax.grad(lambda x, kernel=kernel: future(kernel, x)))(cells)
        # A dozen float64 operations on numbers up to 40,000, differences included.
        np.testing.assert_allclose(got, slopes, rtol=1e-12, atol=1e-10, err_msg=kernel.__name__)


def test_the_other_way_of_shocking_never_spoils_a_gradient(precision: np.dtype) -> None:
    # An absolute shock of 300 would overflow as a logarithm: exp(300) is beyond float32.
    slope = jax.jit(
        jax.grad(
            lambda shock: jnp.sum(
                price_change(
                    jnp.array([20.0, 20.0], precision),
                    shock,
                    jnp.zeros(2, precision),
                    absolute=jnp.array([True, False]),
                    basis_level=jnp.ones(2, precision),
                )
            )
        )
    )(jnp.array([300.0, 0.0], precision))
    np.testing.assert_array_equal(slope, [1.0, 20.0])
