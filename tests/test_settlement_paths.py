"""What settles inside the horizon: on the price of its own hour, and no hedge for the hours that are left."""

from functools import cache

import numpy as np
import pytest

import marginax as mx
from laws._books import scenario_set
from laws._history import paths
from laws._options import contract, given, holding, option, result, rows, venue
from marginax.config import parse_config

INDEX = 1_000.0
# Expiries of a quarter of the horizon of one day, of nearly all of it, and of the hour that ends it.
SHARES = {"quarter": 0.25, "most": 0.95, "whole": 1.0}
CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    *(option(name, "call", "BTC", 1.0, share) for name, share in SHARES.items()),
)


@cache
def answer(source: str) -> mx.Result:
    """Calls of nearly no strike are forwards: worth the index of the hour at which they settle, less one."""
    tables = venue(
        CONTRACTS,
        {"BTC-SPOT": INDEX, **dict.fromkeys(SHARES, (INDEX - 1, 0.5))},
        {"BTC": INDEX},
        history=[row for row in paths() if row["underlying"] == "BTC"],
    )
    accounts = {
        "spot": {"BTC-SPOT": 1.0},
        **{name: {name: 1.0} for name in SHARES},
        **{f"{name} hedged": {name: 1.0, "BTC-SPOT": -1.0} for name in SHARES},
        "calendar": {"quarter": 1.0, "most": -1.0},
    }
    settings = {
        "historical": {"scenarios": {"source": "historical"}},
        "crash": {"scenarios": {"source": "historical", "grid": {"prices": [-0.9]}}},
        "monte_carlo": {
            "scenarios": {"source": "monte_carlo"},
            "monte_carlo": {"draws": 16_384, "copula_freedom": 5.0},
        },
    }[source]
    return result(holding(tables, accounts), mx.load_model(parse_config(settings, "test")))


@pytest.mark.parametrize("source", ["historical", "monte_carlo"])
def test_paths_to_settlements_have_the_law_of_their_price_and_are_independent(source: str) -> None:
    told = answer(source)
    names = ["BTC", *(name for name in told.scenarios.factors if name.startswith("settlement:BTC:"))]
    assert len(names) == 1 + len(SHARES)
    moves = told.scenarios.shocks[:, [told.scenarios.factors.index(name) for name in names]]
    covariance = (moves.T * told.scenarios.weights) @ moves
    size = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(size**2, size[0] ** 2, rtol=0.1)
    # A correlation of n independent days is 1 / sqrt(n) by chance, and history has 160 of them.
    assert (np.abs(covariance / np.outer(size, size) - np.eye(len(names))) < 3.5 / np.sqrt(160)).all()


@pytest.mark.parametrize("source", ["historical", "monte_carlo"])
def test_a_quarter_of_the_horizon_has_half_of_its_move(source: str) -> None:
    margin = {name: row["initial_margin"] for name, row in rows(answer(source)).items()}
    # Variances add up; tails of a sum of two moves are a little thinner than those of one.
    assert margin["quarter"] == pytest.approx(margin["spot"] / 2, rel=0.15)
    assert margin["quarter"] < margin["most"] < 1.02 * margin["spot"]


@pytest.mark.parametrize("source", ["historical", "monte_carlo"])
def test_what_has_settled_is_no_hedge(source: str) -> None:
    margin = {name: row["initial_margin"] for name, row in rows(answer(source)).items()}
    assert margin["quarter hedged"] == pytest.approx(np.sqrt(0.75) * margin["spot"], rel=0.2)
    assert 0 < margin["most hedged"] < 0.4 * margin["spot"]
    assert margin["whole hedged"] == pytest.approx(0, abs=1e-6 * INDEX)


@pytest.mark.parametrize("source", ["historical", "monte_carlo"])
def test_what_settles_later_hedges_what_settled_before_but_for_the_hours_between(source: str) -> None:
    """Long one hour's index and short another's is the move between them: 0.7 of the horizon."""
    margin = {name: row["initial_margin"] for name, row in rows(answer(source)).items()}
    assert margin["calendar"] == pytest.approx(np.sqrt(0.7) * margin["spot"], rel=0.2)


