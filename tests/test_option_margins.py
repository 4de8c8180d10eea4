"""What an option is worth and what a scenario does to it, against numbers worked by hand.

BTC stands at 50,000 and so do its strike and its forward, 30 days away, so that a call and a put are worth
50,000 x (2 N(d / 2) - 1) with d = volatility x sqrt(years) = 0.2: 3,982.78. The same option is paid upfront (discounted
by 0.99), margined like a future, settled in coins, or quoted in USDT at 0.98. Oil stands at 64, shocked by price.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from math import log, sqrt
from typing import Any

import polars as pl
import pytest
from scipy.stats import norm

import marginax as mx
from laws._books import NOW, Tables, contract, scenario_set
from laws._options import frame, given, holding, market, option, result, rows, steady, venue
from marginax.sections import Engine
from reference.black import black76

INDEX, DISCOUNT, DEVIATION = 50_000.0, 0.99, 0.2
VOLATILITY = DEVIATION / sqrt(30 / 365)
STYLE, COIN, USDT = {"premium": "futures_style"}, {"settlement": "inverse"}, {"quote": "USDT"}
OPTIONS = (
    option("UP-C", "call", "BTC", INDEX, 30),
    option("UP-P", "put", "BTC", INDEX, 30),
    option("FS-C", "call", "BTC", INDEX, 30, **STYLE),
    option("FS-P", "put", "BTC", INDEX, 30, **STYLE),
    option("COIN-C", "call", "BTC", INDEX, 30, **COIN),
    option("COIN-P", "put", "BTC", INDEX, 30, **COIN),
    option("COIN-FS-C", "call", "BTC", INDEX, 30, **COIN, **STYLE),
    option("USDT-C", "call", "BTC", INDEX / 0.98, 30, **USDT, multiplier=0.5),
    option("OIL-C", "call", "OIL", 64.0, 30, **STYLE),
    option("OIL-P", "put", "OIL", 64.0, 30, **STYLE),
)
FUTURES = (contract("FUT", "future", "BTC", expiry=NOW + timedelta(days=30)),)
# Marks are near the formula's price, and not at it: scenarios move the mark by what the formula moves.
MARKS: dict[str, Any] = {
    "FUT": INDEX,
    **dict.fromkeys(("UP-C", "UP-P", "FS-C", "FS-P"), (4_000.0, VOLATILITY)),
    **dict.fromkeys(("COIN-C", "COIN-P", "COIN-FS-C"), (0.08, VOLATILITY)),
    "USDT-C": (4_100.0, VOLATILITY),
    **dict.fromkeys(("OIL-C", "OIL-P"), (4.0, 10 / sqrt(30 / 365))),
}
PRICES: dict[str, Any] = {"BTC": INDEX, "OIL": {"index_price": 64.0, "shock": "absolute"}, "USDT": 0.98}
# Float64 all through; the cube's fit is good to 1e-14 of a price of up to 500,000, and the formula of the twin too.
CENT = 1e-6


def forward(name: str, days: float, price: float, discount: float | None = None) -> dict[str, Any]:
    return {"underlying": name, "expiry": NOW + timedelta(days=days), "forward": price, "discount": discount}


@cache
def tables() -> Tables:
    forwards = [forward("BTC", 30, INDEX, DISCOUNT), forward("OIL", 30, 64.0)]
    return venue((*OPTIONS, *FUTURES), MARKS, PRICES, forwards=forwards)


def gains(shocks: Mapping[str, float], at: Tables | None = None, **sections: Any) -> dict[str, float]:
    """What one long contract of everything gains in one scenario, beside the money it is booked to."""
    at = at or tables()
    names = at["instruments"]["instrument_id"].to_list()
    every = {**dict.fromkeys(PRICES, 0.0), **shocks}
    by = given(scenario_set(tuple(every), [list(every.values())]), **sections)
    told = rows(result(holding(at, {name: {name: 1.0} for name in names}), by))
    # Some marks are far from their volatilities, so that nothing is right by accident; that, and nothing else, is said.
    disagree = {f"stale: mark or volatility of options on {name}, which disagree" for name in PRICES}
    assert {row["reason"] for row in told.values()} <= {None, *disagree}, told
    return {name: -told[name]["core"] for name in names}


def at_the_money(deviation: float) -> float:
    """The price of an option over its forward, where that is its strike."""
    return float(2 * norm.cdf(deviation / 2) - 1)


CALL = INDEX * at_the_money(DEVIATION)


def test_the_price_at_the_money_is_that_of_a_printed_normal_table() -> None:
    assert pytest.approx(50_000 * (2 * 0.5398278 - 1), abs=0.01) == CALL
    told = result(holding(tables(), {}), given(scenario_set(("BTC", "OIL", "USDT"), [[0.0, 0.0, 0.0]]))).options
    model = dict(told.select("instrument_id", "model_price").iter_rows())
    assert model["UP-C"] == pytest.approx(0.99 * CALL)
    assert model["FS-P"] == pytest.approx(CALL)
    assert model["COIN-C"] == pytest.approx(at_the_money(DEVIATION))
    assert model["USDT-C"] == pytest.approx(0.99 * CALL / 0.98)
    assert model["OIL-P"] == pytest.approx(10 * 0.3989423)


@pytest.mark.parametrize(
    ("held", "money", "equity"),
    [
        # Paid upfront: its whole mark, whatever was paid; a short one is owed.
        ({"UP-C": (2.0, 1.0)}, {}, 8_000.0),
        ({"UP-C": (-3.0, 9_999.0)}, {"USD": 15_000.0}, 3_000.0),
        # Margined like a future: what it earned since the entry, and nothing without one.
        ({"FS-C": (5.0, 3_500.0)}, {}, 2_500.0),
        ({"FS-P": (-2.0, 3_500.0)}, {"USD": 1_500.0}, 500.0),
        ({"FS-C": 5.0}, {"USD": 7.0}, 7.0),
        # In coins: 2 x 0.08 coins of 50,000; what it earned is booked in coins where it is margined like a future.
        ({"COIN-C": (2.0, 0.01)}, {}, 8_000.0),
        ({"COIN-P": -2.0}, {"BTC": 0.2}, 2_000.0),
        ({"COIN-FS-C": (10.0, 0.05)}, {}, 15_000.0),
        # 4 x 0.5 x 4,100 USDT of 0.98.
        ({"USDT-C": 4.0}, {}, 8_036.0),
    ],
)
def test_equity_of_options_is_their_mark_or_what_they_earned(
    held: dict[str, Any], money: dict[str, float], equity: float
) -> None:
    still = given(scenario_set(tuple(PRICES), [[0.0, 0.0, 0.0]]))
    row = rows(result(holding(tables(), {"a": held}, {"a": money}), still))["a"]
    assert row["equity"] == pytest.approx(equity, rel=1e-13)
    # Nothing moved, and no time has passed.
    assert row["expected_shortfall"] == pytest.approx(0, abs=CENT)


def test_twice_the_volatility_is_twice_the_deviation() -> None:
    """2 N(0.2) - 1 = 0.1585: a call earns 3,943.19, or 0.99 of it where it is paid upfront; puts earn the same."""
    told = gains({"implied_vol:BTC": log(2), "implied_vol:OIL": log(2)})
    wanted = INDEX * (at_the_money(0.4) - at_the_money(0.2))
    assert wanted == pytest.approx(50_000 * (0.1585194 - 0.0796557), abs=0.01)
    for name in ("FS-C", "FS-P", "COIN-C", "COIN-P", "COIN-FS-C"):
        assert told[name] == pytest.approx(wanted, abs=CENT), name
    for name in ("UP-C", "UP-P"):
        assert told[name] == pytest.approx(0.99 * wanted, abs=CENT), name
    assert told["USDT-C"] == pytest.approx(0.99 * wanted / 2, abs=CENT)
    assert told["OIL-C"] == pytest.approx(10 * 0.3989423, abs=1e-5)
    assert told["FUT"] == pytest.approx(0, abs=CENT)


def test_a_price_that_falls_to_a_tenth_leaves_calls_worthless_and_puts_at_parity() -> None:
    """At 5,000 a call is worth nothing and a put 45,000. In coins the put is worth 9 coins of 5,000. What the mark says
    beyond the formula, 17.22 dollars or 0.000344 coins, stays."""
    told = gains({"BTC": log(0.1)})
    coins = at_the_money(DEVIATION)
    assert told["UP-C"] == pytest.approx(-0.99 * CALL, abs=CENT)
    assert told["UP-P"] == pytest.approx(0.99 * (45_000 - CALL), abs=CENT)
    assert told["FS-C"] == pytest.approx(-CALL, abs=CENT)
    assert told["FS-P"] == pytest.approx(45_000 - CALL, abs=CENT)
    assert told["COIN-C"] == pytest.approx((0.08 - coins) * 5_000 - 4_000, abs=CENT)
    assert told["COIN-P"] == pytest.approx((0.08 + 9 - coins) * 5_000 - 4_000, abs=CENT)
    # Margined in coins like a future: only the change is paid, at the price of then.
    assert told["COIN-FS-C"] == pytest.approx(-coins * 5_000, abs=CENT)
    # Half a call on 51,020.41 USDT, of which a coin costs 5,102.04.
    assert told["USDT-C"] == pytest.approx(-0.99 * CALL / 2, abs=CENT)


def test_a_price_that_falls_by_a_fifth_is_the_formula_at_forty_thousand() -> None:
    told, call = gains({"BTC": log(0.8)}), black76(40_000, 50_000, 0.2, True)
    # d1 = ln 0.8 / 0.2 + 0.1 = -1.0157 and d2 = -1.2157, of a printed table: 40,000 x 0.15488 - 50,000 x 0.11205.
    assert call == pytest.approx(40_000 * 0.15488 - 50_000 * 0.11205, abs=1)
    assert told["FS-C"] == pytest.approx(call - CALL, abs=CENT)
    assert told["UP-C"] == pytest.approx(0.99 * (call - CALL), abs=CENT)
    assert told["COIN-C"] == pytest.approx((0.08 + call / 40_000 - CALL / 50_000) * 40_000 - 4_000, abs=CENT)


def test_a_basis_moves_the_forward_and_no_coin() -> None:
    """A basis of +900 % is a forward of 500,000 on coins of 50,000: calls are worth 450,000, or 0.9 coins."""
    told = gains({"basis:FUT": 9.0})
    coins = at_the_money(DEVIATION)
    assert told["FUT"] == pytest.approx(450_000, abs=CENT)
    assert told["FS-C"] == pytest.approx(450_000 - CALL, abs=CENT)
    assert told["UP-C"] == pytest.approx(0.99 * (450_000 - CALL), abs=CENT)
    assert told["COIN-C"] == pytest.approx((0.9 - coins) * 50_000, abs=CENT)
    assert told["FS-P"] == pytest.approx(-CALL, abs=CENT)
    small, wanted = gains({"basis:FUT": 0.01}), black76(50_500, 50_000, 0.2, True)
    assert small["FS-C"] == pytest.approx(wanted - CALL, abs=CENT)
    assert small["COIN-C"] == pytest.approx((wanted / 50_500 - CALL / 50_000) * 50_000, abs=CENT)


def test_oil_moves_by_dollars_and_may_go_below_nothing() -> None:
    """At -36 a put struck at 64 is worth 100. A basis of 1 moves the forward by the price level, 64."""
    expected = 10 * norm.pdf(0)
    told = gains({"OIL": -100.0})
    assert told["OIL-P"] == pytest.approx(100 - expected, abs=CENT)
    assert told["OIL-C"] == pytest.approx(-expected, abs=CENT)
    name = f"basis:OIL:{NOW + timedelta(days=30):%Y-%m-%dT%H:%M}"
    assert gains({name: 1.0})["OIL-C"] == pytest.approx(64 - expected, abs=CENT)


def test_a_strike_in_a_currency_that_loses_its_peg_is_worth_as_little() -> None:
    """USDT falls to a tenth: a coin costs 510,204 USDT, and half a call on one at 51,020.41 gains 459,184 of 0.098:
    22,500 dollars, less what it was worth; the mark of 4,100 USDT beyond the formula is then worth a tenth too."""
    told = gains({"USDT": log(0.1)})["USDT-C"]
    call = CALL / 0.98
    then = 4_100 + 0.99 * ((510_204.0816326531 - 51_020.40816326531) - call)
    assert told == pytest.approx(0.5 * (then * 0.098 - 4_100 * 0.98), abs=CENT)
    assert told == pytest.approx(0.99 * 22_500 - 2_009 + 0.5 * 0.098 * (4_100 - 0.99 * call), abs=CENT)


@pytest.mark.parametrize("peg", [1.0, 0.5])
def test_an_account_in_euros_gains_what_dollars_are_worth(peg: float) -> None:
    """A dollar is 0.92 euros: all index prices and forwards are 0.92 of what they were, strikes and marks as before.

    Where a dollar falls to half and everything else with it, what is paid in dollars is worth half then.
    """
    fall, at = log(0.8), tables()
    euros = {
        "underlyings": at["underlyings"].with_columns(index_price=0.92 * pl.col("index_price")),
        "forwards": at["forwards"].with_columns(forward=0.92 * pl.col("forward")),
    }
    dollar = frame("underlyings", [{"underlying": "USD", "index_price": 0.92}])
    at = {**at, **euros, "underlyings": pl.concat([euros["underlyings"], dollar])}
    at["history"] = frame("history", steady(["BTC", "OIL", "USDT", "USD"], ["BTC", "OIL"]))
    fx = log(peg)
    moves = {"BTC": fall + fx, "USDT": fx, "USD": fx, "OIL": 0.92 * 64 * (peg - 1), "implied_vol:BTC": log(2)}
    names = at["instruments"]["instrument_id"].to_list()
    held = holding(at, {name: {name: 1.0} for name in names})
    book = mx.read_book(**{name: held[name] for name in ("instruments", "positions", "balances")})
    by = given(scenario_set(tuple(moves), [list(moves.values())]))
    told = rows(mx.margin_book(book, market(at, currency="EUR"), by, engine=Engine(precision="float64")))
    dollars = gains({"BTC": fall, "implied_vol:BTC": log(2)})
    for name in ("FS-C", "FS-P", "COIN-FS-C"):
        # Only the change is paid, at the price of then.
        assert -told[name]["core"] == pytest.approx(0.92 * peg * dollars[name], abs=CENT), name
    for name, worth in (("UP-C", 4_000.0), ("COIN-C", 4_000.0), ("USDT-C", 0.5 * 4_100 * 0.98)):
        # What is owned is worth what it would be in dollars, less what it was.
        wanted = 0.92 * (peg * (worth + dollars[name]) - worth)
        assert -told[name]["core"] == pytest.approx(wanted, abs=CENT), name
    assert -told["OIL-C"]["core"] == pytest.approx(0, abs=CENT)


@pytest.mark.parametrize(("days", "scale"), [(7.5, 4**0.3), (120.0, 0.25**0.13), (1.0, 30**0.3), (0.5, 30**0.3)])
def test_near_expiries_move_more_and_far_ones_less(days: float, scale: float) -> None:
    """Four times 30 days, a quarter, and no more below one day. Up it is a multiple of the move, down a power."""
    near = option("NEAR-C", "call", "BTC", INDEX, days, **STYLE)
    volatility = DEVIATION / sqrt(days / 365)
    at = venue((near,), {"NEAR-C": (4_000.0, volatility)}, PRICES, forwards=[forward("BTC", days, INDEX)])
    for move, multiple in ((2.0, 1 + scale), (0.5, 0.5**scale)):
        told = gains({"implied_vol:BTC": log(move)}, at)["NEAR-C"]
        assert told == pytest.approx(INDEX * (at_the_money(DEVIATION * multiple) - at_the_money(DEVIATION)), abs=CENT)
