"""Equity and what is read off it, against numbers worked by hand.

One venue: BTC at 50,000, ETH at 2,000, USDT at 0.98 dollars. In the scenario `down` BTC falls by a fifth, in `up` it
rises by a quarter; what is said of neither stays still. The tail is one half, so that the worse of the two is the
expected shortfall, and the maintenance ratio 0.8.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import NOW, Tables, book, contract, frame, given, market, scenario_set
from marginax.sections import Engine
from reference.samples import rounding

CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    contract("BTC-SPOT-USDT", "spot", "BTC", quote="USDT"),
    contract("BTC-PERP", "perpetual", "BTC", multiplier=0.1),
    contract("BTC-PERP-USDT", "perpetual", "BTC", quote="USDT", multiplier=0.1),
    contract("BTC-COIN", "perpetual", "BTC", settlement="inverse", multiplier=100.0),
    contract("ETH-QUANTO", "perpetual", "ETH", settle_asset="BTC", multiplier=1e-6),
    contract("ETH-PERP", "perpetual", "ETH", settle_asset="USDT"),
)
MARKS = {
    "BTC-SPOT": 50_000.0,
    "BTC-SPOT-USDT": 51_000.0,
    "BTC-PERP": 50_500.0,
    "BTC-PERP-USDT": 51_500.0,
    "BTC-COIN": 50_000.0,
    "ETH-QUANTO": 2_100.0,
    "ETH-PERP": 2_100.0,
}
PRICES = {"BTC": 50_000.0, "ETH": 2_000.0, "USDT": 0.98}
# What float32 may do to an amount of tens of thousands of dollars: some forty roundings of 6e-8.
CENT = 0.15

Position = tuple[str, float] | tuple[str, float, float]


@cache
def venue() -> Tables:
    quotes = [{"instrument_id": name, "mark_price": mark, "time": NOW} for name, mark in MARKS.items()]
    prices = [{"underlying": name, "index_price": price} for name, price in PRICES.items()]
    return {
        "instruments": frame("instruments", CONTRACTS),
        "quotes": frame("quotes", quotes),
        "underlyings": frame("underlyings", prices),
    }


@cache
def venue_market() -> mx.Market:
    return market(venue())


def multiples(
    *moves: tuple[float, ...], weights: Sequence[float] | None = None, labels: Sequence[str] | None = None
) -> Any:
    """Scenarios as price multiples of BTC, ETH and USDT; the coins that are left out stay still."""
    shocks = [np.log([*move, *[1.0] * (3 - len(move))]) for move in moves]
    return scenario_set(("BTC", "ETH", "USDT"), shocks, weights, labels)


@cache
def usual() -> Any:
    return given(multiples((0.8,), (1.25,), labels=("down", "up")), tail=0.5)


@cache
def shorn() -> Any:
    return given(multiples((0.8,), (1.25,)), tail=0.5, haircuts={"BTC": 0.1, "USDT": 0.02})


@cache
def slide() -> Any:
    return given(multiples((0.6,), (0.8,), (1.0,), weights=(0.2, 0.3, 0.5)), tail=0.5)


@cache
def random_walks() -> Any:
    rng = np.random.default_rng(8)
    return given(scenario_set(("BTC", "ETH", "USDT"), rng.normal(size=(200, 3)) * [0.1, 0.1, 0.0]), tail=0.01)


def tables(positions: Sequence[Position] = (), money: dict[str, float] | None = None, *, account: str = "a") -> Tables:
    """The venue and one account: contracts as (name, quantity, entry price), money by asset."""
    held = [
        {"account_id": account, "instrument_id": name, "quantity": quantity, "entry_price": rest[0] if rest else None}
        for name, quantity, *rest in positions
    ]
    owned = [{"account_id": account, "asset": asset, "amount": amount} for asset, amount in (money or {}).items()]
    return {**venue(), "positions": frame("positions", held), "balances": frame("balances", owned)}


def margin(
    positions: Sequence[Position] = (),
    money: dict[str, float] | None = None,
    *,
    by: Any = None,
    precision: Any = "float64",
) -> dict[str, Any]:
    """The row of one account."""
    answer = mx.margin_book(
        book(tables(positions, money)), venue_market(), by or usual(), engine=Engine(precision=precision)
    )
    return answer.margins.row(0, named=True)


@pytest.mark.parametrize(
    ("positions", "money", "equity"),
    [
        # Linear in dollars: 3 x 0.1 x (50,500 - 48,000) = 750, and what is in the account.
        ([("BTC-PERP", 3.0, 48_000.0)], {"USD": 10_000.0}, 10_750.0),
        # Short, linear in USDT: -2 x 0.1 x (51,500 - 52,500) = 200 USDT, at 0.98.
        ([("BTC-PERP-USDT", -2.0, 52_500.0)], {}, 196.0),
        # Inverse: 10 x 100 x (1 / 40,000 - 1 / 50,000) = 0.005 coins, at 50,000.
        ([("BTC-COIN", 10.0, 40_000.0)], {}, 250.0),
        # Inverse and short: the same coins are owed.
        ([("BTC-COIN", -10.0, 40_000.0)], {"BTC": 0.01}, 250.0),
        # Spot is worth its value, whatever was paid for it; short spot is owed.
        ([("BTC-SPOT", 2.0, 1.0)], {}, 100_000.0),
        ([("BTC-SPOT", -0.5, 1.0)], {"USD": 25_000.0}, 0.0),
        # Spot quoted in USDT: 51,000 x 0.98.
        ([("BTC-SPOT-USDT", 2.0)], {}, 99_960.0),
        # Debts count: -1,000 x 0.98 - 0.1 x 50,000 + 7,000.
        ([], {"USDT": -1_000.0, "BTC": -0.1, "USD": 7_000.0}, 1_020.0),
        # No entry price is today's mark.
        ([("BTC-PERP", 3.0), ("BTC-PERP-USDT", -2.0), ("BTC-COIN", 10.0)], {"USD": 5.0}, 5.0),
        # Settled in another asset than the quote: 100 x 1e-6 x (2,100 - 2,000) = 0.01 coins, at 50,000.
        ([("ETH-QUANTO", 100.0, 2_000.0)], {}, 500.0),
        # 3 x (2,100 - 2,000) = 300 USDT, at 0.98.
        ([("ETH-PERP", 3.0, 2_000.0)], {}, 294.0),
        # Rows of one contract at several entries: 0.1 x (10,500 + 500 + 0) - 0.1 x 2,500.
        ([("BTC-PERP", 1.0, 40_000.0), ("BTC-PERP", 1.0, 50_000.0), ("BTC-PERP", 1.0), ("BTC-PERP", -1.0, 48_000.0)],
         {}, 850.0),
        # What nets to nothing has still earned what it earned: 0.1 x (52,000 - 48,000).
        ([("BTC-PERP", 1.0, 48_000.0), ("BTC-PERP", -1.0, 52_000.0)], {}, 400.0),
    ],
)  # fmt: skip
def test_equity_is_money_and_unrealised_profit_and_owned_coins(
    positions: list[Position], money: dict[str, float], equity: float
) -> None:
    # A handful of float64 products and sums of at most 1e5.
    assert margin(positions, money)["equity"] == pytest.approx(equity, rel=1e-13, abs=1e-9)
    assert margin(positions, money, precision="float32")["equity"] == margin(positions, money)["equity"]


def test_coins_earned_and_not_yet_paid_lose_with_the_coin() -> None:
    """0.005 coins are booked first. Down, at 40,000, the contract loses 0.005 coins, 200 dollars there, and the booked
    coins lose 50: nothing is left of the equity of 250, which is right, for 40,000 was the entry."""
    row = margin([("BTC-COIN", 10.0, 40_000.0)])
    assert row["equity"] == pytest.approx(250.0)
    assert row["core"] == pytest.approx(200.0)
    assert row["collateral"] == pytest.approx(50.0)
    assert row["expected_shortfall"] == pytest.approx(250.0)
    assert row["initial_margin"] == pytest.approx(250.0)
    assert row["worst_scenario"] == "down"
    # A loss that is not yet paid is a debt in coins, and weighs less when the coin falls: -200 + 50 at 40,000, and
    # up, at 62,500, the contract gains 0.004 coins of 62,500 and the debt grows by 62.5.
    row = margin([("BTC-COIN", 10.0, 200_000 / 3)])
    assert row["equity"] == pytest.approx(-250.0)
    assert row["core"] == pytest.approx(200.0)
    assert row["collateral"] == pytest.approx(-50.0)


def test_coins_held_against_a_short_are_one_book() -> None:
    """Up, 10 contracts of 0.1 coins lose 0.25 x 50,500 = 12,625 and the coin gains 12,500; down they gain 10,100."""
    row = margin([("BTC-PERP", -10.0)], {"BTC": 1.0})
    assert row["core"] == pytest.approx(12_625.0)
    assert row["expected_shortfall"] == pytest.approx(125.0)
    assert row["var"] == pytest.approx(125.0)
    assert row["collateral"] == pytest.approx(125.0 - 12_625.0)
    assert row["initial_margin"] == pytest.approx(125.0)
    assert row["maintenance_margin"] == pytest.approx(100.0)
    assert row["worst_scenario"] == "up"


def test_stablecoins_earned_and_not_yet_paid_lose_with_their_peg() -> None:
    """USDT falls by a half: 196 dollars of profit in it lose 98, and a coin costs twice as much in it.

    The short of 0.2 coins, worth 10,094 dollars, pays as many again in dollars of half the worth: 5,047.
    """
    depeg = given(multiples((1.0, 1.0, 0.5), (1.0, 1.0, 1.0)), tail=0.5)
    row = margin([("BTC-PERP-USDT", -2.0, 52_500.0)], by=depeg)
    assert row["core"] == pytest.approx(5_047.0)
    assert row["collateral"] == pytest.approx(98.0)


def test_profit_in_account_currency_is_cash() -> None:
    fresh, old = margin([("BTC-PERP", 3.0)]), margin([("BTC-PERP", 3.0, 48_000.0)])
    assert old["equity"] == pytest.approx(fresh["equity"] + 750, rel=1e-14)
    for part in ("core", "collateral", "haircut", "floor", "initial_margin"):
        assert old[part] == fresh[part]
    assert old["collateral"] == 0


def test_gains_in_every_scenario_are_lifted_to_a_requirement_of_nothing() -> None:
    """Both scenarios rise by at least a tenth: a long coin gains 5,050 at the least, and owes nothing, not less."""
    row = margin([("BTC-PERP", 10.0)], by=given(multiples((1.1,), (1.2,)), tail=0.5))
    assert row["core"] == pytest.approx(-5_050.0)
    assert row["floor"] == pytest.approx(5_050.0)
    assert row["initial_margin"] == 0
    assert row["maintenance_margin"] == 0
    assert row["margin_ratio"] is None


def test_haircuts_are_the_cost_of_selling_what_is_there() -> None:
    """A tenth of 1 coin of 50,000, and a fiftieth of 1,000 USDT of 0.98: in full in initial and in maintenance."""
    bare = margin([("BTC-PERP", -10.0)], {"BTC": 1.0, "USDT": 1_000.0})
    row = margin([("BTC-PERP", -10.0)], {"BTC": 1.0, "USDT": 1_000.0}, by=shorn())
    assert bare["haircut"] == 0
    assert row["haircut"] == pytest.approx(5_000.0 + 19.6)
    assert row["initial_margin"] == pytest.approx(bare["initial_margin"] + 5_019.6)
    assert row["maintenance_margin"] == pytest.approx(bare["maintenance_margin"] + 5_019.6)


def test_haircuts_cover_only_what_is_positive_after_profit_and_loss_is_booked() -> None:
    assert margin([("BTC-PERP", 1.0)], {"BTC": -1.0, "USDT": -5.0}, by=shorn())["haircut"] == 0
    # 0.01 coins less the 0.005 that the contract has lost: a tenth of 0.005 x 50,000.
    row = margin([("BTC-COIN", -10.0, 40_000.0)], {"BTC": 0.01}, by=shorn())
    assert row["haircut"] == pytest.approx(25.0)
    # Coins that were bought as a spot position are revalued, not shorn; dollars are never sold.
    assert margin([("BTC-SPOT", 1.0)], {"USD": 1_000.0}, by=shorn())["haircut"] == 0


def test_an_account_without_positions_owes_nothing() -> None:
    row = margin([], {"BTC": 1.0}, by=shorn())
    for column in ("initial_margin", "maintenance_margin", "core", "collateral", "haircut", "floor", "call"):
        assert row[column] == 0
    assert row["margin_ratio"] is None
    assert row["available"] == 50_000
    # What its coins may lose is still said.
    assert row["expected_shortfall"] == pytest.approx(10_000.0)
    assert row["worst_scenario"] == "scenario 0"
    # Nor does one that owes dollars, or whose positions net to nothing.
    debtor = margin([], {"USD": -100.0})
    assert (debtor["equity"], debtor["initial_margin"], debtor["call"]) == (-100, 0, 100)
    assert debtor["worst_scenario"] is None
    netted = margin([("BTC-PERP", 1.0, 48_000.0), ("BTC-PERP", -1.0, 52_000.0)])
    assert (netted["equity"], netted["initial_margin"]) == (400, 0)


@pytest.mark.parametrize(
    ("cash", "available", "call", "ratio"),
    [
        (12_625.0, 2_525.0, 0.0, 12_625 / 8_080),  # enough and to spare
        (10_100.0, 0.0, 0.0, 1.25),  # just the initial margin
        (9_000.0, 0.0, 0.0, 9_000 / 8_080),  # below initial, above maintenance: nothing is called
        (8_000.0, 0.0, 2_100.0, 8_000 / 8_080),  # below maintenance: called back up to the initial margin
        (-500.0, 0.0, 10_600.0, -500 / 8_080),
    ],
)
def test_calls_start_below_maintenance_and_go_up_to_initial(
    cash: float, available: float, call: float, ratio: float
) -> None:
    """Ten contracts of 0.1 coins at 50,500 lose a fifth: 10,100 initial, 8,080 maintenance."""
    for precision in ("float64", "float32"):
        slack = 1e-8 if precision == "float64" else CENT
        row = margin([("BTC-PERP", 10.0)], {"USD": cash}, precision=precision)
        assert row["initial_margin"] == pytest.approx(10_100.0, abs=slack)
        assert row["maintenance_margin"] == pytest.approx(8_080.0, abs=slack)
        assert row["available"] == pytest.approx(available, abs=slack)
        assert row["call"] == pytest.approx(call, abs=slack)
        assert row["margin_ratio"] == pytest.approx(ratio, rel=slack)


@pytest.mark.parametrize(
    ("cash", "score"),
    [(-1.0, 1.0), (0.0, 1.0), (500.0, 0.5), (10_000.0, 0.5), (10_500.0, 0.2), (30_000.0, 0.0)],
)
def test_the_score_is_the_probability_that_the_loss_exceeds_the_equity(cash: float, score: float) -> None:
    """Long one coin: 0.2 lose 20,200, 0.3 lose 10,100, 0.5 nothing. Without equity it is 1."""
    moves = slide()
    for precision in ("float32", "float64"):
        row = margin([("BTC-PERP", 10.0)], {"USD": cash}, by=moves, precision=precision)
        # Weights are float32 and sum to one but for their rounding.
        assert row["stress_score"] == pytest.approx(score, abs=1e-6)


def test_the_worst_scenario_may_be_one_without_mass() -> None:
    """A crash by nine tenths that carries no probability names itself, and moves no other figure."""
    crash = given(multiples((0.8,), (0.1,), (1.25,), weights=(0.5, 0, 0.5), labels=("down", "crash", "up")), tail=0.5)
    for side, worst in ((10.0, "crash"), (-10.0, "up")):
        with_it, without = (
            margin([("BTC-PERP", side)], {"USD": 1e5}, by=crash),
            margin([("BTC-PERP", side)], {"USD": 1e5}),
        )
        assert with_it["worst_scenario"] == worst
        for column in ("var", "expected_shortfall", "initial_margin", "maintenance_margin", "stress_score"):
            assert with_it[column] == pytest.approx(without[column], rel=1e-14), column


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("coins", [1.0, 3.7, 1e-3 / 3, 12_345.678])
def test_a_perfect_hedge_owes_nothing_but_rounding(coins: float, precision: str) -> None:
    """Coins against a linear perpetual on them that never leaves its index: each scenario is two equal legs.

    The perpetual is quoted 1 % above the coin, so that 1 / 1.01 x 10 contracts of a tenth stand against each coin. Each
    leg is rounded in its quantity, its row of the cube and their product; the cancelled sum has the error of its legs.
    """
    moves = random_walks()
    spot, short = ("BTC-SPOT", coins), ("BTC-PERP", -coins * 10 / 1.01)
    row = margin([spot, short], {"USD": 1_000.0}, by=moves, precision=precision)
    alone = margin([spot], by=moves, precision=precision)
    gross = 2 * max(alone["expected_shortfall"], alone["initial_margin"])
    assert alone["initial_margin"] > 0.1 * coins * 50_000
    # Losses that cancel are compared with each other only: no rounding of the tail mean's 200 terms is left but theirs.
    assert abs(row["expected_shortfall"]) <= rounding(np.dtype(precision), 2, gross)
    assert row["initial_margin"] <= rounding(np.dtype(precision), 2, gross)


def test_a_coin_against_inverse_shorts_of_its_value_is_dollars_for_ever() -> None:
    """1 coin, and 500 contracts of 100 dollars short: at price p the contracts have earned 50,000 x (1/p - 1/50,000)
    coins, so that with the coin there are 50,000 / p coins of p dollars: 50,000, whatever p."""
    row = margin([("BTC-COIN", -500.0)], {"BTC": 1.0}, by=given(multiples((0.3,), (0.8,), (1.5,), (4.0,)), tail=0.25))
    assert row["core"] == pytest.approx(150_000.0)
    assert row["expected_shortfall"] == pytest.approx(0.0, abs=1e-8)
    assert row["initial_margin"] == pytest.approx(0.0, abs=1e-8)


def test_money_of_none_in_an_unknown_asset_is_nothing() -> None:
    """A balance of 0 in an asset without a price needs none, and makes no number of its own."""
    row = margin([("BTC-PERP", 1.0)], {"DOGE": 0.0, "USD": 1.0})
    assert (row["equity"], row["status"]) == (1, "ok")


def test_no_haircut_is_negative_even_where_a_price_is() -> None:
    """Ten barrels at -37 dollars are no reason to owe less."""
    oil = frame("underlyings", [{"underlying": "OIL", "index_price": -37.0, "shock": "absolute"}])
    there = {**venue(), "underlyings": pl.concat([venue()["underlyings"], oil])}
    still = given(scenario_set(("BTC", "ETH", "USDT", "OIL"), [np.log([0.8, 1, 1, 1]), np.zeros(4)]), tail=0.5,
                  haircuts={"OIL": 0.5})  # fmt: skip
    barrels = tables([("BTC-PERP", 1.0)], {"OIL": 10.0})
    told = mx.margin_book(book({**barrels, "underlyings": there["underlyings"]}), market(there), still).margins
    assert told["haircut"].item() >= 0
    assert told["initial_margin"].item() >= 1_010 - CENT
