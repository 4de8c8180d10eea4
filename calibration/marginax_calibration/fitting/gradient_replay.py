"""A replay of history that a gradient flows through: margins of every bar as a function of a model's free numbers.

Reverse mode by hand at two joints, so that any objective of the table of margins can be differentiated, on any of the
bars, and nothing but inputs is kept: forward, the filters run over the whole history once and each stretch of bars is
margined from what they knew; back, each stretch is margined again bar by bar (rematerialised) and pulls the slopes of
its margins to the free numbers and to what the filters knew, and the filters pull the latter's sum. Several sets of
numbers are one batch: their stretches are spread over the cores one by one, and not by `vmap`, so that what a core
works on fits its cache.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from marginax.engine.compilation import WIDE_VECTORS
from marginax.known import KnownHistory
from marginax.models import MarginModel, Tile
from marginax_calibration.fitting.parameters import Place, Tunable, put
from marginax_calibration.lives import Life
from marginax_calibration.model_replay import figures_of
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay_works import CHUNK, Work, works_of
from marginax_calibration.unit_market import Legs, UnitMarket
from marginax_kernels.streams import run_streams, stream_devices

FIGURES = ("var", "es", "charged")


class Pull(Protocol):
    """The way back from slopes of margins to those of the numbers: their sum, or `apart` one row for each stretch."""

    def __call__(self, slopes: Any, *, apart: bool = False) -> Float64[np.ndarray, "starts *stretches numbers"]:
        """Slopes of the numbers."""


class Stretch(NamedTuple):
    """Bars from `low` up to, not including, `high`, and the compiled calls that margin them."""

    low: int
    high: int
    works: tuple[Work, ...]


class _Placed(eqx.Module):
    """A model and where its free numbers belong."""

    model: MarginModel
    places: tuple[Place, ...]

    def at(self, values: Array) -> MarginModel:
        return put(self.model, self.places, values)


class _Inputs(NamedTuple):
    """What a stretch is margined from, but for the numbers and what the filters knew."""

    placed: _Placed
    rest: Any
    market: UnitMarket
    tile: Tile
    draws: Any
    bars: Any
    first: Any


class GradientReplay:
    """One model over all portfolios of one calendar; its margins and their slopes."""

    def __init__(
        self,
        tunable: Tunable,
        known: KnownHistory,
        market: UnitMarket,
        legs: Legs,
        portfolios: Sequence[Portfolio],
        lives: Sequence[Life],
        *,
        seed: int = 7,
        streams: int = 0,
        double: bool = False,
    ) -> None:
        model = tunable.model
        self._double, self._known, self._seed, self._legs = double, known, seed, legs
        self._portfolios = tuple(portfolios)
        self._works = works_of(model, known, lives)
        self._placed = _narrow(_Placed(model, tunable.places), double)
        self._market = _narrow(market, double)
        self._devices = stream_devices(streams)
        self._draws: dict[int, Any] = {}
        self._tiles: dict[tuple[int, ...], Tile] = {}
        self._known_arrays = _narrow(_arrays(known), double)

        def past(values: Array, arrays: dict[str, Array]) -> Any:
            return _parted(self._placed.at(values).past(_with_arrays(known, arrays)))[0]

        def through(values: Array, arrays: dict[str, Array], slopes: Any) -> Array:
            return jax.vjp(lambda own: past(own, arrays), values)[1](slopes)[0]

        # Numbers of the history are arguments: as constants they would be folded at length, and compiled anew.
        self._past, self._through = jax.jit(past), jax.jit(through)
        with self._precision():
            one = self._placed.at(jnp.asarray(tunable.start))
            self._rest = jax.tree.map(np.asarray, _parted(one.past(known))[1])
        self.bars = len(known.history.times) + 1

    def stretches(self) -> list[Stretch]:
        """All of the replay, cut at multiples of CHUNK bars from its first."""
        by_bar: dict[int, list[Work]] = {}
        for work in self._works.daily():
            by_bar.setdefault(int(work.bars[0]), []).append(work)
        return [Stretch(low, int(works[0].bars[-1]) + 1, tuple(works)) for low, works in sorted(by_bar.items())]

    def margins(
        self, values: Float[np.ndarray, "starts numbers"], stretches: Sequence[Stretch]
    ) -> tuple[Float[np.ndarray, "starts bars portfolios 3"], Pull]:
        """var, es and charged on the bars of these stretches, CHUNK rows for each, NaN where a portfolio has none; and
        the way back from their slopes (zero where there is no margin) to those of the numbers."""
        with self._precision():
            numbers = [jnp.asarray(each) for each in values]
            pasts = [self._past(each, self._known_arrays) for each in numbers]
        items = [
            (start, work, k * CHUNK)
            for k, stretch in enumerate(stretches)
            for work in stretch.works
            for start in range(len(values))
        ]
        kind = np.float64 if self._double else np.float32
        table = np.full((len(values), CHUNK * len(stretches), len(self._portfolios), len(FIGURES)), np.nan, kind)

        def margined(stream: int, item: tuple[int, Work, int]) -> Any:
            start, work, _ = item
            with self._precision(), jax.default_device(self._devices[stream]):
                return np.asarray(_margins(numbers[start], pasts[start], self._inputs(work)))

        for (start, work, offset), answer in run_streams(margined, items, len(self._devices)):
            rows = slice(offset, offset + len(work.bars))
            table[start, rows, work.members] = answer[: len(work.bars), : len(work.members)].swapaxes(0, 1)

        def pulled(slopes: Any, *, apart: bool = False) -> np.ndarray:
            ways = np.asarray(slopes)

            def back(stream: int, item: tuple[int, Work, int]) -> Any:
                start, work, offset = item
                with self._precision(), jax.default_device(self._devices[stream]):
                    inputs = self._inputs(work)
                    own = np.zeros((CHUNK, len(inputs.tile.equity), len(FIGURES)), kind)
                    rows = slice(offset, offset + len(work.bars))
                    own[: len(work.bars), : len(work.members)] = ways[start, rows][:, work.members]
                    return jax.tree.map(np.asarray, _pulled(numbers[start], pasts[start], inputs, own))

            totals: dict[tuple[int, int], Any] = {}
            for (start, _, offset), slope in run_streams(back, items, len(self._devices)):
                place = start, offset // CHUNK if apart else 0
                totals[place] = slope if place not in totals else jax.tree.map(np.add, totals[place], slope)
            with self._precision():
                found = [
                    np.asarray(own, float) + np.asarray(self._through(numbers[start], self._known_arrays, seen), float)
                    for (start, _), (own, seen) in sorted(totals.items(), key=lambda each: each[0])
                ]
            whole = np.reshape(found, (len(values), -1, values.shape[1]))
            return whole if apart else whole[:, 0]

        return table, pulled

    def _inputs(self, work: Work) -> _Inputs:
        bars = np.concatenate([work.bars, np.repeat(work.bars[-1:], CHUNK - len(work.bars))]).astype(np.int32)
        first, draws = np.asarray(work.first, np.int32), self._drawn(work.number)
        return _Inputs(self._placed, self._rest, self._market, self._tile(work.members), draws, bars, first)

    def _tile(self, members: tuple[int, ...]) -> Tile:
        if members not in self._tiles:
            tile = self._legs.tile([self._portfolios[k] for k in members])
            self._tiles[members] = _narrow(tile, self._double)
        return self._tiles[members]

    def _drawn(self, number: int) -> Any:
        if number not in self._draws:
            with jax.enable_x64(True):
                history = self._known.until(self._works.drawn_at(number, self.bars - 1), 0, self._works.lookback)
                self._draws[number] = _narrow(self._placed.model.draw(self._seed, history), self._double)
        return self._draws[number]

    def _precision(self) -> Any:
        return jax.enable_x64(self._double)


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _margins(values: Array, past: Any, inputs: _Inputs) -> Float[Array, "bars accounts 3"]:
    """The figures of a tile."""
    return lax.scan(lambda _, bar: (None, _figures(values, past, inputs, bar)), None, inputs.bars)[1]


@jax.jit
def _pulled(values: Array, past: Any, inputs: _Inputs, slopes: Array) -> tuple[Array, Any]:
    """Slopes of the figures, pulled to the numbers and to what the filters knew, one bar after the other."""

    def back(total: Any, item: tuple[Array, Array]) -> tuple[Any, None]:
        bar, slope = item
        pull = jax.vjp(lambda own, seen: _figures(own, seen, inputs, bar), values, past)[1]
        return jax.tree.map(jnp.add, total, pull(slope)), None

    none = jax.tree.map(jnp.zeros_like, (values, past))
    return lax.scan(back, none, (inputs.bars, slopes))[0]


def _arrays(known: KnownHistory) -> dict[str, np.ndarray]:
    """What is numbers of a history, and grows with it."""
    inside = {name: getattr(known.history, name) for name in ("returns", "bars")}
    return inside | {name: getattr(known, name) for name in ("own", "level", "noise")}


def _with_arrays(known: KnownHistory, arrays: dict[str, Any]) -> KnownHistory:
    """The same history with these arrays, which may be traced."""
    history = replace(known.history, returns=arrays["returns"], bars=arrays["bars"])
    return replace(known, history=history, **{name: arrays[name] for name in ("own", "level", "noise")})


def _figures(values: Array, past: Any, inputs: _Inputs, bar: Array) -> Float[Array, "accounts 3"]:
    """The figures of a tile at one bar."""
    model, known = inputs.placed.at(values), eqx.combine(past, inputs.rest)
    instruments, prices = inputs.market.at(bar)
    prepared, _ = model.prepare(instruments, prices, model.before(known, bar, inputs.first), inputs.draws)
    return figures_of(model.margin(model.complete(prepared), inputs.tile)[0])


def _parted(tree: Any) -> tuple[Any, Any]:
    """What a gradient can flow through, and the rest."""
    return eqx.partition(tree, eqx.is_inexact_array)


def _narrow(tree: Any, double: bool) -> Any:
    """Numbers in the precision of the replay."""
    kind = np.float64 if double else np.float32

    def cast(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return array.astype(kind) if np.issubdtype(array.dtype, np.floating) else array

    return jax.tree.map(cast, tree)
