"""The book: every account with its positions and balances, numbered and sorted once.

Positions of one account in one instrument are merged; an account's positions stand in instrument order, its balances in
asset order, both in CSR form: account k owns the entries from `starts[k]` to `starts[k + 1]`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float64, Int32, Int64

from marginax.instruments import Instruments, number_instruments
from marginax.tables.door import Admitted, OnError, absent, admit
from marginax.tables.findings import find, together
from marginax.tables.read import Source


@dataclass(frozen=True)
class Entries:
    """Entries of accounts in CSR form: `columns` numbers what is held, `amounts` says how much (signed)."""

    starts: Int64[np.ndarray, " accounts_and_one"]
    columns: Int32[np.ndarray, " entries"]
    amounts: Float64[np.ndarray, " entries"]

    @property
    def counts(self) -> Int64[np.ndarray, " accounts"]:
        """Number of entries of each account."""
        return np.diff(self.starts)

    @cached_property
    def owners(self) -> Int64[np.ndarray, " entries"]:
        """The account of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def taken(self, accounts: Int64[np.ndarray, " some"]) -> "Entries":
        """The entries of some accounts, in that order."""
        counts = self.counts[accounts]
        starts = np.concatenate([[0], np.cumsum(counts)])
        entry = np.arange(starts[-1]) + np.repeat(self.starts[accounts] - starts[:-1], counts)
        return Entries(starts, self.columns[entry], self.amounts[entry])

    def beside(self, other: "Entries") -> "Entries":
        """Of each account these entries, and those of another set behind them."""
        starts = self.starts + other.starts
        own = np.arange(len(self.columns)) + other.starts[self.owners]
        others = np.arange(len(other.columns)) + self.starts[other.owners + 1]
        columns = np.empty(starts[-1], self.columns.dtype)
        amounts = np.empty(starts[-1], self.amounts.dtype)
        columns[own], columns[others] = self.columns, other.columns
        amounts[own], amounts[others] = self.amounts, other.amounts
        return Entries(starts, columns, amounts)


@dataclass(frozen=True)
class Book:
    """Accounts, instruments, positions and balances, checked among themselves but not yet against a market.

    `tables` keeps the admitted rows with their places in the files, so that whatever a market lacks can be named.
    """

    accounts: np.ndarray
    instruments: Instruments
    tables: dict[str, Admitted]

    def __len__(self) -> int:
        return len(self.accounts)

    def __repr__(self) -> str:
        return f"Book({len(self):,} accounts, {len(self.instruments):,} instruments)"

    @cached_property
    def isolated(self) -> pl.DataFrame:
        """What is margined alone: account and instrument by number, and its own collateral (account currency).

        Several rows of one account and instrument are one isolated position, whose margins are summed.
        """
        rows = self._numbered_positions.filter(pl.col("isolated_margin").is_not_null())
        return (
            rows.group_by("account", "instrument")
            .agg(pl.col("isolated_margin").sum().alias("margin"))
            .sort("account", "instrument")
        )

    @property
    def holders(self) -> int:
        """All that is margined on its own: the accounts, and behind them their isolated positions."""
        return len(self) + self.isolated.height

    @property
    def holder_accounts(self) -> Int64[np.ndarray, " holders"]:
        """The account of each holder."""
        return np.concatenate([np.arange(len(self)), self.isolated["account"].to_numpy()])

    @cached_property
    def multipliers(self) -> Float64[np.ndarray, " accounts"]:
        """What each account's requirement is multiplied by: `accounts.multiplier`, one where it says nothing."""
        found = np.ones(len(self))
        said = self.tables["accounts"].rows.filter(pl.col("multiplier").is_not_null())
        found[said.select(self._account_number()).to_series().to_numpy()] = said["multiplier"].to_numpy()
        return found

    @cached_property
    def position_rows(self) -> pl.DataFrame:
        """Unmerged positions by number: holder, instrument, quantity (contracts), entry_price (null: the mark)."""
        alone = self.isolated.with_row_index("holder", offset=len(self))
        rows = self._numbered_positions.join(alone, on=["account", "instrument"], how="left", maintain_order="left")
        own = pl.col("isolated_margin").is_not_null()
        holder = pl.when(own).then(pl.col("holder").cast(pl.Int64)).otherwise("account")
        return rows.select(holder.alias("holder"), "instrument", "quantity", "entry_price")

    @cached_property
    def order_rows(self) -> pl.DataFrame:
        """Open orders by number: account, instrument, quantity (signed contracts), limit_price (null: the mark)."""
        return self.tables["orders"].rows.select(
            self._account_number(),
            number(pl.col("instrument_id"), self.instruments.ids).alias("instrument"),
            "quantity",
            "limit_price",
        )

    @cached_property
    def _numbered_positions(self) -> pl.DataFrame:
        return self.tables["positions"].rows.select(
            self._account_number(),
            number(pl.col("instrument_id"), self.instruments.ids).alias("instrument"),
            "quantity",
            "entry_price",
            "isolated_margin",
        )

    @cached_property
    def balance_rows(self) -> pl.DataFrame:
        """Balances that are not zero: account number, asset name, signed amount. Nothing of an asset needs no price."""
        held = self.tables["balances"].rows.filter(pl.col("amount") != 0)
        return held.select(self._account_number(), "asset", "amount")

    def _account_number(self) -> pl.Expr:
        return number(pl.col("account_id"), self.accounts).alias("account")


