"""Volatility behind one interface: every filter against a loop or another library, and what gaps do to all of them."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arch import arch_model
from arch.univariate import HARX, ConstantVariance

from marginax.market_sections import AssetClasses, ClassParameters, Filter
from marginax.scenarios.volatility import (
    Ewma,
    Garch,
    Har,
    TwoSpeed,
    VolatilityModel,
    filter_path,
    filter_step,
    volatility_model,
)
from marginax_kernels import har_ring
from reference import filters as twin

MODELS: dict[str, Callable[[], VolatilityModel]] = {
    "ewma": lambda: Ewma(jnp.asarray(20.0), jnp.asarray(4.0)),
    "two_speed": lambda: TwoSpeed(jnp.asarray(4.0), jnp.asarray(30.0), jnp.asarray(0.5), jnp.asarray(4.0)),
    "garch": lambda: Garch(jnp.asarray(0.1), jnp.asarray(0.85), jnp.asarray(2.5)),
    "har": lambda: Har(jnp.asarray(0.35), jnp.asarray(0.3), jnp.asarray(0.25), jnp.asarray(2.5)),
}
every = pytest.mark.parametrize("kind", MODELS)


def moves(rng: np.random.Generator, bars: int = 120, factors: int = 2) -> np.ndarray:
    return rng.standard_t(4, (bars, factors)) / 50


def path_of(model: VolatilityModel, returns: np.ndarray, bars: np.ndarray | None = None, **more: float) -> tuple:
    spans = np.ones(returns.shape) if bars is None else bars
    settings = {"ahead": 1, "bars_per_day": 1.0, **more}
    return filter_path(model, jnp.asarray(returns), jnp.asarray(spans), **settings)


def test_two_speeds_are_two_exponential_filters_with_a_bound_on_what_comes_in(
    double: None, rng: np.random.Generator
) -> None:
    returns = moves(rng)
    returns[60] *= 20
    found = path_of(MODELS["two_speed"](), returns).variance
    fast = slow = twin.mean_square(returns, np.ones(returns.shape), count=30)
    for t, row in enumerate(returns):
        mixed = 0.5 * fast + 0.5 * slow
        np.testing.assert_allclose(found[t], mixed, rtol=1e-12)
        square = np.minimum(row**2, 16 * mixed)
        fast, slow = (d * v + (1 - d) * square for d, v in ((0.5 ** (1 / 4), fast), (0.5 ** (1 / 30), slow)))
    assert (returns[60] ** 2 > 16 * np.asarray(found)[60]).all()


def test_garch_has_the_variance_and_the_forecasts_of_arch(double: None, rng: np.random.Generator) -> None:
    """`arch` knows a constant where we know the long run; given the same one, every bar is the same."""
    returns = 100 * moves(rng, 400, 1)
    omega, alpha, beta = 0.2, 0.1, 0.8
    theirs = arch_model(returns[:, 0], mean="Zero", vol="GARCH", rescale=False).fix([omega, alpha, beta])
    wanted = theirs.conditional_volatility**2
    model, long_run = Garch(jnp.asarray(alpha), jnp.asarray(beta), jnp.asarray(jnp.inf)), jnp.asarray([2.0])
    state = model.begin(jnp.asarray(wanted[:1]), bars_per_day=1.0)
    step = jax.jit(lambda state, move: model.step(state, move, jnp.ones(1), long_run, bars_per_day=1.0))
    for t in range(400):
        known = model.variance(state, long_run, bars_per_day=1.0)
        assert float(known[0]) == pytest.approx(wanted[t], rel=1e-12)
        state = step(state, jnp.asarray(returns[t]))
    ahead = theirs.forecast(horizon=10, reindex=False).variance.to_numpy()[-1]
    found = model.forecast(state, long_run, ahead=10, bars_per_day=1.0)
    assert float(found[0]) == pytest.approx(ahead.mean(), rel=1e-12)


def test_har_has_the_forecast_of_arch(double: None, rng: np.random.Generator) -> None:
    """Least squares on daily realised variance of 24 bars a day; its constant is our share of the long run."""
    day, days = 24, 300
    volatility = np.exp(0.3 * np.convolve(rng.standard_normal(days + 21), np.ones(22) / 5, "valid"))
    returns = np.repeat(volatility, day)[:, None] * rng.standard_normal((days * day, 1))
    realised = (returns**2).reshape(days, day).mean(axis=1)
    theirs = HARX(realised, lags=[1, 5, 22], rescale=False)
    theirs.volatility = ConstantVariance()
    fit = theirs.fit(disp="off")
    constant, daily, weekly, monthly = fit.params.iloc[:4]
    long_run = jnp.asarray([constant / (1 - daily - weekly - monthly)])
    model = Har(*(jnp.asarray(each) for each in (daily, weekly, monthly)), jnp.asarray(jnp.inf))
    state = har_ring(jnp.ones(1), day=day)
    step = jax.jit(lambda state, move: model.step(state, move, jnp.ones(1), long_run, bars_per_day=float(day)))
    for move in returns[-22 * day :]:
        state = step(state, jnp.asarray(move))
    for horizon in (1, 4):
        ahead = fit.forecast(horizon=horizon, reindex=False).mean.to_numpy()[-1]
        found = model.forecast(state, long_run, ahead=horizon * day, bars_per_day=float(day))
        assert float(found[0]) == pytest.approx(ahead.mean(), rel=1e-9)


@every
def test_a_step_at_a_time_is_the_path(double: None, rng: np.random.Generator, kind: str) -> None:
    returns, model = moves(rng), MODELS[kind]()
    whole = path_of(model, returns)
    part = path_of(model, returns[:100]).state
    for row in returns[100:]:
        part = filter_step(model, part, jnp.asarray(row), jnp.ones(2), bars_per_day=1.0)
    for one, other in zip(jax.tree.leaves(part), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@every
def test_a_halt_changes_nothing_and_its_end_is_one_return_over_its_length(
    double: None, rng: np.random.Generator, kind: str
) -> None:
    returns, bars = moves(rng), np.ones((120, 2))
    model = MODELS[kind]()
    state = path_of(model, returns).state
    halted = filter_step(model, state, jnp.asarray([np.nan, np.nan]), jnp.ones(2), bars_per_day=1.0)
    for one, other in zip(jax.tree.leaves(halted), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    # Twice the return over four bars is the same return a bar: it enters with the same square.
    once = filter_step(model, state, jnp.asarray(returns[0]), jnp.ones(2), bars_per_day=1.0)
    over = filter_step(model, state, jnp.asarray(2 * returns[0]), jnp.full(2, 4.0), bars_per_day=1.0)
    np.testing.assert_allclose(over.long_run.squares, once.long_run.squares)
    assert np.isfinite(np.asarray(model.variance(over.model, over.long_run.variance, bars_per_day=1.0))).all()
    gaps = path_of(model, np.where(rng.random(returns.shape) < 0.3, np.nan, returns), bars)
    assert (np.asarray(gaps.variance) > 0).all()


@every
def test_what_comes_later_changes_no_bit_of_what_was_known(double: None, rng: np.random.Generator, kind: str) -> None:
    returns, model = moves(rng), MODELS[kind]()
    other = returns.copy()
    other[80:] *= 7
    one, two = path_of(model, returns), path_of(model, other)
    np.testing.assert_array_equal(one.variance[:81], two.variance[:81])
    assert not np.array_equal(one.variance[81], two.variance[81])


@every
def test_the_variance_has_the_slope_of_its_finite_difference_in_every_number(
    double: None, rng: np.random.Generator, kind: str
) -> None:
    holes = rng.random((120, 2))
    returns = jnp.asarray(np.where(holes < 0.2, np.nan, np.where(holes < 0.25, 0.0, moves(rng))))
    model = MODELS[kind]()

    def total(each: VolatilityModel) -> jax.Array:
        path = filter_path(each, returns, jnp.ones((120, 2)), ahead=5, bars_per_day=1.0)
        return 1e4 * jnp.sum(path.ahead[-1])

    total = jax.jit(total)
    slopes = eqx.filter_grad(total)(model)
    for k, (value, slope) in enumerate(zip(jax.tree.leaves(model), jax.tree.leaves(slopes), strict=True)):
        if not np.isfinite(value):
            continue

        def moved(by: float, k: int = k) -> VolatilityModel:
            leaves, shape = jax.tree.flatten(model)
            return shape.unflatten([leaf + by * (j == k) for j, leaf in enumerate(leaves)])

        step = 1e-6 * float(value)
        difference = (float(total(moved(step))) - float(total(moved(-step)))) / (2 * step)
        assert float(slope) == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_classes_have_numbers_of_their_own_and_share_what_they_leave_out() -> None:
    classes = AssetClasses(
        default="altcoins",
        names={"BTC": "majors"},
        parameters={"majors": ClassParameters(fast_half_life_days=6.0), "altcoins": ClassParameters()},
    )
    model = volatility_model(Filter(kind="two_speed"), classes, half_life_days=23.0)
    assert isinstance(model, TwoSpeed)
    assert classes.words == ["altcoins", "majors"]
    np.testing.assert_array_equal(model.fast_half_life_days, [4.0, 6.0, 4.0])
    assert np.ndim(model.slow_half_life_days) == 0
    rows = classes.rows(["BTC", "ETH", "SOL"], [None, "majors", "unheard of"])
    np.testing.assert_array_equal(rows, [1, 1, 0])


def test_a_filter_knows_the_long_run_as_it_was_known_then(double: None, rng: np.random.Generator) -> None:
    returns = moves(rng)
    found = path_of(MODELS["ewma"](), returns).long_run
    for t in (1, 50, 120):
        np.testing.assert_allclose(found[t], (returns[:t] ** 2).mean(axis=0), rtol=1e-12)
