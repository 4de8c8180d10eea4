"""Contracts quoted or settled in something else than the account currency, and sums that cancel."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.engine import Result

DAYS = [date(2025, 1, 1) + timedelta(days=k) for k in range(261)]
NOW = datetime(2025, 9, 19, tzinfo=UTC)
PRICES = {"BTC": 50_000.0, "EUR": 1.1, "YEN": 1 / 150, "OIL": 60.0, "NEW": 5.0}


def path(name: str) -> np.ndarray:
    """A history that ends at today's price."""
    rng = np.random.default_rng([7, *name.encode()])
    steps = rng.standard_t(4, len(DAYS)) * (0.004 if name in ("EUR", "YEN") else 0.02)
    walk = np.cumsum(steps)
    return PRICES[name] * np.exp(walk - walk[-1])


def margin(
    instruments: list[dict[str, Any]],
    positions: list[tuple[str, str, float]],
    balances: list[tuple[str, str, float]] = [],  # noqa: B006 - never changed
    **underlying: dict[str, Any],
) -> Result:
    """Margin of a book over the prices above; NEW has no history."""
    terms = [{"quote": "USD", "settlement": "linear", "multiplier": 1.0, **row} for row in instruments]
    rows = [{"underlying": name, "index_price": price, **underlying.get(name, {})} for name, price in PRICES.items()]
    past = [
        {"time": day, "underlying": name, "price": price}
        for name in PRICES
        if name != "NEW"
        for day, price in zip(DAYS, path(name), strict=True)
    ]
    rates = {**PRICES, "USD": 1.0}
    quotes = [
        {
            "instrument_id": row["instrument_id"],
            "mark_price": PRICES[row["underlying"]] / rates[row["quote"]],
            "time": NOW,
        }
        for row in terms
    ]
    book = mx.read_book(
        instruments=pl.DataFrame(terms, infer_schema_length=None),
        positions=pl.DataFrame(positions, schema=["account_id", "instrument_id", "quantity"], orient="row"),
        balances=pl.DataFrame(
            balances, schema={"account_id": pl.String, "asset": pl.String, "amount": pl.Float64}, orient="row"
        ),
    )
    market = mx.read_market(
        quotes=pl.DataFrame(quotes),
        underlyings=pl.DataFrame(rows, infer_schema_length=None),
        history=pl.DataFrame(past),
    )
    settings = mx.Config.model_validate({"basis": {"volatility": 1e-9, "annualised_volatility": 0.0}})
    return mx.margin_book(book, market, settings)


def owed(result: Result) -> dict[str, float]:
    return dict(result.margins.select("account_id", "initial_margin").iter_rows())


@pytest.mark.parametrize("trades", [(0.1, 0.2, -0.3), (1.1, 2.2, -3.3), (0.7, 0.1, -0.8), (3.3, -1.1, -2.2)])
def test_a_position_that_was_closed_is_none_whatever_its_decimals(trades: tuple[float, ...]) -> None:
    perpetual = {"instrument_id": "BTC-PERP", "kind": "perpetual", "underlying": "BTC"}
    result = margin([perpetual], [("a", "BTC-PERP", size) for size in trades], [("a", "BTC", 100.0)])
    assert owed(result) == {"a": 0.0}


def test_oil_quoted_in_yen_is_as_risky_as_oil_in_dollars() -> None:
    names = {"OIL-USD": "USD", "OIL-YEN": "YEN"}
    rows = [
        {"instrument_id": name, "kind": "perpetual", "underlying": "OIL", "quote": quote}
        for name, quote in names.items()
    ]
    for shock in ("log", "absolute"):
        found = owed(margin(rows, [("home", "OIL-USD", 100.0), ("away", "OIL-YEN", 100.0)], OIL={"shock": shock}))
        # The contracts differ by what the yen itself does to the profit: a fifth of oil's daily move.
        assert found["away"] == pytest.approx(found["home"], rel=0.25)


def test_a_coin_quoted_in_euros_is_the_coin() -> None:
    spot = {"instrument_id": "BTC-EUR", "kind": "spot", "underlying": "BTC", "quote": "EUR"}
    found = margin([spot], [("flat", "BTC-EUR", 1.0), ("long", "BTC-EUR", 1.0)], [("flat", "BTC", -1.0)])
    owes = owed(found)
    # float32 products of a price of 50,000: a handful of roundings of 6e-8.
    assert owes["flat"] < 1e-6 * PRICES["BTC"]
    assert owes["long"] > 0.02 * PRICES["BTC"]
    assert found.margins["equity"][0] == pytest.approx(0, abs=1e-9 * PRICES["BTC"])


def test_cash_and_carry_in_a_foreign_currency_is_that_currency() -> None:
    rows = [
        {"instrument_id": "BTC-EUR", "kind": "spot", "underlying": "BTC", "quote": "EUR"},
        {"instrument_id": "BTC-EUR-PERP", "kind": "perpetual", "underlying": "BTC", "quote": "EUR"},
        {"instrument_id": "EUR-USD", "kind": "spot", "underlying": "EUR"},
    ]
    worth = PRICES["BTC"] / PRICES["EUR"]
    found = owed(
        margin(rows, [("carry", "BTC-EUR", 1.0), ("carry", "BTC-EUR-PERP", -1.0), ("euros", "EUR-USD", worth)])
    )
    # Up to float32 and the billionth that the basis is given.
    assert found["carry"] == pytest.approx(found["euros"], rel=1e-4)


@pytest.mark.parametrize(
    "terms",
    [
        {"kind": "perpetual", "underlying": "BTC", "settlement": "inverse", "settle_asset": "EUR"},
        {"kind": "spot", "underlying": "BTC", "quote": "EUR", "settle_asset": "BTC"},
    ],
)
def test_a_settlement_that_means_nothing_is_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(mx.BadInput, match="column settle_asset") as error:
        margin([{"instrument_id": "X", **terms}], [("a", "X", 1.0)])
    assert "Leave it empty" in str(error.value)


def test_what_has_no_history_moves_by_itself_even_where_its_beta_is_zero() -> None:
    spot = {"instrument_id": "NEW-SPOT", "kind": "spot", "underlying": "NEW"}
    found = margin([spot], [("a", "NEW-SPOT", 1_000.0)], NEW={"proxy_beta": 0.0})
    assert found.margins["status"].to_list() == ["proxied"]
    assert owed(found)["a"] > 0.002 * 1_000 * PRICES["NEW"]
