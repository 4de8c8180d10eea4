"""Rows that are wrong only beside other tables: named by file, column and row as soon as both tables are known."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
import markets
from door_tables import KINDS, names, write
from markets import AS_OF, changed, margin, tables


def refused(given: dict[str, Any], **options: Any) -> mx.BadInput:
    with pytest.raises(mx.BadInput) as caught:
        margin(given, **options)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", ["positions", "orders"])
def test_an_unknown_instrument_is_refused_when_the_book_is_read(table: str, kind: str, tmp_path: Path) -> None:
    path = write(changed(markets.positions(), "instrument_id", "BTC-PREP", row=5), tmp_path, table, kind)
    book = {"instruments": markets.instruments(), "positions": markets.positions(), "balances": markets.balances()}
    with pytest.raises(mx.BadInput) as caught:
        mx.read_book(**{**book, table: path})
    names(caught.value, path, "instrument_id", 5, "'BTC-PREP' is unknown", "table `instruments`")


@pytest.mark.parametrize("kind", KINDS)
def test_a_contract_past_its_expiry_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(changed(markets.instruments(), "expiry", AS_OF - timedelta(1), row=4), tmp_path, "instruments", kind)
    error = refused(tables(instruments=path))
    names(error, path, "expiry", 4, "it expired on 2025-12-31 00:00", "as of 2026-01-01 00:00", "settle its positions")


def test_a_contract_expires_at_its_very_time() -> None:
    def result(expiry: datetime) -> Any:
        return tables(instruments=changed(markets.instruments(), "expiry", expiry, row=4))

    assert "it expired on" in str(refused(result(AS_OF)))
    assert margin(result(AS_OF + timedelta(microseconds=1))).margins.height == 8
    before = AS_OF - timedelta(days=1)
    assert margin(result(AS_OF), as_of=before).margins.height == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_instrument_without_a_quote_is_refused_at_each_position(kind: str, tmp_path: Path) -> None:
    path = write(markets.positions(), tmp_path, "positions", kind)
    quotes = markets.quotes().filter(pl.col("instrument_id") != "DOGE-PERP")
    error = refused(tables(positions=path, quotes=quotes))
    names(error, path, "instrument_id", 7, "'DOGE-PERP' has no usable quote in <quotes>", "mark_price")


def test_an_instrument_that_nobody_holds_needs_no_quote() -> None:
    quotes = markets.quotes().filter(pl.col("instrument_id") != "ETH-SPOT")
    assert margin(tables(quotes=quotes)).margins.equals(margin(tables()).margins)
    flat = markets.plus(markets.positions(), "saver", "ETH-SPOT", 0.0)
    assert margin(tables(quotes=quotes, positions=flat)).margins.equals(margin(tables()).margins)


def test_a_held_underlying_or_settlement_asset_without_a_price_is_refused() -> None:
    without = markets.underlyings().filter(pl.col("underlying") != "DOGE")
    names(refused(tables(underlyings=without)), "<positions>", "instrument_id", 7, "'DOGE' has no usable row")
    without = markets.underlyings().filter(pl.col("underlying") != "USDT")
    error = refused(tables(underlyings=without))
    assert {(p.file, p.column) for p in error.problems} == {("<positions>", "instrument_id")}
    assert "its settlement asset 'USDT' has no usable row in <underlyings>" in str(error)
    quanto = (pl.col("kind") != "spot") & (pl.col("settlement") == "linear")
    settled = markets.instruments().with_columns(settle_asset=pl.when(quanto).then(pl.lit("USD")))
    error = refused(tables(underlyings=without, instruments=settled))
    assert {(p.file, p.row) for p in error.problems} == {("<balances>", 6), ("<balances>", 9)}
    assert "the asset 'USDT' has no usable row in <underlyings>" in str(error)


def test_an_asset_nobody_has_any_of_needs_no_price() -> None:
    given = tables(balances=markets.plus(markets.balances(), "saver", "SHIB", 0.0))
    assert margin(given).margins.equals(margin(tables()).margins)


@pytest.mark.parametrize("price", [0.0, -5.0])
def test_prices_that_have_no_logarithm_are_refused_wherever_they_stand(price: float) -> None:
    index = changed(markets.underlyings(), "index_price", price, row=2)
    names(refused(tables(underlyings=index)), "<underlyings>", "index_price", 2, f"{price} was given", '"absolute"')
    mark = changed(markets.quotes(), "mark_price", price, row=7).drop("bid", "ask")
    names(refused(tables(quotes=mark)), "<quotes>", "mark_price", 7, f"{price} was given", '"absolute"')
    past = changed(markets.history(), "price", price, row=300)
    names(refused(tables(history=past)), "<history>", "price", 300, "no logarithm", '"absolute"')
    entry = changed(markets.positions(), "entry_price", price, row=3)
    names(refused(tables(positions=entry)), "<positions>", "entry_price", 3, "an inverse contract", "above zero")


def test_an_inverse_contract_on_what_is_shocked_absolutely_is_refused() -> None:
    absolute = markets.underlyings().with_columns(shock=pl.Series(["absolute", None, None, None, None]))
    error = refused(tables(underlyings=absolute))
    assert [(p.file, p.column, p.row) for p in error.problems] == [
        ("<instruments>", "settlement", 3),
        ("<instruments>", "settlement", 5),
    ]


def test_the_account_currency_costs_one_and_moves_nothing() -> None:
    dollar = markets.plus(markets.underlyings(), "USD", 1.0, AS_OF)
    assert margin(tables(underlyings=dollar)).margins.equals(margin(tables()).margins)
    other = markets.plus(markets.underlyings(), "USD", 0.99, AS_OF)
    names(refused(tables(underlyings=other)), "<underlyings>", "index_price", 6, "whose price is 1", "Remove the row")


def test_a_proxy_is_another_underlying_and_leads_somewhere() -> None:
    def proxies(*names: str | None) -> dict[str, Any]:
        return tables(underlyings=markets.underlyings().with_columns(proxy=pl.Series(names, dtype=pl.String)))

    error = refused(proxies(None, "BTX", None, None, None))
    names(error, "<underlyings>", "proxy", 2, "the proxy 'BTX' of 'ETH' is not an underlying", "name another")
    names(refused(proxies("BTC", None, None, None, None)), "<underlyings>", "proxy", 1, "'BTC' lead back to it")
    error = refused(proxies("ETH", "DOGE", "BTC", "BTC", None))
    assert [problem.row for problem in error.problems] == [1, 2, 3]
    assert "the proxies of 'BTC' lead back to it. Let one of them stand alone." in str(error)
    assert margin(proxies(None, "BTC", "ETH", "DOGE", "BTC")).margins.height == 8


def test_accounts_in_another_currency_or_under_another_model_are_refused() -> None:
    accounts = pl.DataFrame({"account_id": ["long", "short"], "currency": ["USD", "EUR"]})
    names(refused(tables(accounts=accounts)), "<accounts>", "currency", 2, "EUR was given and the run is in USD")
    accounts = pl.DataFrame({"account_id": ["long", "short"], "model": ["expected_shortfall", "span"]})
    names(refused(tables(accounts=accounts)), "<accounts>", "model", 2, "span was given")


def test_without_any_time_the_as_of_has_to_be_said() -> None:
    quotes, prices = markets.quotes().drop("time"), markets.underlyings().drop("time")
    given = tables(quotes=quotes, underlyings=prices, history=markets.history().clear())
    names(refused(given), "<quotes>", "time", None, "no table holds a time", "say as_of")


def test_as_of_is_the_latest_quote_else_the_latest_index_else_the_last_bar() -> None:
    def read(**changed: Any) -> datetime:
        given = {name: frame for name, frame in tables(**changed).items() if name not in markets.BOOK}
        return mx.read_market(**given).as_of

    early, quotes, prices = AS_OF - timedelta(hours=5), markets.quotes(), markets.underlyings()
    late = changed(quotes.with_columns(time=pl.lit(early)), "time", AS_OF - timedelta(hours=2), row=4)
    assert read(quotes=late) == AS_OF - timedelta(hours=2)
    assert read(quotes=quotes.drop("time"), underlyings=prices.with_columns(time=pl.lit(early))) == early
    assert read(quotes=quotes.drop("time"), underlyings=prices.drop("time")) == AS_OF


def test_as_of_may_be_a_date_or_a_time_in_any_zone_or_none() -> None:
    given = {name: frame for name, frame in tables().items() if name not in markets.BOOK}
    tokyo = datetime.fromisoformat("2025-12-01T09:00:00+09:00")
    for as_of in (date(2025, 12, 1), datetime(2025, 12, 1), datetime(2025, 12, 1, tzinfo=UTC), tokyo):
        market = mx.read_market(**given, as_of=as_of)
        assert market.as_of == datetime(2025, 12, 1, tzinfo=UTC)
        assert market.as_of.tzinfo == UTC


def test_on_error_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match="neither 'raise' nor 'quarantine'"):
        margin(tables(), on_error="ignore")


@pytest.mark.parametrize("kind", KINDS)
def test_a_venue_in_files_of_any_kind_has_the_margins_of_its_frames(kind: str, tmp_path: Path) -> None:
    files = {name: write(frame, tmp_path, name, kind) for name, frame in tables().items()}
    assert margin(files).margins.equals(markets.clean().margins)
    assert margin({name: frame.to_arrow() for name, frame in tables().items()}).margins.equals(markets.clean().margins)
