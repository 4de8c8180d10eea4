"""Every number of the dynamic margin has a slope: what accounts owe together against finite differences."""

from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marginax as mx
from marginax.engine.tiles import build, cut
from marginax.exposures import expose
from test_dynamic import configured, holdings

# Worst numbers at which some accounts pay by the root of volume and some by depth.
CLOSING = {"spread": 1.0, "fee": 0.0005, "impact": 1.0, "participation": 0.1, "worst_adv": 3e5, "worst_depth": 2e3}
LEAVES: dict[str, Callable[[Any], Any]] = {
    "fast half-life": lambda model: model.source.volatility.model.fast_half_life_days,
    "slow half-life": lambda model: model.source.volatility.model.slow_half_life_days,
    "share of the fast": lambda model: model.source.volatility.model.fast_share,
    "correlation half-life": lambda model: model.source.volatility.correlation.half_life_days,
    "shrinkage": lambda model: model.source.volatility.correlation.shrinkage,
    "stressed weight": lambda model: model.stress_weight,
    "share of dependence": lambda model: model.dependence.share,
    "break multiplier": lambda model: model.correlation_break.multiplier,
    "buffer": lambda model: model.procyclicality.buffer,
    "wrong way": lambda model: model.collateral.wrong_way,
    "concentration": lambda model: model.collateral.concentration,
    "half of the spread": lambda model: model.liquidity.spread,
    "fee": lambda model: model.liquidity.fee,
    "impact": lambda model: model.liquidity.impact,
    "participation": lambda model: model.liquidity.participation,
    "worst depth": lambda model: model.liquidity.worst_depth,
    "worst volume": lambda model: model.liquidity.worst_adv,
}


@cache
def total() -> tuple[Any, Callable[[tuple[Any, ...]], Any]]:
    """The model, and what all accounts owe as a function of the leaves above. Limits on speed would hide the buffer."""
    given = holdings()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})
    model = mx.load_model(configured(procyclicality={"buffer": 0.25}, liquidity=CLOSING))
    history = model.factors(market, book.instruments)
    exposures = expose(book, market, history)
    draws, accounts = model.draw(7, history), np.arange(len(book))
    tiles = [build(exposures, part, np.float64) for part in cut(exposures, accounts, tile_rows=64, scenarios=200)]

    def owed(values: tuple[Any, ...]) -> Any:
        tuned = eqx.tree_at(lambda each: [leaf(each) for leaf in LEAVES.values()], model, list(values))
        prepared, _ = tuned.prepare(exposures.instruments, exposures.market, tuned.observe(history), draws)
        whole = tuned.complete(prepared)
        parts = (tuned.margin(whole, tile)[0].parts.values for tile in tiles)
        return sum((jnp.sum(part) for each in parts for part in each), jnp.zeros(()))

    return model, jax.jit(owed)


def test_what_is_owed_has_the_slope_of_its_finite_difference_in_every_number(double: None) -> None:
    model, owed = total()
    at = tuple(jnp.asarray(float(leaf(model))) for leaf in LEAVES.values())
    slopes = jax.jit(jax.grad(owed))(at)
    for k, name in enumerate(LEAVES):
        step = 1e-6 * float(at[k])
        up, down = (owed(tuple(x + way * step * (j == k) for j, x in enumerate(at))) for way in (1, -1))
        difference = (float(up) - float(down)) / (2 * step)
        assert abs(difference) > 1e-3, name
        # A sum of a hundred thousand is rounded at 1e-10 and divided by the step.
        assert float(slopes[k]) == pytest.approx(difference, rel=1e-4, abs=1e-9 / step), name
