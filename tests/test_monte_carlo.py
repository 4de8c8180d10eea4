"""Monte Carlo in the engine: one set of draws for everybody, of the laws that the history and the configuration say.

Three coins with 160 days of history (`laws._history`); shocks are standardised by the root mean square of the filtered
returns, which the twin gives in loops.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

import marginax as mx
from laws import _options
from laws._books import Tables, book, market, scenario_set
from laws._history import BARS, LISTED, NEW, PERP, configured, filtered, holding, returns, seen, venue
from marginax.sections import Engine

# Few draws where any will do, laws as they are configured: nothing is fitted.
QUICK: dict[str, Any] = {"draws": 512, "copula_freedom": 5.0, "marginal_freedom": 5.0}
MANY = 2048
BOOKS = ({"BTC-SPOT": 1.0}, {"BTC-SPOT": -1.0}, {"BTC-SPOT": 1.0, "ETH-SPOT": -8.0})


def drawn(tail: float = 0.05, *, horizon: float = 1.0, scenarios: Any = None, **monte_carlo: Any) -> mx.Config:
    return configured(
        risk={"tail": tail, "horizon_days": horizon},
        scenarios={"source": "monte_carlo", **(scenarios or {})},
        monte_carlo={**QUICK, **monte_carlo},
    )


def run(tables: Tables, config: mx.Config, *, seed: int = 7, **engine: Any) -> mx.Result:
    settings = Engine(**{"precision": "float64", **engine})
    return mx.margin_book(book(tables), market(tables), config, seed=seed, engine=settings)


def looked(**settings: Any) -> Any:
    """Scenarios of the three coins: always as many, so that one set of programs makes them all."""
    return seen(venue(), drawn(draws=MANY, **settings))


@cache
def usual(seed: int = 7) -> mx.Result:
    return run(holding(venue(), *BOOKS), drawn(), seed=seed)


# --- One set ---------------------------------------------------------------------------------------------------------


def test_one_seed_is_one_set_whatever_the_book_the_tile_and_the_streams() -> None:
    others = [
        run(holding(venue(), *BOOKS), drawn(), tile_rows=64, streams=1),
        run(holding(venue(), *BOOKS), drawn(), tile_rows=128, streams=2, precision="float32"),
        run(holding(venue(), {"USDT-SPOT": 3.0}), drawn()),
        run(holding(venue(), *[BOOKS[0]] * 100), drawn(), tile_rows=64),
    ]
    digest = usual().manifest["scenarios"]["sha256"]
    assert {other.manifest["scenarios"]["sha256"] for other in others} == {digest}
    assert others[0].margins.equals(usual().margins)
    np.testing.assert_array_equal(others[2].scenarios.shocks, usual().scenarios.shocks)
    assert usual(8).manifest["scenarios"]["sha256"] != digest
    assert (usual(8).margins["initial_margin"] != usual().margins["initial_margin"]).all()


def test_a_set_of_draws_says_what_it_is() -> None:
    told = usual().scenarios
    assert (len(told), told.scrambles, told.drawn, told.independent) == (512, 16, 512, False)
    assert (told.labels[0], told.labels[-1]) == ("draw 001", "draw 512")
    assert told.weights.sum() == pytest.approx(1, abs=1e-12)
    # None weighs more than two plain draws, and a stretch weighs most draws less than one.
    assert 0 < told.weights.min() < told.weights.max() <= 2 / 512 * 1.05
    manifest = usual().manifest["scenarios"]
    assert (manifest["source"], manifest["count"], manifest["copula_freedom"]) == ("monte_carlo", 512, 5.0)
    assert manifest["stretch"] == pytest.approx(1 - np.log(0.05) / 3, abs=1e-4)
    assert manifest["effective_sample_size"] == pytest.approx(1 / (told.weights**2).sum(), rel=1e-3)
    assert 256 < manifest["effective_sample_size"] < 512


def test_a_stretch_of_one_is_plain_draws_of_equal_weight() -> None:
    np.testing.assert_allclose(looked(stretch=1.0).weights, 1 / MANY, rtol=1e-12)


def test_draws_joined_in_front_of_a_stress_window_keep_their_error() -> None:
    model = mx.load_model(drawn())
    history = model.factors(market(venue()), book(holding(venue())).instruments)
    made = model.source.scenario_set(history, seed=7)  # type: ignore[attr-defined]
    np.testing.assert_allclose(made.shocks, usual().scenarios.shocks, rtol=1e-10, atol=1e-15)
    crash = scenario_set(history.names, [[-0.4, -0.5, -0.01]], labels=["crash"])
    joined, behind = mx.join([made, crash], [0.95, 0.05]), mx.join([crash, made], [0.05, 0.95])
    assert (joined.scrambles, joined.drawn, len(joined)) == (16, 512, 513)
    assert (behind.scrambles, behind.drawn) == (0, 0)
    for scenarios, known in ((joined, True), (behind, False)):
        told = _options.given(scenarios, tail=0.1)
        table = mx.margin_book(book(holding(venue(), *BOOKS)), market(venue()), told).margins
        assert (table["es_std_error"].null_count() == 0) == known
        assert table["worst_scenario"][0] == "crash"


def test_the_standard_error_is_that_of_other_seeds() -> None:
    """Sixteen seeds: their scatter is known to a factor of 0.48 to 1.59 (chi-square of 15, one in a thousand either
    way), and the error that a set tells of itself is 1.09 times its own on purpose."""
    runs = [usual(seed) for seed in range(16)]
    shortfalls = np.array([run.margins["expected_shortfall"] for run in runs])
    errors = np.array([run.margins["es_std_error"] for run in runs])
    assert (errors > 0).all()
    ratio = errors.mean(axis=0) / shortfalls.std(axis=0, ddof=1)
    assert (ratio > 1.09 / 1.59).all()
    assert (ratio < 1.09 / 0.48).all()
    # A few per cent of the shortfall itself: 512 draws hold some fifty beyond the tail.
    assert (errors < 0.1 * shortfalls).all()


# --- Laws ------------------------------------------------------------------------------------------------------------


def cumulated(values: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The weighted share of values at or below each point."""
    return np.array([weights[values <= point].sum() for point in at])


