"""What the levels of an order book must satisfy together: two sides, in order, not crossed, of one moment."""

import polars as pl

from marginax.tables.findings import find

TABLE = "order_book"
# A touch that is wider than its own mid price is no market.
WIDEST = 1.0


def order_book_findings(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Levels that break a rule; where a whole book does, all of its levels."""
    price, bid, book = pl.col("price"), pl.col("side") == "bid", "instrument_id"
    rows = rows.with_columns(
        pl.when(bid).then(price).max().over(book).alias("__bid"),
        pl.when(~bid).then(price).min().over(book).alias("__ask"),
        pl.col("time").n_unique().over(book).alias("__times"),
        price.shift(1).over(book, "side").alias("__before"),
    )
    best_bid, best_ask, before = pl.col("__bid"), pl.col("__ask"), pl.col("__before")
    one_sided = best_bid.is_null() | best_ask.is_null()
    crossed = best_bid >= best_ask
    wide = ~crossed & (best_ask - best_bid > WIDEST * ((best_ask + best_bid) / 2).abs())
    unsorted = pl.when(bid).then(price >= before).otherwise(price <= before)
    told = pl.format("the best bid {} is not below the best ask {}", best_bid, best_ask)
    apart = pl.format("the spread between {} and {} is wider than the price", best_bid, best_ask)
    order = pl.format("the {} {} follows {}", "side", price, before)
    return [
        find(
            rows, TABLE, one_sided, "side", pl.format("the book of '{}' has one side only", book),
            "Give bids and asks, or leave the book out",
        ),
        find(rows, TABLE, crossed, "price", told, "Give the levels of one moment, or leave the book out"),
        find(rows, TABLE, wide, "price", apart, "Correct the best prices, or leave the book out"),
        find(
            rows, TABLE, unsorted, "price", order,
            "List each price once, the best of a side first: bids fall and asks rise",
        ),
        find(
            rows, TABLE, pl.col("__times") > 1, "time",
            pl.format("the book of '{}' holds levels of {} moments", book, "__times"), "Keep the latest snapshot",
        ),
    ]  # fmt: skip
