"""What accounts hold, in rows of the cube, and what they are worth now.

Equity = balances x price + unrealised P&L of futures, and of options margined like them, paid in their settlement asset
at its price, + the whole value of spot and of options paid upfront (short ones negative). The unrealised P&L is booked
to the balance of that asset first, and revalued with it. An entry price that is absent is the mark. An isolated
position is worth its own margin and its own P&L, and no balance of its account. Where funding is counted, what a
position has accrued of it is booked like its P&L.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.book import Book, Entries, entries
from marginax.chains import Chains, market_chains
from marginax.cube import InstrumentArrays, MarketArrays
from marginax.funding import accrued_funding, market_funding, of_positions
from marginax.history import FactorHistory
from marginax.instruments import INVERSE, LINEAR, OWNED
from marginax.liquidity import market_liquidity
from marginax.market import Market
from marginax.option_arrays import option_arrays
from marginax.options import MINUTES_A_YEAR
from marginax.payment_sections import Funding
from marginax.price_quality import price_quality
from marginax.sections import Options
from marginax.tables.schemas import KINDS


@dataclass(frozen=True)
class OpenOrders:
    """Orders of each holder that are not filled yet, buys and sells apart, and what filling each costs at once: by how
    much its limit is worse than the mark, in account currency."""

    held: Entries
    cost: Float64[np.ndarray, " entries"]


@dataclass(frozen=True)
class Exposures:
    """Positions and collateral by row of the cube, equity, and the arrays a model prepares from.

    Accounts come first, and then isolated positions, each like an account of its own (`Book.holders`).

    `listed` are the book's instrument numbers that have a row in the cube, in row order; assets follow them.
    `groups` is the underlying of each row, `chains` what the options are priced with, `accrued` what one
    contract of each listed instrument has accrued in funding, long and short, in account currency and received where
    positive (None where it is not counted).
    """

    listed: Int64[np.ndarray, " listed"]
    instruments: InstrumentArrays
    market: MarketArrays
    positions: Entries
    collateral: Entries
    orders: OpenOrders
    equity: Float64[np.ndarray, " holders"]
    groups: Int64[np.ndarray, " rows"]
    chains: Chains
    accrued: Float64[np.ndarray, "listed 2"] | None = None

    def of(self, positions: Entries, collateral: Entries, equity: Float64[np.ndarray, " holders"]) -> "Exposures":
        """The same market with other holders, who have no orders."""
        none = np.zeros(0)
        orders = OpenOrders(Entries(np.zeros(len(equity) + 1, np.int64), none.astype(np.int32), none), none)
        return replace(self, positions=positions, collateral=collateral, orders=orders, equity=equity)

    @property
    def zero_row(self) -> int:
        """The row of zeros that padding points at."""
        return len(self.groups)


def expose(
    book: Book,
    market: Market,
    history: FactorHistory,
    options: Options | None = None,
    funding: Funding | None = None,
    *,
    like: "Exposures | None" = None,
) -> Exposures:
    """Number a matched book by the rows of the cube and value it at today's prices; `options` says how those settle,
    `funding` what is counted of it (default: nothing).

    `like` are exposures of the same book at other prices, of which what no price changes is taken.
    """
    options, funding = options or Options(), funding or Funding()
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
    kind = np.array([KINDS.index(word) for word in known.kind[listed]], np.int32)
    row_of = np.full(len(known), -1, np.int64)
    row_of[listed] = np.arange(len(listed))
    blocks = option_arrays(known, market, history, chains, row_of, sticky_strike=options.stickiness == 0)

    rows = book.position_rows.filter(pl.col("quantity") != 0)
    owner, own = rows["holder"].to_numpy(), book.isolated["margin"].to_numpy()
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
    if like is not None and np.array_equal(like.listed, listed):
        positions = like.positions
    else:
        positions = entries(owner, row, quantity, book.holders)

    balances = book.balance_rows
    asset = balances["asset"].replace_strict(
        pl.Series(list(settles), dtype=pl.String),
        pl.Series(list(settles.values())),
        default=None,
        return_dtype=pl.Int64,
    )
    owners = [balances["account"].to_numpy(), len(book) + np.arange(len(own)), owner]
    paid_in = [asset.to_numpy().astype(np.int64), np.full(len(own), len(assets)), settle[row].astype(np.int64)]
    amounts = [balances["amount"].to_numpy(), own, unrealised]
    accrued = accrued_funding(known, market, listed, funding) if funding.accrued else None
    if accrued is not None:
        owners.append(positions.owners)
        paid_in.append(settle[positions.columns].astype(np.int64))
        amounts.append(of_positions(accrued, positions.columns, positions.amounts))
    held = entries(np.concatenate(owners), np.concatenate(paid_in), np.concatenate(amounts), book.holders)
    with np.errstate(all="ignore"):
        equity = np.bincount(held.owners, held.amounts * price[held.columns], minlength=book.holders)
        equity = equity + np.bincount(owner, owned, minlength=book.holders)
    moves = held.columns < len(assets)
    return Exposures(
        listed=listed,
        instruments=InstrumentArrays(underlying, quote, settle, basis, style, multiplier, blocks, kind),
        market=MarketArrays(
            mark=mark,
            index=index,
            absolute=history.absolute[: len(assets)],
            level=_levels(history, index),
            liquidity=market_liquidity(known, market, listed),
            quality=price_quality(market, known.ids[listed].tolist()),
            funding=market_funding(known, market, listed, funding) if funding.on else None,
        ),
        positions=positions,
        collateral=entries(held.owners[moves], held.columns[moves] + len(listed), held.amounts[moves], book.holders),
        orders=_open_orders(book, row_of, mark, price, settle, style, multiplier),
        equity=equity,
        groups=np.concatenate([underlying, np.arange(len(assets))]).astype(np.int64),
        chains=chains,
        accrued=None if accrued is None else accrued * price[settle][:, None],
    )


def _open_orders(
    book: Book,
    row_of: np.ndarray,
    mark: np.ndarray,
    price: np.ndarray,
    settle: np.ndarray,
    style: np.ndarray,
    multiplier: np.ndarray,
) -> OpenOrders:
    """Buys and sells of each holder by row of the cube; an order at a limit better than the mark costs nothing."""
    orders = book.order_rows.filter(pl.col("quantity") != 0)
    row, quantity = row_of[orders["instrument"].to_numpy()], orders["quantity"].to_numpy()
    limit = orders["limit_price"].to_numpy().astype(float)
    limit = np.where(np.isnan(limit), mark[row], limit)
    with np.errstate(all="ignore"):  # what is beyond float64 becomes infinite, and its holder `numerical`
        worse = np.where(style[row] == INVERSE, 1 / mark[row] - 1 / limit, limit - mark[row])
        cost = np.maximum(quantity * multiplier[row] * worse * price[settle[row]], 0)
    side = 2 * row + (quantity < 0)
    owner = orders["account"].to_numpy()
    held, costs = (entries(owner, side, amounts, book.holders, keep_zeros=True) for amounts in (quantity, cost))
    return OpenOrders(replace(held, columns=held.columns // 2), costs.amounts)


def _levels(history: FactorHistory, index: np.ndarray) -> np.ndarray:
    """The price level that a relative basis moves: the index itself where shocks are logarithms."""
    absolute = history.absolute[: len(index)]
    return np.where(absolute, history.level[: len(index)], index)
