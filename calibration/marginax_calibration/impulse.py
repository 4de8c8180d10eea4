"""The impulse response of a margin model: what it charges, bar by bar, after volatility makes a step.

Returns are drawn with one volatility up to a bar and with another from it on; the same draws serve every step and every
model. Each (step, seed) is an underlying of its own and a portfolio that is long in it, so that one replay answers for
all of them. Told are the means over seeds.

Source: Gurrola-Perez and Murphy (2025), on the response of margin models to a step in volatility.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.calendars import Grid
from marginax.models import MarginModel
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Leg, portfolio
from marginax_calibration.replay import Progress, replay

# Degrees of freedom of the returns: as heavy as daily returns are.
FREEDOM = 5.0
# Bars that tell the level before the step, and the steady state at the end.
LEVEL_BARS = 250


@dataclass(frozen=True)
class Impulse:
    """`figures` by model and step; `paths` has columns model, step, bar (0 is the first margin that knows a return
    after the step) and charged, the mean over seeds, with std_error."""

    figures: dict[str, dict[str, dict[str, float | None]]]
    paths: pl.DataFrame


def impulse(
    models: Mapping[str, MarginModel],
    *,
    steps: Sequence[float] = (1.5, 2.0, 3.0),
    seeds: int = 64,
    before: int = 1250,
    after: int = 1500,
    sigma_day: float = 0.02,
    seed: int = 7,
    progress: Progress | None = None,
) -> Impulse:
    """The responses of the models to steps in volatility (a multiple of `sigma_day` each).

    `before` and `after` are bars; a model with a window of 1,000 needs as many after the step to be done with it.
    Raises ValueError for counts too small to tell a level from.
    """
    if seeds < 2 or min(before, after) <= LEVEL_BARS or not steps or min(steps) <= 0:
        raise ValueError(
            f"{seeds} seeds, {before} bars before and {after} after tell no response. Take two seeds or more, steps "
            f"above zero, and more than {LEVEL_BARS} bars on either side."
        )
    panel = _market(steps, seeds, before, after, sigma_day, seed)
    portfolios = [portfolio(name, "long", [Leg(name, 1.0)]) for name in panel.names]
    played = replay(models, panel, portfolios, seed=seed, progress=progress)
    figures: dict[str, dict[str, dict[str, float | None]]] = {}
    parts = []
    for (model,), rows in played.daily.group_by("model", maintain_order=True):
        table = rows.pivot(on="portfolio", index="date", values="charged").sort("date")
        charged = table.select(panel.names).to_numpy()
        # The first row whose margin was set at the close of the first bar of the new volatility.
        first = len(charged) - after + 1
        figures[str(model)] = {}
        for k, step in enumerate(steps):
            mine = charged[:, k * seeds : (k + 1) * seeds]
            figures[str(model)][f"{step:g}"] = response(mine, first)
            error = mine.std(axis=1, ddof=1) / np.sqrt(seeds)
            bars = np.arange(len(mine)) - first
            columns = {"bar": bars, "charged": mine.mean(axis=1), "std_error": error}
            parts.append(
                pl.DataFrame(columns).select(pl.lit(model).alias("model"), pl.lit(step).alias("step"), pl.all())
            )
    return Impulse(figures, pl.concat(parts))


def response(charged: Float64[np.ndarray, "bars seeds"], first: int) -> dict[str, float | None]:
    """Figures of one response, `first` the bar from which the new volatility is known.

    `before` and `steady` are mean levels of the last 250 bars on either side and `multiple` their quotient; `overshoot`
    is the highest point of the mean path over the steady state, less one, and `overshoot_error` its standard error;
    `half_life` counts the bars to half of the way, None where the path never gets there, and `peak` those to the
    highest point. After a step down the lowest point counts instead of the highest.
    """
    mean = charged.mean(axis=1)
    level, steady = float(mean[max(0, first - LEVEL_BARS) : first].mean()), float(mean[-LEVEL_BARS:].mean())
    path = mean[first:]
    rises = steady >= level
    peak = int(np.argmax(path) if rises else np.argmin(path))
    half = path >= (level + steady) / 2 if rises else path <= (level + steady) / 2
    error = float(charged[first + peak].std(ddof=1) / np.sqrt(charged.shape[1]))
    return {
        "before": level,
        "steady": steady,
        "multiple": steady / level if level > 0 else None,
        "overshoot": float(path[peak] / steady - 1) if steady > 0 else None,
        "overshoot_error": error / steady if steady > 0 else None,
        "peak": peak + 1,
        "half_life": int(np.argmax(half)) + 1 if half.any() else None,
    }


def _market(steps: Sequence[float], seeds: int, before: int, after: int, sigma_day: float, seed: int) -> Panel:
    """One underlying for each step and seed, daily round the clock; seeds share their draws between steps."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_t(FREEDOM, (before + after, seeds)) * np.sqrt((FREEDOM - 2) / FREEDOM)
    size = np.where(np.arange(before + after)[:, None] < before, 1.0, np.asarray(steps))
    returns = sigma_day * size[:, :, None] * draws[:, None, :]
    walks = np.cumsum(returns.reshape(before + after, -1), axis=0)
    prices = np.exp(np.concatenate([np.zeros((1, walks.shape[1])), walks]))
    times = np.datetime64("2000-01-01", "us") + np.arange(len(prices)) * np.timedelta64(1, "D")
    names = tuple(f"step {k:02d} seed {s:04d}" for k in range(len(steps)) for s in range(seeds))
    still = np.zeros(len(names), bool)
    return Panel(
        Grid(times.astype("datetime64[us]"), 1.0, 7.0), names, prices, np.full(prices.shape, np.nan), still, {}
    )


def as_json(figures: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """What the command writes: figures by model and step, and what they were made with."""
    return {"models": dict(figures), "settings": settings}
