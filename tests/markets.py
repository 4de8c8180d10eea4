"""A tiny venue for tests, as plain functions that return polars frames by table name.

Five underlyings over 260 daily bars up to `AS_OF`, ten instruments of every kind, and eight accounts that hold them.
Prices are random walks from a fixed seed; every function builds new frames, so a test may change what it likes.
"""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl

import marginax as mx

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
BARS = 260
INDEX = {"BTC": 80_000.0, "ETH": 3_000.0, "DOGE": 0.125, "USDT": 1.0, "OIL": 70.0}
BOOK = ("instruments", "positions", "balances", "accounts", "orders")
UTC_TIME = pl.Datetime("us", "UTC")


def days(bars: int = BARS, *, last: datetime = AS_OF, step: timedelta = timedelta(days=1)) -> list[datetime]:
    """Stamps of `bars` bars, the last one at `last`."""
    return [last - step * (bars - 1 - k) for k in range(bars)]


def business_days(bars: int, *, last: datetime = AS_OF) -> list[datetime]:
    """The last `bars` Mondays to Fridays up to `last`."""
    found = [day for day in days(2 * bars + 10, last=last) if day.weekday() < 5]
    return found[-bars:]


def walk(name: str, last: float, bars: int = BARS, *, volatility: float = 0.03) -> np.ndarray:
    """A price path that ends at `last`, with independent log returns; the same for the same name."""
    returns = volatility * np.random.default_rng([*name.encode()]).standard_normal(bars)
    path = np.cumsum(returns)
    return last * np.exp(path - path[-1])


def series(name: str, prices: Sequence[float] | np.ndarray, times: Sequence[datetime] | None = None) -> pl.DataFrame:
    """History rows of one underlying."""
    stamps = days(len(prices)) if times is None else list(times)
    return pl.DataFrame(
        {"time": pl.Series(stamps, dtype=UTC_TIME), "underlying": name, "price": pl.Series(prices, dtype=pl.Float64)}
    )


def history(bars: int = BARS) -> pl.DataFrame:
    """Daily prices of the five underlyings; USDT stays within a basis point or so of one."""
    sizes = {"USDT": 0.0002, "OIL": 0.02, "DOGE": 0.06}
    return pl.concat(
        [series(name, walk(name, last, bars, volatility=sizes.get(name, 0.03))) for name, last in INDEX.items()]
    )


def underlyings() -> pl.DataFrame:
    """Index prices at `AS_OF`."""
    return pl.DataFrame({"underlying": list(INDEX), "index_price": list(INDEX.values()), "time": [AS_OF] * len(INDEX)})


def instruments() -> pl.DataFrame:
    """Spot, linear and inverse perpetuals and futures."""
    rows = [
        ("BTC-SPOT", "spot", "BTC", "USD", "linear", 1.0, None),
        ("BTC-PERP", "perpetual", "BTC", "USDT", "linear", 0.001, None),
        ("BTC-INV", "perpetual", "BTC", "USD", "inverse", 100.0, None),
        ("BTC-FUT", "future", "BTC", "USDT", "linear", 0.001, datetime(2026, 3, 27, 8, tzinfo=UTC)),
        ("BTC-INV-FUT", "future", "BTC", "USD", "inverse", 100.0, datetime(2026, 3, 27, 8, tzinfo=UTC)),
        ("ETH-SPOT", "spot", "ETH", "USD", "linear", 1.0, None),
        ("ETH-PERP", "perpetual", "ETH", "USDT", "linear", 0.01, None),
        ("ETH-FUT", "future", "ETH", "USDT", "linear", 0.01, datetime(2026, 6, 26, 8, tzinfo=UTC)),
        ("DOGE-PERP", "perpetual", "DOGE", "USDT", "linear", 100.0, None),
        ("OIL-FUT", "future", "OIL", "USD", "linear", 10.0, datetime(2026, 2, 20, 18, tzinfo=UTC)),
    ]
    names = ("instrument_id", "kind", "underlying", "quote", "settlement", "multiplier", "expiry")
    return pl.DataFrame(
        rows, schema=dict(zip(names, [*[pl.String] * 5, pl.Float64, UTC_TIME], strict=True)), orient="row"
    )


def quotes() -> pl.DataFrame:
    """Marks at the index, two basis points wide."""
    listed = instruments()
    mark = listed["underlying"].replace_strict(INDEX, return_dtype=pl.Float64)
    return pl.DataFrame(
        {
            "instrument_id": listed["instrument_id"],
            "mark_price": mark,
            "bid": mark * 0.9999,
            "ask": mark * 1.0001,
            "time": pl.Series([AS_OF] * listed.height, dtype=UTC_TIME),
        }
    )


