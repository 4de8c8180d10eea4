"""What a row of one table must satisfy beyond the type of its cells."""

import polars as pl

from marginax.tables.book_rules import order_book_findings
from marginax.tables.findings import find, no_findings, together
from marginax.tables.funding_rules import funding_findings

FACTORS = ("price", "implied_vol", "basis")
# A number above zero, and a unit.
TENOR = r"^forward:(\d*[1-9]\d*(\.\d+)?|\d+\.\d*[1-9]\d*)[dDwWmMyY]$"
# Discount factors: thirty years at 10 %, and ten at -4 %.
DISCOUNTS = (0.05, 1.5)
# Basis points.
WHOLE_PRICE = 10_000.0


def findings(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """The rows of `table` that break one of its rules."""
    check = {"instruments": _instruments, "quotes": _quotes, "history": _history, "forwards": _forwards,
             "underlyings": _underlyings, "order_book": order_book_findings}.get(table)  # fmt: skip
    return together(check(rows)) if check else no_findings()


def _instruments(rows: pl.DataFrame) -> list[pl.DataFrame]:
    kind, settlement, expiry = pl.col("kind"), pl.col("settlement"), pl.col("expiry")
    settle, spot = pl.col("settle_asset"), kind == "spot"
    option = kind.is_in(["call", "put"])
    return [
        find(
            rows, "instruments", option & pl.col("strike").is_null(), "strike",
            pl.format("a {} has no strike", kind), "Give its strike in the quote currency",
        ),
        find(
            rows, "instruments", option & expiry.is_null(), "expiry",
            pl.format("a {} has no expiry", kind), "Give the time it expires",
        ),
        find(
            rows, "instruments", (kind == "future") & expiry.is_null(), "expiry",
            "a future has no expiry", "Give the time it expires, or call it a perpetual",
        ),
        find(
            rows, "instruments", kind.is_in(["spot", "perpetual"]) & expiry.is_not_null(), "expiry",
            pl.format("a {} has an expiry", kind), "Leave it empty, or call it a future",
        ),
        find(
            rows, "instruments", spot & (settlement == "inverse"), "settlement",
            "spot is settled inversely", "Spot is linear: its value is quantity x multiplier x price",
        ),
        find(
            rows, "instruments", ~spot & (settlement == "inverse") & (settle != pl.col("underlying")), "settle_asset",
            pl.format("an inverse contract on '{}' settles in '{}'", "underlying", settle),
            "Leave it empty: an inverse contract pays in the coin it is on",
        ),
        find(
            rows, "instruments", (settlement == "inverse") & (pl.col("quote") == pl.col("underlying")), "quote",
            pl.format("an inverse contract on '{}' is quoted in it", "underlying"),
            "Name the currency of its strike, or of its multiplier: USD; premiums in coins need no word of their own",
        ),
        find(
            rows, "instruments", pl.col("margin_multiplier") < 1, "margin_multiplier",
            pl.format("{} was given", "margin_multiplier"),
            "Give 1 or more: it raises the margin of the instrument, and leaving it out changes nothing",
        ),
        find(
            rows, "instruments", spot & (settle != pl.col("quote")), "settle_asset",
            pl.format("spot quoted in '{}' settles in '{}'", "quote", settle),
            "Leave it empty: spot is worth its price in the quote currency",
        ),
    ]  # fmt: skip


def _quotes(rows: pl.DataFrame) -> list[pl.DataFrame]:
    crossed = pl.format("the bid {} is above the ask {}", "bid", "ask")
    bad = pl.col("bid") > pl.col("ask")
    return [
        find(rows, "quotes", bad, "bid", crossed, "Correct the quote, or leave bid and ask empty"),
        _too_wide(rows, "quotes"),
        *funding_findings(rows),
    ]


def _too_wide(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    what = pl.format("{} was given, and a confidence above 1 is wider than the price itself", "confidence")
    remedy = "Give one standard deviation relative to the price (0.001 is a tenth of a per cent), or leave it empty"
    return find(rows, table, pl.col("confidence") > 1, "confidence", what, remedy)


def _underlyings(rows: pl.DataFrame) -> list[pl.DataFrame]:
    wide = pl.format("a spread of {} basis points is wider than the price", "spread_bps")
    remedy = "Write 1.5 for 0.015 % of the price, or leave it empty"
    return [
        find(rows, "underlyings", pl.col("spread_bps") > WHOLE_PRICE, "spread_bps", wide, remedy),
        _too_wide(rows, "underlyings"),
    ]


def _forwards(rows: pl.DataFrame) -> list[pl.DataFrame]:
    what = pl.format("{} was given", "discount")
    remedy = "Give the factor to today: 0.95 for a payment worth 95 % of itself"
    return [find(rows, "forwards", ~pl.col("discount").is_between(*DISCOUNTS), "discount", what, remedy)]


def _history(rows: pl.DataFrame) -> list[pl.DataFrame]:
    price, value, factor = pl.col("price"), pl.col("value"), pl.col("factor").fill_null("price")
    unknown = ~(factor.is_in(list(FACTORS)) | factor.str.contains(TENOR))
    volatility = pl.coalesce("price", "value")
    return [
        find(
            rows, "history", (factor == "implied_vol") & (volatility <= 0), "value",
            pl.format("the implied volatility {} was given", volatility),
            "Give a number above zero (0.8 is 80 %) or remove the row",
        ),
        find(
            rows, "history", price.is_null() & value.is_null(), "price",
            pl.format("{} has neither price nor value", "underlying"), "Give one of the two or remove the row",
        ),
        find(
            rows, "history", price.is_not_null() & value.is_not_null(), "value",
            "both price and value are given", "Keep one of the two",
        ),
        find(
            rows, "history", unknown, "factor", pl.format("'{}' was given", factor),
            "Use price, implied_vol, basis, or forward: with a tenor such as forward:90d",
        ),
    ]  # fmt: skip
