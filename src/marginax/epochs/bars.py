"""The bars that a market is replayed along: prices by time, checked once at the door, cut into epochs.

A row without an instrument is the index price of its underlying, a row with one is the mark of that instrument. An
epoch is one of the distinct times, in order, whatever the order of the rows. Times are UTC, index prices in account
currency, marks in their own quote currency. What is no later than the market that is replayed from is left out and
counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.book import number
from marginax.engine import LiveMargin
from marginax.instruments import INVERSE
from marginax.problems import BadInput, Problem
from marginax.tables.door import Admitted, OnError, admit
from marginax.tables.findings import FILE, ROW, find, together
from marginax.tables.read import Source


@dataclass(frozen=True)
class Epoch:
    """What one time brings: rows of `underlyings` with their index prices, rows of `quotes` with their marks."""

    time: datetime
    underlyings: Int64[np.ndarray, " brought"]
    index: Float64[np.ndarray, " brought"]
    quotes: Int64[np.ndarray, " marked"]
    mark: Float64[np.ndarray, " marked"]


@dataclass(frozen=True)
class Bars:
    """Checked prices in order of time: of each the row in its table of the market, rows of `quotes` behind those of
    `underlyings`.

    `starts` cut them into epochs, `times` are UTC microseconds. `marked` are the rows of `quotes` that have a mark
    anywhere, `left_out` counts rows that are no later than the market, `without` names underlyings that have no price.
    """

    times: np.ndarray
    starts: Int64[np.ndarray, " epochs_and_one"]
    rows: Int64[np.ndarray, " prices"]
    prices: Float64[np.ndarray, " prices"]
    underlyings: int
    marked: Int64[np.ndarray, " marked"]
    left_out: int
    without: tuple[str, ...]
    table: Admitted

    def __len__(self) -> int:
        return len(self.times)

    def time(self, epoch: int) -> datetime:
        """The time of an epoch."""
        stamp: datetime = self.times[epoch].astype(datetime)
        return stamp.replace(tzinfo=UTC)

    def from_epoch(self, first: int) -> Iterator[Epoch]:
        """The epochs from that number on."""
        for k in range(first, len(self)):
            some = slice(self.starts[k], self.starts[k + 1])
            rows, prices = self.rows[some], self.prices[some]
            index = rows < self.underlyings
            yield Epoch(self.time(k), rows[index], prices[index], rows[~index] - self.underlyings, prices[~index])


def read_bars(source: Source, live: LiveMargin, *, on_error: OnError = "raise") -> Bars:
    """Read and check the bars of a market that is followed.

    Raises BadInput that names file, column, row and remedy: for what the door refuses, names that the market does not
    have, prices without a logarithm where shocks are logs, times that are closer than the bars of the market's
    history, and where no row is later than the market. With `on_error="quarantine"` bad rows are set aside; times
    that are too close are raised all the same.
    """
    market = live.market
    admitted = admit(source, "bars", on_error=on_error)
    admitted = admitted.set_aside(_unknown(admitted.rows, live), on_error)
    admitted = admitted.set_aside(_without_logarithm(admitted.rows, live), on_error)
    names, ids = market.underlyings["underlying"], market.quotes["instrument_id"]
    of_index = number(pl.col("underlying"), names.to_numpy())
    of_mark = number(pl.col("instrument_id"), ids.to_numpy()) + len(names)
    row = pl.when(pl.col("instrument_id").is_null()).then(of_index).otherwise(of_mark)
    later = admitted.rows.filter(pl.col("time") > market.as_of).with_columns(row=row).sort("time", "row")
    if later.is_empty():
        what = f"has no price later than {market.as_of:%Y-%m-%d %H:%M}, which is the time of the market"
        problem = Problem(_files(admitted), "time", None, what, "Give later bars, or an earlier market", table="bars")
        raise BadInput([problem])
    _check_pace(later, live)
    time = later["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    times, starts = np.unique(time, return_index=True)
    rows = later["row"].to_numpy()
    seen = np.zeros(len(names) + len(ids), bool)
    seen[rows] = True
    return Bars(
        times=times,
        starts=np.append(starts, len(time)),
        rows=rows,
        prices=later["price"].to_numpy(),
        underlyings=len(names),
        marked=np.flatnonzero(seen[len(names) :]),
        left_out=admitted.rows.height - later.height,
        without=tuple(names.filter(pl.Series(~seen[: len(names)])).to_list()),
        table=admitted.of(later.clear()),
    )


def _unknown(rows: pl.DataFrame, live: LiveMargin) -> pl.DataFrame:
    """Rows of names that the market does not have, and marks that are not of their underlying."""
    market, book = live.market, live.book
    homes = pl.DataFrame(
        {"instrument_id": book.instruments.ids, "home": book.instruments.underlying},
        schema={"instrument_id": pl.String, "home": pl.String},
    )
    of_mark = pl.col("instrument_id").is_not_null()
    quoted = pl.col("instrument_id").is_in(market.quotes["instrument_id"].implode())
    homed = rows.join(homes, on="instrument_id", how="left", maintain_order="left")
    return together(
        [
            find(
                homed, "bars", ~pl.col("underlying").is_in(market.underlyings["underlying"].implode()), "underlying",
                pl.format("'{}' is no underlying of the market", "underlying"),
                "Give it to the market with its history, or leave its bars out",
            ),
            find(
                homed, "bars", of_mark & (~quoted | pl.col("home").is_null()), "instrument_id",
                pl.format("'{}' is no instrument with a quote in the market", "instrument_id"),
                "Give it to the book and to the quotes, or leave its bars out",
            ),
            find(
                homed, "bars", of_mark & (pl.col("home") != pl.col("underlying")), "underlying",
                pl.format("'{}' is on '{}', not on '{}'", "instrument_id", "home", "underlying"),
                "Name the underlying that the table `instruments` has",
            ),
        ]
    )  # fmt: skip


def _without_logarithm(rows: pl.DataFrame, live: LiveMargin) -> pl.DataFrame:
    """Prices at or below zero where shocks are logs, marks of inverse contracts that are, and options below zero."""
    market, known = live.market, live.book.instruments
    log = market.underlyings.filter(pl.col("shock") == "log")["underlying"]
    inverse = pl.Series(known.ids[known.style == INVERSE], dtype=pl.String)
    options = pl.Series(known.ids[known.is_option], dtype=pl.String)
    is_option = pl.col("instrument_id").is_in(options.implode()).fill_null(False)
    is_inverse = pl.col("instrument_id").is_in(inverse.implode()).fill_null(False)
    has_log = pl.col("underlying").is_in(log.implode()) | is_inverse
    bad = (~is_option & has_log & (pl.col("price") <= 0)) | (is_option & (pl.col("price") < 0))
    what, remedy = pl.format("{} was given", "price"), "Correct the price, or remove the row"
    return together([find(rows, "bars", bad, "price", what, remedy)])


def _check_pace(rows: pl.DataFrame, live: LiveMargin) -> None:
    """Refuse times between which no bar of the history's calendar fits."""
    grid, last = live.history.grid, live.history.times[-1]
    first = rows.unique("time", keep="first", maintain_order=True)
    for time, file, row in first.select(pl.col("time").dt.replace_time_zone(None), FILE, ROW).iter_rows():
        now = np.datetime64(time, "us")
        if grid.bars_after(last, now) < 1:
            before = str(np.datetime_as_string(last, unit="s")).replace("T", " ")
            what = f"{time:%Y-%m-%d %H:%M:%S} is less than a bar of the market's history after {before}"
            remedy = f"Give bars as far apart as those of the history ({grid.bars_per_day:g} a trading day)"
            raise BadInput([Problem(str(file), "time", int(row), what, remedy, table="bars")])
        last = now


def _files(table: Admitted) -> str:
    return ", ".join(table.digests) or "bars"
