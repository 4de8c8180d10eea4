"""The one verb: the margin of every account of a book, in one pass over tiles.

Everything is settled once per market (scenarios, cube); accounts then stream through in tiles. Whatever troubles one
account becomes its status; the others get their margins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np

from marginax.book import Book
from marginax.config import Config
from marginax.data_quality import data_notes
from marginax.engine.compilation import WIDE_VECTORS, persistent_cache
from marginax.engine.figures import Figures, Manual
from marginax.engine.manual import manual_margin
from marginax.engine.result import Result
from marginax.engine.tail_pass import TailPass, book_pass, kernel
from marginax.engine.tile_pass import TilePass
from marginax.exposures import Exposures, expose
from marginax.funding import funding_notes
from marginax.history import FactorHistory
from marginax.limits import limit_breaches, unknown_liquidity
from marginax.market import Market
from marginax.match import Matched, match
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem
from marginax.scenarios.sets import ScenarioSet
from marginax.sections import Engine, Run
from marginax.statuses import Statuses, account_statuses
from marginax.tables.door import OnError

Progress = Callable[[int, int], None]
"""Called with accounts done and accounts in all."""


def margin_book(
    book: Book,
    market: Market,
    model: str | Path | Config | MarginModel = "expected_shortfall",
    *,
    seed: int | None = None,
    engine: Engine | None = None,
    on_error: OnError = "raise",
    progress: Progress | None = None,
) -> Result:
    """Margin of every account of `book` in `market`.

    `model` is a preset's name, a TOML file, a configuration or a model. `seed` settles every draw (by default the
    configuration's); `engine` how the book is cut (see its section). Raises BadInput for
    what is held and has no price, unless `on_error="quarantine"`: then those rows are set aside and their accounts
    have a status and no margin.
    """
    persistent_cache()
    clock = {"started": perf_counter()}
    chosen = load_model(model)
    seed = chosen.settings.run.seed if seed is None else seed
    agree(chosen.settings.run, market)
    matched = match(book, market, model=chosen.name, options=chosen.settings.options, on_error=on_error)
    ready, exposures = ready_for(chosen, matched, seed=seed, engine=engine, clock=clock)
    return margined(ready, matched, exposures, clock=clock, progress=progress)


@dataclass(frozen=True)
class Known:
    """What a model knows of a market: the history of its factors, its state, and its draws from a seed."""

    history: FactorHistory
    state: Any
    draws: Any
    seed: int


@dataclass(frozen=True)
class Ready:
    """A market as a model sees it, ready for any book of it: its scenarios, and the pass that books go through."""

    model: MarginModel
    known: Known
    settings: Engine
    scenarios: ScenarioSet
    diagnostics: Mapping[str, Any]
    tiles: TilePass | TailPass


def ready_for(
    model: MarginModel,
    matched: Matched,
    *,
    seed: int,
    engine: Engine | None = None,
    clock: dict[str, float] | None = None,
) -> tuple[Ready, Exposures]:
    """The market of a matched book made ready from its history, and what the book holds in it."""
    clock = {} if clock is None else clock
    options = model.settings.options
    with jax.enable_x64(True):
        history = model.factors(matched.market, matched.book.instruments)
        exposures = expose(matched.book, matched.market, history, options, model.settings.funding)
        draws = model.draw(seed, history)
        clock["bound"] = perf_counter()
        state = model.observe(history)
    ready = get_ready(model, exposures, Known(history, state, draws, seed), engine or model.settings.engine)
    clock["prepared"] = perf_counter() - ready.tiles.compiling
    return ready, exposures


def get_ready(model: MarginModel, exposures: Exposures, known: Known, settings: Engine) -> Ready:
    """Scenarios and cube from what is known, placed where books are margined."""
    history = known.history
    with jax.enable_x64(True):
        prepared, shocks = _prepare(model, exposures.instruments, exposures.market, known.state, known.draws)
        scrambles, drawn = model.scrambles
        scenarios = ScenarioSet(
            factors=history.names,
            shocks=np.where(history.is_settlement, shocks, np.nan_to_num(np.asarray(shocks))),
            weights=np.asarray(prepared.weights),
            labels=model.labels(history),
            independent=model.independent,
            scrambles=scrambles,
            drawn=drawn,
        )
        diagnostics = dict(model.diagnostics(history, known.state, known.draws, scenarios))
    tiles = book_pass(model, prepared, exposures, settings)
    return Ready(model, known, settings, scenarios, diagnostics, tiles)


def margined(
    ready: Ready,
    matched: Matched,
    exposures: Exposures,
    *,
    clock: dict[str, float],
    by_hand: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Margins of a matched book in a market that is ready: the pass over all accounts, and the result.

    `by_hand` asks for the part `manual` even where no multiplier is named.
    """
    model = ready.model
    settings = model.settings
    passed = one_pass(ready, matched, exposures, clock=clock, by_hand=by_hand, progress=progress)
    notes = data_notes(matched, settings)
    if settings.liquidity.on:
        notes["liquidity_unknown"] = unknown_liquidity(matched.book.instruments, matched.market)
    if settings.funding.on:
        notes["funding"] = funding_notes(matched.book.instruments, matched.market, settings.funding)
    factors = len(ready.known.history.names)
    return Result.assemble(
        matched=matched,
        exposures=exposures,
        ready=ready,
        settings=settings.model_copy(update={"engine": ready.settings}),
        kernel=kernel(model, ready.settings.precision),
        figures=passed.figures,
        manual=passed.manual,
        statuses=passed.statuses,
        notes=notes,
        breaches=limit_breaches(matched.book, matched.market, exposures, settings, factors=factors),
        attribute=passed.tiles.attributions,
        clock=clock,
        read=tables_read(model),
    )


