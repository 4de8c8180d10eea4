"""The venue by underlying: open interest, who holds it, what is at risk, and margins that follow it.

Conventions: amounts in account currency. `accounts_*`, `herfindahl_*`, `largest_*` and `few_*` are of each side
(`marginax.venue.concentration`); net Greeks are those of accounts at risk (`marginax.venue.open_interest`).
"""

import numpy as np
import polars as pl

from marginax.market import Market
from marginax.venue.limits import scaled_fraction
from marginax.venue_sections import Venue

SUMMED = (
    "open_interest",
    "short_interest",
    "imbalance",
    "at_risk",
    "without_margin",
    "net_delta",
    "net_gamma",
    "net_vega",
)
SHARES = ("accounts", "herfindahl", "largest", "largest_share", "few_share")


def by_underlying(
    interest: pl.DataFrame, shares: pl.DataFrame, net: pl.DataFrame, market: Market, settings: Venue
) -> pl.DataFrame:
    """`venue.parquet`: one row an underlying with open interest, in order of their names.

    Columns: `underlying`, `price` (worth of a unit), `open_interest`, `short_interest`, `imbalance`,
    `stated_open_interest` (that of `underlyings`, null where it says nothing), `at_risk`, `at_risk_share`,
    `without_margin`, `net_delta`, `net_gamma` (units of the underlying), `net_delta_amount`, `net_gamma_amount`,
    `net_vega`; for each side accounts, Herfindahl's index, the largest account and its share, the share of the largest
    few; `margin_fraction`, `scaled_margin` and `base_margin`: the fraction of net deltas that margins following open
    interest ask, what that comes to, and what the base fraction comes to.
    """
    rows = interest.group_by("underlying", maintain_order=True).agg(pl.col("price").first(), pl.col(*SUMMED).sum())
    stated = market.underlyings.select("underlying", stated_open_interest="open_interest")
    rows = rows.join(stated, on="underlying", how="left", maintain_order="left")
    for side in ("long", "short"):
        own = shares.filter(pl.col("side") == side).select(
            "underlying", *(pl.col(name).alias(f"{name}_{side}") for name in SHARES)
        )
        rows = rows.join(own, on="underlying", how="left", maintain_order="left")
    rows = rows.join(net, on="underlying", how="left", maintain_order="left")
    gross = pl.col("open_interest") + pl.col("short_interest")
    rows = rows.with_columns(
        pl.when(gross > 0).then(pl.col("at_risk") / gross).alias("at_risk_share"),
        (pl.col("net_delta") * pl.col("price")).fill_null(0.0).alias("net_delta_amount"),
        (pl.col("net_gamma") * pl.col("price")).fill_null(0.0).alias("net_gamma_amount"),
    )
    # Whoever knows of more open interest is right: the book may be a part of the venue, the table may be old.
    largest = rows.select(pl.max_horizontal("open_interest", "short_interest", "stated_open_interest").fill_null(0.0))
    caps = np.array([settings.caps_of(name) for name in rows["underlying"]], float).reshape(-1, 2)
    fraction = scaled_fraction(largest.to_series().to_numpy(), caps[:, 0], caps[:, 1], base=settings.base_fraction)
    return (
        rows.with_columns(
            pl.Series("margin_fraction", fraction),
            (pl.col("net").fill_null(0.0) * pl.Series(fraction)).alias("scaled_margin"),
            (pl.col("net").fill_null(0.0) * settings.base_fraction).alias("base_margin"),
        )
        .select(
            "underlying",
            "price",
            "open_interest",
            "short_interest",
            "imbalance",
            "stated_open_interest",
            "at_risk",
            "at_risk_share",
            "without_margin",
            "net_delta",
            "net_gamma",
            "net_delta_amount",
            "net_gamma_amount",
            "net_vega",
            *(f"{name}_{side}" for side in ("long", "short") for name in SHARES),
            "margin_fraction",
            "scaled_margin",
            "base_margin",
        )
        .sort("underlying")
    )
