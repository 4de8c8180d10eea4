"""The market: prices now, and how each underlying is shocked.

Index prices are in the account currency; marks are in each instrument's own quote currency.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from marginax.problems import BadInput, Problem
from marginax.sections import Run
from marginax.tables.door import Admitted, OnError, absent, admit
from marginax.tables.findings import find, together
from marginax.tables.read import Source

# Implied volatilities above 1,000 % a year are another unit (per cent) more often than a price.
LARGEST_VOLATILITY = 10.0


# For a market whose past is known already.
NO_HISTORY = pl.DataFrame(schema={"time": pl.Datetime("us", "UTC"), "underlying": pl.String, "price": pl.Float64})


@dataclass(frozen=True)
class Fallback:
    """A price of `table` (quotes, underlyings) that was refused for the last good one, and both of them in words."""

    table: str
    name: str
    kept: float
    refused: float
    reason: str


@dataclass(frozen=True)
class Market:
    """Quotes, underlyings and history, checked among themselves, as they were known at `as_of` (UTC).

    `fallbacks` are the prices that `check_prices` replaced; None where it was not asked.
    """

    as_of: datetime
    currency: str
    tables: dict[str, Admitted]
    after_as_of: int
    fallbacks: tuple[Fallback, ...] | None = None

    def __repr__(self) -> str:
        return f"Market({self.underlyings.height:,} underlyings as of {self.as_of:%Y-%m-%d %H:%M} in {self.currency})"

    @property
    def underlyings(self) -> pl.DataFrame:
        """The rows of the table `underlyings`; the shock is filled in (log unless said otherwise)."""
        return self.tables["underlyings"].rows.with_columns(pl.col("shock").fill_null("log"))

    @property
    def quotes(self) -> pl.DataFrame:
        """The rows of the table `quotes`."""
        return self.tables["quotes"].rows

    @property
    def forwards(self) -> pl.DataFrame:
        """The rows of the table `forwards`: forward prices in account currency."""
        return self.tables["forwards"].rows

    @property
    def history(self) -> pl.DataFrame:
        """time, underlying, factor, value: the history up to `as_of`, price rows and value rows alike."""
        return self.tables["history"].rows.select(
            "time",
            "underlying",
            pl.col("factor").fill_null("price"),
            pl.coalesce("price", "value").alias("value"),
        )


def read_market(
    *,
    quotes: Source,
    underlyings: Source,
    history: Source,
    forwards: Source | None = None,
    signals: Source | None = None,
    tiers: Source | None = None,
    order_book: Source | None = None,
    as_of: date | datetime | str | None = None,
    currency: str = Run().currency,
    on_error: OnError = "raise",
) -> Market:
    """The market in these tables: paths (Parquet, CSV, Arrow IPC), polars frames or Arrow tables; history may be many.

    `as_of` (a date, or a time; UTC unless it has a zone) defaults to the latest time of a quote, else of an underlying,
    else of the history; later history is left out. Raises BadInput that names file, column, row and remedy.
    """
    given = {
        "quotes": quotes,
        "underlyings": underlyings,
        "history": history,
        "forwards": forwards,
        "signals": signals,
        "tiers": tiers,
        "order_book": order_book,
    }
    tables = {
        name: absent(name) if source is None else admit(source, name, on_error=on_error)
        for name, source in given.items()
    }
    tables["underlyings"] = tables["underlyings"].set_aside(_unusable(tables["underlyings"], currency), on_error)
    moving = tables["underlyings"].rows.filter(pl.col("underlying") != currency)
    tables["underlyings"] = tables["underlyings"].of(moving)
    tables["underlyings"] = tables["underlyings"].set_aside(_lost_proxies(tables["underlyings"]), on_error)
    tables["history"] = tables["history"].set_aside(_not_positive(tables), on_error)
    tables["forwards"] = tables["forwards"].set_aside(_unusable_forwards(tables), on_error)
    now = _as_of(tables) if as_of is None else utc_time(as_of)
    past = tables["history"].rows.filter(pl.col("time") <= now)
    later = tables["history"].rows.height - past.height
    tables["history"] = tables["history"].of(past)
    return Market(as_of=now, currency=currency, tables=tables, after_as_of=later)


def _unusable(table: Admitted, currency: str) -> pl.DataFrame:
    log = pl.col("shock").fill_null("log") == "log"
    not_one = (pl.col("underlying") == currency) & (pl.col("index_price") != 1)
    return together(
        [
            find(
                table.rows, table.name, log & (pl.col("index_price") <= 0), "index_price",
                pl.format("{} was given for an underlying with log shocks", "index_price"),
                'Set its `shock` to "absolute" if its price may be zero or below',
            ),
            find(
                table.rows, table.name, not_one, "index_price",
                pl.format("{} was given for the account currency, whose price is 1", "index_price"), "Remove the row",
            ),
        ]
    )  # fmt: skip


def _not_positive(tables: dict[str, Admitted]) -> pl.DataFrame:
    log = tables["underlyings"].rows.filter(pl.col("shock").fill_null("log") == "log")["underlying"]
    factor = pl.col("factor").fill_null("price")
    price = pl.coalesce("price", "value")
    bad = (
        ((factor == "price") | factor.str.starts_with("forward:"))
        & pl.col("underlying").is_in(log.implode())
        & (price <= 0)
    )
    what = pl.format("the price {} has no logarithm", price)
    remedy = 'Remove the row, or set the `shock` of its underlying to "absolute"'
    wild = (factor == "implied_vol") & pl.col("underlying").is_in(log.implode()) & (price > LARGEST_VOLATILITY)
    rows = tables["history"].rows
    return together(
        [
            find(rows, "history", bad, "price", what, remedy),
            find(
                rows, "history", wild, "value", pl.format("the implied volatility {} was given", price),
                "Write 0.8 for 80 % a year",
            ),
        ]
    )  # fmt: skip


def _unusable_forwards(tables: dict[str, Admitted]) -> pl.DataFrame:
    table = tables["underlyings"].rows
    log = table.filter(pl.col("shock").fill_null("log") == "log")["underlying"]
    bad = pl.col("underlying").is_in(log.implode()) & (pl.col("forward") <= 0)
    what = pl.format("the forward {} was given for an underlying with log shocks", "forward")
    remedy = 'Correct it, or set the `shock` of its underlying to "absolute"'
    return find(tables["forwards"].rows, "forwards", bad, "forward", what, remedy)


def _lost_proxies(table: Admitted) -> pl.DataFrame:
    """Proxies that are no underlyings, and those that lead back to where they started."""
    names = table.rows["underlying"]
    set_aside = table.quarantine["cells"].str.json_path_match("$.underlying").str.strip_chars()
    unknown = ~pl.col("proxy").is_in(pl.concat([names, set_aside]).implode())
    follows = dict(table.rows.select("underlying", "proxy").iter_rows())
    circle = pl.col("underlying").is_in(
        pl.Series([name for name in follows if _returns(follows, name)], dtype=pl.String).implode()
    )
    return together(
        [
            find(
                table.rows, table.name, unknown, "proxy",
                pl.format("the proxy '{}' of '{}' is not an underlying", "proxy", "underlying"),
                "Add it to the table, or name another",
            ),
            find(
                table.rows, table.name, circle, "proxy",
                pl.format("the proxies of '{}' lead back to it", "underlying"), "Let one of them stand alone",
            ),
        ]
    )  # fmt: skip


def _returns(follows: dict[str, str | None], start: str) -> bool:
    """Whether the way along the proxies comes back to its start."""
    seen: set[str] = set()
    step = follows[start]
    while step is not None and step not in seen and step != start:
        seen.add(step)
        step = follows.get(step)
    return step == start


def utc_time(time: date | datetime | str) -> datetime:
    """A date, a time or its ISO spelling as a UTC time; raises BadInput for words that are none."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            what, remedy = f"'{time}' was given", "Write a UTC time such as 2026-01-31 or 2026-01-31T08:00:00Z"
            raise BadInput([Problem("as_of", None, None, what, remedy)]) from None
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _as_of(tables: dict[str, Admitted]) -> datetime:
    for name in ("quotes", "underlyings", "history"):
        latest = tables[name].rows["time"].max()
        if isinstance(latest, datetime):
            return latest.astimezone(UTC)
    remedy = "Give `time` in quotes or underlyings, or say as_of"
    what = "no table holds a time, so there is no as_of"
    file = ", ".join(tables["quotes"].digests) or "quotes"
    raise BadInput([Problem(file, "time", None, what, remedy, table="quotes")])
