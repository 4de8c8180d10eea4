"""Figures of a margin: the score at the truth, what losses beyond it cost, and how it runs with the cycle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from marginax_calibration.scores import costs, fz0, procyclicality
from reference import judgement

POSITIVE = st.floats(0.01, 100)


@pytest.mark.parametrize(("freedom", "tail"), [(5.0, 0.01), (1e9, 0.025)])
def test_fz0_is_least_where_both_forecasts_are_true(freedom: float, tail: float) -> None:
    # Every quantile once: the mean is the expectation, but for the last 1e-6 of the tail.
    loss = stats.t.ppf((np.arange(1_000_000) + 0.5) / 1_000_000, freedom)
    deep = loss[loss > 1]

    def mean(at: np.ndarray) -> float:
        # Losses below any VaR in question all score the same.
        calm = fz0(np.zeros(1), at[:1], at[1:], tail=tail)[0] * (len(loss) - len(deep))
        return float((fz0(deep, at[0], at[1], tail=tail).sum() + calm) / len(loss))

    var = stats.t.isf(tail, freedom)
    shortfall = loss[-round(tail * len(loss)) :].mean()
    found = optimize.minimize(
        mean, np.array([var * 0.8, shortfall * 1.3]), method="Nelder-Mead", options={"xatol": 1e-5}
    )
    assert found.x == pytest.approx([var, shortfall], abs=2e-4)


def test_fz0_is_what_is_printed_and_keeps_small_differences(rng: np.random.Generator) -> None:
    loss, var = rng.standard_normal(200), 1 + rng.random(200)
    shortfall = var * 1.2
    found = fz0(loss, var, shortfall, tail=0.1)
    assert found.dtype == np.float64
    rows = [judgement.Row(0, "", *each, 0.0) for each in zip(loss, var, shortfall, strict=True)]
    assert found == pytest.approx([judgement.score(row, 0.1) for row in rows], rel=1e-12)


def test_what_is_charged_and_what_is_not_covered() -> None:
    loss, charged = np.array([1.0, 5.0, -2.0, 9.0]), np.array([2.0, 3.0, 2.0, 5.0])
    figures = costs(loss, charged, np.array([1.0, 2.0, 3.0, 6.0]))
    assert figures == {"mean_fz0": 3.0, "mean_charged": 3.0, "mean_uncovered_loss": 1.5, "max_uncovered_loss": 4.0}


def test_a_margin_that_doubles_and_falls_back_by_hand() -> None:
    charged = np.array([2.0, 1.0, 1.5, 3.0, 2.5, 4.0, 2.0])
    figures = procyclicality(charged)
    assert figures == {
        "peak_to_trough": 4.0,
        "max_increase_1d": 1.0,  # 1.5 to 3
        "max_increase_5d": 1.0,  # 2 to 4, then 1 to 2
        "max_increase_20d": None,
    }


def test_a_fixed_margin_is_not_procyclical_at_all() -> None:
    assert procyclicality(np.full(30, 0.2)) == {
        "peak_to_trough": 1.0, "max_increase_1d": 0.0, "max_increase_5d": 0.0, "max_increase_20d": 0.0,
    }  # fmt: skip


def test_one_day_has_no_increase_and_nothing_charged_has_no_ratio() -> None:
    assert procyclicality(np.array([0.1])) == {
        "peak_to_trough": 1.0, "max_increase_1d": None, "max_increase_5d": None, "max_increase_20d": None,
    }  # fmt: skip
    assert set(procyclicality(np.array([0.0, 0.1, 0.2])).values()) == {None}


@given(st.lists(POSITIVE, min_size=2, max_size=40), POSITIVE)
def test_procyclicality_knows_no_currency(charged: list[float], rate: float) -> None:
    own, other = (list(procyclicality(np.array(charged) * each).values()) for each in (1, rate))
    known = [each is not None for each in own]
    assert known == [each is not None for each in other]
    assert [each for each in other if each is not None] == pytest.approx([each for each in own if each is not None])


@given(st.lists(POSITIVE, min_size=2, max_size=40))
def test_no_increase_is_beyond_peak_over_trough(charged: list[float]) -> None:
    figures = procyclicality(np.array(charged))
    peak = figures.pop("peak_to_trough")
    assert peak is not None
    assert all(each is None or each <= (peak - 1) * (1 + 1e-12) + 1e-12 for each in figures.values())


@given(st.lists(st.tuples(st.floats(-10, 10), POSITIVE), min_size=1, max_size=20))
def test_charging_more_never_leaves_more_uncovered(days: list[tuple[float, float]]) -> None:
    loss, charged = (np.array(each) for each in zip(*days, strict=True))
    less, more = (costs(loss, each, np.zeros(len(loss))) for each in (charged, charged * 1.5))
    for name in ("mean_uncovered_loss", "max_uncovered_loss"):
        assert more[name] <= less[name]
