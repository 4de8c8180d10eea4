"""One pass over a book for models that ask for tails alone: no loss is stored, and no tile is the model's.

Accounts go through `marginax_kernels.CubeTail` some ten thousand at a time, positions and collateral together; those
with collateral that moves once more for their positions alone.
"""

from collections.abc import Iterator
from copy import copy
from time import perf_counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from marginax.engine.tile_pass import TilePass
from marginax.engine.tiles import Cut
from marginax.exposures import Exposures
from marginax.models.protocol import Margin, MarginModel, Parts, Prepared, Tails, Totals
from marginax.sections import Engine
from marginax_kernels import CubeTail, native_path

# Accounts between two reports of progress; a book's tiles are cut within them.
CHUNK = 32_768


class Chunk(NamedTuple):
    """Some accounts of a book, margined together."""

    accounts: Int64[np.ndarray, " accounts"]


class TailPass:
    """Streams a book through the tails that a model asks for; attributions see losses, tile by tile.

    `compiling` is how many seconds machine code took.
    """

    def __init__(self, model: MarginModel, prepared: Prepared, exposures: Exposures, settings: Engine) -> None:
        self._model, self._prepared, self._exposures = model, prepared, exposures
        self._dtype = np.float32 if settings.precision == "float32" else np.float64
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and its holders `numerical`
            cube = np.asarray(prepared.cube).astype(self._dtype)
        start = perf_counter()
        native_path(settings.precision)
        self.compiling = perf_counter() - start
        self._asked = model.asked_tails or ()
        self._tails = CubeTail(
            cube,
            np.asarray(prepared.weights),
            tail=self._asked,
            scrambles=model.scrambles,
            dense_width=settings.dense_width,
            streams=settings.streams,
            tile=settings.tile_rows,
        )
        self._tiles: TilePass | None = None
        self._settings = settings

    def over(self, exposures: Exposures) -> "TailPass":
        """The same pass over another book of the same market."""
        other = copy(self)
        other._exposures = exposures
        other._tiles = None if self._tiles is None else self._tiles.over(exposures)
        return other

    def of_units(self, exposures: Exposures) -> "TailPass":
        """The same over single contracts: no tail is charged once an account."""
        return self.over(exposures)

    def compile(self, accounts: Int64[np.ndarray, " accounts"]) -> None:
        """Nothing ahead: programs are few and small, and machine code is there since the cube was sliced."""

    def margins(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Chunk, tuple[Margin, Totals]]]:
        """The model's margins and totals for each chunk of these accounts."""
        for first in range(0, len(accounts), CHUNK):
            chunk = accounts[first : first + CHUNK]
            yield Chunk(chunk), self._margins(chunk)

    def attributions(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Parts]]:
        """The model's attribution for each tile over these accounts."""
        if self._tiles is None:
            self._tiles = TilePass(self._model, self._prepared, self._exposures, self._settings)
        return self._tiles.attributions(accounts)

    def _margins(self, accounts: np.ndarray) -> tuple[Margin, Totals]:
        held = self._exposures
        positions, collateral = held.positions.taken(accounts), held.collateral.taken(accounts)
        both, equity = positions.beside(collateral), held.equity[accounts]
        found = self._tails.of(both.starts, both.columns, both.amounts, equity)
        pledging = np.flatnonzero(collateral.counts)
        alone = found.expected_shortfall
        if len(pledging):
            apart, alone = positions.taken(pledging), alone.copy()
            alone[:, pledging] = self._tails.of(apart.starts, apart.columns, apart.amounts).expected_shortfall
        joint = {
            tail: found._replace(
                var=found.var[k], expected_shortfall=found.expected_shortfall[k], std_error=found.std_error[k]
            )
            for k, tail in enumerate(self._asked)
        }
        margin = self._model.margin_of(
            self._prepared, Tails(joint, dict(zip(self._asked, alone, strict=True)), positions.counts > 0, collateral)
        )
        assert found.venue_loss is not None
        return margin, Totals(found.venue_loss[None])


def book_pass(model: MarginModel, prepared: Prepared, exposures: Exposures, settings: Engine) -> "TilePass | TailPass":
    """The pass that a model's books go through: tails where it asks for them, losses tile by tile where not."""
    return (TilePass if model.asked_tails is None else TailPass)(model, prepared, exposures, settings)


def kernel(model: MarginModel, precision: str) -> str:
    """What the accounts of a model are computed with in that precision, for the manifest."""
    if model.asked_tails is None:
        return "JAX, tile by tile"
    use = native_path(precision)
    return f"machine code ({use.reason.split(':')[0]})" if use.in_use else f"JAX ({use.reason})"
