"""The verb: a book through a sequence of markets, a margin of every account at each of them.

    replay(book, market, "bars.parquet", "dynamic", out="october")

The time from a market event to a changed requirement is one epoch. Filters are carried forward in O(1) (`follow`), so
that an epoch costs the same however long the history was, and memory does not grow with the number of epochs. A replay
that was interrupted is resumed and gives the same files to the bit.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from marginax.book import Book, assemble
from marginax.config import Config
from marginax.engine import LiveMargin, follow, resume
from marginax.engine.figures import finite
from marginax.engine.live_file import numbers_digest
from marginax.engine.margin_book import Progress
from marginax.epochs.bars import Bars, Epoch, read_bars
from marginax.epochs.calls import POLICIES, Ledger, Policy, book_after, entered
from marginax.epochs.files import FORMAT, Unfinished, unfinished
from marginax.epochs.prices import begun, moved, moves_of
from marginax.epochs.rows import told
from marginax.interrupts import stop_if_interrupted
from marginax.market import Market
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.sections import Engine
from marginax.tables.door import OnError
from marginax.tables.findings import find, raise_findings
from marginax.tables.read import Source

PACKAGES = ("marginax", "jax", "numpy", "polars", "pyarrow")


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
    seconds: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.moves = moves_of(self.live, self.bars.marked)
        self.keys = holder_keys(self.book)
        self._ledger: Ledger | None = None
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
        result = live.margins(engine=self.engine, on_error=self.on_error)
        clock.append(perf_counter())
        said = told(result, kept.ledger, self.calls, keys=self.keys, time=epoch.time, prices=len(epoch.underlyings))
        ledger = kept.ledger.after(self.calls, said.equity, said.call)
        clock.append(perf_counter())
        stages = {name: clock[k + 1] - clock[k] for k, name in enumerate(("market", "filters", "margins", "rows"))}
        self.seconds.append({"epoch": clock[-1] - clock[0], **stages, **result.manifest["seconds"]})
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
    live = follow(book, market, chosen, seed=seed)
    given = read_bars(bars, live, on_error=on_error)
    live = begun(replace(live, book=entered(_unexpired(book, given), market)), given.marked)
    along = _Along(live.book, given, live, calls, engine, on_error)
    with unfinished(place, _begun_with(book, market, given, live, calls, engine), go_on=go_on) as run:
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
        manifest = _manifest(book, market, given, live, calls, told_of, engine)
        manifest["seconds"] = _seconds(along.seconds, perf_counter() - started)
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


def _begun_with(
    book: Book, market: Market, bars: Bars, live: LiveMargin, calls: Policy, engine: Engine | None
) -> dict[str, Any]:
    """Everything that the rows of a replay hang on."""
    model = live.model
    sections = model.settings.model_dump(
        mode="json", exclude={"run", "engine", "replay", "price_checks", "publication"}
    )
    settings = engine or model.settings.engine
    tables = {**book.tables, **market.tables, "bars": bars.table}
    return {
        "format": FORMAT,
        **{f"versions.{name}": version(name) for name in PACKAGES},
        "model": model.name,
        "numbers": numbers_digest(model),
        "seed": live.seed,
        "calls": calls,
        "as_of": market.as_of.isoformat(),
        "currency": market.currency,
        **{f"engine.{name}": getattr(settings, name) for name in ("precision", "dense_width")},
        **{f"configuration.{name}": value for name, value in sections.items()},
        **{f"inputs.{name}": sorted(table.digests.values()) for name, table in tables.items() if table.digests},
    }


def _manifest(
    book: Book,
    market: Market,
    bars: Bars,
    live: LiveMargin,
    calls: Policy,
    epochs: pl.DataFrame,
    engine: Engine | None,
) -> dict[str, Any]:
    """How the rows came, and what they come to."""
    settings = live.model.settings.model_copy(update={"engine": engine or live.model.settings.engine})
    tables = {**book.tables, **market.tables, "bars": bars.table}
    at = int(epochs["initial_margin"].arg_max() or 0)
    return {
        "format": FORMAT,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": f"{platform.system()} {platform.machine()}",
        "model": live.model.name,
        "seed": live.seed,
        "currency": market.currency,
        "calls": calls,
        "configuration": settings.model_dump(mode="json", by_alias=True, exclude={"run"}),
        "inputs": {name: table.record for name, table in tables.items() if table.digests},
        "epochs": {
            "count": len(bars),
            "begun_at": market.as_of.isoformat(),
            "first": bars.time(0).isoformat(),
            "last": bars.time(len(bars) - 1).isoformat(),
            "rows_not_later_than_the_market": bars.left_out,
            "underlyings_without_bars": list(bars.without),
        },
        "totals": {
            "initial_margin_first": finite(epochs["initial_margin"][0]),
            "initial_margin_highest": finite(epochs["initial_margin"][at]),
            "highest_at": epochs["time"][at].isoformat(),
            "initial_margin_last": finite(epochs["initial_margin"][-1]),
            "new_calls": int(epochs["new_calls"].sum()),
            "new_call": finite(float(epochs["new_call"].to_numpy().sum())),
            "largest_shortfall": finite(float(epochs["shortfall"].to_numpy().max())),
            "written_off": finite(float(epochs["written_off"].to_numpy().sum())),
        },
        "accounts_without_margin": int(epochs["without_margin"].to_numpy().max()),
    }


def _seconds(taken: Sequence[Mapping[str, float]], whole: float) -> dict[str, Any]:
    """What this process took: in all, for its first epoch (compiling), and the median of the others, by stage."""
    found: dict[str, Any] = {"total": round(whole, 6), "first_epoch": None, "an_epoch": None, "stages": {}}
    if taken:
        found["first_epoch"] = round(taken[0]["epoch"], 6)
    if len(taken) > 1:
        stages = {name: round(float(np.median([each[name] for each in taken[1:]])), 6) for name in taken[-1]}
        found |= {"an_epoch": stages.pop("epoch"), "stages": stages}
    return found
