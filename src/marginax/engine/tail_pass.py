"""One pass over a book for models that ask the kernel for tails: no loss is stored, and no tile of losses is a model's.

Accounts go through `marginax_kernels.CubeTail` some ten thousand at a time. What needs no loss comes tile by tile, and
so do accounts with open orders, whose worst fills are another set in every scenario.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from time import perf_counter
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int64

from marginax.book import Entries
from marginax.engine.tile_pass import TilePass
from marginax.engine.tiles import Cut
from marginax.exposures import Exposures
from marginax.models.closing import cost_of_closing
from marginax.models.protocol import Margin, MarginModel, Parts, Prepared, Totals
from marginax.models.tile_losses import margin_limit
from marginax.sections import Engine
from marginax_kernels import BookTail, CubeTail, native_path

# Accounts between two reports of progress; a book's tiles are cut within them.
CHUNK = 32_768


class Chunk(NamedTuple):
    """Some accounts of a book, margined together."""

    accounts: Int64[np.ndarray, " accounts"]


class ChunkHolders:
    """The accounts of a chunk before their model (`marginax.models.protocol.Holders`)."""

    def __init__(self, exposures: Exposures, kernels: Mapping[str, CubeTail], tiles: TilePass | None) -> None:
        self.positions, self.collateral, self.equity = exposures.positions, exposures.collateral, exposures.equity
        self.both, self.groups = self.positions.beside(self.collateral), exposures.groups
        self._kernels, self._tiles = kernels, tiles

    def tails(self, question: str, held: Entries, amounts: np.ndarray | None = None) -> BookTail:
        """The kernel's answer, a row for each tail."""
        return self._kernels[question].of(held.starts, held.columns, held.amounts, amounts)

    def costs(self, groups: Entries) -> Any:
        """What the model says of the accounts without a loss."""
        assert self._tiles is not None  # a model that does not say that it asks for costs asks for none
        count = len(self.equity)
        cuts, answers = zip(*self._tiles.costs(np.arange(count), groups), strict=True)
        place = np.empty(count, int)
        place[np.concatenate([cut.accounts for cut in cuts])] = np.arange(count)

        def by_account(*leaves: np.ndarray) -> np.ndarray:
            real = [leaf[: len(cut.accounts)] for cut, leaf in zip(cuts, leaves, strict=True)]
            return np.concatenate(real)[place]

        return jax.tree.map(by_account, *answers)


class TailPass:
    """Streams a book through the tails that a model asks for; attributions see losses, tile by tile.

    `compiling` is how many seconds machine code took.
    """

    def __init__(self, model: MarginModel, prepared: Prepared, exposures: Exposures, settings: Engine) -> None:
        self._model, self._prepared, self._exposures = model, prepared, exposures
        self._settings = settings
        self._tiles: TilePass | None = None
        start = perf_counter()
        native_path(settings.precision)
        self.compiling = perf_counter() - start
        dtype = np.float32 if settings.precision == "float32" else np.float64
        self._kernels = {}
        for name, question in model.questions(prepared).items():
            with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and its holders `numerical`
                cube = np.asarray(question.cube).astype(dtype)
            self._kernels[name] = CubeTail(
                cube,
                np.asarray(question.weights),
                tail=question.tails,
                scrambles=question.scrambles,
                dense_width=settings.dense_width,
                streams=settings.streams,
                tile=settings.tile_rows,
            )
        if model.asks_costs:
            self._tiles = self.tiles  # once for all books of the market

    @property
    def tiles(self) -> TilePass:
        """The same pass tile by tile, for what needs no loss and for what looks at them; made where it is asked for."""
        if self._tiles is None:
            self._tiles = TilePass(self._model, self._prepared, self._exposures, self._settings)
        return self._tiles

    def over(self, exposures: Exposures) -> "TailPass":
        """The same pass over another book of the same market."""
        other = copy(self)
        other._exposures = exposures
        other._tiles = None if self._tiles is None else self._tiles.over(exposures)
        return other

    def of_units(self, exposures: Exposures) -> "TailPass":
        """The same over single contracts, without what is charged once an account: costs are, and no tail."""
        other = self.over(exposures)
        if self._model.asks_costs:
            other._tiles = self.tiles.of_units(exposures)
        return other

    def compile(self, accounts: Int64[np.ndarray, " accounts"]) -> None:
        """Compile what sees tiles; machine code is there since the cube was sliced."""
        chunked, ordering = self._divided(accounts)
        if self._model.asks_costs:
            self.tiles.compile_costs(chunked)
        if len(ordering):
            self.tiles.compile(ordering)

    def margins(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Chunk | Cut, tuple[Margin, Totals]]]:
        """The model's margins and totals: for each chunk of these accounts, and each tile of those with orders."""
        chunked, ordering = self._divided(accounts)
        for first in range(0, len(chunked), CHUNK):
            chunk, held = chunked[first : first + CHUNK], self._exposures
            part = held.of(held.positions.taken(chunk), held.collateral.taken(chunk), held.equity[chunk])
            holders = ChunkHolders(part, self._kernels, self.tiles.over(part) if self._model.asks_costs else None)
            margin, totals = self._model.margin_by_tails(self._prepared, holders)
            if self._model.settings.venue.sums_margins:
                totals = Totals(totals.uncovered, self._beyond_margins(holders, margin))
            yield Chunk(chunk), (margin, totals)
        if len(ordering):
            yield from self.tiles.margins(ordering)

    def attributions(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Parts]]:
        """The model's attribution for each tile over these accounts."""
        return self.tiles.attributions(accounts)

    def _beyond_margins(self, holders: ChunkHolders, margin: Margin) -> np.ndarray:
        """Losses beyond margins: what an account must keep is known once its tails are, so it is a sweep of its own."""
        with np.errstate(all="ignore"):
            initial = sum((np.asarray(part, float) for part in margin.parts.values), np.zeros_like(holders.equity))
            has = holders.positions.counts > 0
            limit = margin_limit(initial, cost_of_closing(margin.parts), has, holders.equity)
        losses = [holders.tails(name, holders.both, limit).venue_loss for name in self._model.venue_questions]
        return np.concatenate([each for each in losses if each is not None])[None]

    def _divided(self, accounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accounts without open orders that the model reads, and those with."""
        with_orders = (self._exposures.orders.held.counts[accounts] > 0) & self._model.reads_orders
        return accounts[~with_orders], accounts[with_orders]


def book_pass(model: MarginModel, prepared: Prepared, exposures: Exposures, settings: Engine) -> "TilePass | TailPass":
    """The pass that a model's books go through: tails where it asks for them, losses tile by tile where not."""
    return (TailPass if model.asks_tails else TilePass)(model, prepared, exposures, settings)


def kernel(model: MarginModel, precision: str) -> str:
    """What the accounts of a model are computed with in that precision, for the manifest."""
    if not model.asks_tails:
        return "JAX, tile by tile"
    use = native_path(precision)
    return f"machine code ({use.reason.split(':')[0]})" if use.in_use else f"JAX ({use.reason})"