def entries(
    owner: np.ndarray, column: np.ndarray, amount: np.ndarray, owners: int, *, keep_zeros: bool = False
) -> Entries:
    """CSR entries from triplets: sorted by owner and column, equal pairs summed in the order given, zeros dropped
    unless they are kept.

    What is left of a sum that cancels (1.1 + 2.2 - 3.3 is 4e-16) is rounding, and no position: n numbers are off by at
    most n roundings of the sum of their sizes.
    """
    gross = pl.col("amount").abs().sum() * pl.len() * np.finfo(float).eps
    frame = (
        pl.DataFrame({"owner": owner, "column": column, "amount": amount})
        .group_by("owner", "column", maintain_order=True)
        .agg(pl.col("amount").sum(), rounding=pl.when(pl.len() > 1).then(gross).otherwise(0.0))
        .filter(keep_zeros | ~(pl.col("amount").abs() <= pl.col("rounding")))
        .sort("owner", "column")
    )
    counts = np.bincount(frame["owner"].to_numpy(), minlength=owners)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Entries(starts, frame["column"].to_numpy().astype(np.int32), frame["amount"].to_numpy())


def number(names: pl.Expr, known: np.ndarray) -> pl.Expr:
    """Names replaced by their place in `known`; null where a name is not there."""
    order = pl.Series(known, dtype=pl.String)
    return names.replace_strict(order, pl.Series(np.arange(len(known))), default=None, return_dtype=pl.Int64)


def read_book(
    *,
    instruments: Source,
    positions: Source,
    balances: Source,
    accounts: Source | None = None,
    orders: Source | None = None,
    on_error: OnError = "raise",
) -> Book:
    """The book in these tables: paths (Parquet, CSV, Arrow IPC), polars frames or Arrow tables.

    Accounts are all ids that any table names, sorted. Raises BadInput that names file, column, row and remedy; with
    `on_error="quarantine"` bad rows are set aside and their accounts become `incomplete`.
    """
    given = {
        "instruments": instruments,
        "positions": positions,
        "balances": balances,
        "accounts": accounts,
        "orders": orders,
    }
    tables = {
        name: absent(name) if source is None else admit(source, name, on_error=on_error)
        for name, source in given.items()
    }
    return assemble(tables, on_error)


def assemble(tables: dict[str, Admitted], on_error: OnError) -> Book:
    """A book from admitted tables. Positions and orders in instruments that are not there are bad rows, and so are
    positions without collateral of their own in accounts that are isolated."""
    tables = dict(tables)
    known = number_instruments(tables["instruments"].rows)
    for name in ("positions", "orders"):
        found = _unknown_instruments(tables[name], known, incomplete=tables["instruments"].quarantine.height > 0)
        tables[name] = tables[name].set_aside(found, on_error)
    found = _without_margin(tables["positions"], tables["accounts"])
    tables["positions"] = tables["positions"].set_aside(found, on_error)
    owners = [tables[name].rows["account_id"] for name in ("positions", "balances", "accounts", "orders")]
    owners += [table.quarantine["account_id"].drop_nulls() for table in tables.values()]
    ids = pl.concat([series.cast(pl.String) for series in owners]).unique().sort()
    return Book(accounts=ids.to_numpy(), instruments=known, tables=tables)


def _unknown_instruments(table: Admitted, known: Instruments, *, incomplete: bool) -> pl.DataFrame:
    what = pl.format(f"the instrument '{{}}' is unknown{' or was set aside' if incomplete else ''}", "instrument_id")
    remedy = "Add it to the table `instruments`, or remove the row"
    bad = ~pl.col("instrument_id").is_in(pl.Series(known.ids, dtype=pl.String).implode())
    return together([find(table.rows, table.name, bad, "instrument_id", what, remedy)])


def _without_margin(table: Admitted, accounts: Admitted) -> pl.DataFrame:
    isolated = accounts.rows.filter(pl.col("margin_mode") == "isolated")["account_id"]
    bad = pl.col("account_id").is_in(isolated.implode()) & pl.col("isolated_margin").is_null()
    what = pl.format("'{}' is in isolated mode and its position has no collateral of its own", "account_id")
    remedy = "Give its `isolated_margin` (0 for none), or set the account's `margin_mode` to cross"
    return find(table.rows, table.name, bad, "isolated_margin", what, remedy)
