"""Scenarios from history and from named stress windows: what they are, and what they do to a margin."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import book, contract, market
from laws._history import (
    BARS,
    COIN_PERP,
    DAYS,
    DOUBLE,
    FAR,
    LISTED,
    NEAR,
    NEW,
    PERP,
    PRICES,
    configured,
    filtered,
    holding,
    margins,
    paths,
    returns,
    seen,
    venue,
)
from reference import filters as twin
from reference import tail as reference


@pytest.mark.parametrize(("half_life", "floor", "cap"), [(23.0, 0.5, 15.0), (11.2, 0.0, 15.0), (60.0, 1.5, 2.0)])
def test_filtered_scenarios_are_returns_rescaled_to_todays_volatility(
    half_life: float, floor: float, cap: float
) -> None:
    config = configured(scenarios={"half_life_days": half_life, "volatility_floor": floor, "residual_cap": cap})
    told = seen(venue(), config)
    wanted = filtered(returns(), half_life=half_life, floor=floor, cap=cap)
    assert told.factors == tuple(PRICES)
    # Returns are recovered from prices: a rounding of 1e-16 in a logarithm of at most 7, over returns of 1e-4.
    np.testing.assert_allclose(told.shocks, wanted, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(told.weights, np.full(BARS - 1, 1 / (BARS - 1)), rtol=1e-14)
    assert told.labels == tuple(f"{day:%Y-%m-%d}" for day in DAYS[1:])


def test_the_margin_of_a_coin_is_the_expected_shortfall_of_its_rescaled_returns() -> None:
    shocks = filtered(returns())[:, 0]
    weights = np.full(len(shocks), 1 / len(shocks))
    told = margins(holding(venue(), {"BTC-SPOT": 2.0}, {"BTC-SPOT": -2.0}))
    for sign, row in zip((1, -1), told.iter_rows(named=True), strict=True):
        losses = -sign * 2_000 * np.expm1(shocks)
        assert row["initial_margin"] == pytest.approx(
            reference.expected_shortfall(losses, weights, tail=0.05), rel=1e-9
        )
        assert row["var"] == pytest.approx(reference.value_at_risk(losses, weights, tail=0.05), rel=1e-9)
        assert row["worst_scenario"] == f"{DAYS[1 + int(np.argmax(losses))]:%Y-%m-%d}"
        assert row["es_std_error"] is None


def test_a_peg_that_jumped_once_is_capped_and_counted() -> None:
    tables = holding(venue(), {"USDT-SPOT": 1.0})
    answer = mx.margin_book(book(tables), market(tables), configured(), engine=DOUBLE)
    assert answer.manifest["scenarios"]["residuals_capped"] == {"USDT": 1}
    # The day after, the volatility knows the jump: its residual is below the cap.
    assert 0 < answer.margins["initial_margin"].item() < 0.08


def test_plain_historical_scenarios_are_the_returns_as_they_were() -> None:
    told = seen(venue(), configured(scenarios={"source": "historical"}))
    np.testing.assert_allclose(told.shocks, returns(), rtol=1e-9, atol=1e-14)
    recent = seen(venue(), configured(scenarios={"source": "historical", "window": 100}))
    np.testing.assert_allclose(recent.shocks, returns()[-100:], rtol=1e-9, atol=1e-14)
    assert recent.labels == told.labels[-100:]


def test_age_weights_halve_with_every_half_life() -> None:
    told = seen(venue(), configured(scenarios={"source": "age_weighted", "age_half_life_days": 20.0}))
    np.testing.assert_allclose(told.shocks, returns(), rtol=1e-9, atol=1e-14)
    raw = 0.5 ** (np.arange(BARS - 2, -1, -1) / 20)
    np.testing.assert_allclose(told.weights, raw / raw.sum(), rtol=1e-12)


@pytest.mark.parametrize("source", ["filtered_historical", "historical"])
def test_a_horizon_of_days_is_a_sum_of_overlapping_days(source: str) -> None:
    config = configured(risk={"tail": 0.05, "horizon_days": 3.0}, scenarios={"source": source, "window": 50})
    told = seen(venue(), config)
    daily = filtered(returns()) if source == "filtered_historical" else returns()
    wanted = [daily[t - 2 : t + 1].sum(axis=0) for t in range(len(daily) - 50, len(daily))]
    np.testing.assert_allclose(told.shocks, wanted, rtol=1e-8, atol=1e-13)
    assert told.labels[-1] == f"{DAYS[-3]:%Y-%m-%d} to {DAYS[-1]:%Y-%m-%d}"


@pytest.mark.parametrize(("horizon", "bars"), [(0.25, 1), (1.4, 1), (2.5, 2)])
def test_what_a_horizon_lacks_of_whole_bars_is_a_square_root(horizon: float, bars: int) -> None:
    config = configured(risk={"tail": 0.05, "horizon_days": horizon}, scenarios={"source": "historical"})
    daily = np.array([returns()[t : t + bars].sum(axis=0) for t in range(BARS - bars)])
    np.testing.assert_allclose(seen(venue(), config).shocks, daily * np.sqrt(horizon / bars), rtol=1e-8, atol=1e-13)


def test_the_move_since_the_last_bar_is_in_todays_volatility() -> None:
    """The history ends four days before the quotes and the coin is 30 % lower: one return over four bars."""
    late = datetime(2026, 2, 4, tzinfo=UTC)
    fallen = venue()
    fallen["underlyings"] = fallen["underlyings"].with_columns(index_price=pl.lit(pl.Series([700.0, 100.0, 1.0])))
    fallen["quotes"] = fallen["quotes"].with_columns(time=pl.lit(late).cast(pl.Datetime("us", "UTC")))
    told = seen(fallen)
    one = np.ones(returns().shape)
    path, final = twin.ewma_variance(returns(), one, twin.mean_square(returns(), one, count=30), half_life=23.0)
    since = twin.ewma_update(final[0], np.log(0.7), 4.0, half_life=23.0)
    long_run = np.sqrt(twin.mean_square(returns(), one))
    residuals, _ = twin.filtered_residuals(returns(), one, np.sqrt(path), long_run, least_share=0.25, cap=15.0)
    assert since > final[0]
    np.testing.assert_allclose(told["BTC"], residuals[:, 0] * np.sqrt(since), rtol=1e-9)
    # ETH stood still for four days. That is no news: its volatility does not fall.
    np.testing.assert_allclose(told["ETH"], filtered(returns())[:, 1], rtol=1e-9)


STORM = {"name": "the storm", "from": DAYS[40].date(), "to": DAYS[59].date()}


def test_a_stress_window_is_cut_by_date_and_left_unscaled() -> None:
    told = seen(venue(), configured(scenarios={"stress": [{**STORM, "mass": 0.25}]}))
    assert len(told.labels) == BARS - 1 + 20
    assert told.labels[-20] == f"the storm: {DAYS[40]:%Y-%m-%d}"
    assert told.labels[-1] == f"the storm: {DAYS[59]:%Y-%m-%d}"
    np.testing.assert_allclose(told.shocks[-20:], returns()[39:59], rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(told.shocks[:-20], filtered(returns()), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(told.weights[-20:], 0.25 / 20, rtol=1e-14)
    np.testing.assert_allclose(told.weights[:-20], 0.75 / (BARS - 1), rtol=1e-14)


def test_a_window_without_mass_moves_no_margin_but_may_be_the_worst() -> None:
    held = {"BTC-SPOT": 1.0}, {"BTC-SPOT": -1.0}, {"ETH-SPOT": 30.0, "BTC-SPOT": -1.0}
    tables = holding(venue(), *held)
    calm, stressed = margins(tables), margins(tables, configured(scenarios={"stress": [STORM]}))
    for column in ("var", "expected_shortfall", "initial_margin", "maintenance_margin", "stress_score"):
        # Twenty zeros more in a sum of weights.
        np.testing.assert_allclose(stressed[column], calm[column], rtol=1e-12, err_msg=column)
    told = seen(venue(), configured(scenarios={"stress": [STORM]}))
    coins, ethers = 1_000 * np.expm1(told["BTC"]), 100 * np.expm1(told["ETH"])
    worst = [told.labels[np.argmax(-gain)] for gain in (coins, -coins, 30 * ethers - coins)]
    assert stressed["worst_scenario"].to_list() == worst
    assert sum(label.startswith("the storm: ") for label in worst) >= 2
    assert not any(label.startswith("the storm") for label in calm["worst_scenario"])


def test_a_window_with_mass_carries_it() -> None:
    told = margins(holding(venue(), {"BTC-SPOT": 1.0}), configured(scenarios={"stress": [{**STORM, "mass": 0.1}]}))
    losses = -1_000 * np.expm1(np.concatenate([filtered(returns())[:, 0], returns()[39:59, 0]]))
    weights = np.concatenate([np.full(BARS - 1, 0.9 / (BARS - 1)), np.full(20, 0.1 / 20)])
    wanted = reference.expected_shortfall(losses, weights, tail=0.05)
    assert told["initial_margin"].item() == pytest.approx(wanted, rel=1e-9)


def test_windows_of_several_days_keep_to_their_dates() -> None:
    config = configured(
        risk={"tail": 0.05, "horizon_days": 5.0}, scenarios={"stress": [STORM, {**STORM, "name": "again", "mass": 0.5}]}
    )
    told = seen(venue(), config)
    wanted = [returns()[t : t + 5].sum(axis=0) for t in range(39, 55)]
    np.testing.assert_allclose(told.shocks[-16:], wanted, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(told.shocks[-32:-16], told.shocks[-16:], rtol=0)
    assert told.labels[-32] == f"the storm: {DAYS[40]:%Y-%m-%d} to {DAYS[44]:%Y-%m-%d}"
    np.testing.assert_allclose([told.weights[-32:-16].sum(), told.weights[-16:].sum()], [0, 0.5], rtol=1e-12)


@pytest.mark.parametrize(
    ("stress", "said"),
    [
        ([{"name": "before", "from": date(2019, 1, 1), "to": date(2019, 2, 1)}], "holds 0 returns"),
        ([{**STORM, "to": DAYS[39].date()}], "is after"),
        ([{**STORM, "mass": 1.0}], "less than 1"),
        ([{**STORM, "mass": 0.5}, {**STORM, "name": "again", "mass": 0.5}], "reach 1"),
        ([STORM, STORM], "share a name"),
    ],
)
def test_a_window_that_cannot_be_is_refused(stress: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        seen(venue(), configured(scenarios={"stress": stress}))


def test_windows_without_mass_do_not_make_a_tail() -> None:
    """60 returns are refused at a tail of 1 %, and so they are with 60 more that carry no probability."""
    short = [row for row in paths() if row["time"] >= DAYS[-61]]
    tables = holding(venue(history=short), {"BTC-SPOT": 1.0})
    window = {"name": "all of it", "from": DAYS[-60].date(), "to": DAYS[-1].date()}
    for stress in ([], [window]):
        with pytest.raises(mx.BadInput, match="of a scenario"):
            margins(tables, configured(risk={"tail": 0.01}, scenarios={"least_bars": 2, "stress": stress}))


def test_one_seed_is_one_set_of_scenarios() -> None:
    tables = holding(venue((*LISTED, PERP), underlyings=NEW), {"NEW-SPOT": 1.0}, {"BTC-PERP": 1.0}, {"BTC-SPOT": 1.0})
    runs = [mx.margin_book(book(tables), market(tables), configured(), seed=seed) for seed in (7, 7, 8)]
    first, again, other = (run.margins for run in runs)
    digests = [run.manifest["scenarios"]["sha256"] for run in runs]
    assert again.equals(first)
    assert digests[0] == digests[1] != digests[2]
    moved = (other["initial_margin"] != first["initial_margin"]).to_list()
    # A coin with a history of its own has nothing to draw.
    assert moved == [True, True, False]


def test_a_listing_changes_no_margin_of_those_who_do_not_hold_it() -> None:
    """More contracts, a coin without history, and one with: on the same days, so that the calendar stays."""
    accounts = ({"BTC-SPOT": 1.0, "BTC-PERP": -2.0}, {"NEW-SPOT": 3.0, "ETH-SPOT": -1.0}, {"USDT-SPOT": 5.0})
    before = margins(holding(venue((*LISTED[:-1], PERP), underlyings=NEW[:1]), *accounts))
    sol = [{"time": day, "underlying": "SOL", "price": 20.0 + t % 7} for t, day in enumerate(DAYS)]
    more = (*LISTED, PERP, NEAR, FAR, COIN_PERP, contract("SOL-PERP", "perpetual", "SOL"))
    after = margins(
        holding(
            venue(more, underlyings=[*NEW, {"underlying": "SOL", "index_price": 22.0}], history=[*paths(), *sol]),
            *accounts,
        )
    )
    assert after.drop("initial_margin").columns == before.drop("initial_margin").columns
    for column in before.columns:
        if before[column].dtype == pl.Float64:
            # Another shape of the same arithmetic: the compiler may order a float64 product otherwise.
            np.testing.assert_allclose(after[column], before[column], rtol=1e-12, err_msg=column)
        else:
            assert after[column].equals(before[column]), column
