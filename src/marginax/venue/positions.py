"""Who holds which contracts, and in what state: the positions that the venue's view is made of.

Conventions: one row a holder and instrument, amounts in signed contracts. Isolated positions are holders of their own,
with the number of their account. Rows that were set aside at the door or for want of a price are positions too: they
belong to accounts without a margin.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.book import number
from marginax.exposures import Exposures
from marginax.instruments import INVERSE, OWNED
from marginax.match import Matched
from marginax.venue.greeks import Contracts


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
    `without_margin` and `at_risk` are of the holder of each. `entry` is the entry price of what was set aside, NaN if
    it says none. `set_aside` counts the rows that were, `unreadable` those of them whose account, contract or quantity
    nobody can read."""

    holder: Int64[np.ndarray, " entries"]
    account: Int64[np.ndarray, " entries"]
    instrument: Int64[np.ndarray, " entries"]
    amount: Float64[np.ndarray, " entries"]
    without_margin: Bool[np.ndarray, " entries"]
    at_risk: Bool[np.ndarray, " entries"]
    entry: Float64[np.ndarray, " entries"]
    set_aside: int
    unreadable: int


def venue_positions(matched: Matched, exposures: Exposures, holders: Holders) -> Positions:
    """All positions of a book, those set aside behind the others."""
    book, held = matched.book, exposures.positions
    aside = _set_aside(matched)
    known = aside.drop_nulls(["account", "instrument", "quantity"])
    lost = np.ones(known.height, bool)
    return Positions(
        holder=np.concatenate([held.owners, np.full(known.height, -1)]),
        account=np.concatenate([book.holder_accounts[held.owners], known["account"].to_numpy()]).astype(np.int64),
        instrument=np.concatenate([exposures.listed[held.columns], known["instrument"].to_numpy()]).astype(np.int64),
        amount=np.concatenate([held.amounts, known["quantity"].to_numpy()]),
        without_margin=np.concatenate([holders.without_margin[held.owners], lost]),
        at_risk=np.concatenate([holders.at_risk[held.owners], lost]),
        entry=np.concatenate([np.full(len(held.owners), np.nan), known["entry"].fill_null(np.nan).to_numpy()]),
        set_aside=aside.height,
        unreadable=aside.height - known.height,
    )


class Debts(NamedTuple):
    """Of holders without a margin: equity below zero, what they owe in coins and spot, whose prices may rise, and how
    many debts nobody can tell."""

    owed: float
    in_kind: float
    unknown: int

    def __add__(self, other: "Debts") -> "Debts":  # type: ignore[override]
        return Debts(self.owed + other.owed, self.in_kind + other.in_kind, self.unknown + other.unknown)


def debts(matched: Matched, exposures: Exposures, holders: Holders, positions: Positions, per: Contracts) -> Debts:
    """What holders without a margin owe already.

    Equity is that of balances and of what has a price. A position that was set aside takes from it what it has lost at
    the index, and adds nothing. An option that was is worth nobody knows what.
    """
    aside = positions.holder < 0
    account, at, amount = (each[aside] for each in (positions.account, positions.instrument, positions.amount))
    book = matched.book.instruments
    style, option, entry = book.style[at], book.is_option[at], positions.entry[aside]
    with np.errstate(all="ignore"):
        entered = np.isfinite(entry)
        index, paid, worth = per.price[at], entry * per.quote[at], amount * per.notional[at]
        gain = np.where(style == INVERSE, worth * (index / paid - 1), amount * per.units[at] * (index - paid))
        gain = np.where(style == OWNED, worth, np.where(entered, gain, 0.0))
        unsaid = option & np.where(style == OWNED, amount < 0, entered)
        lost = np.where(unsaid, np.nan, np.where(option, 0.0, gain))
        equity = exposures.equity + np.bincount(account, np.minimum(lost, 0), minlength=len(exposures.equity))
        coins, without = exposures.collateral, holders.without_margin
        coin = coins.amounts * np.asarray(exposures.market.index)[coins.columns - len(exposures.listed)]
        spot = (positions.amount * per.notional[positions.instrument])[
            positions.without_margin & ~per.open[positions.instrument]
        ]
    equity, kind = equity[without], np.concatenate([coin[without[coins.owners]], spot])
    told, valued = np.isfinite(equity), np.isfinite(kind)
    unknown = int((~told).sum()) + int((~valued).sum()) + _debts_set_aside(matched)
    return Debts(float(np.maximum(-equity[told], 0).sum()), float(np.maximum(-kind[valued], 0).sum()), unknown)


def _debts_set_aside(matched: Matched) -> int:
    """Rows of balances in quarantine that are debts, or may be."""
    rows = matched.book.tables["balances"].quarantine
    amount = pl.col("cells").str.json_path_match("$.amount").cast(pl.Float64, strict=False)
    return int(rows.select((~(amount >= 0)).fill_null(True).sum()).item())


def _set_aside(matched: Matched) -> pl.DataFrame:
    """Rows of positions in quarantine: account, instrument, quantity and entry price, null for what cannot be read."""
    book = matched.book
    rows = book.tables["positions"].quarantine
    cell = pl.col("cells").str.json_path_match
    quantity, entry = (cell(f"$.{name}").cast(pl.Float64, strict=False) for name in ("quantity", "entry_price"))
    return rows.select(
        number(pl.col("account_id"), book.accounts).alias("account"),
        number(cell("$.instrument_id"), book.instruments.ids).alias("instrument"),
        pl.when(quantity.is_finite()).then(quantity).alias("quantity"),
        entry.alias("entry"),
    )
