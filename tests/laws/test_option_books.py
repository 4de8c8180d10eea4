"""Laws of books with options: what the readable twin says, and what parity makes riskless, whatever happens."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from math import exp, log
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import _options
from laws._books import BOTH, MONEY, NOW, by_account, contract, few
from laws._options import (
    CONTRACTS,
    CONVENTIONS,
    COUNT,
    FORWARDS,
    INSTRUMENTS,
    PRICES,
    VOLATILITIES,
    Holdings,
    allowed,
    by_loop,
    every_option,
    holding,
    holdings,
    margins,
    model,
    moves,
    option,
    result,
    rows,
)
from reference import options as twin
from reference import tail as reference
from reference.samples import rounding


@pytest.mark.parametrize("precision", BOTH)
@given(held=holdings())
@few
def test_the_engine_says_of_options_what_a_loop_over_scenarios_says(precision: str, held: Holdings) -> None:
    tables = held.tables()
    told, wanted = by_account(margins(tables, precision=precision)), by_loop(tables)
    assert set(told) == set(wanted)
    for name, margin in wanted.items():
        slack = allowed(held.gross[name], precision)
        # Equity is summed in float64 on both sides, in another order: amounts of at most a few million.
        assert told[name]["equity"] == pytest.approx(margin.equity, rel=1e-12, abs=1e-6)
        for column in MONEY:
            assert told[name][column] == pytest.approx(getattr(margin, column), rel=0, abs=slack + 1e-9), column
        assert told[name]["status"] == "ok"


@given(held=holdings())
@few
def test_merged_books_of_options_are_never_riskier_than_their_parts(held: Holdings) -> None:
    tables = held.tables()
    everyone = pl.lit("everyone").alias("account_id")
    merged = {**tables, **{name: tables[name].with_columns(everyone) for name in ("positions", "balances")}}
    together, apart = (margins(each)["expected_shortfall"].sum() for each in (merged, tables))
    assert together <= apart + 2 * allowed(sum(held.gross.values()))


@given(held=holdings(), factor=st.sampled_from([2.0, 0.25]))
@few
def test_doubling_a_book_of_options_doubles_its_margin_to_the_last_bit(held: Holdings, factor: float) -> None:
    one = margins(held.tables())
    more = margins(Holdings(factor * held.quantities, held.entries, factor * held.money).tables())
    for column in (*MONEY, "equity", "available", "call"):
        np.testing.assert_array_equal(more[column], factor * one[column], err_msg=column)


@given(held=holdings(), order=st.permutations(range(6)))
@few
def test_no_account_with_options_feels_which_place_it_has(held: Holdings, order: list[int]) -> None:
    straight, mixed = margins(held.tables()), margins(held.tables([f"account {place:03d}" for place in order]))
    renamed = {f"account {k:03d}": f"account {place:03d}" for k, place in enumerate(order)}
    moved = straight.with_columns(pl.col("account_id").replace_strict(renamed)).sort("account_id")
    assert mixed.equals(moved)


def test_twice_the_price_level_is_twice_the_margin() -> None:
    """Prices, strikes, forwards, Bachelier volatilities and absolute moves doubled, pegs and marks in coins as they
    were: all is homogeneous, and a power of two rounds alike."""
    table = every_option()
    accounts = {name: {name: sign} for name in INSTRUMENTS for sign in (1.0,)}
    short = {f"-{name}": {name: -1.0} for name in INSTRUMENTS}
    everything = {"everything": {name: (-1.0) ** k for k, name in enumerate(INSTRUMENTS)}}
    one = holding(table, {**accounts, **short, **everything})
    moving, coin = pl.col("underlying") != "USDT", pl.col("settlement") == "inverse"
    a_coin_price = (coin & pl.col("kind").is_in(["call", "put"])).alias("in_coins")
    in_coins = table["instruments"].filter(a_coin_price)["instrument_id"]
    on_oil = table["instruments"].filter(pl.col("underlying") == "OIL")["instrument_id"]
    double = {
        "instruments": table["instruments"].with_columns(
            strike=2 * pl.col("strike"),
            multiplier=pl.when(coin & (pl.col("kind") == "perpetual")).then(2.0).otherwise(1.0) * pl.col("multiplier"),
        ),
        "quotes": table["quotes"].with_columns(
            mark_price=pl.when(pl.col("instrument_id").is_in(in_coins.implode())).then(1.0).otherwise(2.0)
            * pl.col("mark_price"),
            implied_vol=pl.when(pl.col("instrument_id").is_in(on_oil.implode())).then(2.0).otherwise(1.0)
            * pl.col("implied_vol"),
        ),
        "underlyings": table["underlyings"].with_columns(
            index_price=pl.when(moving).then(2.0).otherwise(1.0) * pl.col("index_price")
        ),
        "forwards": table["forwards"].with_columns(forward=2 * pl.col("forward")),
    }
    shocks = moves().shocks * np.where(np.array(moves().factors) == "OIL", 2.0, 1.0)
    twice = _options.given(
        _options.scenario_set(moves().factors, shocks, moves().weights), tail=_options.TAIL, horizon=_options.HORIZON
    )
    usual, doubled = result(one, model()).margins, result({**one, **double}, twice).margins
    for column in ("equity", *MONEY):
        np.testing.assert_allclose(doubled[column], 2 * usual[column], rtol=1e-12, atol=1e-10, err_msg=column)


# --- What parity makes riskless ---------------------------------------------------------------------------------------
#
# Options 30 days before expiry at two strikes, of each kind, marked at the formula's price of a volatility of 70 %,
# which the marks alone tell. The future stands at their forward of 1,032, a spot coin at 1,024.

INDEX, FORWARD, DISCOUNT, NEAR, FAR = 1024.0, 1032.0, 0.99609375, 1024.0, 1152.0
KINDS: dict[str, Mapping[str, Any]] = {"U": {}, "F": {"premium": "futures_style"}, "B": {"settlement": "inverse"}}
PAIRS = tuple(
    option(f"{style}-{strike:g}-{kind[0].upper()}", kind, "BTC", strike, 30, **terms)
    for style, terms in KINDS.items()
    for strike in (NEAR, FAR)
    for kind in ("call", "put")
)
LATER = timedelta(days=60)
OTHERS = (
    contract("SPOT", "spot", "BTC"),
    contract("FUT", "future", "BTC", expiry=NOW + timedelta(days=30)),
    option("DEEP", "call", "BTC", 8.0, 30, premium="futures_style"),
    option("ZERO", "call", "BTC", 2.0**-20, 60),
    option("ZERO-B", "call", "BTC", 2.0**-20, 60, settlement="inverse"),
)
HEDGES: dict[str, dict[str, float]] = {
    "future by options": {"F-1024-C": 1.0, "F-1024-P": -1.0, "FUT": -1.0},
    "box of futures": {"F-1024-C": 1.0, "F-1024-P": -1.0, "F-1152-C": -1.0, "F-1152-P": 1.0},
    "upfront by future": {"U-1024-C": 1.0, "U-1024-P": -1.0, "FUT": -(DISCOUNT ** (29 / 30))},
    "far upfront by future": {"U-1152-C": -1.0, "U-1152-P": 1.0, "FUT": DISCOUNT ** (29 / 30)},
    "box": {"U-1024-C": 1.0, "U-1024-P": -1.0, "U-1152-C": -1.0, "U-1152-P": 1.0},
    "coins by a coin": {"B-1024-C": 1.0, "B-1024-P": -1.0, "SPOT": -1.0},
    "coins by a coin, short": {"B-1024-C": -1.0, "B-1024-P": 1.0, "SPOT": 1.0},
    "covered call": {"FUT": 1.0, "F-1024-C": -1.0},
    "short put": {"F-1024-P": -1.0},
    "protected future": {"FUT": 1.0, "F-1024-P": 1.0},
    "call": {"F-1024-C": 1.0},
    "deep call": {"DEEP": 1.0, "FUT": -1.0},
    "strike of nothing": {"ZERO": 1.0, "SPOT": -1.0},
    "strike of nothing in coins": {"ZERO-B": 1.0, "SPOT": -1.0},
}
SIDES = {name: {name: 1.0} for name in (*(row["instrument_id"] for row in PAIRS), "SPOT", "FUT")}
# A mark tells its volatility to 1e-12 or so, and a book holds four of them; the rest is rounding of float64.
CLOSE = 1e-7


@cache
def parity_tables() -> dict[str, pl.DataFrame]:
    marks: dict[str, Any] = {"SPOT": INDEX, "FUT": FORWARD, "DEEP": FORWARD - 8, "ZERO": (INDEX, 0.7),
                             "ZERO-B": (1.0, 0.7)}  # fmt: skip
    for terms in PAIRS:
        priced = twin.Priced(FORWARD, DISCOUNT, 0.7)
        marks[terms["instrument_id"]] = twin.model_price(terms, priced, CONVENTIONS, normal=False)
    forwards = [
        {"underlying": "BTC", "expiry": NOW + timedelta(days=30), "forward": FORWARD, "discount": DISCOUNT},
        {"underlying": "BTC", "expiry": NOW + LATER, "forward": INDEX, "discount": 1.0},
    ]
    return _options.venue((*PAIRS, *OTHERS), marks, {"BTC": INDEX}, forwards=forwards)


@cache
def shocks() -> np.ndarray:
    """Prices, volatilities and the basis of the future and its expiry: forty days that are anything but calm."""
    return np.clip(np.random.default_rng(4).standard_t(3, (COUNT, 3)), -6, 6) * [0.08, 0.15, 0.01]


@cache
def parity_margins(precision: str = "float64") -> dict[str, dict[str, Any]]:
    scenarios = _options.scenario_set(("BTC", "implied_vol:BTC", "basis:FUT"), shocks())
    by = _options.given(scenarios, tail=_options.TAIL, horizon=_options.HORIZON)
    return rows(result(holding(parity_tables(), {**HEDGES, **SIDES}), by, precision=precision))


@pytest.mark.parametrize("precision", BOTH)
@pytest.mark.parametrize("hedge", ["future by options", "box of futures", "deep call"])
def test_a_call_less_a_put_margined_like_futures_is_the_future(hedge: str, precision: str) -> None:
    """So is a call deep in the money, and two such pairs of any strikes; volatility, basis and time change nothing."""
    told = parity_margins(precision)[hedge]
    # Losses that cancel are compared with each other only: four legs of some hundreds, a price multiple of at most two.
    # Losses of a row that is all cancellation are as large as their rounding.
    slack = 3 * rounding(np.dtype(precision), 4, 4 * FORWARD) + CLOSE
    assert abs(told["expected_shortfall"]) <= slack
    assert told["initial_margin"] <= slack
    assert parity_margins()["FUT"]["initial_margin"] > 100


def test_a_call_less_a_put_paid_upfront_is_a_discounted_future_and_a_day_of_interest() -> None:
    """D (F - K) today, and in a day, when D is nearer to one, more of it: known today, in every scenario alike."""
    later = DISCOUNT ** (29 / 30)
    assert parity_margins()["upfront by future"]["core"] == pytest.approx(
        -(later - DISCOUNT) * (FORWARD - NEAR), abs=CLOSE
    )
    far = parity_margins()["far upfront by future"]["core"]
    assert far == pytest.approx(-(later - DISCOUNT) * (FAR - FORWARD), abs=CLOSE)
    assert parity_margins()["box"]["core"] == pytest.approx(-(later - DISCOUNT) * (FAR - NEAR), abs=CLOSE)
    assert parity_margins()["box"]["initial_margin"] == 0
    # It is the interest, and nothing else: a rate of ln(1 / D) over thirty days.
    assert later == pytest.approx(exp(log(DISCOUNT) * 29 / 30))


def test_a_call_less_a_put_in_coins_is_a_coin_less_dollars_but_for_the_basis() -> None:
    """1 - K / F coins at the price S: S - K S / F, and S / F moves by the basis alone. Where the basis is still it is a
    coin less a fixed amount of dollars, and against the coin it owes nothing."""
    gains = NEAR * INDEX / FORWARD * (1 - 1 / (1 + shocks()[:, 2]))
    weights = np.full(COUNT, 1 / COUNT)
    for name, side in (("coins by a coin", 1), ("coins by a coin, short", -1)):
        wanted = reference.expected_shortfall(-side * gains, weights, tail=_options.TAIL)
        assert parity_margins()[name]["core"] == pytest.approx(wanted, abs=CLOSE)
        assert 0 < wanted < 0.3 * parity_margins()["SPOT"]["core"]


def test_a_covered_call_is_a_short_put() -> None:
    covered, put = (parity_margins()[name] for name in ("covered call", "short put"))
    for column in ("core", "var", "expected_shortfall", "initial_margin"):
        assert covered[column] == pytest.approx(put[column], abs=CLOSE), column
    protected, call = (parity_margins()[name] for name in ("protected future", "call"))
    assert protected["initial_margin"] == pytest.approx(call["initial_margin"], abs=CLOSE)
    assert call["initial_margin"] < parity_margins()["FUT"]["initial_margin"]


def test_a_call_with_a_strike_of_almost_nothing_is_the_coin() -> None:
    """Upfront it is worth the coin less K; settled in coins it is one coin, less K dollars of it."""
    for name in ("strike of nothing", "strike of nothing in coins"):
        told = parity_margins()[name]
        # Their expiry's own basis is still here. K is a millionth of a dollar.
        assert abs(told["expected_shortfall"]) < 2e-6, name
    assert parity_margins()["SPOT"]["core"] > 100


@pytest.mark.parametrize("name", [row["instrument_id"] for row in PAIRS if row.get("premium") is None])
def test_who_is_long_an_option_paid_upfront_loses_at_most_its_premium(name: str) -> None:
    told = parity_margins()[name]
    assert 0 < told["expected_shortfall"] < told["equity"] + CLOSE
    assert told["stress_score"] == 0


def test_a_long_option_loses_at_most_its_mark_or_the_formulas_price() -> None:
    """Where a stated volatility contradicts the mark, the larger of the two."""
    told = by_account(
        margins(holding(every_option(), {name: {name: 1.0} for name in VOLATILITIES}), precision="float64")
    )
    terms = {row["instrument_id"]: row for row in CONTRACTS}
    forwards = {(row["underlying"], row["expiry"]): row for row in FORWARDS}
    for name, volatility in VOLATILITIES.items():
        if terms[name].get("premium") == "futures_style":
            continue
        each = terms[name]
        stated = forwards[each["underlying"], each["expiry"]]
        quote = PRICES.get(each["quote"], 1.0)
        priced = twin.Priced(stated["forward"] / quote, stated["discount"], volatility)
        price = twin.model_price(each, priced, CONVENTIONS, normal=each["underlying"] == "OIL")
        coin = PRICES["BTC"] if twin.in_coins(each) else PRICES.get(each.get("settle_asset") or each["quote"], 1.0)
        most = max(told[name]["equity"], price * each["multiplier"] * coin)
        assert 0 < told[name]["expected_shortfall"] <= most * (1 + 1e-9), name


def test_the_worst_an_option_does_is_in_its_attribution() -> None:
    """Shares of a book of every option add up to its requirement."""
    everything = {"all": {name: (-1.0) ** k for k, name in enumerate(INSTRUMENTS)}}
    answer = result(holding(every_option(), everything), model())
    shares = answer.explain("all")
    total = answer.margins["initial_margin"].item()
    assert total > 0
    assert shares["total"].sum() == pytest.approx(total, rel=1e-12)
    assert set(shares["instrument_id"].drop_nulls()) == set(INSTRUMENTS)
