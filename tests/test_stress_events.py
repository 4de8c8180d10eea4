"""Stress behind the scenarios: windows, events and a grid, with their labels and masses, whatever source is in front.

The venue is that of `laws._history`, with options on BTC, a coin that follows it, and oil shocked by price.
"""

from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest

import marginax as mx
from laws import _options
from laws._books import NOW, Tables, contract
from laws._history import DAYS, PRICES, configured, paths, returns
from laws._options import holding, option, result, rows
from reference import tail as reference

OIL, LEVEL = {"index_price": 64.0, "shock": "absolute"}, 64.0
CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    contract("ETH-SPOT", "spot", "ETH"),
    option("BTC-C", "call", "BTC", 1_000.0, 30),
    contract("NEW-SPOT", "spot", "NEW"),
    contract("OIL-FUT", "future", "OIL", expiry=NOW + timedelta(days=60)),
)
BOOKS = {
    "bull": {"BTC-SPOT": 1.0},
    "bear": {"BTC-SPOT": -1.0},
    "vega": {"BTC-C": -1.0},
    "oil": {"OIL-FUT": 1.0},
    "proxied": {"NEW-SPOT": 100.0},
}
EVENT = {"name": "everything falls", "moves": {"BTC": -0.3}, "volatility": 1.0}
UP = {"name": "oil comes back", "moves": {"OIL": 30.0, "ETH": 0.5}, "others": 0.1}
STORM = {"name": "the storm", "from": DAYS[40].date(), "to": DAYS[42].date()}
GRID = {"prices": [-0.2, 0.0, 0.25], "volatilities": [-0.5, 1.0]}
SOURCES = ("filtered_historical", "monte_carlo")


@cache
def tables() -> Tables:
    rng = np.random.default_rng(3)
    oil = LEVEL + np.cumsum(rng.standard_normal(len(DAYS)))
    rest = [
        *({"time": day, "underlying": "OIL", "price": float(price)} for day, price in zip(DAYS, oil, strict=True)),
        *(
            {"time": day, "underlying": "BTC", "factor": "implied_vol", "value": float(value)}
            for day, value in zip(DAYS, 0.7 * np.exp(0.05 * rng.standard_normal(len(DAYS))), strict=True)
        ),
    ]
    marks = {"BTC-SPOT": 1_000.0, "ETH-SPOT": 100.0, "BTC-C": (80.0, 0.7), "NEW-SPOT": 10.0, "OIL-FUT": LEVEL}
    new = {"index_price": 10.0, "proxy": "BTC", "proxy_beta": 1.2}
    prices: dict[str, Any] = {**PRICES, "NEW": new, "OIL": OIL}
    return holding(_options.venue(CONTRACTS, marks, prices, history=[*paths(), *rest]), BOOKS)


@cache
def answered(source: str, stress: str) -> mx.Result:
    """One run for each source with nothing, everything without mass, or masses."""
    mass = {"with mass": (0.02, 0.01, 0.03)}.get(stress, (0.0, 0.0, 0.0))
    given: dict[str, Any] = {
        "events": [{**EVENT, "mass": mass[0]}, {**UP, "mass": mass[1]}],
        "stress": [{**STORM, "mass": mass[2]}],
        "grid": GRID,
    }
    scenarios = {"source": source, **(given if stress != "none" else {})}
    law = {"draws": 512, "copula_freedom": 5.0, "marginal_freedom": 5.0}
    return result(tables(), configured(scenarios=scenarios, monte_carlo=law))


LABELS = (
    *(f"the storm: {DAYS[k]:%Y-%m-%d}" for k in (40, 41, 42)),
    "everything falls",
    "oil comes back",
    *(f"price {price:+g}, volatility {move:+g}" for price in GRID["prices"] for move in GRID["volatilities"]),
)


