"""Tests of many portfolios at once: what they do with right models, with wrong ones, and where little is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calibration._venue_days import TAIL, Days, forecast, table, venue_days, weights
from marginax_calibration import coverage
from marginax_calibration.backtests import TESTS, judge
from marginax_calibration.comparison import diebold_mariano
from marginax_calibration.pooled import Pool, likelihood_root, pooled_tests
from marginax_calibration.shortfall_tests import acerbi_szekely, beyond, mixture

PORTFOLIOS = 27


def figures_of(days: Days, *, seed: int = 7, late: int = 0) -> dict[str, Any]:
    """The pooled tests of one model; every third portfolio begins `late` days later."""
    alive = np.ones(days.loss.T.shape, bool)
    alive[::3, :late] = False
    portfolio, day = np.nonzero(alive)
    loss, var, shortfall = (each.T[alive] for each in days)
    breach = loss > var
    law = mixture(var / shortfall, tail=TAIL)[None]
    severity = np.where(breach, loss / shortfall, 0.0)
    return pooled_tests(Pool(day, portfolio, seed), breach[None], severity[None], law, tail=TAIL)[0]


def rejections(figures: list[dict[str, Any]]) -> dict[str, float]:
    return {test: float(np.mean([each[f"{test}_p"] <= 0.05 for each in figures])) for test in TESTS}


def short_by(days: Days, share: float | np.ndarray) -> Days:
    return Days(days.loss, days.var * share, days.shortfall * share)


def constant(days: Days) -> Days:
    """The right VaR and ES of the whole period, whatever the volatility of the day."""
    var = np.quantile(days.loss, 1 - TAIL, axis=0)
    worst = np.where(days.loss > var, days.loss, 0)
    shortfall = worst.sum(0) / np.maximum((days.loss > var).sum(0), 1)
    return Days(days.loss, *(np.broadcast_to(each, days.loss.shape) for each in (var, shortfall)))


@pytest.mark.parametrize(("freedom", "late"), [(5.0, 0), pytest.param(np.inf, 200, marks=pytest.mark.long)])
def test_right_models_are_rejected_as_often_as_said_though_crashes_are_shared(freedom: float, late: int) -> None:
    rng = np.random.default_rng(21)
    runs = [venue_days(rng, 500, freedom=freedom) for _ in range(200)]
    found = rejections([figures_of(days, seed=seed, late=late) for seed, days in enumerate(runs)])
    # 5 % of 200 runs has a standard error of 1.5 %.
    assert all(size <= 0.05 + 3 * 0.0155 for size in found.values()), found
    assert all(size >= 0.01 for size in found.values()), found
    # As if 27 portfolios were 27 markets:
    naive = [coverage.kupiec(days.loss.size, int((days.loss > days.var).sum()), tail=TAIL).p for days in runs]
    assert np.mean(np.array(naive) < 0.05) > 0.1


def test_half_of_what_is_needed_is_rejected_by_every_test_of_counts_and_of_shortfall() -> None:
    rng = np.random.default_rng(22)
    found = rejections([figures_of(short_by(venue_days(rng, 500), 0.5)) for _ in range(20)])
    assert {found[test] for test in TESTS if test != "independence"} == {1.0}
    assert found["independence"] < 0.3


def test_a_fifth_too_little_is_found_by_counts_over_many_portfolios() -> None:
    rng = np.random.default_rng(23)
    found = [figures_of(short_by(venue_days(rng, 1_000), 0.8)) for _ in range(20)]
    assert rejections(found)["kupiec_one_sided"] > 0.95
    assert rejections(found)["z2"] > 0.95
    assert {each["basel_zone"] for each in found} <= {"yellow", "red"}


def test_a_margin_that_ignores_clusters_of_volatility_fails_independence_and_nothing_else() -> None:
    rng = np.random.default_rng(24)
    found = rejections([figures_of(constant(venue_days(rng, 2_000, clustered=True))) for _ in range(20)])
    assert found["independence"] > 0.8
    assert found["conditional_coverage"] > 0.8
    assert max(found[test] for test in ("kupiec", "kupiec_one_sided", "z1", "z2")) == 0


def test_the_right_model_scores_better_than_one_that_charges_too_little_or_too_much() -> None:
    truth = venue_days(np.random.default_rng(28), 1_500)
    models = {"right": truth, "low": short_by(truth, 0.7), "high": short_by(truth, 1.5)}
    pooled = judge(table(models, weights()[1]))["pooled"]
    assert min(pooled, key=lambda model: float(pooled[model]["mean_fz0"])) == "right"
    assert max(pooled["right"]["dm_p"].values()) < 0.01


@pytest.mark.long
@pytest.mark.parametrize(
    ("days", "freedom", "clustered"), [(500, np.inf, False), (1_000, 5.0, True), (2_000, 5.0, True)]
)
def test_sizes_over_a_thousand_simulations(days: int, freedom: float, clustered: bool) -> None:
    rng = np.random.default_rng(25)
    kinds = weights()[1]
    right, single, equal = [], [], []
    for seed in range(1_000):
        truth = venue_days(rng, days, freedom=freedom, clustered=clustered)
        noisy = {name: short_by(truth, slow(rng, days)) for name in ("one", "two")}
        judged = judge(table({"right": truth, **noisy}, kinds), seed=seed)
        right.append(judged["pooled"]["right"])
        single += [models["right"] for models in judged["portfolios"].values()]
        equal.append(judged["pooled"]["one"]["dm_p"]["two"])
    pooled = rejections(right)
    print(f"\n{days} days, freedom {freedom}: pools {pooled}, portfolios {rejections(single)}")
    # 5 +- 1.5 %, and three standard errors of 0.7 % that a simulation of 1,000 runs has.
    assert all(0.035 - 0.021 <= size <= 0.065 + 0.021 for size in pooled.values()), pooled
    assert 0.02 <= np.mean(np.array(equal) <= 0.05) <= 0.065 + 0.021
    # Runs share nothing, portfolios of a run do; independence is careful below 1,000 days.
    assert all(0.015 <= size <= 0.065 for size in rejections(single).values()), rejections(single)


def slow(rng: np.random.Generator, days: int) -> np.ndarray:
    """A factor that wanders off by a fifth, for weeks on end."""
    noise, level = rng.standard_normal(days) * 0.2 * np.sqrt(1 - 0.95**2), np.zeros(days)
    for day in range(1, days):
        level[day] = 0.95 * level[day - 1] + noise[day]
    return np.exp(level)[:, None]


def test_equal_models_differ_as_often_as_they_should_though_they_differ_for_weeks() -> None:
    rng = np.random.default_rng(26)
    moves = np.zeros((1_000, 1_000))
    noise = rng.standard_normal((1_000, 1_000))
    for day in range(1, 1_000):
        moves[:, day] = 0.9 * moves[:, day - 1] + noise[:, day]
    size = np.mean(diebold_mariano(moves) < 0.05)
    assert 0.035 <= size <= 0.065 + 0.014, size
    # With fewer than 13 days it is the t-test.
    few = rng.standard_normal((5, 12))
    assert diebold_mariano(few) == pytest.approx(stats.ttest_1samp(few, 0, axis=1).pvalue)


@given(days=st.integers(2, 400), breaches=st.integers(1, 400), tail=st.floats(0.001, 0.5))
def test_of_one_portfolio_the_likelihood_ratio_is_that_of_kupiec(days: int, breaches: int, tail: float) -> None:
    breach = np.arange(days) < min(breaches, days - 1)
    root = likelihood_root(breach - tail)
    assert root**2 == pytest.approx(coverage.kupiec(days, int(breach.sum()), tail=tail).statistic, rel=1e-6, abs=1e-9)
    assert np.sign(root) == np.sign(breach.mean() - tail) or root == pytest.approx(0, abs=1e-6)


@given(st.lists(st.floats(-1, 3), min_size=2, max_size=30), st.floats(0.001, 1000))
def test_no_unit_changes_a_likelihood_and_a_mirror_its_sign(values: list[float], unit: float) -> None:
    days = np.round(values, 6)
    root = likelihood_root(days)
    assert likelihood_root(days * unit) == pytest.approx(root, rel=1e-6, abs=1e-6)
    assert likelihood_root(-days) == pytest.approx(-root, rel=1e-6, abs=1e-6)


def test_days_on_one_side_of_the_mean_leave_no_likelihood() -> None:
    assert likelihood_root(np.array([0.5, 0.1])) == np.inf
    assert likelihood_root(np.array([-0.5, 0.0])) == -np.inf
    assert likelihood_root(np.zeros(3)) == 0


def test_few_days_with_breaches_count_as_those_of_one_portfolio() -> None:
    calm = np.zeros((600, PORTFOLIOS))
    calm[[5, 80, 300]] = 1.3
    found = figures_of(Days(calm, np.full_like(calm, 1.0), np.full_like(calm, 1.2)))
    assert found["kupiec_p"] == pytest.approx(coverage.kupiec(600, 3, tail=TAIL).p)
    assert found["kupiec_one_sided_p"] == 1.0
    one = acerbi_szekely(calm[:, 0], np.full(600, 1.0), np.full(600, 1.2), tail=TAIL, simulations=40_000)
    assert (found["z1"], found["z2"]) == pytest.approx((one.z1, one.z2))
    # A standard error of 0.0025.
    assert (found["z1_p"], found["z2_p"]) == pytest.approx((one.z1_p, one.z2_p), abs=0.01)


@pytest.mark.parametrize(("freedom", "days"), [(1.8, 1_000), (3.0, 250), (5.0, 3_650), (np.inf, 1_000)])
def test_convolved_laws_of_severity_are_those_that_are_simulated(freedom: float, days: int) -> None:
    rng = np.random.default_rng(27)
    var, shortfall = forecast(freedom)
    level = np.exp(0.3 * rng.standard_normal(days))
    loss = level * (rng.standard_normal(days) if np.isinf(freedom) else rng.standard_t(freedom, days))
    # Ratios of ES to VaR of several laws, some beyond those of Student's.
    ratio = 1 + (shortfall / var - 1) * rng.choice([0.6, 1.0, 1.3], days)
    forecasts = level * var, level * var * ratio
    drawn = acerbi_szekely(loss, *forecasts, tail=TAIL, simulations=40_000)
    breach = loss > forecasts[0]
    total = np.array([(loss / forecasts[1])[breach].sum()])
    law = mixture(forecasts[0] / forecasts[1], tail=TAIL)[None]
    for p, count, chance in ((drawn.z1_p, breach.sum(), 1.0), (drawn.z2_p, days, TAIL)):
        found = beyond(total, np.array([count]), law, chance=chance, tail=TAIL)[0]
        # Three and a half standard errors of the simulation, 0.0025, and 0.001 of the grid.
        assert found == pytest.approx(p, abs=0.01)


def test_one_breach_is_as_severe_as_the_law_says() -> None:
    var, shortfall = forecast(4.0)
    law = np.repeat(mixture(np.full(9, var / shortfall), tail=TAIL)[None], 4, 0)
    probability = np.array([0.9, 0.5, 0.1, 0.01])
    total = stats.t.isf(TAIL * probability, 4.0) / shortfall
    found = beyond(total, np.ones(4, np.int64), law, chance=1.0, tail=TAIL)
    assert found == pytest.approx(probability, abs=5e-4)
    # No loss at all, or more, is certain.
    assert beyond(np.zeros(1), np.array([9]), law[:1], chance=TAIL, tail=TAIL)[0] == 1
