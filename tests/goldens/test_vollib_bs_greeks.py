"""Black-Scholes and Black-76 values and Greeks from the tables and examples of vollib.

Spot options are options on the forward S exp(r T), discounted by exp(-r T); Greeks are gradients of that composition.
Under Black-76 the forward is held and theta and rho come through the discount too.
"""

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from goldens._vectors import Case, cases, printed, unknown
from marginax_kernels import black76

FOLDER = "vollib_bs_greeks"
TABLE_TOLERANCE = 1e-6
"""What the table's own tests allow, according to its README: its prices are off by up to 4.4e-7."""
EXAMPLE_TOLERANCE = 1e-8
Value = Callable[..., jax.Array]


@partial(jax.jit, static_argnames="spot")
def value(
    price: float, strike: float, years: float, rate: float, volatility: float, call: bool, *, spot: bool
) -> jax.Array:
    """Discounted value; `price` is the spot or the forward."""
    forward = price * jnp.exp(rate * years) if spot else price
    return jnp.exp(-rate * years) * black76(forward, strike, volatility * jnp.sqrt(years), call=call)


# By name: which argument the value is differentiated by, how often, and in what unit it is printed.
GREEKS = {
    "price": (0, 0, 1.0),
    "delta": (0, 1, 1.0),
    "gamma": (0, 2, 1.0),
    "theta_annual": (2, 1, -1.0),
    "theta_per_day_365": (2, 1, -1 / 365),
    "rho": (3, 1, 1.0),
    "rho_per_1pct": (3, 1, 0.01),
    "vega": (4, 1, 1.0),
    "vega_per_1pct": (4, 1, 0.01),
}
STATED = ("S", "K", "t", "R", "v")
LETTERS = {"D": "delta", "G": "gamma", "T": "theta_annual", "V": "vega", "R": "rho"}
COLUMNS = {"bs_call": ("price", True), "bs_put": ("price", False)} | {
    side + letter: (greek, side == "C") for side in "CP" for letter, greek in LETTERS.items()
}


def figure(greek: str, at: list[float], call: bool, spot: bool) -> float:
    """One printed quantity."""
    place, order, unit = GREEKS[greek]
    function: Value = partial(value, spot=spot)
    for _ in range(order):
        function = jax.grad(function, place)
    return unit * float(function(*at, call))


def read(folder: Path) -> Iterator[Case]:
    """Every row of every table, every quantity of every row."""
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                yield from (examples if "quantity" in row else table)(f"{path.stem} row {number}", row)


def table(name: str, row: dict[str, str]) -> Iterator[Case]:
    inputs = [float(row[column]) for column in STATED]
    for column in [each for each in row if each not in STATED]:
        greek, call = COLUMNS.get(column, (None, False))
        known = partial(figure, greek, inputs, call, True) if greek else unknown(f"{name} {column}")
        yield Case(FOLDER, f"{name} {column}", row, float(row[column]), TABLE_TOLERANCE, known)


def examples(name: str, row: dict[str, str]) -> Iterator[Case]:
    spot = row["model"] == "black_scholes"
    columns = ("S" if spot else "F", "K", "T_years", next(name for name in ("r", "R") if name in row), "sigma")
    known = row["model"] in ("black_scholes", "black76") and row["quantity"] in GREEKS
    what = f"{name} {row['model']} {row['type']} {row['quantity']}"
    inputs = [float(row[column]) for column in columns] if known else []
    calculate = partial(figure, row["quantity"], inputs, row["type"] == "call", spot) if known else unknown(what)
    wanted = float(row["value"])
    yield Case(FOLDER, what, row, wanted, max(EXAMPLE_TOLERANCE, min(printed(wanted), 1e-6)), calculate)


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_value_and_greek_of_the_tables_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
