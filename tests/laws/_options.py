"""Venues with options for tests: tables in short, and one venue of every kind of option with random books of it.

The venue has two coins shocked by logarithms, oil shocked by price, and a stablecoin. Options stand 12 hours, 30 and
120 days before expiry, are paid upfront, margined like futures, or settled in their coin. Marks lie beside the formula.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import marginax as mx
from laws import _books
from laws._books import NOW, Tables, account_name, contract, scenario_set
from marginax.config import parse_config
from marginax.sections import Engine
from marginax.tables.schemas import TABLES
from reference import margin as reference
from reference import options as twin
from reference.samples import rounding

Row = Mapping[str, Any]
Amounts = Mapping[str, float | tuple[float, float]]


def frame(table: str, rows: Sequence[Row]) -> pl.DataFrame:
    """A table with every column that it may have, from rows that name what they know."""
    schema = TABLES[table].schema
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema, orient="row")


def option(name: str, kind: str, underlying: str, strike: float, days: float, **terms: Any) -> dict[str, Any]:
    """One option on one coin, `days` before expiry: paid upfront in USD unless `terms` says otherwise."""
    usual = {"strike": strike, "expiry": NOW + timedelta(days=days)}
    return contract(name, kind, underlying, **{**usual, **terms})


def steady(names: Sequence[str], volatilities: Sequence[str] = (), *, days: Sequence[datetime] = ()) -> list[Row]:
    """A history that lets scenarios of one's own in: prices and implied volatilities that move, and teach nothing."""
    days = days or [NOW - timedelta(days=k) for k in (2, 1, 0)]
    prices = [{"time": day, "underlying": each, "price": 1.0 + k % 2} for each in names for k, day in enumerate(days)]
    return prices + [
        {"time": day, "underlying": each, "factor": "implied_vol", "value": 0.5 + 0.1 * (k % 2)}
        for each in volatilities
        for k, day in enumerate(days)
    ]


def venue(
    contracts: Sequence[Row],
    quotes: Mapping[str, float | tuple[float, float | None]],
    prices: Mapping[str, float | Row],
    *,
    forwards: Sequence[Row] = (),
    history: Sequence[Row] | None = None,
) -> Tables:
    """The tables of a venue. `quotes` are marks, or marks and implied volatilities; `prices` indices, or whole rows."""
    marked = {name: quote if isinstance(quote, tuple) else (quote, None) for name, quote in quotes.items()}
    known = {name: price if isinstance(price, Mapping) else {"index_price": price} for name, price in prices.items()}
    optioned = sorted({row["underlying"] for row in contracts if row["kind"] in reference.OPTIONS})
    rows = steady(list(known), optioned) if history is None else history
    return {
        "instruments": frame("instruments", contracts),
        "quotes": frame(
            "quotes",
            [
                {"instrument_id": name, "mark_price": mark, "implied_vol": volatility, "time": NOW}
                for name, (mark, volatility) in marked.items()
            ],
        ),
        "underlyings": frame("underlyings", [{"underlying": name, **row} for name, row in known.items()]),
        "forwards": frame("forwards", forwards),
        "history": frame("history", rows),
    }


def holding(
    tables: Tables, accounts: Mapping[str, Amounts], money: Mapping[str, Mapping[str, float]] | None = None
) -> Tables:
    """The venue with these accounts: contracts (or contracts and entry prices) by instrument, and money by asset."""
    held = []
    for account, amounts in accounts.items():
        for name, amount in amounts.items():
            quantity, entry = amount if isinstance(amount, tuple) else (amount, None)
            row = {"account_id": account, "instrument_id": name, "quantity": quantity, "entry_price": entry}
            held.append(row)
    owned = [
        {"account_id": account, "asset": asset, "amount": amount}
        for account, amounts in (money or {}).items()
        for asset, amount in amounts.items()
    ]
    return {**tables, "positions": frame("positions", held), "balances": frame("balances", owned)}


def market(tables: Tables, **options: Any) -> mx.Market:
    """The market in these tables."""
    names = ("quotes", "underlyings", "history", "forwards")
    return mx.read_market(**{name: tables[name] for name in names}, **options)


def given(scenarios: mx.ScenarioSet, *, tail: float = 0.5, horizon: float = 1e-12, **sections: Any) -> Any:
    """The plain model on scenarios of one's own; unless said otherwise no time passes and the worse half counts."""
    usual = {"risk": {"tail": tail, "horizon_days": horizon}, "scenarios": {"least_bars": 2}}
    return mx.load_model(parse_config({**usual, **sections}, "test")).with_scenarios(scenarios)  # type: ignore[attr-defined]


