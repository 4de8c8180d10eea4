"""Prices that may be zero or below: shocked in their own unit, refused where shocks are logarithms."""

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from markets import margin, row, series, tables


def oil(bars: int = markets.BARS) -> dict[str, pl.DataFrame]:
    """Oil in April 2020: two dollars now, and minus 37 two weeks ago."""
    path = np.concatenate(
        [np.linspace(60, 20, bars - 20), [18, 15, 11, 2, -37.6, 9, 13, 14, 13, 15, 12, 10, 8, 7, 6, 5, 4, 3, 2, 2]]
    )
    table = markets.underlyings().with_columns(
        index_price=pl.when(underlying="OIL").then(2.0).otherwise("index_price"),
        shock=pl.when(underlying="OIL").then(pl.lit("absolute")),
    )
    mark = pl.when(instrument_id="OIL-FUT").then(2.0).otherwise("mark_price").alias("mark_price")
    history = markets.history().filter(pl.col("underlying") != "OIL")
    return {
        "history": pl.concat([history, series("OIL", path)]),
        "underlyings": table,
        "quotes": markets.quotes().drop("bid", "ask").with_columns(mark),
        "positions": pl.DataFrame(
            [("bear", "OIL-FUT", -100.0), ("bull", "OIL-FUT", 100.0)], schema=markets.positions().schema, orient="row"
        ),
    }


def test_oil_through_a_negative_price_is_margined_in_dollars() -> None:
    result = margin(tables(**oil()))
    for account in ("bear", "bull"):
        found = row(result, account)
        assert found["status"] == "ok"
        # 1,000 barrels that have just moved by forty and by fifty dollars in a day.
        assert 10_000 < found["initial_margin"] < 200_000
    assert row(result, "bull")["worst_scenario"] != row(result, "bear")["worst_scenario"]


@pytest.mark.parametrize("price", [0.0, -5.0])
def test_an_index_at_zero_or_below_is_margined_where_shocks_are_absolute(price: float) -> None:
    given = oil()
    index = pl.when(underlying="OIL").then(price).otherwise("index_price").alias("index_price")
    mark = pl.when(instrument_id="OIL-FUT").then(price).otherwise("mark_price").alias("mark_price")
    given["underlyings"] = given["underlyings"].with_columns(index)
    given["quotes"] = given["quotes"].with_columns(mark)
    result = margin(tables(**given))
    assert np.isfinite(row(result, "bull")["initial_margin"])
    assert row(result, "bull")["initial_margin"] > 10_000


def test_an_absolute_shock_needs_no_positive_history_and_a_log_shock_does() -> None:
    given = oil()
    given["underlyings"] = given["underlyings"].with_columns(shock=pl.lit("log"))
    with pytest.raises(mx.BadInput) as caught:
        margin(tables(**given))
    assert "the price -37.6 has no logarithm" in str(caught.value)
    assert caught.value.total == 1


def test_an_absolute_underlying_without_history_follows_its_proxy_in_its_own_size() -> None:
    given = oil()
    given["history"] = given["history"].filter(pl.col("underlying") != "OIL")
    found = row(margin(tables(**given)), "bull")
    assert found["status"] == "proxied"
    # 1,000 barrels at two dollars: relative moves of bitcoin times beta, and a residual.
    assert 100 < found["initial_margin"] < 2_000
