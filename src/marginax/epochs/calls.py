"""What becomes of an account that is called: its call stands, is paid, or its positions are closed an epoch later.

    stand    nobody pays and nothing is closed: the same book at every epoch
    paid     what is called is paid in, in account currency, before the next epoch
    closed   nobody pays; at the prices of the next epoch all positions of the holder are closed at their marks, what is
             left is cash, and what is missing is written off: the shortfall of that account, counted once

Closing costs nothing beyond the mark here. Holders are accounts and, behind them, isolated positions, in the order of
the book at the beginning (`Book.holders`); amounts are in account currency.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.book import Book, assemble, number
from marginax.market import Market
from marginax.tables.findings import FILE, LINE, ROW

Policy = Literal["stand", "paid", "closed"]
POLICIES: tuple[Policy, ...] = ("stand", "paid", "closed")


@dataclass(frozen=True)
class Ledger:
    """By holder of the book at the beginning: what was paid in so far, whether its positions are closed and for how
    much cash, and whether it was called at the last epoch."""

    paid: Float64[np.ndarray, " holders"]
    closed: Bool[np.ndarray, " holders"]
    cash: Float64[np.ndarray, " holders"]
    called: Bool[np.ndarray, " holders"]

    @classmethod
    def of_nothing(cls, holders: int) -> "Ledger":
        """Nobody paid, nothing is closed, nobody was called."""
        return cls(np.zeros(holders), np.zeros(holders, bool), np.zeros(holders), np.zeros(holders, bool))

    def after(
        self,
        policy: Policy,
        equity: Float64[np.ndarray, " holders"],
        call: Float64[np.ndarray, " holders"],
        accounts: Int64[np.ndarray, " holders"],
    ) -> "Ledger":
        """The ledger after an epoch at which holders had this equity and call (NaN for one without a margin).

        Under `closed` those that were called an epoch before are closed at the prices of this one. `accounts` is the
        account of each holder (`Book.holder_accounts`).
        """
        owes = np.nan_to_num(call) > 0
        if policy == "paid":
            return replace(self, paid=self.paid + np.where(owes, np.nan_to_num(call), 0.0), called=owes)
        if policy == "closed":
            ends = self.closing & np.isfinite(equity)
            cash = np.where(ends, np.maximum(np.nan_to_num(equity), 0.0), self.cash)
            # What was left of an isolated position is in the equity of its account by now, and is not owned twice.
            cash = np.where(self.closed & ends[accounts], 0.0, cash)
            return replace(self, closed=self.closed | ends, cash=cash, called=owes & ~ends)
        return replace(self, called=owes)

    @property
    def closing(self) -> Bool[np.ndarray, " holders"]:
        """Under `closed`, whose positions are closed at the next prices."""
        return self.called & ~self.closed

    @property
    def changes_the_book(self) -> bool:
        """Whether the book is another than at the beginning."""
        return bool(self.closed.any() or (self.paid != 0).any())


def entered(book: Book, market: Market) -> Book:
    """The book with an entry price in every position: the mark where none was given, so that equity moves with it."""
    table = book.tables["positions"]
    marks = market.quotes.select("instrument_id", "mark_price")
    rows = table.rows.join(marks, on="instrument_id", how="left", maintain_order="left")
    rows = rows.with_columns(entry_price=pl.coalesce("entry_price", "mark_price")).select(table.rows.columns)
    return assemble({**book.tables, "positions": table.of(rows)}, "raise")


def book_after(book: Book, ledger: Ledger, currency: str) -> Book:
    """The book of the beginning with what was paid in, and without what was closed."""
    if not ledger.changes_the_book:
        return book
    accounts = len(book)
    ids = pl.Series(book.accounts, dtype=pl.String)
    tables = dict(book.tables)
    positions = tables["positions"]
    rows = positions.rows.with_columns(holder=_holders(book))
    alone = pl.col("isolated_margin").is_not_null()
    # A holder may have several rows: what was paid in goes to the first of them.
    first = pl.int_range(pl.len()).over("holder") == 0
    paid = pl.Series(ledger.paid)
    own = pl.col("isolated_margin") + pl.when(first).then(paid.gather(rows["holder"])).otherwise(0.0)
    rows = rows.with_columns(isolated_margin=pl.when(alone).then(own).otherwise(None))
    rows = rows.filter(~pl.Series(ledger.closed).gather(rows["holder"])).drop("holder")
    tables["positions"] = positions.of(rows)
    gone = ids.filter(pl.Series(ledger.closed[:accounts]))
    balances, orders = tables["balances"], tables["orders"]
    credit = np.where(ledger.closed[:accounts], ledger.cash[:accounts], ledger.paid[:accounts])
    left = ledger.closed[accounts:]
    credit = credit + np.bincount(
        book.holder_accounts[accounts:], np.where(left, ledger.cash[accounts:], 0.0), accounts
    )
    new = pl.DataFrame({"account_id": ids, "asset": currency, "amount": credit}).with_columns(
        pl.lit("calls").alias(FILE),
        pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW),
        pl.lit(None, pl.Int64).alias(LINE),
    )
    kept = balances.rows.filter(~pl.col("account_id").is_in(gone.implode()))
    tables["balances"] = balances.of(pl.concat([kept, new.select(kept.columns)]))
    tables["orders"] = orders.of(orders.rows.filter(~pl.col("account_id").is_in(gone.implode())))
    return assemble(tables, "raise")


def _holders(book: Book) -> pl.Series:
    """The holder of each row of the table `positions`, by number."""
    rows = book.tables["positions"].rows.select(
        number(pl.col("account_id"), book.accounts).alias("account"),
        number(pl.col("instrument_id"), book.instruments.ids).alias("instrument"),
        alone=pl.col("isolated_margin").is_not_null(),
    )
    isolated = book.isolated.with_row_index("place", offset=len(book))
    rows = rows.join(isolated, on=["account", "instrument"], how="left", maintain_order="left")
    holder = pl.when("alone").then(pl.col("place").cast(pl.Int64)).otherwise("account")
    return rows.select(holder.alias("holder")).to_series()
