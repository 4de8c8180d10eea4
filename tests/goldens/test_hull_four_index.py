"""Hull's four-index portfolio: historical, age-weighted and volatility-scaled tails, and the model-building figures.

Conventions of his that are not the kernels': expected shortfall as the mean of the losses worse than value at risk,
returns that are price ratios, ddof 1 in the seed of the filter and 0 in the equally weighted covariance, and a
volatility scaled over the day after the last. Amounts are thousands of dollars, to be met within 0.001 of them.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from goldens._vectors import Case, cases, printed, unknown
from marginax_kernels import ewma_variance, expected_shortfall, filtered_residuals, value_at_risk

FOLDER = "hull_four_index"
DECAY = 0.94
TOLERANCE = 0.001
"""Thousands of dollars, as the folder's README states."""

quantile = jax.jit(value_at_risk, static_argnames="tail")
tail_mean = jax.jit(expected_shortfall, static_argnames="tail")
variances = jax.jit(ewma_variance, static_argnames="half_life")
residuals = jax.jit(filtered_residuals, static_argnames=("least_share", "cap"))


@dataclass(frozen=True)
class Portfolio:
    """Amounts in the four indices (kUSD) and the 500 daily returns, in dollars, that lead up to the last level."""

    amounts: np.ndarray
    returns: np.ndarray

    @property
    def losses(self) -> np.ndarray:
        """Loss of each past day's returns on today's amounts; scenario 1 is the first."""
        return -self.returns @ self.amounts

    @property
    def even(self) -> np.ndarray:
        """Equal weights."""
        return np.full(len(self.returns), 1 / len(self.returns))

    def aged(self, decay: float) -> np.ndarray:
        """Weights that fall by `decay` a day into the past and sum to one."""
        age = np.arange(len(self.returns))[::-1]
        return decay**age * (1 - decay) / (1 - decay ** len(age))

    def volatilities(self, decay: float) -> tuple[np.ndarray, np.ndarray]:
        """Daily volatility of each index known before each day, and the one after the last."""
        bars = np.ones(self.returns.shape)
        seed = np.var(self.returns, axis=0, ddof=1)
        path, today = variances(self.returns, bars, seed, half_life=np.log(0.5) / np.log(decay))
        return np.sqrt(path), np.sqrt(today)

    def scaled(self, decay: float) -> "Portfolio":
        """The same amounts on returns rescaled by today's volatility over that of their day, per index."""
        path, today = self.volatilities(decay)
        bars, none = np.ones(path.shape), np.zeros(len(today))
        moves, capped = residuals(self.returns, bars, path, none, least_share=0.0, cap=np.inf)
        assert int(jnp.sum(capped)) == 0
        return Portfolio(self.amounts, np.asarray(moves) * today)

    def model_variance(self, ddof: int) -> float:
        """Variance of a day's P&L under the equally weighted covariance."""
        return float(self.amounts @ np.cov(self.returns.T, ddof=ddof) @ self.amounts)

    def ewma_variance(self, decay: float) -> float:
        """The same under exponential weights: a filter of the covariance is, in P&L, a filter of its square."""
        bars = np.ones((len(self.returns), 1))
        seed = np.array([self.model_variance(ddof=1)])
        half_life = np.log(0.5) / np.log(decay)
        return float(variances(-self.losses[:, None], bars, seed, half_life=half_life)[1][0])


def read(folder: Path) -> Iterator[Case]:
    """Every figure of every portfolio in expected.json, whatever portfolios and figures it holds."""
    expected = json.loads((folder / "expected.json").read_text())
    returns = dollar_returns(folder / "four_index.csv")
    amounts = expected.pop("portfolios_kUSD")
    for section, portfolios in expected.items():
        for name, figures in portfolios.items():
            portfolio = Portfolio(np.array(amounts[name], float), returns)
            inputs = {"portfolio_kUSD": amounts[name], "levels": "four_index.csv", "section": section}
            for key, value in flat(figures):
                yield Case(
                    FOLDER,
                    f"{name} {key}",
                    inputs,
                    value,
                    printed(value) if "pct" in key else TOLERANCE,
                    calculation(portfolio, key, value),
                )


