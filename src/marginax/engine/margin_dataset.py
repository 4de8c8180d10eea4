"""Margins of a partitioned book: the market is prepared once, partitions follow one another, memory stays that of one.

    DIR/manifest.json, options.parquet; venue, open_interest and venue_losses.parquet where the venue is told;
    checked_quotes.parquet and checked_underlyings.parquet where prices were checked
    DIR/partition=00000/margins.parquet; isolated, attribution, scores, breaches and quarantine.parquet
    where there are any

The folder appears whole. An account's margin is what `margin_book` gives it, to the bit.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import polars as pl

from marginax.book import Book, assemble, read_book
from marginax.config import Config
from marginax.data_quality import LISTED
from marginax.datasets import Dataset, Partition
from marginax.datasets.dataset import RECORD
from marginax.datasets.folder import check_ours, whole_folder
from marginax.datasets.hashing import partition_numbers
from marginax.engine.compilation import persistent_cache
from marginax.engine.figures import uncovered_loss
from marginax.engine.margin_book import Progress, Ready, agree, margined, ready_for
from marginax.engine.result import Result
from marginax.engine.tally import Tally
from marginax.exposures import expose
from marginax.interrupts import stop_if_interrupted
from marginax.market import Market
from marginax.match import match
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem
from marginax.sections import Engine
from marginax.tables.door import OnError
from marginax.tables.read import Source
from marginax.tables.results import MANIFEST, digest, write_parquet
from marginax.venue import VenueView, venue_view

FORMAT = "marginax.margins/1"
_MARKET = rf"{MANIFEST}|(options|venue|open_interest|venue_losses|checked_quotes|checked_underlyings)\.parquet"
_TABLES = "margins|isolated|attribution|scores|breaches|quarantine"
_OURS = re.compile(rf"{_MARKET}|partition=\d{{5}}(/({_TABLES})\.parquet)?")


@dataclass(frozen=True)
class DatasetResult:
    """Where the margins of a dataset lie, how they came, what they come to, what the worst scenario does, and the view
    of the venue, None where none is asked for."""

    path: Path
    manifest: dict[str, Any]
    tally: Tally
    worst_moves: pl.DataFrame
    venue: VenueView | None

    def __repr__(self) -> str:
        return f"DatasetResult({self.tally.accounts:,} accounts, {self.path})"

    def margins(self) -> pl.LazyFrame:
        """The margins of all partitions, to be filtered before they are collected."""
        return pl.scan_parquet(self.path / "partition=*" / "margins.parquet", hive_partitioning=False)


def margin_dataset(
    dataset: Dataset,
    instruments: Source,
    market: Market,
    model: str | Path | Config | MarginModel = "expected_shortfall",
    *,
    out: str | Path,
    seed: int | None = None,
    engine: Engine | None = None,
    on_error: OnError = "raise",
    attribution: bool = False,
    scores: bool = False,
    record: Mapping[str, Any] | None = None,
    publish: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> DatasetResult:
    """Margin every account of a dataset, partition by partition, and write the results under `out`.

    Arguments are those of `margin_book`; `attribution` writes each position's share too, `scores` what
    `Result.scores` tells, `record` goes into the
    manifest, and so does what `publish` makes of it before anything is written: what it raises stops the run. Raises
    BadInput as `margin_book` does, and where `out` holds what no such run wrote; then nothing is written. OSError where
    it cannot be written.
    """
    persistent_cache()
    started = perf_counter()
    chosen = load_model(model)
    agree(chosen.settings.run, market)
    record_hash = digest(dataset.path / RECORD)
    with whole_folder(Path(out), _check) as folder:
        run = _Run(dataset, instruments, market, chosen, seed, engine, on_error)
        tally, ready, result, done = None, None, None, 0
        outputs: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        twice: list[str] = []
        for part in dataset.partitions:
            result = None  # one partition at a time is in memory
            told = None if progress is None else _shifted(progress, done, dataset.record.accounts)
            result, ready = run.margin(part, ready, told)
            stop_if_interrupted()
            outputs |= _write(result, folder, part.name, attribution, scores)
            tally = Tally.of(result) if tally is None else tally + Tally.of(result)
            done += part.accounts
            twice += result.manifest["data"]["balances_given_twice"]
            for name, took in result.manifest["seconds"].items():
                seconds[name] = seconds.get(name, 0) + took
        assert tally is not None
        assert result is not None
        if result.options.height:
            outputs |= _written(result.options, folder, "options.parquet")
        for name, table in result.checked_prices.items():
            outputs |= _written(table, folder, f"{name}.parquet")
        venue = None
        if tally.venue is not None:
            venue = venue_view(tally.venue, result.scenarios, market, chosen.settings.venue)
        for name, table in ({} if venue is None else venue.tables).items():
            outputs |= _written(table, folder, f"{name}.parquet")
        manifest = _manifest(result, dataset, record_hash, tally) | dict(record or {})
        manifest["venue"] = {} if venue is None else dict(venue.notes)
        manifest["data"] = {**manifest["data"], "balances_given_twice": sorted(twice)[:LISTED]}
        manifest |= {} if publish is None else publish(manifest)
        manifest["seconds"] = {**seconds, "total": perf_counter() - started}
        manifest["seconds"] = {name: round(took, 6) for name, took in manifest["seconds"].items()}
        manifest["outputs"] = outputs
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    worst = manifest["uncovered_loss"].get("worst_scenario")
    return DatasetResult(Path(out), manifest, tally, result.scenario(worst) if worst else pl.DataFrame(), venue)


@dataclass(frozen=True)
class _Run:
    """What all partitions have in common."""

    dataset: Dataset
    instruments: Source
    market: Market
    model: MarginModel
    seed: int | None
    engine: Engine | None
    on_error: OnError

    def margin(self, part: Partition, ready: Ready | None, progress: Progress | None) -> tuple[Result, Ready]:
        """The margins of a partition; the first of them makes the market ready."""
        clock = {"started": perf_counter()}
        model, settings = self.model, self.model.settings
        options = settings.options
        matched = match(self._book(part), self.market, model=model.name, options=options, on_error=self.on_error)
        if ready is None:
            seed = settings.run.seed if self.seed is None else self.seed
            ready, exposures = ready_for(model, matched, seed=seed, engine=self.engine, clock=clock)
        else:
            with jax.enable_x64(True):
                exposures = expose(matched.book, matched.market, ready.known.history, options, settings.funding)
            clock["bound"] = clock["prepared"] = perf_counter()
        return margined(ready, matched, exposures, clock=clock, by_hand=self.by_hand, progress=progress), ready

    @cached_property
    def _aside(self) -> dict[int, pl.DataFrame]:
        """Rows of accounts that `marginax partition` set aside, by the number of their partition."""
        if self.dataset.quarantine is None:
            return {}
        rows = pl.read_parquet(self.dataset.quarantine).filter(pl.col("account_id").is_not_null())
        numbers = pl.Series("partition", partition_numbers(rows["account_id"], len(self.dataset)))
        return {
            int(number): part.drop("partition") for (number,), part in rows.with_columns(numbers).group_by("partition")
        }

    @cached_property
    def by_hand(self) -> bool:
        """Whether any partition names a multiplier: all of them have the same parts then."""
        files = [part.files["accounts"] for part in self.dataset.partitions if "accounts" in part.files]
        return any(pl.read_parquet(file, columns=["multiplier"])["multiplier"].is_not_null().any() for file in files)

    def _book(self, part: Partition) -> Book:
        """The book of a partition; rows of its accounts that `marginax partition` set aside are set aside here too."""
        book = read_book(instruments=self.instruments, **part.files, on_error=self.on_error)
        for kind, file in part.files.items():
            if list(book.tables[kind].digests.values()) != [part.hashes[file]]:
                what, remedy = "is not the file that was partitioned", "Partition again, and not while a run reads it"
                raise BadInput([Problem(str(file), None, None, what, remedy)])
        mine = self._aside.get(self.dataset.partitions.index(part))
        if mine is None:
            return book
        tables = dict(book.tables)
        for name, rows in mine.group_by("table"):
            table = tables[str(name[0])]
            tables[table.name] = replace(
                table, quarantine=pl.concat([table.quarantine, rows.select(table.quarantine.columns)])
            )
        return assemble(tables, self.on_error)


def _check(folder: Path) -> None:
    """Raise BadInput where a folder holds anything but the results of an earlier run like this one."""
    check_ours(folder, _OURS, record=MANIFEST, format=FORMAT, maker="a margin of a dataset")


def _write(result: Result, folder: Path, name: str, attribution: bool, scores: bool) -> dict[str, Any]:
    (folder / name).mkdir()
    outputs = _written(result.margins, folder, f"{name}/margins.parquet")
    if result.isolated.height:
        outputs |= _written(result.isolated, folder, f"{name}/isolated.parquet")
    if result.quarantine.height:
        outputs |= _written(result.quarantine, folder, f"{name}/quarantine.parquet")
    if result.breaches is not None:
        outputs |= _written(result.breaches, folder, f"{name}/breaches.parquet")
    if attribution:
        outputs |= _written(result.attribution(), folder, f"{name}/attribution.parquet")
    if scores:
        outputs |= _written(result.scores(), folder, f"{name}/scores.parquet")
    return outputs


def _written(table: pl.DataFrame, folder: Path, file: str) -> dict[str, Any]:
    write_parquet(table, folder / file)
    return {file: {"rows": table.height, "sha256": digest(folder / file)}}


def _manifest(last: Result, dataset: Dataset, record_hash: str, tally: Tally) -> dict[str, Any]:
    """What holds for the market is in every partition's manifest; what holds for the book is added up."""
    book = ("positions", "balances", "accounts", "orders")
    inputs = {name: each for name, each in last.manifest["inputs"].items() if name not in book}
    tail = last.manifest["configuration"]["risk"]["tail"]
    return {
        "format": FORMAT,
        **last.manifest,
        "inputs": inputs
        | {"dataset": {"sha256": {str(dataset.path / RECORD): record_hash}, "partitions": len(dataset)}},
        "accounts": {"total": tally.accounts, "by_status": dict(tally.by_status), "by_band": dict(tally.by_band)},
        "isolated": tally.isolated,
        "manual": dict(tally.manual),
        "totals": dict(tally.totals),
        "limits": dict(tally.limits),
        "uncovered_loss": uncovered_loss(tally.uncovered, last.scenarios, tail=tail),
    }


def _shifted(progress: Progress, done: int, total: int) -> Progress:
    """Progress over all partitions from that of one, which counts isolated positions too."""
    return lambda some, _: progress(min(done + some, total), total)
