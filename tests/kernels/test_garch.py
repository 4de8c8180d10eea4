"""GARCH(1,1): variances and likelihoods against loops, their derivatives, missing returns, and the tail of a bar."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import integrate, stats

from marginax_kernels import (
    discounted_sum,
    garch_likelihood_expansion,
    garch_log_likelihood,
    garch_update,
    garch_variance,
    student_quantile_and_shortfall,
    student_tail,
)
from reference import garch as twin

BARS, SERIES = 40, 3
LAWS = [5.0, 2.3, np.inf]
TAILS = [0.25, 0.05, 0.025, 0.01, 0.0025, 1e-4, 1e-5]

update = jax.jit(garch_update)
variances = jax.jit(garch_variance)
likelihood = jax.jit(garch_log_likelihood)
expansion = jax.jit(garch_likelihood_expansion)
traced_tail = jax.jit(student_quantile_and_shortfall, static_argnames="tail")


def histories() -> st.SearchStrategy[np.ndarray]:
    """Returns of up to 5 %, a quarter of them missing."""
    sizes = st.integers(-500, 500).map(lambda count: count / 10_000)
    known = arrays(np.bool_, (SERIES, BARS), elements=st.integers(0, 3).map(bool))
    return st.tuples(arrays(np.float64, (SERIES, BARS), elements=sizes), known).map(
        lambda pair: np.where(pair[1], pair[0], np.nan)
    )


def models() -> st.SearchStrategy[dict[str, np.ndarray]]:
    """omega, alpha, beta and the initial variance of each series; alpha + beta up to 1.02."""

    def shares(least: int, most: int, unit: float) -> st.SearchStrategy[np.ndarray]:
        return arrays(np.float64, SERIES, elements=st.integers(least, most).map(lambda count: count * unit))

    return st.fixed_dictionaries(
        {
            "omega": shares(1, 50, 1e-6),
            "alpha": shares(0, 30, 0.01),
            "beta": shares(0, 72, 0.01),
            "initial": shares(1, 90, 1e-5),
        }
    )


def cast(precision: np.dtype, model: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value, precision) for name, value in model.items()}


def of(model: dict[str, np.ndarray], k: int) -> dict[str, Any]:
    return {name: value[k].item() for name, value in model.items()}


@pytest.mark.parametrize("bars", [1, 2, 3, 64, 101])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.97, 1.0])
def test_a_discounted_sum_is_where_the_recursion_ends(
    precision: np.dtype, rng: np.random.Generator, bars: int, decay: float
) -> None:
    values = rng.standard_t(3, (2, bars)) ** 2
    total = np.zeros(2)
    for value in values.T:
        total = decay * total + value
    found = discounted_sum(jnp.asarray(values, precision), jnp.full(2, decay, precision))
    np.testing.assert_allclose(found, total, rtol=2 * bars * np.finfo(precision).eps)


# Each bar adds three positive numbers of a few roundings each, and carries those of the bars before it.
A_BAR = 8


@given(returns=histories(), model=models())
def test_the_variance_is_the_loop_with_missing_returns(
    precision: np.dtype, returns: np.ndarray, model: dict[str, np.ndarray]
) -> None:
    path, final = variances(returns.astype(precision), **cast(precision, model))
    for k in range(SERIES):
        wanted, last = twin.variance(returns[k], **of(model, k))
        rtol = A_BAR * BARS * float(np.finfo(precision).eps)
        np.testing.assert_allclose(path[k], wanted, rtol=rtol)
        assert float(final[k]) == pytest.approx(last, rel=rtol)


@pytest.mark.parametrize("freedom", LAWS)
@given(returns=histories(), model=models())
def test_the_likelihood_is_the_sum_of_the_known_returns_log_densities(
    precision: np.dtype, freedom: float, returns: np.ndarray, model: dict[str, np.ndarray]
) -> None:
    got = likelihood(returns.astype(precision), **cast(precision, model | {"freedom": np.full(SERIES, freedom)}))
    for k in range(SERIES):
        wanted = twin.log_likelihood(returns[k], freedom=freedom, **of(model, k))
        # The relative errors of the variances are absolute ones of the logarithms; r^2 / v may be 2,500 at the normal.
        known = ~np.isnan(returns[k])
        path, _ = twin.variance(returns[k], **of(model, k))
        size = np.sum(10 + (returns[k] ** 2 / path)[known]) if np.isinf(freedom) else 20 * np.sum(known)
        assert float(got[k]) == pytest.approx(wanted, abs=A_BAR * BARS * float(np.finfo(precision).eps) * (size + 1))


@given(returns=histories(), model=models(), cut=st.integers(0, BARS - 1))
def test_a_variance_knows_the_bars_before_it_and_not_its_own(
    precision: np.dtype, returns: np.ndarray, model: dict[str, np.ndarray], cut: int
) -> None:
    given_model = cast(precision, model)
    later = returns.copy()
    later[:, cut:] = 7.0
    before = np.asarray(variances(returns.astype(precision), **given_model)[0])
    after = np.asarray(variances(later.astype(precision), **given_model)[0])
    np.testing.assert_array_equal(after[:, : cut + 1], before[:, : cut + 1])


@given(returns=histories(), model=models(), cut=st.integers(1, BARS - 1))
def test_a_history_read_in_two_blocks_is_the_history_read_in_one(
    precision: np.dtype, returns: np.ndarray, model: dict[str, np.ndarray], cut: int
) -> None:
    given_model = cast(precision, model)
    cells = returns.astype(precision)
    path, final = variances(cells, **given_model)
    # One shape, so that it compiles once: the first block ends with bars that nothing is read of.
    index = np.arange(BARS)
    first = np.where(index < cut, cells, 0)
    between = np.asarray(variances(first, **given_model)[0])[:, cut]
    second, last = variances(cells, **given_model | {"initial": between}, begins=np.full(SERIES, cut))
    np.testing.assert_array_equal(np.asarray(second)[:, cut:], np.asarray(path)[:, cut:])
    np.testing.assert_array_equal(last, final)


def test_a_missing_return_counts_as_its_expectation(precision: np.dtype) -> None:
    model = cast(precision, {"omega": 2e-6, "alpha": 0.08, "beta": 0.9})
    missed = float(update(precision.type(3e-4), precision.type(np.nan), **model))
    expected = float(update(precision.type(3e-4), np.sqrt(precision.type(3e-4)), **model))
    assert missed == pytest.approx(expected, rel=A_BAR * float(np.finfo(precision).eps))
    # After many the variance is that of the long run, 2e-6 / 0.02.
    nothing = np.full((1, 2_000), np.nan, precision)
    _, final = variances(nothing, initial=np.full(1, 3e-4, precision), **{k: v[None] for k, v in model.items()})
    assert float(final[0]) == pytest.approx(1e-4, rel=A_BAR / 0.02 * float(np.finfo(precision).eps))


@pytest.mark.parametrize("padding", [1, 7, BARS - 1])
@given(returns=histories(), model=models())
def test_padding_in_front_of_a_series_changes_no_bit_of_its_variance(
    precision: np.dtype, padding: int, returns: np.ndarray, model: dict[str, np.ndarray]
) -> None:
    given_model = cast(precision, model)
    cells = returns.astype(precision)
    begins = np.full(SERIES, padding)
    padded = np.concatenate([np.full((SERIES, padding), np.nan), cells[:, : BARS - padding]], axis=1)
    plain, _ = variances(cells, **given_model, begins=np.zeros(SERIES, int))
    path, _ = variances(padded.astype(precision), **given_model, begins=begins)
    np.testing.assert_array_equal(np.asarray(path)[:, padding:], np.asarray(plain)[:, : BARS - padding])
    np.testing.assert_array_equal(np.asarray(path)[:, :padding], np.broadcast_to(path[:, :1], (SERIES, padding)))


@pytest.mark.parametrize("freedom", LAWS)
def test_a_bar_s_density_has_mass_one_and_the_variance_of_the_bar(double: None, freedom: float) -> None:
    now = 2.5e-4
    one = {"omega": np.array(1e-6), "alpha": np.array(0.1), "beta": np.array(0.8), "freedom": np.array(freedom)}

    def density(move: float) -> float:
        return float(np.exp(likelihood(np.array([move]), **one, initial=np.array(now))))

    # In the logarithm of the move a tail of power 2.3 has a second moment that falls as exp(-0.3 u): 25 units of it
    # leave out 5e-4.
    width = np.sqrt(now)
    ends = (-25.0, 4.0) if np.isinf(freedom) else (-25.0, 25.0)

    def moment(power: int) -> float:
        return (
            2
            * integrate.quad(
                lambda u: (width * np.exp(u)) ** (power + 1) * density(width * np.exp(u)), *ends, limit=200
            )[0]
        )

    assert moment(0) == pytest.approx(1, rel=1e-7)
    assert moment(2) == pytest.approx(now, rel=1e-3 if freedom == 2.3 else 1e-7)


def test_a_t_of_much_freedom_is_normal(double: None, rng: np.random.Generator) -> None:
    returns = rng.normal(size=(1, BARS)) / 100
    model = {"omega": np.full(1, 1e-5), "alpha": np.full(1, 0.1), "beta": np.full(1, 0.8), "initial": np.full(1, 1e-4)}
    normal = float(likelihood(returns, **model, freedom=np.full(1, np.inf))[0])
    # The first term of the expansion in 1 / n is (z^4 - 6 z^2 + 3) / 4 a bar.
    path = np.asarray(variances(returns, **model)[0])
    square = returns**2 / path
    slope = np.sum(square**2 - 6 * square + 3) / 4
    for freedom in (1e4, 1e5, 1e6):
        apart = float(likelihood(returns, **model, freedom=np.full(1, freedom))[0]) - normal
        # The gamma functions of 1e6 are 1e7 and are rounded at 2e-9.
        assert apart == pytest.approx(slope / freedom, abs=1e4 / freedom**2 + BARS * 4e-9)


def sample(rng: np.random.Generator) -> np.ndarray:
    moves = rng.standard_t(4, (SERIES, BARS)) / 70
    moves[rng.random(moves.shape) < 0.2] = np.nan
    return moves


MODEL = {
    "omega": np.array([2e-5, 1e-6, 5e-5]),
    "alpha": np.array([0.1, 0.3, 0.02]),
    "beta": np.array([0.8, 0.69, 0.9]),
}


def slope_by_difference(function: Callable[[float], float], at: float) -> float:
    """Central difference with a step of 1e-5 of the argument: its error is 1e-10 of the third derivative."""
    step = 1e-5 * at
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("name", ["omega", "alpha", "beta", "freedom", "initial"])
def test_the_likelihood_s_slopes_are_its_finite_differences(double: None, rng: np.random.Generator, name: str) -> None:
    returns = sample(rng)
    model = MODEL | {"freedom": np.array([5.0, 2.5, 40.0]), "initial": np.full(SERIES, 2e-4)}

    def total(value: Any, k: int) -> jax.Array:
        each = {key: jnp.asarray(number) for key, number in model.items()}
        return jnp.sum(garch_log_likelihood(returns, **each | {name: each[name].at[k].set(value)}))

    total = jax.jit(total, static_argnames="k")
    for k in range(SERIES):
        slope = float(jax.jit(jax.grad(total), static_argnums=1)(model[name][k], k))
        by_difference = slope_by_difference(lambda x, k=k: float(total(x, k)), float(model[name][k]))
        # Sums near 300 are rounded at 1e-13 and divided by a step of 1e-5 of the argument.
        assert slope == pytest.approx(by_difference, rel=1e-6, abs=1e-7 / float(model[name][k]))


def test_the_variance_s_slopes_are_its_finite_differences(double: None, rng: np.random.Generator) -> None:
    returns = sample(rng)

    @jax.jit
    def today(scale: float) -> jax.Array:
        model = {name: scale * value for name, value in MODEL.items()}
        moves = jnp.where(np.isnan(returns), jnp.nan, np.nan_to_num(returns) * scale)
        return 1e4 * jnp.sum(garch_variance(moves, **model, initial=jnp.full(SERIES, 2e-4) * scale)[1])

    assert float(jax.jit(jax.grad(today))(0.9)) == pytest.approx(
        slope_by_difference(lambda x: float(today(x)), 0.9), rel=1e-7
    )


def test_the_normal_law_has_no_slope_in_its_freedom_and_finite_ones_elsewhere(
    precision: np.dtype, rng: np.random.Generator
) -> None:
    returns = sample(rng).astype(precision)
    model = cast(precision, MODEL | {"freedom": np.full(SERIES, np.inf), "initial": np.full(SERIES, 2e-4)})
    slopes = jax.jit(jax.grad(lambda given_model: jnp.sum(garch_log_likelihood(returns, **given_model))))(model)
    assert (np.asarray(slopes["freedom"]) == 0).all()
    assert all(np.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.parametrize("freedom", LAWS)
def test_the_expansion_is_the_likelihood_with_its_gradient_and_hessian(
    double: None, rng: np.random.Generator, freedom: float
) -> None:
    returns = sample(rng)
    backcast = jnp.asarray([3e-4, 1e-5, 1e-4])
    freedoms = np.full(SERIES, freedom)

    def total(theta: jax.Array, moves: jax.Array, back: jax.Array) -> jax.Array:
        omega, alpha, beta, degrees = theta
        initial = omega + (alpha + beta) * back
        return garch_log_likelihood(moves, omega=omega, alpha=alpha, beta=beta, freedom=degrees, initial=initial)

    theta = jnp.stack([*(jnp.asarray(value) for value in MODEL.values()), jnp.asarray(freedoms)], axis=-1)
    value, gradient, hessian = expansion(returns, **MODEL, freedom=freedoms, backcast=backcast)
    wanted = jax.jit(jax.vmap(lambda *row: (total(*row), jax.grad(total)(*row), jax.hessian(total)(*row))))
    for got, want in zip((value, gradient, hessian), wanted(theta, returns, backcast), strict=True):
        # The two sum the same terms in another order; the terms of a sum over 40 bars cancel to a hundredth or so.
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("freedom", [2.05, 2.5, 4.0, 12.0, 400.0, np.inf])
@pytest.mark.parametrize("tail", TAILS)
def test_the_tail_of_an_innovation_is_that_of_scipy_s_law_and_of_its_integral(freedom: float, tail: float) -> None:
    quantile, shortfall = student_tail(freedom, tail)
    law = twin.innovation(freedom)
    assert float(quantile) == pytest.approx(law.isf(tail), rel=1e-12)
    assert float(shortfall) == pytest.approx(twin.tail(freedom, tail)[1], rel=1e-9)


@pytest.mark.parametrize("tail", TAILS)
def test_the_traced_tail_is_the_host_s(precision: np.dtype, tail: float) -> None:
    freedom = np.concatenate([2 + np.geomspace(0.01, 1_000, 200), [np.inf]]).astype(precision)
    got = traced_tail(freedom, tail=tail)
    for mine, wanted in zip(got, student_tail(freedom.astype(float), tail), strict=True):
        # In float32 1 - 2 / freedom at 2.01 keeps 0.005 of its digits.
        rtol = 1e-9 if precision == np.float64 else 4 * float(np.finfo(precision).eps) / 0.005
        np.testing.assert_allclose(mine, wanted, rtol=rtol)


def test_the_traced_tail_s_slopes_are_finite_differences_and_zero_at_the_normal(double: None) -> None:
    def both(freedom: jax.Array) -> jax.Array:
        return jnp.stack(student_quantile_and_shortfall(freedom, tail=0.01))

    slopes = jax.jit(jax.jacfwd(both))
    for freedom in (2.2, 4.0, 30.0):
        for k, slope in enumerate(slopes(jnp.asarray(freedom))):
            by_difference = slope_by_difference(lambda x, k=k: float(student_tail(x, 0.01)[k]), freedom)
            assert float(slope) == pytest.approx(by_difference, rel=1e-7, abs=1e-9)
    np.testing.assert_array_equal(slopes(jnp.asarray(np.inf)), [0, 0])


def test_the_heavier_the_tail_the_smaller_its_5_percent_and_the_greater_its_far_quantile() -> None:
    # At equal variance a heavy tail is thin where it begins: the 5 % quantile of a t(3) is 1.36, of the normal 1.64.
    assert float(student_tail(3.0, 0.05)[0]) == pytest.approx(stats.t.isf(0.05, 3) / np.sqrt(3), rel=1e-12)
    assert student_tail(3.0, 0.05)[0] < student_tail(np.inf, 0.05)[0]
    assert student_tail(3.0, 1e-4)[0] > student_tail(np.inf, 1e-4)[0]


@pytest.mark.parametrize(("freedom", "tail", "said"), [(2.0, 0.01, "variance"), (5.0, 0.0, "probability")])
def test_a_tail_that_is_none_is_refused_on_the_host(freedom: float, tail: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        student_tail(freedom, tail)


@pytest.mark.parametrize("tail", [0.0, 0.5, 1.0, 99.0])
def test_a_static_tail_that_is_no_small_probability_is_refused_while_tracing(tail: float) -> None:
    with pytest.raises(ValueError, match="no probability between 0 and 0"):
        student_quantile_and_shortfall(jnp.asarray(4.0), tail=tail)
