"""For the tests of the door: three good rows of every table, ways to spoil them, and files of every kind."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marginax.problems import BadInput
from marginax.tables.door import Admitted, admit
from marginax.tables.schemas import TABLES, UTC_TIME

HEADER = "account_id,asset,amount\n"
KINDS = ("csv", "parquet", "arrow")
T = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES: dict[str, dict[str, Any]] = {
    "instruments": {
        "instrument_id": ["A", "B", "C"],
        "kind": "future",
        "underlying": "BTC",
        "quote": "USD",
        "settlement": "linear",
        "settle_asset": "USD",
        "multiplier": 1.0,
        "premium": "futures_style",
        "strike": 1.0,
        "expiry": T + timedelta(days=90),
        "margin_multiplier": 1.0,
    },
    "accounts": {
        "account_id": ["a", "b", "c"],
        "currency": "USD",
        "margin_mode": "cross",
        "group": "member",
        "segregation": "client",
        "model": "expected_shortfall",
        "multiplier": 1.0,
    },
    "positions": {
        "account_id": ["a", "b", "c"],
        "instrument_id": "A",
        "quantity": 1.0,
        "entry_price": 2.0,
        "venue": "here",
        "isolated_margin": None,
    },
    "orders": {"account_id": ["a", "b", "c"], "instrument_id": "A", "quantity": 1.0, "limit_price": 2.0},
    "balances": {"account_id": ["a", "b", "c"], "asset": "USD", "amount": 1.0},
    "quotes": {
        "instrument_id": ["A", "B", "C"],
        "mark_price": 2.0,
        "bid": 1.0,
        "ask": 3.0,
        "implied_vol": 0.5,
        "time": T,
        "confidence": 0.1,
        "funding_rate": 1e-4,
        "funding_interval_hours": 8.0,
        "funding_time": T,
    },
    "underlyings": {
        "underlying": ["BTC", "ETH", "OIL"],
        "index_price": 2.0,
        "shock": "log",
        "time": T,
        "confidence": 0.1,
        "rate": 0.1,
        "adv": 1e6,
        "depth": 1e5,
        "spread_bps": 1.0,
        "open_interest": 1e6,
        "proxy": None,
        "proxy_beta": 1.0,
        "asset_class": "coin",
    },
    "forwards": {
        "underlying": ["BTC", "ETH", "OIL"],
        "expiry": T + timedelta(days=90),
        "forward": 2.0,
        "discount": 0.9,
        "time": T,
    },
    "history": {
        "time": [T, T + timedelta(days=1), T + timedelta(days=2)],
        "underlying": "BTC",
        "price": 2.0,
        "value": None,
        "factor": "price",
    },
    "signals": {"time": T, "name": ["funding", "volume", "range"], "underlying": "BTC", "value": 0.1},
    "tiers": {
        "symbol": "BTC/USDT:USDT",
        "tier": [1.0, 2.0, 3.0],
        "currency": "USDT",
        "minNotional": 0.0,
        "maxNotional": 1e6,
        "maintenanceMarginRate": 0.01,
        "maxLeverage": 50.0,
    },
    "order_book": {
        "instrument_id": "A",
        "side": ["bid", "ask", "ask"],
        "price": [2.0, 2.5, 3.0],
        "size": 1.0,
        "time": T,
    },
    "bars": {
        "time": T,
        "underlying": ["BTC", "ETH", "DOGE"],
        "instrument_id": ["A", "B", "C"],
        "price": 1.0,
    },
    "portfolios": {
        "portfolio": ["book one", "book one", "book two"],
        "kind": "spread",
        "underlying": ["BTC", "ETH", "BTC"],
        "weight": [0.5, -0.5, 1.0],
        "option": "call",
        "deviations": 1.0,
        "days": 30.0,
    },
}


def good(table: str) -> pl.DataFrame:
    """Three rows that the door admits, with every column of the table."""
    cells = {name: value if isinstance(value, list) else [value] * 3 for name, value in EXAMPLES[table].items()}
    return pl.DataFrame(cells, schema=TABLES[table].schema)


def spoiled(table: str, column: str, value: Any, *, row: int = 2) -> pl.DataFrame:
    """The good rows with one cell changed; rows count from 1. Other columns keep their types."""
    frame = good(table)
    cells = frame[column].to_list()
    cells[row - 1] = value
    return frame.with_columns(pl.Series(column, cells, dtype=frame.schema[column]))


def as_text(frame: pl.DataFrame, column: str, value: str, *, row: int = 2) -> pl.DataFrame:
    """The frame with every cell text, as it stands in a CSV file, and one of them changed."""
    text = frame.with_columns(pl.col(UTC_TIME).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).cast(pl.String)
    cells = text[column].to_list()
    cells[row - 1] = value
    return text.with_columns(pl.Series(column, cells, dtype=pl.String))


def write(frame: pl.DataFrame, folder: Path, name: str, kind: str) -> Path:
    """The frame in a file `name.kind`."""
    path = folder / f"{name}.{kind}"
    {"csv": frame.write_csv, "parquet": frame.write_parquet, "arrow": frame.write_ipc}[kind](path)
    return path


def refused(source: Any, table: str) -> BadInput:
    """The error that the door raises for a table."""
    with pytest.raises(BadInput) as caught:
        admit(source, table)
    return caught.value


def admitted(source: Any, table: str) -> Admitted:
    """The table as the door admits it: nothing set aside."""
    return admit(source, table)


def names(error: BadInput, file: Any, column: str | None, row: int | None, *words: str) -> None:
    """The one problem of this error stands in this file, column and row, and its message says so, and these words."""
    assert error.total == 1, str(error)
    problem, message = error.problems[0], str(error)
    assert (problem.file, problem.column, problem.row) == (str(file), column, row), message
    assert message.startswith(str(file)), message
    assert column is None or f"column {column}" in message, message
    assert row is None or f"row {row}" in message, message
    assert problem.remedy, message
    assert message.count("\n") == 0, message
    for word in (problem.what, problem.remedy, *words):
        assert word in message, message


def file(folder: Path, text: str | bytes, name: str = "balances.csv") -> Path:
    """A file of these bytes."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def cells(source: Any) -> list[tuple[Any, ...]]:
    """The three columns of balances, as admitted."""
    return admitted(source, "balances").rows.select("account_id", "asset", "amount").rows()


def balances(**columns: Any) -> pl.DataFrame:
    """Two balances, with some columns changed."""
    return pl.DataFrame({"account_id": ["a", "b"], "asset": ["USD", "BTC"], "amount": [1.0, -2.5], **columns})