def positions() -> pl.DataFrame:
    """What the accounts hold, in signed contracts."""
    rows = [
        ("hedged", "BTC-SPOT", 1.0),
        ("hedged", "BTC-PERP", -1_000.0),
        ("inverse", "BTC-INV", 400.0),
        ("inverse", "BTC-INV-FUT", -300.0),
        ("long", "BTC-PERP", 1_000.0),
        ("mixed", "ETH-PERP", 500.0),
        ("mixed", "DOGE-PERP", -200.0),
        ("mixed", "OIL-FUT", 3.0),
        ("short", "BTC-PERP", -1_000.0),
        ("spread", "ETH-PERP", 1_000.0),
        ("spread", "ETH-FUT", -1_000.0),
    ]
    return pl.DataFrame(rows, schema=["account_id", "instrument_id", "quantity"], orient="row")


def balances() -> pl.DataFrame:
    """What the accounts own; `saver` has no positions, `debtor` owes dollars."""
    rows = [
        ("debtor", "BTC", 0.5),
        ("debtor", "USD", -10_000.0),
        ("hedged", "USD", 50_000.0),
        ("inverse", "BTC", 1.0),
        ("long", "USD", 30_000.0),
        ("mixed", "USDT", 20_000.0),
        ("saver", "ETH", 10.0),
        ("short", "USD", 30_000.0),
        ("spread", "USDT", 5_000.0),
    ]
    return pl.DataFrame(rows, schema=["account_id", "asset", "amount"], orient="row")


def tables(**changed: pl.DataFrame | None) -> dict[str, Any]:
    """Every table by name; `changed` replaces some."""
    made = {
        "instruments": instruments(),
        "positions": positions(),
        "balances": balances(),
        "quotes": quotes(),
        "underlyings": underlyings(),
        "history": history(),
    }
    return {**made, **changed}


def changed(frame: pl.DataFrame, column: str, value: Any, *, row: int = 1) -> pl.DataFrame:
    """The frame with one cell changed; rows count from 1. A column that is not there is empty elsewhere."""
    cells = frame[column].to_list() if column in frame.columns else [None] * frame.height
    cells[row - 1] = value
    dtype = frame.schema.get(column)
    return frame.with_columns(pl.Series(column, cells, dtype=dtype, strict=False))


def plus(frame: pl.DataFrame, *row: Any) -> pl.DataFrame:
    """The frame with one more row."""
    return pl.concat([frame, pl.DataFrame([row], schema=frame.schema, orient="row")])


def margin(
    given: Mapping[str, Any],
    model: Any = "expected_shortfall",
    *,
    on_error: Any = "raise",
    as_of: date | datetime | None = None,
    **options: Any,
) -> mx.Result:
    """Margins of a book and a market given as tables, or as paths to them."""
    held = {name: source for name, source in given.items() if name in BOOK}
    known = {name: source for name, source in given.items() if name not in BOOK}
    book = mx.read_book(**held, on_error=on_error)
    market = mx.read_market(**known, as_of=as_of, on_error=on_error)
    return mx.margin_book(book, market, model, on_error=on_error, **options)


def config(text: str = "", **scenarios: Any) -> mx.Config:
    """A configuration from TOML and, for short, keys of [scenarios]."""
    values = tomllib.loads(text)
    values["scenarios"] = {**values.get("scenarios", {}), **scenarios}
    return mx.Config.model_validate(values)


def row(result: mx.Result, account: str) -> dict[str, Any]:
    """The margin of one account."""
    return result.margins.row(by_predicate=pl.col("account_id") == account, named=True)


@cache
def clean() -> mx.Result:
    """Margins of the tiny venue as it is."""
    return margin(tables())


def replaced(name: str, rows: pl.DataFrame | None) -> pl.DataFrame:
    """The history with other rows for one underlying."""
    others = history().filter(pl.col("underlying") != name)
    return others if rows is None else pl.concat([others, rows])


def book_of(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """Positions: account, instrument, quantity."""
    return pl.DataFrame(rows, schema=positions().schema, orient="row")


def priced(name: str, price: float) -> dict[str, pl.DataFrame]:
    """Underlyings and quotes with another price for one underlying and all that is listed on it."""
    index = pl.when(pl.col("underlying") == name).then(price).otherwise("index_price").alias("index_price")
    on_it = instruments().filter(underlying=name)["instrument_id"]
    mark = pl.when(pl.col("instrument_id").is_in(on_it.implode())).then(price).otherwise("mark_price")
    marked = quotes().drop("bid", "ask").with_columns(mark.alias("mark_price"))
    return {"underlyings": underlyings().with_columns(index), "quotes": marked}
