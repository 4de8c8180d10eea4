"""What the engine and a margin model say to each other: the five verbs of a model and the arrays between them.

A model is a frozen `equinox.Module`. The engine cuts the book into tiles and knows no finance beyond this page; a
model knows no files and no accounts' names. Labels stay on the host: the worst scenario is an index until it is
written.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.book import Entries
from marginax.config import Config
from marginax.cube import InstrumentArrays, MarketArrays
from marginax.history import FactorHistory
from marginax.instruments import Instruments
from marginax.known import KnownHistory
from marginax.market import Market
from marginax.models.closing import cost_of_closing
from marginax.models.runs import Runs
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import FactorArrays
from marginax.scenarios.sets import ScenarioSet
from marginax_kernels import BookTail


class Parts(eqx.Module):
    """Named amounts per account, in the order they are reported."""

    values: tuple[Float[Array, " accounts"], ...]
    names: tuple[str, ...] = eqx.field(static=True)


class Margin(eqx.Module):
    """A model's answer for the accounts of a tile, in account currency.

    The initial requirement is the float64 sum of `parts`; the maintenance requirement is that of each part times its
    entry in `maintenance_ratios`. `var`, `expected_shortfall` and `std_error` (NaN where it means nothing) are at the
    model's own tail; `stress_score` is the probability that loss and cost of closing are
    greater than equity (`marginax.models.closing`); `worst_scenario` an index.
    """

    parts: Parts
    maintenance_ratios: tuple[Float[Array, ""], ...]
    var: Float[Array, " accounts"]
    expected_shortfall: Float[Array, " accounts"]
    std_error: Float[Array, " accounts"]
    stress_score: Float[Array, " accounts"]
    worst_scenario: Int[Array, " accounts"]


class Totals(eqx.Module):
    """Sums over the accounts of a tile, in blocks of 64 rows that the host adds in float64.

    `uncovered` is the loss and the cost of closing beyond equity per scenario: what the venue would be left with.
    `beyond_margins` is the same beyond what each account must keep (`tile_losses.margin_limit`), where the
    configuration has it summed.
    """

    uncovered: Float[Any, "blocks scenarios"]
    beyond_margins: Float[Any, "blocks scenarios"] | None = None


class Dense(eqx.Module):
    """The positions of a tile laid out by row of the cube, all of them and those that are alone in their underlying."""

    positions: Float[Any, "accounts rows"]
    alone: Float[Any, "accounts rows"]


class Orders(eqx.Module):
    """Open orders of a tile: rows of the cube, signed contracts that are not filled yet, and what filling them costs at
    once where their limits are worse than the mark (account currency)."""

    instruments: Int[Any, "accounts orders_width"]
    quantities: Float[Any, "accounts orders_width"]
    cost: Float[Any, "accounts orders_width"]


class Tile(eqx.Module):
    """Accounts side by side: rows of the cube and how much is held of each; padding is the zero row and amount zero.

    `instruments` and `quantities` (signed contracts) are positions; `assets` and `amounts` (signed units) the
    collateral that moves, of width zero where no account of the tile holds any; `equity` is in account currency.
    `orders` are None where no account of the tile has any. `dense` is given where a product of matrices is the faster
    way through a small cube: the same positions, summed in the order that the product likes; `runs` then has no
    padding.
    """

    instruments: Int[Any, "accounts width"]
    quantities: Float[Any, "accounts width"]
    assets: Int[Any, "accounts collateral_width"]
    amounts: Float[Any, "accounts collateral_width"]
    equity: Float[Any, " accounts"]
    runs: Runs
    orders: Orders | None = None
    dense: Dense | None = None


class Question(NamedTuple):
    """Tails that a model asks the kernel for: a cube, the weights of its scenarios, and which tails; independent
    scrambles as in `MarginModel.scrambles`."""

    cube: Float[Any, "rows scenarios"]
    weights: Float[Any, " scenarios"]
    tails: tuple[float, ...]
    scrambles: tuple[int, int] = (0, 0)


class Holders(Protocol):
    """Some accounts of a book before a model that stores no loss: what they hold, by row of the cube, and whom to ask.

    `both` are positions and behind them collateral, `groups` is the underlying of each row.
    """

    positions: Entries
    collateral: Entries
    both: Entries
    equity: Float[np.ndarray, " accounts"]
    groups: Int[np.ndarray, " rows"]

    def tails(self, question: str, held: Entries, amounts: np.ndarray | None = None) -> BookTail:
        """The kernel's answer to a question of the model, a row for each of its tails, of whatever is held."""

    def costs(self, groups: Entries) -> Any:
        """What `MarginModel.costs` says of the accounts, tile by tile: NumPy leaves by account. The amounts of
        `groups` are by account numbers of its runs."""


