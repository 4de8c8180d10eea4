"""The slope of a margin in each correlation against margins at correlations moved a little."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import Config, parse_config
from marginax.engine.margin_book import _prepare
from marginax.engine.tiles import build, cut
from marginax.exposures import expose
from marginax.problems import BadInput
from markets import tables

SETTINGS: dict[str, Any] = {
    "historical": {"scenarios": {"window": 200}, "correlation": {"follow": True}},
    "of the window": {"scenarios": {"window": 200}},
    "dynamic": {
        "model": "dynamic", "scenarios": {"window": 200}, "correlation": {"follow": True},
        "stress_period": {"weight": 0.25, "bars": 60}, "dependence": {"share": 0.3},
    },
    "drawn": {"scenarios": {"source": "monte_carlo"}, "monte_carlo": {"draws": 16_384, "marginals": "normal"}},
}  # fmt: skip


def configured(name: str) -> Config:
    return parse_config({"risk": {"tail": 0.05}, **SETTINGS[name]}, "test")


@cache
def world() -> tuple[mx.Book, mx.Market]:
    given = tables()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    return book, mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})


def margin_at(name: str, account: str, pair: tuple[str, str], step: float) -> float:
    """The initial margin with one correlation moved."""
    book, market = world()
    model: Any = mx.load_model(configured(name))
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        exposures = expose(book, market, history)
        draws, state = model.draw(7, history), model.observe(history)
        observed = getattr(state, "observed", state)
        now = np.array(jax.jit(lambda o, d: model.source.correlation(o, d))(observed, draws.scenarios))
        names = [history.names[k] for k in observed.factors.correlated]
        i, j = names.index(pair[0]), names.index(pair[1])
        now[i, j] += step
        now[j, i] += step
        moved = eqx.tree_at(lambda d: d.scenarios.correlation, draws, jnp.asarray(now), is_leaf=lambda x: x is None)
        prepared, _ = _prepare(model, exposures.instruments, exposures.market, state, moved)
        place = np.flatnonzero(book.accounts == account)
        tile = build(exposures, next(iter(cut(exposures, place, tile_rows=64, scenarios=200))), np.float64)
        parts = jax.jit(lambda p, t: model.margin(model.complete(p), t)[0].parts.values)(prepared, tile)
        return float(sum(part[0] for part in parts))


@pytest.mark.parametrize("name", ["historical", pytest.param("of the window", marks=pytest.mark.long), "dynamic"])
def test_the_slope_is_that_of_margins_at_moved_correlations(name: str) -> None:
    found = mx.correlation_sensitivity(*world(), configured(name), accounts=["mixed"])
    for pair in (("ETH", "OIL"), ("DOGE", "ETH")):
        row = found.filter((pl.col("one") == pair[0]) & (pl.col("other") == pair[1])).row(0, named=True)
        step = 1e-5
        difference = (margin_at(name, "mixed", pair, step) - margin_at(name, "mixed", pair, -step)) / (2 * step)
        assert abs(row["sensitivity"]) > 1
        assert row["sensitivity"] == pytest.approx(difference, rel=1e-4), pair


def test_of_drawn_scenarios_it_is_the_slope_of_the_law() -> None:
    """Long ETH, short DOGE: what they have in common is hedged, so the margin falls where it grows."""
    found = mx.correlation_sensitivity(*world(), configured("drawn"), accounts=["mixed"])
    row = found.filter((pl.col("one") == "DOGE") & (pl.col("other") == "ETH")).row(0, named=True)
    step = 0.02
    difference = (
        margin_at("drawn", "mixed", ("DOGE", "ETH"), step) - margin_at("drawn", "mixed", ("DOGE", "ETH"), -step)
    ) / (2 * step)
    assert row["sensitivity"] < 0
    # 16,384 weighted draws give a shortfall to half a per cent, and its difference over 0.04 to a quarter.
    assert row["sensitivity"] == pytest.approx(difference, rel=0.25)


def test_an_account_in_one_coin_hardly_hangs_on_any_correlation() -> None:
    """The perpetual settles in a stablecoin, whose moves are thousandths of the coin's."""
    found = mx.correlation_sensitivity(*world(), configured("historical"), accounts=["long", "short"])
    assert found["account_id"].unique(maintain_order=True).to_list() == ["long", "short"]
    owed = mx.margin_book(*world(), configured("historical")).margins.filter(pl.col("account_id") == "long")
    assert found["sensitivity"].abs().max() < 0.02 * owed["initial_margin"][0]


def test_who_is_not_there_and_what_has_no_correlations_is_refused() -> None:
    with pytest.raises(KeyError, match="no account 'nobody' in the book"):
        mx.correlation_sensitivity(*world(), configured("historical"), accounts=["nobody"])
    names = ("BTC", "ETH", "DOGE", "USDT", "OIL")
    given = mx.ScenarioSet(names, np.zeros((2, 5)), np.array([0.5, 0.5]), ("one", "two"))
    plain: Any = mx.load_model(configured("historical"))
    with pytest.raises(BadInput, match="draws no scenarios from correlations"):
        mx.correlation_sensitivity(*world(), plain.with_scenarios(given), accounts=["long"])