def result(
    tables: Tables, by: Any, *, precision: Any = "float64", on_error: Any = "raise", **options: Any
) -> mx.Result:
    """What margin_book says of a book."""
    held = mx.read_book(**{name: tables[name] for name in ("instruments", "positions", "balances")}, on_error=on_error)
    known = market(tables, on_error=on_error)
    return mx.margin_book(held, known, by, engine=Engine(precision=precision), on_error=on_error, **options)


def rows(answer: mx.Result) -> dict[str, dict[str, Any]]:
    """The margins by account."""
    return {row["account_id"]: row for row in answer.margins.iter_rows(named=True)}


# --- A venue of every kind of option ---------------------------------------------------------------------------------

STYLE = {"premium": "futures_style"}
COIN = {"settlement": "inverse"}
CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    contract("BTC-COIN", "perpetual", "BTC", settlement="inverse", multiplier=128.0),
    contract("BTC-30", "future", "BTC", expiry=NOW + timedelta(days=30)),
    option("BTC-30-C", "call", "BTC", 1024.0, 30),
    option("BTC-30-P", "put", "BTC", 896.0, 30, premium="upfront"),
    option("BTC-120-USDT-C", "call", "BTC", 1152.0, 120, quote="USDT", multiplier=0.125),
    option("BTC-30-F-P", "put", "BTC", 1024.0, 30, **STYLE),
    option("BTC-120-F-C", "call", "BTC", 960.0, 120, quote="USDT", **STYLE),
    option("BTC-30-B-C", "call", "BTC", 1088.0, 30, **COIN),
    option("BTC-120-B-P", "put", "BTC", 1024.0, 120, **COIN),
    option("BTC-120-BF-C", "call", "BTC", 1024.0, 120, **COIN, **STYLE),
    option("BTC-0-C", "call", "BTC", 1008.0, 0.5),
    option("BTC-0-B-P", "put", "BTC", 1040.0, 0.5, **COIN),
    option("ETH-120-P", "put", "ETH", 32.0, 120, settle_asset="USDT", multiplier=8.0),
    option("OIL-30-C", "call", "OIL", 60.0, 30, multiplier=16.0),
    option("OIL-30-F-P", "put", "OIL", -8.0, 30, multiplier=16.0, **STYLE),
)  # fmt: skip
INSTRUMENTS = tuple(row["instrument_id"] for row in CONTRACTS)
PRICES = {"BTC": 1024.0, "ETH": 32.0, "OIL": 64.0, "USDT": 0.9921875}
ASSETS = ("USD", "BTC", "ETH", "USDT")
FORWARDS = [
    {"underlying": name, "expiry": NOW + timedelta(days=days), "forward": forward, "discount": discount}
    for name, days, forward, discount in (
        ("BTC", 0.5, 1025.0, 0.9999),
        ("BTC", 30, 1032.0, 0.9961),
        ("BTC", 120, 1056.0, 0.984375),
        ("ETH", 120, 32.5, 0.984375),
        ("OIL", 30, 62.0, 0.99609375),
    )
]
VOLATILITIES = dict(
    zip(INSTRUMENTS[3:], (0.7, 0.8, 0.65, 0.75, 0.6, 0.72, 0.66, 0.64, 0.9, 0.95, 0.8, 60.0, 150.0), strict=True)
)
HORIZON = 1.0
CONVENTIONS = twin.Conventions(as_of=NOW, days=HORIZON)
TAIL, COUNT = 0.05, 40


@cache
def every_option() -> Tables:
    """The venue's own tables, without a book. Marks are the formula's in binary fractions, a little off."""
    known = {row["instrument_id"]: row for row in CONTRACTS}
    prices = {**PRICES, "USD": 1.0}
    bare = {"forwards": frame("forwards", FORWARDS)}
    quotes = frame("quotes", [{"instrument_id": name, "implied_vol": vol} for name, vol in VOLATILITIES.items()])
    terms = [known[name] for name in VOLATILITIES]
    priced = reference.stated(terms, {**bare, "quotes": quotes}, prices)
    marks: dict[str, Any] = {"BTC-SPOT": 1024.0, "BTC-COIN": 1023.5, "BTC-30": 1032.0}
    for k, (name, volatility) in enumerate(VOLATILITIES.items()):
        model = twin.model_price(known[name], priced[name], CONVENTIONS, normal=known[name]["underlying"] == "OIL")
        ticks = 4096.0 if twin.in_coins(known[name]) else 16.0
        marks[name] = ((np.round(model * ticks) + k % 3) / ticks, volatility)
    oil = {"index_price": PRICES["OIL"], "shock": "absolute"}
    return venue(CONTRACTS, marks, {**PRICES, "OIL": oil}, forwards=FORWARDS)


