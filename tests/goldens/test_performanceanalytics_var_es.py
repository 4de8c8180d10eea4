"""Hedge-fund indices: historical, Gaussian and modified value at risk and expected shortfall, whole and by component.

Conventions of the R package that are not the kernels': figures are returns (a loss is negative), `p` is the
confidence, the historical quantile is R's type 7, moments are population moments, and modified figures follow
Cornish-Fisher and Edgeworth (Boudt, Peterson and Croux, 2008). Entries whose own author calls them NOT_REPRODUCED
(returns cleaned by a robust method that nobody here has) are no cases. Tables are printed truncated at four
decimals.
"""

import csv
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
from jax.scipy import stats as jstats
from numpy.typing import ArrayLike
from scipy import stats

from goldens._vectors import Case, cases, printed, unknown
from marginax_kernels import exceedance_probability, expected_shortfall, value_at_risk

FOLDER = "performanceanalytics_var_es"
TRUNCATED = 1e-4

quantile = jax.jit(value_at_risk, static_argnames="tail")
tail_mean = jax.jit(expected_shortfall, static_argnames="tail")


def read(folder: Path) -> Iterator[Case]:
    """Every cell of the univariate table, and every entry beside it."""
    with (folder / "edhec.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    series = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "row"}
    yield from univariate(folder / "expected_univariate.csv", series)
    yield from others(folder / "expected_other.json", np.column_stack(list(series.values())))


def univariate(path: Path, series: dict[str, np.ndarray]) -> Iterator[Case]:
    """Measure x method x confidence x series, as many as the table has."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            measure, method, p = row.pop("measure"), row.pop("method"), row.pop("p")
            for name, value in row.items():
                inputs = {"series": name, "rows": len(series[name]), "p": float(p)}
                figure = partial(risk, series[name], measure, method, float(p))
                yield Case(FOLDER, f"{measure} {method} {p} {name}", inputs, float(value), TRUNCATED, figure)


def others(path: Path, table: np.ndarray) -> Iterator[Case]:
    """The entries of expected_other.json, told apart by their keys and what they state."""
    for key, entry in json.loads(path.read_text()).items():
        if key.startswith("NOT_REPRODUCED"):
            continue
        # What an entry does not state is the package's usual: all rows, all columns, equal weights, 95 %.
        said = " ".join([key, *(text for text in entry.values() if isinstance(text, str))])
        data = chosen(table, said)
        p = float(entry.get("p", found(r"p=([\d.]+)", said) or 0.95))
        if key.startswith("archive_baseline"):
            tolerance = float(found(r"tol (\S+)", said) or 1e-6)
            for name, value in entry.items():
                figure = partial(risk, data[:, 0], *name.split("_"), p)
                yield Case(FOLDER, f"{key} {name}", {"data": said, "p": p}, value, tolerance, figure)
        elif "component" in key:
            yield from components(key, entry, data, p)
        elif key.startswith("VaR_backtest"):
            yield from backtest(key, entry, data[:, 0], float(found(r"historical ([\d.]+)", said) or p))
        else:
            yield Case(FOLDER, key, entry, 0.0, 0.0, unknown(key))


def found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def chosen(table: np.ndarray, said: str) -> np.ndarray:
    """The rows and columns that an entry speaks of; all of those it does not mention."""
    rows, columns = (re.search(rf"{name}s? (\d+)(?:-(\d+))?", said) for name in ("row", "column"))
    for axis, match in ((0, rows), (1, columns)):
        if match:
            table = np.take(table, range(int(match[1]) - 1, int(match[2] or match[1])), axis=axis)
    return table


def risk(returns: np.ndarray, measure: str, method: str, p: float) -> float:
    """A return: value at risk or expected shortfall of one series."""
    if method == "historical":
        return historical(returns, measure, 1 - p)
    mean, centred = returns.mean(), returns - returns.mean()
    moments = [mean, *(np.mean(centred**power) for power in (2, 3, 4))]
    if method == "gaussian":
        z = stats.norm.ppf(1 - p)
        return float(mean + np.sqrt(moments[1]) * (z if measure == "VaR" else -stats.norm.pdf(z) / (1 - p)))
    if method == "modified":
        return float(MODIFIED[measure](*moments, p))
    raise AssertionError(f"no calculation is known for the method {method!r}")


def historical(returns: np.ndarray, measure: str, tail: float) -> float:
    """R's type 7 lies between two order statistics, each a value at risk; then the mean of what is no better."""
    losses, count = -returns, len(returns)
    weights = np.full(count, 1 / count)
    place = (count - 1) * tail
    ranks = int(place) + 1, int(place) + 2
    nearer, farther = (float(quantile(losses, weights, tail=rank / count)) for rank in ranks)
    edge = nearer + (place - int(place)) * (farther - nearer)
    if measure == "VaR":
        return -edge
    beyond = int(np.sum(losses >= edge))
    return -float(tail_mean(losses, weights, tail=beyond / count))


def modified_var(mean: Any, m2: Any, m3: Any, m4: Any, p: float) -> Any:
    """Cornish-Fisher: a normal quantile corrected for skewness and excess kurtosis, as a return."""
    return mean + jnp.sqrt(m2) * corrected(m3 / m2**1.5, m4 / m2**2 - 3, 1 - p)


def corrected(s: Any, k: Any, tail: float) -> Any:
    z = stats.norm.ppf(tail)
    return z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36


def modified_es(mean: Any, m2: Any, m3: Any, m4: Any, p: float) -> Any:
    """The mean of the Edgeworth density below the Cornish-Fisher quantile, and never milder than that quantile."""
    tail, s, k = 1 - p, m3 / m2**1.5, m4 / m2**2 - 3
    h = corrected(s, k, tail)
    density = jstats.norm.pdf(h)
    i1, i2, i3, i4, i6 = (partial_moment(order, h) for order in (1, 2, 3, 4, 6))
    edgeworth = (
        density
        + (i4 - 6 * i2 + 3 * density) * k / 24
        + (i3 - 3 * i1) * s / 6
        + (i6 - 15 * i4 + 45 * i2 - 15 * density) * s**2 / 72
    ) / tail
    return mean + jnp.sqrt(m2) * jnp.minimum(-edgeworth, h)


def partial_moment(order: int, h: Any) -> Any:
    """The generalised integral of a normal tail, by the sums of Boudt, Peterson and Croux."""
    if order % 2 == 0:
        whole = np.prod([2 * j for j in range(1, order // 2 + 1)])
        parts = [np.prod([2 * j for j in range(1, i + 1)]) for i in range(1, order // 2 + 1)]
        sums = sum(whole / part * h ** (2 * i) for i, part in enumerate(parts, start=1))
        return (sums + whole) * jstats.norm.pdf(h)
    odd = [2 * j + 1 for j in range((order - 1) // 2 + 1)]
    sums = sum(np.prod(odd) / np.prod(odd[: i + 1]) * h ** (2 * i + 1) for i in range(len(odd)))
    return sums * jstats.norm.pdf(h) - np.prod(odd) * jstats.norm.cdf(h)


MODIFIED = {"VaR": modified_var, "ES": modified_es}
MEASURES = {"VaR": "VaR", "ES": "ES", "MVaR": "VaR", "MES": "ES"}


def components(key: str, entry: dict[str, Any], data: np.ndarray, p: float) -> Iterator[Case]:
    """A portfolio's figure as a positive loss and its Euler parts: each weight times the slope in it."""
    weights = np.array(entry.get("weights", np.full(data.shape[1], 1 / data.shape[1])), float)
    inputs = {name: value for name, value in entry.items() if not isinstance(value, list) or name == "weights"}
    tolerance = entry.get("tol")
    for name, value in entry.items():
        if isinstance(value, str) or name in ("weights", "p", "lambda", "tol"):
            continue
        measure = MEASURES.get(name) or ("ES" if "ES" in key else "VaR")
        loss = portfolio_loss(key, measure, data, p, entry.get("lambda", 0.94))
        figure: Callable[[], ArrayLike] = unknown(f"{key} {name}")
        if name in MEASURES:
            figure = partial(loss, weights)
        elif name in ("contribution", "component"):
            figure = partial(euler, loss, weights)
        yield Case(FOLDER, f"{key} {name}", inputs, value, tolerance or printed(value), figure)


def portfolio_loss(
    key: str, measure: str, data: np.ndarray, p: float, decay: float
) -> Callable[[ArrayLike], jax.Array]:
    """The loss of a portfolio as a function of its weights: Gaussian or modified, of sample or of EWMA moments."""
    count = len(data)
    means = data.mean(axis=0)
    ewma = "EWMA" in key
    centred = data if ewma else data - means
    age = np.arange(count)[::-1]
    even = np.full(count, 1 / count)
    mass = (1 - decay) * decay**age / (1 - decay**count) if ewma else even
    unbiased = 1 if ewma else count / (count - 1)

    def loss(weights: ArrayLike) -> jax.Array:
        moved = centred @ jnp.asarray(weights)
        m2, m3, m4 = (mass @ moved**power for power in (2, 3, 4))
        mean = means @ jnp.asarray(weights)
        if "gaussian" in key:
            z = stats.norm.ppf(1 - p)
            return -(mean + jnp.sqrt(m2 * unbiased) * (z if measure == "VaR" else -stats.norm.pdf(z) / (1 - p)))
        return -MODIFIED[measure](mean, m2 * unbiased, m3, m4, p)

    return loss


def euler(loss: Callable[[ArrayLike], jax.Array], weights: np.ndarray) -> np.ndarray:
    """Parts that sum to the whole, since the figure grows in proportion to the portfolio."""
    parts = weights * np.asarray(jax.grad(loss)(jnp.asarray(weights)))
    assert parts.sum() == pytest.approx(float(loss(weights)), rel=1e-12)
    return parts


def backtest(key: str, entry: dict[str, Any], returns: np.ndarray, p: float) -> Iterator[Case]:
    """How often a series was worse than its own value at risk, and whether that is often."""
    figures: dict[str, Callable[[], ArrayLike]] = {
        "expected_exceedances": lambda: (1 - p) * len(returns),
        "actual_exceedances": lambda: exceedances(returns, p),
        "p_value_two_sided_binomial": lambda: proportion_test(exceedances(returns, p), len(returns), 1 - p),
    }
    for name, value in entry.items():
        if not isinstance(value, str):
            figure = figures.get(name, unknown(f"{key} {name}"))
            yield Case(FOLDER, f"{key} {name}", entry, value, printed(value) if value % 1 else 1e-9, figure)


def exceedances(returns: np.ndarray, p: float) -> int:
    """Months strictly worse than the historical value at risk of the same months."""
    losses, even = jnp.asarray(-returns), np.full(len(returns), 1 / len(returns))
    beyond = jnp.asarray(-historical(returns, "VaR", 1 - p))
    return round(float(exceedance_probability(losses, even, beyond)) * len(returns))


def proportion_test(count: int, trials: int, p: float) -> float:
    """R's prop.test, which the package calls: chi-square with a continuity correction of at most half a count."""
    apart = abs(count - trials * p)
    return float(stats.chi2.sf((apart - min(0.5, apart)) ** 2 / (trials * p * (1 - p)), 1))


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_tail_of_the_hedge_fund_indices_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
