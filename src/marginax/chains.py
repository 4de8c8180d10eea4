"""What the options of a market are priced with: the forward and discount of every expiry, the volatility of every
option.

Forwards are in the options' quote currency. A forward is the table's where it has one, else that of put-call parity of
the marks, else index x exp(rate x years). A volatility is the quote's, else the one that the mark implies, else the
expiry's smile at the strike, else that of the nearest expiry; where none of these is known there is none, never zero.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache

import jax
import numpy as np
import polars as pl
from jaxtyping import Array, Bool, Float64, Int64

from marginax.basis import YEAR
from marginax.instruments import OWNED, Instruments
from marginax.market import LARGEST_VOLATILITY, Market
from marginax.parity import Premium, parity_forward
from marginax.smiles import Smile, fit_smile
from marginax_kernels import effective_years, implied_deviation

# A mark tells a volatility only where its time value is worth reading: 1e-4 of the forward is one tick of a
# coin-settled option. Below it the mark's own rounding decides, and a shock that brings the strike near would magnify
# it.
LEAST_TIME_VALUE = 2e-4


class ForwardSource(IntEnum):
    """Where the forward of an expiry comes from."""

    TABLE, PARITY, INDEX = range(3)


class VolatilitySource(IntEnum):
    """Where the volatility of an option comes from."""

    QUOTE, MARK, SMILE, OTHER_EXPIRY, NONE = range(5)


@dataclass(frozen=True)
class Expiries:
    """Options that share underlying, expiry, quote currency, settlement and premium; all arrays of shape `expiries`.

    `forward` is in quote currency; `discount` is 1 where nothing is paid before expiry; `parity` is the forward of
    put-call parity (NaN without a pair of marks) and `spread` the relative scatter of the strikes' forwards around it.
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
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.underlying)


@dataclass(frozen=True)
class Chains:
    """The options with a quote, and what each is priced with.

    `instrument` is its number, `expiry` its row of `expiries`, `moneyness` log(strike / forward) (strike - forward
    where the underlying is shocked absolutely), `volatility` NaN where none is known.
    """

    instrument: Int64[np.ndarray, " options"]
    expiry: Int64[np.ndarray, " options"]
    moneyness: Float64[np.ndarray, " options"]
    volatility: Float64[np.ndarray, " options"]
    source: Int64[np.ndarray, " options"]
    expiries: Expiries

    def smile(self, expiry: int) -> Smile | None:
        """The smile through the known volatilities of an expiry; None without any, or for a normal underlying."""
        mine = (self.expiry == expiry) & np.isfinite(self.volatility) & np.isfinite(self.moneyness)
        mine &= self.source <= VolatilitySource.MARK
        years = float(self.expiries.years[expiry])
        if not mine.any() or self.expiries.normal[expiry] or years <= 0:
            return None
        return fit_smile(self.moneyness[mine], self.volatility[mine], years)


