"""The verb: a book through a sequence of markets, a margin of every account at each of them.

    replay(book, market, "bars.parquet", "dynamic", out="october")

The time from a market event to a changed requirement is one epoch. Filters are carried forward in O(1) (`follow`), so
that an epoch costs the same however long the history was, and memory does not grow with the number of epochs. A replay
that was interrupted is resumed and gives the same files to the bit.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from marginax.book import Book, assemble
from marginax.config import Config
from marginax.engine import LiveMargin, follow, resume
from marginax.engine.figures import finite, margins_table
from marginax.engine.live import Bound
from marginax.engine.margin_book import Progress, one_pass
from marginax.epochs.bars import Bars, Epoch, read_bars
from marginax.epochs.calls import POLICIES, Ledger, Policy, book_after, entered
from marginax.epochs.files import Unfinished, unfinished
from marginax.epochs.prices import begun, moved, moves_of
from marginax.epochs.record import begun_with, manifest_of
from marginax.epochs.rows import told
from marginax.interrupts import stop_if_interrupted
from marginax.market import Market
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem
from marginax.sections import Engine
from marginax.tables.door import OnError
from marginax.tables.findings import find, raise_findings
from marginax.tables.read import Source


@dataclass(frozen=True)
class Replayed:
    """Where the results of a replay lie, how they came, and the sums of every epoch."""

    path: Path
    manifest: dict[str, Any]
    epochs: pl.DataFrame

    def __repr__(self) -> str:
        return f"Replayed({self.epochs.height:,} epochs, {self.path})"

    def accounts(self) -> pl.LazyFrame:
        """The rows of every holder at every epoch, to be filtered before they are collected."""
        return pl.scan_parquet(self.path / "accounts.parquet")


@dataclass(frozen=True)
class _Kept:
    """What is known after so many epochs; one object, so that an interrupt finds it whole."""

    done: int
    live: LiveMargin
    ledger: Ledger
    epochs: tuple[pl.DataFrame, ...] = ()
    holders: tuple[pl.DataFrame, ...] = ()


@dataclass
class _Along:
    """What all epochs of a replay have in common."""

    book: Book
    bars: Bars
    live: LiveMargin
    calls: Policy
    engine: Engine | None
    on_error: OnError
    # Of the last epochs alone: what is kept does not grow with their number.
    seconds: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=1_000))
    first: float | None = None

    def __post_init__(self) -> None:
        self.moves = moves_of(self.live, self.bars.marked)
        self.keys = holder_keys(self.book)
        self._ledger: Ledger | None = None
        self._bound: Bound | None = None
        self._held = self.book

    def begin(self) -> _Kept:
        """Before the first epoch."""
        return _Kept(0, self.live, Ledger.of_nothing(self.book.holders))

    def taken_up(self, run: Unfinished) -> _Kept:
        """Where an unfinished replay stands."""
        if not run.done:
            return self.begin()
        live = resume(run.state, self.book, self.live.model)
        # The calendar is that of the whole history, of which a state keeps a window.
        history = replace(live.history, grid=self.live.history.grid)
        return _Kept(run.done, replace(live, history=history), run.ledger())

    def epoch(self, kept: _Kept, epoch: Epoch) -> _Kept:
        """One epoch on."""
        clock = [perf_counter()]
        market = moved(kept.live.market, epoch, self.moves)
        clock.append(perf_counter())
        live = replace(kept.live, book=self._book(kept.ledger)).at(market, brought=epoch.underlyings)
        clock.append(perf_counter())
        within = {"started": clock[-1]}
        ready, bound = live.ready(engine=self.engine, on_error=self.on_error, before=self._bound, clock=within)
        matched, exposures = bound.matched, bound.exposures
        passed = one_pass(ready, matched, exposures, clock=within)
        figures, settings = passed.figures, live.model.settings
        found = (figures, passed.statuses, ready.scenarios, passed.manual, settings.score, settings.calls)
        table = margins_table(matched, exposures, live.model.name, *found)
        clock.append(perf_counter())
        said = told(
            table,
            kept.ledger,
            self.calls,
            keys=self.keys,
            time=epoch.time,
            prices=len(epoch.underlyings),
            bad_debt=finite(figures.uncovered @ ready.scenarios.weights),
        )
        self._bound = bound
        ledger = kept.ledger.after(self.calls, said.equity, said.call, self.book.holder_accounts)
        clock.append(perf_counter())
        stages = {name: clock[k + 1] - clock[k] for k, name in enumerate(("market", "filters", "margins", "rows"))}
        steps = list(within.items())
        stages |= {name: late - early for (_, early), (name, late) in pairwise(steps)}
        if self.first is None:
            self.first = clock[-1] - clock[0]
        else:
            self.seconds.append({"epoch": clock[-1] - clock[0], **stages})
        return _Kept(kept.done + 1, live, ledger, (*kept.epochs, said.epoch), (*kept.holders, said.holders))

    def _book(self, ledger: Ledger) -> Book:
        """The book that a ledger leaves; made anew only where it changed."""
        before = self._ledger
        same = before is not None and (before.paid == ledger.paid).all() and (before.closed == ledger.closed).all()
        if not same:
            self._held, self._ledger = book_after(self.book, ledger, self.live.market.currency), ledger
        return self._held


def replay(
    book: Book,
    market: Market,
    bars: Source,
    model: str | Path | Config | MarginModel = "dynamic",
    *,
    out: str | Path,
    calls: Policy = "stand",
    every: int = 24,
    go_on: bool = False,
    seed: int | None = None,
    engine: Engine | None = None,
    on_error: OnError = "raise",
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Replayed:
    """Margin every account of `book` at each time of `bars`, beginning at `market`, and write what is told under `out`.

    `bars` are rows time, underlying, price: index prices in account currency; with an `instrument_id` the price is
    that instrument's mark. `calls` says what becomes of accounts that are called (`marginax.epochs.calls`). Every so
    many epochs (`every`) a checkpoint is kept, from which `go_on=True` takes up a replay that was interrupted; where
    there is none it begins. `record` goes into the manifest, `progress` is called with epochs done and in all.

    Positions without an entry price are entered at the marks of `market`, so that equity moves with prices. Raises
    BadInput for what the door and `follow` refuse, for bars that cannot be used (`read_bars`), for contracts held
    that expire before the last bar, and where `out` holds another replay; OSError where it cannot be written. A
    KeyboardInterrupt leaves a checkpoint.
    """
    if calls not in POLICIES or every < 1:
        raise ValueError(f"calls={calls!r} and every={every!r}: give one of {', '.join(POLICIES)}, and 1 or more")
    started = perf_counter()
    place = Path(out)
    chosen = load_model(model)
    _check_funding(chosen)
    live = follow(book, market, chosen, seed=seed)
    given = read_bars(bars, live, on_error=on_error)
    live = begun(replace(live, book=entered(_unexpired(book, given), market)), given.marked)
    along = _Along(live.book, given, live, calls, engine, on_error)
    with unfinished(place, begun_with(book, market, given, live, calls, engine), go_on=go_on) as run:
        kept = along.taken_up(run)
        try:
            for epoch in given.from_epoch(kept.done):
                kept = along.epoch(kept, epoch)
                stop_if_interrupted()
                if progress is not None:
                    progress(kept.done, len(given))
                if len(kept.epochs) == every or kept.done == len(given):
                    run.keep(kept.done, kept.live, kept.ledger, kept.epochs, kept.holders)
                    kept = replace(kept, epochs=(), holders=())
        except KeyboardInterrupt:
            if kept.epochs:
                run.keep(kept.done, kept.live, kept.ledger, kept.epochs, kept.holders)
            raise
        told_of = run.epochs()
        manifest = manifest_of(book, market, given, live, calls, told_of, engine)
        manifest["seconds"] = _seconds(along, perf_counter() - started)
        aside = pl.concat([table.quarantine for table in (*book.tables.values(), *market.tables.values(), given.table)])
        manifest = run.finish(place, {**manifest, **(record or {})}, aside)
    return Replayed(place, manifest, told_of)


def holder_keys(book: Book) -> pl.DataFrame:
    """account_id and instrument_id (null for an account) of every holder of a book, in order."""
    alone = book.instruments.ids[book.isolated["instrument"].to_numpy()]
    return pl.DataFrame(
        {"account_id": book.accounts[book.holder_accounts], "instrument_id": [*[None] * len(book), *alone]},
        schema={"account_id": pl.String, "instrument_id": pl.String},
    )


def _check_funding(model: MarginModel) -> None:
    """Refuse a model that counts accrued funding: from the first settlement on nobody would know what has accrued."""
    if model.settings.funding.accrued:
        what = "is true, and bars bring neither rates nor settlements of funding"
        raise BadInput([Problem("configuration", "funding.accrued", None, what, "Leave it out of a model to replay")])


def _unexpired(book: Book, bars: Bars) -> Book:
    """The book without contracts that nobody holds and that end before the last bar; raises BadInput for held ones."""
    last = bars.time(len(bars) - 1)
    table, positions = book.tables["instruments"], book.tables["positions"].rows
    ends = table.rows.filter(pl.col("expiry") <= last)
    held = positions.filter(pl.col("quantity") != 0)["instrument_id"].unique()
    due = ends.filter(pl.col("instrument_id").is_in(held.implode()))
    found = find(
        due, "instruments", pl.lit(True), "expiry",
        pl.format("'{}' is held and expires on {}, before the last bar on {}", "instrument_id",
                  pl.col("expiry").dt.to_string("%Y-%m-%d %H:%M"), pl.lit(f"{last:%Y-%m-%d %H:%M}")),
        "Settle its positions, or end the bars before",
    )  # fmt: skip
    raise_findings(found)
    if ends.is_empty():
        return book
    kept = table.rows.filter(~pl.col("instrument_id").is_in(ends["instrument_id"].implode()))
    idle = {name: book.tables[name].rows.filter(~pl.col("instrument_id").is_in(ends["instrument_id"].implode()))
            for name in ("positions", "orders")}  # fmt: skip
    tables = {**book.tables, "instruments": table.of(kept)}
    return assemble({**tables, **{name: tables[name].of(rows) for name, rows in idle.items()}}, "raise")


def _seconds(along: _Along, whole: float) -> dict[str, Any]:
    """What this process took: in all, for its first epoch (compiling), and the median of the others, by stage."""
    found: dict[str, Any] = {"total": round(whole, 6), "first_epoch": None, "an_epoch": None, "stages": {}}
    if along.first is not None:
        found["first_epoch"] = round(along.first, 6)
    if along.seconds:
        names = along.seconds[-1]
        stages = {name: round(float(np.median([each[name] for each in along.seconds])), 6) for name in names}
        found |= {"an_epoch": stages.pop("epoch"), "stages": stages}
    return found
