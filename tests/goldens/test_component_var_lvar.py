"""Worked examples of component, marginal and incremental value at risk, and of value at risk with the cost of a spread.

Value at risk is z x volatility x amount; a component is the amount times the slope in it (Euler), an increment what
leaving a position out would save, and the spread costs half of itself, whatever the horizon. A case is told by what
it states, not by its name.
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
from scipy import stats

from goldens._vectors import Case, cases, printed, unknown

FOLDER = "component_var_lvar"
UNITS = {"usd": 1.0, "kusd": 1e3, "musd": 1e6}
STATED = re.compile(
    r"positions_usd|sigma\w*|rho|z|portfolio_usd|weight_\w+|beta_\w+|position|daily_vol|relative_spread|confidence|price"
    r"|note|formula|tol\w*"
)
Figures = dict[str, Any]


def read(folder: Path) -> Iterator[Case]:
    """Every figure of every case in cases.json that is not one of its inputs."""
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        known = {key: value for key, value in case.items() if STATED.fullmatch(key)}
        asked = {key: value for key, value in case.items() if key not in known}
        for needs, figures in KINDS:
            if all(any(re.fullmatch(need, key) for key in case) for need in needs):
                answers = partial(figures, case)
                break
        else:
            yield Case(FOLDER, name, case, 0.0, 0.0, unknown(name))
            continue
        if figures is one_of_two:
            asked.pop("portfolio_vol", None)  # stated there, calculated elsewhere
        for key, value in asked.items():
            named = value if isinstance(value, dict) else {"": value}
            for part, number in named.items():
                label = f"{key} {part}".strip()
                tolerance = case.get("tol_kusd" if key.endswith("kusd") else "tol", printed(number))
                yield Case(FOLDER, f"{name} {label}", known, number, tolerance, partial(pick, answers, key, part))


def pick(answers: Callable[[], Figures], key: str, part: str) -> float:
    """One figure in the unit its key names."""
    found = answers()
    unit = key.rsplit("_", 1)[-1]
    name = key.removesuffix(f"_{unit}") if unit in UNITS else key
    if name not in found:
        return float(np.asarray(unknown(key)()))
    figure = found[name][part] if part else found[name]
    return float(figure) / UNITS.get(unit, 1.0)


def several(case: dict[str, Any]) -> Figures:
    """Positions with volatilities and one correlation among them."""
    names = list(case["positions_usd"])
    amounts = jnp.array([case["positions_usd"][name] for name in names])
    sigma = np.array([case["sigma"][name] for name in names])
    correlation = np.where(np.eye(len(names)) == 1, 1.0, case["rho"])
    covariance = correlation * np.outer(sigma, sigma)

    def var(held: jax.Array) -> jax.Array:
        return case["z"] * jnp.sqrt(held @ covariance @ held)

    whole, slopes = var(amounts), jax.grad(var)(amounts)
    without = [var(amounts.at[k].set(0)) for k in range(len(names))]
    components = amounts * slopes
    # Euler: the components are the whole. Six float64 operations a term.
    assert float(components.sum()) == pytest.approx(float(whole), rel=1e-14)
    return {
        "individual_var": dict(zip(names, case["z"] * sigma * np.asarray(amounts), strict=True)),
        "portfolio_var": whole,
        "portfolio_vol": whole / case["z"] / amounts.sum(),
        "incremental_var": {name: whole - rest for name, rest in zip(names, without, strict=True)},
        "marginal_var": dict(zip(names, slopes, strict=True)),
        "component_var": dict(zip(names, components, strict=True)),
        "beta": dict(zip(names, slopes * amounts.sum() / whole, strict=True)),
    }


def one_of_two(case: dict[str, Any]) -> Figures:
    """One position of a portfolio of two, whose own beta and volatility are stated."""
    weight_key = next(key for key in case if key.startswith("weight_"))
    name = weight_key.removeprefix("weight_")
    weight, value, z = case[weight_key], case["portfolio_usd"], case["z"]
    whole = z * case["portfolio_vol"] * value
    rest = z * case["sigma_other"] * (1 - weight) * value
    return {
        f"individual_{name}_var": z * case[f"sigma_{name}"] * weight * value,
        f"component_var_{name}": whole * case[f"beta_{name}"] * weight,
        f"incremental_var_{name}": whole - rest,
        "portfolio_var": whole,
    }


class Horizons(dict[str, float]):
    """Figures over any number of days: var_1d, lvar_10d; without a number, one day."""

    def __init__(self, var: float, cost: float) -> None:
        super().__init__({"var": var, "lvar": var + cost})
        self._var, self._cost = var, cost

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or re.fullmatch(r"l?var_\d+d", str(key)) is not None

    def __missing__(self, key: str) -> float:
        days = int(re.sub(r"\D", "", key))
        return self._var * np.sqrt(days) + (self._cost if key.startswith("lvar") else 0.0)


def with_spread(case: dict[str, Any]) -> Figures:
    """Value at risk of one position and what half the spread adds, which no horizon scales."""
    value = case.get("position", case.get("price"))
    sigma = case.get("daily_vol", case.get("sigma_daily"))
    z = case["z"] if "z" in case else stats.norm.ppf(case["confidence"])
    return Horizons(z * sigma * value, 0.5 * case["relative_spread"] * value)


# What a case of each kind states.
KINDS: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], Figures]], ...] = (
    (("positions_usd", "sigma", "rho", "z"), several),
    (("portfolio_usd", r"weight_\w+", r"beta_\w+", "sigma_other", "portfolio_vol", "z"), one_of_two),
    (("relative_spread", "position|price", "daily_vol|sigma_daily", "z|confidence"), with_spread),
)


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_worked_example_of_component_and_liquidity_adjusted_risk_is_met(
    case: Case, agree: Callable[[Case], None]
) -> None:
    agree(case)
