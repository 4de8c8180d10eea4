"""The synthetic venue put together: market, options, accounts.

Conventions: every part draws from a stream of random numbers of its own, so that none moves another: the market and
what clients hold of it are the same with and without options.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from marginax.synthetic._accounts import (
    Crowd,
    Holdings,
    Terms,
    add_market_makers,
    balances,
    client_positions,
    contract_terms,
    draw_crowd,
    entry_prices,
)
from marginax.synthetic._market import STABLECOINS, Window, market, significant, total
from marginax.synthetic._option_books import Written, nothing_written, write_options
from marginax.synthetic._options import Chain, option_chain


@dataclass(frozen=True, eq=False)
class Venue:
    """The tables of a venue by name, and its crashes as (name, first day, last day), both days included."""

    tables: dict[str, pl.DataFrame]
    stress_windows: list[Window]

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write every table to `directory`/NAME.parquet, made if missing; no reader ever sees half a file."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            partial = folder / f".{name}.parquet.{os.getpid()}"
            try:
                table.write_parquet(partial)
                os.replace(partial, folder / f"{name}.parquet")
            finally:
                partial.unlink(missing_ok=True)


def venue(
    *,
    seed: int = 7,
    accounts: int = 10_000,
    underlyings: int = 20,
    instruments: int = 200,
    bars: int = 2_001,
    options: int | None = None,
    expiries: int = 10,
    strikes: int = 9,
) -> Venue:
    """A venue made up from `seed`: instruments, quotes, underlyings, history, positions, balances and forwards.

    Units: prices and notionals in USD, marks and entries in the quote currency (coins per coin for options of inverse
    settlement), quantities in signed contracts (coins for spot), balances in units of their asset, negative where owed.
    `underlyings` counts the coins plus USDT and USDC, `instruments` all but options, `bars` the daily closes up to
    2025-12-31; as_of is the midnight after it. Calls and puts are listed on the `options` most liquid coins (default:
    half of `underlyings`; 0: none, and no table `forwards`), in `expiries` expiries of up to `strikes` strikes each.
    The market does not depend on the number of accounts, except for open interest (USD, one side, without options).
    """
    coins = underlyings - len(STABLECOINS)
    options = min(underlyings // 2, coins) if options is None else options
    sizes = {"accounts": (accounts, 1), "underlyings": (underlyings, 3), "instruments": (instruments, 1)}
    sizes |= {"bars": (bars, 2), "options": (options, 0), "expiries": (expiries, 1), "strikes": (strikes, 1)}
    for name, (given, least) in sizes.items():
        if given < least:
            raise ValueError(f"`{name}={given}` leaves nothing to simulate. Use at least {least}.")
    if options > coins:
        raise ValueError(f"`options={options}` is more than the {coins} coins of the venue. Use at most {coins}.")
    for_market, for_accounts, for_options = np.random.SeedSequence(seed).spawn(3)
    listed = market(for_market, underlyings=underlyings, instruments=instruments, bars=bars)
    terms = contract_terms(listed)
    rng = np.random.default_rng(for_accounts)
    crowd = draw_crowd(rng, accounts)
    clients = client_positions(rng, terms, crowd)
    written, tables = nothing_written(accounts, len(crowd.makers), underlyings), listed.tables
    if options:
        for_chain, for_books = for_options.spawn(2)
        chain = option_chain(for_chain, listed, coins=options, expiries=expiries, strikes=strikes)
        written = _write(np.random.default_rng(for_books), chain, terms, crowd, clients, underlyings)
        tables = _with_options(tables, chain)
    holdings = add_market_makers(rng, terms, crowd, clients, written.delta)
    entry = entry_prices(rng, terms, crowd, holdings)
    owner, asset, amount = balances(rng, terms, crowd, holdings, entry, written, tables["underlyings"])
    ids = pl.Series([f"account-{number:06d}" for number in range(1, accounts + 1)], dtype=pl.String)
    at = holdings.instrument
    futures = np.abs(holdings.quantity) * terms.notional[at] * ~terms.spot[at]
    both_sides = np.bincount(terms.underlying[at], futures, minlength=underlyings)
    interest = pl.Series("open_interest", significant(both_sides / 2, 8))
    owners = np.concatenate([holdings.account, written.account])
    order = np.argsort(owners, kind="stable")  # an account's options come after the rest
    positions = {
        "account_id": ids.gather(owners[order]),
        "instrument_id": tables["instruments"]["instrument_id"].gather(
            np.concatenate([at, instruments + written.option])[order]
        ),
        "quantity": np.concatenate([holdings.quantity, written.quantity])[order],
        "entry_price": pl.Series(np.concatenate([entry, written.entry])[order]).fill_nan(None),
    }
    tables = tables | {
        "underlyings": tables["underlyings"].with_columns(interest),
        "positions": pl.DataFrame(positions),
        "balances": pl.DataFrame({"account_id": ids.gather(owner), "asset": asset, "amount": amount}),
    }
    return Venue(tables=tables, stress_windows=listed.stress_windows)


def _write(
    rng: np.random.Generator, chain: Chain, terms: Terms, crowd: Crowd, clients: Holdings, underlyings: int
) -> Written:
    """Options for clients that hold something else, by how much, and for the makers."""
    coins, coin = len(chain.strikes), terms.underlying[clients.instrument]
    notional, inside = clients.quantity * terms.notional[clients.instrument], coin < coins
    cell = (clients.account * coins + coin)[inside]
    return write_options(
        rng,
        chain,
        size=total(np.abs(notional), clients.account, crowd.count),
        long=total(notional[inside], cell, crowd.count * coins).reshape(crowd.count, coins),
        makers=crowd.makers,
        underlyings=underlyings,
    )


def _with_options(tables: dict[str, pl.DataFrame], chain: Chain) -> dict[str, pl.DataFrame]:
    """Every table of the market with the rows and columns of the options, and their forwards."""
    longer = {
        name: pl.concat([tables[name], rows], how="diagonal").select(rows.columns)
        for name, rows in chain.tables.items()
        if name in tables
    }
    return tables | longer | {"forwards": chain.tables["forwards"]}
