"""A tiny venue for the laws: eight contracts on two coins, four assets, forty scenarios, and random books of it.

Quantities, marks, prices and multipliers are short binary fractions, so that every sum of them is exact in float64 and
a law that only regroups them holds to the last bit. `tables` are frames as a user writes them; all times are `NOW`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

import numpy as np
import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import marginax as mx
from marginax.config import Config
from marginax.sections import Collateral, Engine, Risk, Scenarios
from reference import margin as reference
from reference.samples import rounding

NOW = datetime(2026, 1, 31, tzinfo=UTC)
TAIL = 0.05
HAIRCUTS = {"BTC": 0.125, "ETH": 0.25, "USDT": 0.015625}

SCHEMAS: dict[str, dict[str, Any]] = {
    "instruments": {
        **dict.fromkeys(("instrument_id", "kind", "underlying", "quote", "settlement", "settle_asset"), pl.String),
        **{"multiplier": pl.Float64, "expiry": pl.Datetime("us", "UTC")},
    },
    "quotes": {"instrument_id": pl.String, "mark_price": pl.Float64, "time": pl.Datetime("us", "UTC")},
    "underlyings": {
        **{"underlying": pl.String, "index_price": pl.Float64, "shock": pl.String},
        **{"proxy": pl.String, "proxy_beta": pl.Float64},
    },
    "history": {
        **{"time": pl.Datetime("us", "UTC"), "underlying": pl.String, "factor": pl.String},
        **{"price": pl.Float64, "value": pl.Float64},
    },
    "positions": {
        **{"account_id": pl.String, "instrument_id": pl.String, "quantity": pl.Float64, "entry_price": pl.Float64}
    },
    "balances": {"account_id": pl.String, "asset": pl.String, "amount": pl.Float64},
}

Row = Mapping[str, Any]
Tables = dict[str, pl.DataFrame]


def frame(table: str, rows: Sequence[Row]) -> pl.DataFrame:
    """A table from rows that name what they know; the rest is null."""
    schema = SCHEMAS[table]
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema, orient="row")


def contract(name: str, kind: str, underlying: str, **terms: Any) -> dict[str, Any]:
    """One instrument: linear in USD, a coin a contract, unless `terms` says otherwise."""
    usual = {"quote": "USD", "settlement": "linear", "multiplier": 1.0}
    return {"instrument_id": name, "kind": kind, "underlying": underlying, **usual, **terms}


def steady(names: Sequence[str], *, bars: int = 3, last: datetime = NOW) -> list[dict[str, Any]]:
    """A history that lets scenarios of one's own in: daily prices that move, with nothing to learn from them."""
    days = [last - timedelta(days=k) for k in range(bars - 1, -1, -1)]
    return [{"time": day, "underlying": name, "price": 1.0 + k % 2} for name in names for k, day in enumerate(days)]


def market(tables: Tables) -> mx.Market:
    """The market in these tables; without a history, one that is just long enough."""
    names = tables["underlyings"]["underlying"].to_list()
    history = tables.get("history", frame("history", steady(names)))
    return mx.read_market(quotes=tables["quotes"], underlyings=tables["underlyings"], history=history)


def book(tables: Tables) -> mx.Book:
    """The book in these tables."""
    return mx.read_book(**{name: tables[name] for name in ("instruments", "positions", "balances")})


def given(scenarios: mx.ScenarioSet, *, tail: float = TAIL, haircuts: Mapping[str, float] | None = None) -> Any:
    """The plain model on scenarios of one's own."""
    config = Config(
        risk=Risk(tail=tail), scenarios=Scenarios(least_bars=2), collateral=Collateral(haircuts=dict(haircuts or {}))
    )
    return mx.load_model(config).with_scenarios(scenarios)


def scenario_set(
    factors: Sequence[str], shocks: Any, weights: Any = None, labels: Sequence[str] | None = None
) -> mx.ScenarioSet:
    """Scenarios of equal weight with numbered labels, unless said otherwise."""
    shocks = np.asarray(shocks, float)
    count = len(shocks)
    weights = np.full(count, 1 / count) if weights is None else np.asarray(weights, float)
    return mx.ScenarioSet(tuple(factors), shocks, weights, tuple(labels or (f"scenario {k}" for k in range(count))))


CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    contract("BTC-PERP", "perpetual", "BTC", quote="USDT", multiplier=0.125),
    contract("BTC-COIN", "perpetual", "BTC", settlement="inverse", multiplier=128.0),
    contract("BTC-MAR", "future", "BTC", expiry=datetime(2026, 3, 27, tzinfo=UTC)),
    contract("ETH-SPOT", "spot", "ETH", quote="USDT"),
    contract("ETH-PERP", "perpetual", "ETH", settle_asset="USDT"),
    contract("ETH-COIN", "perpetual", "ETH", settlement="inverse", multiplier=8.0),
    contract("ETH-MAR", "future", "ETH", settlement="inverse", multiplier=8.0,
             expiry=datetime(2026, 3, 27, tzinfo=UTC)),
)  # fmt: skip
INSTRUMENTS = tuple(row["instrument_id"] for row in CONTRACTS)
MARKS = (1024.0, 1026.0, 1023.5, 1040.0, 32.0, 32.125, 31.875, 32.5)
PRICES = {"BTC": 1024.0, "ETH": 32.0, "USDT": 0.9921875}
ASSETS = ("USD", *PRICES)
COUNT = 40


@cache
def venue() -> Tables:
    """The venue's own tables, without a book."""
    marks = [
        {"instrument_id": name, "mark_price": mark, "time": NOW} for name, mark in zip(INSTRUMENTS, MARKS, strict=True)
    ]
    return {
        "instruments": frame("instruments", CONTRACTS),
        "quotes": frame("quotes", marks),
        "underlyings": frame("underlyings", [{"underlying": name, "index_price": PRICES[name]} for name in PRICES]),
    }


@cache
def scenarios() -> mx.ScenarioSet:
    """Forty heavy-tailed scenarios of every factor, two of them without mass.

    Weights are whole numbers over their sum, 1/160 apart, so that no rounding decides which scenario is on the edge.
    """
    rng = np.random.default_rng(5)
    names = (*PRICES, *(f"basis:{row['instrument_id']}" for row in CONTRACTS if row["kind"] != "spot"))
    size = np.array([0.06, 0.08, 0.002, *[0.004] * (len(names) - 3)])
    shocks = np.clip(rng.standard_t(3, (COUNT, len(names))), -8, 8) * size
    counts = np.resize([1, 7, 4, 2, 6], COUNT)
    counts[[8, 22]] = 0
    return scenario_set(names, shocks, counts / counts.sum())


@cache
def model() -> Any:
    """The plain model on the venue's scenarios, with haircuts. One object, so that every shape is compiled once."""
    return given(scenarios(), haircuts=HAIRCUTS)


@cache
def venue_market() -> mx.Market:
    """The venue's market."""
    return market(venue())


def margins(tables: Tables, *, precision: str = "float32", **changed: Any) -> pl.DataFrame:
    """The margins of a book on the venue."""
    return result(tables, precision=precision, **changed).margins


def result(tables: Tables, *, precision: str = "float32", at: mx.Market | None = None, by: Any = None) -> mx.Result:
    """What margin_book says of a book on the venue."""
    settings = Engine(precision="float64" if precision == "float64" else "float32")
    return mx.margin_book(book(tables), at or venue_market(), by or model(), engine=settings)


# A pass costs 50 to 100 ms of tables and checks, whatever the book: ten books of six accounts are sixty examples.
few = settings(max_examples=10)
PARTS = ("core", "collateral", "haircut", "floor")
MONEY = ("initial_margin", "maintenance_margin", "var", "expected_shortfall", *PARTS)
BOTH = ("float32", "float64")


