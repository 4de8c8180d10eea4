"""Almgren and Chriss' efficient frontier: expected cost, variance, utility and half-life of the optimal schedules."""

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import pytest
from numpy.typing import ArrayLike

from goldens._vectors import Case, cases, unknown
from marginax_kernels import Liquidation, optimal_liquidation

FOLDER = "almgren_chriss"
MILLIONS, SQUARED = 1e6, 1e12
AVERSION = "lambda_per_1e6"

schedule = jax.jit(optimal_liquidation, static_argnames="periods")


def read(folder: Path) -> Iterator[Case]:
    """Every printed figure of every row of the frontier."""
    market = json.loads((folder / "params.json").read_text())
    with (folder / "frontier.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != AVERSION:
                    # Printed numbers lose zeros at the end, so digits are those that the README states.
                    digits = 2 if name in PRINTED_SHORT else 4
                    figure = partial(calculate, market, row, FIGURES[name]) if name in FIGURES else unknown(name)
                    story = {**market, AVERSION: row[AVERSION]}
                    yield Case(FOLDER, f"{row[AVERSION]} {name}", story, float(value), 0.5001 * 10**-digits, figure)


def calculate(market: dict[str, float], row: dict[str, str], figure: Callable[..., ArrayLike]) -> ArrayLike:
    """One figure of the schedule at one aversion to risk."""
    aversion = float(row[AVERSION]) / MILLIONS
    found = schedule(
        market["X"],
        horizon=market["T_days"],
        deviation=market["sigma_per_day"],
        risk_aversion=aversion,
        fixed=market["epsilon"],
        permanent=market["gamma"],
        temporary=market["eta"],
        periods=int(market["N"]),
    )
    return figure(found, aversion)


PRINTED_SHORT = ("half_life_1_over_kappa_days",)
FIGURES: dict[str, Callable[[Liquidation, float], ArrayLike]] = {
    "expected_cost_musd": lambda found, _: found.cost / MILLIONS,
    "variance_1e12": lambda found, _: found.variance / SQUARED,
    "utility_cost_plus_lambda_var_musd": lambda found, aversion: (found.cost + aversion * found.variance) / MILLIONS,
    "half_life_1_over_kappa_days": lambda found, _: found.half_life,
}


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_the_frontier_is_as_printed(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
