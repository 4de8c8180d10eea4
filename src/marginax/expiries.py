"""The expiries of a market's options: the forward and the discount that each is priced with.

Forwards are in the options' quote currency. A forward is the table's where it has one, else that of put-call parity of
the marks, else index x exp(rate x years).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.basis import YEAR
from marginax.instruments import OWNED, Instruments
from marginax.market import Market
from marginax.parity import Premium, parity_forward

# How far a forward may be from index and rate where nothing else tells: costs of storage, dividends and funding of half
# the price are no typing errors, more is.
FAR_FROM_INDEX = 0.5


class ForwardSource(IntEnum):
    """Where the forward of an expiry comes from."""

    TABLE, PARITY, INDEX = range(3)


@dataclass(frozen=True)
class Expiries:
    """Options that share underlying, expiry, quote currency, settlement and premium; all arrays of shape `expiries`.

    `forward` is in quote currency; `discount` is 1 where nothing is paid before expiry; `parity` is the forward of
    put-call parity (NaN without a pair of marks) and `spread` the relative scatter of the strikes' forwards around it;
    `carried` is index x exp(rate x years).
    `normal` says that the underlying is shocked absolutely and its options are priced by Bachelier's formula.
    """

    underlying: np.ndarray
    expiry: np.ndarray
    quote: np.ndarray
    coin_settled: Bool[np.ndarray, " expiries"]
    upfront: Bool[np.ndarray, " expiries"]
    normal: Bool[np.ndarray, " expiries"]
    years: Float64[np.ndarray, " expiries"]
    forward: Float64[np.ndarray, " expiries"]
    discount: Float64[np.ndarray, " expiries"]
    source: Int64[np.ndarray, " expiries"]
    parity: Float64[np.ndarray, " expiries"]
    spread: Float64[np.ndarray, " expiries"]
    carried: Float64[np.ndarray, " expiries"]
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.underlying)


def quoted_options(instruments: Instruments, market: Market) -> tuple[Int64[np.ndarray, " options"], np.ndarray]:
    """Numbers and marks of the options that have a quote, an underlying and a quote currency with a price."""
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    prices = _prices(market)
    known = [
        int(k)
        for k in np.flatnonzero(instruments.is_option)
        if instruments.ids[k] in marks and instruments.underlying[k] in prices and instruments.quote[k] in prices
    ]
    return np.array(known, np.int64), np.array([marks[instruments.ids[k]] for k in known], float)


def market_expiries(
    instruments: Instruments, market: Market, chosen: np.ndarray, mark: np.ndarray
) -> tuple[Expiries, Int64[np.ndarray, " options"]]:
    """The expiries of the chosen options (instrument numbers, with their marks), and the row of each option."""
    as_of = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    prices = _prices(market)
    table = market.underlyings
    rates = dict(table.select("underlying", pl.col("rate").fill_null(0.0)).iter_rows())
    absolute = set(table.filter(pl.col("shock") == "absolute")["underlying"])
    given = {
        (row["underlying"], row["expiry"].replace(tzinfo=None)): row for row in market.forwards.iter_rows(named=True)
    }
    keys = pl.DataFrame(
        {
            "underlying": pl.Series(instruments.underlying[chosen], dtype=pl.String),
            "expiry": pl.Series(instruments.expiry[chosen], dtype=pl.Datetime("us")),
            "quote": pl.Series(instruments.quote[chosen], dtype=pl.String),
            "coin": instruments.coin_settled[chosen],
            "upfront": instruments.style[chosen] == OWNED,
        }
    )
    groups = keys.unique(maintain_order=True)
    group = keys.join(groups.with_row_index("row"), on=keys.columns, how="left", maintain_order="left")["row"]
    rows = group.to_numpy().astype(np.int64)
    years = ((groups["expiry"].to_numpy() - as_of) / YEAR).astype(float)
    strike, call = instruments.strike[chosen], instruments.kind[chosen] == "call"
    known, carried, times = [], [], []
    for k, one in enumerate(groups.iter_rows(named=True)):
        row = given.get((one["underlying"], one["expiry"]))
        mine = rows == k
        pairs = _pairs(strike[mine], mark[mine], call[mine])
        premium: Premium = "coin" if one["coin"] else "upfront" if one["upfront"] else "futures_style"
        unit, growth = prices[one["quote"]], float(np.exp(rates[one["underlying"]] * years[k]))
        index, may_be_negative = prices[one["underlying"]] / unit, one["underlying"] in absolute
        known.append(_forward(row, pairs, premium, index, unit, growth=growth, may_be_negative=may_be_negative))
        carried.append(index * growth)
        times.append(None if row is None else row["time"])
    forward, discount, source, parity, spread = np.array(known, float).reshape(-1, 5).T
    return Expiries(
        underlying=groups["underlying"].to_numpy(),
        expiry=groups["expiry"].to_numpy(),
        quote=groups["quote"].to_numpy(),
        coin_settled=groups["coin"].to_numpy(),
        upfront=groups["upfront"].to_numpy(),
        normal=np.array([name in absolute for name in groups["underlying"]], bool),
        years=years,
        forward=forward,
        discount=discount,
        source=source.astype(np.int64),
        parity=parity,
        spread=spread,
        carried=np.array(carried, float),
        time=np.array(times, object),
    ), rows


def contradicted_forwards(instruments: Instruments, market: Market, *, bound: float) -> pl.DataFrame:
    """Rows of the table `forwards` that the market contradicts: underlying, expiry, `other` and `by`.

    `other`, in account currency, is the forward `by` put-call parity of the marks; where there is no pair of marks,
    `by` index and rate, unless the underlying is shocked absolutely. `bound` is relative, the scatter of the strikes'
    own forwards allowed on top; index and rate know no cost of carry, and only `FAR_FROM_INDEX` of them is too far.
    """
    schema: dict[str, pl.DataType] = {
        "underlying": pl.String(),
        "expiry": pl.Datetime("us", "UTC"),
        "other": pl.Float64(),
        "by": pl.String(),
    }
    if market.forwards.is_empty():
        return pl.DataFrame(schema=schema)
    expiries, _ = market_expiries(instruments, market, *quoted_options(instruments, market))
    prices = _prices(market)
    paired = np.isfinite(expiries.parity)
    other = np.where(paired, expiries.parity, np.where(expiries.normal, np.nan, expiries.carried))
    allowed = np.where(paired, bound + np.nan_to_num(expiries.spread), max(bound, FAR_FROM_INDEX))
    far = np.abs(expiries.forward - other) > allowed * np.maximum(np.abs(expiries.forward), np.abs(other))
    found = np.flatnonzero(far & (expiries.source == ForwardSource.TABLE))
    rows = pl.DataFrame(
        {
            "underlying": pl.Series(expiries.underlying[found], dtype=pl.String),
            "expiry": pl.Series(expiries.expiry[found].astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "other": [other[k] * prices[expiries.quote[k]] for k in found],
            "by": ["put-call parity of the marks" if paired[k] else "the index and its rate" for k in found],
        },
        schema_overrides=schema,
    )
    return rows.unique(["underlying", "expiry"], keep="first", maintain_order=True)


def _forward(
    row: Mapping[str, float] | None,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    premium: Premium,
    index: float,
    unit: float,
    *,
    growth: float,
    may_be_negative: bool,
) -> tuple[float, float, ForwardSource, float, float]:
    """Forward, discount and source of one expiry, and the forward and spread of its put-call parity.

    `row` is its row of the table `forwards`; `index` is in quote currency, whose own price is `unit`; `growth` is
    exp(rate x years).
    """
    discount = None if row is None else row["discount"]
    if discount is None and growth != 1:
        discount = 1 / growth
    parity = parity_forward(*pairs, premium=premium, index=index, discount=discount)
    if row is not None:
        forward, source = row["forward"] / unit, ForwardSource.TABLE
        discount = parity.discount if discount is None else discount
    elif np.isfinite(parity.forward) and (parity.forward > 0 or may_be_negative):
        forward, source, discount = parity.forward, ForwardSource.PARITY, parity.discount
    else:
        forward, source = index * growth, ForwardSource.INDEX
    if premium != "upfront" or discount is None:
        discount = 1.0
    return forward, discount, source, parity.forward, parity.spread


def _prices(market: Market) -> dict[str, float]:
    """The price of every underlying and of the account currency."""
    return {**dict(market.underlyings.select("underlying", "index_price").iter_rows()), market.currency: 1.0}


def _pairs(strike: np.ndarray, mark: np.ndarray, call: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strikes at which both a call and a put have a mark, and the two marks."""
    calls, puts = dict(zip(strike[call], mark[call], strict=True)), dict(zip(strike[~call], mark[~call], strict=True))
    both = np.array(sorted(calls.keys() & puts.keys()), float)
    return both, np.array([calls[k] for k in both]), np.array([puts[k] for k in both])
