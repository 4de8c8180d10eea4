"""The market of each epoch: the last one with the prices that a bar brings, and with what follows from them.

An underlying without a price in an epoch keeps its last one and the time of that. An instrument that has marks among
the bars keeps its last one likewise; one that has none moves with its index: by the same factor (by the same
difference where the underlying is shocked absolutely), in its own quote currency, so that its relative basis stays. So
do forwards. An option without marks keeps its implied volatility, and its mark is what that makes it. Bids and asks are
those of the beginning and are left out; order books are distances from their touch and stay.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.chains import market_chains
from marginax.engine import LiveMargin
from marginax.epochs.bars import Epoch
from marginax.expiries import Expiries
from marginax.instruments import Instruments
from marginax.market import Market
from marginax.option_table import option_table
from marginax.options import MINUTES_A_YEAR
from marginax.tables.findings import FILE, LINE, ROW
from marginax.tables.schemas import UTC_TIME

_NONE = -1


@dataclass(frozen=True)
class Moves:
    """Which index moves each mark and each forward, by row of the tables of a market; the same at every epoch.

    `underlying` and `quote` are rows of `underlyings` by row of `quotes` (-1: none, and a price of one for a quote in
    account currency), `follows` the quotes that move with their index, `options` those that are priced anew.
    """

    underlying: Int64[np.ndarray, " quotes"]
    quote: Int64[np.ndarray, " quotes"]
    follows: Bool[np.ndarray, " quotes"]
    options: Bool[np.ndarray, " quotes"]
    forwards: Int64[np.ndarray, " forwards"]
    absolute: Bool[np.ndarray, " underlyings"]
    instruments: Instruments
    window: float


def moves_of(live: LiveMargin, marked: Int64[np.ndarray, " marked"]) -> Moves:
    """What moves by what, from a market at its beginning (see `begun`); `marked` are quotes with marks of their own."""
    market, known = live.market, live.book.instruments
    names = market.underlyings["underlying"].to_list()
    place = {name: k for k, name in enumerate(names)}
    ids = market.quotes["instrument_id"].to_list()
    number = {str(name): k for k, name in enumerate(known.ids)}
    rows = [number.get(name, _NONE) for name in ids]
    own = np.zeros(len(ids), bool)
    own[marked] = True
    listed = np.array([row != _NONE for row in rows], bool)
    option = np.array([row != _NONE and known.is_option[row] for row in rows], bool)
    return Moves(
        underlying=np.array([place.get(known.underlying[row], _NONE) if row != _NONE else _NONE for row in rows]),
        quote=np.array([place.get(known.quote[row], _NONE) if row != _NONE else _NONE for row in rows]),
        follows=listed & ~own & ~option,
        options=option & ~own,
        forwards=np.array([place.get(name, _NONE) for name in market.forwards["underlying"]], np.int64),
        absolute=(market.underlyings["shock"] == "absolute").to_numpy(),
        instruments=known,
        window=live.model.settings.options.settlement_window_minutes / MINUTES_A_YEAR,
    )


def begun(live: LiveMargin, marked: Int64[np.ndarray, " marked"]) -> LiveMargin:
    """A followed market ready to be replayed: bids and asks left out, and where options are to be priced by what they
    are priced with now, their volatilities and their forwards written down."""
    market, known = live.market, live.book.instruments
    quotes, forwards = market.tables["quotes"], market.tables["forwards"]
    rows = quotes.rows.with_columns(bid=pl.lit(None, pl.Float64), ask=pl.lit(None, pl.Float64))
    own = pl.int_range(pl.len()).is_in(marked.tolist())
    is_option = pl.col("instrument_id").is_in(pl.Series(known.ids[known.is_option], dtype=pl.String).implode())
    if rows.filter(is_option & ~own).height:
        window = live.model.settings.options.settlement_window_minutes / MINUTES_A_YEAR
        chains = market_chains(known, market, window=window)
        now = pl.DataFrame({"instrument_id": known.ids[chains.instrument], "now": chains.volatility}).fill_nan(None)
        rows = rows.join(now, on="instrument_id", how="left", maintain_order="left")
        rows = rows.with_columns(implied_vol=pl.when(is_option & ~own).then("now").otherwise("implied_vol")).drop("now")
        forwards = forwards.of(_written_down(forwards.rows, chains.expiries, market))
    tables = {**market.tables, "quotes": quotes.of(rows), "forwards": forwards}
    return replace(live, market=replace(market, tables=tables))


def moved(market: Market, epoch: Epoch, moves: Moves) -> Market:
    """The market one epoch on."""
    before = market.tables["underlyings"].rows
    old = before["index_price"].to_numpy()
    now = old.copy()
    now[epoch.underlyings] = epoch.index
    brought = np.zeros(len(old), bool)
    brought[epoch.underlyings] = True
    underlyings = before.with_columns(index_price=pl.Series(now), time=_stamped(before["time"], brought, epoch))
    quotes = market.tables["quotes"].rows
    was, own = quotes["mark_price"].to_numpy(), moves.underlying
    worth, worth_then = (np.append(prices, 1.0)[moves.quote] for prices in (now, old))
    factor = (now[own] / now_or_one(old[own])) * (worth_then / worth)
    absolute = moves.absolute[own]
    along = np.where(absolute, was * (worth_then / worth) + (now[own] - old[own]) / worth, was * factor)
    mark = np.where(moves.follows, along, was)
    mark[epoch.quotes] = epoch.mark
    fresh = (moves.follows | moves.options) & brought[own]
    fresh[epoch.quotes] = True
    quotes = quotes.with_columns(mark_price=pl.Series(mark), time=_stamped(quotes["time"], fresh, epoch))
    forwards = market.tables["forwards"].rows
    if len(moves.forwards):
        at, level = moves.forwards, forwards["forward"].to_numpy()
        ahead = np.where(moves.absolute[at], level + now[at] - old[at], level * now[at] / now_or_one(old[at]))
        forwards = forwards.with_columns(forward=pl.Series(ahead), time=_stamped(forwards["time"], brought[at], epoch))
    rows = {"underlyings": underlyings, "quotes": quotes, "forwards": forwards}
    tables = {**market.tables, **{name: market.tables[name].of(each) for name, each in rows.items()}}
    after = replace(market, as_of=epoch.time, tables=tables)
    return _with_option_marks(after, moves) if moves.options.any() else after


def _with_option_marks(market: Market, moves: Moves) -> Market:
    """The market with the marks that options have at their own volatilities; what has none keeps its mark."""
    table = market.tables["quotes"]
    chains = market_chains(moves.instruments, market, window=moves.window)
    kept = dict(table.rows.select("instrument_id", "implied_vol").iter_rows())
    own = np.array([kept[name] for name in moves.instruments.ids[chains.instrument]], float)
    priced = option_table(moves.instruments, market, replace(chains, volatility=own), window=moves.window)
    rows = table.rows.join(
        priced.select("instrument_id", "model_price"), on="instrument_id", how="left", maintain_order="left"
    )
    mark = pl.when(pl.Series(moves.options)).then(pl.coalesce("model_price", "mark_price")).otherwise("mark_price")
    rows = rows.with_columns(mark_price=mark).drop("model_price")
    return replace(market, tables={**market.tables, "quotes": table.of(rows)})


def _written_down(rows: pl.DataFrame, expiries: Expiries, market: Market) -> pl.DataFrame:
    """The table of forwards with a row for every expiry of options that has none, in account currency."""
    prices = {**dict(market.underlyings.select("underlying", "index_price").iter_rows()), market.currency: 1.0}
    worth = np.array([prices[name] for name in expiries.quote], float)
    new = pl.DataFrame(
        {
            "underlying": pl.Series(expiries.underlying, dtype=pl.String),
            "expiry": pl.Series(expiries.expiry.astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "forward": expiries.forward * worth,
            "discount": pl.Series(np.where(expiries.upfront, expiries.discount, np.nan)).fill_nan(None),
            "time": pl.repeat(market.as_of, len(expiries), eager=True, dtype=UTC_TIME),
            FILE: pl.repeat("forwards", len(expiries), eager=True),
            ROW: pl.int_range(1, len(expiries) + 1, dtype=pl.Int64, eager=True),
            LINE: pl.repeat(None, len(expiries), eager=True, dtype=pl.Int64),
        }
    )
    # Of groups that share an expiry the one whose premium is paid upfront knows the discount.
    new = new.sort("discount", nulls_last=True, maintain_order=True)
    new = new.unique(["underlying", "expiry"], keep="first", maintain_order=True)
    return pl.concat([rows, new.join(rows, on=["underlying", "expiry"], how="anti").select(rows.columns)])


def _stamped(times: pl.Series, fresh: np.ndarray, epoch: Epoch) -> pl.Series:
    """The time of the epoch where a price is fresh, that of before where it is not."""
    now = pl.select(pl.lit(epoch.time).cast(UTC_TIME)).to_series()
    return now.new_from_index(0, len(times)).zip_with(pl.Series(fresh), times).alias("time")


def now_or_one(prices: Float64[np.ndarray, " prices"]) -> Float64[np.ndarray, " prices"]:
    """Prices to divide by; where one is zero its underlying is shocked absolutely and the quotient is not used."""
    return np.where(prices == 0, 1.0, prices)
