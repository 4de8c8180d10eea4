"""The synthetic venue's chain with its terms and prices, as the tests of it read it."""

from datetime import UTC, datetime

import polars as pl

from marginax.synthetic import Venue

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
OPTION = pl.col("kind").is_in(["call", "put"])
INVERSE = pl.col("settlement") == "inverse"
UPFRONT = pl.col("premium") == "upfront"


def dollars(made: Venue) -> dict[str, float]:
    return dict(made.tables["underlyings"].select("underlying", "index_price").iter_rows()) | {"USD": 1.0}


def chain_of(made: Venue) -> pl.DataFrame:
    """The options with their quotes; `years`, and forward and discount as carried at the underlying's rate."""
    usd, rate = dollars(made), pl.col("rate") * pl.col("years")
    terms = made.tables["instruments"].filter(OPTION).join(made.tables["quotes"], on="instrument_id")
    return (
        terms.join(made.tables["underlyings"].select("underlying", "index_price", "rate"), on="underlying")
        .with_columns(years=(pl.col("expiry") - AS_OF).dt.total_seconds() / (365 * 86_400))
        .with_columns(
            forward=pl.col("index_price") * rate.exp() / pl.col("quote").replace_strict(usd, return_dtype=pl.Float64),
            discount=(-rate).exp(),
        )
        .with_columns(
            per_value=pl.when(INVERSE).then(1 / pl.col("forward")).when(UPFRONT).then("discount").otherwise(1)
        )
    )


def positions_with_terms(made: Venue, usd: dict[str, float]) -> pl.DataFrame:
    """Positions with their instruments and quotes; prices in USD, entry (the mark where there is none), and size."""
    return (
        made.tables["positions"]
        .join(made.tables["instruments"], on="instrument_id")
        .join(made.tables["quotes"], on="instrument_id")
        .with_columns(
            quote_usd=pl.col("quote").replace_strict(usd, return_dtype=pl.Float64),
            coin_usd=pl.col("underlying").replace_strict(usd, return_dtype=pl.Float64),
            entry=pl.col("entry_price").fill_null(pl.col("mark_price")),
            size=pl.col("quantity") * pl.col("multiplier"),
        )
    )