class Prepared(eqx.Module):
    """Everything a tile is margined against: the cube and the scenarios' weights, and what else a model adds."""

    cube: Float[Array, "rows scenarios"]
    weights: Float[Array, " scenarios"]


class MarginModel(eqx.Module):
    """A margin model. Static fields are tails, horizons, windows and counts; every other number is a leaf."""

    name: eqx.AbstractVar[str]
    settings: eqx.AbstractVar[Config]

    @property
    @abstractmethod
    def part_names(self) -> tuple[str, ...]:
        """The parts of the initial requirement, in the order they are reported."""

    @property
    def independent(self) -> bool:
        """Whether scenarios are independent draws, so that a standard error has a meaning."""
        return False

    @property
    def reads_orders(self) -> bool:
        """Whether `margin` looks at the orders of a tile."""
        return False

    @property
    def reads_signals(self) -> bool:
        """Whether what it knows of a market includes signals."""
        return False

    @property
    def scrambles(self) -> tuple[int, int]:
        """Independent scrambles, and how many scenarios they hold at the head of all; (0, 0) where there are none."""
        return 0, 0

    @abstractmethod
    def factors(self, market: Market, instruments: Instruments) -> FactorHistory:
        """The history this model looks at: which factors, on which bars; raises BadInput for one it cannot use."""

    @abstractmethod
    def draw(self, seed: int, history: FactorHistory) -> Any:
        """What is random, drawn once on the host from one seed; raises BadInput for a history it cannot use."""

    @abstractmethod
    def observe(self, history: FactorHistory) -> Any:
        """What the model knows of the market after a whole history: what `prepare` takes."""

    def carry(self, history: FactorHistory) -> Any:
        """The state after a whole history that `step` takes on from there."""
        raise self._no_carrying()

    @abstractmethod
    def step(self, state: Any, bar: Any) -> Any:
        """Carry the state forward by one `Bar`, O(1) in the history and traceable."""

    def known(self, state: Any) -> Any:
        """What `prepare` takes, of a carried state."""
        return state

    def with_settlements(self, known: Any, history: FactorHistory) -> Any:
        """What `known` says, with the paths to settlement that `history` has beside its factors."""
        what = f"`{self.name}` carries no options that settle inside the horizon forward"
        remedy = "Margin such a book with `margin_book`, or take the options out of it"
        raise BadInput([Problem("instruments", "expiry", None, what, remedy, table="instruments")])

    def carried_factors(self, state: Any) -> FactorArrays:
        """The window of a carried state: which rows are any, and which factors stand on their own."""
        raise self._no_carrying()

    @abstractmethod
    def prepare(
        self, instruments: InstrumentArrays, market: MarketArrays, state: Any, draws: Any
    ) -> tuple[Prepared, Float[Array, "scenarios factors"]]:
        """Scenarios and cube, pure and traceable; the shocks are handed back for the record."""

    def complete(self, prepared: Any) -> Any:
        """What a pass needs beside, found once in its own precision; traceable."""
        return prepared

    @abstractmethod
    def margin(self, prepared: Any, tile: Tile) -> tuple[Margin, Totals]:
        """Margins of the accounts of a tile, and sums over them; traceable, row by row."""

    def per_contract(self) -> "MarginModel":
        """This model as it margins one contract of many: without what is charged once an account."""
        return self

    @property
    def asks_tails(self) -> bool:
        """Whether `margin_by_tails` makes margins without a stored loss; where not, `margin` sees losses.

        A subclass that changes what is charged must say no, or change both.
        """
        return False

    @property
    def venue_questions(self) -> tuple[str, ...]:
        """The questions whose scenarios, one after the other, are all scenarios of the model."""
        return ()

    def questions(self, prepared: Any) -> Mapping[str, Question]:
        """What the kernel is asked, by name; cubes are placed once for a market."""
        raise NotImplementedError(f"`{self.name}` asks for no tails")

    @property
    def asks_costs(self) -> bool:
        """Whether `margin_by_tails` asks for `costs`."""
        return False

    def costs(self, prepared: Any, tile: Tile, groups: Float[Array, " runs"]) -> Any:
        """What of `margin` needs no loss, by account; traceable. `groups` are numbers of the tile's runs."""
        raise NotImplementedError(f"`{self.name}` asks for no costs")

    def margin_by_tails(self, prepared: Any, holders: Holders) -> tuple[Margin, Totals]:
        """`margin` from the tails of what accounts hold, on the host: NumPy arrays."""
        raise NotImplementedError(f"`{self.name}` asks for no tails")

    def closing(self, prepared: Any, tile: Tile) -> Float[Array, " accounts"]:
        """What closing each account of a tile costs; traceable. By default those parts of `margin` that say so."""
        return cost_of_closing(self.margin(prepared, tile)[0].parts)

    @abstractmethod
    def attribute(self, prepared: Any, tile: Tile) -> Parts:
        """Each part of the initial requirement by position: accounts x (width + collateral width + width of orders),
        summing to it."""

    @property
    def draws_from_history(self) -> bool:
        """Whether `draw` looks at returns, so that a replay must draw anew at each refit."""
        return False

    def lookback(self, known: KnownHistory) -> int:
        """Returns that `prepare` looks back on, the same number at every bar of a replay."""
        raise self._no_replay()

    def past(self, known: KnownHistory) -> Any:
        """Everything that `before` needs, computed once over a whole history."""
        raise self._no_replay()

    def before(self, past: Any, bar: Any, first: Any) -> Any:
        """The state at the close of a bar, as `observe` would have it then of a history that begins at `first`.

        Traceable, of one shape for all bars, and blind to what came later.
        """
        raise self._no_replay()

    def sample(self, prepared: Any, tile: Tile) -> Float[Array, "accounts observations"]:
        """What `estimate` is to look at, for each account of a tile."""
        raise self._no_replay()

    def estimate(self, sample: Float[Array, "series observations"]) -> Any:
        """What is estimated for each account alone, leaves by series, and kept by a replay until the next refit; None
        for nothing. NaN throughout is a series that is none."""
        return None

    def fitted_margin(self, prepared: Any, tile: Tile, fitted: Any) -> tuple[Margin, Totals]:
        """`margin` with what `estimate` said of these accounts at an earlier bar."""
        return self.margin(prepared, tile)

    def _no_carrying(self) -> BadInput:
        what, remedy = (
            f"`{self.name}` cannot be carried forward bar by bar",
            "Give it `carry`, `step`, `known` and `carried_factors`",
        )
        return BadInput([Problem("configuration", "model", None, what, remedy)])

    def _no_replay(self) -> BadInput:
        remedy = "Give it `lookback`, `past` and `before`, and `sample` where it has `estimate`"
        return BadInput([Problem("configuration", "model", None, f"`{self.name}` cannot be replayed", remedy)])

    @abstractmethod
    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """A name for every scenario, on the host."""

    @abstractmethod
    def diagnostics(self, history: FactorHistory, state: Any, draws: Any, scenarios: ScenarioSet) -> Mapping[str, Any]:
        """What the manifest should say of the scenarios, on the host."""
