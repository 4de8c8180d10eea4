"""Black-76 with time in seconds, extremes among it, and raw SVI volatilities, from the tests of Lyra's contracts."""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from math import log, sqrt
from pathlib import Path

import jax
import numpy as np
import pytest

from goldens._vectors import Case, cases, unknown
from marginax_kernels import black76, svi_total_variance

FOLDER = "lyra_black76_svi"
SECONDS_A_YEAR = 365 * 86_400
PRICE_TOLERANCE, VOLATILITY_TOLERANCE = 1e-12, 1e-14
"""Of the README; a price is a float64 number too, with a last digit of 2.2e-16 of its size."""
LEAST_MONEYNESS = 4.0
"""The contracts cut log-moneyness at four deviations of the slice's a + b sigma."""
Row = dict[str, str]


def option(row: Row) -> tuple[float, float, float]:
    deviation = float(row["vol"]) * sqrt(float(row["sec_to_expiry"]) / SECONDS_A_YEAR)
    return float(row["forward"]), float(row["strike"]), deviation


def price(row: Row, *, call: bool) -> float:
    return float(row["discount"]) * float(black76(*option(row), call=call))


def delta(row: Row) -> float:
    return float(jax.grad(partial(black76, call=True))(*option(row)))


def volatility(row: Row) -> float:
    a, b, rho, m, sigma = (float(row[name]) for name in ("a", "b", "rho", "m", "sigma"))
    cut = LEAST_MONEYNESS * sqrt(a + b * sigma)
    k = np.clip(log(float(row["strike"]) / float(row["forward"])), -cut, cut)
    return sqrt(float(svi_total_variance(k, a, b, rho, m, sigma)) / float(row["tau"]))


FIGURES: dict[str, Callable[[Row], float]] = {
    "call": partial(price, call=True),
    "put": partial(price, call=False),
    "call_delta_undiscounted": delta,
}
STATED = {"sec_to_expiry", "vol", "forward", "strike", "discount"}


def read(folder: Path) -> Iterator[Case]:
    """Every figure of every row of every table."""
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                name = f"{path.stem} row {number}"
                if "tau" in row:
                    wanted = float(row["vol"])
                    yield Case(FOLDER, name, row, wanted, VOLATILITY_TOLERANCE, partial(volatility, row))
                    continue
                for column in [each for each in row if each not in STATED]:
                    known = partial(FIGURES[column], row) if column in FIGURES else unknown(f"{name} {column}")
                    wanted = float(row[column])
                    rounding = 2 * np.finfo(float).eps * max(float(row["forward"]), float(row["strike"]))
                    tolerance = max(PRICE_TOLERANCE, 0 if "delta" in column else rounding)
                    yield Case(FOLDER, f"{name} {column}", row, wanted, tolerance, known)


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_price_and_volatility_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
