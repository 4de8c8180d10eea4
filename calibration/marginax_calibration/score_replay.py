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

from marginax.engine.compilation import WIDE_VECTORS, persistent_cache
from marginax.models import MarginModel, Tile
from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.tile_losses import tile_losses
from marginax.problems import BadInput, Problem
from marginax_calibration.lives import lives_of
from marginax_calibration.model_replay import ModelReplay, by_bar
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay import NothingReplayed, Progress, known_of, portfolio_losses
from marginax_calibration.unit_market import Legs, unit_market
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
    persistent_cache()
    if equity.ndim != 2 or len(equity) != len(portfolios):
        raise ValueError(f"`equity` of shape {equity.shape} must have a row for each of {len(portfolios)} portfolios")
    for name, model in models.items():
        if type(model).estimate is not MarginModel.estimate:
            what, remedy = f"`{name}` estimates by account", "Score by a model on scenarios alone"
            raise BadInput([Problem("configuration", "model", None, what, remedy)])
    legs = Legs.of(portfolios, panel)
    volatilities = {name: panel.volatility[:, panel.names.index(name)] for name in legs.optioned}
    known = {name: known_of(model, panel, volatilities) for name, model in models.items()}
    lives = lives_of(portfolios, panel, known, models, first_time, last_time)
    if not any(life.rows for life in lives):
        raise NothingReplayed(lives, ", ".join(panel.digests) or "history")
    total, done = sum(life.rows for life in lives) * len(models), 0
    found: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        market = unit_market(panel, legs, next(iter(known.values())))
        for name, model in models.items():
            run = ScoreReplay(model, known[name], market, legs, portfolios, lives, seed, streams)

            def count(more: int, name: str = name) -> None:
                nonlocal done
                done += more
                if progress is not None:
                    progress(name, done, total)

            found[name] = run.scores(equity, count)
    losses = portfolio_losses(panel, legs, market, portfolios)
    member = np.concatenate([np.full(life.rows, k) for k, life in enumerate(lives)]).astype(np.int64)
    bar = np.concatenate([np.arange(life.begin, life.begin + life.rows) for life in lives])
    times: Any = panel.grid.times[bar + 1]
    frame = pl.DataFrame(
        {
            "date": times.astype("datetime64[D]") if panel.grid.bars_per_day <= 1 else times,
            "portfolio": pl.Series([portfolios[k].name for k in member], dtype=pl.String),
            "kind": pl.Series([portfolios[k].kind for k in member], dtype=pl.String),
            "loss": losses[bar, member],
        }
    )
    parts = [
        frame.with_columns(
            pl.lit(name).alias("model"),
            pl.Series("equity", equity[member, level]),
            pl.Series("score", table[member, bar, level]),
        )
        for name, table in found.items()
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

        for work, answer in self._stream(self._works.daily(), _scores, owned):
            more = 0
            for k, member in enumerate(work.members):
                life = self._lives[member]
                inside = (work.bars >= life.begin) & (work.bars < life.end)
                table[member, work.bars[inside]] = answer[: len(work.bars)][inside, k]
                more += int(inside.sum())
            count(more)
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
