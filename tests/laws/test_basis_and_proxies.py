"""What is not known of a price is never hedged away: a basis without history, a coin without any."""

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest

from laws._books import NOW, contract
from laws._history import (
    BARS,
    COIN_PERP,
    CONTRACTS,
    DAYS,
    FAR,
    LISTED,
    NEAR,
    NEW,
    PERP,
    PRICES,
    configured,
    holding,
    margins,
    noise,
    paths,
    returns,
    seen,
    venue,
)
from reference import filters as twin
from reference import tail as reference


def test_a_basis_without_history_has_the_configured_volatility() -> None:
    told = seen(venue((*CONTRACTS, PERP, NEAR, FAR)))
    for name, years in (("BTC-PERP", 0), ("BTC-NEAR", 90 / 365), ("BTC-FAR", 180 / 365)):
        size = np.hypot(0.002, 0.005 * years)
        np.testing.assert_allclose(np.sort(told[f"basis:{name}"]), noise(size), rtol=1e-9)
        assert np.std(told[f"basis:{name}"]) == pytest.approx(size, rel=1e-9)
    # No two of them move together, nor with their index: correlations of 160 shuffled numbers are near 0.08.
    correlations = np.corrcoef([told["BTC"], *(told[f"basis:{name}"] for name in ("BTC-PERP", "BTC-NEAR", "BTC-FAR"))])
    assert (np.abs(correlations - np.eye(4)) < 0.35).all()


def test_spot_against_a_perpetual_carries_the_risk_of_the_basis() -> None:
    tables = holding(venue((*CONTRACTS, PERP, COIN_PERP)), {"BTC-SPOT": 1.0, "BTC-PERP": -1.0}, {"BTC-SPOT": 1.0},
                     {"BTC-PERP": 1.0, "BTC-INV": -1_000.0})  # fmt: skip
    hedged, bare, pair = margins(tables)["initial_margin"]
    losses = 1_000 * noise(0.002)
    basis = reference.expected_shortfall(losses, np.full(BARS - 1, 1 / (BARS - 1)), tail=0.05)
    # The loss is the basis times the price of that scenario, at most a few per cent from today's in the calm.
    assert hedged == pytest.approx(basis, rel=0.1)
    assert hedged < bare / 3
    # Two perpetuals on one index have a basis each.
    assert hedged < pair < 2 * basis


def test_a_calendar_spread_carries_more_risk_the_further_apart() -> None:
    tables = holding(
        venue((*CONTRACTS, NEAR, FAR)), {"BTC-NEAR": 1.0, "BTC-FAR": -1.0}, {"BTC-SPOT": 1.0, "BTC-FAR": -1.0}
    )
    usual = margins(tables)["initial_margin"].to_list()
    steep = margins(tables, configured(basis={"annualised_volatility": 0.05}))["initial_margin"].to_list()
    assert all(0 < one < other for one, other in zip(usual, steep, strict=True))
    # A daily 5 % of a yearly basis, for a half and a quarter of a year, and 0.2 % whatever the expiry.
    far, near = np.hypot(0.002, 0.05 * 180 / 365), np.hypot(0.002, 0.05 * 90 / 365)
    weights = np.full(BARS - 1, 1 / (BARS - 1))
    assert steep[1] == pytest.approx(1_000 * reference.expected_shortfall(noise(far), weights, tail=0.05), rel=0.15)
    assert steep[0] < 1_000 * reference.expected_shortfall(noise(far + near), weights, tail=0.05)


