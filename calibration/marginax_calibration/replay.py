"""Replaying a history: what models would have charged at the close of every bar, and the loss in the next one.

Every bar is a margin run of its own, with the model's own `prepare` and `margin`, on what was known at its close. A
portfolio's history begins when its youngest leg lists; its rows begin when every model has its least window, and end
with its first leg. Many bars are one compiled call; calls are spread over the cores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.engine.compilation import persistent_cache
from marginax.known import KnownHistory, known_history
from marginax.models import MarginModel
from marginax.problems import BadInput, Problem
from marginax.signals import signal_history
from marginax_calibration.lives import Life, lives_of
from marginax_calibration.model_replay import ModelReplay
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.unit_market import Legs, UnitMarket, leg_losses, unit_market

# Expected shortfall is at least this share of gross notional, so that a score has its logarithm; and VaR within it of
# zero is lifted to it: a hedged book's is rounding, and rounding of a loss would be beyond it.
LEAST_SHORTFALL = 1e-6
# What single precision may put between a value at risk and a shortfall that are equal.
ROUNDING = 1e-5

Progress = Callable[[str, int, int], None]
"""Called with the model at work, the portfolio-bars done and those in all."""


@dataclass(frozen=True)
class Replay:
    """`daily` has one row per bar, portfolio and model; `lives` what each portfolio was replayed over."""

    daily: pl.DataFrame
    lives: tuple[Life, ...]
    floored: dict[str, int]


Kind = TypeVar("Kind", bound=ModelReplay)


class NothingReplayed(BadInput):
    """No portfolio has a bar that all models can margin; `lives` say why."""

    def __init__(self, lives: Sequence[Life], source: str) -> None:
        self.lives = tuple(lives)
        reasons = "; ".join(sorted({life.reason for life in lives})[:3])
        what = f"no portfolio has a bar that all models can margin: {reasons}"
        super().__init__(
            [Problem(source, None, None, what, "Give more history, or choose other dates", table="history")]
        )


def replay(
    models: Mapping[str, MarginModel],
    panel: Panel,
    portfolios: Sequence[Portfolio],
    *,
    seed: int = 7,
    first_time: np.datetime64 | None = None,
    last_time: np.datetime64 | None = None,
    streams: int = 0,
    progress: Progress | None = None,
) -> Replay:
    """Replay the models on these portfolios; rows are those whose loss falls between the two times.

    Raises BadInput where no portfolio has a single row, and for a model that cannot be replayed or gives an expected
    shortfall below its value at risk; ValueError without a model or a portfolio.
    """
    if not models or not portfolios:
        raise ValueError("a replay needs a model and a portfolio; give one of each")
    run = run_models(
        models,
        panel,
        portfolios,
        ModelReplay,
        ModelReplay.figures,
        seed=seed,
        first_time=first_time,
        last_time=last_time,
        streams=streams,
        progress=progress,
    )
    daily, floored = _table(panel, portfolios, run)
    return Replay(daily, run.lives, floored)


@dataclass(frozen=True)
class ModelRun:
    """What each model says of every portfolio at every bar, what portfolios lost in the bar after, and their lives."""

    figures: dict[str, np.ndarray]
    losses: Float64[np.ndarray, "bars portfolios"]
    lives: tuple[Life, ...]

    @property
    def rows(self) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
        """Portfolio and bar of each row."""
        member = np.concatenate([np.full(life.rows, k) for k, life in enumerate(self.lives)]).astype(np.int64)
        bar = np.concatenate([np.arange(life.begin, life.begin + life.rows) for life in self.lives])
        return member, bar.astype(np.int64)

    def frame(self, panel: Panel, portfolios: Sequence[Portfolio]) -> pl.DataFrame:
        """date, portfolio, kind and loss of each row; dates are those of losses."""
        member, bar = self.rows
        times: Any = panel.grid.times[bar + 1]
        return pl.DataFrame(
            {
                "date": times.astype("datetime64[D]") if panel.grid.bars_per_day <= 1 else times,
                "portfolio": pl.Series([portfolios[k].name for k in member], dtype=pl.String),
                "kind": pl.Series([portfolios[k].kind for k in member], dtype=pl.String),
                "loss": self.losses[bar, member],
            }
        )


def run_models(
    models: Mapping[str, MarginModel],
    panel: Panel,
    portfolios: Sequence[Portfolio],
    kind: type[Kind],
    ask: Callable[[Kind, Callable[[int], None]], np.ndarray],
    *,
    seed: int,
    first_time: np.datetime64 | None,
    last_time: np.datetime64 | None,
    streams: int,
    progress: Progress | None,
) -> ModelRun:
    """What `ask` finds of the replay of each model, by portfolio and bar; the rest as in `replay`."""
    persistent_cache()
    legs = Legs.of(portfolios, panel)
    volatilities = {name: panel.volatility[:, panel.names.index(name)] for name in legs.optioned}
    known = {name: known_of(model, panel, volatilities) for name, model in models.items()}
    lives = lives_of(portfolios, panel, known, models, first_time, last_time)
    if not any(life.rows for life in lives):
        raise NothingReplayed(lives, ", ".join(panel.digests) or "history")
    figures: dict[str, np.ndarray] = {}
    total = sum(life.rows for life in lives) * len(models)
    done = 0
    with jax.enable_x64(True):
        market = unit_market(panel, legs, next(iter(known.values())))
        for name, model in models.items():

            def count(more: int, name: str = name) -> None:
                nonlocal done
                done += more
                if progress is not None:
                    progress(name, done, total)

            figures[name] = ask(kind(model, known[name], market, legs, portfolios, lives, seed, streams), count)
    return ModelRun(figures, portfolio_losses(panel, legs, market, portfolios), tuple(lives))


def known_of(model: MarginModel, panel: Panel, volatilities: dict[str, np.ndarray]) -> KnownHistory:
    """What a model knows of a panel, bar by bar; `volatilities` are those of underlyings with options.

    Raises BadInput for a model that reads signals where there are none.
    """
    settings = model.settings
    known = known_history(
        panel.grid,
        panel.names,
        panel.prices,
        volatilities,
        absolute=panel.absolute,
        scenarios=settings.scenarios,
        proxy=settings.proxy,
        classes=settings.classes,
    )
    if not model.reads_signals or panel.signals is None:
        return known
    signals = signal_history(panel.signals, settings.regime, panel.names, panel.grid)
    return replace(known, history=replace(known.history, signals=signals))


def portfolio_losses(
    panel: Panel, legs: Legs, market: UnitMarket, portfolios: Sequence[Portfolio]
) -> Float64[np.ndarray, "bars portfolios"]:
    """What each portfolio lost in the bar after each bar; NaN after the last."""
    tile = legs.tile(portfolios)
    unit = leg_losses(panel, legs, market)
    padded = np.concatenate([unit, np.zeros((len(unit), legs.assets + 1))], axis=1)
    return np.stack([padded[:, tile.instruments[k]] @ tile.quantities[k] for k in range(len(portfolios))], axis=1)


def _table(panel: Panel, portfolios: Sequence[Portfolio], run: ModelRun) -> tuple[pl.DataFrame, dict[str, int]]:
    """The daily table, and how often each model's expected shortfall was lifted to its floor."""
    member, bar = run.rows
    frame = run.frame(panel, portfolios)
    parts, floored = [], {}
    for model, table in run.figures.items():
        var, shortfall, charged = (table[member, bar, k] for k in range(3))
        bad = ~np.isfinite(table[member, bar]).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            what = f"`{model}` has no number for '{frame['portfolio'][row]}' on {panel.grid.times[bar[row] + 1]}"
            raise BadInput([Problem("model", None, None, what, "Leave the portfolio out, or mend the model")])
        _check_order(model, var, shortfall)
        floored[model] = int((shortfall < LEAST_SHORTFALL).sum())
        var, shortfall = lifted(var, shortfall)
        numbers = {"var": var, "es": shortfall, "charged": charged}
        parts.append(frame.with_columns(pl.lit(model).alias("model"), *(pl.Series(k, v) for k, v in numbers.items())))
    daily = pl.concat(parts).sort("date", "portfolio", "model")
    if panel.grid.bars_per_day > 1:
        daily = daily.with_columns(pl.col("date").dt.replace_time_zone("UTC"))
    return daily.select("date", "portfolio", "kind", "model", "loss", "var", "es", "charged"), floored


def lifted(var: Any, shortfall: Any, numbers: Any = np) -> tuple[Any, Any]:
    """VaR and ES as they are scored, of arrays of `numbers` (numpy, or jax.numpy where they are traced)."""
    shortfall = numbers.maximum(shortfall, LEAST_SHORTFALL)
    var = numbers.where(numbers.abs(var) < LEAST_SHORTFALL, LEAST_SHORTFALL, var)
    return numbers.minimum(var, shortfall), shortfall


def _check_order(model: str, var: np.ndarray, shortfall: np.ndarray) -> None:
    """Expected shortfall is the mean of what is beyond value at risk; less than that is a model's own mistake."""
    below = var - shortfall > np.maximum(LEAST_SHORTFALL, ROUNDING * np.abs(shortfall))
    if below.any():
        what = f"`{model}` gives an expected shortfall below its value at risk in {int(below.sum()):,} rows"
        raise BadInput([Problem("model", None, None, what, "Mend the model: both are at one tail")])
