"""One pass of tiles through a prepared model: cut, padded, placed on the devices, answered, and back on the host."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from marginax.book import Entries
from marginax.engine.compilation import WIDE_VECTORS
from marginax.engine.tiles import Cut, build, cut, padded
from marginax.exposures import Exposures
from marginax.models.protocol import MarginModel, Parts, Prepared, Tile
from marginax.sections import Engine
from marginax_kernels.streams import run_streams, stream_devices

# A tile's losses of a thousand scenarios stay in a core's cache.
ROWS = 128
# Programs that passes of this process have compiled: a market that is followed asks for the same at every bar.
_MET: set[Any] = set()
# What needs no loss is small however many accounts there are, and a call costs as much as a hundred of them.
COST_ROWS = 2048
NO_GROUPS = Entries(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))

# What a program takes beside a tile, made of it on the host.
More = Callable[[Tile, Cut], np.ndarray]


class TilePass:
    """Streams tiles of one book through one prepared model; margins and attributions alike."""

    compiling = 0.0

    def __init__(self, model: MarginModel, prepared: Prepared, exposures: Exposures, settings: Engine) -> None:
        self._reads_orders = model.reads_orders
        self._exposures = self._read(exposures)
        self._rows = settings.tile_rows or ROWS
        self._scenarios = len(prepared.weights)
        self._dtype = np.float32 if settings.precision == "float32" else np.float64
        self._devices = stream_devices(settings.streams)
        with self._precision():
            model, prepared = jax.tree.map(self._narrow, (model, prepared))
            here = (model, jax.tree.map(np.asarray, _complete(model, prepared)))
            placed = {device: jax.device_put(here, device) for device in set(self._devices)}
        leaves, structure = jax.tree.flatten(here)
        self._program = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves), tuple(self._devices))
        self._placed = [placed[device] for device in self._devices]

    def over(self, exposures: Exposures) -> "TilePass":
        """The same pass over another book of the same market."""
        other = copy(self)
        other._exposures = self._read(exposures)
        return other

    def of_units(self, exposures: Exposures) -> "TilePass":
        """The same over single contracts, without what is charged once an account."""
        other = self.over(exposures)
        with self._precision():
            other._placed = [(model.per_contract(), prepared) for model, prepared in self._placed]
        return other

    def _read(self, exposures: Exposures) -> Exposures:
        """What the model looks at: orders that it does not read cut no tiles."""
        if self._reads_orders:
            return exposures
        return exposures.of(exposures.positions, exposures.collateral, exposures.equity)

    def compile(self, accounts: Int64[np.ndarray, " accounts"]) -> None:
        """Compile every shape these accounts need and no pass before had, streams side by side, on tiles without
        accounts."""
        for _ in self._stream(self._unmet(_margin, accounts), _margin):
            pass

    def margins(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Any]]:
        """The model's margins and totals for each tile over these accounts."""
        return self._stream(self._cut(accounts), _margin)

    def attributions(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Parts]]:
        """The model's attribution for each tile over these accounts."""
        return self._stream(self._cut(accounts), _attribute)

    def answers(
        self, accounts: Int64[np.ndarray, " accounts"], question: Callable[..., Any], column: np.ndarray | None = None
    ) -> Iterator[tuple[Cut, Any]]:
        """What `question(model, prepared, tile)` finds of each tile over these accounts.

        Where a `column` has a number for each holder of the book, it is asked with those of a tile's rows behind, zeros
        for padding.
        """

        def rows(_: Tile, part: Cut) -> np.ndarray:
            assert column is not None
            return padded(column[part.accounts], part.rows).astype(self._dtype)

        return self._stream(self._cut(accounts), question, None if column is None else rows)

    @property
    def tiles(self) -> "TilePass":
        """Itself."""
        return self

    def compile_costs(self, accounts: Int64[np.ndarray, " accounts"]) -> None:
        """Compile every shape that `costs` of these accounts needs and no pass before had, on empty tiles."""
        for _ in self._stream(self._unmet(_costs, accounts, COST_ROWS), _costs, self._numbers(NO_GROUPS)):
            pass

    def costs(self, accounts: Int64[np.ndarray, " accounts"], groups: Entries) -> Iterator[tuple[Cut, Any]]:
        """What of the model's margins needs no loss, for each tile over these accounts; `groups` are by account numbers
        of what it holds in one underlying, in the order of a tile's runs."""
        return self._stream(self._cut(accounts, COST_ROWS), _costs, self._numbers(groups))

    def _unmet(self, call: Callable[..., Any], accounts: np.ndarray, rows: int = 0) -> list[Cut]:
        """A tile without accounts for each shape that no pass of this process has called this with."""
        shapes = dict.fromkeys(part.shape for part in self._cut(accounts, rows))
        new = [shape for shape in shapes if (call, self._program, shape) not in _MET]
        _MET.update((call, self._program, shape) for shape in new)
        return [Cut(accounts[:0], *shape) for shape in new]

    def _cut(self, accounts: np.ndarray, rows: int = 0) -> Iterator[Cut]:
        return cut(self._exposures, accounts, tile_rows=rows or self._rows, scenarios=self._scenarios)

    def _numbers(self, groups: Entries) -> More:
        """The numbers of a tile's runs; zero of those that are padding."""

        def numbers(tile: Tile, part: Cut) -> np.ndarray:
            own = groups.taken(part.accounts).amounts
            return np.concatenate([own, np.zeros(len(tile.runs.start) - len(own))]).astype(self._dtype)

        return numbers

    def _stream(
        self, parts: Iterable[Cut], call: Callable[..., Any], more: More | None = None
    ) -> Iterator[tuple[Cut, Any]]:
        def work(stream: int, part: Cut) -> Any:
            with self._precision():
                with np.errstate(over="ignore"):
                    tile = build(self._exposures, part, self._dtype)
                    given = () if more is None else (more(tile, part),)
                answer = call(*self._placed[stream], tile, *given)  # it runs where the model and the cube are
                return jax.tree.map(np.asarray, answer)

        return run_streams(work, parts, len(self._devices))

    def _precision(self) -> AbstractContextManager[Any]:
        return jax.enable_x64(True) if self._dtype is np.float64 else nullcontext()

    def _narrow(self, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if not np.issubdtype(array.dtype, np.floating):
            return array
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and its holders `numerical`
            return array.astype(self._dtype)


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _complete(model: MarginModel, prepared: Prepared) -> Prepared:
    return model.complete(prepared)


@jax.jit
def _margin(model: MarginModel, prepared: Prepared, tile: Tile) -> Any:
    return model.margin(prepared, tile)


@jax.jit
def _costs(model: MarginModel, prepared: Prepared, tile: Tile, groups: Any) -> Any:
    return model.costs(prepared, tile, groups)


@jax.jit
def _attribute(model: MarginModel, prepared: Prepared, tile: Tile) -> Parts:
    return model.attribute(prepared, tile)
