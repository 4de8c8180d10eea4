"""European options as printed by Haug (1998) and the deltas of currency options, from QuantLib's own tests.

Spot options are options on the forward S exp((r - q) T), discounted by exp(-r T): their Greeks are gradients of that
composition. A row is calculated from its columns; what no calculation is known for fails by name.
"""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from goldens._vectors import Case, cases, unknown
from marginax_kernels import black76

FOLDER = "quantlib_options"
DELTA_TOLERANCE = 1e-3
"""What the currency table is printed to, according to its README."""
Row = dict[str, str]


def spot_value(spot: float, volatility: float, years: float, rate: float, dividend: float, row: Row) -> jax.Array:
    """Black-Scholes-Merton by way of Black-76."""
    forward, discount = spot * jnp.exp((rate - dividend) * years), jnp.exp(-rate * years)
    return discount * black76(forward, float(row["strike"]), volatility * jnp.sqrt(years), call=row["type"] == "call")


def stated(row: Row) -> list[float]:
    return [float(row[name]) for name in ("spot", "vol", "t_years", "r", "q")]


def slope(place: int, sign: float, row: Row) -> float:
    return sign * float(jax.grad(spot_value, place)(*stated(row), row))


def elasticity(row: Row) -> float:
    return slope(0, 1, row) * float(row["spot"]) / float(spot_value(*stated(row), row))


GREEKS: dict[str, Callable[[Row], float]] = {
    "delta": partial(slope, 0, 1.0),
    "gamma": lambda row: float(jax.grad(jax.grad(spot_value))(*stated(row), row)),
    "vega": partial(slope, 1, 1.0),
    "theta": partial(slope, 2, -1.0),
    "theta_per_day": lambda row: slope(2, -1.0, row) / 365,
    "theta_per_day_365": lambda row: slope(2, -1.0, row) / 365,
    "rho": partial(slope, 3, 1.0),
    "dividend_rho": partial(slope, 4, 1.0),
    "elasticity": elasticity,
}


def currency_delta(row: Row) -> float:
    """By the forward or by the spot; less the premium, in units of the foreign currency, where it is adjusted."""
    domestic, foreign = float(row["domestic_df"]), float(row["foreign_df"])
    forward = float(row["spot"]) * foreign / domestic
    deviation, strike = float(row["stdev(vol*sqrt(T))"]), float(row["strike"])
    price = partial(black76, call=row["type"] == "call")
    delta = float(jax.grad(price)(forward, strike, deviation))
    if row["delta_type"].startswith("Pa"):
        delta -= float(price(forward, strike, deviation)) / forward
    return delta * {"Spot": foreign, "Fwd": 1.0}[row["delta_type"].removeprefix("Pa")]


def read(folder: Path) -> Iterator[Case]:
    """Every row of every table."""
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                yield case(f"{path.stem} row {number}", row)


def case(name: str, row: Row) -> Case:
    if "delta_type" in row:
        known = row["delta_type"] in ("Spot", "PaSpot", "Fwd", "PaFwd")
        calculate = partial(currency_delta, row) if known else unknown(f"{name} {row['delta_type']}")
        return Case(FOLDER, name, row, float(row["delta"]), DELTA_TOLERANCE, calculate)
    figure = row.get("greek", "value")
    greeks = {**GREEKS, "value": lambda row: float(spot_value(*stated(row), row))}
    calculate = partial(greeks[figure], row) if figure in greeks else unknown(f"{name} {figure}")
    return Case(FOLDER, f"{name} {figure}", row, float(row["value"]), float(row["tol"]), calculate)


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_printed_option_and_delta_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
