"""Numbers of simulated markets are found again, from starts far apart, within intervals as wide as they should be."""

import numpy as np
import pytest

from calibration._recovery import KEYS, TRUTH, fitted
from marginax_calibration.fitting.intervals import sandwich

MARKETS = 40


@pytest.mark.long
def test_starts_far_apart_find_one_optimum_and_the_truth_is_near() -> None:
    found = fitted(3, alpha=0.3, beta=0.5, others=[[0.03, 0.96]], with_intervals=True)
    assert found.agreed
    assert found.after["fitted"]["fz0"] < found.before["fitted"]["fz0"]
    assert found.intervals is not None
    for k, key in enumerate(KEYS):
        # Twice the interval is four standard errors.
        low, high = found.intervals.low[k], found.intervals.high[k]
        assert low < found.values[k] < high
        assert low - (high - low) / 2 < TRUTH[key] < high + (high - low) / 2, key


@pytest.mark.long
def test_starts_that_end_apart_are_said_to() -> None:
    """One step is too few to meet."""
    found = fitted(3, alpha=0.3, beta=0.5, others=[[0.03, 0.96]], steps=1)
    assert not found.agreed
    assert sorted(each.agrees for each in found.starts) == [False, True]
    assert max(each.distance for each in found.starts) > 0.5


def test_the_sandwich_is_that_of_a_mean() -> None:
    """The mean of n numbers has variance s^2 / n: slopes of (x - m)^2 / 2n are (m - x) / n, the curvature is one."""
    draws = np.random.default_rng(1).standard_normal(500) * 3
    pieces = (draws.mean() - draws)[:, None] / len(draws)
    covariance = sandwich(np.eye(1), pieces)
    assert covariance[0, 0] == pytest.approx(draws.var(ddof=1) / len(draws), rel=1e-9)
    assert np.isnan(sandwich(-np.eye(1), pieces)).all()


def test_what_data_say_nothing_of_has_no_interval_and_hides_no_other() -> None:
    pieces = np.random.default_rng(3).standard_normal((200, 2)) * [1.0, 0.0]
    covariance = sandwich(np.diag([2.0, 0.0]), pieces)
    alone = sandwich(np.diag([2.0]), pieces[:, :1])
    np.testing.assert_allclose(covariance[0, 0], alone[0, 0])
    assert np.isnan(covariance[1]).all()


@pytest.mark.long
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 40 markets the 95 % intervals of two numbers: 80 chances, of which 76 are expected."""
    inside = np.zeros(len(KEYS), int)
    estimates = []
    for seed in range(MARKETS):
        found = fitted(seed, alpha=0.15, beta=0.75, with_intervals=True)
        assert found.intervals is not None
        truth = np.array(list(TRUTH.values()))
        inside += (found.intervals.low <= truth) & (truth <= found.intervals.high)
        estimates.append(found.values)
    print(f"\ninside: {dict(zip(KEYS, inside.tolist(), strict=True))} of {MARKETS}")
    print(f"means: {np.mean(estimates, axis=0)}, standard deviations: {np.std(estimates, axis=0)}")
    # Binomial: 40 chances of 95 % are 33 or more with 99 %, 40 at most.
    assert (inside >= 33).all()
