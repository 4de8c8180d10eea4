"""Markets on the way from one run's to another's: as time alone made it, and with new prices in old quality.

Quality is what is there and how late: cells and rows that one market has and the other lacks, confidences, and how far
a stamp lies behind the newest of its table. The age of the newest is time's, and so is that of all where none is new.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl

from marginax.funding import rescheduled
from marginax.market import Market
from marginax.tables.door import Admitted
from marginax.tables.findings import FILE
from marginax.tables.schemas import TABLES

# Tables of prices now, by what names a row; the history's rows are never changed.
KEYS = {"quotes": ["instrument_id"], "underlyings": ["underlying"], "forwards": ["underlying", "expiry"]}
SERIES = ["underlying", "factor"]
OLD = " of the old market"


@dataclass(frozen=True)
class Side:
    """A market and the instruments that were listed in it."""

    market: Market
    instruments: Admitted

    def same_as(self, other: "Side") -> bool:
        """Whether margins in the one are margins in the other: time, instruments and every row the same."""
        tables = [(self.instruments, other.instruments)]
        tables += [(self.market.tables[name], other.market.tables[name]) for name in (*KEYS, "history", "signals")]
        return self.market.as_of == other.market.as_of and all(same_rows(*each) for each in tables)

    @property
    def listed(self) -> dict[str, pl.Series]:
        """What the table of each name may speak of: instruments, their underlyings, expiries of their options."""
        rows = self.instruments.rows
        names = pl.concat([rows["underlying"], rows["quote"], rows["settle_asset"].drop_nulls()]).unique()
        due = rows.filter(pl.col("expiry").is_not_null()).select(pl.struct("underlying", "expiry")).to_series()
        return {"quotes": rows["instrument_id"], "underlyings": names, "forwards": due}


def same_rows(one: Admitted, other: Admitted) -> bool:
    """Whether two tables say the same, row by row, wherever it was written."""
    if one is other:
        return True
    names = TABLES[one.name].names
    return one.rows.select(names).equals(other.rows.select(names))


def as_time_alone(old: Side, new: Side) -> Market:
    """The old market at the new time, its tables as a whole as old as the new ones are."""
    tables = dict(old.market.tables)
    for name in KEYS:
        moved = _newest(new.market, name, _newest(old.market, name))
        tables[name] = tables[name].of(_as_late(tables[name].rows, "time", _newest(old.market, name), moved))
    tables["quotes"] = tables["quotes"].of(_rescheduled(tables["quotes"].rows, old, new))
    past = tables["history"].rows.filter(pl.col("time") <= new.market.as_of)
    tables["history"] = tables["history"].of(past)
    return replace(old.market, as_of=new.market.as_of, tables=tables)


def in_old_quality(old: Side, new: Side) -> Market:
    """The new market with the gaps, confidences and lags of the old one, and without gaps of its own."""
    tables = {name: _with_old_gaps(name, old, new) for name in KEYS}
    return replace(new.market, tables={**new.market.tables, **tables, "history": _whole_history(old, new)})


def _newest(market: Market, table: str, otherwise: datetime | None = None) -> datetime | None:
    newest = market.tables[table].rows["time"].max()
    return newest if isinstance(newest, datetime) else otherwise


def _as_late(rows: pl.DataFrame, column: str, newest: datetime | None, now: datetime | None) -> pl.DataFrame:
    """Stamps as far behind `now` as they were behind the newest."""
    if newest is None or now is None or newest == now:
        return rows
    return rows.with_columns(pl.col(column) + pl.lit(now - newest))


def _rescheduled(quotes: pl.DataFrame, old: Side, new: Side) -> pl.DataFrame:
    """Old quotes whose funding settles as long after the new time as it did after the old one."""
    return rescheduled(quotes, new.market.as_of - old.market.as_of)


def _with_old_gaps(name: str, old: Side, new: Side) -> Admitted:
    table, key = new.market.tables[name], KEYS[name]
    was = old.market.tables[name].rows
    newest = _newest(old.market, name)
    was = _as_late(was, "time", newest, _newest(new.market, name, newest))
    was = _rescheduled(was, old, new) if name == "quotes" else was
    columns = [column.name for column in TABLES[name].columns if not column.required and column.dtype != pl.String()]
    both = table.rows.join(
        was.select(*key, *columns, pl.lit(True).alias(OLD)), on=key, how="left", suffix=OLD, maintain_order="left"
    )
    stays = pl.col(OLD).is_null()
    if name != "underlyings":  # a new underlying is another market; a first quote of what was listed is a mended gap
        stays = stays & ~_among(name, old)
        both = both.filter(pl.col(OLD) | stays)
    now = []
    for column in columns:
        before = pl.col(column + OLD)
        kept = before if column in ("time", "confidence") else pl.coalesce(column, before)
        kept = pl.when(before.is_null()).then(None).otherwise(kept)
        now.append(pl.when(pl.col(OLD)).then(kept).otherwise(pl.col(column)).alias(column))
    rows = both.with_columns(now).select(table.rows.columns)
    lost = was.join(table.rows, on=key, how="anti", maintain_order="left").filter(_among(name, new))
    lost = lost.with_columns(pl.lit("before: ") + pl.col(FILE))  # its rows are numbered apart
    return table.of(pl.concat([rows, lost.select(rows.columns)]))


def _among(name: str, side: Side) -> pl.Expr:
    """Rows of a table that speak of something listed."""
    key = KEYS[name]
    word = pl.col(key[0]) if len(key) == 1 else pl.struct(key)
    return word.is_in(side.listed[name].implode())


def _whole_history(old: Side, new: Side) -> Admitted:
    """The new history with the rows that it lost and without those that it gained in between.

    Rows before the first of the new table left with the window, those after the last of the old one are new bars.
    """
    table = new.market.tables["history"]
    was, now = (_keyed(each.market.tables["history"].rows) for each in (old, new))
    if was.is_empty() or now.is_empty():
        return table
    key = ["time", *SERIES]
    named = pl.concat([old.market.underlyings["underlying"], old.instruments.rows["instrument_id"]]).unique()
    lost = was.join(now, on=key, how="anti", maintain_order="left").filter(
        pl.col("time") >= now["time"].min(), pl.col("time") <= new.market.as_of
    )
    first, last = was["time"].min(), was["time"].max()
    begun = ~pl.struct(SERIES).is_in(was.select(pl.struct(SERIES).unique()).to_series().implode())
    between = pl.col("time").is_between(pl.lit(first), pl.lit(last))
    gained = now.join(was, on=key, how="anti", maintain_order="left").filter(
        pl.col("underlying").is_in(named.implode()), between | begun
    )
    if lost.is_empty() and gained.is_empty():
        return table
    kept = now.join(gained, on=key, how="anti", maintain_order="left")
    lost = lost.with_columns(pl.lit("before: ") + pl.col(FILE))
    return table.of(pl.concat([kept, lost.select(kept.columns)]))


def _keyed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("factor").fill_null("price"))


def accounts_apart(one: dict[str, Admitted], other: dict[str, Admitted]) -> np.ndarray:
    """Accounts of which the tables of holdings say something else in one book than in the other."""
    apart = [pl.Series(dtype=pl.String)]
    for name in one:
        columns = TABLES[name].names
        rows = [
            book[name].rows.select(columns).with_columns(count=pl.lit(sign)) for book, sign in ((one, 1), (other, -1))
        ]
        left = pl.concat(rows).group_by(columns).agg(pl.col("count").sum()).filter(pl.col("count") != 0)
        apart.append(left["account_id"])
    return pl.concat(apart).unique().sort().to_numpy()
