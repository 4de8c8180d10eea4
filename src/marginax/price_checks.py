"""Prices against the last good ones: what jumped too far or ran backwards in time is not used.

The last good price then stands in, with its own time, so that its age is charged from there on, and with the wider of
both confidences. Whoever holds it is `fallback`, with both prices and the jump in the reason.
"""

from dataclasses import replace
from math import isfinite
from typing import Any

import polars as pl

from marginax.instruments import OPTIONS
from marginax.market import NO_HISTORY, Fallback, Market, read_market
from marginax.price_sections import PriceChecks
from marginax.tables.door import OnError, admit
from marginax.tables.read import Source

# What comes from the last good row together with its price: a spread or a volatility belongs to it.
KEPT = {"underlyings": ("index_price", "time"), "quotes": ("mark_price", "bid", "ask", "implied_vol", "time")}
KEY = {"underlyings": "underlying", "quotes": "instrument_id"}
LAST = " of the last good price"
# Returns below which a history says nothing of a volatility.
LEAST_RETURNS = 20


def last_good(market: Market, *, quotes: Source, underlyings: Source, on_error: OnError = "raise") -> Market:
    """The prices of an earlier run, for `check_prices`, in the currency of `market`. Raises BadInput as `read_market`
    does."""
    return read_market(
        quotes=quotes,
        underlyings=underlyings,
        history=NO_HISTORY,
        as_of=market.as_of,
        currency=market.currency,
        on_error=on_error,
    )


def check_prices(
    market: Market, previous: Market, settings: PriceChecks | None = None, *, instruments: Source | None = None
) -> Market:
    """The market with the last good price wherever the new one is refused; `fallbacks` names them all.

    A price is refused that is older than the last good one, or that moved from it by more than `settings` allows. The
    volatility is that of the underlying's history. A mark is measured by its underlying, that of an option in its
    underlying's price: no option moves by more. `instruments` says which those are; without them marks are
    measured by `jump_share` alone.
    """
    settings = settings or PriceChecks()
    sizes = _volatilities(market, settings.volatility_bars)
    shocks = market.underlyings.select("underlying", absolute=pl.col("shock") == "absolute")
    of_index = shocks.join(sizes, on="underlying", how="left").with_columns(
        worth=1.0, index=pl.lit(None, pl.Float64), option=False
    )
    market, indices = _checked(market, previous, "underlyings", of_index, settings)
    of_marks = _of_marks(market, of_index, instruments)
    market, marks = _checked(market, previous, "quotes", of_marks, settings)
    return replace(market, fallbacks=(*(market.fallbacks or ()), *indices, *marks))


def _volatilities(market: Market, bars: int) -> pl.DataFrame:
    """underlying, sigma: root mean square of the last returns, of a day of the history's own bars."""
    absolute = market.underlyings.filter(pl.col("shock") == "absolute")["underlying"]
    value = pl.when(pl.col("underlying").is_in(absolute.implode())).then("value").otherwise(pl.col("value").log())
    step = pl.col("time").diff().dt.total_microseconds() / 86_400_000_000
    return (
        market.history.filter(factor="price")
        .select("time", "underlying", walk=value)
        .sort("underlying", "time")
        .group_by("underlying", maintain_order=True)
        .agg(
            variance=(pl.col("walk").tail(bars + 1).diff() ** 2).mean(),
            days=step.tail(bars).median(),
            returns=pl.len() - 1,
        )
        .filter(pl.col("returns") >= LEAST_RETURNS)
        .select("underlying", sigma=(pl.col("variance") / pl.col("days")).sqrt())
    )