@pytest.mark.parametrize("marginals", ["t", "normal", "empirical"])
def test_each_coin_has_the_marginal_that_is_configured(marginals: str) -> None:
    """Independent draws, 2,048 of them, would be within 0.043 of their law in all but one of a thousand cases."""
    told = looked(marginals=marginals, marginal_freedom=4.0)
    past = filtered(returns())
    points = np.linspace(-3, 3, 61)
    for k, name in enumerate(("BTC", "ETH", "USDT")):
        size = np.sqrt(np.mean(past[:, k] ** 2))
        unit = told[name] / size
        law = {
            "t": stats.t.cdf(points * np.sqrt(2), 4),
            "normal": stats.norm.cdf(points),
            "empirical": cumulated(past[:, k] / size, np.full(BARS - 1, 1 / (BARS - 1)), points),
        }[marginals]
        # The history's own steps are 1 / 160 high, and draws lie half-way up them.
        slack = 0.043 + (0.5 / (BARS - 1) if marginals == "empirical" else 0)
        assert np.abs(cumulated(unit, told.weights, points) - law).max() < slack, name
        if marginals != "empirical":
            assert np.sum(told.weights * unit**2) == pytest.approx(1, abs=0.15)


def test_the_laws_are_fitted_where_none_is_configured() -> None:
    tables = holding(venue((*LISTED, PERP), underlyings=NEW), {"NEW-SPOT": 1.0})
    config = configured(scenarios={"source": "monte_carlo"}, monte_carlo={"draws": 512})
    answer = run(tables, config)
    manifest, told = answer.manifest["scenarios"], answer.scenarios
    assert set(manifest["marginal_freedom"]) == {"BTC", "ETH", "USDT", "NEW", "NEWER"}
    assert all(2.1 <= freedom <= 60 for freedom in manifest["marginal_freedom"].values())
    assert 2.1 <= manifest["copula_freedom"] <= 60
    assert manifest["proxied"] == ["NEW", "NEWER"]
    # The basis of a perpetual without history has its configured size; 512 draws know it to a tenth.
    basis = told.shocks[:, told.factors.index("basis:BTC-PERP")]
    assert np.sqrt(np.sum(told.weights * basis**2)) == pytest.approx(0.002, rel=0.1)


def test_a_horizon_of_four_days_is_twice_one_day() -> None:
    one, four = (looked(horizon=days, price_cap=1e6) for days in (1.0, 4.0))
    np.testing.assert_allclose(four.shocks, 2 * one.shocks, rtol=1e-12)


def correlation(told: Any, one: str, other: str) -> float:
    first, second = told[one], told[other]
    product, *squares = (np.sum(told.weights * pair) for pair in (first * second, first**2, second**2))
    return float(product / np.sqrt(np.prod(squares)))


