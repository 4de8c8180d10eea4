"""Stress scores on request: smoothed, what is lost beyond equity, and how the score answers to what moves it.

Both look at losses, tile by tile, as an attribution does. Amounts are in account currency; what a score is,
`marginax.models.closing` says.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float, Float64

from marginax.cube import revalue
from marginax.exposures import Exposures
from marginax.models.exhaustion import bandwidths, excess, smooth_score
from marginax.models.protocol import MarginModel, Prepared, Tile
from marginax.models.scenario_model import ScenarioModel
from marginax.score_sections import Score

if TYPE_CHECKING:
    from marginax.engine.result import Result

FIGURES = ("cost_of_closing", "stress_score_smooth", "bandwidth", "expected_shortfall_beyond_equity")


@dataclass(frozen=True)
class ScoreGradient:
    """Slopes of the smooth score of one account, at the bandwidth that is stated; all zero for who has no equity left.

    `equity` is by one unit of account currency. `positions` has a row for each position and each asset of the
    collateral that moves (instrument_id or asset, amount, slope): by one contract bought at its mark, or one unit of
    the asset bought at its price, so that equity stays. `prices` has a row for each underlying that the account's
    losses or equity follow (underlying, slope): by a relative move of its price (0.01 of the slope is 1 %), in units of
    the price where it is shocked absolutely; positions, scenarios and the cost of closing stay as they are.
    """

    account: str
    stress_score_smooth: float
    bandwidth: float
    equity: float
    positions: pl.DataFrame
    prices: pl.DataFrame


def scores_of(result: "Result", exposures: Exposures, accounts: list[str] | None = None) -> pl.DataFrame:
    """One row for each account and isolated position; see `Result.scores`."""
    book = result.matched.book
    table = pl.concat([result.margins.with_columns(instrument_id=pl.lit(None, pl.String)), result.isolated],
                      how="diagonal")  # fmt: skip
    chosen = np.ones(table.height, bool)
    if accounts is not None:
        unknown = sorted(set(accounts) - set(book.accounts))
        if unknown:
            raise KeyError(f"no account {unknown[0]!r} in the book")
        chosen = table["account_id"].is_in(accounts).to_numpy()
    able = np.flatnonzero(chosen & table["initial_margin"].is_not_null().to_numpy())
    found = {name: np.full(table.height, np.nan) for name in FIGURES}
    question = partial(_scores, settings=result.ready.model.settings.score)
    tiles = result.ready.tiles.over(exposures).tiles
    for part, answers in tiles.answers(able, question, _shortfalls(table)):
        for name, numbers in zip(FIGURES, answers, strict=True):
            found[name][part.accounts] = numbers[: len(part.accounts)]
    beyond = pl.col("expected_shortfall_beyond_equity")
    score = pl.col("stress_score")
    return (
        table.select("account_id", "instrument_id", "equity", "stress_score", "band", "status")
        .with_columns(pl.Series(name, numbers).fill_nan(None) for name, numbers in found.items())
        .with_columns(pl.when(pl.col("bandwidth") > 0).then("bandwidth"))
        .with_columns(shortfall_given_exhaustion=pl.when(score > 0).then(beyond / score))
        .filter(pl.Series(chosen))
        .select("account_id", "instrument_id", "equity", "cost_of_closing", "stress_score", "stress_score_smooth",
                "bandwidth", "expected_shortfall_beyond_equity", "shortfall_given_exhaustion", "band", "status")
    )  # fmt: skip


def score_gradient_of(
    result: "Result", exposures: Exposures, account: str, instrument: str | None = None
) -> ScoreGradient:
    """The slopes of the score of an account or of an isolated position; see `Result.score_gradient`."""
    book, model = result.matched.book, result.ready.model
    table = pl.concat([result.margins.with_columns(instrument_id=pl.lit(None, pl.String)), result.isolated],
                      how="diagonal")  # fmt: skip
    own = (pl.col("account_id") == account) & pl.col("instrument_id").eq_missing(pl.lit(instrument, pl.String))
    place = table.select(own.arg_true()).to_series().to_numpy().astype(np.int64)
    if not len(place):
        alone = "" if instrument is None else f" with an isolated position in {instrument!r}"
        raise KeyError(f"no account {account!r}{alone} in the book")
    row = table.row(int(place[0]), named=True)
    if row["initial_margin"] is None:
        raise ValueError(f"{account} has no score: {row['reason']}")
    if not isinstance(model, ScenarioModel):
        raise ValueError(f"`{model.name}` stands on no cube of its own, so that prices have no slope; take another")
    question = partial(_slopes, settings=result.ready.model.settings.score)
    tiles = result.ready.tiles.over(exposures).tiles
    _, answer = next(iter(tiles.answers(place, question, _shortfalls(table))))
    held, pledged = (each.taken(place) for each in (exposures.positions, exposures.collateral))
    by_amount = [answer.quantities[0, : len(held.columns)], answer.amounts[0, : len(pledged.columns)]]
    rows = np.concatenate([held.columns, pledged.columns])
    amounts = np.concatenate([held.amounts, pledged.amounts])
    units = np.zeros(exposures.zero_row + 1)
    np.add.at(units, rows, amounts)
    moves = _price_slopes(result, exposures, model, units, answer.scenarios[0].astype(float))
    names = [*book.instruments.ids[exposures.listed], *[None] * len(exposures.market.index)]
    underlyings = result.matched.market.underlyings["underlying"].to_list()
    assets = [*[None] * len(exposures.listed), *underlyings]
    text = {"instrument_id": pl.String, "asset": pl.String}
    positions = pl.DataFrame(
        {
            "instrument_id": [names[k] for k in rows],
            "asset": [assets[k] for k in rows],
            "amount": amounts,
            "slope": np.concatenate(by_amount).astype(float),
        },
        schema_overrides=text,
    )
    slopes = pl.DataFrame(
        {"underlying": underlyings, "slope": np.asarray(moves)}, schema_overrides={"underlying": pl.String}
    )
    return ScoreGradient(
        account=account,
        stress_score_smooth=float(answer.score[0]),
        bandwidth=float(answer.bandwidth[0]),
        equity=float(answer.equity[0]) + 0.0,  # no negative zero
        positions=positions,
        prices=slopes.filter(pl.col("slope") != 0),
    )


class _Slopes(eqx.Module):
    """Of each account of a tile: the smooth score, its bandwidth, its slopes, and those by every scenario's loss."""

    score: Float[Array, " accounts"]
    bandwidth: Float[Array, " accounts"]
    quantities: Float[Array, "accounts width"]
    amounts: Float[Array, "accounts collateral_width"]
    equity: Float[Array, " accounts"]
    scenarios: Float[Array, "accounts scenarios"]


