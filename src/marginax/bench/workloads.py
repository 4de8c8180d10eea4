"""The standard workloads of the whole-book kernel: seeded books and cubes, made in memory.

Conventions: P&L is a gain, scenarios are the last axis, all money is float32. Factors are Student t with five degrees
of freedom and share their mixing variable, as a t copula has it. An account's positions are of different instruments,
sorted, spread over all of them at random. Each shape comes with 10,240 equal and with 2,048 weighted scenarios, and
each workload has a seed of its own: none changes with the others that are asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from numpy.lib.stride_tricks import sliding_window_view

from marginax.bench.option_cube import BOOK_FUTURES, FUTURES, INSTRUMENTS, option_cube

SEED = 7
TAIL = 0.01
EQUAL, WEIGHTED = 10_240, 2_048
# How far the chi-square variable of weighted draws is stretched: `marginax_kernels.draws` takes this at a tail of 0.01.
STRETCH = 2.5
POSITIONS = 20
# Half of the ragged accounts hold one or two positions, a few hundreds: a density that falls with the power 1.7.
POWER, MOST_POSITIONS = 1.7, 800
# Wide accounts are work of a thousand positions each, so there are fewer of them.
WIDE_SHARE, WIDE_POSITIONS, WIDE_INSTRUMENTS = 16, 1_280, 2_048
FREEDOM = 5


class Workload(NamedTuple):
    """A book in row-compressed form, what one unit of each instrument gains, and the tail that is asked for.

    starts: account `a` holds entries `starts[a]` to `starts[a + 1]`.
    ids: rows of the cube.
    quantities: units held; none is zero.
    cube: currency per unit.
    weights: probabilities that sum to one; None for equal ones.
    tail: the small probability.
    """

    name: str
    starts: Int64[np.ndarray, " accounts_and_one"]
    ids: Int32[np.ndarray, " entries"]
    quantities: Float32[np.ndarray, " entries"]
    cube: Float32[np.ndarray, "instruments scenarios"]
    weights: Float32[np.ndarray, " scenarios"] | None
    tail: float

    @property
    def accounts(self) -> int:
        """Accounts of the book."""
        return len(self.starts) - 1

    @property
    def scenarios(self) -> int:
        """Scenarios of the cube."""
        return self.cube.shape[1]

    @property
    def flops(self) -> int:
        """Operations of the sums alone: a multiplication and an addition for each position and scenario."""
        return 2 * len(self.ids) * self.scenarios

    @property
    def input_bytes(self) -> int:
        """Bytes of everything that is given."""
        given = (self.starts, self.ids, self.quantities, self.cube, self.weights)
        return sum(each.nbytes for each in given if each is not None)

    @property
    def least_bytes(self) -> int:
        """Bytes that any answer moves: all that is given read once, value at risk and expected shortfall written."""
        return self.input_bytes + 2 * self.accounts * self.cube.itemsize


class Shape(NamedTuple):
    """How the books and cubes of one kind are made, and a sentence of what they stand for."""

    says: str
    make: Callable[[np.random.Generator, int, int], Workload]


def workload(name: str, accounts: int) -> Workload:
    """The workload of that name with about so many accounts; wide books have a sixteenth of them.

    Raises KeyError for a name that is not in `WORKLOADS`.
    """
    shape, scenarios = WORKLOADS[name]
    made = SHAPES[shape].make(np.random.default_rng([SEED, list(WORKLOADS).index(name)]), accounts, scenarios)
    weights = None if scenarios == EQUAL else _stretched(scenarios)
    return made._replace(name=name, weights=weights)


def narrow(accounts: int, scenarios: int, *, weighted: bool) -> Workload:
    """Accounts of 20 positions of 500 instruments under any number of scenarios, equal or stretched."""
    made = SHAPES["narrow_500"].make(np.random.default_rng(SEED), accounts, scenarios)
    kind = "weighted" if weighted else "equal"
    return made._replace(name=f"{scenarios}_{kind}", weights=_stretched(scenarios) if weighted else None)


def says(name: str) -> str:
    """A workload in words."""
    shape, scenarios = WORKLOADS[name]
    return f"{SHAPES[shape].says}; {scenarios:,} {'equal' if scenarios == EQUAL else 'weighted'} scenarios"


def _narrow(instruments: int) -> Callable[[np.random.Generator, int, int], Workload]:
    def make(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
        return _book(rng, np.full(accounts, POSITIONS), _cube(rng, instruments, scenarios))

    return make


def _ragged(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
    counts = np.floor(rng.random(accounts) ** (-1 / (POWER - 1)))
    return _book(rng, np.minimum(counts, MOST_POSITIONS).astype(np.int64), _cube(rng, 1000, scenarios))


def _wide(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
    counts = np.full(max(1, accounts // WIDE_SHARE), WIDE_POSITIONS)
    return _book(rng, counts, _cube(rng, WIDE_INSTRUMENTS, scenarios))


def _options(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
    factors = _factors(rng, FUTURES, scenarios)
    made = _book(
        rng, np.full(accounts, POSITIONS), option_cube(factors, rng.standard_normal(factors.shape, np.float32))
    )
    # The first ids of an account are of the few futures, the others of options.
    ids = made.ids.reshape(accounts, POSITIONS)
    futures = _spread(rng, np.full(accounts, BOOK_FUTURES), FUTURES)
    options = _spread(rng, np.full(accounts, POSITIONS - BOOK_FUTURES), INSTRUMENTS - FUTURES) + FUTURES
    ids[:, :BOOK_FUTURES] = futures.reshape(accounts, -1)
    ids[:, BOOK_FUTURES:] = options.reshape(accounts, -1)
    return made


def _sorted(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
    """Long accounts of instruments that one factor moves: scenario after scenario, nearly everyone loses more."""
    made = _narrow(500)(rng, accounts, scenarios)
    market = _factors(rng, 1, scenarios)
    cube = 4 * market + made.cube / 4
    rising = np.ascontiguousarray(cube[:, np.argsort(-cube.sum(axis=0))])
    return made._replace(cube=rising, quantities=np.abs(made.quantities))


def _ties(rng: np.random.Generator, accounts: int, scenarios: int) -> Workload:
    made = _narrow(500)(rng, accounts, scenarios)
    return made._replace(cube=np.round(made.cube), quantities=np.sign(made.quantities))


def _book(rng: np.random.Generator, counts: np.ndarray, cube: np.ndarray) -> Workload:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    quantities = rng.standard_normal(starts[-1], np.float32)
    return Workload("", starts, _spread(rng, counts, len(cube)), quantities, cube, None, TAIL)


def _spread(rng: np.random.Generator, counts: np.ndarray, instruments: int) -> Int32[np.ndarray, " entries"]:
    """Different instruments for each account, sorted: one at random from each of as many even runs of them."""
    count = np.repeat(counts, counts)
    place = np.arange(len(count)) - np.repeat(np.cumsum(counts) - counts, counts)
    first, end = place * instruments // count, (place + 1) * instruments // count
    return rng.integers(first, end).astype(np.int32)


def _cube(rng: np.random.Generator, instruments: int, scenarios: int) -> Float32[np.ndarray, "instruments scenarios"]:
    """P&L from four factors and a residual of each instrument, all under one mixing variable.

    Residuals are windows of one long draw, each from a place of its own: 20 million normals would take a second.
    """
    loadings = rng.standard_normal((instruments, 4), np.float32)
    long = rng.standard_normal(64 * scenarios, np.float32)
    own = sliding_window_view(long, scenarios)[rng.integers(0, 63 * scenarios, instruments)]
    return (loadings @ rng.standard_normal((4, scenarios), np.float32) + own) * _mixing(rng, scenarios)


def _factors(rng: np.random.Generator, count: int, scenarios: int) -> Float32[np.ndarray, "count scenarios"]:
    return rng.standard_normal((count, scenarios), np.float32) * _mixing(rng, scenarios)


def _mixing(rng: np.random.Generator, scenarios: int) -> Float[np.ndarray, " scenarios"]:
    return np.sqrt(FREEDOM / rng.chisquare(FREEDOM, scenarios)).astype(np.float32)


def _stretched(scenarios: int) -> Float32[np.ndarray, " scenarios"]:
    """The weights of draws whose mixing variable is u^2.5, in an order of their own."""
    points = (np.arange(scenarios) + 0.5) / scenarios
    weights = np.random.default_rng(SEED).permutation(points ** (STRETCH - 1))
    return (weights / weights.sum()).astype(np.float32)


SHAPES = {
    "narrow_500": Shape(f"{POSITIONS} positions of 500 instruments", _narrow(500)),
    "narrow_2000": Shape(f"{POSITIONS} positions of 2,000 instruments", _narrow(2000)),
    "ragged": Shape(f"1 to {MOST_POSITIONS} positions of 1,000 instruments, by a power law", _ragged),
    "wide": Shape(f"{WIDE_POSITIONS:,} positions of {WIDE_INSTRUMENTS:,} instruments", _wide),
    "options": Shape(
        f"{POSITIONS - BOOK_FUTURES} options of {INSTRUMENTS - FUTURES:,} and {BOOK_FUTURES} futures", _options
    ),
    "sorted": Shape(f"{POSITIONS} long positions of 500 instruments, losses rising by scenario", _sorted),
    "ties": Shape(f"{POSITIONS} positions of 500 instruments, losses in whole numbers", _ties),
}
# Name to shape and number of scenarios.
WORKLOADS = {
    f"{shape}_{kind}": (shape, scenarios)
    for shape in SHAPES
    for kind, scenarios in (("equal", EQUAL), ("weighted", WEIGHTED))
}