def market_chains(instruments: Instruments, market: Market, *, window: float = 0.0) -> Chains:
    """The chains of all options that have a quote and an underlying; settlement averages the last `window` years."""
    stated = dict(market.quotes.select("instrument_id", "implied_vol").iter_rows())
    chosen, mark = _quoted(instruments, market)
    quoted = np.array([stated[instruments.ids[k]] for k in chosen], float)
    expiries, group = market_expiries(instruments, market, chosen, mark)
    with jax.enable_x64(True):
        years = np.asarray(effective_years(expiries.years, window))[group]
    volatility, source = _from_marks(instruments, chosen, expiries, group, mark, years)
    volatility = np.where(np.isnan(quoted), volatility, quoted)
    source = np.where(np.isnan(quoted), source, VolatilitySource.QUOTE)
    strike = instruments.strike[chosen]
    moneyness = _moneyness(strike, expiries.forward[group], expiries.normal[group])
    return _filled(Chains(chosen, group, moneyness, volatility, source.astype(np.int64), expiries))


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
    figures: dict[str, list[float]] = {name: [] for name in ("forward", "discount", "source", "parity", "spread")}
    times = []
    years = ((groups["expiry"].to_numpy() - as_of) / YEAR).astype(float)
    call = instruments.kind[chosen] == "call"
    for k, one in enumerate(groups.iter_rows(named=True)):
        row = given.get((one["underlying"], one["expiry"]))
        rate = rates[one["underlying"]]
        index = prices[one["underlying"]] / prices[one["quote"]]
        discount = None if row is None else row["discount"]
        if discount is None and rate:
            discount = float(np.exp(-rate * years[k]))
        mine = rows == k
        pairs = _pairs(instruments.strike[chosen][mine], mark[mine], call[mine])
        style: Premium = "coin" if one["coin"] else "upfront" if one["upfront"] else "futures_style"
        parity = parity_forward(*pairs, premium=style, index=index, discount=discount)
        if row is not None:
            forward, source = row["forward"] / prices[one["quote"]], ForwardSource.TABLE
        elif np.isfinite(parity.forward) and (parity.forward > 0 or one["underlying"] in absolute):
            forward, source, discount = parity.forward, ForwardSource.PARITY, parity.discount
        else:
            forward, source = index * float(np.exp(rate * years[k])), ForwardSource.INDEX
        if one["coin"] or not one["upfront"] or discount is None:
            discount = 1.0
        for name, figure in zip(figures, (forward, discount, source, parity.forward, parity.spread), strict=True):
            figures[name].append(float(figure))
        times.append(None if row is None else row["time"])
    found = {name: np.array(values, float) for name, values in figures.items()}
    return Expiries(
        underlying=groups["underlying"].to_numpy(),
        expiry=groups["expiry"].to_numpy(),
        quote=groups["quote"].to_numpy(),
        coin_settled=groups["coin"].to_numpy(),
        upfront=groups["upfront"].to_numpy(),
        normal=np.array([name in absolute for name in groups["underlying"]], bool),
        years=years,
        forward=found["forward"],
        discount=found["discount"],
        source=found["source"].astype(np.int64),
        parity=found["parity"],
        spread=found["spread"],
        time=np.array(times, object),
    ), rows