@pytest.mark.parametrize("source", SOURCES)
def test_stress_stands_behind_the_scenarios_in_order_and_by_name(source: str) -> None:
    bare, full = answered(source, "none").scenarios, answered(source, "without mass").scenarios
    assert full.labels == (*bare.labels, *LABELS)
    np.testing.assert_allclose(full.shocks[: len(bare)], bare.shocks, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(full.weights[: len(bare)], bare.weights, rtol=1e-12)
    np.testing.assert_array_equal(full.weights[len(bare) :], 0)
    assert (full.scrambles, full.drawn) == (bare.scrambles, bare.drawn)
    column = full.factors.index("BTC")
    np.testing.assert_allclose(full.shocks[len(bare) : len(bare) + 3, column], returns()[39:42, 0], rtol=1e-9)


def shocks(label: str) -> dict[str, float]:
    told = answered("monte_carlo", "without mass").scenarios
    return dict(zip(told.factors, told.shocks[told.labels.index(label)].tolist(), strict=True))


def test_an_event_moves_what_it_names_and_what_follows_that() -> None:
    """BTC by -30 %; what follows it by beta times its logarithm: ETH as BTC does, NEW by 1.2, USDT by 0.05, oil by the
    same share of its price level."""
    told, fall = shocks("everything falls"), np.log(0.7)
    wanted = {"BTC": fall, "ETH": fall, "USDT": 0.05 * fall, "NEW": 1.2 * fall, "OIL": fall * level(),
              "implied_vol:BTC": np.log(2)}  # fmt: skip
    for name, shock in wanted.items():
        assert told[name] == pytest.approx(shock, rel=1e-12), name
    assert all(shock == 0 for name, shock in told.items() if name.startswith("basis"))


def level() -> float:
    """The price level of oil: the larger of today's and the median of its history."""
    history = tables()["history"].filter(underlying="OIL")["price"]
    return max(LEVEL, float(history.abs().median() or 0))


def test_what_is_not_named_moves_with_the_others_where_their_move_is_stated() -> None:
    """Oil by 30 dollars, ETH by +50 %; everything else by +10 %, whatever it follows."""
    told = shocks("oil comes back")
    assert told["OIL"] == pytest.approx(30.0)
    assert told["ETH"] == pytest.approx(np.log(1.5))
    for name in ("BTC", "NEW", "USDT"):
        assert told[name] == pytest.approx(np.log(1.1)), name
    assert told["implied_vol:BTC"] == 0


def test_a_grid_moves_every_price_and_every_volatility_together() -> None:
    for price in GRID["prices"]:
        for move in GRID["volatilities"]:
            told = shocks(f"price {price:+g}, volatility {move:+g}")
            for name in ("BTC", "ETH", "USDT", "NEW"):
                assert told[name] == pytest.approx(np.log1p(price), abs=1e-15), name
            assert told["OIL"] == pytest.approx(price * level(), abs=1e-12)
            assert told["implied_vol:BTC"] == pytest.approx(np.log1p(move))


@pytest.mark.parametrize("source", SOURCES)
def test_what_has_no_mass_moves_no_figure_but_may_be_the_worst(source: str) -> None:
    bare, full = rows(answered(source, "none")), rows(answered(source, "without mass"))
    for name in BOOKS:
        for column in ("var", "expected_shortfall", "initial_margin", "maintenance_margin", "stress_score"):
            # Some zeros more in a sum of weights, and another program.
            assert full[name][column] == pytest.approx(bare[name][column], rel=1e-10), (name, column)
    assert full["oil"]["worst_scenario"] == "everything falls"
    made = answered(source, "without mass").scenarios
    assert full["bull"]["worst_scenario"] == made.labels[int(np.argmin(made.shocks[:, made.factors.index("BTC")]))]
    # A short call: up by a quarter with twice the volatility is the worst that stress knows.
    assert full["vega"]["worst_scenario"] in ("price +0.25, volatility +1", bare["vega"]["worst_scenario"])
    assert (
        rows(answered("filtered_historical", "without mass"))["vega"]["worst_scenario"] == "price +0.25, volatility +1"
    )


def test_what_has_mass_takes_it_from_the_others() -> None:
    bare, full = (answered("monte_carlo", stress).scenarios for stress in ("none", "with mass"))
    count = len(bare)
    assert full.weights.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(full.weights[:count], 0.94 * bare.weights, rtol=1e-12)
    np.testing.assert_allclose(full.weights[count:], [0.01] * 3 + [0.02, 0.01] + [0.0] * 6, rtol=1e-12)
    found = rows(answered("monte_carlo", "with mass"))
    coin = full.shocks[:, full.factors.index("BTC")]
    for name, side in (("bull", 1_000.0), ("bear", -1_000.0)):
        wanted = reference.expected_shortfall(-side * np.expm1(coin), full.weights, tail=0.05)
        assert found[name]["initial_margin"] == pytest.approx(wanted, rel=1e-9)


def test_the_error_of_draws_is_told_beside_stress_and_history_has_none() -> None:
    for stress in ("none", "without mass", "with mass"):
        told = rows(answered("monte_carlo", stress))
        assert all(row["es_std_error"] > 0 for row in told.values())
    assert all(row["es_std_error"] is None for row in rows(answered("filtered_historical", "without mass")).values())
    # A fortieth of the tail is draws where stress fills the rest of it: less is uncertain.
    bare, full = (rows(answered("monte_carlo", stress))["oil"] for stress in ("none", "with mass"))
    assert full["es_std_error"] < bare["es_std_error"]


@pytest.mark.parametrize(
    ("scenarios", "said"),
    [
        ({"events": [{"name": "typo", "moves": {"BTCC": -0.3}}]}, "'typo' moves BTCC, which is no underlying"),
        ({"events": [{"name": "twice", "moves": {"BTC": -1.2}}]}, "a relative move is above -1"),
        ({"events": [{"name": "none", "moves": {}}]}, "at least 1"),
        ({"events": [{**EVENT, "others": -1.0}]}, "greater than -1"),
        ({"events": [{**EVENT, "volatility": -1.0}]}, "greater than -1"),
        ({"events": [EVENT, EVENT]}, "share a name"),
        ({"events": [{**EVENT, "mass": 0.5}], "stress": [{**STORM, "mass": 0.5}]}, "reach 1"),
        ({"grid": {"prices": [0.1, -0.1]}}, "does not rise"),
        ({"grid": {"prices": [-1.0]}}, "a relative move is above -1"),
        ({"grid": {"prices": [0.1], "volatilities": []}}, "is empty"),
    ],
)
def test_stress_that_cannot_be_is_refused(scenarios: dict[str, Any], said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        result(tables(), configured(scenarios=scenarios))


def test_a_scenario_shows_prices_volatilities_and_bases() -> None:
    told = answered("monte_carlo", "without mass")
    moves = told.scenario("everything falls")
    assert moves["factor"].unique(maintain_order=True).to_list() == ["price", "implied_vol", "basis"]
    shown = {(name, str(factor)): move for name, factor, move in moves.iter_rows()}
    assert shown["BTC", "price"] == pytest.approx(-0.3)
    assert shown["BTC", "implied_vol"] == pytest.approx(1.0)
    with pytest.raises(KeyError, match="no scenario 'nothing'"):
        told.scenario("nothing")