@pytest.mark.parametrize("owner", ["BTC-PERP", "BTC"])
def test_a_basis_with_history_moves_by_it(owner: str) -> None:
    """Of the contract itself, or of the underlying for all its perpetuals; a basis moves by differences."""
    walk = 0.001 * np.random.default_rng(3).standard_normal(BARS)
    rows = [
        {"time": day, "underlying": owner, "factor": "basis", "value": float(walk[t])} for t, day in enumerate(DAYS)
    ]
    tables = venue((*CONTRACTS, PERP, NEAR), history=[*paths(), *rows])
    plain = configured(scenarios={"source": "historical"})
    told = seen(tables, plain)
    np.testing.assert_allclose(told["basis:BTC-PERP"], np.diff(walk), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(np.sort(told["basis:BTC-NEAR"]), noise(np.hypot(0.002, 0.005 * 90 / 365)), rtol=1e-9)
    hedged = margins(holding(tables, {"BTC-SPOT": 1.0, "BTC-PERP": -1.0}), plain)["initial_margin"].item()
    losses = 1_000 * np.exp(returns()[:, 0]) * np.diff(walk)
    wanted = reference.expected_shortfall(losses, np.full(BARS - 1, 1 / (BARS - 1)), tail=0.05)
    assert hedged == pytest.approx(wanted, rel=1e-9)


def test_the_contracts_own_basis_comes_before_that_of_its_underlying() -> None:
    rows = [
        {"time": day, "underlying": owner, "factor": "basis", "value": size * (-1) ** t}
        for owner, size in (("BTC", 0.01), ("BTC-PERP", 0.003))
        for t, day in enumerate(DAYS)
    ]
    told = seen(
        venue((*CONTRACTS, PERP, COIN_PERP), history=[*paths(), *rows]), configured(scenarios={"source": "historical"})
    )
    np.testing.assert_allclose(np.abs(told["basis:BTC-PERP"]), 0.006, rtol=1e-9)
    np.testing.assert_allclose(np.abs(told["basis:BTC-INV"]), 0.02, rtol=1e-9)


def test_a_dated_future_moves_by_the_forward_of_the_nearest_tenor() -> None:
    """Forwards of 90 days and a year: their yearly log basis, times the years to expiry, is the basis of a future."""
    rng = np.random.default_rng(6)
    spot = np.array([row["price"] for row in paths() if row["underlying"] == "BTC"])
    yearly = {"90d": 0.08 + 0.02 * rng.standard_normal(BARS), "1y": 0.06 + 0.01 * rng.standard_normal(BARS)}
    years = {"90d": 90 / 365, "1y": 1.0}
    rows = [
        {"time": day, "underlying": "BTC", "factor": f"forward:{tenor}",
         "value": float(spot[t] * np.exp(yearly[tenor][t] * years[tenor]))}
        for tenor in yearly
        for t, day in enumerate(DAYS)
    ]  # fmt: skip
    late = contract("BTC-LATE", "future", "BTC", expiry=NOW + timedelta(days=300))
    tables = venue((*CONTRACTS, NEAR, late, PERP), history=[*paths(), *rows])
    told = seen(tables, configured(scenarios={"source": "historical"}))
    np.testing.assert_allclose(told["basis:BTC-NEAR"], np.diff(yearly["90d"]) * 90 / 365, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(told["basis:BTC-LATE"], np.diff(yearly["1y"]) * 300 / 365, rtol=1e-8, atol=1e-14)
    # A perpetual has no expiry and takes no forward.
    np.testing.assert_allclose(np.sort(told["basis:BTC-PERP"]), noise(0.002), rtol=1e-9)


def test_a_coin_without_history_is_its_proxy_and_a_residual_of_its_own() -> None:
    told = seen(venue(LISTED, underlyings=NEW), configured(scenarios={"source": "historical"}))
    moves = np.column_stack([returns(), np.full((BARS - 1, 2), np.nan)])
    wanted = twin.fill(
        moves,
        proxy=[-1, 0, 0, 0, 0],
        own=[True, True, True, False, False],
        beta=[np.nan, np.nan, 0.05, 1.2, 1.2],
        level=[1.0] * 5,
        rows=told.rows,
        default_beta=1.5,
        residual=1.33,
        safety_factor=1.5,
    )
    np.testing.assert_allclose(told.shocks, wanted, rtol=1e-9, atol=1e-14)


def test_a_proxied_coin_is_hedged_by_neither_its_proxy_nor_another_proxied_coin() -> None:
    tables = holding(
        venue(LISTED, underlyings=NEW),
        {"NEW-SPOT": 100.0},
        {"NEW-SPOT": 100.0, "BTC-SPOT": -1.2},
        {"NEW-SPOT": 100.0, "NEWER-SPOT": -250.0},
        {"BTC-SPOT": 1.2},
    )
    told = margins(tables)
    alone, against_proxy, against_twin, proxy = told["initial_margin"]
    assert told["status"].to_list() == ["proxied"] * 3 + ["ok"]
    # What is not known of a coin is at least as large as what is: a hedge leaves more than the proxy itself moves.
    assert min(against_proxy, against_twin) > proxy
    assert max(against_proxy, proxy) < alone


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_the_safety_factor_scales_what_is_not_known_of_a_proxied_coin(factor: float) -> None:
    """On the residual alone: on beta too, it would let a hedge with the proxy owe less."""
    tables = venue(LISTED, underlyings=NEW)
    told, usual = (seen(tables, configured(proxy={"safety_factor": each})) for each in (factor, 1.5))
    for name in PRICES:
        np.testing.assert_array_equal(told[name], usual[name])
    for name in ("NEW", "NEWER"):
        own, before = told[name] - 1.2 * told["BTC"], usual[name] - 1.2 * usual["BTC"]
        np.testing.assert_allclose(own, before * factor / 1.5, rtol=1e-9, atol=1e-14)


def test_a_larger_safety_factor_is_a_larger_margin() -> None:
    tables = holding(venue(LISTED, underlyings=NEW), {"NEW-SPOT": 1.0}, {"NEW-SPOT": -1.0}, {"BTC-SPOT": 1.0})
    sizes = [margins(tables, configured(proxy={"safety_factor": each}))["initial_margin"] for each in (1.0, 1.5, 3.0)]
    for small, large in pairwise(sizes):
        assert (large > small).to_list() == [True, True, False]
        assert large[2] == small[2]
