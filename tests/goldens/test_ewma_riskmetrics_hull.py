"""Exponential and GARCH(1,1) variances: RiskMetrics' tables, Hull's problems, QuantLib's filter.

A GARCH(1,1) step is an exponential one in disguise: omega + (alpha + beta) x the update with decay beta / (alpha +
beta). A case is told by what it states, not by its name.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

from goldens._vectors import Case, cases, printed, unknown
from marginax_kernels import ewma_update, ewma_variance

FOLDER = "ewma_riskmetrics_hull"
ONE_BAR = np.ones(())
STATED = re.compile(
    r"lambda|omega|alpha|beta|long_run_variance|seed\w*|price_\w+|vol_prev|returns|input_returns|x|recursion|note|tol"
)

update = jax.jit(ewma_update, static_argnames="half_life")
variances = jax.jit(ewma_variance, static_argnames="half_life")
Figure = Callable[[dict[str, Any]], ArrayLike]


def read(folder: Path) -> Iterator[Case]:
    """Every printed figure of every case in cases.json."""
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        figures = next((KINDS[kind] for kind in KINDS if set(kind) <= set(case)), {})
        inputs = {key: value for key, value in case.items() if STATED.fullmatch(key)}
        for key, value in case.items():
            if key not in inputs:
                figure = partial(figures[key], case) if key in figures else unknown(f"{name} {key}")
                yield Case(FOLDER, f"{name} {key}", inputs, value, case.get("tol", printed(value)), figure)


def half_life(decay: float) -> float:
    """Bars in which a weight halves."""
    return float(np.log(0.5) / np.log(decay))


def path(moves: list[float], seed: float, decay: float) -> np.ndarray:
    """Variances after each of the moves."""
    returns = np.array(moves)[:, None]
    before, last = variances(returns, np.ones(returns.shape), np.array([seed]), half_life=half_life(decay))
    return np.append(np.asarray(before)[1:, 0], np.asarray(last))


def table(case: dict[str, Any]) -> np.ndarray:
    """The first variance is the square of the first return, and each return adds one."""
    first, *rest = case["returns"]
    return np.append(first**2, path(rest, first**2, case["lambda"]))


def deviations(case: dict[str, Any]) -> np.ndarray:
    """Volatilities after each of the moves, from a stated one."""
    return np.sqrt(path(case["x"], case["seed_sd"] ** 2, case["lambda"]))


def change(case: dict[str, Any]) -> float:
    """The day's relative change of price."""
    return (case["price_now"] - case["price_prev"]) / case["price_prev"]


def updated(case: dict[str, Any]) -> float:
    """Variance after one more day."""
    before = jnp.asarray(case["vol_prev"] ** 2)
    decay = half_life(case["lambda"])
    return float(update(before, jnp.asarray(change(case)), ONE_BAR, half_life=decay))


def garch(variance: float, move: float, *, omega: float, alpha: float, beta: float) -> float:
    """omega + alpha r^2 + beta v."""
    persistence = alpha + beta
    decay = half_life(beta / persistence)
    step = update(jnp.asarray(variance), jnp.asarray(move), ONE_BAR, half_life=decay)
    return omega + persistence * float(step)


def garch_updated(case: dict[str, Any]) -> float:
    """GARCH variance after one more day."""
    given = {name: case[name] for name in ("omega", "alpha", "beta")}
    return garch(case["vol_prev"] ** 2, change(case), **given)


def garch_path(case: dict[str, Any]) -> np.ndarray:
    """Volatilities after each return, from the square of the first; omega is what the long run implies."""
    omega = case["long_run_variance"] * (1 - case["alpha"] - case["beta"])
    variance, found = case["input_returns"][0] ** 2, []
    for move in case["input_returns"]:
        variance = garch(variance, move, omega=omega, alpha=case["alpha"], beta=case["beta"])
        found.append(np.sqrt(variance))
    return np.array(found)


# By what a case states: what it prints. The first that fits is taken, so the more particular ones come first.
KINDS: dict[tuple[str, ...], dict[str, Figure]] = {
    ("input_returns", "alpha", "beta", "long_run_variance"): {"vol": garch_path},
    ("price_prev", "price_now", "vol_prev", "omega", "alpha", "beta"): {
        "variance": garch_updated,
        "vol": lambda case: np.sqrt(garch_updated(case)),
    },
    ("price_prev", "price_now", "vol_prev", "lambda"): {
        "variance": updated,
        "vol": lambda case: np.sqrt(updated(case)),
    },
    ("x", "seed_sd", "lambda"): {"sd": deviations},
    ("returns", "lambda"): {"variance": table, "vol": lambda case: np.sqrt(table(case))},
}


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_exponential_and_garch_variance_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
