"""A backtest of ten years, 20 underlyings, 200 portfolios and six baselines: ours against a plain loop in NumPy.

The plain loop goes over bars and portfolios and computes each figure as it is defined: a window of returns times
weights, sorted; for `fhs` the window is rescaled first; static rules are looked up at refits only; `garch` is fitted
once a year by scipy on a likelihood written in NumPy and carried forward by its recursion. The careful loop shares what
portfolios have in common (windows are rescaled once a bar) and takes the compiled package `arch` for its fits; it still
is one thread of NumPy. Filters run once in both. Loops run on every 40th bar, and a few of the GARCH fits, and their
time is scaled up; their figures are compared with ours there before any clock starts. `with_options` are 200
portfolios with options among them, ours alone.
"""

import time
import warnings
from typing import Any

import numpy as np
from arch import arch_model
from scipy import optimize, special

from benchmarks.context import context
from benchmarks.ten_years import BARS, PORTFOLIOS, UNDERLYINGS, market
from marginax_calibration.backtests import judge
from marginax_calibration.models import BASELINES, load_models
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import LINEAR_KINDS, Portfolio, venue_portfolios
from marginax_calibration.replay import Replay, replay

WINDOW, LEAST, REFIT = 1_000, 250, 250
EVERY, FITS = 40, 12
TAIL, CHARGED = 0.01, 0.025


