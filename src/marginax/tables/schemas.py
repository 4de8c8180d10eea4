"""The tables of marginax: names, types and rules of every column, as one description that the door enforces.

Times are UTC microseconds; money and prices are float64; ids are strings, without white space around them. A column is
required unless said otherwise, and a required column holds no nulls.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")
Rule = Literal["any", "positive", "not_negative"]

KINDS = ("spot", "perpetual", "future", "call", "put")
OPTIONS = ("call", "put")
SETTLEMENTS = ("linear", "inverse")
SHOCKS = ("log", "absolute")


@dataclass(frozen=True)
class Column:
    """One column: `rule` bounds a number, `choices` lists the words a text may be."""

    name: str
    dtype: pl.DataType
    required: bool = True
    rule: Rule = "any"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: its columns, and the columns that together name a row once (`key`)."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        return [column.name for column in self.columns]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name to type."""
        return {column.name: column.dtype for column in self.columns}


def _text(name: str, *choices: str, required: bool = True) -> Column:
    return Column(name, pl.String(), required=required, choices=choices)


def _number(name: str, rule: Rule = "any", *, required: bool = True) -> Column:
    return Column(name, pl.Float64(), required=required, rule=rule)


def _time(name: str, *, required: bool = True) -> Column:
    return Column(name, UTC_TIME, required=required)


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "instruments",
            (
                _text("instrument_id"),
                _text("kind", *KINDS),
                _text("underlying"),
                _text("quote"),
                _text("settlement", *SETTLEMENTS),
                _text("settle_asset", required=False),
                _number("multiplier", "positive"),
                _text("premium", "upfront", "futures_style", required=False),
                _number("strike", required=False),
                _time("expiry", required=False),
                _number("margin_multiplier", required=False),
            ),
            key=("instrument_id",),
        ),
        Table(
            "accounts",
            (
                _text("account_id"),
                _text("currency", required=False),
                _text("margin_mode", "cross", "isolated", required=False),
                _text("group", required=False),
                _text("segregation", "house", "client", required=False),
                _text("model", required=False),
                _number("multiplier", "not_negative", required=False),
            ),
            key=("account_id",),
        ),
        Table(
            "positions",
            (
                _text("account_id"),
                _text("instrument_id"),
                _number("quantity"),
                _number("entry_price", required=False),
                _text("venue", required=False),
                _number("isolated_margin", required=False),
            ),
        ),
        Table(
            "orders",
            (
                _text("account_id"),
                _text("instrument_id"),
                _number("quantity"),
                _number("limit_price", required=False),
            ),
        ),
        Table("balances", (_text("account_id"), _text("asset"), _number("amount"))),
        Table(
            "quotes",
            (
                _text("instrument_id"),
                _number("mark_price"),
                _number("bid", required=False),
                _number("ask", required=False),
                _number("implied_vol", "positive", required=False),
                _time("time", required=False),
                _number("confidence", "not_negative", required=False),
                _number("funding_rate", required=False),
                _number("funding_interval_hours", "positive", required=False),
                _time("funding_time", required=False),
            ),
            key=("instrument_id",),
        ),
        Table(
            "underlyings",
            (
                _text("underlying"),
                _number("index_price"),
                _text("shock", *SHOCKS, required=False),
                _time("time", required=False),
                _number("confidence", "not_negative", required=False),
                _number("rate", required=False),
                _number("adv", "not_negative", required=False),
                _number("depth", "not_negative", required=False),
                _number("spread_bps", "not_negative", required=False),
                _number("open_interest", "not_negative", required=False),
                _text("proxy", required=False),
                _number("proxy_beta", required=False),
                _text("asset_class", required=False),
            ),
            key=("underlying",),
        ),
        Table(
            "forwards",
            (
                _text("underlying"),
                _time("expiry"),
                _number("forward"),
                _number("discount", "positive", required=False),
                _time("time", required=False),
            ),
            key=("underlying", "expiry"),
        ),
        Table(
            "history",
            (
                _time("time"),
                _text("underlying"),
                _number("price", required=False),
                _number("value", required=False),
                _text("factor", required=False),
            ),
            key=("time", "underlying", "factor"),
        ),
        Table(
            "signals",
            (_time("time"), _text("name"), _text("underlying", required=False), _number("value")),
            key=("time", "name", "underlying"),
        ),
        Table(
            "tiers",
            (
                _text("symbol"),
                _number("tier"),
                _text("currency", required=False),
                _number("minNotional", "not_negative"),
                _number("maxNotional", "positive", required=False),
                _number("maintenanceMarginRate", "not_negative"),
                _number("maxLeverage", "positive", required=False),
            ),
            key=("symbol", "tier"),
        ),
        Table(
            "order_book",
            (
                _text("instrument_id"),
                _text("side", "bid", "ask"),
                _number("price"),
                _number("size", "positive"),
                _time("time", required=False),
            ),
        ),
        Table(
            "bars",
            (
                _time("time"),
                _text("underlying"),
                _text("instrument_id", required=False),
                _number("price"),
            ),
            key=("time", "underlying", "instrument_id"),
        ),
        Table(
            "portfolios",
            (
                _text("portfolio"),
                _text("kind", required=False),
                _text("underlying"),
                _number("weight"),
                _text("option", *OPTIONS, required=False),
                _number("deviations", required=False),
                _number("days", "positive", required=False),
            ),
            key=("portfolio", "underlying", "option", "deviations", "days"),
        ),
    )
}

# Tables that no model reads, or only one that is told to: checked at the door, and named where they are not read.
UNUSED = ("orders", "signals", "tiers")
