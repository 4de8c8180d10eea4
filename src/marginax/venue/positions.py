"""Who holds which contracts, and in what state: the positions that the venue's view is made of.

Conventions: one row a holder and instrument, amounts in signed contracts. Isolated positions are holders of their own,
with the number of their account. Rows that were set aside at the door or for want of a price are positions too: they
belong to accounts without a margin.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.book import number
from marginax.exposures import Exposures
from marginax.match import Matched


@dataclass(frozen=True)
class Holders:
    """By holder: margin ratio (NaN where nothing is owed), whether it has no margin, and whether it is at risk."""

    ratio: Float64[np.ndarray, " holders"]
    without_margin: Bool[np.ndarray, " holders"]
    at_risk: Bool[np.ndarray, " holders"]


def holder_states(table: pl.DataFrame, *, near_ratio: float) -> Holders:
    """States from the table of margins (accounts, then isolated positions).

    At risk is whose margin ratio is below `near_ratio`, who is called, and who has no margin: nobody knows how near to
    trouble it is.
    """
    without = table["initial_margin"].is_null().to_numpy()
    ratio = table["margin_ratio"].fill_null(np.nan).to_numpy()
    called = (table["call"].fill_null(0.0) > 0).to_numpy()
    with np.errstate(invalid="ignore"):
        return Holders(ratio, without, without | called | (ratio < near_ratio))


@dataclass(frozen=True)
class Positions:
    """Entries by holder (-1 where set aside), account, instrument number of the book, and signed contracts;
    `without_margin` and `at_risk` are of the holder of each. `set_aside` counts the rows that were, `unknown` those of
    them in no known contract."""

    holder: Int64[np.ndarray, " entries"]
    account: Int64[np.ndarray, " entries"]
    instrument: Int64[np.ndarray, " entries"]
    amount: Float64[np.ndarray, " entries"]
    without_margin: Bool[np.ndarray, " entries"]
    at_risk: Bool[np.ndarray, " entries"]
    set_aside: int
    unknown: int


def venue_positions(matched: Matched, exposures: Exposures, holders: Holders) -> Positions:
    """All positions of a book, those set aside behind the others."""
    book, held = matched.book, exposures.positions
    aside = _set_aside(matched)
    known = aside.drop_nulls()
    lost = np.ones(known.height, bool)
    return Positions(
        holder=np.concatenate([held.owners, np.full(known.height, -1)]),
        account=np.concatenate([book.holder_accounts[held.owners], known["account"].to_numpy()]).astype(np.int64),
        instrument=np.concatenate([exposures.listed[held.columns], known["instrument"].to_numpy()]).astype(np.int64),
        amount=np.concatenate([held.amounts, known["quantity"].to_numpy()]),
        without_margin=np.concatenate([holders.without_margin[held.owners], lost]),
        at_risk=np.concatenate([holders.at_risk[held.owners], lost]),
        set_aside=aside.height,
        unknown=aside.height - known.height,
    )


def _set_aside(matched: Matched) -> pl.DataFrame:
    """Rows of positions in quarantine: account, instrument and quantity, null for what cannot be read."""
    book = matched.book
    rows = book.tables["positions"].quarantine
    cell = pl.col("cells").str.json_path_match
    quantity = cell("$.quantity").cast(pl.Float64, strict=False)
    return rows.select(
        number(pl.col("account_id"), book.accounts).alias("account"),
        number(cell("$.instrument_id"), book.instruments.ids).alias("instrument"),
        pl.when(quantity.is_finite()).then(quantity).alias("quantity"),
    )
