"""GARCH(1,1) by maximum likelihood: against the package `arch`, against the truth, and where nothing can be fitted."""

import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from arch import arch_model

from marginax.models.garch_fit import GREATEST_PERSISTENCE, LEAST_OMEGA, GarchFit, Law, fit_garch
from marginax_kernels import garch_likelihood_expansion
from reference import garch as twin

SHARED = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[2] / "shared")
PANEL = SHARED / "data" / "crypto_daily" / "yahoo_usd_1d.parquet"
# All fits but those of single series have one shape, filled up with empty rows, so that a law compiles once.
ROWS, BARS = 32, 1_000
LAWS: list[Law] = ["t", "normal"]

expansion = jax.jit(garch_likelihood_expansion)

TRUTHS = {
    "calm": {"omega": 2e-6, "alpha": 0.06, "beta": 0.92, "freedom": 7.0},
    "jumpy": {"omega": 4e-5, "alpha": 0.25, "beta": 0.6, "freedom": 3.5},
    "nearly integrated": {"omega": 5e-7, "alpha": 0.08, "beta": 0.918, "freedom": 5.0},
    "integrated": {"omega": 1e-6, "alpha": 0.1, "beta": 0.9, "freedom": 6.0},
    "explosive": {"omega": 1e-6, "alpha": 0.3, "beta": 0.75, "freedom": np.inf},
    "without memory": {"omega": 1e-4, "alpha": 0.0, "beta": 0.0, "freedom": 4.0},
    "normal": {"omega": 1e-5, "alpha": 0.1, "beta": 0.8, "freedom": np.inf},
}
CALM = list(TRUTHS).index("calm")


@cache
def book() -> np.ndarray:
    """A series of each truth, and the awkward ones."""
    rng = np.random.default_rng(20260101)
    rows = [twin.simulate(rng, BARS, **truth) for truth in TRUTHS.values()]
    return np.array([*rows, *awkward(rng).values()])


def awkward(rng: np.random.Generator) -> dict[str, np.ndarray]:
    calm = twin.simulate(np.random.default_rng(7), BARS, **TRUTHS["calm"])
    bars = np.arange(BARS)
    return {
        "padded": np.where(bars < 300, np.nan, np.roll(calm, 300)),
        "ended": np.where(bars < BARS - 300, calm, np.nan),
        "holed": np.where(rng.random(BARS) < 0.2, np.nan, calm),
        "never moved": np.where(bars < 300, np.nan, 0.0),
        "nothing": np.full(BARS, np.nan),
        "too short": np.where(bars < BARS - 249, np.nan, calm),
        "long enough": np.where(bars < BARS - 250, np.nan, calm),
        "stands still": np.where(rng.random(BARS) < 0.9, 0.0, calm),
        "one jump": np.where(bars == 500, -0.3, 0.0),
        "infinite": np.where(bars == 500, np.inf, calm),
        "plain": calm,
        "thousandfold": 1_000 * calm,
    }


NAMES = [*TRUTHS, *awkward(np.random.default_rng(0))]
UNFIT = ["never moved", "nothing", "too short", "stands still", "one jump", "infinite"]


@cache
def fits(law: Law) -> GarchFit:
    return fit(book(), law=law)


def fit(returns: np.ndarray, *, law: Law) -> GarchFit:
    empty = np.full((ROWS - len(returns), BARS), np.nan)
    with jax.enable_x64(True):
        found = fit_garch(jnp.asarray(np.concatenate([returns, empty])), law=law)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(returns)], found)


def fitted(name: str, law: Law) -> dict[str, Any]:
    return {key: value[NAMES.index(name)] for key, value in vars(fits(law)).items()}