@cache
def moves() -> mx.ScenarioSet:
    """Forty heavy-tailed scenarios of prices, volatilities and bases, two of them without mass."""
    rng = np.random.default_rng(11)
    bases = ("basis:BTC-30", *(f"basis:{name}:{NOW + timedelta(days=days):%Y-%m-%dT%H:%M}" for name, days in
             (("BTC", 0.5), ("BTC", 120), ("ETH", 120), ("OIL", 30))))  # fmt: skip
    sizes = {**{"BTC": 0.06, "ETH": 0.08, "OIL": 3.0, "USDT": 0.004}, "basis:BTC-COIN": 0.004,
             **dict.fromkeys(bases, 0.01), **dict.fromkeys(("implied_vol:BTC", "implied_vol:ETH", "implied_vol:OIL"), 0.1)}  # fmt: skip  # noqa: E501
    shocks = np.clip(rng.standard_t(3, (COUNT, len(sizes))), -8, 8) * np.array(list(sizes.values()))
    counts = np.resize([1, 7, 4, 2, 6], COUNT)
    counts[[8, 22]] = 0
    return scenario_set(tuple(sizes), shocks, counts / counts.sum())


@cache
def model() -> Any:
    """The plain model on these scenarios over one day. One object, so that every shape is compiled once."""
    return given(moves(), tail=TAIL, horizon=HORIZON)


def margins(tables: Tables, *, precision: str = "float32") -> pl.DataFrame:
    """The margins of a book on the venue of every option."""
    return result(tables, model(), precision=precision).margins


def by_loop(tables: Tables) -> dict[str, reference.AccountMargin]:
    """The same by the readable twin."""
    return reference.margin(tables, moves(), tail=TAIL, maintenance_ratio=0.8, conventions=CONVENTIONS)


@dataclass(frozen=True)
class Holdings(_books.Holdings):
    """Accounts (rows) and what they hold of this venue."""

    def tables(self, names: Sequence[str] | None = None) -> Tables:
        """The venue's tables with this book; zeros are no rows."""
        return {**every_option(), **self.rows(INSTRUMENTS, ASSETS, names)}

    @cached_property
    def gross(self) -> dict[str, float]:
        """By account, the sum over everything it holds of the most that it can gain or lose."""
        table = self.tables()
        terms = {row["instrument_id"]: row for row in CONTRACTS}
        marks = dict(table["quotes"].select("instrument_id", "mark_price").iter_rows())
        total = dict.fromkeys((account_name(k) for k in range(self.accounts)), 0.0)
        for row in table["positions"].iter_rows(named=True):
            name = row["instrument_id"]
            gain = reference.unrealised(row, terms[name], marks[name])
            total[row["account_id"]] += abs(row["quantity"]) * reach()[name]
            total[row["account_id"]] += abs(gain) * reach()[reference.settlement_asset(terms[name])]
        for row in table["balances"].iter_rows(named=True):
            total[row["account_id"]] += abs(row["amount"]) * reach()[row["asset"]]
        return total


@cache
def reach() -> dict[str, float]:
    """The most that one contract, or one unit of an asset, can gain or lose in any scenario."""
    alone = by_loop(
        holding(every_option(), {name: {name: 1.0} for name in INSTRUMENTS}, {name: {name: 1.0} for name in ASSETS})
    )
    return {name: float(np.abs(margin.joint_losses).max()) for name, margin in alone.items()}


def allowed(gross: float, precision: str = "float32") -> float:
    """What rounding may do to an amount of an account that can gain or lose `gross` in all: see `_books.allowed`."""
    return 3 * rounding(np.dtype(precision), COUNT + len(INSTRUMENTS) + len(ASSETS), 2 * gross)


def holdings(accounts: int = 6) -> st.SearchStrategy[Holdings]:
    """Random books in eighths of a contract and of a unit; some with entry prices."""
    eighths = st.integers(-160, 160).map(lambda number: number / 8)
    # Few cells are empty, so that nearly all accounts have one width and compile one program; the tests of single
    # contracts see the others.
    cells = {"elements": st.one_of(st.just(0.0), eighths, eighths, eighths), "fill": st.nothing()}
    ratios = {"elements": st.sampled_from([np.nan, 0.75, 0.9375, 1.0, 1.125]), "fill": st.nothing()}
    marks = every_option()["quotes"]["mark_price"].to_numpy()
    return st.builds(
        lambda quantities, entries, money: Holdings(quantities, entries * marks, 16 * money),
        arrays(np.float64, (accounts, len(INSTRUMENTS)), **cells),
        arrays(np.float64, (accounts, len(INSTRUMENTS)), **ratios),
        arrays(np.float64, (accounts, len(ASSETS)), **cells),
    )
