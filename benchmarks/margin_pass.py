"""Accounts a second of one margin pass over the demo venue: warm, answers checked first, one core and all.

The book is the demo's without its options (10,000 accounts, 200 instruments) on 2,000 historical scenarios without
stress windows. A pass is all accounts through the model: cutting, padding, sums, tails, and the answers back on the
host. The scipy rival does the same accounts on the same cube: CSR product and `np.partition`, on one thread, for equal
weights only. `monte_carlo_with_options` is the whole demo venue on 2,048 weighted draws, ours alone, and what it costs
to prepare them once per market (draws, scenarios, cube).
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from scipy import sparse

import marginax as mx
from benchmarks.context import context, seconds
from marginax.config import Config
from marginax.engine.margin_book import _prepare
from marginax.engine.tail_pass import book_pass
from marginax.exposures import expose
from marginax.sections import Engine
from marginax.synthetic import venue

REPEATS = 9
BLOCK = 512


def run(accounts: int = 10_000) -> dict[str, Any]:
    """The benchmark's record."""
    model = mx.load_model(Config())
    exposures, prepared, _ = _prepared(model, accounts, options=0)
    figures: dict[str, Any] = {}
    passes = _passes(model, exposures, prepared)
    _check(next(iter(passes.values())), prepared, exposures)
    figures |= _timed(passes, accounts)
    for name, work in (("scipy_one_thread", _scipy), ("scipy_one_thread_joint_es_only", _scipy_shortfall)):
        rival = seconds(lambda work=work: work(prepared, exposures), repeats=3)
        figures[name] = {"accounts_a_second": accounts / rival["median"], **rival}
    drawn = mx.load_model("monte_carlo")
    whole, cube, once = _prepared(drawn, accounts, options=None)
    figures["monte_carlo_with_options"] = {
        "instruments": len(whole.listed),
        "positions": len(whole.positions.columns),
        "scenarios": len(cube.weights),
        **once,
        **_timed(_passes(drawn, whole, cube), accounts),
    }
    return {
        "benchmark": "margin_pass",
        "accounts": accounts,
        "positions": len(exposures.positions.columns),
        "scenarios": len(prepared.weights),
        "dtype": "float32",
        "context": context(),
        "figures": figures,
    }


def _prepared(model: Any, accounts: int, *, options: int | None) -> tuple[Any, Any, dict[str, float]]:
    """Exposures and cube of a demo venue, and the seconds of draws and of scenarios and cube, warm."""
    tables = venue(accounts=accounts, options=options).tables
    book = mx.read_book(**{name: tables[name] for name in ("instruments", "positions", "balances")})
    names = ("quotes", "underlyings", "history", *(["forwards"] if "forwards" in tables else []))
    market = mx.read_market(**{name: tables[name] for name in names})
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        exposures = expose(book, market, history)
        state, draws = model.observe(history), model.draw(7, history)

        def cube() -> Any:
            return jax.block_until_ready(_prepare(model, exposures.instruments, exposures.market, state, draws))[0]

        once = {
            "draw_seconds": seconds(lambda: model.draw(7, history), repeats=3)["median"],
            "prepare_seconds": seconds(cube, repeats=3)["median"],
        }
        return exposures, cube(), once


def _passes(model: Any, exposures: Any, prepared: Any) -> dict[int, Any]:
    cores = len(os.sched_getaffinity(0))
    return {streams: book_pass(model, prepared, exposures, Engine(streams=streams)) for streams in {1, cores}}


def _timed(passes: dict[int, Any], accounts: int) -> dict[str, Any]:
    figures = {}
    everyone = np.arange(accounts)
    for streams, each in sorted(passes.items()):
        each.compile(everyone)
        time = seconds(lambda each=each: [None for _ in each.margins(everyone)], repeats=REPEATS)
        figures[f"streams_{streams}"] = {"accounts_a_second": accounts / time["median"], **time}
    return figures


def _holdings(part: Any, exposures: Any) -> sparse.csr_matrix:
    shape = (len(exposures.equity), exposures.zero_row + 1)
    return sparse.csr_matrix((part.amounts.astype(np.float32), part.columns, part.starts), shape=shape)


def _blocks(prepared: Any, exposures: Any) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Losses of positions and of collateral, in blocks that fit the cache."""
    cube = np.asarray(prepared.cube, np.float32)
    positions, collateral = (_holdings(part, exposures) for part in (exposures.positions, exposures.collateral))
    for first in range(0, positions.shape[0], BLOCK):
        rows = slice(first, first + BLOCK)
        yield rows, -(positions[rows] @ cube), -(collateral[rows] @ cube)


def _tail_mean(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value at risk and expected shortfall at 1 % of equal weights."""
    tail = losses.shape[1] // 100
    worst = np.partition(losses, losses.shape[1] - tail, axis=1)[:, -tail:]
    return worst[:, 0], worst.mean(axis=1)


def _scipy(prepared: Any, exposures: Any) -> np.ndarray:
    """What our pass gives, as a user of scipy would write it; equal weights only."""
    shortfall = np.empty(len(exposures.equity), np.float32)
    uncovered = np.zeros(len(prepared.weights))
    for rows, positions, collateral in _blocks(prepared, exposures):
        _tail_mean(positions)
        joint = positions + collateral
        _, shortfall[rows] = _tail_mean(joint)
        beyond = np.maximum(joint - exposures.equity[rows, None].astype(np.float32), 0)
        (beyond > 0).mean(axis=1)
        uncovered += beyond.sum(axis=0, dtype=float)
        joint.argmax(axis=1)
    return shortfall


def _scipy_shortfall(prepared: Any, exposures: Any) -> np.ndarray:
    """The expected shortfall of the joint loss and nothing else: the least that anyone could ask for."""
    cube = np.asarray(prepared.cube, np.float32)
    held = sum(_holdings(part, exposures) for part in (exposures.positions, exposures.collateral))
    return np.concatenate(
        [_tail_mean(-(held[first : first + BLOCK] @ cube))[1] for first in range(0, held.shape[0], BLOCK)]
    )


def _check(each: Any, prepared: Any, exposures: Any) -> None:
    """Both sides give the same expected shortfall before any clock starts."""
    ours = np.empty(len(exposures.equity))
    for part, (margin, _) in each.margins(np.arange(len(ours))):
        ours[part.accounts] = margin.expected_shortfall[: len(part.accounts)]
    theirs = _scipy(prepared, exposures)
    # float32 sums of n products are off by n roundings (6e-8) of gross loss at most, and so are tail means of them.
    cube = np.abs(np.asarray(prepared.cube, float)).max(axis=1)
    parts = (exposures.positions, exposures.collateral)
    gross = sum(abs(_holdings(part, exposures)).astype(float) @ cube for part in parts)
    entries = exposures.positions.counts + exposures.collateral.counts
    if not (np.abs(ours - theirs) <= 2 * (entries + 2) * 6e-8 * gross + 1e-9).all():
        sys.exit("answers differ by more than rounding; no clock was started")
