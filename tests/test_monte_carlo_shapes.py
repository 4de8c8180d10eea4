"""Monte Carlo where markets are odd: capped prices, more coins than days, one coin, prices through zero."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

import marginax as mx
from laws._books import NOW, Tables, contract, frame
from laws._history import BARS, DAYS, configured, filtered, holding, seen, venue
from laws._history import margins as margins_of
from test_monte_carlo import BOOKS, drawn, looked, run, usual


def test_a_cap_on_the_price_multiple_bites_and_is_counted() -> None:
    """No coin moves by more than 2 % up, nor below 1 / 1.02: who is short loses at most 20 dollars of a thousand."""
    answer = run(holding(venue(), *BOOKS), drawn(price_cap=1.02))
    told, manifest = answer.scenarios, answer.manifest["scenarios"]
    cut = np.isclose(np.abs(told.shocks), np.log(1.02), rtol=1e-12)
    assert np.abs(told.shocks).max() <= np.log(1.02) * (1 + 1e-12)
    assert manifest["shocks_bounded"] == dict(zip(("BTC", "ETH", "USDT"), cut.sum(axis=0).tolist(), strict=True))
    assert cut.sum(axis=0).min() > 1
    assert manifest["mass_bounded"] == pytest.approx(told.weights[cut.any(axis=1)].sum(), rel=1e-12)
    assert answer.margins["expected_shortfall"][1] <= 20 + 1e-9
    assert usual().manifest["scenarios"]["shocks_bounded"] == {}


def test_a_cap_of_ones_own_comes_before_that_of_all() -> None:
    told = looked(price_cap=1.05, price_caps={"ETH": 1.01})
    largest = {name: np.abs(told[name]).max() for name in ("BTC", "ETH", "USDT")}
    assert largest == pytest.approx({"BTC": np.log(1.05), "ETH": np.log(1.01), "USDT": np.log(1.05)})
    with pytest.raises(mx.BadInput):
        drawn(price_caps={"ETH": 1.0})


def coins(count: int, bars: int) -> Tables:
    """Many coins with a short history of one common move and moves of their own."""
    rng = np.random.default_rng(9)
    moves = 0.02 * (rng.standard_normal((bars, 1)) + rng.standard_normal((bars, count)))
    names = [f"C{k:02d}" for k in range(count)]
    days = [NOW - timedelta(days=k) for k in range(bars - 1, -1, -1)]
    history = [
        {"time": day, "underlying": name, "price": float(np.exp(moves[: t + 1, k].sum()))}
        for k, name in enumerate(names)
        for t, day in enumerate(days)
    ]
    contracts = [contract(f"{name}-SPOT", "spot", name) for name in names]
    last = {name: history[(k + 1) * bars - 1]["price"] for k, name in enumerate(names)}
    quotes = [{"instrument_id": f"{name}-SPOT", "mark_price": last[name], "time": NOW} for name in names]
    return {
        "instruments": frame("instruments", contracts),
        "quotes": frame("quotes", quotes),
        "underlyings": frame("underlyings", [{"underlying": name, "index_price": last[name]} for name in names]),
        "history": frame("history", history),
    }


def short(tables: Tables, accounts: Sequence[dict[str, float]]) -> dict[str, Any]:
    told = margins_of(holding(tables, *accounts), drawn(scenarios={"least_bars": 10}))
    assert set(told["status"]) == {"ok"}
    return dict(told.select("account_id", "initial_margin").iter_rows())


def test_more_coins_than_days_leave_no_book_without_risk() -> None:
    """Thirty coins and twenty days: ten directions that no day has seen, and that shrinkage gives risk to."""
    tables = coins(30, 21)
    moves = np.diff(np.log(tables["history"]["price"].to_numpy().reshape(30, 21)), axis=1)
    blind = np.linalg.svd(moves.T)[2][-1]
    assert np.abs(blind @ moves).max() < 1e-12
    price = tables["underlyings"]["index_price"].to_numpy()
    unseen = {f"C{k:02d}-SPOT": float(share / price[k]) for k, share in enumerate(blind)}
    all_of_them = {f"C{k:02d}-SPOT": 1 / float(price[k]) for k in range(30)}
    told = short(tables, [unseen, all_of_them])
    # A twentieth of the variance of coins of 2.8 % a day, twice that in the tail, and the blind weights are of size 1.
    assert told["account 0"] > np.sqrt(0.05) * 0.028
    assert told["account 1"] > 10 * told["account 0"]


def test_one_coin_alone_is_drawn_from_its_own_law() -> None:
    tables = {**holding(coins(1, 161), {"C00-SPOT": 1.0}, {"C00-SPOT": -1.0})}
    config = configured(scenarios={"source": "monte_carlo"}, monte_carlo={"draws": 512})
    answer = run(tables, config)
    assert answer.scenarios.shocks.shape == (512, 1)
    assert (answer.margins["initial_margin"] > 0).all()
    # Nothing correlates, so the copula is all but normal and draws weigh almost alike.
    assert answer.manifest["scenarios"]["copula_freedom"] == 60


def test_oil_shocked_by_price_is_drawn_in_dollars() -> None:
    """The root mean square of the daily changes, bounded by four times the price level, and through zero if need be."""
    rng = np.random.default_rng(2)
    path = 20 + np.cumsum(rng.standard_normal(BARS) * 2)
    path += 3 - path[-1]
    level = max(3.0, float(np.median(np.abs(path))))
    history = [{"time": day, "underlying": "OIL", "price": float(price)} for day, price in zip(DAYS, path, strict=True)]
    tables = {
        "instruments": frame("instruments", [contract("OIL-FUT", "future", "OIL", expiry=NOW + timedelta(days=30))]),
        "quotes": frame("quotes", [{"instrument_id": "OIL-FUT", "mark_price": 3.0, "time": NOW}]),
        "underlyings": frame("underlyings", [{"underlying": "OIL", "index_price": 3.0, "shock": "absolute"}]),
        "history": frame("history", history),
    }
    told = seen(tables, drawn(marginals="normal"))
    size = np.sqrt(np.mean(filtered(np.diff(path)[:, None])[:, 0] ** 2))
    assert np.sqrt(np.sum(told.weights * told["OIL"] ** 2)) == pytest.approx(size, rel=0.1)
    assert told["OIL"].min() < -3
    capped = seen(tables, drawn(price_cap=1.1))
    assert np.abs(capped["OIL"]).max() == pytest.approx(0.1 * level)
