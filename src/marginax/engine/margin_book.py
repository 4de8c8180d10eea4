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
from marginax.engine.figures import Figures
from marginax.engine.result import Result
from marginax.engine.tail_pass import TailPass, book_pass, kernel
from marginax.engine.tile_pass import TilePass
from marginax.exposures import Exposures, expose
from marginax.history import FactorHistory
from marginax.market import Market
from marginax.match import Matched, match
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem
from marginax.scenarios.sets import ScenarioSet
from marginax.sections import Engine, Run
from marginax.statuses import account_statuses
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
    with jax.enable_x64(True):
        history = chosen.factors(matched.market, matched.book.instruments)
        exposures = expose(matched.book, matched.market, history, chosen.settings.options)
        draws = chosen.draw(seed, history)
        clock["bound"] = perf_counter()
        state = chosen.observe(history)
    known = Known(history, state, draws, seed)
    ready = get_ready(chosen, exposures, known, engine or chosen.settings.engine)
    clock["prepared"] = perf_counter()
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
    progress: Progress | None = None,
) -> Result:
    """Margins of a matched book in a market that is ready: the pass over all accounts, and the result."""
    model, settings = ready.model, ready.model.settings
    stale = settings.scenarios.stale_after_days
    statuses = account_statuses(matched, exposures, ready.known.history, stale_after_days=stale)
    figures = Figures.empty(len(matched.book), len(ready.scenarios), model.part_names)
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
    statuses = statuses.with_numerical(~(figures.finite & np.isfinite(exposures.equity)))
    clock["margined"] = perf_counter()
    return Result.assemble(
        matched=matched,
        exposures=exposures,
        model=model.name,
        settings=settings.model_copy(update={"engine": ready.settings}),
        kernel=kernel(model, ready.settings.precision),
        seed=ready.known.seed,
        figures=figures,
        statuses=statuses,
        scenarios=ready.scenarios,
        diagnostics=ready.diagnostics,
        notes=data_notes(matched, settings),
        attribute=tiles.attributions,
        clock=clock,
    )


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
