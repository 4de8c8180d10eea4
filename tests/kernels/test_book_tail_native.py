"""Machine code against sorting and against the pure path: the same function, at every ugly point.

Losses are given through a cube of one instrument an account, so that every account has the losses of a row.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels._books import assert_same_bits, ragged, taking
from marginax_kernels import BookTail, book_tail, native_tail
from marginax_kernels.native_tail import visiting_order
from reference import tail as twin
from reference.samples import rounding

SCENARIOS = 1500
TAILS = (0.001, 0.01, 0.02, 0.3, 1.0)


@pytest.fixture(autouse=True)
def path() -> Iterator[None]:
    with taking("native"):
        yield


def of_rows(
    losses: np.ndarray, weights: np.ndarray | None, *, tail: float, amounts: np.ndarray | None = None
) -> BookTail:
    """The answers of accounts with these losses."""
    ids, short = np.arange(len(losses))[:, None], np.full((len(losses), 1), -1.0)
    return book_tail(ids, short, losses, weights, tail=tail, amounts=amounts)


def rows(rng: np.random.Generator, precision: np.dtype) -> dict[str, np.ndarray]:
    """Rows of losses that are hard to select from."""
    normal = rng.normal(size=SCENARIOS)
    info = np.finfo(precision)
    return {
        "normal": normal,
        "from the mildest to the worst": np.sort(normal),
        "from the worst to the mildest": -np.sort(normal),
        "all equal": np.full(SCENARIOS, 7.5),
        "nothing": np.zeros(SCENARIOS),
        "two values": np.where(rng.random(SCENARIOS) < 0.4, 3.0, -2.0),
        "few values": rng.integers(-2, 3, SCENARIOS).astype(float),
        "ties on the edge": np.minimum(np.sort(normal), 1.0)[rng.permutation(SCENARIOS)],
        "gains alone": -np.abs(normal) - 1,
        # Squares of these still fit.
        "every size": np.exp(rng.uniform(np.log(float(info.tiny)) / 2, np.log(float(info.max)) / 2 - 20, SCENARIOS))
        * rng.choice([-1, 1], SCENARIOS),
        "one beyond all": np.where(np.arange(SCENARIOS) == 700, 1e30, normal),
    }


def masses(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights that are hard to cumulate."""
    scenario = np.arange(SCENARIOS)
    stretched = 2.5 * ((scenario + 0.5) / SCENARIOS) ** 1.5
    return {
        "random": rng.random(SCENARIOS),
        "stretched": rng.permutation(stretched),
        "one has all": (scenario == 321).astype(float),
        "half have none": np.where(scenario % 2, rng.random(SCENARIOS), 0),
        "halving": np.maximum(0.5 ** (scenario / 10.0), 1e-30),
        "one has half": np.where(scenario == 5, SCENARIOS, 1.0),
    }


def edge_by_fractions(row: np.ndarray, mass: np.ndarray, tail: float) -> float:
    """The first loss from the worst down at which enough weight lies, in exact arithmetic."""
    needed, cumulated = Fraction(tail * (1 - twin.SLACK)), Fraction(0)
    for scenario in np.argsort(-row, kind="stable"):
        cumulated += Fraction(float(mass[scenario]))
        if cumulated >= needed:
            break
    return float(row[scenario])


@pytest.mark.parametrize("tail", TAILS)
def test_equal_weights_select_what_sorting_selects(precision: np.dtype, rng: np.random.Generator, tail: float) -> None:
    named = rows(rng, precision)
    losses = np.stack(list(named.values())).astype(precision)
    got = of_rows(losses, None, tail=tail)
    count = int(np.ceil(tail * (1 - twin.SLACK) * SCENARIOS))
    np.testing.assert_array_equal(got.var, -np.sort(-losses, axis=1)[:, count - 1])
    check_means(got, losses, np.full(SCENARIOS, 1 / SCENARIOS), tail)