def tables_read(model: MarginModel) -> tuple[str, ...]:
    """The tables that this model reads and others do not."""
    asked = {"orders": model.reads_orders, "signals": model.reads_signals}
    return tuple(name for name, read in asked.items() if read)


@dataclass(frozen=True)
class Passed:
    """What a pass over a book found: figures and statuses by holder, and what is added by hand; `tiles` attribute
    them."""

    figures: Figures
    manual: Manual | None
    statuses: Statuses
    tiles: TilePass | TailPass


def one_pass(
    ready: Ready,
    matched: Matched,
    exposures: Exposures,
    *,
    clock: dict[str, float] | None = None,
    by_hand: bool = False,
    progress: Progress | None = None,
) -> Passed:
    """Figures and statuses of every holder of a matched book in a market that is ready."""
    clock = {} if clock is None else clock
    model, stale = ready.model, ready.model.settings.scenarios.stale_after_days
    statuses = account_statuses(matched, exposures, ready.known.history, stale_after_days=stale)
    figures = Figures.empty(matched.book.holders, len(ready.scenarios), model.part_names)
    able = np.flatnonzero(~statuses.excepted)
    tiles = ready.tiles.over(exposures)
    tiles.compile(able)
    clock["compiled"] = perf_counter()
    done = 0
    for part, (margin, totals) in tiles.margins(able):
        figures.take(part.accounts, margin, totals)
        done += len(part.accounts)
        if progress is not None:
            progress(done, len(able))
    manual = manual_margin(tiles, matched, exposures, asked=by_hand)
    finite = figures.finite & np.isfinite(exposures.equity)
    if manual is not None:
        finite &= np.isfinite(manual.of_holders(manual.initial, exposures.positions))
    statuses = statuses.with_numerical(~finite)
    clock["margined"] = perf_counter()
    return Passed(figures, manual, statuses, tiles)


def agree(run: Run, market: Market) -> None:
    """Refuse a configuration that states another currency or time than the market was read with."""
    for key, read in (("currency", market.currency), ("as_of", market.as_of)):
        stated = getattr(run, key)
        if key in run.model_fields_set and stated is not None and stated != read:
            what = f"`{stated}` is configured and the market was read with `{read}`"
            remedy = f"Read it with read_market({key}=...), or remove the key"
            raise BadInput([Problem("configuration", f"run.{key}", None, what, remedy)])


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _prepare(model: MarginModel, instruments: Any, market: Any, state: Any, draws: Any) -> Any:
    return model.prepare(instruments, market, state, draws)