def _of_marks(market: Market, of_index: pl.DataFrame, instruments: Source | None) -> pl.DataFrame:
    """What marks are measured by: the row of their underlying, what one of their quote currency is worth, the index."""
    prices = market.underlyings.select("underlying", index="index_price")
    if instruments is None:
        return of_index.clear().rename({"underlying": "instrument_id"})
    rows = admit(instruments, "instruments", on_error="quarantine").rows
    money = pl.concat(
        [
            prices.rename({"underlying": "quote", "index": "worth"}),
            pl.DataFrame({"quote": [market.currency], "worth": [1.0]}),
        ]
    )
    option = pl.col("kind").is_in(list(OPTIONS))
    coin = option & (pl.col("settlement") == "inverse")
    return (
        rows.select("instrument_id", "underlying", "quote", option=option, coin=coin)
        .join(of_index.select("underlying", "absolute", "sigma"), on="underlying", how="left")
        .join(prices, on="underlying", how="left")
        .join(money, on="quote", how="left")
        # A premium in coins is worth the coin.
        .with_columns(worth=pl.when("coin").then("index").otherwise("worth"))
        .select("instrument_id", "absolute", "sigma", "worth", "index", "option")
    )


def _checked(
    market: Market, previous: Market, table: str, measures: pl.DataFrame, settings: PriceChecks
) -> tuple[Market, list[Fallback]]:
    key, kept = KEY[table], KEPT[table]
    price, rows = kept[0], market.tables[table].rows
    last = previous.tables[table].rows.select(key, *(pl.col(name).alias(name + LAST) for name in (*kept, "confidence")))
    both = rows.join(last, on=key, how="left", maintain_order="left")
    both = both.join(measures, on=key, how="left", maintain_order="left")
    new, old = pl.col(price), pl.col(price + LAST)
    days = (pl.col("time") - pl.col("time" + LAST)).dt.total_microseconds() / 86_400_000_000
    jump = (new - old).abs() * pl.col("worth").fill_null(1.0)
    share = jump / pl.when("option").then(pl.col("index").abs()).otherwise(old.abs() * pl.col("worth").fill_null(1.0))
    positive = (new > 0) & (old > 0)
    move = pl.when("absolute").then(jump).when("option").then(share).when(positive).then((new / old).log().abs())
    both = both.with_columns(
        backwards=(days < 0).fill_null(False),
        share=share,
        deviations=move / (pl.col("sigma") * days.clip(lower_bound=1.0).fill_null(1.0).sqrt()),
    )
    wild, far = pl.lit(False), pl.lit(False)
    if settings.jump_sigmas is not None:
        wild = (pl.col("deviations") > settings.jump_sigmas) & (pl.col("share") > settings.least_jump)
    if settings.jump_share is not None:
        far = pl.col("share") > settings.jump_share
    jumped = ((new != old) & (wild.fill_null(False) | far.fill_null(False))).fill_null(False)
    both = both.with_columns(refused=pl.col("backwards") | jumped)
    known = pl.col("confidence").is_not_null() & pl.col("confidence" + LAST).is_not_null()
    widest = pl.when(known).then(pl.max_horizontal("confidence", "confidence" + LAST))
    chosen = both.with_columns(
        *(pl.when("refused").then(pl.col(name + LAST)).otherwise(name).alias(name) for name in kept),
        pl.when("refused").then(widest).otherwise("confidence").alias("confidence"),
    ).select(rows.columns)
    found = [_fallback(row, table, key, price) for row in both.filter("refused").iter_rows(named=True)]
    tables = {**market.tables, table: market.tables[table].of(chosen)}
    return replace(market, tables=tables), found


def _fallback(row: dict[str, Any], table: str, key: str, price: str) -> Fallback:
    name, new, old = row[key], row[price], row[price + LAST]
    what = f"{'index price' if table == 'underlyings' else 'mark'} of {name}: {old:,.8g} is kept"
    if row["backwards"]:
        early, late = (f"{row[each]:%Y-%m-%d %H:%M:%S}" for each in ("time", "time" + LAST))
        return Fallback(table, name, old, new, f"{what}, {new:,.8g} is of {early}, before {late}")
    deviations = row["deviations"]
    size = "" if deviations is None or not isfinite(deviations) else f", {deviations:,.1f} standard deviations"
    change = f"{new / old - 1:+.1%}" if old else f"{new - old:+,.8g}"
    return Fallback(table, name, old, new, f"{what}, {new:,.8g} jumped ({change}{size})")
