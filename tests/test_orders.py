"""Open orders: initial margin covers the worst set of their fills, and maintenance margin none of them."""

from itertools import product

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets

SCHEMA = {"account_id": pl.String, "instrument_id": pl.String, "quantity": pl.Float64, "limit_price": pl.Float64}


def orders(*rows: tuple[str, str, float, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def margin(open_orders: pl.DataFrame | None = None, **changed: pl.DataFrame) -> mx.Result:
    given = markets.tables(**changed)
    return markets.margin(given if open_orders is None else {**given, "orders": open_orders}, "dynamic")


def filled(*rows: tuple[str, str, float, float | None]) -> pl.DataFrame:
    return pl.concat([markets.positions(), orders(*rows).drop("limit_price")])


def risk(result: mx.Result, account: str) -> float:
    """Expected shortfall at the tail that is charged: what orders are measured by."""
    row = markets.row(result, account)
    return float(row["core"] + row["collateral"] + row["orders"])


def test_no_set_of_fills_owes_more_than_the_margin_with_orders() -> None:
    open_orders = [("mixed", "ETH-PERP", -900.0), ("mixed", "BTC-PERP", 800.0), ("mixed", "DOGE-PERP", 5_000.0)]
    got = risk(margin(orders(*((*each, None) for each in open_orders))), "mixed")
    worst = 0.0
    for fills in product((False, True), repeat=3):
        some = [(*each, None) for each, fill in zip(open_orders, fills, strict=True) if fill]
        worst = max(worst, risk(margin(positions=filled(*some)), "mixed"))
    assert worst <= got * (1 + 1e-6)
    assert got <= 1.5 * worst


@pytest.mark.parametrize("contracts", [-500.0, 700.0])
def test_orders_one_way_in_what_is_held_that_way_are_like_positions(contracts: float) -> None:
    account = "short" if contracts < 0 else "long"
    order = (account, "BTC-PERP", contracts, None)
    assert risk(margin(orders(order)), account) == pytest.approx(
        risk(margin(positions=filled(order)), account), rel=1e-5
    )


def test_an_order_that_reduces_a_position_costs_nothing_and_lowers_nothing() -> None:
    plain, got = margin(), margin(orders(("long", "BTC-PERP", -400.0, None)))
    assert markets.row(got, "long")["orders"] == pytest.approx(0, abs=0.01)
    assert markets.row(got, "long")["initial_margin"] == pytest.approx(markets.row(plain, "long")["initial_margin"])


def test_maintenance_covers_no_order_and_other_accounts_are_as_they_were() -> None:
    plain, got = margin(), margin(orders(("long", "ETH-PERP", 900.0, None)))
    assert markets.row(got, "long")["initial_margin"] > markets.row(plain, "long")["initial_margin"]
    assert markets.row(got, "long")["maintenance_margin"] == markets.row(plain, "long")["maintenance_margin"]
    others = pl.col("account_id") != "long"
    assert got.margins.filter(others).equals(plain.margins.filter(others))


def test_an_account_of_nothing_but_orders_owes_what_their_fills_would() -> None:
    order = ("trader", "BTC-PERP", 300.0, None)
    got = markets.row(margin(orders(order)), "trader")
    assert got["orders"] == got["initial_margin"] > 0
    assert got["maintenance_margin"] == 0
    assert got["orders"] == pytest.approx(markets.row(margin(positions=filled(order)), "trader")["core"], rel=1e-5)


@pytest.mark.parametrize(
    ("instrument", "contracts", "limit", "cost"),
    [
        ("BTC-PERP", 100.0, 1.05, 0.05),
        ("BTC-PERP", 100.0, 0.95, 0.0),
        ("BTC-PERP", -100.0, 0.95, 0.05),
        ("BTC-INV", 100.0, 1.25, 0.2),
        ("BTC-INV", -100.0, 0.8, 0.25),
    ],
)
def test_a_limit_worse_than_the_mark_is_lost_at_once(
    instrument: str, contracts: float, limit: float, cost: float
) -> None:
    mark = dict(markets.quotes().select("instrument_id", "mark_price").iter_rows())[instrument]
    at_mark, at_limit = (
        markets.row(margin(orders(("trader", instrument, contracts, price))), "trader")
        for price in (None, limit * mark)
    )
    contract = markets.instruments().row(by_predicate=pl.col("instrument_id") == instrument, named=True)
    index = markets.INDEX["BTC"]
    worth = contract["multiplier"] * (index / mark if contract["settlement"] == "inverse" else mark)
    added = at_limit["initial_margin"] - at_mark["initial_margin"]
    assert added == pytest.approx(cost * abs(contracts) * worth, rel=1e-4, abs=0.01)


def test_attribution_has_a_row_for_each_order_and_sums_to_the_parts() -> None:
    open_orders = orders(
        ("mixed", "ETH-PERP", 900.0, 3_300.0), ("mixed", "ETH-PERP", 100.0, None), ("long", "ETH-FUT", -50.0, None)
    )
    got = margin(open_orders)
    shown = got.attribution(["long", "mixed"])
    assert shown.filter("order").select("account_id", "instrument_id", "amount").rows() == [
        ("long", "ETH-FUT", -50.0),
        ("mixed", "ETH-PERP", 1_000.0),
    ]
    sums = shown.group_by("account_id").agg(pl.col(*got.parts).sum()).sort("account_id")
    margins = got.margins.filter(pl.col("account_id").is_in(sums["account_id"].implode()))
    for part in got.parts:
        np.testing.assert_allclose(sums[part], margins[part], rtol=1e-4, atol=0.1)


def test_orders_without_a_price_or_an_instrument_are_named() -> None:
    with pytest.raises(mx.BadInput, match="instrument 'NO-SUCH' is unknown"):
        margin(orders(("long", "NO-SUCH", 1.0, None)))
    unquoted = markets.quotes().filter(pl.col("instrument_id") != "ETH-FUT")
    held = markets.positions().filter(pl.col("instrument_id") != "ETH-FUT")
    aside = markets.margin(
        {**markets.tables(quotes=unquoted, positions=held), "orders": orders(("long", "ETH-FUT", 1.0, None))},
        "dynamic",
        on_error="quarantine",
    )
    assert markets.row(aside, "long")["status"] == "missing_price"
    with pytest.raises(mx.BadInput, match=r"0\.0 was given for an inverse contract"):
        margin(orders(("long", "BTC-INV", 1.0, 0.0)))


def test_a_model_that_reads_no_orders_says_so() -> None:
    given = {**markets.tables(), "orders": orders(("long", "ETH-PERP", 900.0, None))}
    plain = markets.margin(given)
    assert plain.manifest["unused_tables"] == ["orders"]
    assert plain.margins.equals(markets.clean().margins)
    assert markets.margin(given, "dynamic").manifest["unused_tables"] == []
