"""What options are priced with: forwards, volatilities and Greeks, where each comes from, and what is said of it.

BTC stands at 50,000 with a forward of 50,600 in 30 days, ETH beside it; marks are the formula's at a volatility of 70 %
unless a test says otherwise.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from math import exp
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import NOW, Tables, contract, scenario_set
from laws._options import given, holding, option, result, rows, venue
from reference import options as twin
from reference.black import black76

INDEX, FORWARD, DISCOUNT, VOLATILITY = 50_000.0, 50_600.0, 0.99, 0.7
STRIKES = (40_000.0, 45_000.0, 50_000.0, 55_000.0, 60_000.0)
STYLES: dict[str, Mapping[str, Any]] = {"U": {}, "F": {"premium": "futures_style"}, "B": {"settlement": "inverse"}}
TODAY = twin.Conventions(as_of=NOW, days=0.0)


def chain(
    style: str, *, strikes: Sequence[float] = STRIKES, days: float = 30, on: str = "BTC", **terms: Any
) -> list[Any]:
    """Calls and puts of one expiry."""
    return [
        option(f"{on}-{style}-{days:g}-{strike:g}-{kind[0].upper()}", kind, on, strike, days, **STYLES[style], **terms)
        for strike in strikes
        for kind in ("call", "put")
    ]


def marks(
    contracts: Sequence[Any], volatility: float = VOLATILITY, *, forward: float = FORWARD, discount: float = DISCOUNT
) -> dict[str, Any]:
    """The formula's prices, without a volatility beside them."""
    priced = twin.Priced(forward, discount, volatility)
    return {row["instrument_id"]: twin.model_price(row, priced, TODAY, normal=False) for row in contracts}


def stated(days: float = 30, forward: float = FORWARD, discount: float | None = DISCOUNT) -> dict[str, Any]:
    return {"underlying": "BTC", "expiry": NOW + timedelta(days=days), "forward": forward, "discount": discount}


@cache
def still() -> Any:
    """One scenario: the coins fall by a fifth and volatilities rise by a quarter."""
    names = ("BTC", "ETH", "implied_vol:BTC", "implied_vol:ETH", "USDT", "EUR")
    return given(scenario_set(names, [[np.log(0.8), np.log(0.8), np.log(1.25), np.log(1.25), 0.0, 0.0]]))


def told(tables: Tables, accounts: Mapping[str, Mapping[str, float]] | None = None) -> mx.Result:
    return result(holding(tables, accounts or {}), still())


def options(tables: Tables) -> dict[str, dict[str, Any]]:
    return {row["instrument_id"]: row for row in told(tables).options.iter_rows(named=True)}


# --- Forwards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_a_forward_is_the_tables_where_it_has_one(style: str) -> None:
    contracts = chain(style)
    answer = told(venue(contracts, marks(contracts), {"BTC": INDEX}, forwards=[stated(forward=50_700.0)]))
    table = answer.options
    assert table["forward_source"].unique().to_list() == ["table"]
    assert table["forward"].unique().to_list() == [50_700.0]
    assert table["discount"].unique().to_list() == [DISCOUNT if style == "U" else 1.0]
    assert answer.manifest["options"]["forwards"] == {"table": 10, "parity": 0, "index": 0}


@pytest.mark.parametrize("style", STYLES)
def test_without_a_row_the_forward_is_that_of_parity(style: str) -> None:
    contracts = chain(style)
    answer = told(venue(contracts, marks(contracts), {"BTC": INDEX}))
    table = answer.options
    assert table["forward_source"].unique().to_list() == ["parity"]
    # Prices of some thousands rounded at 1e-16, and a discount as the slope over strikes 5,000 apart.
    np.testing.assert_allclose(table["forward"], FORWARD, rtol=1e-12)
    np.testing.assert_allclose(table["discount"], DISCOUNT if style == "U" else 1.0, rtol=1e-12)
    np.testing.assert_allclose(table["implied_vol"], VOLATILITY, rtol=1e-9)
    assert answer.manifest["options"]["forwards"] == {"table": 0, "parity": 10, "index": 0}


@pytest.mark.parametrize("style", STYLES)
def test_without_a_pair_of_marks_the_forward_is_the_index_with_interest(style: str) -> None:
    contracts = [row for row in chain(style) if row["kind"] == "call"]
    years = 30 / 365
    made = marks(contracts, forward=INDEX * exp(0.05 * years), discount=exp(-0.05 * years))
    answer = told(venue(contracts, made, {"BTC": {"index_price": INDEX, "rate": 0.05}}))
    table = answer.options
    assert table["forward_source"].unique().to_list() == ["index"]
    np.testing.assert_allclose(table["forward"], INDEX * exp(0.05 * years), rtol=1e-14)
    np.testing.assert_allclose(table["discount"], exp(-0.05 * years) if style == "U" else 1.0, rtol=1e-14)
    np.testing.assert_allclose(table["implied_vol"], VOLATILITY, rtol=1e-9)
    assert answer.manifest["options"]["forwards"] == {"table": 0, "parity": 0, "index": 5}


