"""What is odd about the data without being wrong: said once for the run, because no single account is to blame."""

from typing import Any

import polars as pl

from marginax.instruments import OPTIONS
from marginax.match import Matched

# A mark at less than half or more than twice its index is another unit, or another instrument, more often than a price.
FAR = 2.0
LISTED = 20


def data_notes(matched: Matched) -> dict[str, Any]:
    """Notes for the manifest: history and forwards of nothing, prices after `as_of`, marks far from their index,
    balances that are there twice."""
    return {
        "history_of_nothing": _history_of_nothing(matched),
        "prices_after_as_of": _prices_after(matched),
        "marks_far_from_index": _far_marks(matched),
        "forwards_of_nothing": _forwards_of_nothing(matched),
        "balances_given_twice": _repeated_balances(matched),
    }


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


def _far_marks(matched: Matched) -> list[str]:
    """Instruments on logarithmic underlyings whose mark, in account currency, is far from the index."""
    market = matched.market
    prices = market.underlyings.filter(pl.col("shock") == "log").select("underlying", "index_price")
    quotes = pl.concat(
        [
            market.underlyings.select(quote="underlying", quote_price="index_price"),
            pl.DataFrame({"quote": [market.currency], "quote_price": [1.0]}),
        ]
    )
    rows = (
        matched.book.tables["instruments"]
        .rows.filter(~pl.col("kind").is_in(list(OPTIONS)))
        .select("instrument_id", "underlying", "quote")
        .join(market.quotes.select("instrument_id", "mark_price"), on="instrument_id")
        .join(prices, on="underlying")
        .join(quotes, on="quote")
        .with_columns(times=pl.col("mark_price") * pl.col("quote_price") / pl.col("index_price"))
        .filter((pl.col("times") > FAR) | (pl.col("times") < 1 / FAR))
        .sort("instrument_id")
    )
    return rows["instrument_id"].head(LISTED).to_list()
