"""Backtests of expected shortfall, and scores: their size, their power, and where they are least."""

import jax
import numpy as np
import pytest
from scipy import optimize, stats

from marginax_calibration.comparison import diebold_mariano
from marginax_calibration.shortfall_tests import acerbi_szekely
from marginax_kernels import fissler_ziegel, pinball

DAYS, TAIL, RUNS = 1_000, 0.01, 3_000


def forecast(freedom: float) -> tuple[float, float]:
    """VaR and ES of a Student law (infinite freedom: normal)."""
    if np.isinf(freedom):
        var = stats.norm.isf(TAIL)
        return var, stats.norm.pdf(var) / TAIL
    var = stats.t.isf(TAIL, freedom)
    return var, stats.t.pdf(var, freedom) * (freedom + var**2) / ((freedom - 1) * TAIL)


def drawn(rng: np.random.Generator, freedom: float) -> np.ndarray:
    return rng.standard_normal(DAYS) if np.isinf(freedom) else rng.standard_t(freedom, DAYS)


LONG = pytest.mark.long


@pytest.mark.parametrize("freedom", [pytest.param(3.0, marks=LONG), 5.0, pytest.param(np.inf, marks=LONG)])
def test_tests_of_shortfall_have_their_size_under_any_law(freedom: float) -> None:
    rng = np.random.default_rng(5)
    var, shortfall = (np.full(DAYS, each) for each in forecast(freedom))
    p = [
        acerbi_szekely(drawn(rng, freedom), var, shortfall, tail=TAIL, simulations=999, seed=run) for run in range(RUNS)
    ]
    for name in ("z1_p", "z2_p"):
        size = np.mean([getattr(each, name) <= 0.05 for each in p])
        # 5 % has a standard error of 0.4 % over 3,000 runs.
        assert 0.035 <= size <= 0.065, (name, size)


def test_critical_values_are_those_that_were_simulated_elsewhere() -> None:
    # 200,000 runs at a tail of 0.01 over 250 days: 5 % of right normal models are below -1.12, of t(3) below -1.31.
    for freedom, critical in ((np.inf, -1.12), (3.0, -1.31)):
        var, shortfall = (np.full(250, each) for each in forecast(freedom))
        loss = np.zeros(250)
        loss[0] = (1 - critical) * 250 * TAIL * shortfall[0]
        assert acerbi_szekely(loss, var, shortfall, tail=TAIL, simulations=100_000).z2_p == pytest.approx(
            0.05, abs=0.005
        )


def test_a_model_that_charges_half_is_rejected_by_both() -> None:
    rng = np.random.default_rng(6)
    var, shortfall = (np.full(DAYS, each / 2) for each in forecast(5.0))
    found = acerbi_szekely(drawn(rng, 5.0), var, shortfall, tail=TAIL, simulations=2_000)
    assert (found.z1_p < 0.05, found.z2_p < 0.001) == (True, True)
    assert found.z2 < -3


def test_no_breach_says_nothing_of_what_a_breach_costs() -> None:
    var, shortfall = np.full(50, 2.0), np.full(50, 2.5)
    found = acerbi_szekely(np.zeros(50), var, shortfall, tail=TAIL, simulations=500)
    assert np.isnan(found.z1)
    assert (found.z1_p, found.z2) == (1.0, 1.0)
    with pytest.raises(ValueError, match="not below value at risk"):
        acerbi_szekely(np.zeros(50), var, var - 1, tail=TAIL)


def test_the_joint_score_is_least_at_the_true_figures() -> None:
    with jax.enable_x64(True):
        loss = np.random.default_rng(7).standard_normal(400_000)
        mean = jax.jit(jax.value_and_grad(lambda at: fissler_ziegel(loss, at[0], at[1], tail=0.025).mean()))
        found = optimize.minimize(
            lambda at: tuple(np.asarray(each, float) for each in mean(at)),
            np.array([1.5, 2.0]),
            jac=True,
            method="BFGS",
        ).x
    # The truth is (1.960, 2.338); 400,000 draws know it to 0.005.
    assert found == pytest.approx([1.95996, 2.33780], abs=0.015)
    assert np.isnan(float(fissler_ziegel(1.0, 1.0, -0.5, tail=0.01)))


def test_scores_by_hand() -> None:
    # A loss of 5 beyond 2, ES of 4: 3 / (0.1 x 4) + 2 / 4 + log 4 - 1.
    assert float(fissler_ziegel(5.0, 2.0, 4.0, tail=0.1)) == pytest.approx(7.5 + 0.5 + np.log(4) - 1)
    assert float(fissler_ziegel(1.0, 2.0, 4.0, tail=0.1)) == pytest.approx(0.5 + np.log(4) - 1)
    assert float(pinball(5.0, 2.0, tail=0.1)) == pytest.approx(2.7)
    assert float(pinball(1.0, 2.0, tail=0.1)) == pytest.approx(0.1)


def test_equal_forecasts_differ_as_often_as_they_should() -> None:
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((RUNS, DAYS + 1))
    moving = noise[:, 1:] + 0.4 * noise[:, :-1]
    size = np.mean([diebold_mariano(each) < 0.05 for each in moving])
    assert 0.035 <= size <= 0.065, size
    assert diebold_mariano(moving[0] + 0.3) < 1e-4
    assert diebold_mariano(np.zeros(10)) == 1
    assert diebold_mariano(np.full(10, 0.3)) == 0
    with pytest.raises(ValueError, match="two or more"):
        diebold_mariano(np.zeros(1))
