"""Funding of perpetuals: what the market says of it, and what has accrued since the last settlement.

A rate is the share of notional that longs pay shorts (negative: shorts pay longs). Quotes give it for an interval
(`funding_rate`, `funding_interval_hours`) with the time of the next settlement (`funding_time`); here it is for a day.
Notional is quantity x multiplier x mark, in the settlement asset; of an inverse contract, quantity x multiplier / mark
coins. Funding accrues evenly between settlements.

A rate that is not known counts as the worst that is configured, or as the largest that the market quotes if that is
larger, for both sides, and nothing is received on the word of it.
"""

from datetime import timedelta
from typing import Any

import equinox as eqx
import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float64, Int64

from marginax.instruments import INVERSE, Instruments
from marginax.market import Market
from marginax.payment_sections import Funding

HOURS_A_DAY = 24.0
HOUR_MICROS = 3_600_000_000
LISTED = 20
COLUMNS = ("funding_rate", "funding_interval_hours", "funding_time")


class FundingArrays(eqx.Module):
    """Of each instrument: whether it is a `perpetual`, the `rate` a day (NaN: not known), and whether the settlement
    that was to come next is past already (`late`)."""

    perpetual: Bool[Any, " instruments"]
    rate: Float[Any, " instruments"]
    late: Bool[Any, " instruments"]


def market_funding(
    instruments: Instruments, market: Market, listed: Int64[np.ndarray, " listed"], settings: Funding
) -> FundingArrays:
    """What a market says of funding, for the instruments that are `listed`, by number."""
    rows = _rows(instruments, market, listed)
    rate, interval, left = _stated(rows, settings)
    perpetual = rows["kind"].to_numpy() == "perpetual"
    return FundingArrays(perpetual, rate * (HOURS_A_DAY / interval), perpetual & (left <= 0))


def settlement_notional(
    style: Any, multiplier: Float[Any, " instruments"], mark: Float[Any, " instruments"]
) -> Float[Any, " instruments"]:
    """Notional of one contract in its settlement asset; of NumPy arrays or of JAX's. Gradient: exact."""
    array = multiplier.__array_namespace__()
    inverse = array.asarray(style) == INVERSE
    return array.where(inverse, multiplier / array.where(inverse, mark, 1.0), multiplier * array.abs(mark))


def accrued_funding(
    instruments: Instruments, market: Market, listed: Int64[np.ndarray, " listed"], settings: Funding
) -> Float64[np.ndarray, "listed 2"]:
    """What a contract held long, and one held short, has accrued: settlement asset, positive where it is received.

    A known rate with a known next settlement accrues for the time since the last one, to both sides alike: what longs
    owe shorts receive. Where the rate, the interval or the time is not known, or the settlement is late, whoever would
    pay owes for as long as can be, and whoever would receive has nothing.
    """
    rows = _rows(instruments, market, listed)
    rate, interval, left = _stated(rows, settings)
    most = np.maximum(interval, settings.worst_elapsed_hours)
    # A next settlement that is further away than an interval says nothing of the last one.
    dated = ~np.isnan(left) & (left <= interval) & rows["funding_interval_hours"].is_not_null().to_numpy()
    elapsed = np.where(dated, np.minimum(interval - left, most), most)
    known = dated & (left > 0) & ~np.isnan(rate)
    share = rate / interval * elapsed
    received = np.stack([-share, share], axis=1)
    worst = -_worst_rate(market, settings) / HOURS_A_DAY * elapsed
    received = np.where(np.isnan(rate)[:, None], worst[:, None], received)
    received = np.where(known[:, None], received, np.minimum(received, 0.0))
    notional = settlement_notional(instruments.style[listed], instruments.multiplier[listed], rows["mark"].to_numpy())
    perpetual = rows["kind"].to_numpy() == "perpetual"
    return np.where(perpetual[:, None], notional[:, None] * received, 0.0)


def of_positions(
    accrued: Float64[np.ndarray, "listed 2"],
    rows: Int64[np.ndarray, " positions"],
    amounts: Float64[np.ndarray, " positions"],
) -> Float64[np.ndarray, " positions"]:
    """What positions of so many contracts have accrued, of what one contract has."""
    with np.errstate(over="ignore"):  # what is beyond float64 becomes infinite, and its holder `numerical`
        return np.abs(amounts) * accrued[rows, (amounts < 0).astype(int)]


def funding_notes(instruments: Instruments, market: Market, settings: Funding) -> dict[str, list[str]]:
    """Perpetuals with a quote whose funding is not known, is late, or is beyond the rate that is projected."""
    quoted = pl.Series(instruments.ids, dtype=pl.String).is_in(market.quotes["instrument_id"].implode()).to_numpy()
    listed = np.flatnonzero(quoted & (instruments.kind == "perpetual"))
    rows = _rows(instruments, market, listed)
    rate, interval, left = _stated(rows, settings)
    found = {f"{name}_unknown": rows[name].is_null().to_numpy() for name in COLUMNS if name != "funding_time"}
    if settings.accrued:
        found["funding_time_unknown"] = np.isnan(left) | (left > interval)
        found["funding_time_passed"] = left <= 0
    if settings.projected:
        found["funding_rate_capped"] = np.abs(rate) * (HOURS_A_DAY / interval) > settings.largest_rate
    ids = instruments.ids[listed]
    return {name: ids[which][:LISTED].tolist() for name, which in found.items() if which.any()}


def rescheduled(quotes: pl.DataFrame, by: timedelta) -> pl.DataFrame:
    """Quotes whose settlements are as far ahead of a later time as they were of the earlier one."""
    return quotes.with_columns(pl.col("funding_time") + pl.lit(by, pl.Duration("us")))


def _rows(instruments: Instruments, market: Market, listed: Int64[np.ndarray, " listed"]) -> pl.DataFrame:
    """kind, mark, the columns of funding, and the hours until the next settlement, in the order of `listed`."""
    names = pl.DataFrame(
        {"instrument_id": instruments.ids[listed], "kind": instruments.kind[listed]},
        schema={"instrument_id": pl.String, "kind": pl.String},
    )
    left = (pl.col("funding_time") - pl.lit(market.as_of)).dt.total_microseconds() / HOUR_MICROS
    quotes = market.quotes.select("instrument_id", pl.col("mark_price").alias("mark"), *COLUMNS, left.alias("left"))
    return names.join(quotes, on="instrument_id", how="left", maintain_order="left")


def _worst_rate(market: Market, settings: Funding) -> float:
    """The rate a day of those that are not known: of all quotes, so that it does not depend on who holds what."""
    interval = pl.col("funding_interval_hours").cast(pl.Float64).fill_null(settings.worst_interval_hours)
    largest = market.quotes.select((pl.col("funding_rate").cast(pl.Float64).abs() * HOURS_A_DAY / interval).max())
    return max(settings.worst_rate, largest.item() or 0.0)


def _stated(rows: pl.DataFrame, settings: Funding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rate for an interval and hours until the next settlement (NaN: not known), and the hours of an interval."""
    rate, interval, left = (
        rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        for name in ("funding_rate", "funding_interval_hours", "left")
    )
    return rate, np.where(np.isnan(interval), settings.worst_interval_hours, interval), left
