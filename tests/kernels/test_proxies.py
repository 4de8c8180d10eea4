"""Bars without a price filled from a proxy: cell by cell as the loop does it, and nothing ever moves as one.

Six factors: 0 and 5 stand alone, with gaps; 1 follows 0 and has gaps; 2 follows 0 and has no history; 3 follows 1
with a given beta; 4 follows 2, which is itself proxied.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marginax.config import Config
from marginax.history import NO_PROXY
from marginax.scenarios import ScenarioSource
from marginax.scenarios.filtering import FactorArrays, FillDraws
from marginax.scenarios.historical import HistoricalDraws
from marginax.scenarios.pegs import PegDraws
from marginax.scenarios.proxies import fill, levels, resampled_rows, resampling_orders
from marginax.scenarios.source import SourceDraws
from marginax.scenarios.stress import StressDraws
from reference import filters as twin

BARS = 30
NAMES = ("BTC", "ETH", "NEW", "SOL", "NEWER", "OIL")
PROXY = np.array([NO_PROXY, 0, 0, 1, 2, NO_PROXY])
OWN = np.array([True, True, False, True, False, True])
BETA = np.array([np.nan, np.nan, np.nan, 1.2, 0.7, np.nan])
LEVEL = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 70.0])
SIZES = {"default_beta": 1.5, "residual": 1.33, "safety_factor": 1.5}

filled = jax.jit(
    lambda shocks, rows, beta, level, sizes: fill(
        shocks, order=levels(PROXY), proxy=PROXY, own=OWN, beta=beta, level=level, rows=rows, **sizes
    )
)


def by_hand(shocks: np.ndarray, rows: np.ndarray, **changed: np.ndarray) -> np.ndarray:
    settings = {"beta": BETA, "level": LEVEL, **changed}
    return twin.fill(shocks, proxy=PROXY.tolist(), own=OWN.tolist(), rows=rows, **settings, **SIZES)


def histories() -> st.SearchStrategy[np.ndarray]:
    """Shocks in thousandths, a quarter of them missing; each factor with a history knows its first bar."""
    sizes = arrays(np.float64, (BARS, len(NAMES)), elements=st.integers(-300, 300).map(lambda n: n / 1_000))
    known = arrays(np.bool_, (BARS, len(NAMES)), elements=st.integers(0, 3).map(bool))
    return st.tuples(sizes, known).map(lambda pair: with_gaps(*pair))


def with_gaps(moves: np.ndarray, known: np.ndarray) -> np.ndarray:
    known = known & OWN
    known[0] = OWN
    return np.where(known, moves * LEVEL, np.nan)


def gaps(rng: np.random.Generator) -> np.ndarray:
    return with_gaps(rng.normal(0, 0.05, (BARS, len(NAMES))), rng.random((BARS, len(NAMES))) < 0.75)


def borrow(shocks: np.ndarray, seed: int = 7) -> np.ndarray:
    return rows_of(NAMES, ~np.isnan(shocks), seed)


def rows_of(names: Sequence[str], known: np.ndarray, seed: int) -> np.ndarray:
    return np.asarray(resampled_rows(jnp.asarray(known), resampling_orders(names, len(known), seed=seed)))


@given(shocks=histories())
def test_every_cell_is_what_the_loop_fills_in(precision: np.dtype, shocks: np.ndarray) -> None:
    rows = borrow(shocks)
    cells = (each.astype(precision) for each in (BETA, LEVEL))
    got = np.asarray(filled(shocks.astype(precision), rows, *cells, SIZES), float)
    wanted = by_hand(shocks, rows)
    # An estimated beta is a quotient of two sums over the bars, rounded like them relative to sums of absolute
    # values; a proxy that hardly moved makes that large. It enters three products a level, and two levels lie above
    # one another.
    known = ~np.isnan(shocks[:, 1])
    theirs = wanted[known, 0]
    square = np.sum(theirs**2)
    steep = np.sum(np.abs(shocks[known, 1] * theirs)) / square if square > 0 else 0.0
    size = 0.3 * LEVEL * (1 + steep) * SIZES["safety_factor"] ** 2 * (1 + SIZES["residual"]) ** 2 * 1.5
    assert (np.abs(got - wanted) <= 12 * (BARS + 8) * np.finfo(precision).eps * size).all()


def test_a_known_return_is_never_touched(precision: np.dtype, rng: np.random.Generator) -> None:
    shocks = gaps(rng).astype(precision)
    got = np.asarray(filled(shocks, borrow(shocks), *(each.astype(precision) for each in (BETA, LEVEL)), SIZES))
    assert np.isfinite(got).all()
    known = ~np.isnan(shocks)
    logs = LEVEL == 1
    np.testing.assert_array_equal(got[:, logs][known[:, logs]], shocks[:, logs][known[:, logs]])
    # Where shocks are absolute they are divided by a level and multiplied by it again.
    eps = float(np.finfo(precision).eps)
    np.testing.assert_allclose(got[:, ~logs][known[:, ~logs]], shocks[:, ~logs][known[:, ~logs]], rtol=eps)


def test_two_coins_without_history_never_move_as_one(double: None, rng: np.random.Generator) -> None:
    names, proxy = ("BTC", "ONE", "OTHER"), np.array([NO_PROXY, 0, 0])
    shocks = np.full((2_000, 3), np.nan)
    shocks[:, 0] = rng.normal(0, 0.03, 2_000)
    got = np.asarray(
        fill(
            jnp.asarray(shocks),
            order=levels(proxy),
            proxy=proxy,
            own=jnp.array([True, False, False]),
            beta=jnp.array([np.nan, 1.0, 1.0]),
            level=jnp.ones(3),
            rows=rows_of(names, ~np.isnan(shocks), 7),
            **SIZES,
        )
    )
    # beta x proxy has a variance of 1 and the borrowed residual, with its safety factor, (1.5 x 1.33)^2 = 3.98: the
    # coins share 1 / 4.98 = 0.20 of theirs. A sample correlation of 2,000 draws has a standard error of 0.02.
    own = SIZES["safety_factor"] * SIZES["residual"]
    correlation = np.corrcoef(got.T)
    assert correlation[1, 2] == pytest.approx(1 / (1 + own**2), abs=0.08)
    assert correlation[0, 1] == pytest.approx(1 / np.sqrt(1 + own**2), abs=0.08)
    np.testing.assert_allclose(got[:, 1:].std(axis=0) / got[:, 0].std(), np.sqrt(1 + own**2), rtol=0.06)


def test_every_known_bar_is_borrowed_equally_often(rng: np.random.Generator) -> None:
    shocks = gaps(rng)
    rows = borrow(shocks)
    for k in range(len(NAMES)):
        known = np.flatnonzero(~np.isnan(shocks[:, k])) if OWN[k] else np.arange(BARS)
        assert set(rows[:, k]) <= set(known.tolist())
        counts = np.bincount(rows[:, k], minlength=BARS)[known]
        assert counts.max() - counts.min() <= 1


def test_listing_a_coin_changes_no_other_coin_s_draws(rng: np.random.Generator) -> None:
    known = ~np.isnan(gaps(rng))
    rows = rows_of(NAMES, known, 7)
    np.testing.assert_array_equal(rows_of(NAMES[1:], known[:, 1:], 7), rows[:, 1:])
    assert (rows_of(NAMES, known, 8) != rows).any()


def test_a_factor_is_filled_after_the_one_it_follows() -> None:
    order = levels(PROXY)
    place = {int(k): depth for depth, columns in enumerate(order) for k in columns}
    assert sorted(place) == list(range(len(PROXY)))
    for k, followed in enumerate(PROXY):
        assert place[k] == (0 if followed == NO_PROXY else place[int(followed)] + 1)
    assert [columns.tolist() for columns in levels(np.array([], int))] == [[]]


def test_units_of_an_absolute_shock_do_not_matter(precision: np.dtype, rng: np.random.Generator) -> None:
    shocks = gaps(rng)
    rows = borrow(shocks)
    units = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 64.0])  # a power of two: no digit is lost
    beta = BETA.astype(precision)
    plain = np.asarray(filled(shocks.astype(precision), rows, beta, LEVEL.astype(precision), SIZES))
    scaled = (shocks * units).astype(precision)
    got = np.asarray(filled(scaled, rows, beta, (LEVEL * units).astype(precision), SIZES))
    np.testing.assert_array_equal(got, plain * units.astype(precision))


def test_a_proxy_that_never_moved_gives_no_beta_and_no_nan(precision: np.dtype, rng: np.random.Generator) -> None:
    shocks = gaps(rng)
    shocks[:, 0] = 0
    got = np.asarray(filled(shocks.astype(precision), borrow(shocks), BETA, LEVEL, SIZES))
    assert np.isfinite(got).all()
    assert (got[:, [0, 2, 4]] == 0).all()


def test_slopes_in_every_parameter_are_finite_differences(double: None, rng: np.random.Generator) -> None:
    shocks = gaps(rng)
    rows = borrow(shocks)
    way = rng.normal(size=shocks.shape)

    @jax.jit
    def score(given_beta: jax.Array, sizes: dict[str, jax.Array], scale: jax.Array) -> jax.Array:
        beta = jnp.where(jnp.isnan(BETA), jnp.nan, given_beta)
        scaled = jnp.where(np.isnan(shocks), jnp.nan, scale * np.nan_to_num(shocks))
        return jnp.sum(way * filled(scaled, rows, beta, LEVEL, sizes))

    at = (jnp.asarray(1.2), {name: jnp.asarray(size) for name, size in SIZES.items()}, jnp.asarray(1.0))
    slopes = jax.jit(jax.grad(score, argnums=(0, 1, 2)))(*at)
    leaves, shape = jax.tree.flatten(at)
    for k, slope in enumerate(jax.tree.leaves(slopes)):
        steps = [shape.unflatten([x + sign * 1e-6 * (k == j) for j, x in enumerate(leaves)]) for sign in (1, -1)]
        difference = (float(score(*steps[0])) - float(score(*steps[1]))) / 2e-6
        # A score near a hundred is rounded at 1e-14 and divided by 1e-6; curvature adds the square of the step.
        assert float(slope) == pytest.approx(difference, abs=1e-6), jax.tree.structure(at)


@jax.jit
def scenario_size(half_life: jax.Array, factors: FactorArrays, draws: SourceDraws) -> jax.Array:
    """Sum of the squares of all filtered shocks."""
    source = ScenarioSource.from_config(Config())
    tuned = eqx.tree_at(lambda each: each.volatility.model.half_life_days, source, half_life)
    return jnp.sum(tuned.shocks(tuned.observe(factors), draws)[0] ** 2)


half_life_slope = jax.jit(jax.grad(scenario_size))


@pytest.mark.parametrize("trouble", ["none", "gaps", "a coin without history", "a price that never moved"])
def test_the_slope_of_filtered_scenarios_in_the_half_life_is_a_number(
    double: None, rng: np.random.Generator, trouble: str
) -> None:
    shocks = rng.normal(0, 0.05, (BARS, len(NAMES)))
    noise = np.full(len(NAMES), np.nan)
    if trouble == "gaps":
        shocks[5:9, 1] = np.nan
    elif trouble == "a coin without history":
        shocks[:, 2] = np.nan
    elif trouble == "a price that never moved":
        shocks[:, 5], noise[5] = 0, 0.001
    known = ~np.isnan(shocks)
    factors = FactorArrays(
        returns=jnp.asarray(shocks),
        bars=jnp.ones(shocks.shape),
        gap_return=jnp.full(len(NAMES), jnp.nan),
        gap_bars=jnp.ones(len(NAMES)),
        own=jnp.asarray(known.any(axis=0)),
        beta=jnp.asarray(BETA),
        level=jnp.ones(len(NAMES)),
        noise=jnp.asarray(noise),
        proxy=tuple(PROXY.tolist()),
        bars_per_day=1.0,
    )
    nothing = StressDraws((), np.zeros((0, len(NAMES))))
    draws = SourceDraws(
        FillDraws(borrow(shocks), np.zeros(shocks.shape), np.arange(len(shocks))),
        HistoricalDraws(0),
        nothing,
        PegDraws((), np.zeros(0), np.zeros(0)),
    )

    slope = float(half_life_slope(jnp.asarray(11.2), factors, draws))
    step = 1e-4
    up, down = (float(scenario_size(jnp.asarray(11.2 + way), factors, draws)) for way in (step, -step))
    # The third derivative times the square of the step, and 1e-15 of a size near one over the step.
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-10)
