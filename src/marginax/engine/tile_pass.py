"""One pass of tiles through a prepared model: cut, padded, placed on the devices, answered, and back on the host."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from marginax.engine.compilation import WIDE_VECTORS
from marginax.engine.tiles import Cut, build, cut
from marginax.exposures import Exposures
from marginax.models.protocol import MarginModel, Parts, Prepared, Tile
from marginax.sections import Engine
from marginax_kernels.streams import run_streams, stream_devices

# A tile's losses of a thousand scenarios stay in a core's cache.
ROWS = 128


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
        """Compile every shape these accounts need, streams side by side, on tiles without accounts."""
        nobody = accounts[:0]
        cuts = self._cut(accounts)
        shapes = dict.fromkeys(part.shape for part in cuts)
        for _ in self._stream((Cut(nobody, *shape) for shape in shapes), _margin):
            pass

    def margins(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Any]]:
        """The model's margins and totals for each tile over these accounts."""
        return self._stream(self._cut(accounts), _margin)

    def attributions(self, accounts: Int64[np.ndarray, " accounts"]) -> Iterator[tuple[Cut, Parts]]:
        """The model's attribution for each tile over these accounts."""
        return self._stream(self._cut(accounts), _attribute)

    def _cut(self, accounts: np.ndarray) -> Iterator[Cut]:
        return cut(self._exposures, accounts, tile_rows=self._rows, scenarios=self._scenarios)

    def _stream(self, parts: Iterable[Cut], call: Callable[..., Any]) -> Iterator[tuple[Cut, Any]]:
        def work(stream: int, part: Cut) -> Any:
            with self._precision():
                with np.errstate(over="ignore"):
                    tile = build(self._exposures, part, self._dtype)
                answer = call(*self._placed[stream], tile)  # it runs where the model and the cube are
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
def _attribute(model: MarginModel, prepared: Prepared, tile: Tile) -> Parts:
    return model.attribute(prepared, tile)
