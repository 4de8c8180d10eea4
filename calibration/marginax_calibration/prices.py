"""The history of a backtest as it was read: prices by underlying, and quotes of their volatility.

Prices of `forward:TENOR` are underlyings of their own, named UNDERLYING:TENOR, so that a calendar spread is a spread
like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from marginax.problems import BadInput, Problem, suggestion
from marginax.tables.door import admit
from marginax.tables.read import Source

FORWARD = "forward:"


@dataclass(frozen=True)
class Prices:
    """`rows` and `quotes` have time, underlying and value, by time; `forwards` the underlying that each stands on.

    `absolute` names underlyings whose prices may be zero or below: their moves are differences. `signals` are rows of
    that table, for models that read them.
    """

    rows: pl.DataFrame
    quotes: pl.DataFrame
    names: tuple[str, ...]
    forwards: dict[str, str]
    absolute: tuple[str, ...]
    digests: dict[str, str]
    signals: pl.DataFrame | None = None

    def until(self, last: datetime) -> "Prices":
        """What was known by a time. Raises BadInput where that is nothing."""
        rows = self.rows.filter(pl.col("time") <= last)
        if not self.rows.height:
            what, remedy = "has no rows", "Give past prices"
            raise BadInput([Problem(", ".join(self.digests), None, None, what, remedy, table="history")])
        if not rows.height:
            first = str(self.rows["time"].min())[:10]
            what = f"begins on {first}, and the data is to end on {last:%Y-%m-%d}"
            raise BadInput([Problem(", ".join(self.digests), "time", None, what, "Give a later date", table="history")])
        names = tuple(rows["underlying"].unique().sort())
        forwards = {name: of for name, of in self.forwards.items() if name in names}
        quotes = self.quotes.filter(pl.col("time") <= last)
        signals = None if self.signals is None else self.signals.filter(pl.col("time") <= last)
        return replace(self, rows=rows, quotes=quotes, names=names, forwards=forwards, signals=signals)


def read_prices(files: Source, *, absolute: Sequence[str] = (), signals: Source | None = None) -> Prices:
    """Prices in history files (time, underlying, price; factors price, implied_vol and forward:TENOR are read), and the
    table `signals`.

    Raises BadInput for what the door refuses, for names in `absolute` that are none, and for prices that have no
    logarithm.
    """
    admitted = admit(files, "history", on_error="raise")
    rows = admitted.rows.with_columns(
        pl.col("factor").fill_null("price"),
        pl.coalesce("price", "value").alias("value"),
        pl.int_range(1, pl.len() + 1).alias("row"),
    ).sort("time")
    forward = pl.col("factor").str.starts_with(FORWARD)
    own_name = pl.col("underlying") + ":" + pl.col("factor").str.strip_prefix(FORWARD)
    named = rows.filter((pl.col("factor") == "price") | forward).with_columns(
        of=pl.when(forward).then("underlying"),
        underlying=pl.when(forward).then(own_name).otherwise("underlying"),
    )
    source, names = ", ".join(admitted.digests), tuple(named["underlying"].unique().sort())
    unknown = [name for name in absolute if name not in names]
    if unknown:
        remedy = f"Correct the name; {suggestion(unknown[0], list(names))}"
        raise BadInput([Problem("--absolute", None, None, f"'{unknown[0]}' is no underlying of the history", remedy)])
    crossing = named.filter((pl.col("value") <= 0) & ~pl.col("underlying").is_in(list(absolute)))
    if crossing.height:
        first = crossing.row(0, named=True)
        what = f"the price {first['value']:g} of {first['underlying']} on {first['time']:%Y-%m-%d} has no logarithm"
        name = first["underlying"]
        remedy = f"Correct it; only where it is a true price say `--absolute {name}`: its moves are then differences"
        row = first["row"] if len(admitted.digests) == 1 else None
        raise BadInput([Problem(source, "price", row, what, remedy, table="history")])
    forwards = dict(named.filter(pl.col("of").is_not_null()).select("underlying", "of").unique().iter_rows())
    series = ("time", "underlying", "value")
    quotes = rows.filter(pl.col("factor") == "implied_vol").select(series)
    beside = None if signals is None else admit(signals, "signals", on_error="raise")
    digests = admitted.digests | ({} if beside is None else beside.digests)
    told = None if beside is None else beside.rows
    return Prices(named.select(series), quotes, names, forwards, tuple(absolute), digests, told)