@pytest.mark.parametrize("tail", TAILS)
def test_weights_select_what_sorting_selects(precision: np.dtype, rng: np.random.Generator, tail: float) -> None:
    losses = np.stack(list(rows(rng, precision).values())).astype(precision)
    for name, mass in masses(rng).items():
        weights = (mass / mass.sum()).astype(precision)
        got = of_rows(losses, weights, tail=tail)
        wanted = [edge_by_fractions(row, weights, tail) for row in losses]
        np.testing.assert_array_equal(got.var, wanted, err_msg=name)
        check_means(got, losses, weights, tail)


def check_means(got: BookTail, losses: np.ndarray, weights: np.ndarray, tail: float) -> None:
    """Expected shortfall and its error are sums in float64 that are rounded once."""
    eps = np.finfo(losses.dtype).eps
    wide, mass = losses.astype(float), weights.astype(float)
    excess = np.maximum(wide - got.var[:, None].astype(float), 0)
    shortfall = got.var + (excess @ mass) / tail
    psi = excess / tail + (got.var - shortfall)[:, None]
    error = np.sqrt((psi**2) @ mass**2)
    size = np.abs(got.var) + np.abs(shortfall) + 1e-300
    assert (np.abs(got.expected_shortfall - shortfall) <= (eps + 1e-13) * size).all()
    # The squares of the weights not beyond the edge are those of all less those beyond: off by some float64 roundings
    # of all, at most one, and the root of that is what the error is off by, times VaR - ES.
    assert (np.abs(got.std_error - error) <= (eps * error + np.sqrt(8 * np.finfo(float).eps) * size)).all()


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_machine_code_is_the_pure_function(precision: np.dtype, rng: np.random.Generator, weighted: bool) -> None:
    book = ragged(rng, precision, accounts=200, scenarios=SCENARIOS, weighted=weighted)
    book.cube[:6] = np.round(book.cube[:6])  # some losses tie
    book.cube[11, 40], book.cube[10, 1400] = np.nan, np.inf
    native = book_tail(*book[:4], tail=0.02, amounts=book.amounts)
    with taking("pure"):
        pure = book_tail(*book[:4], tail=0.02, amounts=book.amounts)
    np.testing.assert_array_equal(native.var, pure.var)
    broken = ~np.isfinite(pure.expected_shortfall)
    assert broken.any()
    for one, other in zip(native[1:3], pure[1:3], strict=True):
        np.testing.assert_array_equal(one[broken], other[broken])
    gross = np.abs(book.quantities).sum(axis=1) * np.abs(np.nan_to_num(book.cube, posinf=0)).max()
    off = rounding(precision, SCENARIOS, 2.0) * gross / 0.02
    for one, other in zip(native[1:3], pure[1:3], strict=True):
        assert (np.abs(one[~broken] - other[~broken]) <= off[~broken]).all()
    np.testing.assert_allclose(native.exceedance, pure.exceedance, rtol=0, atol=rounding(precision, SCENARIOS, 1.0))
    # Both add the same float64 numbers, in another order.
    np.testing.assert_allclose(native.venue_loss, pure.venue_loss, rtol=200 * np.finfo(float).eps, atol=0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 63, 64, 777, SCENARIOS - 1])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_a_loss_that_is_no_number_is_found_wherever_it_stands(
    precision: np.dtype, rng: np.random.Generator, broken: float, where: int, weighted: bool
) -> None:
    losses = np.stack([np.sort(rng.normal(size=SCENARIOS)), *rng.normal(size=(4, SCENARIOS))]).astype(precision)
    mass = rng.random(SCENARIOS)
    weights = (mass / mass.sum()).astype(precision) if weighted else None
    amounts = np.zeros(5)
    clean = of_rows(losses, weights, tail=0.01, amounts=amounts)
    for account in (0, 3):
        spoilt = losses.copy()
        spoilt[account, where] = broken
        got = of_rows(spoilt, weights, tail=0.01, amounts=amounts)
        others = np.arange(5) != account
        assert_same_bits(tuple(each[others] for each in got[:4]), tuple(each[others] for each in clean[:4]))
        mine = np.array([figure[account] for figure in got[:4]])
        if np.isnan(broken):
            assert np.isnan(mine).all()
        else:
            even = np.full(SCENARIOS, 1 / SCENARIOS) if weights is None else weights
            assert mine[0] == edge_by_fractions(spoilt[account], even, 0.01)
            assert np.isfinite(mine[1]) == (broken < 0)
        assert np.isfinite(got.venue_loss).all()


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("scenarios", [17, 30, 70])
def test_gains_without_bound_are_the_least_losses(
    precision: np.dtype, rng: np.random.Generator, scenarios: int, weighted: bool
) -> None:
    losses = rng.normal(size=(scenarios, scenarios)).astype(precision)
    losses[np.tri(scenarios, dtype=bool)] = -np.inf  # one of the first row, all of the last
    mass = rng.random(scenarios) if weighted else np.ones(scenarios)
    weights = (mass / mass.sum()).astype(precision)
    for tail in (0.3, 0.9, 1.0):
        got = of_rows(losses, weights if weighted else None, tail=tail)
        np.testing.assert_array_equal(got.var, [edge_by_fractions(row, weights, tail) for row in losses])


