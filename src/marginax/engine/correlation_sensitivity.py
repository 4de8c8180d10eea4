"""How much a margin hangs on each correlation: one reverse pass for an account, whatever the number of factors."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from marginax.book import Book
from marginax.config import Config
from marginax.engine.compilation import persistent_cache
from marginax.engine.margin_book import agree
from marginax.engine.tiles import build, cut
from marginax.exposures import expose
from marginax.market import Market
from marginax.match import match
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.models.scenario_model import ScenarioModel
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import Observed
from marginax.scenarios.given import GivenScenarios


def correlation_sensitivity(
    book: Book,
    market: Market,
    model: str | Path | Config | MarginModel = "dynamic",
    *,
    accounts: Sequence[str],
    seed: int | None = None,
) -> pl.DataFrame:
    """The slope of the initial margin in the correlation of each pair of factors, by account, the largest first.

    Columns: account_id, one, other (underlyings, and implied volatilities with a history), correlation (what the
    scenarios have), sensitivity (account currency per unit of correlation). Filtered historical scenarios are brought
    to the correlation by the Cholesky factors of `correlation_map`, drawn ones by that of the copula; for the latter it
    is the slope of the law, not of the finite set of draws. Correlations at which the matrix stops being definite are
    not looked at: it is a slope, not a stress.

    Raises BadInput as `margin_book` does, and for a model without correlations; KeyError for an unknown account,
    ValueError for none.
    """
    if not accounts:
        raise ValueError("no account is named; name at least one")
    persistent_cache()
    chosen = load_model(model)
    agree(chosen.settings.run, market)
    if not isinstance(chosen, ScenarioModel) or isinstance(chosen.source, GivenScenarios):
        what = f"`{chosen.name}` draws no scenarios from correlations"
        raise BadInput([Problem("configuration", "model", None, what, "Name a model on historical or drawn scenarios")])
    matched = match(book, market, model=chosen.name, options=chosen.settings.options)
    unknown = sorted(set(accounts) - set(matched.book.accounts))
    if unknown:
        raise KeyError(f"no account {unknown[0]!r} in the book")
    with jax.enable_x64(True):
        history = chosen.factors(matched.market, matched.book.instruments)
        exposures = expose(matched.book, matched.market, history, chosen.settings.options, chosen.settings.funding)
        draws = chosen.draw(chosen.settings.run.seed if seed is None else seed, history)
        state = chosen.observe(history)
        observed = state if isinstance(state, Observed) else state.observed
        now = _now(chosen.source, observed, draws.scenarios)
        names = [history.names[k] for k in observed.factors.correlated]
        upper = np.triu_indices(len(names), 1)
        frames = []
        for account in dict.fromkeys(accounts):
            place = np.flatnonzero(matched.book.accounts == account)
            part = next(iter(cut(exposures, place, tile_rows=64, scenarios=len(history.times))))
            tile = build(exposures, part, np.float64)
            slope = np.asarray(_slope(chosen, exposures.instruments, exposures.market, state, draws, now, tile))
            pairs = {
                "one": [names[k] for k in upper[0]],
                "other": [names[k] for k in upper[1]],
                "correlation": np.asarray(now)[upper],
                "sensitivity": (slope + slope.T)[upper],
            }
            frames.append(pl.DataFrame(pairs).select(pl.lit(account).alias("account_id"), pl.all()))
    return pl.concat(frames).sort("account_id", pl.col("sensitivity").abs(), descending=[False, True])


@jax.jit
def _now(source: Any, observed: Any, draws: Any) -> Any:
    return source.correlation(observed, draws)


@partial(jax.jit)
@partial(jax.grad, argnums=5)
def _slope(model: Any, instruments: Any, market: Any, state: Any, draws: Any, correlation: Any, tile: Any) -> Any:
    at = eqx.tree_at(lambda each: each.scenarios.correlation, draws, correlation, is_leaf=lambda leaf: leaf is None)
    prepared, _ = model.prepare(instruments, market, state, at)
    margin, _ = model.margin(model.complete(prepared), tile)
    return sum(part[0] for part in margin.parts.values) + jnp.zeros(())