def test_a_forward_without_a_discount_takes_that_of_parity() -> None:
    """Two years at a discount of 0.9: deep in the money, without it, a volatility of 50 % would be read as half."""
    strikes, discount, root = (20_000.0, 35_000.0, 45_000.0, 50_000.0, 60_000.0, 80_000.0), 0.9, 0.5 * np.sqrt(2)
    contracts = chain("U", days=730, strikes=strikes)
    made = {
        row["instrument_id"]: discount * black76(FORWARD, row["strike"], root, row["kind"] == "call")
        for row in contracts
    }
    found = options(venue(contracts, made, {"BTC": INDEX}, forwards=[stated(730, FORWARD, None)]))
    for row in found.values():
        assert row["discount"] == pytest.approx(discount, rel=1e-9)
        assert row["implied_vol"] == pytest.approx(0.5, rel=1e-6)
        assert row["forward_source"] == "table"


def test_forwards_of_a_table_are_in_account_currency_and_those_of_options_in_their_own() -> None:
    contracts = chain("F", quote="USDT")
    at = venue(contracts, marks(contracts, forward=FORWARD / 0.98), {"BTC": INDEX, "USDT": 0.98}, forwards=[stated()])
    np.testing.assert_allclose(told(at).options["forward"], FORWARD / 0.98, rtol=1e-14)
    bare = {**at, "forwards": at["forwards"].clear()}
    np.testing.assert_allclose(told(bare).options["forward"], FORWARD / 0.98, rtol=1e-12)


def test_each_expiry_has_a_forward_of_its_own() -> None:
    near, far = chain("F"), chain("F", days=90)
    made = {**marks(near), **marks(far, forward=52_000.0)}
    table = told(venue([*near, *far], made, {"BTC": INDEX}, forwards=[stated(forward=50_700.0)])).options
    found = {(row["years"] > 0.2, row["forward_source"]): row["forward"] for row in table.iter_rows(named=True)}
    assert found == {(False, "table"): 50_700.0, (True, "parity"): pytest.approx(52_000.0)}


@pytest.mark.parametrize(("days", "status"), [(4, "ok"), (6, "stale")])
def test_a_forward_of_last_week_is_stale(days: int, status: str) -> None:
    contracts = chain("F", strikes=(50_000.0,))
    row = {**stated(), "time": NOW - timedelta(days=days)}
    at = venue(contracts, marks(contracts), {"BTC": INDEX}, forwards=[row])
    found = rows(told(at, {"a": {contracts[0]["instrument_id"]: 1.0}}))["a"]
    assert found["status"] == status
    due = f"{NOW + timedelta(days=30):%Y-%m-%d}"
    assert found["reason"] == (f"stale: forward of BTC {due}" if status == "stale" else None)


# --- Volatilities ----------------------------------------------------------------------------------------------------


def test_a_stated_volatility_comes_before_the_marks() -> None:
    contracts = chain("F")
    first = contracts[0]["instrument_id"]
    made = {**marks(contracts), first: (marks(contracts)[first], 0.9)}
    found = options(venue(contracts, made, {"BTC": INDEX}))
    assert (found[first]["implied_vol"], found[first]["volatility_source"]) == (0.9, "quote")
    others = [row for name, row in found.items() if name != first]
    assert {row["volatility_source"] for row in others} == {"mark"}


@pytest.mark.parametrize("mark", ["of nothing", "below intrinsic", "above the forward"])
@pytest.mark.parametrize("style", STYLES)
def test_a_mark_that_tells_no_volatility_takes_the_smile_between_its_neighbours(style: str, mark: str) -> None:
    """45,000 lies between two strikes of 70 %: so does its volatility, and its holder is as well off as others."""
    contracts = chain(style)
    name = f"BTC-{style}-30-45000-C"
    unit = 1 / FORWARD if style == "B" else 1.0
    wrong = {"of nothing": 0.0, "below intrinsic": 2_000 * unit, "above the forward": 60_000 * unit}[mark]
    at = venue(contracts, {**marks(contracts), name: wrong}, {"BTC": INDEX}, forwards=[stated()])
    found = options(at)[name]
    assert found["volatility_source"] == "smile"
    # SVI through quotes of one volatility is flat but for the tolerance of its fit.
    assert found["implied_vol"] == pytest.approx(VOLATILITY, rel=1e-3)
    assert rows(told(at, {"long": {name: 1.0}, "short": {name: -1.0}}))["short"]["status"] == "ok"


def test_a_smile_passes_through_the_volatilities_around_a_missing_one() -> None:
    contracts = chain("F", strikes=(45_000.0, 50_000.0, 55_000.0))
    smile = {45_000.0: 0.8, 50_000.0: None, 55_000.0: 0.6}
    made = {row["instrument_id"]: (0.0, smile[row["strike"]]) for row in contracts}
    found = options(venue(contracts, made, {"BTC": INDEX}, forwards=[stated()]))
    # Two strikes: variance is linear in log(K / F) between them.
    share = np.log(50_000 / 45_000) / np.log(55_000 / 45_000)
    wanted = np.sqrt((1 - share) * 0.64 + share * 0.36)
    for kind in "CP":
        assert found[f"BTC-F-30-50000-{kind}"]["implied_vol"] == pytest.approx(wanted, rel=1e-12)


