"""What accounts hold, in rows of the cube, and what they are worth now.

Equity = balances x price + unrealised P&L of futures, and of options margined like them, paid in their settlement asset
at its price, + the whole value of spot and of options paid upfront (short ones negative). The unrealised P&L is booked
to the balance of that asset first, and revalued with it. An entry price that is absent is the mark.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.book import Book, Entries, entries
from marginax.chains import Chains, market_chains
from marginax.cube import InstrumentArrays, MarketArrays
from marginax.history import FactorHistory
from marginax.instruments import INVERSE, LINEAR, OWNED
from marginax.market import Market
from marginax.option_arrays import option_arrays
from marginax.options import MINUTES_A_YEAR
from marginax.price_quality import price_quality
from marginax.sections import Options


@dataclass(frozen=True)
class Exposures:
    """Positions and collateral by row of the cube, equity by account, and the arrays a model prepares from.

    `listed` are the book's instrument numbers that have a row in the cube, in row order; assets follow them.
    `groups` is the underlying of each row, `chains` what the options are priced with.
    """

    listed: Int64[np.ndarray, " listed"]
    instruments: InstrumentArrays
    market: MarketArrays
    positions: Entries
    collateral: Entries
    equity: Float64[np.ndarray, " accounts"]
    groups: Int64[np.ndarray, " rows"]
    chains: Chains

    @property
    def zero_row(self) -> int:
        """The row of zeros that padding points at."""
        return len(self.groups)


def expose(book: Book, market: Market, history: FactorHistory, options: Options | None = None) -> Exposures:
    """Number a matched book by the rows of the cube and value it at today's prices; `options` says how those settle."""
    options = options or Options()
    chains = market_chains(book.instruments, market, window=options.settlement_window_minutes / MINUTES_A_YEAR)
    table = market.underlyings
    assets = {name: k for k, name in enumerate(table["underlying"])}
    index = table["index_price"].to_numpy().astype(float)
    known = book.instruments
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    settles = {**assets, market.currency: len(assets)}
    option = known.is_option
    listed = np.array(
        [
            k
            for k in range(len(known))
            if known.ids[k] in marks
            and known.underlying[k] in assets
            and known.settle[k] in settles
            and (known.quote[k] in settles or not option[k])
        ],
        dtype=np.int64,
    )
    factor = {name: k for k, name in enumerate(history.names)}
    none = len(history.names)
    mark = np.array([marks[known.ids[k]] for k in listed], float)
    underlying = np.array([assets[known.underlying[k]] for k in listed], np.int32)
    quote = np.array([settles.get(known.quote[k], len(assets)) for k in listed], np.int32)
    settle = np.array([settles[known.settle[k]] for k in listed], np.int32)
    basis = np.array([factor.get(f"basis:{known.ids[k]}", none) for k in listed], np.int32)
    style, multiplier = known.style[listed], known.multiplier[listed]
    row_of = np.full(len(known), -1, np.int64)
    row_of[listed] = np.arange(len(listed))
    blocks = option_arrays(known, market, history, chains, row_of, sticky_strike=options.stickiness == 0)

    rows = book.position_rows.filter(pl.col("quantity") != 0)
    owner = rows["account"].to_numpy()
    row = row_of[rows["instrument"].to_numpy()]
    quantity = rows["quantity"].to_numpy()
    entry = rows["entry_price"].to_numpy().astype(float)
    now = mark[row]
    entry = np.where(np.isnan(entry), now, entry)
    pays, price = style[row], np.append(index, 1.0)
    # What is beyond float64 becomes infinite, and its holder `numerical`.
    with np.errstate(all="ignore"):
        size = quantity * multiplier[row]
        unrealised = np.select(
            [pays == LINEAR, pays == INVERSE], [size * (now - entry), size * (1 / entry - 1 / now)], 0.0
        )
        owned = np.where(pays == OWNED, size * now * price[settle[row]], 0.0)

    balances = book.balance_rows
    asset = balances["asset"].replace_strict(
        pl.Series(list(settles), dtype=pl.String),
        pl.Series(list(settles.values())),
        default=None,
        return_dtype=pl.Int64,
    )
    held = entries(
        np.concatenate([balances["account"].to_numpy(), owner]),
        np.concatenate([asset.to_numpy().astype(np.int64), settle[row].astype(np.int64)]),
        np.concatenate([balances["amount"].to_numpy(), unrealised]),
        len(book),
    )
    with np.errstate(all="ignore"):
        equity = np.bincount(held.owners, held.amounts * price[held.columns], minlength=len(book))
        equity = equity + np.bincount(owner, owned, minlength=len(book))
    moves = held.columns < len(assets)
    return Exposures(
        listed=listed,
        instruments=InstrumentArrays(underlying, quote, settle, basis, style, multiplier, blocks),
        market=MarketArrays(
            mark=mark,
            index=index,
            absolute=history.absolute[: len(assets)],
            level=_levels(history, index),
            quality=price_quality(market, known.ids[listed].tolist()),
        ),
        positions=entries(owner, row, quantity, len(book)),
        collateral=entries(held.owners[moves], held.columns[moves] + len(listed), held.amounts[moves], len(book)),
        equity=equity,
        groups=np.concatenate([underlying, np.arange(len(assets))]).astype(np.int64),
        chains=chains,
    )


def _levels(history: FactorHistory, index: np.ndarray) -> np.ndarray:
    """The price level that a relative basis moves: the index itself where shocks are logarithms."""
    absolute = history.absolute[: len(index)]
    return np.where(absolute, history.level[: len(index)], index)
