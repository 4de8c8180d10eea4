"""Parameters of filters from history: against `arch`, on series of known truth, and what is refused."""

import numpy as np
import pytest
from arch import arch_model
from arch.univariate import HARX

from marginax.config import parse_config
from marginax_calibration.volatility_fits import garch_parameters, har_weights


def simulated(rng: np.random.Generator, bars: int, *, alpha: float, beta: float, freedom: float) -> np.ndarray:
    """Returns of a GARCH(1,1) with variance 1 in the long run and Student t innovations."""
    draws = rng.standard_t(freedom, bars) * np.sqrt((freedom - 2) / freedom)
    returns, variance = np.empty(bars), 1.0
    for t, draw in enumerate(draws):
        returns[t] = np.sqrt(variance) * draw
        variance = (1 - alpha - beta) + alpha * returns[t] ** 2 + beta * variance
    return returns


def realised(rng: np.random.Generator, days: int) -> np.ndarray:
    """Realised variance that is long in memory and never far from one."""
    path = [1.0] * 22
    for _ in range(days):
        mean = 0.15 + 0.4 * path[-1] + 0.25 * np.mean(path[-5:]) + 0.2 * np.mean(path[-22:])
        path.append(mean * rng.gamma(8, 1 / 8))
    return np.array(path[22:])


def test_garch_with_t_innovations_is_that_of_arch_in_any_unit(rng: np.random.Generator) -> None:
    returns = np.stack([simulated(rng, 2_000, alpha=0.1, beta=0.85, freedom=5.0) for _ in range(2)], axis=1)
    found, scaled = garch_parameters(returns), garch_parameters(returns / 50)
    assert found.converged.all()
    for k in range(2):
        fit = arch_model(returns[:, k], mean="Zero", vol="GARCH", dist="t", rescale=False).fit(disp="off")
        _, alpha, beta, freedom = fit.params
        # Both stop at a maximum that is flat to the fourth digit.
        assert found.alpha[k] == pytest.approx(alpha, abs=2e-3)
        assert found.beta[k] == pytest.approx(beta, abs=2e-3)
        assert found.freedom[k] == pytest.approx(freedom, rel=0.01)
    np.testing.assert_allclose(scaled.alpha, found.alpha, atol=1e-5)
    np.testing.assert_allclose(scaled.freedom, found.freedom, rtol=1e-4)


def test_har_weights_are_those_of_least_squares_where_none_is_negative(rng: np.random.Generator) -> None:
    series = realised(rng, 3_000)
    theirs = HARX(series, lags=[1, 5, 22], rescale=False).fit(disp="off").params.to_numpy()[:4]
    assert (theirs > 0).all()
    np.testing.assert_allclose(har_weights(series), theirs[1:], atol=1e-9)


def test_har_weights_are_never_negative_and_fit_a_configuration(rng: np.random.Generator) -> None:
    weights = har_weights(rng.gamma(0.5, 2.0, 400))
    assert (weights >= 0).all()
    daily, weekly, monthly = weights.tolist()
    told = {"kind": "har", "daily": daily, "weekly": weekly, "monthly": monthly}
    assert parse_config({"filter": told}, "test").filter.kind == "har"


@pytest.mark.parametrize("series", [np.ones(43), np.append(np.ones(60), np.nan)], ids=["short", "with a hole"])
def test_what_tells_no_weights_is_refused(series: np.ndarray) -> None:
    with pytest.raises(ValueError, match="days tell no weights"):
        har_weights(series)