def _shortfalls(table: pl.DataFrame) -> Float64[np.ndarray, " holders"]:
    return table["expected_shortfall"].fill_null(0.0).to_numpy()


@partial(jax.jit, static_argnames="settings")
def _scores(
    model: MarginModel, prepared: Prepared, tile: Tile, shortfall: Array, *, settings: Score
) -> tuple[Array, ...]:
    """FIGURES of each account."""
    widths = bandwidths(prepared, tile, shortfall, settings)
    beyond, closing = excess(model, prepared, tile)
    return closing, smooth_score(model, prepared, tile, widths), widths, beyond


@partial(jax.jit, static_argnames="settings")
def _slopes(model: MarginModel, prepared: Prepared, tile: Tile, shortfall: Array, *, settings: Score) -> _Slopes:
    widths = bandwidths(prepared, tile, shortfall, settings)

    def total(quantities: Array, amounts: Array, equity: Array, further: Array) -> tuple[Array, Array]:
        held = eqx.tree_at(
            lambda each: (each.quantities, each.amounts, each.equity), tile, (quantities, amounts, equity)
        )
        score = smooth_score(model, prepared, held, widths, further)
        return jnp.sum(score), score

    still = jnp.zeros((len(tile.equity), len(prepared.weights)), prepared.cube.dtype)
    at = (*map(jnp.asarray, (tile.quantities, tile.amounts, tile.equity)), still)
    slopes, score = jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True)(*at)
    return _Slopes(score, widths, *slopes)


def _price_slopes(
    result: "Result", exposures: Exposures, model: ScenarioModel, units: np.ndarray, by_loss: np.ndarray
) -> Float64[np.ndarray, " underlyings"]:
    """Slopes by the move of each underlying, of what is held in units by row of the cube.

    Equity and loss after a move are, together, the P&L from today's mark to the end of a scenario that begins after it.
    """
    instruments, market = exposures.instruments, exposures.market
    count = len(market.index)
    held = np.flatnonzero(units)
    listed = held[held < len(exposures.listed)]
    followed = {
        *exposures.groups[held].tolist(),
        *instruments.settle[listed].tolist(),
        *instruments.quote[listed].tolist(),
    }
    slopes = np.zeros(count)
    with jax.enable_x64(True):
        for underlying in sorted(followed - {count}):
            found = _moved(
                np.eye(count)[underlying], instruments, market, model.pricing, result.scenarios.shocks, units, by_loss,
                horizon_days=model.settings.risk.horizon_days,
            )  # fmt: skip
            slopes[underlying] = float(found)
    return slopes


@partial(jax.jit, static_argnames="horizon_days")
def _moved(
    direction: Array,
    instruments: Any,
    market: Any,
    pricing: Any,
    shocks: Array,
    units: Array,
    by_loss: Array,
    *,
    horizon_days: float,
) -> Array:
    """The slope of the losses of what is held, summed by `by_loss`, in a move that comes before the scenarios."""

    def moved(moves: Array) -> Array:
        return revalue(
            instruments, market, shocks.at[:, : len(moves)].add(moves), horizon_days=horizon_days, pricing=pricing
        )

    _, slope = jax.jvp(moved, (jnp.zeros_like(direction),), (direction,))
    return -jnp.sum(jnp.where(units != 0, units * (slope @ by_loss), 0))