def by_arch(returns: np.ndarray, law: Law) -> dict[str, float]:
    """Its fit from its default start, of returns of size one, in units of the returns."""
    size = float(np.sqrt(np.mean(returns**2)))
    model = arch_model(returns / size, mean="Zero", vol="GARCH", p=1, q=1, dist=law, rescale=False)
    # What its search says of itself is no finding of ours: a poor fit loses the comparison.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.fit(disp="off", show_warning=False)
    omega, alpha, beta, *freedom = found.params
    return {
        "omega": omega * size**2,
        "alpha": alpha,
        "beta": beta,
        "freedom": freedom[0] if freedom else np.inf,
        "log_likelihood": found.loglikelihood - len(returns) * np.log(size),
        "first_variance": found.conditional_volatility[0] ** 2 * size**2,
    }


def expand(returns: np.ndarray, model: dict[str, float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Log likelihood, gradient and Hessian of one series."""
    given = {name: jnp.asarray(model[name]) for name in ("omega", "alpha", "beta", "freedom")}
    value, gradient, hessian = expansion(returns, **given, backcast=jnp.asarray(twin.backcast(returns)))
    return float(value), np.asarray(gradient), np.asarray(hessian)


def within_bounds(returns: np.ndarray, model: dict[str, float]) -> dict[str, float]:
    """The model that is nearest and has a long run: arch allows alpha + beta of one."""
    cut = min(1.0, GREATEST_PERSISTENCE / (model["alpha"] + model["beta"] + 1e-300))
    least = LEAST_OMEGA * float(np.mean(returns**2))
    return model | {"alpha": cut * model["alpha"], "beta": cut * model["beta"], "omega": max(model["omega"], least)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", TRUTHS)
def test_no_fit_is_less_likely_than_that_of_arch(double: None, name: str, law: Law) -> None:
    returns = book()[NAMES.index(name)]
    mine, theirs = fitted(name, law), by_arch(returns, law)
    assert mine["converged"]
    assert mine["log_likelihood"] >= expand(returns, within_bounds(returns, theirs))[0] - 1e-4


@pytest.mark.parametrize(
    ("name", "law"),
    [(name, law) for name in ("calm", "jumpy", "nearly integrated") for law in LAWS] + [("normal", "normal")],
)
def test_an_interior_fit_has_the_parameters_of_arch(double: None, name: str, law: Law) -> None:
    returns = book()[NAMES.index(name)]
    mine, theirs = fitted(name, law), by_arch(returns, law)
    assert mine["log_likelihood"] == pytest.approx(theirs["log_likelihood"], abs=1e-4)
    # A likelihood 1e-4 below its maximum is at most sqrt(2e-4), a seventieth, of a standard error away.
    for key, error in standard_errors(returns, mine).items():
        assert mine[key] == pytest.approx(theirs[key], abs=error / 70)
    assert mine["initial"] == pytest.approx(theirs["first_variance"], rel=1e-2)


def standard_errors(returns: np.ndarray, model: dict[str, float]) -> dict[str, float]:
    """From the Hessian; of a freedom that the sample does not bound there is none."""
    names = ["omega", "alpha", "beta", "freedom"][: 4 if model["freedom"] < 100 else 3]
    hessian = expand(returns, model)[2][: len(names), : len(names)]
    return dict(zip(names, np.sqrt(np.diag(np.linalg.inv(-hessian))), strict=True))


@pytest.mark.parametrize("law", LAWS)
def test_the_likelihood_told_is_that_of_the_parameters_told(law: Law) -> None:
    for k, name in enumerate(NAMES):
        mine = fitted(name, law)
        if name in ("never moved", "nothing", "infinite"):
            assert np.isnan(mine["log_likelihood"])
            continue
        model = {key: mine[key] for key in ("omega", "alpha", "beta", "freedom", "initial", "begins")}
        wanted = twin.log_likelihood(book()[k], **model)
        assert mine["log_likelihood"] == pytest.approx(wanted, rel=1e-9)
        back = twin.backcast(book()[k])
        assert mine["initial"] == pytest.approx(mine["omega"] + (mine["alpha"] + mine["beta"]) * back, rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_padding_before_or_behind_a_series_changes_nothing(double: None, law: Law) -> None:
    padded, ended = fitted("padded", law), fitted("ended", law)
    assert padded["begins"] == 300
    for key in ("omega", "alpha", "beta", "freedom", "initial"):
        assert padded[key] == pytest.approx(ended[key], rel=1e-12)
    calm = book()[NAMES.index("ended")][: BARS - 300]
    assert padded["log_likelihood"] >= expand(calm, within_bounds(calm, by_arch(calm, law)))[0] - 1e-4
    path, _ = fits(law).variance(jnp.asarray(book()))
    path = np.asarray(path)
    np.testing.assert_allclose(path[NAMES.index("padded"), 300:], path[NAMES.index("ended"), : BARS - 300], rtol=1e-10)


@pytest.mark.parametrize("law", LAWS)
def test_a_batch_is_its_series_one_by_one(double: None, law: Law) -> None:
    for name in ("calm", "explosive", "holed", "too short"):
        alone = fit_garch(jnp.asarray(book()[[NAMES.index(name)]]), law=law)
        together = fitted(name, law)
        assert bool(alone.converged[0]) == together["converged"]
        # Vectors of other lengths are rounded otherwise; at a maximum that moves parameters by the root of it.
        assert float(alone.log_likelihood[0]) == pytest.approx(together["log_likelihood"], rel=1e-10)
        for key in ("omega", "alpha", "beta", "initial"):
            assert float(getattr(alone, key)[0]) == pytest.approx(together[key], rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_another_unit_of_the_returns_is_another_unit_of_the_variance(law: Law) -> None:
    large, small = fitted("thousandfold", law), fitted("plain", law)
    assert large["omega"] == pytest.approx(1e6 * small["omega"], rel=1e-5)
    assert large["alpha"] == pytest.approx(small["alpha"], rel=1e-5)
    assert large["beta"] == pytest.approx(small["beta"], rel=1e-5)
    assert large["log_likelihood"] == pytest.approx(small["log_likelihood"] - BARS * np.log(1_000), rel=1e-10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", ["never moved", "nothing", "too short"])
def test_what_cannot_be_fitted_keeps_its_mean_square_and_says_so(name: str, law: Law) -> None:
    mine = fitted(name, law)
    returns = book()[NAMES.index(name)]
    known = returns[~np.isnan(returns)]
    square = float(np.mean(known**2)) if len(known) else 0.0
    assert not mine["converged"]
    assert (mine["alpha"], mine["beta"]) == (0.06, 0.92)
    assert mine["omega"] == pytest.approx(0.02 * square, rel=1e-12)
    assert mine["freedom"] == (4.0 if law == "t" else np.inf)


def test_a_price_that_stands_still_on_most_days_has_no_most_likely_t() -> None:
    # Its density at zero grows without end as the variance falls: the bound on omega would be the fit, 1e-8 of the mean
    # square, and the margin nothing.
    for name in ("stands still", "one jump"):
        mine = fitted(name, "t")
        square = float(np.mean(book()[NAMES.index(name)] ** 2))
        assert not mine["converged"]
        assert mine["omega"] / (1 - mine["alpha"] - mine["beta"]) == pytest.approx(square, rel=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_one_series_spoils_no_other_and_every_answer_is_legal(law: Law) -> None:
    mine = fits(law)
    for k, name in enumerate(NAMES):
        if name not in UNFIT:
            assert mine.converged[k], name
        assert 0 <= mine.alpha[k] <= 1, name
        assert 0 <= mine.beta[k] <= 1, name
        assert mine.alpha[k] + mine.beta[k] <= GREATEST_PERSISTENCE * (1 + 1e-12), name
        assert mine.omega[k] >= 0, name
        assert 2.05 * (1 - 1e-9) <= mine.freedom[k] <= 500 * (1 + 1e-9) or law == "normal", name
    assert np.isinf(mine.freedom).all() == (law == "normal")
    long_enough, too_short = fitted("long enough", law), fitted("too short", law)
    assert long_enough["converged"]
    assert not too_short["converged"]


@pytest.mark.parametrize("name", ["integrated", "explosive"])
def test_a_series_without_a_long_run_gets_the_most_persistent_model_that_has_one(double: None, name: str) -> None:
    returns = book()[NAMES.index(name)]
    mine = fitted(name, "normal")
    truth = within_bounds(returns, TRUTHS[name] | {"freedom": np.inf})
    assert mine["converged"]
    assert mine["log_likelihood"] >= expand(returns, truth)[0]
    assert mine["alpha"] + mine["beta"] > 0.98


@pytest.mark.long
def test_many_fits_scatter_about_the_truth_as_their_standard_errors_say(double: None) -> None:
    rng = np.random.default_rng(5)
    truth = {"omega": 1e-5, "alpha": 0.1, "beta": 0.85, "freedom": 5.0}
    returns = np.array([twin.simulate(rng, 3_000, **truth) for _ in range(64)])
    found = fit_garch(jnp.asarray(returns), law="t")
    assert np.asarray(found.converged).all()
    scores = []
    for k, moves in enumerate(returns):
        mine = {name: float(getattr(found, name)[k]) for name in truth}
        errors = standard_errors(moves, mine)
        scores.append([(mine[name] - truth[name]) / errors[name] for name in truth])
    # The mean of 64 scores is normal with an error of 1/8 about a bias of the order of 1 / (error of one fit), which is
    # a third of an error for omega and beta; their spread is one to within 1 / sqrt(128).
    mean, spread = np.mean(scores, axis=0), np.std(scores, axis=0)
    assert (np.abs(mean) < 1 / 3 + 3 / 8).all(), mean
    assert (np.abs(spread - 1) < 4 / np.sqrt(128)).all(), spread


def test_a_fit_can_be_part_of_a_greater_program(double: None) -> None:
    @jax.jit
    def today(returns: jax.Array) -> jax.Array:
        return fit_garch(2 * returns, law="normal").variance(2 * returns)[1]

    inside = np.asarray(today(jnp.asarray(book()[[CALM]] / 2)))
    _, final = fits("normal").variance(jnp.asarray(book()))
    np.testing.assert_allclose(inside[0], np.asarray(final)[CALM], rtol=1e-5)


def test_single_precision_and_unknown_laws_are_refused(double: None) -> None:
    with pytest.raises(ValueError, match="Give float64 returns"):
        fit_garch(jnp.zeros((2, 300), jnp.float32), law="t")
    with pytest.raises(ValueError, match="Use one of t, normal"):
        fit_garch(jnp.zeros((2, 300)), law="cauchy")  # type: ignore[arg-type]


def windows() -> Iterator[tuple[str, np.ndarray]]:
    """The last 1,000 daily log returns of every coin of the shared panel that has them."""
    for (symbol,), rows in pl.read_parquet(PANEL).sort("date").group_by("symbol", maintain_order=True):
        moves = np.diff(np.log(rows["close"].to_numpy()))
        if len(moves) >= BARS:
            yield symbol, moves[-BARS:]


@pytest.mark.skipif(not PANEL.is_file(), reason=f"there is no {PANEL}; name its folder with MARGINAX_SHARED")
@pytest.mark.parametrize("law", LAWS)
def test_no_coin_s_fit_is_less_likely_than_that_of_arch(double: None, law: Law) -> None:
    names, returns = zip(*windows(), strict=True)
    mine = fit(np.array(returns), law=law)
    for k, name in enumerate(names):
        theirs = by_arch(returns[k], law)
        assert mine.converged[k], name
        least = expand(returns[k], within_bounds(returns[k], theirs))[0] - 1e-4
        assert mine.log_likelihood[k] >= least, name
