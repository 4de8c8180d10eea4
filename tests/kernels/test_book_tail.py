"""The tail of a whole book: what it answers, what it refuses, and what may not change a bit of it.

Every test runs in pure JAX and in machine code; the second is skipped, with the reason, where there is no compiler.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from equinox.debug import assert_max_traces

from kernels._books import PATHS, Book, assert_same_bits, ragged, taking
from marginax_kernels import (
    CubeTail,
    book_passes,
    book_tail,
    expected_shortfall_scramble_error,
    ragged_book_tail,
)
from reference import book as twin
from reference.samples import rounding

TAIL = 0.05
# Every path compiles each width, precision and tail anew: what has nothing to do with precision runs in one.
SINGLE = np.dtype("float32")


@pytest.fixture(params=PATHS, autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with taking(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("scenarios", "weighted", "tail"), [(1, False, 0.01), (65, True, 1.0), (700, False, 0.01), (700, True, 0.2)]
)
def test_every_account_has_the_figures_that_sorting_its_losses_gives(
    precision: np.dtype, rng: np.random.Generator, scenarios: int, weighted: bool, tail: float
) -> None:
    book = ragged(rng, precision, accounts=70, scenarios=scenarios, weighted=weighted)
    got = book_tail(*book[:4], tail=tail, amounts=book.amounts)
    wanted = twin.book_tail(*book[:4], tail=tail, amounts=book.amounts)
    # A loss is off by a rounding a product and one a sum, value at risk and shortfall by no more than the worst loss,
    # and sums over scenarios of up to twice the gross by their own.
    gross = twin.gross(*book[:3])
    off = (book.instrument_ids.shape[1] + 1) * np.finfo(precision).eps * gross
    summed = np.array([rounding(precision, scenarios, 2 * each / tail) for each in gross])
    for figure in got[:4]:
        assert figure is not None
        assert figure.dtype == precision
    assert (np.abs(got.var - wanted.var) <= off).all()
    assert (np.abs(got.expected_shortfall - wanted.expected_shortfall) <= off + summed).all()
    # psi changes by 1 / tail of what a loss does, and SE is its root mean square times at most one.
    assert (np.abs(got.std_error - wanted.std_error) <= 3 * off / tail + summed).all()
    assert got.exceedance is not None
    assert got.venue_loss is not None
    assert got.venue_loss.dtype == np.float64
    near = np.abs(twin.losses(*book[:3]) - book.amounts[:, None].astype(float)) <= 2 * off[:, None]
    mass = np.full(scenarios, 1 / scenarios) if book.weights is None else book.weights
    unsure = (near * mass).sum(axis=1) + rounding(precision, scenarios, 1.0)
    assert (np.abs(got.exceedance - wanted.exceedance) <= unsure).all()
    assert (np.abs(got.venue_loss - wanted.venue_loss) <= 2 * off.sum()).all()
    losses, everyone = twin.losses(*book[:3]), np.arange(len(off))
    assert (losses[everyone, got.worst_scenario] >= losses.max(axis=1) - 2 * off).all()


@pytest.mark.parametrize("ties", [1, 300, 700])
def test_the_first_of_the_worst_scenarios_is_named(rng: np.random.Generator, ties: int) -> None:
    losses = rng.integers(-5, 5, (40, 700)).astype(np.float32)
    losses[:, rng.permutation(700)[:ties]] = 7
    losses[3] = -np.inf
    losses[4, 650] = np.nan
    got = book_tail(np.arange(40)[:, None], np.full((40, 1), -1.0), losses, None, tail=TAIL)
    wanted = losses.argmax(axis=1)
    wanted[4] = -1
    np.testing.assert_array_equal(got.worst_scenario, wanted)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("tail", [0.001, 0.05])
def test_the_error_over_scrambles_is_that_of_the_losses(
    precision: np.dtype, rng: np.random.Generator, weighted: bool, tail: float
) -> None:
    book = ragged(rng, precision, accounts=70, positions=2, scenarios=700, weighted=weighted)
    starts = np.arange(71) * book.instrument_ids.shape[1]
    ready = CubeTail(book.cube, book.weights, tail=tail, scrambles=(16, 640))
    got = ready.of(starts, book.instrument_ids.ravel(), book.quantities.ravel())
    mass = np.full(700, 1 / 700) if book.weights is None else book.weights
    with jax.enable_x64(True):
        losses = twin.losses(*book[:3])
        wanted = expected_shortfall_scramble_error(losses, mass.astype(float), tail=tail, scrambles=16, draws=640)
    # psi is off by 1 / tail of what a loss is, and Student's factor of sixteen is less than 2.2.
    off = rounding(precision, 700, 3.0) * twin.gross(*book[:3]) / tail
    assert (np.abs(got.std_error - np.asarray(wanted)) <= off).all()
    plain = book_tail(*book[:4], tail=tail)
    np.testing.assert_array_equal(got.var, plain.var)
    np.testing.assert_allclose(got.expected_shortfall, plain.expected_shortfall, rtol=rounding(precision, 700, 1.0))


@pytest.mark.parametrize("scrambles", [(0, 0), (16, 640)], ids=["draws", "scrambles"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_several_tails_are_answered_each_as_if_it_were_alone(
    rng: np.random.Generator, weighted: bool, scrambles: tuple[int, int], path: str
) -> None:
    book = ragged(rng, SINGLE, accounts=70, positions=2, scenarios=700, weighted=weighted)
    book.cube[3, 7] = np.nan
    held = np.arange(71) * book.instrument_ids.shape[1], book.instrument_ids.ravel(), book.quantities.ravel()
    tails = (0.01, 0.2, 0.001, 0.2)
    together = CubeTail(book.cube, book.weights, tail=tails, scrambles=scrambles).of(*held, book.amounts)
    assert np.isnan(together.var).any(axis=1).all()
    for k, tail in enumerate(tails):
        alone = CubeTail(book.cube, book.weights, tail=tail, scrambles=scrambles).of(*held, book.amounts)
        assert_same_bits((together.var[k],), (alone.var,), f"tail {tail}")
        for one, other in zip((each[k] for each in together[1:3]), alone[1:3], strict=True):
            # XLA sums in another order where one program does more; machine code does not.
            np.testing.assert_allclose(one, other, rtol=0 if path == "native" else rounding(SINGLE, 700, 1.0))
        assert_same_bits(tuple(together[3:]), tuple(alone[3:]), "what no tail decides")


def test_draws_that_are_no_scrambles_are_refused() -> None:
    for scrambles in ((1, 4), (3, 4), (2, 6), (2, 0)):
        with pytest.raises(ValueError, match="cannot be cut into"):
            CubeTail(np.ones((1, 5)), None, tail=TAIL, scrambles=scrambles)


def test_no_tile_stream_chunk_or_order_of_accounts_changes_a_bit(precision: np.dtype, rng: np.random.Generator) -> None:
    book = ragged(rng, precision, accounts=300, scenarios=321, weighted=True)
    cube, weights = book.cube, book.weights
    held = book.instrument_ids, book.quantities
    whole = book_tail(*held, cube, weights, tail=TAIL, amounts=book.amounts)
    for tile, streams in ((64, 1), (0, 3)):
        other = book_tail(*held, cube, weights, tail=TAIL, amounts=book.amounts, tile=tile, streams=streams)
        assert_same_bits(other, whole, f"tiles of {tile} on {streams} streams")
    order = rng.permutation(300)
    moved = book_tail(*(each[order] for each in held), cube, weights, tail=TAIL, amounts=book.amounts[order])
    assert_same_bits(moved[:4], tuple(each[order] for each in whole[:4] if each is not None), "another order")
    for chunk in (slice(0, 1), slice(17, 90), slice(299, 300)):
        part = book_tail(*(each[chunk] for each in held), cube, weights, tail=TAIL, amounts=book.amounts[chunk])
        assert_same_bits(part[:4], tuple(each[chunk] for each in whole[:4] if each is not None), f"chunk {chunk}")


def test_where_padding_stands_and_how_wide_it_is_changes_no_bit(rng: np.random.Generator) -> None:
    book = ragged(rng, SINGLE)
    got = book_tail(*book[:4], tail=TAIL, amounts=book.amounts)
    live = (book.instrument_ids >= 0) & (book.quantities != 0)
    starts = np.concatenate([[0], np.cumsum(live.sum(axis=1))])
    rows = ragged_book_tail(
        starts, book.instrument_ids[live], book.quantities[live], book.cube, None, tail=TAIL, amounts=book.amounts
    )
    assert_same_bits(rows, got, "row-compressed")
    wide = [np.pad(each, ((0, 0), (3, 40)), constant_values=-1) for each in (book.instrument_ids, book.quantities)]
    assert_same_bits(book_tail(*wide, book.cube, None, tail=TAIL, amounts=book.amounts), got, "wide padding")


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_an_instrument_without_a_price_hurts_those_who_hold_it_and_nobody_else(
    rng: np.random.Generator, broken: float
) -> None:
    book = ragged(rng, SINGLE)
    cube = np.concatenate([book.cube, np.full((1, book.cube.shape[1]), broken, SINGLE)])
    before = book_tail(*book[:4], tail=TAIL, amounts=book.amounts)
    ids, quantities = book.instrument_ids.copy(), book.quantities.copy()
    ids[3], quantities[3] = len(book.cube), 0  # a quantity of zero is exactly nothing
    nothing = book_tail(ids, quantities, cube, None, tail=TAIL, amounts=book.amounts)
    others = np.arange(len(ids)) != 3
    assert_same_bits(tuple(each[others] for each in nothing[:4]), tuple(each[others] for each in before[:4]))
    assert nothing.var[3] == 0
    quantities[3, 0] = 1
    got = book_tail(ids, quantities, cube, None, tail=TAIL, amounts=book.amounts)
    assert_same_bits(tuple(each[others] for each in got[:4]), tuple(each[others] for each in before[:4]))
    assert np.isfinite(got.venue_loss).all()
    assert not np.isfinite(got.var[3])
    assert not np.isfinite(got.expected_shortfall[3])
    if np.isnan(broken):
        assert np.isnan([figure[3] for figure in got[:4]]).all()


@pytest.mark.parametrize("amount", [np.nan, np.inf, -np.inf])
def test_an_amount_that_is_no_number_spoils_no_other_answer(rng: np.random.Generator, amount: float) -> None:
    book = ragged(rng, SINGLE)
    before = book_tail(*book[:4], tail=TAIL, amounts=book.amounts)
    amounts = book.amounts.copy()
    amounts[5] = amount
    got = book_tail(*book[:4], tail=TAIL, amounts=amounts)
    assert_same_bits(got[:3], before[:3])
    others = np.arange(len(amounts)) != 5
    np.testing.assert_array_equal(got.exceedance[others], before.exceedance[others])
    wanted = {np.inf: 0.0, -np.inf: 1.0}.get(amount, np.nan)
    np.testing.assert_allclose(got.exceedance[5], wanted, rtol=rounding(SINGLE, 300, 1.0))
    assert np.isfinite(got.venue_loss).all()


def hedged(rng: np.random.Generator, precision: np.dtype, width: int) -> Book:
    """A long future against the spot and the basis it is made of: whole cents that float32 holds and TF32 does not."""
    parts = rng.integers(-(2**19), 2**19, (2, width, 500))
    cube = np.concatenate([parts[0], parts[1], parts[0] + parts[1]]).astype(precision)
    each = np.arange(width)
    ids = np.concatenate([each, each + width, each + 2 * width])[None].repeat(3, axis=0)
    quantities = np.ones((3, 3 * width), precision)
    quantities[:, 2 * width :] = -1
    return Book(ids, quantities, cube, None, np.zeros(3, precision))


def in_tf32(cube: np.ndarray) -> np.ndarray:
    """The cube with the ten bits of mantissa that a TF32 product reads."""
    mantissa, exponent = np.frexp(cube)
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(cube.dtype)


@pytest.mark.parametrize("dense_width", [1024, 1], ids=["gathered", "dense"])
def test_a_perfectly_hedged_book_loses_exactly_nothing_which_tf32_would_not_see(
    rng: np.random.Generator, dense_width: int
) -> None:
    book = hedged(rng, SINGLE, width=1)
    got = book_tail(*book[:4], tail=TAIL, amounts=book.amounts, dense_width=dense_width)
    for figure in got:
        assert (np.asarray(figure) == 0).all()
    rough = book_tail(*book[:2], in_tf32(book.cube), None, tail=TAIL, dense_width=dense_width)
    assert (rough.expected_shortfall > 100).all()


def test_wide_accounts_in_a_product_of_matrices_have_the_same_losses(rng: np.random.Generator, path: str) -> None:
    book = ragged(rng, SINGLE, accounts=90, positions=9, instruments=8)
    book.cube[7, 11] = np.nan  # its holders are gathered; a product would give it to everyone
    gathered = book_tail(*book[:4], tail=TAIL, amounts=book.amounts)
    dense = book_tail(*book[:4], tail=TAIL, amounts=book.amounts, dense_width=2)
    clean = np.nan_to_num(book.cube)
    off = 2 * 10 * np.finfo(SINGLE).eps * twin.gross(*book[:2], clean)
    known = ~np.isnan(gathered.var)
    assert (np.isnan(dense.var) == ~known).all()
    in_order = np.argsort(book.instrument_ids, axis=1, kind="stable")
    sorted_book = tuple(np.take_along_axis(each, in_order, axis=1) for each in book[:2])
    once = np.array([len(set(row[row >= 0])) == (row >= 0).sum() for row in sorted_book[0]]) & known
    if path == "native":  # a product visits the rows in order, and adds exact zeros for what is not held
        one, other = (
            book_tail(*sorted_book, book.cube, None, tail=TAIL, amounts=book.amounts, dense_width=width)
            for width in (2, 1024)
        )
        assert_same_bits(tuple(each[once] for each in one[:4]), tuple(each[once] for each in other[:4]))
    assert (np.abs(dense.var - gathered.var)[known] <= off[known]).all()
    assert (np.abs(dense.venue_loss - gathered.venue_loss) <= off.sum()).all()
    other = book_tail(*book[:4], tail=TAIL, amounts=book.amounts, dense_width=2, tile=64, streams=3)
    assert_same_bits(other, dense, "tiles of 64 on 3 streams")
    order = rng.permutation(90)
    held = book.instrument_ids[order], book.quantities[order]
    moved = book_tail(*held, book.cube, None, tail=TAIL, amounts=book.amounts[order], dense_width=2)
    assert_same_bits(moved[:4], tuple(each[order] for each in dense[:4]), "another order")
    amounts = book.amounts[order][:5]
    part = book_tail(*(each[:5] for each in held), book.cube, None, tail=TAIL, amounts=amounts, dense_width=2)
    assert_same_bits(part[:4], tuple(each[:5] for each in moved[:4]), "few")


def test_a_book_without_accounts_and_an_account_without_positions_owe_nothing(precision: np.dtype) -> None:
    cube = np.ones((2, 10), precision)
    nobody = book_tail(np.zeros((0, 3), int), np.zeros((0, 3)), cube, None, tail=TAIL, amounts=np.zeros(0))
    assert [figure.shape for figure in nobody] == [(0,)] * 4 + [(10,), (0,)]
    idle = book_tail(np.full((2, 0), -1), np.zeros((2, 0)), cube, None, tail=TAIL, amounts=np.array([1.0, -1.0]))
    for figure in idle[:3]:
        assert (np.signbit(figure) == np.zeros(2, bool)).all()
        assert (figure == 0).all()
    np.testing.assert_array_equal(idle.venue_loss, np.ones(10))
    empty = book_tail(np.full((1, 2), -1), np.zeros((1, 2)), np.zeros((0, 10), precision), None, tail=TAIL)
    assert empty.var[0] == 0


def test_each_width_is_compiled_once(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    body = assert_max_traces(book_passes._pure_tile.__wrapped__, max_traces=2)
    monkeypatch.setattr(book_passes, "_pure_tile", jax.jit(body, static_argnames=("tails", "scrambles")))
    with taking("pure"):
        for accounts in (500, 501, 700):
            book = ragged(rng, SINGLE, accounts=accounts)
            book_tail(*book[:4], tail=TAIL, amounts=book.amounts, tile=64, streams=1)  # widths 2 and 4


GOOD = Book(np.zeros((2, 2), int), np.ones((2, 2)), np.ones((3, 4), np.float32), None, np.zeros(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"instrument_ids": np.zeros((2, 3), int)},
            r"shape \(2, 3\) and .* \(2, 2\) must both be accounts x positions",
        ),
        ({"instrument_ids": np.full((2, 2), 3)}, "hold 3, and the cube has 3 instruments: ids go from 0 to 2"),
        ({"instrument_ids": np.full((2, 2), -2)}, "hold -2"),
        ({"instrument_ids": np.zeros((2, 2))}, "of float64; give whole numbers"),
        ({"cube": np.ones((3, 4), np.float16)}, "of float16.*float32 or float64"),
        ({"cube": np.ones((3, 0), np.float32)}, "at least one scenario"),
        ({"cube": np.ones(3, np.float32)}, "instruments x scenarios"),
        ({"weights": np.full(3, 1 / 3)}, r"shape \(3,\) do not fit the cube's 4 scenarios"),
        ({"weights": np.full(4, 0.2)}, "sum to 0.8.*divide them by their sum"),
        ({"weights": np.array([0.5, 0.7, -0.2, 0])}, "weight 2 is -0.2"),
        ({"weights": np.array([0.5, np.nan, 0.5, 0])}, "weight 1 is nan"),
        ({"amounts": np.zeros(3)}, r"shape \(3,\) do not fit 2 accounts"),
        ({"tail": 0.0}, r"`tail=0.0` is no probability"),
        ({"tail": 99}, "0.01 for a confidence of 99 %"),
        ({"tail": np.nan}, "no probability"),
        ({"quantities": np.ones((2, 2), complex)}, "of complex128; give real numbers"),
        ({"streams": -1}, "`streams=-1` is negative"),
        ({"tile": -64}, "`tile=-64` is negative"),
        ({"dense_width": -1}, "`dense_width=-1` is negative"),
        ({"cube": np.ones((0, 4), np.float32)}, "has 0 instruments: all ids must be -1"),
        ({"tail": (0.01, 2.0)}, r"`tail=2.0` is no probability"),
        ({"tail": ()}, "0 tails are asked"),
        ({"tail": [0.01] * 9}, "9 tails are asked at once"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        book_tail(**{**GOOD._asdict(), "tail": TAIL, **change})


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ([0, 3], "go from 0 to 3"),
        ([1, 4], "go from 1 to 4"),
        ([0, 3, 2, 4], "must rise"),
        (np.array([0, 3, 2, 4], np.uint64), "must rise"),
        ([0.0, 2.5, 4.0], "of float64; give whole numbers"),
        (np.zeros(0, int), "vectors"),
    ],
)
def test_rows_that_are_no_rows_are_refused(starts: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ragged_book_tail(np.asarray(starts), np.zeros(4, int), np.ones(4), GOOD.cube, None, tail=TAIL)


def test_one_account_of_very_many_positions_is_not_padded_to_many(rng: np.random.Generator) -> None:
    ids, cube = rng.integers(0, 3, 5_000), rng.normal(size=(3, 100)).astype(np.float32)
    quantities = rng.normal(size=5_000).astype(np.float32)
    starts = np.array([0, 5_000, 5_002])
    held, owned = np.append(ids, [0, 1]), np.append(quantities, [1, 1])
    got = ragged_book_tail(starts, held, owned, cube, None, tail=TAIL, dense_width=10_000, amounts=np.zeros(2))
    net = np.stack([np.bincount(ids, quantities.astype(float), minlength=3), [1, 1, 0]])
    losses = -net @ cube.astype(float)
    np.testing.assert_allclose(got.var, np.sort(losses, axis=1)[:, -5], rtol=1e-3)
    np.testing.assert_allclose(got.venue_loss, np.maximum(losses, 0).sum(axis=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_a_tail_smaller_than_any_number_is_the_worst_loss(rng: np.random.Generator, weighted: bool) -> None:
    book = ragged(rng, SINGLE, accounts=70, scenarios=300, weighted=weighted)
    for tail in (1e-40, 1e-300):
        got = book_tail(*book[:4], tail=tail)
        assert (got.var == book_tail(*book[:4], tail=1e-9).var).all()
        np.testing.assert_array_equal(got.expected_shortfall, got.var)


@pytest.mark.parametrize("power", [-100, 100])
def test_the_error_of_losses_near_the_ends_of_float32_is_a_number(rng: np.random.Generator, power: int) -> None:
    book = ragged(rng, SINGLE, accounts=70, scenarios=300)
    plain = book_tail(*book[:4], tail=TAIL).std_error
    scaled = book_tail(*book[:2], np.ldexp(book.cube, power), None, tail=TAIL).std_error
    np.testing.assert_allclose(np.ldexp(scaled.astype(float), -power), plain, rtol=1e-5)


def test_weights_off_by_float32_roundings_are_weights(rng: np.random.Generator) -> None:
    weights = rng.random(10_000).astype(np.float32)
    weights /= weights.sum()  # a float32 sum
    got = book_tail(GOOD.instrument_ids, GOOD.quantities, np.ones((3, 10_000), np.float32), weights, tail=1.0)
    assert (got.var == -2).all()