def run(repeats: int = 3) -> dict[str, Any]:
    """The benchmark's record."""
    panel = market()
    linear = venue_portfolios(panel.names, neutral=PORTFOLIOS - 2 * UNDERLYINGS - 2 - UNDERLYINGS // 2)
    linear = [each for each in linear if each.kind in LINEAR_KINDS]
    mixed = venue_portfolios(panel.names, neutral=PORTFOLIOS - 116)
    models = load_models(BASELINES)
    started = time.perf_counter()
    ours = replay(models, panel, linear)
    cold = time.perf_counter() - started
    loop = Loop(panel, linear)
    _compare(ours, loop, linear)
    times, each_model = [], {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            started = time.perf_counter()
            replay({name: model}, panel, linear)
            each_model[name].append(time.perf_counter() - started)
        times.append(sum(taken[-1] for taken in each_model.values()))
    started = time.perf_counter()
    judge(ours.daily)
    judged = time.perf_counter() - started
    plain, careful = loop.seconds(careful=False), loop.seconds(careful=True)
    replay(models, panel, mixed)
    started = time.perf_counter()
    replay(models, panel, mixed)
    with_options = time.perf_counter() - started
    ours_median = float(np.median(times))
    return {
        "benchmark": "backtest",
        "bars": BARS,
        "underlyings": UNDERLYINGS,
        "portfolios": len(linear),
        "rows": ours.daily.height,
        "context": context(),
        "figures": {
            "ours_seconds": ours_median,
            "ours_seconds_cold": cold,
            "ours_seconds_by_model": {name: float(np.median(taken)) for name, taken in each_model.items()},
            "ours_seconds_with_options": with_options,
            "judgement_seconds": judged,
            "plain_loop_seconds": sum(plain.values()),
            "plain_loop_seconds_by_model": plain,
            "careful_loop_seconds": sum(careful.values()),
            "careful_loop_seconds_by_model": careful,
            "times_faster_than_plain": sum(plain.values()) / ours_median,
            "times_faster_than_careful": sum(careful.values()) / ours_median,
        },
    }


class Loop:
    """The plain loop. Figures are (var, es, charged) of a portfolio at a bar."""

    def __init__(self, panel: Panel, portfolios: list[Portfolio]) -> None:
        self.prices = panel.prices
        self.logs = np.diff(np.log(panel.prices), axis=0)
        self.simple = np.expm1(self.logs)
        place = {name: k for k, name in enumerate(panel.names)}
        self.weights = np.zeros((len(portfolios), len(panel.names)))
        for k, each in enumerate(portfolios):
            for leg in each.legs:
                self.weights[k, place[leg.underlying]] += leg.weight
        self.sample = range(LEAST, BARS - 1, EVERY)

    def filtered(self) -> tuple[np.ndarray, np.ndarray]:
        """Residuals, and the volatility known before each return and after the last, by EWMA 0.97."""
        decay = 0.5 ** (1 / 22.7566)
        variance = np.empty((len(self.logs) + 1, UNDERLYINGS))
        variance[0] = np.mean(self.logs[:30] ** 2, axis=0)
        for t, moves in enumerate(self.logs):
            variance[t + 1] = decay * variance[t] + (1 - decay) * moves**2
        return self.logs, np.sqrt(variance)

    def bars(self, model: str, *, careful: bool = True) -> dict[tuple[int, int], tuple[float, float, float]]:
        """The figures of a model on the sample of bars; without care each portfolio rescales its own window."""
        found = {}
        if model == "fhs":
            logs, sigma = self.filtered()
            square = np.cumsum(logs**2, axis=0)
        for bar in self.sample:
            first = max(0, bar - WINDOW)
            if model == "fhs":
                long_run = np.sqrt(square[bar - 1] / bar)
                scale = np.maximum(sigma[first:bar], 0.25 * long_run)
                residuals = np.clip(logs[first:bar] / scale, -15, 15)
                today = np.maximum(sigma[bar], 0.5 * long_run)
                window = np.expm1(residuals * today)
            elif model in ("static", "fixed_legs"):
                window = self.simple[: LEAST + (bar - LEAST) // REFIT * REFIT]
            else:
                window = self.simple[first:bar]
            if model == "ewma":
                window = window[-400:]
                age = 0.5 ** (np.arange(len(window) - 1, -1, -1) / 11.2024)
                age /= age.sum()
            for k, weights in enumerate(self.weights):
                if model == "ewma":
                    sigma_p = np.sqrt(age @ (window @ weights) ** 2)
                    found[bar, k] = (2.3263479 * sigma_p, 2.6652142 * sigma_p, 2.3378027 * sigma_p)
                elif model == "fixed_legs":
                    figures = np.array([_figures(np.abs(window[:, u])) for u in np.flatnonzero(weights)])
                    found[bar, k] = tuple(np.abs(weights[weights != 0]) @ figures)
                else:
                    if model == "fhs" and not careful:
                        window = np.expm1(np.clip(logs[first:bar] / scale, -15, 15) * today)
                    found[bar, k] = _figures(-(window @ weights))
        return found

    def garch_fit_seconds(self, *, careful: bool) -> float:
        """Median time of one fit to 1,000 returns: by `arch`, or by scipy on a likelihood in NumPy."""
        times = []
        for k in range(FITS if careful else FITS // 4):
            series = 100 * self.simple[500:1500] @ self.weights[k * 7 % len(self.weights)]
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if careful:
                    arch_model(series, mean="Zero", vol="GARCH", p=1, q=1, dist="t").fit(disp="off")
                else:
                    _fit_in_numpy(series)
            times.append(time.perf_counter() - started)
        return float(np.median(times))

    def garch_update_seconds(self) -> float:
        """Time of one recursion and three multiples, bar by bar."""
        variance, started = 1e-4, time.perf_counter()
        for move in self.simple[:, 0]:
            sigma = np.sqrt(variance)
            _ = (2.6 * sigma, 3.5 * sigma, 2.8 * sigma)
            variance = 1e-6 + 0.06 * move**2 + 0.93 * variance
        return (time.perf_counter() - started) / len(self.simple)

    def seconds(self, *, careful: bool) -> dict[str, float]:
        """Seconds for all bars, by model: those of the sample times what it is a sample of."""
        bars = BARS - 1 - LEAST
        taken = {}
        for model in ("hs", "ewma", "fhs"):
            started = time.perf_counter()
            self.bars(model, careful=careful)
            taken[model] = (time.perf_counter() - started) * bars / len(self.sample)
        for model in ("static", "fixed_legs"):
            # Looked up at refits only: the sample holds as many bars as there are between two of them.
            started = time.perf_counter()
            self.bars(model)
            taken[model] = (time.perf_counter() - started) / len(self.sample) * len(range(LEAST, BARS - 1, REFIT))
        fits = len(self.weights) * len(range(LEAST, BARS - 1, 365))
        taken["garch"] = (
            fits * self.garch_fit_seconds(careful=careful) + bars * len(self.weights) * self.garch_update_seconds()
        )
        return taken


def _figures(losses: np.ndarray) -> tuple[float, float, float]:
    """VaR and ES at 1 % and ES at 2.5 %, the loss on the edge with the fraction that is left."""
    worst = np.sort(losses)[::-1]
    count = len(worst)
    figures = []
    for tail in (TAIL, CHARGED):
        mass = tail * count
        edge = int(np.ceil(mass * (1 - 1e-5))) - 1
        figures.append((worst[edge], worst[edge] + (worst[:edge] - worst[edge]).sum() / mass))
    return figures[0][0], figures[0][1], figures[1][1]


def _fit_in_numpy(series: np.ndarray) -> np.ndarray:
    """The most likely omega, alpha, beta and freedom of a GARCH(1,1)-t, as a script would find them."""
    squares = series**2

    def surprise(x: np.ndarray) -> float:
        omega, alpha, beta, freedom = x
        if omega <= 0 or alpha < 0 or beta < 0 or alpha + beta >= 1 or freedom <= 2.05:
            return 1e10
        variance = np.empty(len(squares))
        variance[0] = squares.mean()
        for t in range(1, len(squares)):
            variance[t] = omega + alpha * squares[t - 1] + beta * variance[t - 1]
        constant = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2) - np.log(np.pi * (freedom - 2)) / 2
        tails = (freedom + 1) / 2 * np.log1p(squares / variance / (freedom - 2))
        return -float(np.sum(constant - np.log(variance) / 2 - tails))

    start = np.array([0.05 * squares.mean(), 0.08, 0.87, 6.0])
    return np.asarray(optimize.minimize(surprise, start, method="Nelder-Mead").x)


def _compare(ours: Replay, loop: Loop, portfolios: list[Portfolio]) -> None:
    """Ours in float32 against the loop in float64; a sum of twenty legs is off by some 1e-6 of gross notional."""
    place = {each.name: k for k, each in enumerate(portfolios)}
    dates = {time: bar for bar, time in enumerate(np.datetime64("2015-01-01") + np.arange(BARS))}
    for model in BASELINES:
        if model == "garch":
            continue
        wanted = loop.bars(model)
        rows = ours.daily.filter(model=model)
        keys = zip(rows["date"].to_numpy().astype("datetime64[D]"), rows["portfolio"], strict=True)
        table = rows.select("var", "es", "charged").to_numpy()
        worst = 0.0
        for key, line in zip(keys, table, strict=True):
            twin = wanted.get((dates[key[0]] - 1, place[key[1]]))
            if twin is not None:
                worst = max(worst, float(np.abs(line - twin).max()))
        if worst > 2e-6:
            raise RuntimeError(f"{model} differs from the loop by {worst:g} of gross notional")
