"""One model over many portfolios and bars: how the work is cut into compiled calls, and what a call computes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from marginax.engine.compilation import WIDE_VECTORS
from marginax.known import KnownHistory
from marginax.models import Margin, MarginModel, Tile
from marginax.problems import BadInput
from marginax_calibration.lives import Life
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay_works import CHUNK, Work, works_of
from marginax_calibration.unit_market import Legs, UnitMarket
from marginax_calibration.walk_forward import Schedule
from marginax_kernels.streams import run_streams, stream_devices

# Series of one compiled call that estimates: fewer leave the vectors empty, more wait for the slowest of them.
SERIES = 512
# Refits of one call that collects samples.
REFITS = 8


class _Shared(NamedTuple):
    """What all calls share; `narrow` is the model in single precision."""

    model: MarginModel
    narrow: MarginModel
    past: Any
    market: UnitMarket


class ModelReplay:
    """One model over all portfolios."""

    def __init__(
        self,
        model: MarginModel,
        known: KnownHistory,
        market: UnitMarket,
        legs: Legs,
        portfolios: Sequence[Portfolio],
        lives: Sequence[Life],
        seed: int,
        streams: int,
    ) -> None:
        self._model, self._known, self._legs = model, known, legs
        self._portfolios, self._lives, self._seed = portfolios, lives, seed
        self._schedule = Schedule.of(model.settings, known.history.grid)
        self._devices = stream_devices(streams)
        self._bars = len(known.history.times) + 1
        self._lookback = model.lookback(known)
        self._works = works_of(model, known, lives)
        narrow = jax.tree.map(_narrowed, model)
        self._shared = _Shared(model, narrow, model.past(known), market)
        self._tiles: dict[tuple[int, ...], Tile] = {}
        self._draws: dict[int, Any] = {}
        self._check_least_window()

    def figures(self, count: Callable[[int], None]) -> Float64[np.ndarray, "portfolios bars figures"]:
        """var, es and charged of every portfolio at every bar of its rows; NaN elsewhere."""
        table = np.full((len(self._portfolios), self._bars, 3), np.nan)
        if self._schedule.every and self._model.settings.replay.keeps == "everything":
            self._fill_kept(table, count)
        else:
            self._fill(table, _margins, partial(self._laws, self._fitted()), count)
        return table

    def _check_least_window(self) -> None:
        """Raise what the model has to say of the shortest window that it is asked to margin on."""
        if self._model.draws_from_history:
            return  # it draws as many scenarios from a short window
        begun = min((life for life in self._lives if life.rows), key=lambda life: life.anchor - life.start)
        bars = min(begun.anchor - begun.start - self._schedule.gap, self._lookback)
        try:
            self._model.draw(self._seed, self._known.until(begun.anchor - self._schedule.gap, begun.start, bars))
        except BadInput as error:
            remedy = f"Raise it: the first margin of a portfolio has {bars} returns; or widen the tail"
            key = "scenarios.least_bars"
            problems = [replace(each, file="configuration", column=key, table=None, remedy=remedy)
                        for each in error.problems]  # fmt: skip
            raise BadInput(problems) from None

    def _fill_kept(self, table: np.ndarray, count: Callable[[int], None]) -> None:
        """Margins of the refits, kept until the next."""
        for work, answer in self._stream(self._works.refits(), _margins):
            for k, member in enumerate(work.members):
                life = self._lives[member]
                rows = np.arange(life.begin, life.end)
                held = rows[self._schedule.last_refit(life.anchor, rows) == work.number]
                table[member, held] = answer[0, k]
                count(len(held))

    def _fill(
        self,
        table: np.ndarray,
        call: Callable[..., Any],
        given: Callable[[tuple[int, ...], np.ndarray], Any],
        count: Callable[[int], None],
    ) -> None:
        """What `call` says of every portfolio at every bar of its rows; `given` is what it takes of each row of a tile,
        of members and bars."""
        for work, answer in self._stream(self._works.daily(), call, given):
            more = 0
            for k, member in enumerate(work.members):
                life = self._lives[member]
                inside = (work.bars >= life.begin) & (work.bars < life.end)
                table[member, work.bars[inside]] = answer[: len(work.bars)][inside, k]
                more += int(inside.sum())
            count(more)

    def _laws(self, fitted: list[Any] | None, members: tuple[int, ...], bars: np.ndarray) -> Any:
        """What was fitted by portfolio at its last refit, of each row of a tile at each bar: leaves of shape bars x
        rows; None where nothing is fitted."""
        if fitted is None:
            return None
        columns = []
        for member in members:
            refit = self._schedule.last_refit(self._lives[member].anchor, bars)
            held = fitted[member]
            columns.append(jax.tree.map(lambda leaf, which=refit: leaf[np.minimum(which, len(leaf) - 1)], held))
        columns += columns[:1] * (len(self._tile(members).equity) - len(columns))
        return jax.tree.map(lambda *each: np.stack(each, axis=1), *columns)

    def _fitted(self) -> list[Any] | None:
        """What the model estimates for each portfolio, leaves by refit; None where it estimates nothing."""
        if type(self._model).estimate is MarginModel.estimate:
            return None
        samples: list[list[np.ndarray]] = [[] for _ in self._portfolios]
        for work, answer in self._stream(self._works.refits(most=REFITS), _samples):
            for k, member in enumerate(work.members):
                samples[member].append(answer[: len(work.bars), k])
        found = self._estimated(np.concatenate([each for sample in samples for each in sample]))
        ends = np.cumsum([0, *(sum(len(each) for each in sample) for sample in samples)])
        return [jax.tree.map(lambda leaf, of=slice(*of): leaf[of], found) for of in pairwise(ends)]

    def _estimated(self, series: Float[np.ndarray, "series observations"]) -> Any:
        """Estimates of all series, leaves by series, SERIES of them in each compiled call."""

        def serve(stream: int, rows: np.ndarray) -> Any:
            with jax.enable_x64(True), jax.default_device(self._devices[stream]):
                padding = np.full((SERIES - len(rows), rows.shape[1]), np.nan, rows.dtype)
                found = _estimates(self._shared.narrow, np.concatenate([rows, padding]))
                return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], found)

        pieces = [series[k : k + SERIES] for k in range(0, len(series), SERIES)]
        parts = [found for _, found in run_streams(serve, pieces, len(self._devices))]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _tile(self, members: tuple[int, ...]) -> Tile:
        if members not in self._tiles:
            tile = self._legs.tile([self._portfolios[k] for k in members])
            self._tiles[members] = jax.tree.map(_narrowed, tile)
        return self._tiles[members]

    def _drawn(self, number: int) -> Any:
        """The draws that hold in a stretch of bars: one for all unless the model fits their laws."""
        if number not in self._draws:
            bar = self._works.drawn_at(number, self._bars - 1)
            history = self._known.until(bar, 0, self._lookback)
            self._draws[number] = self._model.draw(self._seed, history)
        return self._draws[number]

    def _stream(
        self,
        works: Sequence[Work],
        call: Callable[..., Any],
        laws: Callable[[tuple[int, ...], np.ndarray], Any] | None = None,
    ) -> Iterator[tuple[Work, Any]]:
        redrawn = self._model.draws_from_history
        for number in sorted({work.number for work in works}) if redrawn else [0]:
            self._drawn(number)

        def serve(stream: int, work: Work) -> Any:
            with jax.enable_x64(True), jax.default_device(self._devices[stream]):
                size = REFITS if call is _samples else CHUNK
                bars = np.concatenate([work.bars, np.repeat(work.bars[-1:], size - len(work.bars))])
                fitted = None if laws is None else laws(work.members, bars)
                draws = self._drawn(work.number if redrawn else 0)
                stretch = bars, np.asarray(len(work.bars)), np.asarray(work.first)
                return np.asarray(call(self._shared, self._tile(work.members), draws, stretch, fitted))

        return run_streams(serve, works, len(self._devices))


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _margins(
    shared: _Shared, tile: Tile, draws: Any, stretch: tuple[Array, ...], fitted: Any
) -> Float[Array, "bars accounts 3"]:
    """var, es and charged of a tile."""

    def one(prepared: Any, law: Any) -> Array:
        return figures_of(shared.narrow.fitted_margin(prepared, tile, law)[0])

    return by_bar(one, shared, draws, stretch, fitted)


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _samples(
    shared: _Shared, tile: Tile, draws: Any, stretch: tuple[Array, ...], fitted: Any
) -> Float[Array, "bars accounts observations"]:
    """What the model estimates from, of a tile."""

    def one(prepared: Any, law: Any) -> Array:
        return shared.narrow.sample(prepared, tile)

    return by_bar(one, shared, draws, stretch, fitted)


@jax.jit
def _estimates(model: MarginModel, series: Array) -> Any:
    return model.estimate(series)


def by_bar(
    one: Callable[[Any, Any], Array], shared: _Shared, draws: Any, stretch: tuple[Array, ...], fitted: Any
) -> Array:
    """An answer at each bar; zero at the bars beyond the count, which pad the stretch to one shape."""
    bars, count, first = stretch

    def at(k: Any) -> Array:
        return one(_prepared(shared, draws, bars[k], first), jax.tree.map(lambda leaf: leaf[k], fitted))

    def step(k: Array, answers: Array) -> Array:
        return answers.at[k].set(at(k))

    shape = jax.eval_shape(at, 0)
    return lax.fori_loop(0, count, step, jnp.zeros((len(bars), *shape.shape), shape.dtype))


def figures_of(margin: Margin) -> Float[Array, "accounts 3"]:
    """var, es and charged."""
    charged = jnp.maximum(sum(margin.parts.values, jnp.zeros_like(margin.var)), 0)
    return jnp.stack([margin.var, margin.expected_shortfall, charged], axis=1)


def _prepared(shared: _Shared, draws: Any, bar: Any, first: Any) -> Any:
    instruments, prices = shared.market.at(bar)
    known = shared.model.before(shared.past, bar, first)
    prepared, _ = shared.model.prepare(instruments, prices, known, draws)
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, prepared
    )
    return shared.narrow.complete(narrow)


def _narrowed(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
