"""Gradients of total expected shortfall through Monte Carlo: filter, correlations, draws, repricing and tail.

Correlated draws come from a root of the correlation matrix whose columns are its principal components. Normals do not
feel a rotation, so the gradient holds it where it is (`principal_root`): on one set of points it is the finite
difference with the rotation held, and in the mean over sets the finite difference of the whole.
"""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marginax as mx
from laws._history import configured
from laws._options import holding, market
from marginax.engine.tiles import build, cut
from marginax.exposures import expose
from marginax.scenarios import monte_carlo
from marginax.scenarios.filtering import factor_arrays
from marginax_kernels import principal_root
from test_stress_events import tables

BOOKS = {
    "spread": {"BTC-SPOT": 1.0, "ETH-SPOT": -8.0},
    "proxied against its proxy": {"NEW-SPOT": 100.0, "BTC-SPOT": -1.2},
    "vega": {"BTC-C": -1.0, "BTC-SPOT": 0.5},
    "oil": {"OIL-FUT": -2.0},
}
# The numbers whose slopes are asked for: two of the correlations, two of the filter.
LEAVES = ("correlation_half_life_days", "shrinkage", "half_life_days", "safety_factor")


def leaves(model: Any) -> list[Any]:
    """The same, where the model keeps them."""
    main, volatility = model.source.main, model.source.volatility
    return [main.correlation_half_life_days, main.shrinkage, volatility.model.half_life_days, volatility.safety_factor]


@cache
def subject(marginals: str) -> tuple[Any, ...]:
    """Model, history, exposures, draws and tiles of the four accounts. Without a floor the half-life has its effect."""
    law = {"draws": 512, "copula_freedom": 5.0, "marginal_freedom": 5.0, "marginals": marginals}
    scenarios = {"source": "monte_carlo", "volatility_floor": 0.0}
    model = mx.load_model(configured(scenarios=scenarios, monte_carlo=law))
    at = holding(tables(), BOOKS)
    held = mx.read_book(**{name: at[name] for name in ("instruments", "positions", "balances")})
    known = market(at)
    history = model.factors(known, held.instruments)
    exposures = expose(held, known, history)
    parts = cut(exposures, np.arange(len(held)), tile_rows=64, scenarios=512)
    return model, history, exposures, model.draw(7, history), [build(exposures, part, np.float64) for part in parts]


def total(marginals: str, numbers: jax.Array, draws: Any) -> jax.Array:
    """The sum of all accounts' expected shortfalls, in the numbers of the model and the draws."""
    model, history, exposures, _, tiles = subject(marginals)
    tuned = eqx.tree_at(leaves, model, list(numbers))
    prepared, _ = tuned.prepare(exposures.instruments, exposures.market, tuned.observe(history), draws)
    return sum((jnp.sum(tuned.margin(prepared, tile)[0].expected_shortfall) for tile in tiles), jnp.zeros(()))


@cache
def slopes(marginals: str) -> Any:
    return jax.jit(jax.grad(lambda numbers, draws: total(marginals, numbers, draws)))


def now(marginals: str = "t") -> np.ndarray:
    return np.array([float(leaf) for leaf in leaves(subject(marginals)[0])])


@cache
def with_rotation_held(marginals: str) -> Any:
    """The total with the Cholesky factor of the correlations turned by today's rotation, whatever they are."""
    model, history, _, draws, _ = subject(marginals)
    seen: list[jax.Array] = []

    def remembered(correlation: jax.Array) -> jax.Array:
        seen.append(correlation)
        return principal_root(correlation)

    def today() -> jax.Array:
        model.source.shocks(model.source.observe(factor_arrays(history)), draws.scenarios)
        return seen[-1]

    usual = monte_carlo.principal_root
    try:
        monte_carlo.principal_root = remembered
        correlation = np.asarray(jax.jit(today)())
        rotation = np.linalg.solve(
            np.linalg.cholesky(correlation), np.asarray(principal_root(jnp.asarray(correlation)))
        )
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(len(rotation)), atol=1e-10)
        monte_carlo.principal_root = lambda matrix: jnp.linalg.cholesky(matrix) @ rotation
        value = jax.jit(lambda numbers: total(marginals, numbers, draws))
        value(jnp.asarray(now(marginals)))  # traced here, while the root is held
    finally:
        monte_carlo.principal_root = usual
    return value


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("marginals", ["t", pytest.param("empirical", marks=pytest.mark.long)])
def test_total_shortfall_has_the_slope_of_its_finite_difference(double: None, marginals: str, leaf: str) -> None:
    numbers, place = now(marginals), LEAVES.index(leaf)
    slope = float(slopes(marginals)(jnp.asarray(numbers), subject(marginals)[3])[place])
    value, step = with_rotation_held(marginals), np.zeros(len(LEAVES))
    step[place] = 1e-5 * numbers[place]
    difference = (float(value(numbers + step)) - float(value(numbers - step))) / (2 * step[place])
    assert abs(difference) > 1e-4
    # Totals of some hundreds are rounded at 1e-13 and divided by a step of 5e-7 at least.
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_in_the_mean_over_sets_the_slope_is_that_of_the_whole(double: None) -> None:
    """Sixteen sets: the two estimates of one derivative differ by noise of mean nothing, within four standard errors.

    A step of a tenth has a bias of a thousandth of what curvature of order one makes. More shrinkage is less hedging.
    """
    model, history, *_ = subject("t")
    value, step = jax.jit(lambda numbers, draws: total("t", numbers, draws)), np.array([0.0, 0.005, 0.0, 0.0])
    slope, difference = [], []
    for seed in range(16):
        draws = model.draw(seed, history)
        slope.append(float(slopes("t")(jnp.asarray(now()), draws)[1]))
        difference.append((float(value(now() + step, draws)) - float(value(now() - step, draws))) / 0.01)
    gap = np.array(slope) - np.array(difference)
    error = np.std(gap, ddof=1) / np.sqrt(len(gap))
    assert abs(np.mean(gap)) < 4 * error
    assert np.mean(slope) > 4 * np.std(slope, ddof=1) / np.sqrt(len(slope))
