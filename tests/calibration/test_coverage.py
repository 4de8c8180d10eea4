"""Backtests of value at risk: exact against enumeration, of the right size, and strict with wrong models."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from marginax_calibration import coverage
from marginax_calibration.comparison import rejected

DAYS, TAIL, RUNS = 1_000, 0.01, 1_000


def breaches(days: int, which: tuple[int, ...]) -> np.ndarray:
    breach = np.zeros(days, bool)
    breach[list(which)] = True
    return breach


def clustered(rng: np.random.Generator, days: int) -> np.ndarray:
    """One breach in a hundred days in all, and one in three days after one."""
    breach = np.zeros(days, bool)
    for day in range(1, days):
        breach[day] = rng.random() < (1 / 3 if breach[day - 1] else TAIL * (2 / 3) / (1 - TAIL))
    return breach


@pytest.mark.parametrize(("days", "count"), [(7, 1), (8, 3), (9, 5), (6, 5)])
def test_the_law_of_independence_is_that_of_all_orders(days: int, count: int) -> None:
    ratios = np.array(
        [
            coverage.independence_ratio(coverage.transitions(breaches(days, which)))
            for which in combinations(range(days), count)
        ]
    )
    found, probability = coverage._ratios_given(days, count)
    assert probability.sum() == pytest.approx(1)
    for ratio in np.unique(ratios.round(9)):
        assert probability[np.abs(found - ratio) < 1e-8].sum() == pytest.approx(np.mean(np.abs(ratios - ratio) < 1e-8))


def test_conditional_coverage_is_exact_over_every_sequence() -> None:
    days, tail = 9, 0.3
    every = [breaches(days, which) for count in range(days + 1) for which in combinations(range(days), count)]
    mass = np.array([tail ** each.sum() * (1 - tail) ** (days - each.sum()) for each in every])
    ratio = np.array([coverage.conditional_coverage(each, tail=tail).statistic for each in every])
    for each, own in zip(every[::37], ratio[::37], strict=True):
        p = coverage.conditional_coverage(each, tail=tail).p
        assert p == pytest.approx(min(1.0, mass[ratio >= own - 1e-9].sum()), rel=1e-8)


def test_kupiec_is_exact_and_known() -> None:
    # By the chi-square law no breach in 250 days rejects, and eight in a hundred right models have none.
    none = coverage.kupiec(250, 0, tail=TAIL)
    assert none.statistic == pytest.approx(5.025, abs=1e-3)
    assert none.p > 0.05
    p = [coverage.kupiec(250, count, tail=TAIL).p for count in (2, 5, 8)]
    assert p == sorted(p, reverse=True)
    assert coverage.kupiec_one_sided(250, 0, tail=TAIL) == 1
    assert coverage.kupiec_one_sided(250, 7, tail=TAIL) == pytest.approx(stats.binom.sf(6, 250, TAIL))


@pytest.mark.parametrize(
    ("days", "tail", "yellow", "red"),
    [(250, 0.01, 5, 10), (500, 0.01, 9, 15), (750, 0.01, 12, 20), (1_000, 0.01, 15, 24), (250, 0.005, 3, 7)],
)
def test_zones_begin_where_basel_says(days: int, tail: float, yellow: int, red: int) -> None:
    zones = [coverage.basel_zone(days, k, tail=tail) for k in range(red + 2)]
    assert zones == ["green"] * yellow + ["yellow"] * (red - yellow) + ["red"] * 2


def test_every_test_of_a_right_model_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    found = np.zeros(4)
    for breach in rng.random((RUNS, DAYS)) < TAIL:
        count = int(breach.sum())
        found += np.array(
            [
                coverage.kupiec(DAYS, count, tail=TAIL).p,
                coverage.kupiec_one_sided(DAYS, count, tail=TAIL),
                coverage.independence(breach).p,
                coverage.conditional_coverage(breach, tail=TAIL).p,
            ]
        ) < 0.05  # fmt: skip
    # Counts are coarse, so that exact sizes are 3.8 to 4.9 %; a share of 1,000 runs has a standard error of 0.7 %.
    assert ((found / RUNS > 0.035 - 0.007) & (found / RUNS < 0.065)).all(), found / RUNS


def test_what_the_chi_square_law_makes_of_250_days() -> None:
    """The claim that exact p-values are for: it rejects 9.5 % of right models at 5 %, ours never more than 5 %."""
    count = np.arange(251)
    ratio = np.array([coverage.kupiec(250, k, tail=TAIL).statistic for k in count[:40]])
    mass = stats.binom.pmf(count, 250, TAIL)[:40]
    assert mass[ratio > stats.chi2.isf(0.05, 1)].sum() == pytest.approx(0.095, abs=0.001)
    assert mass[[coverage.kupiec(250, k, tail=TAIL).p < 0.05 for k in range(40)]].sum() <= 0.05


def test_independence_is_careful_where_breaches_are_few() -> None:
    rng = np.random.default_rng(9)
    size = np.mean([coverage.independence(breach).p < 0.05 for breach in rng.random((4_000, 500)) < TAIL])
    assert size == pytest.approx(0.03, abs=0.009)


def test_a_model_that_charges_half_or_clusters_is_found_out() -> None:
    rng = np.random.default_rng(3)
    half = stats.t.sf(stats.t.isf(TAIL, 5) / 2, 5)
    assert coverage.kupiec(DAYS, round(half * DAYS), tail=TAIL).p < 1e-6
    assert coverage.kupiec_one_sided(DAYS, round(half * DAYS), tail=TAIL) < 1e-6
    assert np.mean([coverage.independence(clustered(rng, 2_000)).p < 0.05 for _ in range(200)]) > 0.9


def test_p_values_are_the_same_every_time_and_breaches_that_never_meet_are_no_cluster() -> None:
    apart = breaches(500, (10, 90, 200, 470))
    assert coverage.independence(apart).p == 1
    meet = breaches(500, (10, 11, 200, 470))
    assert coverage.independence(meet).p == coverage.independence(meet.copy()).p < 0.05
    assert coverage.independence(np.zeros(10, bool)).p == 1
    assert coverage.transitions(np.zeros(0, bool)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("days", "count", "tail"), [(0, 0, 0.01), (10, 11, 0.01), (10, -1, 0.01), (10, 1, 0.0), (10, 1, 1.0)]
)
def test_counts_that_are_none_are_refused(days: int, count: int, tail: float) -> None:
    with pytest.raises(ValueError, match=r"Count breaches|Use the small one"):
        coverage.kupiec(days, count, tail=tail)


def test_false_discoveries_are_controlled() -> None:
    rng = np.random.default_rng(4)
    share = [rejected(rng.random(100)).any() for _ in range(2_000)]
    assert np.mean(share) == pytest.approx(0.05, abs=0.015)
    assert rejected(np.array([1e-6, 0.5, 0.9])).tolist() == [True, False, False]
    assert not len(rejected(np.zeros(0)))
