"""Reliability of scores: against a loop, on scores that are the true probabilities, and on some that are not."""

from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginax_calibration.reliability import EDGES, Reliability, reliability
from reference import score as twin

DAYS, ACCOUNTS = 1_500, 40


@cache
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, scores, and failures of exactly those probabilities, which accounts of a day share half of by chance.

    Scores follow a slow path, as volatility makes them do; failures of a day come from one factor of the day.
    """
    rng = np.random.default_rng(5)
    path = np.zeros(DAYS)
    for day in range(1, DAYS):
        path[day] = 0.95 * path[day - 1] + 0.2 * rng.standard_normal()
    score = stats.norm.cdf(-2.0 + path[:, None] + rng.uniform(-0.8, 0.8, ACCOUNTS))
    factor = np.sqrt(0.5) * rng.standard_normal((DAYS, 1)) + np.sqrt(0.5) * rng.standard_normal((DAYS, ACCOUNTS))
    failed = factor < stats.norm.ppf(score)
    return np.repeat(np.arange(DAYS), ACCOUNTS), score.ravel(), failed.ravel()


@cache
def true() -> Reliability:
    return reliability(*drawn())


@given(seed=st.integers(0, 1_000), count=st.integers(3, 60))
def test_bins_and_the_parts_of_the_brier_score_are_what_a_loop_finds(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    score = np.where(rng.random(count) < 0.2, rng.choice(EDGES, count), rng.random(count) ** 3)
    failed = rng.random(count) < score
    found = reliability(np.arange(count), score, failed, block=1, resamples=2)
    wanted = twin.brier(score, failed, EDGES)
    for name in ("brier", "uncertainty", "reliability", "resolution"):
        assert getattr(found, name) == pytest.approx(wanted[name], abs=1e-12), name
    assert found.brier == pytest.approx(found.reliability - found.resolution + found.uncertainty, abs=1e-12)
    bins = {each["low_edge"]: (each["rows"], each["mean_score"], each["failed"]) for each in found.bins.to_dicts()}
    assert bins == {low: pytest.approx(each) for low, each in wanted["bins"].items()}


def test_scores_that_are_true_are_within_their_intervals() -> None:
    found = true()
    assert found.bins["rows"].sum() == found.rows == DAYS * ACCOUNTS
    # Nine bins at 95 %, which share their days: one may miss.
    assert found.bins.height >= 8
    assert found.bins["consistent"].sum() >= found.bins.height - 1
    low, high = found.failed_interval
    assert low <= found.mean_score <= high
    assert found.reliability < 0.05 * found.resolution
    assert found.skill_interval[0] > 0


def test_scores_that_promise_too_little_are_found_out() -> None:
    day, score, failed = drawn()
    found = reliability(day, score / 3, failed)
    some = found.bins.filter(pl.col("failing_days") >= 100)
    assert some.height >= 4
    assert not some["consistent"].any()
    assert (some["low"] > some["mean_score"]).all()
    assert found.reliability > 10 * true().reliability
    assert found.skill < true().skill
    # Scaled scores tell accounts apart as well as before.
    assert found.resolution == pytest.approx(true().resolution, rel=0.25)


def test_one_number_for_all_has_no_skill() -> None:
    day, _, failed = drawn()
    found = reliability(day, np.full(len(failed), failed.mean()), failed)
    assert found.skill == pytest.approx(0, abs=1e-12)
    assert found.resolution == pytest.approx(0, abs=1e-12)


def test_accounts_that_fail_together_tell_less_than_their_number() -> None:
    """Independent rows would promise an interval several times too narrow."""
    low, high = true().failed_interval
    alone = np.sqrt(true().uncertainty / true().rows)
    assert (high - low) / (2 * 1.96 * alone) > 3
    # Days in random order, one at a time: what is left is the dependence within a day.
    day, score, failed = drawn()
    by_day = reliability(day, score, failed, block=1).failed_interval
    assert high - low > by_day[1] - by_day[0] > 2 * 1.96 * alone


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Forty histories of 400 days and one probability: at 95 % two misses are expected, and six are 1.4 % likely."""
    rng, misses = np.random.default_rng(9), 0
    for _ in range(40):
        common = rng.standard_normal((400, 1)) + rng.standard_normal((400, 20))
        failed = common / np.sqrt(2) < stats.norm.ppf(0.05)
        day, score = np.repeat(np.arange(400), 20), np.full(8_000, 0.05)
        misses += not reliability(day, score, failed.ravel(), block=5, resamples=299).bins["consistent"].item()
    assert misses <= 6


def test_few_failing_days_get_the_exact_interval_of_a_single_account() -> None:
    day = np.repeat(np.arange(100), 5)
    none = reliability(day, np.full(500, 0.002), np.zeros(500, bool)).bins.row(0, named=True)
    assert (none["failed"], none["failing_days"], none["low"]) == (0, 0, 0)
    assert none["high"] == pytest.approx(1 - 0.025 ** (1 / 100))
    some = np.zeros(500, bool)
    some[:5] = True  # all accounts of one day
    one = reliability(day, np.full(500, 0.002), some).bins.row(0, named=True)
    assert one["failed"] == 0.01
    assert one["low"] == pytest.approx(1 - 0.975 ** (1 / 100))
    assert one["consistent"]
    every = reliability(np.arange(5), np.full(5, 0.9), np.ones(5, bool), block=1).bins.row(0, named=True)
    assert every["high"] == 1


def test_no_order_of_rows_matters_and_the_seed_settles_the_intervals() -> None:
    day, score, failed = (each[:4_000] for each in drawn())
    order = np.random.default_rng(1).permutation(len(day))
    one, other = (
        reliability(*each, resamples=99) for each in ((day, score, failed), (day[order], score[order], failed[order]))
    )
    assert one.bins.equals(other.bins) or np.allclose(one.bins["high"], other.bins["high"], rtol=1e-12)
    assert one.skill_interval == pytest.approx(other.skill_interval, rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "options", "said"),
    [
        ([0.1, np.nan], {}, "must be probabilities"),
        ([0.1, 1.2], {}, "must be probabilities"),
        ([-0.1, 0.2], {}, "must be probabilities"),
        ([], {}, "must be probabilities"),
        ([0.1, 0.2], {"edges": (0.0, 0.5)}, "must rise from 0 to 1"),
        ([0.1, 0.2], {"edges": (0.0, 0.5, 0.5, 1.0)}, "must rise from 0 to 1"),
        ([0.1, 0.2], {"block": 3}, "does not fit 2 days"),
    ],
)
def test_what_is_no_score_is_refused(scores: list[float], options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reliability(np.arange(len(scores)), np.array(scores), np.zeros(len(scores), bool), **options)
