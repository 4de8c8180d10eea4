"""Published filters run through the one interface of volatility: RiskMetrics, Hull, QuantLib's GARCH(1,1) filter, and
the variance behind the likelihood of the GARCH benchmark on DM/GBP returns."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from goldens._vectors import Case, cases
from goldens.test_fcp_garch import NAMES, returns
from marginax.scenarios.volatility import Ewma, Garch, VolatilityModel
from marginax_kernels import garch_variance

UNBOUNDED = np.asarray(np.inf)
FOLDERS = ("ewma_riskmetrics_hull", "fcp_garch")


def path(model: VolatilityModel, moves: np.ndarray, first: float, long_run: float = 1.0) -> np.ndarray:
    """The variance known after each return, from the one before the first."""
    state = model.begin(jnp.asarray([first]), bars_per_day=1.0)
    anchor = jnp.asarray([long_run])

    @jax.jit
    def step(state: Any, move: jax.Array) -> Any:
        return model.step(state, move[None], jnp.ones(1), anchor, bars_per_day=1.0)

    found = []
    for move in moves:
        state = step(state, jnp.asarray(move))
        found.append(float(model.variance(state, anchor, bars_per_day=1.0)[0]))
    return np.array(found)


def ewma(decay: float) -> Ewma:
    return Ewma(jnp.asarray(-1 / np.log2(decay)), UNBOUNDED)


def garch(alpha: float, beta: float) -> Garch:
    return Garch(jnp.asarray(alpha), jnp.asarray(beta), UNBOUNDED)


def read(folder: Path) -> Iterator[Case]:
    """Whatever of these the files hold, by the keys they state."""
    if folder.name == "fcp_garch":
        yield from benchmark(folder)
        return
    for name, given in json.loads((folder / "cases.json").read_text()).items():
        make = partial(calculate, given)
        if "returns" in given and "variance" in given:
            yield Case(folder.name, f"interface {name}", given, given["variance"], given["tol"], make)
        elif "x" in given and "sd" in given:
            yield Case(folder.name, f"interface {name}", given, given["sd"], given["tol"], make)
        elif "price_now" in given or "input_returns" in given:
            yield Case(folder.name, f"interface {name}", given, given["vol"], given["tol"], make)


def calculate(given: dict[str, Any]) -> Any:
    if "returns" in given:
        squares = np.array(given["returns"])
        first = squares[0] ** 2
        return [first, *path(ewma(given["lambda"]), squares[1:], first)]
    if "x" in given:
        return np.sqrt(path(ewma(given["lambda"]), np.array(given["x"]), given["seed_sd"] ** 2))
    if "input_returns" in given:
        moves = np.array(given["input_returns"])
        model, long_run = garch(given["alpha"], given["beta"]), given["long_run_variance"]
        return np.sqrt(path(model, moves, moves[0] ** 2, long_run))
    move = np.array([given["price_now"] / given["price_prev"] - 1])
    if "omega" not in given:
        return float(np.sqrt(path(ewma(given["lambda"]), move, given["vol_prev"] ** 2))[0])
    alpha, beta = given["alpha"], given["beta"]
    long_run = given["omega"] / (1 - alpha - beta)
    return float(np.sqrt(path(garch(alpha, beta), move, given["vol_prev"] ** 2, long_run))[0])


def benchmark(folder: Path) -> Iterator[Case]:
    """At every author's parameters, bar by bar, the variance of the kernel that the likelihood is made of."""
    for author, given in json.loads((folder / "expected.json").read_text()).items():
        if isinstance(given, dict) and all(name in given for name in NAMES):
            apart = partial(distance, folder / "dem2gbp.csv", *(given[name] for name in NAMES))
            yield Case(folder.name, f"interface {author} variance", given, 0.0, 1e-12, apart)


def distance(data: Path, mu: float, omega: float, alpha: float, beta: float) -> float:
    """The greatest difference between the two."""
    moves = returns(data) - mu
    first = omega + (alpha + beta) * float(np.mean(moves**2))
    numbers = {"omega": omega, "alpha": alpha, "beta": beta, "initial": first}
    wanted, last = garch_variance(jnp.asarray(moves), **{name: jnp.asarray(number) for name, number in numbers.items()})
    found = path(garch(alpha, beta), moves, first, omega / (1 - alpha - beta))
    return float(np.abs(found - np.append(np.asarray(wanted)[1:], float(last))).max())


@pytest.mark.parametrize("case", [case for folder in FOLDERS for case in cases(folder, read)], ids=str)
def test_published_filters_run_through_the_interface(case: Case, agree: Any) -> None:
    agree(case)