def test_scenarios_without_a_path_do_not_depend_on_what_was_asked_before() -> None:
    """A set of one's own that names no path, before and after one that does; and one that holds its own answer."""
    tables = holding(
        venue(CONTRACTS, {"BTC-SPOT": INDEX, **dict.fromkeys(SHARES, (INDEX - 1, 0.5))}, {"BTC": INDEX}),
        {"hedged": {"quarter": 1.0, "BTC-SPOT": -1.0}},
    )
    plain = scenario_set(("BTC",), [[-0.5], [0.5]])
    pathed = answer("crash").scenarios

    def owed(scenarios: mx.ScenarioSet) -> float:
        return rows(result(tables, given(scenarios, horizon=1.0)))["hedged"]["initial_margin"]

    first = owed(plain)
    # All of a move comes before the settlement, so that the call hedges the coin but for its strike of one.
    assert first == pytest.approx(0, abs=1e-6 * INDEX)
    assert owed(pathed) > 1
    assert owed(plain) == first
    again = result(
        holding(tables, {"quarter hedged": {"quarter": 1.0, "BTC-SPOT": -1.0}}), given(pathed, tail=0.01, horizon=1.0)
    )
    assert rows(again)["quarter hedged"]["initial_margin"] == pytest.approx(
        rows(answer("crash"))["quarter hedged"]["initial_margin"], rel=1e-6
    )


def test_an_average_inside_the_horizon_has_the_move_of_an_earlier_hour() -> None:
    """A quarter of a day averaged over its last six hours is all average: a third of its variance."""
    book = holding(
        venue(
            CONTRACTS,
            {"BTC-SPOT": INDEX, **dict.fromkeys(SHARES, (INDEX - 1, 0.5))},
            {"BTC": INDEX},
            history=[row for row in paths() if row["underlying"] == "BTC"],
        ),
        {"spot": {"BTC-SPOT": 1.0}, "quarter": {"quarter": 1.0}},
    )
    settings = {"scenarios": {"source": "historical"}, "options": {"settlement_window_minutes": 360.0}}
    margin = {
        name: row["initial_margin"]
        for name, row in rows(result(book, mx.load_model(parse_config(settings, "test")))).items()
    }
    assert margin["quarter"] == pytest.approx(np.sqrt(0.25 / 3) * margin["spot"], rel=0.2)


def test_a_stress_window_moves_before_the_settlement_as_a_grid_does() -> None:
    day = str(min(row["time"] for row in paths())).split()[0]
    window = {"name": "first", "from": np.datetime64(day) + 20, "to": np.datetime64(day) + 40}
    window = {key: each if isinstance(each, str) else each.astype(object) for key, each in window.items()}
    tables = venue(
        CONTRACTS,
        {"BTC-SPOT": INDEX, **dict.fromkeys(SHARES, (INDEX - 1, 0.5))},
        {"BTC": INDEX},
        history=[row for row in paths() if row["underlying"] == "BTC"],
    )
    settings = {"scenarios": {"source": "historical", "stress": [window]}}
    told = result(holding(tables, {"a": {"quarter": 1.0}}), mx.load_model(parse_config(settings, "test"))).scenarios
    pathless = np.isnan(told.shocks[:, [name.startswith("settlement:") for name in told.factors]]).all(axis=1)
    assert pathless.tolist() == [label.startswith("first: ") for label in told.labels]
    assert pathless.sum() > 10


def test_on_a_grid_all_of_the_move_comes_before_the_settlement() -> None:
    told = answer("crash")
    assert told.scenarios.labels[-1] == "price -0.9, volatility +0"
    worst = {name: row["worst_scenario"] for name, row in rows(told).items()}
    assert worst["quarter"] == worst["spot"] == told.scenarios.labels[-1]
    # All of it before the settlement: the call then hedges the spot it stands against.
    assert worst["quarter hedged"] != told.scenarios.labels[-1]


def test_expiries_beyond_the_horizon_need_no_path() -> None:
    far = (contract("BTC-SPOT", "spot", "BTC"), option("far", "call", "BTC", INDEX, 1.5))
    tables = venue(
        far,
        {"BTC-SPOT": INDEX, "far": (20.0, 0.5)},
        {"BTC": INDEX},
        history=[row for row in paths() if row["underlying"] == "BTC"],
    )
    told = result(holding(tables, {"a": {"far": 1.0}}), "expected_shortfall")
    assert not any(name.startswith("settlement:") for name in told.scenarios.factors)
