"""The GARCH(1,1) benchmark of Fiorentini, Calzolari and Panattoni (1996): Bollerslev and Ghysels' DM/GBP returns.

The model has a constant mean and normal innovations, and takes the square before the first return and the variance
known for it to be the mean square about the mean of the moment, so the presample moves with the mean. Each author's
parameters, likelihood and standard errors are a case. EGARCH is not part of this project.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from goldens._vectors import Case, cases, printed, unknown
from marginax_kernels import garch_log_likelihood, garch_variance

FOLDER = "fcp_garch"
NAMES = ("mu", "omega", "alpha", "beta")
STATED = ("model", "presample", "n_obs")
FOREIGN = ("egarch",)
# README.md of the folder: parameters and likelihood to 1e-9, standard errors to 1e-6.
PARAMETER, LIKELIHOOD, ERROR = 1e-9, 1e-9, 1e-6
# fGarch's coefficients, 1e-7 off, are where its own search stopped; its likelihood there is as good as the maximum.
SHORT_OF_IT = {"fgarch_docs": 1e-8}


def read(folder: Path) -> Iterator[Case]:
    """Every figure of every author in expected.json."""
    for author, figures in json.loads((folder / "expected.json").read_text()).items():
        if author in STATED:
            continue
        models = figures if "mu" not in figures else {"": figures}
        for model, given in models.items():
            if model not in FOREIGN:
                yield from figures_of(f"{author} {model}".strip(), given, folder / "dem2gbp.csv")


def figures_of(author: str, given: dict[str, Any], data: Path) -> Iterator[Case]:
    theta = [given[name] for name in NAMES]
    digits = [whole_digit(value) for value in theta]
    loose = max(PARAMETER, *digits)
    if author in SHORT_OF_IT:
        top = partial(best_likelihood, data)
        yield Case(FOLDER, f"{author} likelihood", given, 0.0, SHORT_OF_IT[author], lambda: top() - total(theta, data))
    else:
        for k, name in enumerate(NAMES):
            # Some authors cut where others round.
            found = partial(fitted_parameter, data, k)
            yield Case(FOLDER, f"{author} fitted {name}", given, given[name], max(PARAMETER, digits[k]), found)
    if loose == PARAMETER:
        for k, name in enumerate(NAMES):
            slope = partial(slope_by, theta, data, k, digits)
            yield Case(FOLDER, f"{author} slope by {name}", given, 0.0, 1.0, slope)
    for key, value in given.items():
        if key in NAMES:
            continue
        if key == "loglik":
            tolerance = max(LIKELIHOOD, whole_digit(value))
            yield Case(FOLDER, f"{author} loglik", given, value, tolerance, partial(total, theta, data))
        elif key == "hessian_se":
            yield Case(FOLDER, f"{author} {key}", given, value, ERROR, partial(hessian_errors, theta, data))
        elif key == "robust_se":
            wanted = [value[name] for name in NAMES]
            yield Case(FOLDER, f"{author} {key}", given, wanted, ERROR, partial(robust_errors, theta, data))
        elif key.startswith("robust_se_"):
            place = NAMES.index(key.removeprefix("robust_se_"))
            error = partial(lambda k: robust_errors(theta, data)[k], place)
            yield Case(FOLDER, f"{author} {key}", given, value, whole_digit(value), error)
        else:
            yield Case(FOLDER, f"{author} {key}", given, value, 0.0, unknown(f"{author} {key}"))


def whole_digit(value: float) -> float:
    """A unit of the last digit that is printed."""
    return 2 * printed(value)


@cache
def returns(data: Path) -> np.ndarray:
    return np.loadtxt(data, skiprows=1)


def model_of(theta: jax.Array, moves: np.ndarray) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns about the mean, and the model with its presample."""
    mu, omega, alpha, beta = theta
    around = jnp.asarray(moves) - mu
    initial = omega + (alpha + beta) * jnp.mean(around**2)
    return around, {"omega": omega, "alpha": alpha, "beta": beta, "initial": initial}


def log_likelihood(theta: jax.Array, moves: np.ndarray) -> jax.Array:
    around, model = model_of(theta, moves)
    return garch_log_likelihood(around, **model, freedom=jnp.asarray(jnp.inf))


def log_densities(theta: jax.Array, moves: np.ndarray) -> jax.Array:
    """Bar by bar, for the outer product of their gradients."""
    around, model = model_of(theta, moves)
    variance, _ = garch_variance(around, **model)
    return -(jnp.log(2 * jnp.pi * variance) + around**2 / variance) / 2


# Compiled once for the data that all authors share.
value_of = jax.jit(log_likelihood)
slope_of = jax.jit(jax.grad(log_likelihood))
curvature_of = jax.jit(jax.hessian(log_likelihood))
scores_of = jax.jit(jax.jacfwd(log_densities))


def in_double(function: Callable[..., jax.Array], theta: Any, data: Path) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(function(jnp.asarray(theta, float), returns(data)))


def total(theta: list[float], data: Path) -> float:
    return float(in_double(value_of, theta, data))


def slope_by(theta: list[float], data: Path, k: int, digits: list[float]) -> float:
    """In units of the curvature times half of each last digit: at the maximum zero, where it is printed up to one."""
    steep = np.abs(curvature(theta, data)[k]) @ np.divide(digits, 2)
    return float(in_double(slope_of, theta, data)[k] / steep)


def curvature(theta: list[float], data: Path) -> np.ndarray:
    return in_double(curvature_of, theta, data)


def hessian_errors(theta: list[float], data: Path) -> np.ndarray:
    return np.sqrt(np.diag(np.linalg.inv(-curvature(theta, data))))


def robust_errors(theta: list[float], data: Path) -> np.ndarray:
    bread = np.linalg.inv(curvature(theta, data))
    scores = in_double(scores_of, theta, data)
    return np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))


@cache
def fitted(data: Path) -> np.ndarray:
    """Newton's method from a mean of zero, a long run of the mean square, alpha 0.1 and beta 0.85.

    It stops at slopes below 1e-7: times the inverse curvature, whose entries are below 0.002, that is 1e-9 at most.
    """
    start = [0.0, 0.05 * float(np.mean(returns(data) ** 2)), 0.1, 0.85]
    end = optimize.minimize(
        lambda x: -in_double(value_of, x, data),
        start,
        jac=lambda x: -in_double(slope_of, x, data),
        hess=lambda x: -in_double(curvature_of, x, data),
        method="trust-exact",
        options={"initial_trust_radius": 0.005, "max_trust_radius": 0.05, "gtol": 1e-7},
    )
    return end.x


def fitted_parameter(data: Path, k: int) -> float:
    return float(fitted(data)[k])


def best_likelihood(data: Path) -> float:
    return total(fitted(data).tolist(), data)


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_author_s_fit_of_the_mark_against_the_pound_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
