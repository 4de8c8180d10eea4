"""A market in time: what is known at `as_of`, what is stale, and what happened since the last bar."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from markets import AS_OF, BARS, margin, row, tables


def test_history_after_as_of_is_left_out_and_counted() -> None:
    early = AS_OF - timedelta(days=40)
    known = markets.history().filter(pl.col("time") <= early)
    result = margin(tables(), as_of=early)
    assert result.manifest["history_rows_after_as_of"] == 5 * 40
    assert result.manifest["as_of"] == early.isoformat()
    assert result.manifest["inputs"]["history"]["rows"] == 5 * BARS
    assert result.margins.equals(margin(tables(history=known), as_of=early).margins)


def test_as_of_before_the_history_is_refused() -> None:
    with pytest.raises(mx.BadInput, match="holds 0 bars of the underlyings up to 2020-01-01 00:00"):
        margin(tables(), as_of=AS_OF.replace(year=2020))


def test_a_stale_quote_index_or_history_is_said_and_margined() -> None:
    old = AS_OF - timedelta(days=6)
    quotes = markets.quotes().with_columns(time=pl.when(instrument_id="ETH-FUT").then(pl.lit(old)).otherwise("time"))
    result = margin(tables(quotes=quotes))
    assert row(result, "spread")["reason"] == "stale: quote of ETH-FUT"
    assert row(result, "mixed")["status"] == "ok"
    prices = markets.underlyings().with_columns(time=pl.when(underlying="ETH").then(pl.lit(old)).otherwise("time"))
    result = margin(tables(underlyings=prices))
    assert row(result, "mixed")["reason"] == row(result, "saver")["reason"] == "stale: index price of ETH"
    shorter = markets.history().filter((pl.col("underlying") != "ETH") | (pl.col("time") <= old))
    result = margin(tables(history=shorter))
    assert row(result, "spread")["reason"] == "stale: history of ETH ends 2025-12-26"
    assert row(result, "long")["status"] == "ok"
    assert result.margins["initial_margin"].null_count() == 0


def test_a_proxied_underlying_is_as_stale_as_what_it_follows() -> None:
    old = AS_OF - timedelta(days=6)
    history = markets.replaced("DOGE", None).filter((pl.col("underlying") != "BTC") | (pl.col("time") <= old))
    reason = row(margin(tables(history=history)), "mixed")["reason"]
    assert reason == "proxied: DOGE by BTC; stale: history of BTC ends 2025-12-26"


def test_a_history_that_ended_too_long_ago_is_none() -> None:
    old = AS_OF - timedelta(days=61)
    history = markets.history().filter((pl.col("underlying") != "DOGE") | (pl.col("time") <= old))
    assert row(margin(tables(history=history)), "mixed")["reason"] == "proxied: DOGE by BTC"


def stopped(weeks: int, index: float) -> mx.Result:
    """Margins when BTC has no bars for some weeks and then this index price."""
    end = AS_OF - timedelta(weeks=weeks)
    history = markets.history().filter((pl.col("underlying") != "BTC") | (pl.col("time") <= end))
    last = history.filter(underlying="BTC")["price"][-1]
    return margin(tables(history=history, **markets.priced("BTC", last * index)))


def share(result: mx.Result, index: float) -> float:
    """Margin of the long account over what it holds, by what the index has become."""
    return float(row(result, "long")["expected_shortfall"]) / index


def test_a_fall_in_a_gap_of_three_weeks_raises_the_margin() -> None:
    still, fallen, crashed = (share(stopped(3, index), index) for index in (1.0, 0.75, 0.5))
    assert still < fallen < crashed
    assert crashed > 1.1 * still


def variance(given: dict[str, Any], as_of: datetime) -> float:
    """Today's variance of BTC per bar, as the filter knows it."""
    model = mx.load_model()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")}, as_of=as_of)
    return float(model.observe(model.factors(market, book.instruments)).today[0])


def test_a_still_gap_never_lowers_the_volatility_and_a_fall_raises_it() -> None:
    end = AS_OF - timedelta(weeks=3)
    history = markets.history().filter((pl.col("underlying") != "BTC") | (pl.col("time") <= end))
    last = history.filter(underlying="BTC")["price"][-1]
    known = variance(tables(history=history, **markets.priced("BTC", last)), end)
    assert variance(tables(history=history, **markets.priced("BTC", last)), AS_OF) == known
    assert variance(tables(history=history, **markets.priced("BTC", last * 0.999)), AS_OF) == known
    fall = np.log(0.6)
    decay = 2 ** (-21 / 23)
    expected = decay * known + (1 - decay) * fall**2 / 21
    # The filter runs in float64 and the index carries sixteen digits.
    fallen = tables(history=history, **markets.priced("BTC", last * 0.6))
    assert variance(fallen, AS_OF) == pytest.approx(expected, rel=1e-6)


def test_a_fall_since_the_last_bar_raises_the_margin_within_the_hour() -> None:
    """Bars are of midnight; at half past nine the index has fallen by a third, and no bar says so yet."""
    now = AS_OF + timedelta(hours=9, minutes=30)
    quiet = margin(tables(), as_of=now)
    fallen = margin(tables(**markets.priced("BTC", 80_000 * 2 / 3)), as_of=now)
    assert share(fallen, 2 / 3) > 1.2 * share(quiet, 1.0)


@pytest.mark.parametrize("hours", [1, 9, 23])
def test_an_index_at_its_last_bar_adds_no_return(hours: int) -> None:
    later = row(margin(tables(), as_of=AS_OF + timedelta(hours=hours)), "long")
    assert later["expected_shortfall"] == row(markets.clean(), "long")["expected_shortfall"]


def test_an_account_in_many_bad_things_names_some_and_counts_the_rest() -> None:
    old = AS_OF - timedelta(days=30)
    everything = markets.book_of(*[("all", name, 1.0) for name in markets.instruments()["instrument_id"]])
    quotes = markets.quotes().with_columns(time=pl.lit(old))
    result = margin(tables(positions=everything, quotes=quotes), as_of=AS_OF)
    reason = row(result, "all")["reason"]
    assert reason.startswith("stale: quote of BTC-FUT, quote of BTC-INV, ")
    assert reason.endswith(" and 2 more")


def test_a_century_of_patience_is_the_most_that_can_be_asked_for() -> None:
    patient = markets.config(stale_after_days=36_500.0, unusable_after_days=36_500.0)
    assert set(margin(tables(), patient, as_of=AS_OF + timedelta(days=40)).margins["status"]) == {"ok"}