@pytest.mark.parametrize("stated", [-0.7, 0.0, 0.9])
def test_stated_correlations_are_honoured(stated: float) -> None:
    """Under normal marginals, and a copula that is all but normal; 2,048 independent draws know it to 1 / 45."""
    law: dict[str, Any] = {"marginals": "normal", "copula_freedom": 1_000.0}
    told = looked(**law, correlations={"BTC": {"ETH": stated}})
    assert correlation(told, "BTC", "ETH") == pytest.approx(stated, abs=3 / 45)
    # The others are as they were: common shocks of two coins in a storm, and a peg that does not follow.
    free = looked(**law)
    assert correlation(told, "BTC", "USDT") == pytest.approx(correlation(free, "BTC", "USDT"), abs=3 / 45)
    assert correlation(free, "BTC", "ETH") > 0.4


@pytest.mark.parametrize(
    ("correlations", "said"),
    [
        ({"BTC": {"ETH": 0.9, "USDT": 0.9}, "ETH": {"USDT": -0.9}}, "least eigenvalue is -0.8"),
        ({"BTC": {"SHIB": 0.5}}, "SHIB is no factor"),
        ({"BTC": {"ETH": 1.0}}, "inside \\(-1, 1\\)"),
        ({"BTC": {"BTC": 0.5}}, "inside \\(-1, 1\\)"),
        ({"BTC": {"ETH": 0.5}, "ETH": {"BTC": 0.5}}, "given twice"),
    ],
)
def test_stated_correlations_that_are_none_are_refused(correlations: Any, said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        seen(venue(), drawn(correlations=correlations))


@pytest.mark.parametrize(
    ("monte_carlo", "said"),
    [
        ({"copula_freedom": 2.0}, "greater than 2"),
        ({"marginal_freedom": 1.9}, "greater than 2"),
        ({"draws": 2_000}, "multiple of 512"),
        ({"draws": 2_560, "scrambles": 16}, "2560 are not 16 scrambles of a power of two; take 4096"),
        ({"draws": 1_536, "scrambles": 16}, "take 2048"),
        ({"draws": 2**21}, "less than or equal to 1048576"),
        ({"scrambles": 4}, "greater than or equal to 8"),
        ({"shrinkage": 0.0}, "greater than 0"),
        ({"price_cap": 1.0}, "greater than 1"),
        ({"stretch": 0.5}, "greater than or equal to 1"),
        ({"marginals": "cauchy"}, "'t', 'normal' or 'empirical'"),
    ],
)
def test_draws_that_cannot_be_are_refused_by_the_configuration(monte_carlo: dict[str, Any], said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        drawn(**monte_carlo)


@pytest.mark.parametrize(("draws", "scrambles"), [(2_560, 16), (1_536, 16), (512, 24), (4_096, 20)])
def test_the_remedy_for_draws_that_cannot_be_cut_is_one_that_can(draws: int, scrambles: int) -> None:
    with pytest.raises(mx.BadInput, match="take ") as caught:
        drawn(draws=draws, scrambles=scrambles)
    remedy = int(str(caught.value).split("take ")[1].split(",")[0])
    assert drawn(draws=remedy, scrambles=scrambles).monte_carlo.draws > draws


def test_caps_hold_for_their_coin_are_counted_and_named_where_they_are_of_nothing() -> None:
    tight = run(holding(venue(), *BOOKS), drawn(price_caps={"BTC": 1.01, "ZZZ": 2.0}))
    moves = {name: tight.scenarios.shocks[:, k] for k, name in enumerate(tight.scenarios.factors)}
    assert np.abs(moves["BTC"]).max() == pytest.approx(np.log(1.01))
    manifest = tight.manifest["scenarios"]
    assert manifest["shocks_bounded"]["BTC"] == (np.abs(moves["BTC"]) >= np.log(1.01) * (1 - 1e-9)).sum() > 100
    assert 0 < manifest["mass_bounded"] <= 1
    assert manifest["price_caps_of_nothing"] == ["ZZZ"]
    assert "shocks_bounded" in usual().manifest["scenarios"]


def test_a_tail_thinner_than_a_draw_asks_for_draws() -> None:
    with pytest.raises(mx.BadInput, match=r"risk.tail.*Draw at least 10000 \(`monte_carlo.draws`\), or widen the tail"):
        run(holding(venue(), *BOOKS), drawn(tail=0.0001))