def flat(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Figures by key; those of numbered scenarios one by one, notes left out."""
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{key} {inner}", number) for inner, number in value.items())
        elif not isinstance(value, str):
            yield key, value


def dollar_returns(path: Path) -> np.ndarray:
    """Relative daily changes of the four indices in dollars, levels 0 to 500."""
    with path.open(newline="") as file:
        rows = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    levels = [
        (row["DJIA"], row["FTSE100"] * row["USDGBP"], row["CAC40"] / row["EURUSD"], row["Nikkei"] / row["YENUSD"])
        for row in rows
        if row["obs"] <= 500
    ]
    return np.diff(levels, axis=0) / np.array(levels)[:-1]


def calculation(portfolio: Portfolio, key: str, expected: Any) -> Callable[[], ArrayLike]:
    """How the figure of this name is calculated."""
    for pattern, figure in FIGURES.items():
        if match := re.fullmatch(pattern, key):
            return partial(figure, portfolio, match, expected)
    return unknown(key)


def share(digits: str) -> float:
    """The small tail of a printed confidence: 99, 97.5 or 975."""
    level = float(digits)
    return 1 - level / (100 if level < 100 else 10 ** len(digits))


def simulated(portfolio: Portfolio, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses and weights of a way to look at the past."""
    if how.startswith("age_weighted"):
        return portfolio.losses, portfolio.aged(float(how.removeprefix("age_weighted_")))
    if how.startswith("vol_scaled"):
        return portfolio.scaled(float(how.removeprefix("vol_scaled").strip("_") or DECAY)).losses, portfolio.even
    return portfolio.losses, portfolio.even


def value(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Value at risk: of equal weights, the k-th largest loss."""
    losses, weights = simulated(portfolio, match["how"])
    return quantile(losses, weights, tail=share(match["level"]))


def mean_of_worst(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Mean of a stated number of the largest losses: expected shortfall at that share of the scenarios."""
    losses, weights = simulated(portfolio, match["how"])
    return tail_mean(losses, weights, tail=int(match["count"]) / len(losses))


def shortfall(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Of aged weights the fractional one; of equal weights Hull's mean of the losses worse than value at risk."""
    losses, weights = simulated(portfolio, match["how"])
    tail = share(match["level"])
    if match["how"].startswith("age_weighted"):
        return tail_mean(losses, weights, tail=tail)
    worse = int(np.sum(losses > float(quantile(losses, weights, tail=tail))))
    return tail_mean(losses, weights, tail=worse / len(losses))


def between(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """R's default: between two of the losses, each found as a value at risk."""
    losses, weights = simulated(portfolio, match["how"])
    place = (len(losses) - 1) * share(match["level"])
    ranks = int(place) + 1, int(place) + 2
    nearer, farther = (float(quantile(losses, weights, tail=rank / len(losses))) for rank in ranks)
    return nearer + (place - int(place)) * (farther - nearer)


def ranking(portfolio: Portfolio, match: re.Match[str], expected: Any) -> ArrayLike:
    """The largest losses with the numbers of their scenarios, from the first value at risk on."""
    losses, weights = simulated(portfolio, match["how"] or "hs")
    found = []
    for rank in range(1, len(expected) + 1):
        loss = float(quantile(losses, weights, tail=rank / len(losses)))
        found.append([1 + int(np.flatnonzero(losses == loss)[0]), loss])
    return found


def modelled(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Figures of a normal P&L with the equally weighted covariance."""
    return normal(portfolio.model_variance(int(match["ddof"] or 0)), match["figure"])


def smoothed(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Figures of a normal P&L with exponentially weighted variance; `ewma94` is a decay of 0.94."""
    return normal(portfolio.ewma_variance(float(match["decay"]) / 10 ** len(match["decay"])), match["figure"])


def normal(variance: float, figure: str) -> float:
    """Variance, standard deviation, value at risk or expected shortfall of a normal P&L without a mean."""
    if figure == "variance":
        return variance
    if figure == "sd":
        return float(np.sqrt(variance))
    tail = share(re.sub(r"\D*", "", figure, count=1))
    density = stats.norm.pdf(stats.norm.isf(tail)) / tail
    return float(np.sqrt(variance) * (stats.norm.isf(tail) if figure.startswith("var") else density))


def daily_volatilities(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """Each index's volatility for the day after the last, in per cent."""
    return 100 * portfolio.volatilities(DECAY)[1]


def scenario_value(portfolio: Portfolio, match: re.Match[str], _: Any) -> ArrayLike:
    """What the portfolio is worth after the returns of a scenario."""
    return portfolio.amounts.sum() - portfolio.losses[int(match["number"]) - 1]


HOW = r"(?P<how>hs|age_weighted_[\d.]+|vol_scaled(?:_?[\d.]+)?)"
LEVEL = r"(?P<level>[\d.]+)"
MODELLED = r"(?P<figure>variance|sd|var[\d.]+|es[\d.]+)"
FIGURES: dict[str, Callable[[Portfolio, re.Match[str], Any], ArrayLike]] = {
    rf"{HOW}_var{LEVEL}": value,
    rf"{HOW}_var{LEVEL}_R_type7_quantile": between,
    rf"{HOW}_es{LEVEL}": shortfall,
    rf"{HOW}_es{LEVEL}_mean_of_(?P<count>\d+)_(?:worst|worse_than_var)": mean_of_worst,
    r"(?:(?P<how>hs|vol_scaled)_)?\w+_worst": ranking,
    rf"eq_weight(?:_cov)?_{MODELLED}(?:_ddof(?P<ddof>\d))?": modelled,
    rf"ewma(?P<decay>\d+)_{MODELLED}": smoothed,
    r"daily_sd_ewma_pct": daily_volatilities,
    r"scenario_values_kUSD (?P<number>\d+)": scenario_value,
}


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_every_figure_of_hull_s_four_index_portfolios_is_met(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
