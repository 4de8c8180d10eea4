"""The option chain of the synthetic venue: what is listed, its marks, forwards and volatility history.

Conventions: strikes, forwards and marks are in the quote currency, except that options of inverse settlement have
their strike in USD and their mark in coins per coin; times are ACT/365F years from as_of; arrays run over options, in
blocks of coin, expiry, strike, and call before put.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain, count, islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marginax.synthetic._market import (
    AS_OF,
    POWERS_OF_TEN,
    UTC_TIME,
    Floats,
    Market,
    history_rows,
    significant,
)
from marginax.synthetic._surface import Surface, black76, black76_delta, surface_and_history

Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Coins by rank. Each way to list an option has some, and so has each gap that a real venue's files have.
COIN_SETTLED = (0, 1)
FUTURES_STYLE = (3, 6)
WITHOUT_FORWARDS = (1, 4)  # parity of calls and puts tells them
WITHOUT_VOLATILITY = (7, 9)  # no history of it: another coin's stands in
WIDTH, SOON_WIDTH = 1.5, 3.4  # half the ladder in deviations; strikes about to expire were listed around older prices
SOON = 10 / 365
UNPUBLISHED = 1 / 40  # pairs whose volatility the venue does not show
HALF_SPREAD = 0.006  # of volatility, at the money on the first coin


@dataclass(frozen=True, eq=False)
class Chain:
    """The options of the venue and their tables, `history` being rows to add.

    Coin `c` lists `strikes[c]` strikes in each of `expiries` and its options start at `first[c]`. In USD per contract:
    `notional`, `value` (the mark), `delta` (what hedges it); `upfront` options count into equity at their value.
    """

    tables: dict[str, pl.DataFrame]
    expiries: int
    strikes: Integers
    first: Integers
    coin: Integers
    mark: Floats
    upfront: Bools
    notional: Floats
    value: Floats
    delta: Floats


def option_chain(seed: np.random.SeedSequence, listed: Market, *, coins: int, expiries: int, strikes: int) -> Chain:
    """Calls and puts on the first `coins` coins: up to `strikes` strikes, fewer for lesser coins, in each expiry."""
    past, present = (np.random.default_rng(s) for s in seed.spawn(2))
    surface, history = surface_and_history(past, listed.paths, coins)
    due = option_expiries(expiries)
    ladder = np.maximum(strikes - 2 * np.digitize(np.arange(coins), [2, 6]), min(strikes, 5))
    names = listed.tables["underlyings"]["underlying"].to_list()
    blocks = [
        _block(listed.tables["underlyings"], surface, coin, expiry, int(ladder[coin]))
        for coin in range(coins)
        for expiry in due
    ]
    rows = pl.concat(blocks)
    shown = np.repeat(present.random(rows.height // 2) >= UNPUBLISHED, 2)
    shown |= rows["distance"].abs().to_numpy() > 2  # out there a price says little about its volatility
    exact = rows["exact"].to_numpy()
    rows = rows.with_columns(shown=shown, volatility=np.where(shown, np.round(exact, 4), exact))
    quotes = _quotes(present, rows)
    mark = quotes["mark_price"].to_numpy()
    money = np.where(rows["settlement"] == "inverse", rows["index"], rows["quote_usd"])  # USD per unit of the mark
    size = rows["multiplier"].to_numpy()
    forward, strike, deviation, call = _arguments(rows, rows["volatility"].to_numpy())
    told = [coin for coin in range(coins) if coin not in WITHOUT_VOLATILITY]
    return Chain(
        tables={
            "instruments": rows.select(
                *("instrument_id", "kind", "underlying", "quote", "settlement", "settle_asset", "multiplier"),
                *("premium", "strike", "expiry"),
            ),
            "quotes": quotes,
            "forwards": _forwards(listed.tables["underlyings"], due, coins),
            "history": history_rows([names[coin] for coin in told], "implied_vol", history[:, told]),
        },
        expiries=expiries,
        strikes=ladder,
        first=np.cumsum(ladder) * 2 * expiries - ladder * 2 * expiries,
        coin=rows["coin"].to_numpy(),
        mark=mark,
        upfront=(rows["premium"] == "upfront").to_numpy(),
        notional=size * rows["index"].to_numpy(),
        value=size * mark * money,
        delta=size * rows["index"].to_numpy() * black76_delta(forward, strike, deviation, call),
    )


def option_expiries(number: int) -> list[date]:
    """The first `number` expiries to be listed, by date: Fridays, the quarters and months among them first."""
    first = [
        *(date(2026, 1, 2), date(2026, 3, 27), date(2026, 1, 30), date(2026, 6, 26), date(2026, 1, 9)),
        *(date(2026, 9, 25), date(2026, 2, 27), date(2026, 1, 16), date(2026, 12, 25), date(2026, 1, 23)),
    ]
    fridays = (date(2026, 2, 6) + timedelta(weeks=week) for week in count())
    return sorted(islice(chain(first, (friday for friday in fridays if friday not in first)), number))


def strike_ladder(forward: float, deviation: float, number: int, width: float) -> Floats:
    """Round strikes, all different, up to `width` deviations on either side of the forward."""
    place = (np.arange(number) - (number - 1) / 2) * 2 / max(number - 1, 1)
    wanted = forward * np.exp(width * deviation * place)
    gap = min(float(np.diff(wanted, append=np.inf).min()), wanted[0] * min(deviation, 0.5))
    unit = POWERS_OF_TEN[abs(int(np.floor(np.log10(gap))))]
    unit = unit if gap >= 1 else 1 / unit
    step = max(unit * multiple for multiple in (1.0, 2.0, 5.0) if unit * multiple <= gap)
    return significant(np.floor(wanted / step + 0.5) * step, 8)


def _years(expiry: date) -> float:
    return ((expiry - AS_OF.date()).days + 8 / 24) / 365


def _forward(underlyings: pl.DataFrame, coin: int, years: float) -> tuple[float, float]:
    """The forward in USD and the discount factor, as published."""
    rate, index = underlyings["rate"][coin], underlyings["index_price"][coin]
    forward, discount = significant(np.array([index * np.exp(rate * years), np.exp(-rate * years)]), 8)
    return float(forward), float(discount)


def _block(underlyings: pl.DataFrame, surface: Surface, coin: int, expiry: date, number: int) -> pl.DataFrame:
    """The terms of one coin's options of one expiry, and what prices them."""
    usd = dict(zip(underlyings["underlying"], underlyings["index_price"], strict=True)) | {"USD": 1.0}
    name, inverse = underlyings["underlying"][coin], coin in COIN_SETTLED
    quote = "USD" if inverse else ("USDT", "USDC")[coin % 2]
    years, upfront = _years(expiry), coin not in FUTURES_STYLE
    forward, discount = _forward(underlyings, coin, years)
    forward /= usd[quote]
    at_the_money = float(surface.volatility(coin, np.zeros(1), years)[0]) * years**0.5
    width = min(SOON_WIDTH if years < SOON else WIDTH, 0.45 * number)  # strikes at most 1.4 deviations apart
    ladder = strike_ladder(forward, at_the_money, number, width)
    strike = np.repeat(ladder, 2)
    moneyness = np.log(strike / forward)
    power = int(np.clip(np.floor(np.log10(100.0 / usd[name])), -3, 3))
    label = f"{name}-{'INVERSE' if inverse else quote}-{expiry:%y%m%d}"
    texts = [np.format_float_positional(each, trim="-") for each in ladder]
    return pl.DataFrame(
        {
            "instrument_id": [f"{label}-{text}-{side}" for text in texts for side in "CP"],
            "kind": ["call", "put"] * number,
            "underlying": name,
            "quote": quote,
            "settlement": "inverse" if inverse else "linear",
            "settle_asset": name if inverse else quote,
            "multiplier": 0.1 if inverse else float(f"1e{power}"),
            "premium": "upfront" if upfront else "futures_style",
            "strike": strike,
            "expiry": pl.Series([datetime.combine(expiry, time(8), UTC)] * len(strike), dtype=UTC_TIME),
            "coin": pl.Series([coin] * len(strike), dtype=pl.Int64),
            "index": usd[name],
            "quote_usd": usd[quote],
            "forward": forward,
            "per_value": 1 / forward if inverse else discount if upfront else 1.0,
            "years": years,
            "distance": moneyness / at_the_money,
            "exact": surface.volatility(coin, moneyness, years),
        }
    )


