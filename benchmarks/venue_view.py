"""What the view of a venue costs beside the margins: one book and market, with and without it.

A synthetic venue of 4,000 accounts with options on two coins, 1,000 filtered scenarios, in float32 on all cores; the
plain model and the preset `dynamic`. `margins` is a pass over all accounts and the result it gives, `with_view` the
same with the view, `without_margins` with the view but no losses beyond margins, which take a sweep of the book of
their own. Each is run once to compile, then in turn; medians of the time on the clock and of that of all cores, which
other work on the machine disturbs less. Margins are checked to be equal to the bit before any clock starts.
"""

from dataclasses import replace
from statistics import median
from time import perf_counter, process_time
from typing import Any

import jax

import marginax as mx
from benchmarks.context import context
from marginax.config import load_config
from marginax.engine.compilation import persistent_cache
from marginax.engine.margin_book import _prepare, margined, ready_for
from marginax.engine.tail_pass import book_pass
from marginax.match import match
from marginax.models.load import load_model
from marginax.synthetic import venue
from marginax.venue_sections import Venue

ACCOUNTS, REPEATS = 4_000, 5
VIEWS = {
    "margins": Venue(),
    "with_view": Venue(report=True),
    "without_margins": Venue(report=True, beyond_margins=False),
}


def run() -> dict[str, Any]:
    """The benchmark's record."""
    persistent_cache()
    made = venue(accounts=ACCOUNTS, underlyings=10, instruments=60, options=2).tables
    book = mx.read_book(**{name: made[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: made[name] for name in ("quotes", "underlyings", "history", "forwards")})
    return {
        "benchmark": "venue_view",
        "accounts": ACCOUNTS,
        "positions": made["positions"].height,
        "dtype": "float32",
        "context": context(),
        "figures": {name: _costs(name, book, market) for name in ("expected_shortfall", "dynamic")},
    }


def _costs(name: str, book: mx.Book, market: mx.Market) -> dict[str, Any]:
    """Medians of seconds by what is asked, and their ratio to the margins alone."""
    preset = load_config(name)
    window = preset.scenarios.model_copy(update={"window": 1_000})
    plain = load_model(preset.model_copy(update={"scenarios": window}))
    matched = match(book, market, model=plain.name, options=plain.settings.options)
    ready, exposures = ready_for(plain, matched, seed=7)
    known = ready.known
    with jax.enable_x64(True):
        prepared, _ = _prepare(plain, exposures.instruments, exposures.market, known.state, known.draws)
    asked: dict[str, Any] = {}
    for view, settings in VIEWS.items():
        model = load_model(plain.settings.model_copy(update={"venue": settings}))
        tiles = book_pass(model, prepared, exposures, ready.settings)
        asked[view] = replace(ready, model=model, tiles=tiles), matched, exposures
    found = {view: margined(*each, clock={"started": 0.0}).margins for view, each in asked.items()}
    assert all(margins.equals(found["margins"]) for margins in found.values())
    clocks: dict[str, list[float]] = {view: [] for view in asked}
    cores: dict[str, list[float]] = {view: [] for view in asked}
    for _ in range(REPEATS):
        for view, each in asked.items():
            began, spent = perf_counter(), process_time()
            margined(*each, clock={"started": 0.0})
            clocks[view].append(perf_counter() - began)
            cores[view].append(process_time() - spent)
    jax.clear_caches()
    told = {view: {"seconds": median(clocks[view]), "core_seconds": median(cores[view])} for view in asked}
    for view in asked:
        told[view]["of_margins"] = told[view]["core_seconds"] / told["margins"]["core_seconds"]
    return told
