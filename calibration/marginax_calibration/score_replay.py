"""Replaying stress scores: what every account would have been scored at the close of each bar, and whether it failed.

Accounts are portfolios with an equity, a share of their gross notional that is made up anew every bar, as the weights
are. A failure is a loss beyond equity at the next close. A replay knows no spreads, volumes or collateral of the past:
the cost of closing is what the model charges without them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float, Float64

from marginax.engine.compilation import WIDE_VECTORS
from marginax.models import MarginModel, Tile
from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.tile_losses import tile_losses
from marginax.problems import BadInput, Problem
from marginax_calibration.model_replay import ModelReplay, by_bar
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay import Progress, run_models
from marginax_kernels import exceedance_probability


def replay_scores(
    models: Mapping[str, MarginModel],
    panel: Panel,
    portfolios: Sequence[Portfolio],
    equity: Float64[np.ndarray, "portfolios levels"],
    *,
    seed: int = 7,
    first_time: np.datetime64 | None = None,
    last_time: np.datetime64 | None = None,
    streams: int = 0,
    progress: Progress | None = None,
) -> pl.DataFrame:
    """One row for each bar, portfolio, level of equity and model: date, portfolio, kind, model, equity, score, loss,
    failed. `equity` is a share of gross notional; the times bound the dates of losses.

    Raises BadInput where no portfolio has a single row, and for a model that estimates something by account, which
    a replay of scores keeps no account of; ValueError for equities that do not fit the portfolios.
    """
    if equity.ndim != 2 or len(equity) != len(portfolios):
        raise ValueError(f"`equity` of shape {equity.shape} must have a row for each of {len(portfolios)} portfolios")
    for name, model in models.items():
        if type(model).estimate is not MarginModel.estimate:
            what, remedy = f"`{name}` estimates by account", "Score by a model on scenarios alone"
            raise BadInput([Problem("configuration", "model", None, what, remedy)])
    run = run_models(
        models,
        panel,
        portfolios,
        ScoreReplay,
        lambda each, count: each.scores(equity, count),
        seed=seed,
        first_time=first_time,
        last_time=last_time,
        streams=streams,
        progress=progress,
    )
    member, bar = run.rows
    frame = run.frame(panel, portfolios)
    parts = [
        frame.with_columns(
            pl.lit(name).alias("model"),
            pl.Series("equity", equity[member, level]),
            pl.Series("score", table[member, bar, level]),
        )
        for name, table in run.figures.items()
        for level in range(equity.shape[1])
    ]
    return pl.concat(parts).with_columns(failed=pl.col("loss") > pl.col("equity"))


class ScoreReplay(ModelReplay):
    """One model over all portfolios, asked for scores in place of margins."""

    def scores(
        self, equity: Float64[np.ndarray, "portfolios levels"], count: Callable[[int], None]
    ) -> Float64[np.ndarray, "portfolios bars levels"]:
        """The stress score of every portfolio at every bar of its rows and each level of equity; NaN elsewhere."""
        levels = equity.shape[1]
        table = np.full((len(self._portfolios), self._bars, levels), np.nan)

        def owned(members: tuple[int, ...], bars: np.ndarray) -> np.ndarray:
            """Equity of each row of a tile at each bar."""
            rows = np.ones((len(self._tile(members).equity), levels), np.float32)
            rows[: len(members)] = equity[list(members)]
            return np.broadcast_to(rows, (len(bars), *rows.shape))

        self._fill(table, _scores, owned, count)
        return table


@partial(jax.jit, compiler_options=WIDE_VECTORS)
def _scores(
    shared: Any, tile: Tile, draws: Any, stretch: tuple[Array, ...], equity: Any
) -> Float[Array, "bars accounts levels"]:
    """Scores of a tile at each bar and level of equity."""

    def one(prepared: Any, owned: Any) -> Array:
        joint = tile_losses(prepared, tile)[1]
        limit = exhausting_loss(owned, shared.narrow.closing(prepared, tile)[:, None])
        beyond = jnp.stack(
            [exceedance_probability(joint, prepared.weights, limit[:, k]) for k in range(owned.shape[1])], axis=1
        )
        return stress_score(beyond, owned, jnp.ones_like(owned, bool))

    return by_bar(one, shared, draws, stretch, equity)
