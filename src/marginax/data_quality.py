"""What is odd about the data without being wrong: said once for the run, because no single account is to blame."""

from datetime import timedelta
from typing import Any

import polars as pl

from marginax.config import Config
from marginax.instruments import OPTIONS
from marginax.match import Matched
from marginax.sections import Basis

# A mark at less than half or more than twice its index is another unit, or another instrument, more often than a price.
FAR = 2.0
LISTED = 20
MICROS_A_YEAR = 365 * 86_400_000_000


def data_notes(matched: Matched, settings: Config) -> dict[str, Any]:
    """Notes for the manifest: history and forwards of nothing, prices after `as_of`, marks apart from their index,
    prices that were refused, balances that are there twice, and how many prices are of unknown quality where that is
    charged for."""
    marks = _marks(matched)
    notes = {
        "history_of_nothing": _history_of_nothing(matched),
        "prices_after_as_of": _prices_after(matched),
        "marks_far_from_index": _far_marks(marks),
        "marks_apart_from_index": _marks_apart(marks, settings.price_checks.mark_share, settings.basis),
        "prices_refused": [each.reason for each in (matched.market.fallbacks or ())[:LISTED]],
        "forwards_of_nothing": _forwards_of_nothing(matched),
        "balances_given_twice": _repeated_balances(matched),
    }
    return {**notes, "price_quality": _quality(matched, settings)} if settings.oracle.on else notes


def _quality(matched: Matched, settings: Config) -> dict[str, int]:
    """Marks and index prices whose time or confidence is not known, or beyond the worst that is charged for."""
    market, worst = matched.market, settings.oracle
    tables = [table.select("time", "confidence") for table in (market.quotes, market.underlyings)]
    oldest = market.as_of - timedelta(days=worst.worst_age_days)
    asked = {
        "without_time": pl.col("time").is_null(),
        "without_confidence": pl.col("confidence").is_null(),
        "older_than_the_worst": pl.col("time") < oldest,
        "less_certain_than_the_worst": pl.col("confidence") > worst.worst_confidence,
    }
    return {name: pl.concat(tables).filter(bad).height for name, bad in asked.items()}


def _repeated_balances(matched: Matched) -> list[str]:
    """Accounts with two rows of one asset and amount: rows are summed, and one of them may be a mistake."""
    rows = matched.book.tables["balances"].rows.filter(pl.col("amount") != 0)
    twice = rows.select("account_id", "asset", "amount").filter(
        pl.struct("account_id", "asset", "amount").is_duplicated()
    )
    return twice["account_id"].unique().sort().head(LISTED).to_list()


def _history_of_nothing(matched: Matched) -> dict[str, int]:
    """Rows by name of the history that is neither an underlying nor, for its basis, an instrument."""
    market, rows = matched.market, matched.market.history
    ids = pl.Series(matched.book.instruments.ids, dtype=pl.String)
    named = pl.col("underlying").is_in(market.underlyings["underlying"].implode())
    basis = (pl.col("factor") == "basis") & pl.col("underlying").is_in(ids.implode())
    counts = rows.filter(~(named | basis)).group_by("underlying").agg(pl.len()).sort("underlying")
    return dict(counts.head(LISTED).iter_rows())


def _prices_after(matched: Matched) -> int:
    """Quotes and index prices that are later than the time the margin is for."""
    market = matched.market
    return sum(table.filter(pl.col("time") > market.as_of).height for table in (market.quotes, market.underlyings))


def _forwards_of_nothing(matched: Matched) -> list[str]:
    """Forwards whose underlying has no option that expires at their time."""
    options = matched.book.tables["instruments"].rows.filter(pl.col("kind").is_in(list(OPTIONS)))
    stray = matched.market.forwards.join(options, on=["underlying", "expiry"], how="anti")
    named = stray.select(pl.format("{} {}", "underlying", pl.col("expiry").dt.strftime("%Y-%m-%d %H:%M"))).to_series()
    return named.sort().head(LISTED).to_list()


def _marks(matched: Matched) -> pl.DataFrame:
    """instrument_id, times (the mark over the index, both in account currency), years to expiry (0 for none) and the
    larger confidence, of all but options on logarithmic underlyings."""
    market = matched.market
    prices = market.underlyings.filter(pl.col("shock") == "log")
    prices = prices.select("underlying", "index_price", of_index="confidence")
    quotes = pl.concat(
        [
            market.underlyings.select(quote="underlying", quote_price="index_price"),
            pl.DataFrame({"quote": [market.currency], "quote_price": [1.0]}),
        ]
    )
    return (
        matched.book.tables["instruments"]
        .rows.filter(~pl.col("kind").is_in(list(OPTIONS)))
        .select("instrument_id", "underlying", "quote", "expiry")
        .join(market.quotes.select("instrument_id", "mark_price", "confidence"), on="instrument_id")
        .join(prices, on="underlying")
        .join(quotes, on="quote")
        .select(
            "instrument_id",
            times=pl.col("mark_price") * pl.col("quote_price") / pl.col("index_price"),
            years=((pl.col("expiry") - market.as_of).dt.total_microseconds() / MICROS_A_YEAR).fill_null(0.0),
            confidence=pl.max_horizontal("confidence", "of_index").fill_null(0.0),
        )
        .sort("instrument_id")
    )


def _far_marks(marks: pl.DataFrame) -> list[str]:
    """Instruments whose mark is in another unit than their index, by its size."""
    far = marks.filter((pl.col("times") > FAR) | (pl.col("times") < 1 / FAR))
    return far["instrument_id"].head(LISTED).to_list()


def _marks_apart(marks: pl.DataFrame, share: float, basis: Basis) -> dict[str, float]:
    """Those whose mark is further from the index than confidence, a day's move of the basis and `share` (of a dated
    contract as much again for every year) explain: how far, relative."""
    apart = pl.col("times") - 1
    moves = (basis.volatility**2 + (basis.annualised_volatility * pl.col("years")) ** 2).sqrt()
    explained = share * (1 + pl.col("years")) + pl.col("confidence") + moves
    far = marks.filter(apart.abs() > explained).select("instrument_id", apart.round(4).alias("apart"))
    return dict(far.sort(pl.col("apart").abs(), "instrument_id", descending=[True, False]).head(LISTED).iter_rows())
