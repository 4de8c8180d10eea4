"""Scenario sets of one's own: what holds together is taken as it is, joined by mass, and known by its digest."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import marginax as mx
from laws._books import given, scenario_set
from laws._history import PRICES, holding, margins, venue
from reference import tail as reference

SMALL = scenario_set(("BTC", "ETH"), [[0.1, -0.2], [0.0, 0.3], [-0.4, 0.05]], [0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shocks": np.zeros((3, 3))}, "do not fit shocks of shape"),
        ({"weights": np.array([0.5, 0.5])}, "do not fit"),
        ({"labels": ("one", "two")}, "do not fit"),
        ({"shocks": np.array([[0.1, np.nan], [0, 0], [0, 0]])}, "not finite"),
        ({"shocks": np.array([[0.1, np.inf], [0, 0], [0, 0]])}, "not finite"),
        ({"weights": np.array([0.5, 0.25, 0.2])}, "weights sum to 0.95"),
        ({"weights": np.array([1.5, -0.25, -0.25])}, "non-negative"),
        ({"weights": np.array([0.5, np.nan, 0.5])}, "weights sum to nan"),
    ],
)
def test_a_set_of_scenarios_that_does_not_hold_together_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **wrong)


def test_a_factor_named_twice_is_refused() -> None:
    """Nobody could say which of two columns of one name is meant."""
    with pytest.raises(ValueError, match="BTC"):
        scenario_set(("BTC", "BTC"), [[0.1, -0.2], [0.0, 0.3]])


def test_joined_sets_carry_their_masses() -> None:
    crash = scenario_set(("BTC", "ETH"), [[-0.5, -0.6], [-0.3, -0.2]], labels=("March", "May"))
    both = mx.join([SMALL, crash], [0.8, 0.2])
    np.testing.assert_array_equal(both.shocks, np.vstack([SMALL.shocks, crash.shocks]))
    np.testing.assert_allclose(both.weights, [0.4, 0.2, 0.2, 0.1, 0.1])
    assert both.labels[-2:] == ("March", "May")
    assert (mx.join([SMALL, crash], [1.0, 0.0]).weights[-2:] == 0).all()


def test_a_joined_set_is_drawn_independently_where_all_that_has_mass_is() -> None:
    drawn = replace(SMALL, independent=True)
    assert mx.join([drawn, drawn], [0.5, 0.5]).independent
    assert mx.join([drawn, SMALL], [1.0, 0.0]).independent
    assert not mx.join([drawn, SMALL], [0.5, 0.5]).independent


@pytest.mark.parametrize(
    ("sets", "masses", "said"),
    [
        ([SMALL, SMALL], [0.5], "one mass for each"),
        ([], [], "0 sets"),
        ([SMALL, SMALL], [0.5, 0.6], "sum to 1.1"),
        ([SMALL, SMALL], [1.5, -0.5], "non-negative"),
        ([SMALL, scenario_set(("ETH", "BTC"), SMALL.shocks)], [0.5, 0.5], "different factors"),
    ],
)
def test_sets_that_do_not_fit_are_not_joined(sets: list[mx.ScenarioSet], masses: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mx.join(sets, masses)


def test_the_digest_of_a_set_changes_with_every_number_and_every_name() -> None:
    others = [
        replace(SMALL, factors=("BTC", "SOL")),
        replace(SMALL, labels=("scenario 0", "scenario 1", "scenario 3")),
        replace(SMALL, weights=np.array([0.5, 0.25 + 1e-12, 0.25 - 1e-12])),
        replace(SMALL, shocks=SMALL.shocks[:, ::-1]),
    ]
    for place in np.ndindex(SMALL.shocks.shape):
        shocks = SMALL.shocks.copy()
        shocks[place] = np.nextafter(shocks[place], 1)
        others.append(replace(SMALL, shocks=shocks))
    digests = [each.digest for each in [SMALL, *others]]
    assert len(set(digests)) == len(digests)
    assert replace(SMALL, shocks=SMALL.shocks.copy()).digest == SMALL.digest


def test_only_independent_draws_have_a_standard_error() -> None:
    rng = np.random.default_rng(4)
    plain = scenario_set(tuple(PRICES), rng.normal(size=(300, 3)) * 0.05)
    tables = holding(venue(), {"BTC-SPOT": 1.0})
    losses = -1_000 * np.expm1(plain.shocks[:, 0])
    for each in (plain, replace(plain, independent=True)):
        row = margins(tables, given(each)).row(0, named=True)
        wanted = reference.expected_shortfall_error(losses, each.weights, tail=0.05) if each.independent else None
        assert row["es_std_error"] == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9))


def test_a_set_must_shock_every_underlying() -> None:
    with pytest.raises(ValueError, match="USDT"):
        margins(holding(venue(), {"BTC-SPOT": 1.0}), given(SMALL))
