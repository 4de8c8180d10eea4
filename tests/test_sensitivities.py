"""Deltas and vegas of single rows against finite differences of the cube, on every kind of instrument."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

import marginax as mx
from marginax.cube import revalue
from marginax.exposures import Exposures, expose
from marginax.history import FactorHistory
from marginax.models.addons.liquidity import gross_notional
from marginax.options import OptionPricing
from marginax.sensitivities import unit_sensitivities
from marginax.synthetic import venue
from markets import changed, tables, underlyings

STEP = 1e-6


@cache
def world(absolute: bool) -> tuple[Exposures, FactorHistory, mx.Book]:
    """The synthetic venue, with linear options and those settled in coin; or the tiny one, oil shocked absolutely."""
    if absolute:
        given: dict[str, Any] = tables(underlyings=changed(underlyings(), "shock", "absolute", row=5))
    else:
        given = dict(venue(accounts=20).tables)
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(
        **{name: given[name] for name in ("quotes", "underlyings", "history", "forwards") if name in given}
    )
    model = mx.load_model("expected_shortfall")
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        return expose(book, market, history), history, book


@pytest.mark.parametrize("absolute", [False, True])
def test_slopes_are_those_of_finite_differences_in_the_own_underlying(double: None, absolute: bool) -> None:
    exposures, history, _ = world(absolute)
    arrays, market, pricing = exposures.instruments, exposures.market, OptionPricing.from_settings()
    factors, assets = len(history.names), len(market.index)
    found = jax.jit(lambda: unit_sensitivities(arrays, market, factors, pricing))()
    value = jax.jit(lambda shocks: revalue(arrays, market, shocks, pricing=pricing))
    step = STEP * np.where(market.absolute, market.level, 1.0)
    move = np.zeros((assets, factors))
    move[np.arange(assets), np.arange(assets)] = step
    slope = (np.asarray(value(move)) - np.asarray(value(-move)))[: len(arrays.style)] / (2 * step)
    own = slope[np.arange(len(arrays.style)), arrays.underlying]
    gross = np.asarray(gross_notional(arrays, market, np.asarray(found.delta)))
    level = np.where(market.absolute, market.level, 1.0)[arrays.underlying]
    np.testing.assert_allclose(np.asarray(found.delta) * level, own * level, atol=1e-6 * gross.max(), rtol=1e-6)
    volatility = np.zeros((1, factors))
    volatility[0, history.is_volatility] = -STEP
    fall = (np.asarray(value(volatility)) - np.asarray(value(np.zeros((1, factors)))))[: len(arrays.style), 0] / -STEP
    np.testing.assert_allclose(found.vega, fall, atol=1e-5 * gross.max(), rtol=1e-4)
    assert absolute or np.abs(fall).max() > 0


def test_gross_notional_of_linear_contracts_is_their_delta_and_of_options_what_they_control(double: None) -> None:
    exposures, history, book = world(False)
    arrays, market = exposures.instruments, exposures.market
    delta = np.asarray(unit_sensitivities(arrays, market, len(history.names), OptionPricing.from_settings()).delta)
    gross = np.asarray(gross_notional(arrays, market, delta))
    option = book.instruments.is_option[exposures.listed]
    np.testing.assert_array_equal(gross[~option], np.abs(delta[~option]))
    index = market.index[arrays.underlying]
    coin = book.instruments.coin_settled[exposures.listed]
    assert np.any(coin)
    np.testing.assert_allclose(gross[coin], (arrays.multiplier * index)[coin], rtol=1e-12)
    assert np.all(gross[option] >= 0.9 * (arrays.multiplier * index)[option])
