"""Accounts a second of one margin pass over the demo venue: warm, answers checked first, one core and all.

The book is the demo's (10,000 accounts, 200 instruments) on 2,000 historical scenarios without stress windows. A pass
is the stream of tiles through the model: cutting, padding, products, tails, and the answers back on the host. The scipy
rival does the same accounts on the same cube: CSR product, `np.partition`, mean of the tail, on one thread.
"""

import os
import sys
from typing import Any

import jax
import numpy as np
from scipy import sparse

import marginax as mx
from benchmarks.context import context, seconds
from marginax.config import Config, Engine
from marginax.engine.tile_pass import TilePass
from marginax.exposures import expose
from marginax.synthetic import venue

REPEATS = 9


def run(accounts: int = 10_000) -> dict[str, Any]:
    """The benchmark's record."""
    tables = venue(accounts=accounts).tables
    book = mx.read_book(**{name: tables[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: tables[name] for name in ("quotes", "underlyings", "history")})
    model = mx.load_model(Config())
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        exposures = expose(book, market, history)
        prepared, _ = model.prepare(
            exposures.instruments, exposures.market, model.observe(history), model.draw(7, history)
        )
    cores = len(os.sched_getaffinity(0))
    everyone = np.arange(len(book))
    figures: dict[str, Any] = {}
    passes = {streams: TilePass(model, prepared, exposures, Engine(streams=streams)) for streams in {1, cores}}
    _check(next(iter(passes.values())), prepared, exposures)
    for streams, each in sorted(passes.items()):
        time = seconds(lambda each=each: [None for _ in each.margins(everyone)], repeats=REPEATS)
        figures[f"streams_{streams}"] = {"accounts_a_second": accounts / time["median"], **time}
    rival = seconds(lambda: _scipy(prepared, exposures), repeats=3)
    figures["scipy_one_thread_es_only"] = {"accounts_a_second": accounts / rival["median"], **rival}
    return {
        "benchmark": "margin_pass",
        "accounts": accounts,
        "positions": len(exposures.positions.columns),
        "scenarios": len(prepared.weights),
        "dtype": "float32",
        "context": context(),
        "figures": figures,
    }


def _holdings(exposures: Any) -> sparse.csr_matrix:
    shape = (len(exposures.equity), exposures.zero_row + 1)
    parts = (exposures.positions, exposures.collateral)
    return sum(
        sparse.csr_matrix((part.amounts.astype(np.float32), part.columns, part.starts), shape=shape) for part in parts
    )


def _scipy(prepared: Any, exposures: Any, block: int = 512) -> np.ndarray:
    """Expected shortfall of every account as a user of scipy would write it, in blocks that fit the cache."""
    held = _holdings(exposures)
    cube = np.asarray(prepared.cube, np.float32)
    tail = len(prepared.weights) // 100
    answers = []
    for first in range(0, held.shape[0], block):
        losses = -(held[first : first + block] @ cube)
        losses.partition(losses.shape[1] - tail, axis=1)
        answers.append(losses[:, -tail:].mean(axis=1))
    return np.concatenate(answers)


def _check(each: TilePass, prepared: Any, exposures: Any) -> None:
    """Both sides give the same expected shortfall before any clock starts."""
    ours = np.empty(len(exposures.equity))
    for part, (margin, _) in each.margins(np.arange(len(ours))):
        ours[part.accounts] = margin.expected_shortfall[: len(part.accounts)]
    theirs = _scipy(prepared, exposures)
    # float32 sums of up to 200 positions of either sign: 200 roundings of 6e-8 of gross, gross some tens of net.
    scale = np.maximum(np.abs(theirs), 1e-3 * np.abs(exposures.equity))
    worst = float(np.max(np.abs(ours - theirs) / np.maximum(scale, 1e-6)))
    if worst > 1e-2 or np.median(np.abs(ours - theirs) / np.maximum(scale, 1e-6)) > 1e-6:
        sys.exit(f"answers differ by {worst:.2e}; no clock was started")
