"""Laws of the tail of a book: what merging, scaling, splitting and reordering may and may not do to it."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels._books import PATHS, assert_same_bits, ragged, taking
from marginax_kernels import BookTail, book_tail
from reference.samples import rounding

INSTRUMENTS, SCENARIOS, TAIL = 6, 80, 0.1
SINGLE = np.dtype("float32")


@pytest.fixture(params=PATHS, autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with taking(request.param):
        yield request.param


def markets() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """A cube of heavy tails and weights that are whole numbers over their sum."""

    def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 9, SCENARIOS)
        return rng.standard_t(3, (INSTRUMENTS, SCENARIOS)), counts / counts.sum()

    return st.integers(0, 2**32 - 1).map(drawn)


def books(accounts: int) -> st.SearchStrategy[np.ndarray]:
    """Whole contracts of four instruments; zero is held by nobody."""
    return arrays(np.int64, (accounts, 4), elements=st.integers(-50, 50))


IDS = np.arange(4)


def ask(book: np.ndarray, cube: np.ndarray, mass: np.ndarray, precision: np.dtype, ids: np.ndarray = IDS) -> BookTail:
    held = np.broadcast_to(ids, book.shape)
    return book_tail(held, book, cube.astype(precision), mass.astype(precision), tail=TAIL, amounts=np.zeros(len(book)))


def unit(precision: np.dtype, book: np.ndarray, cube: np.ndarray) -> float:
    """Rounding of an expected shortfall of any account of the book."""
    gross = float(np.abs(book).sum()) * float(np.abs(cube).max())
    return rounding(precision, SCENARIOS, 2 * gross / TAIL)


@given(market=markets(), book=books(2))
def test_a_merged_book_is_never_riskier_than_its_parts(
    precision: np.dtype, market: tuple[np.ndarray, np.ndarray], book: np.ndarray
) -> None:
    got = ask(np.concatenate([book, book.sum(axis=0, keepdims=True)]), *market, precision).expected_shortfall
    assert float(got[2]) <= float(got[0]) + float(got[1]) + unit(precision, book, market[0])


@given(market=markets(), book=books(2))
def test_doubling_every_position_doubles_every_figure_to_the_bit(
    market: tuple[np.ndarray, np.ndarray], book: np.ndarray
) -> None:
    once, twice = (ask(factor * book, *market, SINGLE) for factor in (1, 2))
    assert_same_bits(twice[:3], tuple(2 * figure for figure in once[:3]))
    np.testing.assert_array_equal(twice.exceedance, once.exceedance)


@given(market=markets(), book=books(2), order=st.permutations(range(4)))
def test_the_order_of_positions_is_worth_no_more_than_rounding(
    market: tuple[np.ndarray, np.ndarray], book: np.ndarray, order: list[int]
) -> None:
    plain, moved = ask(book, *market, SINGLE), ask(book[:, order], *market, SINGLE, IDS[order])
    off = unit(SINGLE, book, market[0])
    for one, other in zip(plain[:3], moved[:3], strict=True):
        assert (np.abs(one - other) <= off).all()


@given(market=markets(), book=books(2), part=st.integers(-20, 20))
def test_a_position_in_two_parts_is_the_same_position(
    market: tuple[np.ndarray, np.ndarray], book: np.ndarray, part: int
) -> None:
    whole = book.copy()
    whole[:, 3] = 0
    split = whole.copy()
    split[:, 0] -= part
    split[:, 3] = part
    one, other = ask(whole, *market, SINGLE), ask(split, *market, SINGLE, np.array([0, 1, 2, 0]))
    off = unit(SINGLE, np.abs(whole) + np.abs(split), market[0])
    for a, b in zip(one[:3], other[:3], strict=True):
        assert (np.abs(a - b) <= off).all()


@given(market=markets(), book=books(2), seed=st.integers(0, 2**32 - 1))
def test_scenarios_in_another_order_with_their_weights_are_the_same_scenarios(
    market: tuple[np.ndarray, np.ndarray], book: np.ndarray, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(SCENARIOS)
    cube, mass = market
    plain, moved = ask(book, cube, mass, SINGLE), ask(book, cube[:, order], mass[order], SINGLE)
    np.testing.assert_array_equal(moved.var, plain.var)  # whichever way they are visited, to the bit
    off = unit(SINGLE, book, cube)
    assert (np.abs(moved.expected_shortfall - plain.expected_shortfall) <= off).all()
    assert (np.abs(moved.std_error - plain.std_error) <= off).all()
    np.testing.assert_allclose(moved.venue_loss, plain.venue_loss[order], atol=off, rtol=0)


@given(market=markets(), book=books(3), other=books(3))
def test_no_account_sees_another(market: tuple[np.ndarray, np.ndarray], book: np.ndarray, other: np.ndarray) -> None:
    other[1] = book[1]
    before, after = ask(book, *market, SINGLE), ask(other, *market, SINGLE)
    assert_same_bits(tuple(each[1] for each in before[:4]), tuple(each[1] for each in after[:4]))


@given(market=markets(), book=books(2))
def test_cash_beside_a_book_moves_its_shortfall_by_itself(
    market: tuple[np.ndarray, np.ndarray], book: np.ndarray
) -> None:
    cube, mass = market
    cube = cube.copy()
    cube[3] = 1.0  # an instrument that pays one in every scenario
    bare = book.copy()
    bare[:, 3] = 0
    richer = bare.copy()
    richer[:, 3] = 40
    before, after = ask(bare, cube, mass, SINGLE), ask(richer, cube, mass, SINGLE)
    off = unit(SINGLE, richer, cube)
    assert (np.abs(before.expected_shortfall - 40 - after.expected_shortfall) <= off).all()


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_single_precision_is_double_precision_but_for_its_roundings(rng: np.random.Generator, weighted: bool) -> None:
    book = ragged(rng, SINGLE, weighted=weighted)
    wide = [each if each is None or each.dtype.kind == "i" else each.astype(float) for each in book]
    single = book_tail(*book[:4], tail=TAIL, amounts=book.amounts)
    double = book_tail(*wide[:4], tail=TAIL, amounts=wide[4])
    gross = np.abs(book.quantities).sum(axis=1) * np.abs(book.cube).max()
    off = rounding(SINGLE, book.cube.shape[1], 2.0) * gross / TAIL
    for one, other in zip(single[:3], double[:3], strict=True):
        assert (np.abs(one - other) <= off).all()
    assert (np.abs(single.venue_loss - double.venue_loss) <= off.sum()).all()
