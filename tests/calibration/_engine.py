"""What `margin_book` charges a portfolio at the close of one bar, on tables that end there.

A leg of weight w is w / price units of a spot, or of options with as many days to run as the leg says; an account holds
nothing else. Listed are all underlyings, BTC twice, so that every market of four underlyings has one shape.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

import marginax as mx
from calibration._histories import DAYS, NAMES, TIME, configured, prices, table
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Leg, Portfolio
from reference.black import black76

TERMS = ("instrument_id", "kind", "underlying", "quote", "settlement", "multiplier", "strike", "expiry")
SCHEMA = dict(zip(TERMS, [*[pl.String] * 5, pl.Float64, pl.Float64, TIME], strict=True))
QUOTES = {"instrument_id": pl.String, "mark_price": pl.Float64, "implied_vol": pl.Float64, "time": TIME}
POSITIONS = {"account_id": pl.String, "instrument_id": pl.String, "quantity": pl.Float64}
AGAIN, HAIRCUT = "BTC-AGAIN", 0.1
NOTHING = pl.DataFrame(schema={"account_id": pl.String, "asset": pl.String, "amount": pl.Float64})


def charged(
    model: mx.MarginModel,
    portfolios: Sequence[Portfolio],
    *,
    names: Sequence[str],
    bar: int,
    first: int = 0,
    options: Panel | None = None,
    signals: pl.DataFrame | None = None,
) -> dict[str, tuple[float, float, float]]:
    """var, es and charge by portfolio, on bars `first` to `bar` of the usual history of some underlyings.

    `options` is the panel whose volatilities options are priced at, `signals` a table for models that read it.
    """
    price, now = prices_at(names, bar), DAYS[bar]
    history = history_of(names, bar, first)
    volatility: dict[str, float] = dict.fromkeys(names, np.nan)
    forwards = None
    if options is not None:
        volatility = dict(zip(names, options.volatility[bar].tolist(), strict=True))
        implied = table(options.volatility[first : bar + 1], names, DAYS[first:]).rename({"price": "value"})
        history = pl.concat([history, implied.with_columns(factor=pl.lit("implied_vol"))], how="diagonal")
        forwards = pl.DataFrame(
            {"underlying": names, "expiry": now + timedelta(days=30), "forward": list(price.values()), "time": now}
        )
    legs = {name: Leg(name, 1.0) for name in names} | {_identity(leg): leg for each in portfolios for leg in each.legs}
    listed = [_contract(leg, price, volatility, bar) for leg in legs.values()]
    listed.append(again(price, bar))
    held = [(each.name, _identity(leg), leg.weight / price[leg.underlying]) for each in portfolios for leg in each.legs]
    book, market = sources(listed, held, NOTHING, price, history, forwards, signals)
    margins = mx.margin_book(book, market, model).margins
    assert margins["status"].unique().to_list() == ["ok"]
    return {
        row["account_id"]: (row["var"], row["expected_shortfall"], row["initial_margin"])
        for row in margins.iter_rows(named=True)
    }


def sources(
    listed: Sequence[tuple[tuple[Any, ...], tuple[Any, ...]]],
    held: Sequence[tuple[str, str, float]],
    balances: pl.DataFrame,
    price: Mapping[str, float],
    history: pl.DataFrame,
    forwards: pl.DataFrame | None = None,
    signals: pl.DataFrame | None = None,
) -> tuple[mx.Book, mx.Market]:
    """A book and its market at the last time of a history: terms and quotes, positions, and index prices."""
    now = history["time"].max()
    quotes = pl.DataFrame([quote for _, quote in listed], schema=QUOTES, orient="row")
    indices = pl.DataFrame({"underlying": list(price), "index_price": list(price.values())})
    book = mx.read_book(
        instruments=pl.DataFrame([terms for terms, _ in listed], schema=SCHEMA, orient="row"),
        positions=pl.DataFrame(held, schema=POSITIONS, orient="row"),
        balances=balances,
    )
    market = mx.read_market(
        # A replay has no feed: the closes of its history are fresh and certain.
        quotes=quotes.with_columns(time=pl.lit(now), confidence=pl.lit(0.0)),
        underlyings=indices.with_columns(time=pl.lit(now), confidence=pl.lit(0.0)),
        history=history,
        forwards=forwards,
        signals=signals,
    )
    return book, market


def margined(preset: str) -> mx.MarginModel:
    """A baseline with a haircut on CCC, which no account of a replay owns."""
    return configured(preset, collateral={"haircuts": {"CCC": HAIRCUT}})


def prices_at(names: Sequence[str], bar: int) -> dict[str, float]:
    """Closes of a bar by underlying."""
    return {name: float(prices()[bar, NAMES.index(name)]) for name in names}


def history_of(names: Sequence[str], bar: int, first: int = 0) -> pl.DataFrame:
    """The usual history of some underlyings, from one bar to another."""
    return table(prices()[first : bar + 1, [NAMES.index(name) for name in names]], names, DAYS[first:])


def spot(name: str, price: float, bar: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Terms and quote of a spot."""
    return (name, "spot", name, "USD", "linear", 1.0, None, None), (name, price, None, DAYS[bar])


def again(price: Mapping[str, float], bar: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Terms and quote of a second spot of BTC."""
    (_, *terms), (_, *quote) = spot("BTC", price["BTC"], bar)
    return (AGAIN, *terms), (AGAIN, *quote)


def _identity(leg: Leg) -> str:
    return f"{leg.underlying}-{leg.option}-{leg.deviations:g}" if leg.option else leg.underlying


def _contract(
    leg: Leg, price: Mapping[str, float], volatility: Mapping[str, float], bar: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Terms and quote of a leg: a spot at the close, or an option at its Black-76 value on a forward like it."""
    name, close = leg.underlying, price[leg.underlying]
    if not leg.option:
        return spot(name, close, bar)
    deviation = volatility[name] * np.sqrt(leg.days / 365)
    strike = close * np.exp(leg.deviations * deviation)
    mark = black76(close, strike, deviation, call=leg.option == "call")
    expiry = DAYS[bar] + timedelta(days=leg.days)
    terms = (_identity(leg), leg.option, name, "USD", "linear", 1.0, strike, expiry)
    return terms, (_identity(leg), mark, volatility[name], DAYS[bar])