def _arguments(rows: pl.DataFrame, volatility: Floats) -> tuple[Floats, Floats, Floats, Bools]:
    """What Black-76 wants: forward, strike, deviation, call."""
    root = np.sqrt(rows["years"].to_numpy())
    return rows["forward"].to_numpy(), rows["strike"].to_numpy(), volatility * root, (rows["kind"] == "call").to_numpy()


def _quotes(rng: np.random.Generator, rows: pl.DataFrame) -> pl.DataFrame:
    """Marks from the volatility shown, or the exact one; bid and ask some volatility points around, in ticks."""
    scale, sigma = rows["per_value"].to_numpy(), rows["volatility"].to_numpy()
    inverse = (rows["settlement"] == "inverse").to_numpy()
    rank, distance = rows["coin"].to_numpy(), rows["distance"].to_numpy()
    half = HALF_SPREAD * (1 + rank / 3) * (1 + distance**2 / 2) * np.exp(0.2 * rng.standard_normal(rows.height))
    half = np.minimum(half, sigma / 2)
    low, mark, high = (
        scale * black76(*_arguments(rows, volatility)) for volatility in (sigma - half, sigma, sigma + half)
    )
    size = -np.floor(np.log10(rows["forward"].to_numpy() * 1e-4)).astype(np.int64)
    tick = np.where(inverse, 1e-4, np.where(size > 0, 1 / POWERS_OF_TEN[size.clip(0)], POWERS_OF_TEN[(-size).clip(0)]))
    bid = significant(np.floor((low / tick - 0.5).clip(0)) * tick, 8)  # half a tick at least on either side
    ask = significant(np.ceil(high / tick + 0.5) * tick, 8)
    bid[bid <= 0] = np.nan  # nobody bids for what is worth less than a tick
    ages = rng.integers(0, 60_000, rows.height).tolist()
    times = [AS_OF - timedelta(milliseconds=age) for age in ages]
    return pl.DataFrame(
        {
            "instrument_id": rows["instrument_id"],
            "mark_price": significant(mark, 8),
            "bid": pl.Series(bid).fill_nan(None),
            "ask": ask,
            "implied_vol": pl.Series(np.where(rows["shown"], sigma, np.nan)).fill_nan(None),
            "time": pl.Series(times, dtype=UTC_TIME),
            "confidence": significant(np.minimum((high - low) / 2 / mark, 1.0), 3),
        }
    )


def _forwards(underlyings: pl.DataFrame, due: list[date], coins: int) -> pl.DataFrame:
    """Forwards in USD, with discount factors, of most underlyings."""
    keys = [(coin, expiry) for coin in range(coins) if coin not in WITHOUT_FORWARDS for expiry in due]
    numbers = [_forward(underlyings, coin, _years(expiry)) for coin, expiry in keys]
    return pl.DataFrame(
        {
            "underlying": [underlyings["underlying"][coin] for coin, _ in keys],
            "expiry": pl.Series([datetime.combine(expiry, time(8), UTC) for _, expiry in keys], dtype=UTC_TIME),
            "forward": [forward for forward, _ in numbers],
            "discount": [discount for _, discount in numbers],
            "time": pl.Series([AS_OF] * len(keys), dtype=UTC_TIME),
        }
    )