def test_a_chain_of_one_strike_is_flat() -> None:
    contracts = chain("F", strikes=(50_000.0,))
    call, put = (row["instrument_id"] for row in contracts)
    # A call of 600 at a forward of 50,600 is intrinsic, and tells nothing.
    at = venue(contracts, {call: (600.0, None), put: (100.0, 0.65)}, {"BTC": INDEX}, forwards=[stated()])
    found = options(at)
    assert found[put]["implied_vol"] == 0.65
    assert found[call]["implied_vol"] == pytest.approx(0.65, rel=1e-14)
    assert found[call]["volatility_source"] == "smile"


def test_an_expiry_without_volatilities_takes_the_nearest_and_says_so() -> None:
    near, middle, far = (chain("F", days=days, strikes=(50_600.0,)) for days in (30, 60, 300))
    made = {
        **{row["instrument_id"]: (3_750.0, 0.7) for row in near},
        **{row["instrument_id"]: (0.0, None) for row in middle},
        **{row["instrument_id"]: (9_000.0, 0.5) for row in far},
    }
    every = [stated(days) for days in (30, 60, 300)]
    at = venue([*near, *middle, *far], made, {"BTC": INDEX}, forwards=every)
    name = middle[1]["instrument_id"]
    assert (options(at)[name]["implied_vol"], options(at)[name]["volatility_source"]) == (0.7, "other_expiry")
    found = rows(told(at, {"holder": {name: -1.0}, "other": {near[0]["instrument_id"]: -1.0}}))
    due = f"{NOW + timedelta(days=60):%Y-%m-%d}"
    assert found["holder"]["status"] == "proxied"
    assert found["holder"]["reason"] == f"proxied: volatility of BTC {due} by another expiry"
    assert found["holder"]["initial_margin"] > 0
    assert (found["other"]["status"], found["other"]["reason"]) == ("ok", None)


def test_options_of_which_nobody_knows_a_volatility_have_no_margin_and_leave_all_others_alone() -> None:
    """Marks of nothing and no quotes on ETH. Who holds BTC, spot, or nothing has the very same row as ever."""
    contracts = [*chain("F"), *chain("U", on="ETH", strikes=(2_000.0,)), contract("SPOT", "spot", "ETH")]
    prices = {"BTC": INDEX, "ETH": 2_000.0}
    known = {**marks(chain("F")), "SPOT": 2_000.0}
    call, put = (row["instrument_id"] for row in contracts[10:12])
    accounts = {
        "held": {call: 1.0},
        "mixed": {put: -1.0, "SPOT": 3.0, contracts[0]["instrument_id"]: 1.0},
        "btc": {contracts[0]["instrument_id"]: -1.0},
        "spot": {"SPOT": 1.0},
    }
    bare = told(venue(contracts, {**known, call: 0.0, put: 0.0}, prices), accounts)
    full = told(venue(contracts, {**known, call: (100.0, 0.8), put: (100.0, 0.8)}, prices), accounts)
    found = rows(bare)
    for name in ("held", "mixed"):
        assert found[name]["status"] == "missing_volatility"
        assert found[name]["reason"] == "missing_volatility: options on ETH"
        assert found[name]["initial_margin"] is None
    untouched = pl.col("account_id").is_in(["btc", "spot"])
    assert bare.margins.filter(untouched).equals(full.margins.filter(untouched))
    table = bare.options.filter(pl.col("underlying") == "ETH")
    assert table.select("implied_vol", "model_price", "delta", "vega").null_count().row(0) == (2, 2, 2, 2)
    assert bare.manifest["options"]["volatilities"]["none"] == 2
    assert bare.manifest["accounts"]["by_status"]["missing_volatility"] == 2


def test_an_option_quoted_in_money_without_a_price_has_no_margin() -> None:
    """How far the coin is from a strike in EUR nobody knows without its price, whatever it settles in."""
    strange = option("EUR-P", "put", "BTC", 50_000.0, 30, quote="EUR", settle_asset="USD")
    contracts = [strange, *chain("F")]
    at = venue(contracts, {**marks(chain("F")), "EUR-P": (4_000.0, 0.7)}, {"BTC": INDEX})
    accounts = {"held": {"EUR-P": -1.0}, "other": {contracts[1]["instrument_id"]: -1.0}}
    with pytest.raises(mx.BadInput, match="quote currency 'EUR'"):
        told(at, accounts)
    found = rows(result(holding(at, accounts), still(), on_error="quarantine"))
    assert (found["held"]["status"], found["held"]["initial_margin"]) == ("missing_price", None)
    assert found["other"]["status"] == "ok"
    # With a price it is worth what its moneyness says: at 40,000 dollars, or 37,037 EUR, of a strike of 50,000.
    priced = venue(contracts, {**marks(chain("F")), "EUR-P": (4_000.0, 0.7)}, {"BTC": INDEX, "EUR": 1.08})
    assert rows(told(priced, accounts))["held"]["initial_margin"] > 5_000
