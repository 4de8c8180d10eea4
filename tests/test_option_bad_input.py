"""What is wrong with an option, its quote, its forward or its volatility is found at the door, and named.

One finding stops a run. Under quarantine its row is set aside: who lost a row has no margin, all others have the very
same one, and a forward that was set aside is taken from put-call parity.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from laws._books import NOW, Tables, contract, scenario_set
from laws._options import frame, given, holding, option, result, rows, steady, venue
from laws._options import market as market_of
from marginax.status import Status
from reference import options as twin

FORWARD = 50_600.0
STYLE = {"premium": "futures_style"}
OPTIONS = (
    option("BTC-C", "call", "BTC", 50_000.0, 30, **STYLE),
    option("BTC-P", "put", "BTC", 50_000.0, 30, **STYLE),
    option("BTC-HIGH-C", "call", "BTC", 60_000.0, 30, **STYLE),
    option("BTC-HIGH-P", "put", "BTC", 60_000.0, 30, **STYLE),
    option("OIL-C", "call", "OIL", -2.0, 30, **STYLE),
    option("OIL-P", "put", "OIL", -2.0, 30, **STYLE),
)
CONTRACTS = (
    *OPTIONS,
    contract("SPOT", "spot", "BTC"),
    contract("OIL-FUT", "future", "OIL", expiry=NOW + timedelta(days=30)),
)
PLACE = {row["instrument_id"]: k for k, row in enumerate(CONTRACTS, start=1)}
ACCOUNTS: Mapping[str, Mapping[str, float]] = {
    "call": {"BTC-C": -1.0},
    "high": {"BTC-HIGH-P": -1.0, "BTC-HIGH-C": 1.0},
    "oil": {"OIL-C": 2.0, "OIL-P": -1.0},
    "put": {"BTC-P": -1.0},
    "spot": {"SPOT": 1.0},
    "wet": {"OIL-FUT": 1.0},
}
MOVES = [[-0.1], [0.1]]
OIL = {"index_price": 4.0, "shock": "absolute"}
MONEY = ("equity", "initial_margin", "maintenance_margin", "var", "expected_shortfall", "core", "stress_score")


@cache
def tables() -> Tables:
    """Oil at 4 dollars with strikes at -2 and a forward of -3; its volatility is 40 dollars a year."""
    conventions = twin.Conventions(as_of=NOW, days=0.0)
    quotes: dict[str, Any] = {"SPOT": 50_000.0, "OIL-FUT": -3.0}
    for row in OPTIONS:
        oil = row["underlying"] == "OIL"
        priced = twin.Priced(-3.0 if oil else FORWARD, 1.0, 40.0 if oil else 0.7)
        quotes[row["instrument_id"]] = (twin.model_price(row, priced, conventions, normal=oil), priced.volatility)
    forwards = [
        {"underlying": name, "expiry": NOW + timedelta(days=30), "forward": forward}
        for name, forward in (("BTC", FORWARD), ("OIL", -3.0))
    ]
    ordered = {row["instrument_id"]: quotes[row["instrument_id"]] for row in CONTRACTS}
    days = [NOW - timedelta(days=k) for k in range(7, -1, -1)]
    history = steady(["BTC", "OIL"], ["BTC", "OIL"], days=days)
    prices = {"BTC": 50_000.0, "OIL": OIL}
    return holding(venue(CONTRACTS, ordered, prices, forwards=forwards, history=history), ACCOUNTS)


@cache
def model() -> Any:
    rng = np.random.default_rng(1)
    names = ("BTC", "OIL", "implied_vol:BTC", "implied_vol:OIL")
    return given(scenario_set(names, rng.standard_normal((40, 4)) * [0.05, 4.0, 0.1, 0.1]), tail=0.1, horizon=1.0)


@cache
def clean() -> mx.Result:
    return result(tables(), model())


def spoiled(table: str, column: str, value: Any, row: int) -> Tables:
    return {**tables(), table: markets.changed(tables()[table], column, value, row=row)}


def refuses(given: Tables, table: str, column: str, row: int, *words: str) -> None:
    """The run stops at this row, says so, and what to do."""
    with pytest.raises(mx.BadInput) as caught:
        result(given, model())
    assert caught.value.total == 1, str(caught.value)
    problem = caught.value.problems[0]
    assert (problem.file, problem.column, problem.row) == (f"<{table}>", column, row)
    assert problem.remedy
    for word in words:
        assert word in str(caught.value), str(caught.value)


def loses(given: Tables, table: str, row: int, status: Status, *accounts: str) -> mx.Result:
    """Under quarantine the row is set aside, these accounts have no margin, and all others have theirs to the bit."""
    answer = result(given, model(), on_error="quarantine")
    first = answer.quarantine.filter(table=table).row(0, named=True)
    assert (first["file"], first["row"]) == (f"<{table}>", row)
    found = rows(answer)
    for name in accounts:
        assert found[name]["status"] == status.label
        assert all(found[name][column] is None for column in MONEY)
    others = ~pl.col("account_id").is_in(accounts)
    assert answer.margins.filter(others).equals(clean().margins.filter(others))
    return answer


def test_the_venue_as_it_is_has_nothing_wrong_with_it() -> None:
    """Strikes, forwards and marks of oil below zero and volatilities of forty dollars among it."""
    assert set(clean().margins["status"]) == {"ok"}
    assert (clean().margins["initial_margin"] > 0).all()
    assert clean().quarantine.height == 0
    oil = clean().options.filter(pl.col("underlying") == "OIL")
    assert oil["forward"].to_list() == [-3.0, -3.0]
    assert oil["forward_source"].unique().to_list() == ["table"]
    np.testing.assert_allclose(oil["model_price"], oil["mark_price"], rtol=1e-12)


INSTRUMENT_CASES = [
    ("BTC-C", "expiry", NOW, "it expired on 2026-01-31", ("call",)),
    ("BTC-C", "expiry", NOW - timedelta(days=1), "it expired on 2026-01-30", ("call",)),
    ("OIL-P", "expiry", NOW, "it expired", ("oil",)),
    ("BTC-C", "expiry", None, "a call has no expiry", ("call",)),
    ("BTC-P", "strike", None, "a put has no strike", ("put",)),
    ("BTC-P", "strike", 0.0, "the strike 0.0 was given and the underlying takes log shocks", ("put",)),
    ("BTC-C", "strike", -50_000.0, "the strike -50000.0", ("call",)),
    ("BTC-C", "strike", float("nan"), "NaN was given", ("call",)),
    ("BTC-C", "strike", float("inf"), "inf was given", ("call",)),
    ("OIL-C", "settlement", "inverse", "whose shocks are absolute", ("oil",)),
    ("BTC-C", "premium", "later", "'later' was given", ("call",)),
    ("BTC-C", "multiplier", 0.0, "0.0 was given", ("call",)),
]


@pytest.mark.parametrize(("name", "column", "value", "said", "accounts"), INSTRUMENT_CASES)
def test_terms_that_no_option_can_have_are_refused(
    name: str, column: str, value: Any, said: str, accounts: tuple[str, ...]
) -> None:
    bad = spoiled("instruments", column, value, PLACE[name])
    refuses(bad, "instruments", column, PLACE[name], said)
    answer = loses(bad, "instruments", PLACE[name], Status.INCOMPLETE, *accounts)
    assert name not in answer.options["instrument_id"].to_list()


QUOTE_CASES = [
    ("BTC-C", "implied_vol", 0.0, "0.0 was given", ("call",)),
    ("BTC-P", "implied_vol", -0.7, "-0.7 was given", ("put",)),
    ("BTC-C", "implied_vol", 70.0, "Write 0.8 for 80 % a year", ("call",)),
    ("BTC-C", "implied_vol", float("nan"), "NaN was given", ("call",)),
    ("OIL-C", "implied_vol", -1.0, "-1.0 was given", ("oil",)),
    ("BTC-C", "mark_price", -1e-9, "was given for an option", ("call",)),
    ("OIL-P", "mark_price", -1.0, "-1.0 was given for an option", ("oil",)),
    ("BTC-C", "mark_price", float("nan"), "NaN was given", ("call",)),
]


@pytest.mark.parametrize(("name", "column", "value", "said", "accounts"), QUOTE_CASES)
def test_quotes_that_no_option_can_have_are_refused(
    name: str, column: str, value: Any, said: str, accounts: tuple[str, ...]
) -> None:
    bad = spoiled("quotes", column, value, PLACE[name])
    refuses(bad, "quotes", column, PLACE[name], said)
    loses(bad, "quotes", PLACE[name], Status.MISSING_PRICE, *accounts)


def test_a_volatility_of_a_thousand_per_cent_is_one_and_more_is_another_unit() -> None:
    assert result(spoiled("quotes", "implied_vol", 10.0, PLACE["BTC-C"]), model()).quarantine.height == 0
    refuses(spoiled("quotes", "implied_vol", 10.001, PLACE["BTC-C"]), "quotes", "implied_vol", PLACE["BTC-C"])


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0.0 was given"), (-0.5, "-0.5 was given"), (70.0, "Write 0.8 for 80 % a year")]
)
def test_a_history_of_volatilities_that_cannot_be_is_refused_row_by_row(value: float, said: str) -> None:
    """Set aside, a bar is only a missing one; of an underlying shocked by price 70 dollars a year are nothing odd."""
    history = tables()["history"]
    row = int((history["factor"] == "implied_vol").fill_null(False).arg_max() or 0) + 2
    bad = {**tables(), "history": markets.changed(history, "value", value, row=row)}
    refuses(bad, "history", "value", row, said)
    answer = loses(bad, "history", row, Status.OK)
    assert answer.quarantine.height == 1
    oil = (history["factor"] == "implied_vol").fill_null(False) & (history["underlying"] == "OIL")
    wide = history.with_columns(value=pl.when(oil).then(70.0).otherwise("value"))
    assert result({**tables(), "history": wide}, model()).quarantine.height == 0


@pytest.mark.parametrize("forward", [0.0, -50_600.0])
def test_a_forward_at_zero_or_below_is_refused_under_log_shocks(forward: float) -> None:
    bad = spoiled("forwards", "forward", forward, 1)
    refuses(bad, "forwards", "forward", 1, f"the forward {forward} was given for an underlying with log shocks")
    _by_parity(bad)


@pytest.mark.parametrize(("column", "value"), [("discount", 0.0), ("discount", -1.0), ("forward", float("nan"))])
def test_a_forward_row_that_cannot_be_read_is_refused(column: str, value: float) -> None:
    bad = spoiled("forwards", column, value, 1)
    refuses(bad, "forwards", column, 1, "was given")
    _by_parity(bad)


@pytest.mark.parametrize("forward", [56_000.0, 45_000.0, 506.0])
def test_a_forward_that_the_marks_contradict_is_refused_with_what_they_say(forward: float) -> None:
    bad = spoiled("forwards", "forward", forward, 1)
    said = f"the forward {forward} is given and put-call parity of the marks says 50600.0"
    refuses(bad, "forwards", "forward", 1, said, "options.forward_bound")
    _by_parity(bad)


def _by_parity(bad: Tables) -> None:
    """The row is set aside and parity takes its place, here the same forward: nobody loses a margin."""
    answer = result(bad, model(), on_error="quarantine")
    assert answer.quarantine["table"].to_list() == ["forwards"]
    btc = answer.options.filter(pl.col("underlying") == "BTC")
    assert btc["forward_source"].unique().to_list() == ["parity"]
    np.testing.assert_allclose(btc["forward"], FORWARD, rtol=1e-12)
    assert set(answer.margins["status"]) == {"ok"}
    np.testing.assert_allclose(answer.margins["initial_margin"], clean().margins["initial_margin"], rtol=1e-9)
    bare = pl.col("account_id").is_in(["oil", "spot", "wet"])
    assert answer.margins.filter(bare).equals(clean().margins.filter(bare))


def test_a_forward_within_the_bound_is_taken_and_a_narrower_bound_refuses_it() -> None:
    near = spoiled("forwards", "forward", FORWARD * 1.04, 1)
    answer = result(near, model())
    assert answer.options.filter(pl.col("underlying") == "BTC")["forward"].unique().to_list() == [FORWARD * 1.04]
    narrow = given(scenario_set(("BTC", "OIL"), [[0.0, 0.0]]), options={"forward_bound": 0.01})
    with pytest.raises(mx.BadInput, match="put-call parity of the marks says 50600"):
        result(near, narrow)


def test_without_a_pair_of_marks_a_forward_far_from_the_index_is_refused() -> None:
    """One call and no put: index and rate tell, within half; no such thing is known of what may pass through zero."""
    lone, model = (option("C", "call", "BTC", 55_000.0, 30, **STYLE),), given(scenario_set(("BTC",), MOVES))
    for forward, fine in ((5_000.0, False), (40_000.0, True), (90_000.0, True), (120_000.0, False)):
        row = {"underlying": "BTC", "expiry": NOW + timedelta(days=30), "forward": forward}
        at = venue(lone, {"C": (1_500.0, 0.7)}, {"BTC": 50_000.0}, forwards=[row])
        held = holding(at, {"writer": {"C": -1.0}})
        if fine:
            assert rows(result(held, model))["writer"]["initial_margin"] > 0
            continue
        with pytest.raises(mx.BadInput, match=rf"the forward {forward} is given and the index and its rate says 50000"):
            result(held, model)


@pytest.mark.parametrize("discount", [1e-6, 0.04, 1.6, 100.0])
def test_a_discount_that_is_no_interest_is_refused(discount: float) -> None:
    row = {"underlying": "BTC", "expiry": NOW + timedelta(days=30), "forward": 50_000.0, "discount": discount}
    lone = (option("C", "call", "BTC", 55_000.0, 30, **STYLE),)
    with pytest.raises(mx.BadInput, match=r"column discount.*Give the factor to today"):
        market_of(venue(lone, {"C": (1_500.0, 0.7)}, {"BTC": 50_000.0}, forwards=[row]))


def test_an_inverse_contract_quoted_in_its_own_coin_is_refused() -> None:
    lone = (option("C", "call", "BTC", 55_000.0, 30, settlement="inverse", quote="BTC"),)
    held = holding(venue(lone, {"C": (0.03, 0.7)}, {"BTC": 50_000.0}), {"writer": {"C": -1.0}})
    with pytest.raises(mx.BadInput, match=r"column quote.*inverse contract on 'BTC' is quoted in it.*USD"):
        mx.read_book(**{name: held[name] for name in ("instruments", "positions", "balances")})


def test_a_mark_and_a_volatility_that_disagree_are_told_to_whoever_holds_them() -> None:
    """A volatility of 0.6 % prices a call, marked at 1,500, at nothing; its margin is by the volatility of the mark."""
    pair = (option("C", "call", "BTC", 55_000.0, 30, **STYLE), option("D", "call", "BTC", 54_000.0, 30, **STYLE))
    at = venue(pair, {"C": (1_500.0, 0.006), "D": (2_560.0, 0.7)}, {"BTC": 50_000.0})
    told = result(holding(at, {"writer": {"C": -1.0}, "other": {"D": -1.0}}), given(scenario_set(("BTC",), MOVES)))
    found = rows(told)
    assert found["writer"]["status"] == "stale"
    assert found["writer"]["reason"] == "stale: mark or volatility of options on BTC, which disagree"
    assert found["other"]["status"] == "ok"
    assert told.manifest["options"]["marks_far_from_model"] == ["C"]
    assert told.options["volatility_source"].to_list() == ["quote", "mark"]
    assert 0.5 < found["writer"]["initial_margin"] / found["other"]["initial_margin"] < 1
    # One in the other direction keeps the quote: the greater of the two.
    high = venue(pair, {"C": (100.0, 0.7), "D": (2_560.0, 0.7)}, {"BTC": 50_000.0})
    assert set(
        result(holding(high, {"writer": {"C": -1.0}}), given(scenario_set(("BTC",), MOVES))).options[
            "volatility_source"
        ]
    ) == {"quote"}


def test_a_forward_of_no_listed_expiry_is_ignored_and_said() -> None:
    """A date without an hour is midnight: the option expires at the hour of the run."""
    lone = (option("C", "call", "BTC", 55_000.0, 30.25, **STYLE),)
    stray = {"underlying": "BTC", "expiry": (NOW + timedelta(days=30)).replace(hour=0), "forward": 50_100.0}
    at = venue(lone, {"C": (1_500.0, 0.7)}, {"BTC": 50_000.0}, forwards=[stray])
    told = result(holding(at, {"writer": {"C": -1.0}}), given(scenario_set(("BTC",), MOVES)))
    assert told.manifest["data"]["forwards_of_nothing"] == [f"BTC {NOW + timedelta(days=30):%Y-%m-%d} 00:00"]
    assert told.options["forward_source"].to_list() == ["index"]


def test_two_forwards_of_one_expiry_are_one_too_many() -> None:
    twice = {**tables(), "forwards": pl.concat([tables()["forwards"], tables()["forwards"][:1]])}
    with pytest.raises(mx.BadInput) as caught:
        result(twice, model())
    assert (caught.value.problems[0].file, caught.value.problems[0].row) == ("<forwards>", 3)
    loses(twice, "forwards", 3, Status.OK)


def test_a_market_without_forwards_reads_no_table_of_them() -> None:
    """`forwards` may be left out; an expiry of nothing is no error either."""
    absent = mx.read_market(**{name: tables()[name] for name in ("quotes", "underlyings", "history")})
    held = mx.read_book(**{name: tables()[name] for name in ("instruments", "positions", "balances")})
    bare = mx.margin_book(held, absent, model())
    assert bare.options["forward_source"].unique().to_list() == ["parity"]
    other = frame("forwards", [{"underlying": "BTC", "expiry": NOW + timedelta(days=31), "forward": 1.0},
                               {"underlying": "GOLD", "expiry": NOW + timedelta(days=31), "forward": 1.0}])  # fmt: skip
    assert result({**tables(), "forwards": other}, model()).margins["status"].to_list() == ["ok"] * 6