@given(
    seed=st.integers(0, 2**32 - 1),
    scenarios=st.sampled_from([1, 2, 63, 64, 65, 129, 700]),
    tail=st.sampled_from(TAILS),
    weighted=st.booleans(),
)
def test_any_book_has_the_edges_that_sorting_finds(seed: int, scenarios: int, tail: float, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.integers(-9, 9, (7, scenarios)).astype(np.float32) * rng.choice([1, 1e-3, 1e9], (7, 1))
    counts = rng.integers(0, 9, scenarios) + (np.arange(scenarios) == 0)
    weights = (counts / counts.sum()).astype(np.float32) if weighted else None
    even = np.full(scenarios, 1 / scenarios) if weights is None else weights
    got = of_rows(losses.astype(np.float32), weights, tail=tail, amounts=np.zeros(7))
    for k, row in enumerate(losses.astype(np.float32)):
        assert got.var[k] == twin.value_at_risk(row, even, tail=tail)
        wanted = twin.exceedance_probability(row, even, 0.0)
        assert got.exceedance[k] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_how_the_cube_is_sliced_and_accounts_are_swept_changes_no_bit(
    precision: np.dtype, rng: np.random.Generator, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = ragged(rng, precision, scenarios=1111, weighted=weighted)
    whole = book_tail(*book[:4], tail=0.01, amounts=book.amounts)
    for size in (1, 64 * 12 * precision.itemsize, 2**14, 2**30):
        monkeypatch.setattr(native_tail, "SLICE_BYTES", size)
        assert_same_bits(book_tail(*book[:4], tail=0.01, amounts=book.amounts), whole, f"slices of {size} bytes")


@pytest.mark.parametrize("scenarios", [1, 63, 64, 65, 128, 1000, 10_240, 12_345])
def test_every_scenario_is_visited_once(scenarios: int) -> None:
    np.testing.assert_array_equal(np.sort(visiting_order(scenarios)), np.arange(scenarios))


def test_calls_from_many_threads_give_the_same_bits(rng: np.random.Generator) -> None:
    book = ragged(rng, np.dtype("float32"), accounts=400, scenarios=1111, weighted=True)
    alone = book_tail(*book[:4], tail=0.01, amounts=book.amounts, streams=1)
    with ThreadPoolExecutor(6) as pool:
        calls = [
            pool.submit(book_tail, *book[:4], tail=0.01, amounts=book.amounts, streams=1 + k % 4) for k in range(12)
        ]
    for call in calls:
        assert_same_bits(call.result(), alone)