def by_account(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of a table by account."""
    return {row["account_id"]: row for row in table.iter_rows(named=True)}


@dataclass(frozen=True)
class Holdings:
    """What accounts (rows) hold: contracts and entry prices (NaN: none) by instrument, and money by asset."""

    quantities: np.ndarray
    entries: np.ndarray
    money: np.ndarray

    def __repr__(self) -> str:
        return f"Holdings(\n{self.quantities.tolist()},\n{self.entries.tolist()},\n{self.money.tolist()})"

    @property
    def accounts(self) -> int:
        """How many accounts."""
        return len(self.quantities)

    def without_entries(self) -> "Holdings":
        """The same at today's marks: no P&L is waiting to be booked."""
        return replace(self, entries=np.full(self.entries.shape, np.nan))

    def pick(self, accounts: Sequence[int]) -> "Holdings":
        """Some of the accounts."""
        rows = list(accounts)
        return Holdings(self.quantities[rows], self.entries[rows], self.money[rows])

    def tables(self, names: Sequence[str] | None = None) -> Tables:
        """The venue's tables with this book; zeros are no rows."""
        return {**venue(), **self.rows(INSTRUMENTS, ASSETS, names)}

    def rows(self, instruments: Sequence[str], assets: Sequence[str], names: Sequence[str] | None) -> Tables:
        """Positions and balances of this book, in a venue's instruments and assets."""
        names = [account_name(k) for k in range(self.accounts)] if names is None else names
        held = [
            {"account_id": names[a], "instrument_id": instruments[i], "quantity": self.quantities[a, i],
             "entry_price": None if np.isnan(self.entries[a, i]) else self.entries[a, i]}
            for a, i in np.argwhere(self.quantities != 0)
        ]  # fmt: skip
        owned = [
            {"account_id": names[a], "asset": assets[k], "amount": self.money[a, k]}
            for a, k in np.argwhere(self.money != 0)
        ]
        return {"positions": frame("positions", held), "balances": frame("balances", owned)}

    @cached_property
    def gross(self) -> dict[str, float]:
        """By account, the sum over everything it holds of the most that it can gain or lose."""
        rows = self.tables()
        terms = {row["instrument_id"]: row for row in CONTRACTS}
        marks = dict(zip(INSTRUMENTS, MARKS, strict=True))
        total = dict.fromkeys((account_name(k) for k in range(self.accounts)), 0.0)
        for row in rows["positions"].iter_rows(named=True):
            name = row["instrument_id"]
            gain = reference.unrealised(row, terms[name], marks[name])
            total[row["account_id"]] += abs(row["quantity"]) * reach()[name]
            total[row["account_id"]] += abs(gain) * reach()[reference.settlement_asset(terms[name])]
        for row in rows["balances"].iter_rows(named=True):
            total[row["account_id"]] += abs(row["amount"]) * reach()[row["asset"]]
        return total


def account_name(number: int) -> str:
    """The id of an account; ids sort as numbers do."""
    return f"account {number:03d}"


@cache
def reach() -> dict[str, float]:
    """The most that one contract, or one unit of an asset, can gain or lose in any scenario."""
    held = [{"account_id": name, "instrument_id": name, "quantity": 1.0} for name in INSTRUMENTS]
    owned = [{"account_id": name, "asset": name, "amount": 1.0} for name in ASSETS]
    tables = {**venue(), "positions": frame("positions", held), "balances": frame("balances", owned)}
    alone = reference.margin(tables, scenarios(), tail=TAIL, maintenance_ratio=1.0)
    return {name: float(np.abs(margin.joint_losses).max()) for name, margin in alone.items()}


def allowed(gross: float, precision: str = "float32") -> float:
    """What rounding may do to an amount of an account that can gain or lose `gross` in all.

    A loss is a sum over at most 8 contracts and 4 assets; expected shortfall is one over the scenarios of excesses that
    are at most twice the largest loss, and it moves by no more than the losses do. Three sums make a requirement.
    """
    return 3 * rounding(np.dtype(precision), COUNT + len(INSTRUMENTS) + len(ASSETS), 2 * gross)


def holdings(accounts: int = 6) -> st.SearchStrategy[Holdings]:
    """Random books in eighths of a contract and of a unit, half of them empty cells; some with entry prices."""
    eighths = st.integers(-160, 160).map(lambda number: number / 8)
    cells = {"elements": st.one_of(st.just(0.0), eighths), "fill": st.nothing()}
    ratios = {"elements": st.sampled_from([np.nan, 0.75, 0.9375, 1.0, 1.125]), "fill": st.nothing()}
    return st.builds(
        lambda quantities, entries, money: Holdings(quantities, entries * np.array(MARKS), 16 * money),
        arrays(np.float64, (accounts, len(INSTRUMENTS)), **cells),
        arrays(np.float64, (accounts, len(INSTRUMENTS)), **ratios),
        arrays(np.float64, (accounts, len(ASSETS)), **cells),
    )
