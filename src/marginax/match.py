"""A book against a market: everything held must have a price, and nothing may be past its expiry.

What a row of the book lacks in the market makes its account `missing_price`; what is wrong with a row itself makes its
account `incomplete`. Both happen only under quarantine: otherwise the first finding stops the run.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Bool

from marginax.book import Book, assemble
from marginax.expiries import contradicted_forwards
from marginax.instruments import OPTIONS, number_instruments, settlement_asset
from marginax.market import LARGEST_VOLATILITY, Market
from marginax.sections import Options
from marginax.tables.door import Admitted, OnError
from marginax.tables.findings import find, together


@dataclass(frozen=True)
class Matched:
    """A book and a market that fit; `unpriced` and `incomplete` flag the holders that lost rows on the way.

    What an account has no price for is not in its isolated positions; a row that was wrong may have been.
    """

    book: Book
    market: Market
    unpriced: Bool[np.ndarray, " holders"]
    incomplete: Bool[np.ndarray, " holders"]

    @property
    def quarantine(self) -> pl.DataFrame:
        """Every row set aside, of all tables, with its reason."""
        return pl.concat([table.quarantine for table in (*self.book.tables.values(), *self.market.tables.values())])


def match(
    book: Book, market: Market, *, model: str, options: Options | None = None, on_error: OnError = "raise"
) -> Matched:
    """Check a book against a market. Raises BadInput that names file, column, row and remedy."""
    options = options or Options()
    tables = dict(book.tables)
    tables["instruments"] = tables["instruments"].set_aside(_instruments(tables["instruments"], market), on_error)
    tables["accounts"] = tables["accounts"].set_aside(_accounts(tables["accounts"], market, model), on_error)
    quotes = market.tables["quotes"]
    quotes = quotes.set_aside(_quotes(quotes, tables["instruments"], market), on_error)
    market = replace(market, tables={**market.tables, "quotes": quotes})
    forwards = market.tables["forwards"]
    forwards = forwards.set_aside(_forwards(forwards, tables["instruments"], market, options.forward_bound), on_error)
    market = replace(market, tables={**market.tables, "forwards": forwards})
    levels = market.tables["order_book"]
    levels = levels.set_aside(_order_book(levels, tables["instruments"], market), on_error)
    market = replace(market, tables={**market.tables, "order_book": levels})
    book = assemble(tables, on_error)
    tables = dict(book.tables)
    for name, column in (("positions", "entry_price"), ("orders", "limit_price")):
        tables[name] = tables[name].set_aside(_inverse_prices(tables[name], tables, column), on_error)
    lost = {name: table.quarantine["account_id"] for name, table in tables.items()}
    incomplete = _flag(book, list(lost.values()))
    unpriced = []
    for name, findings in (
        ("positions", _unpriced_contracts(tables["positions"], tables["instruments"], market)),
        ("orders", _unpriced_contracts(tables["orders"], tables["instruments"], market)),
        ("balances", _unpriced_balances(tables["balances"], market)),
    ):
        before = tables[name].quarantine.height
        tables[name] = tables[name].set_aside(findings, on_error)
        unpriced.append(tables[name].quarantine["account_id"][before:])
    book = replace(book, tables=tables)
    alone = np.zeros(book.isolated.height, bool)
    return Matched(book, market, np.append(_flag(book, unpriced), alone), incomplete[book.holder_accounts])


def rematched(before: Matched, market: Market, *, options: Options | None = None) -> Matched | None:
    """The same book against a market that differs from that of before in nothing but numbers.

    None where it differs in more, where rows were set aside, or where anything is to be said of it: `match` says it.
    """
    if before.quarantine.height or market.currency != before.market.currency:
        return None
    for name, key in (("quotes", "instrument_id"), ("underlyings", "underlying")):
        old, new = before.market.tables[name].rows, market.tables[name].rows
        if not new[key].equals(old[key]) or (name == "underlyings" and not new["shock"].equals(old["shock"])):
            return None
    instruments, tables = before.book.tables["instruments"], market.tables
    bound = (options or Options()).forward_bound
    findings = (
        _instruments(instruments, market),
        _quotes(tables["quotes"], instruments, market),
        _forwards(tables["forwards"], instruments, market, bound),
        _order_book(tables["order_book"], instruments, market),
    )
    return None if any(each.height for each in findings) else replace(before, market=market)


def _flag(book: Book, ids: list[pl.Series]) -> np.ndarray:
    accounts = pl.Series(book.accounts, dtype=pl.String)
    return accounts.is_in(pl.concat([series.drop_nulls() for series in ids]).unique().implode()).to_numpy()


def _instruments(table: Admitted, market: Market) -> pl.DataFrame:
    absolute = market.underlyings.filter(pl.col("shock") == "absolute")["underlying"]
    inverse = (pl.col("settlement") == "inverse") & pl.col("underlying").is_in(absolute.implode())
    expired = pl.format("it expired on {}, and the margin is as of {}", pl.col("expiry").dt.to_string("%Y-%m-%d %H:%M"),
                        pl.lit(f"{market.as_of:%Y-%m-%d %H:%M}"))  # fmt: skip
    return together(
        [
            find(
                table.rows, table.name, pl.col("expiry") <= market.as_of, "expiry", expired,
                "Remove the instrument and settle its positions, or set as_of before its expiry",
            ),
            find(
                table.rows, table.name,
                (pl.col("strike") <= 0) & ~pl.col("underlying").is_in(absolute.implode()), "strike",
                pl.format("the strike {} was given and the underlying takes log shocks", "strike"),
                'Correct it, or set the `shock` of its underlying to "absolute"',
            ),
            find(
                table.rows, table.name, inverse, "settlement",
                pl.format("an inverse contract on '{}', whose shocks are absolute", "underlying"),
                "A price that may be zero has no inverse: use linear settlement or log shocks",
            ),
        ]
    )  # fmt: skip


def _accounts(table: Admitted, market: Market, model: str) -> pl.DataFrame:
    return together(
        [
            find(
                table.rows, table.name, pl.col("currency") != market.currency, "currency",
                pl.format("{} was given and the run is in {}", "currency", pl.lit(market.currency)),
                "Run these accounts on their own with `currency` set in [run]",
            ),
            find(
                table.rows, table.name, pl.col("model") != model, "model",
                pl.format("{} was given and the run's model is {}", "model", pl.lit(model)),
                "Run these accounts on their own with that model",
            ),
        ]
    )  # fmt: skip


def _quotes(table: Admitted, instruments: Admitted, market: Market) -> pl.DataFrame:
    log = market.underlyings.filter(pl.col("shock") == "log")["underlying"]
    is_option = pl.col("kind").is_in(list(OPTIONS))
    on_log = instruments.rows.filter(pl.col("underlying").is_in(log.implode()))
    positive, options = (on_log.filter(which)["instrument_id"] for which in (~is_option, is_option))
    every_option = instruments.rows.filter(is_option)["instrument_id"]
    others = instruments.rows.filter(pl.col("kind") != "perpetual")["instrument_id"]
    name = pl.col("instrument_id")
    price = pl.format("{} was given for an instrument whose underlying takes log shocks", "mark_price")
    return together(
        [
            find(
                table.rows, table.name, (pl.col("mark_price") <= 0) & name.is_in(positive.implode()), "mark_price",
                price, 'Correct the price, or set the `shock` of its underlying to "absolute"',
            ),
            find(
                table.rows, table.name, (pl.col("mark_price") < 0) & name.is_in(every_option.implode()), "mark_price",
                pl.format("{} was given for an option", "mark_price"), "Give a price that is not negative",
            ),
            find(
                table.rows, table.name,
                (pl.col("implied_vol") > LARGEST_VOLATILITY) & name.is_in(options.implode()), "implied_vol",
                pl.format("{} was given", "implied_vol"), "Write 0.8 for 80 % a year, or leave it empty",
            ),
            find(
                table.rows, table.name, (pl.col("funding_rate") != 0) & name.is_in(others.implode()), "funding_rate",
                pl.format("{} was given for '{}', which is no perpetual", "funding_rate", name),
                "Leave it empty, or call the instrument a perpetual",
            ),
        ]
    )  # fmt: skip


def _forwards(table: Admitted, instruments: Admitted, market: Market, bound: float) -> pl.DataFrame:
    against = contradicted_forwards(number_instruments(instruments.rows), market, bound=bound)
    rows = table.rows.join(against, on=["underlying", "expiry"], how="inner", maintain_order="left")
    what = pl.format("the forward {} is given and {} says {}", "forward", "by", "other")
    remedy = "Correct the forward or the marks, leave the row out, or raise `options.forward_bound`"
    return find(rows, table.name, pl.lit(True), "forward", what, remedy)


def _order_book(table: Admitted, instruments: Admitted, market: Market) -> pl.DataFrame:
    kinds = instruments.rows.select("instrument_id", "kind", "underlying")
    rows = table.rows.join(kinds, on="instrument_id", how="left", maintain_order="left")
    log = market.underlyings.filter(pl.col("shock") == "log")["underlying"]
    known = pl.col("underlying").is_in(market.underlyings["underlying"].implode())
    quoted = pl.col("instrument_id").is_in(market.quotes["instrument_id"].implode())
    option = pl.col("kind").is_in(list(OPTIONS))
    return together(
        [
            find(
                rows, table.name, pl.col("kind").is_null(), "instrument_id",
                pl.format("the instrument '{}' is unknown", "instrument_id"),
                "Add it to the table `instruments`, or leave its levels out",
            ),
            find(
                rows, table.name, option, "instrument_id", pl.format("'{}' is an option", "instrument_id"),
                "Deltas are closed in spot, perpetuals and futures: leave its levels out",
            ),
            find(
                rows, table.name, ~option & ~known, "instrument_id",
                pl.format("its underlying '{}' is not in `underlyings`", "underlying"),
                "Add the underlying with its index_price, or leave its levels out",
            ),
            find(
                rows, table.name, ~option & known & ~quoted, "instrument_id",
                pl.format("'{}' has no quote", "instrument_id"), "Add a quote, or leave its levels out",
            ),
            find(
                rows, table.name, (pl.col("price") <= 0) & pl.col("underlying").is_in(log.implode()), "price",
                pl.format("{} was given for an instrument whose underlying takes log shocks", "price"),
                'Correct the price, or set the `shock` of its underlying to "absolute"',
            ),
        ]
    )  # fmt: skip


def _inverse_prices(table: Admitted, tables: dict[str, Admitted], column: str) -> pl.DataFrame:
    inverse = tables["instruments"].rows.filter(pl.col("settlement") == "inverse")["instrument_id"]
    bad = (pl.col(column) <= 0) & pl.col("instrument_id").is_in(inverse.implode())
    what = pl.format("{} was given for an inverse contract", column)
    return find(table.rows, table.name, bad, column, what, "Give a price above zero or leave it empty")


def _unpriced_contracts(table: Admitted, instruments: Admitted, market: Market) -> pl.DataFrame:
    priced = market.quotes["instrument_id"]
    known = pl.concat([market.underlyings["underlying"], pl.Series([market.currency])])
    settle = instruments.rows.select("instrument_id", "kind", "underlying", "quote", settlement_asset())
    rows = table.rows.join(settle, on="instrument_id", how="left", maintain_order="left")
    held = pl.col("quantity") != 0
    no_quote = ~pl.col("instrument_id").is_in(priced.implode())
    no_index = ~pl.col("underlying").is_in(market.underlyings["underlying"].implode())
    no_settle = ~pl.col("settle").is_in(known.implode())
    # A strike is in the quote currency: without its price nobody knows how far the coin is from it.
    no_money = pl.col("kind").is_in(list(OPTIONS)) & ~pl.col("quote").is_in(known.implode())
    quote_file = ", ".join(market.tables["quotes"].digests) or "quotes"
    index_file = ", ".join(market.tables["underlyings"].digests) or "underlyings"
    return together(
        [
            find(
                rows, table.name, held & no_quote, "instrument_id",
                pl.format("'{}' has no usable quote in {}", "instrument_id", pl.lit(quote_file)),
                "Add a quote with its mark_price",
            ),
            find(
                rows, table.name, held & no_index, "instrument_id",
                pl.format("its underlying '{}' has no usable row in {}", "underlying", pl.lit(index_file)),
                "Add the underlying with its index_price",
            ),
            find(
                rows, table.name, held & no_settle, "instrument_id",
                pl.format("its settlement asset '{}' has no usable row in {}", "settle", pl.lit(index_file)),
                "Add the asset to `underlyings` with its index_price",
            ),
            find(
                rows, table.name, held & no_money & ~no_settle, "instrument_id",
                pl.format("its quote currency '{}' has no usable row in {}", "quote", pl.lit(index_file)),
                "Add the currency to `underlyings` with its index_price",
            ),
        ]
    )  # fmt: skip


def _unpriced_balances(table: Admitted, market: Market) -> pl.DataFrame:
    known = pl.concat([market.underlyings["underlying"], pl.Series([market.currency])])
    bad = (pl.col("amount") != 0) & ~pl.col("asset").is_in(known.implode())
    index_file = ", ".join(market.tables["underlyings"].digests) or "underlyings"
    what = pl.format("the asset '{}' has no usable row in {}", "asset", pl.lit(index_file))
    return find(table.rows, table.name, bad, "asset", what, "Add the asset to `underlyings` with its index_price")