def contradicted_forwards(instruments: Instruments, market: Market, *, bound: float) -> pl.DataFrame:
    """Rows of the table `forwards` that put-call parity of the marks contradicts: underlying, expiry, parity.

    `bound` is relative; the scatter of the strikes' own forwards is allowed on top. `parity` is in account currency.
    """
    schema: dict[str, pl.DataType] = {
        "underlying": pl.String(),
        "expiry": pl.Datetime("us", "UTC"),
        "parity": pl.Float64(),
    }
    if market.forwards.is_empty():
        return pl.DataFrame(schema=schema)
    expiries, _ = market_expiries(instruments, market, *_quoted(instruments, market))
    prices, size = _prices(market), np.maximum(np.abs(expiries.forward), np.abs(expiries.parity))
    far = np.abs(expiries.forward - expiries.parity) > (bound + np.nan_to_num(expiries.spread)) * size
    found = np.flatnonzero(far & (expiries.source == ForwardSource.TABLE))
    rows = pl.DataFrame(
        {
            "underlying": pl.Series(expiries.underlying[found], dtype=pl.String),
            "expiry": pl.Series(expiries.expiry[found].astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "parity": [expiries.parity[k] * prices[expiries.quote[k]] for k in found],
        },
        schema_overrides=schema,
    )
    return rows.unique(["underlying", "expiry"], keep="first", maintain_order=True)


def _quoted(instruments: Instruments, market: Market) -> tuple[Int64[np.ndarray, " options"], np.ndarray]:
    """Numbers and marks of the options that have a quote, an underlying and a quote currency with a price."""
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    prices = _prices(market)
    known = [
        int(k)
        for k in np.flatnonzero(instruments.is_option)
        if instruments.ids[k] in marks and instruments.underlying[k] in prices and instruments.quote[k] in prices
    ]
    return np.array(known, np.int64), np.array([marks[instruments.ids[k]] for k in known], float)


def _prices(market: Market) -> dict[str, float]:
    """The price of every underlying and of the account currency."""
    return {**dict(market.underlyings.select("underlying", "index_price").iter_rows()), market.currency: 1.0}


def _pairs(strike: np.ndarray, mark: np.ndarray, call: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strikes at which both a call and a put have a mark, and the two marks."""
    calls, puts = dict(zip(strike[call], mark[call], strict=True)), dict(zip(strike[~call], mark[~call], strict=True))
    both = np.array(sorted(calls.keys() & puts.keys()), float)
    return both, np.array([calls[k] for k in both]), np.array([puts[k] for k in both])


def _from_marks(
    instruments: Instruments,
    chosen: np.ndarray,
    expiries: Expiries,
    group: np.ndarray,
    mark: np.ndarray,
    years: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The volatility that each mark implies; NaN where its time value is too small to read, or breaks its bounds."""
    forward, strike = expiries.forward[group], instruments.strike[chosen]
    call = instruments.kind[chosen] == "call"
    normal = expiries.normal[group]
    coin = expiries.coin_settled[group]
    value = np.where(coin, mark * forward, mark / expiries.discount[group])
    intrinsic = np.maximum(np.where(call, forward - strike, strike - forward), 0)
    readable = (value - intrinsic > LEAST_TIME_VALUE * np.abs(forward)) & (years > 0)
    found = np.full(len(chosen), np.nan)
    if readable.any():
        with jax.enable_x64(True):
            deviation = np.asarray(_deviations(value, forward, strike, call, normal))
        found[readable] = deviation[readable] / np.sqrt(years[readable])
    usable = (found > 0) & (normal | (found <= LARGEST_VOLATILITY))
    return np.where(usable, found, np.nan), np.where(usable, VolatilitySource.MARK, VolatilitySource.NONE)


@jax.jit
def _deviations(value: Array, forward: Array, strike: Array, call: Array, normal: Array) -> Array:
    """One program for every option of a market: run loose, its loop would be lowered anew in every run."""
    return implied_deviation(value, forward, strike, call=call, normal=normal)


def _moneyness(strike: np.ndarray, forward: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """log(K / F); K - F for normal underlyings."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(normal, strike - forward, np.log(np.where(normal, 1.0, strike / forward)))


def _filled(chains: Chains) -> Chains:
    """Missing volatilities from the smile of the expiry, else from the expiry of the same underlying nearest in time.

    Between expiries the moneyness is counted in square roots of time; a normal underlying takes the volatility of the
    nearest strike of the nearest expiry.
    """
    volatility, source, place, group = chains.volatility.copy(), chains.source.copy(), chains.moneyness, chains.expiry
    known = np.isfinite(volatility)
    years, smile = np.maximum(chains.expiries.years, 1e-9), cache(chains.smile)
    for k in np.flatnonzero(~known & np.isfinite(place)):
        mine = int(group[k])
        able = np.unique(group[known & (chains.expiries.underlying[group] == chains.expiries.underlying[mine])])
        if not len(able):
            continue
        far = np.where(able == mine, -1.0, np.abs(np.log(years[able] / years[mine])))
        nearest = int(able[np.argmin(far)])
        fitted = smile(nearest)
        if fitted is not None:
            volatility[k] = fitted.at(np.array([place[k] * np.sqrt(years[nearest] / years[mine])]))[0]
        else:
            there = np.flatnonzero(known & (group == nearest))
            volatility[k] = volatility[there[np.argmin(np.abs(place[there] - place[k]))]]
        source[k] = VolatilitySource.SMILE if nearest == mine else VolatilitySource.OTHER_EXPIRY
    return replace(chains, volatility=volatility, source=source)
