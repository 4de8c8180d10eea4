"""Three coins with a history of 160 daily returns: a storm, a calm, and a peg that jumps; and scenarios made of it.

Scenarios are read as the engine reads a model: factors, draw, observe, prepare. `filtered` is their twin in loops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy import stats

import marginax as mx
from laws._books import NOW, Tables, book, contract, frame, market
from marginax.config import parse_config
from marginax.exposures import expose
from marginax.scenarios.proxies import resampled_rows, resampling_orders
from marginax.sections import Engine
from reference import filters as twin

BARS = 161
DAYS = [NOW - timedelta(days=k) for k in range(BARS - 1, -1, -1)]
PRICES = {"BTC": 1_000.0, "ETH": 100.0, "USDT": 1.0}
DOUBLE = Engine(precision="float64")


@cache
def returns() -> np.ndarray:
    """Daily log returns of BTC, ETH and USDT: a calm end after a storm, and a peg that jumps once and comes back."""
    rng = np.random.default_rng(21)
    common, own = rng.standard_t(4, (BARS - 1, 1)), rng.standard_t(4, (BARS - 1, 3))
    size = np.where(np.arange(BARS - 1) < 110, 0.04, 0.006)[:, None]
    moves = size * (0.8 * common + 0.6 * own)
    moves[:, 2] = 1e-4 * own[:, 2]
    moves[120, 2], moves[121, 2] = -0.08, 0.08
    return moves


def paths(moves: np.ndarray | None = None, names: Sequence[str] = tuple(PRICES)) -> list[dict[str, Any]]:
    """History rows that end at today's prices."""
    moves = returns() if moves is None else moves
    walk = np.vstack([np.zeros(moves.shape[1]), np.cumsum(moves, axis=0)])
    walk -= walk[-1]
    return [
        {"time": day, "underlying": name, "price": PRICES[name] * float(np.exp(walk[t, k]))}
        for k, name in enumerate(names)
        for t, day in enumerate(DAYS)
    ]


CONTRACTS = (
    contract("BTC-SPOT", "spot", "BTC"),
    contract("ETH-SPOT", "spot", "ETH"),
    contract("USDT-SPOT", "spot", "USDT"),
)


PERP, COIN_PERP = (
    contract("BTC-PERP", "perpetual", "BTC"),
    contract("BTC-INV", "perpetual", "BTC", settlement="inverse"),
)
# 90 days before it expires, and twice that.
NEAR = contract("BTC-NEAR", "future", "BTC", expiry=NOW + timedelta(days=90))
FAR = contract("BTC-FAR", "future", "BTC", expiry=NOW + timedelta(days=180))
# Two coins without a bar of their own.
NEW = [
    {"underlying": "NEW", "index_price": 10.0, "proxy": "BTC", "proxy_beta": 1.2},
    {"underlying": "NEWER", "index_price": 4.0, "proxy": "BTC", "proxy_beta": 1.2},
]
LISTED = (*CONTRACTS, contract("NEW-SPOT", "spot", "NEW"), contract("NEWER-SPOT", "spot", "NEWER"))


def venue(
    contracts: Sequence[dict[str, Any]] = CONTRACTS,
    *,
    underlyings: Sequence[dict[str, Any]] = (),
    history: Sequence[dict[str, Any]] | None = None,
    marks: dict[str, float] | None = None,
) -> Tables:
    """The three coins and some more underlyings, with contracts at the price of what they are on."""
    table = [{"underlying": name, "index_price": price} for name, price in PRICES.items()] + list(underlyings)
    prices = {row["underlying"]: row["index_price"] for row in table}
    marks = {row["instrument_id"]: prices[row["underlying"]] for row in contracts} | (marks or {})
    quotes = [{"instrument_id": name, "mark_price": mark, "time": NOW} for name, mark in marks.items()]
    return {
        "instruments": frame("instruments", contracts),
        "quotes": frame("quotes", quotes),
        "underlyings": frame("underlyings", table),
        "history": frame("history", paths() if history is None else history),
    }


def holding(tables: Tables, *accounts: dict[str, float]) -> Tables:
    """The venue with one account for each set of positions."""
    rows = [
        {"account_id": f"account {k}", "instrument_id": name, "quantity": quantity}
        for k, held in enumerate(accounts)
        for name, quantity in held.items()
    ]
    return {**tables, "positions": frame("positions", rows), "balances": frame("balances", [])}


def configured(**sections: Any) -> mx.Config:
    return parse_config({"risk": {"tail": 0.05}, **sections}, "test")


def margins(tables: Tables, config: Any = None, *, seed: int = 7) -> pl.DataFrame:
    chosen = configured() if config is None else config
    return mx.margin_book(book(tables), market(tables), chosen, engine=DOUBLE, seed=seed).margins


@dataclass(frozen=True)
class Seen:
    """Scenarios as a model prepares them: shocks by factor, weights and labels, and the draws behind them."""

    factors: tuple[str, ...]
    shocks: np.ndarray
    weights: np.ndarray
    labels: tuple[str, ...]
    rows: np.ndarray

    def __getitem__(self, factor: str) -> np.ndarray:
        return self.shocks[:, self.factors.index(factor)]


def seen(tables: Tables, config: mx.Config | None = None, *, seed: int = 7) -> Seen:
    """What the engine does before it looks at an account."""
    chosen, known, held = mx.load_model(config or configured()), market(tables), book(holding(tables))
    with jax.enable_x64(True):
        history = chosen.factors(known, held.instruments)
        exposures = expose(held, known, history)
        draws, state = chosen.draw(seed, history), chosen.observe(history)
        prepared, shocks = chosen.prepare(exposures.instruments, exposures.market, state, draws)
        weights = np.asarray(prepared.weights)
    orders = resampling_orders(history.names, len(history.times), seed=seed)
    rows = np.asarray(resampled_rows(jnp.asarray(~np.isnan(history.returns)), orders))
    return Seen(history.names, np.asarray(shocks), weights, chosen.labels(history), rows)


def filtered(moves: np.ndarray, *, half_life: float = 23.0, floor: float = 0.5, cap: float = 15.0) -> np.ndarray:
    """Filtered historical scenarios of one bar each, in loops: returns over their day's volatility, times today's."""
    one = np.ones(moves.shape)
    path, today = twin.ewma_variance(moves, one, twin.mean_square(moves, one, count=30), half_life=half_life)
    long_run = np.sqrt(twin.mean_square(moves, one))
    residuals, _ = twin.filtered_residuals(moves, one, np.sqrt(path), long_run, least_share=0.25, cap=cap)
    return residuals * np.maximum(np.sqrt(today), floor * long_run)


def noise(size: float) -> np.ndarray:
    """The sizes that stand in for a basis without history: quantiles of a t law with 4 degrees of freedom, scaled."""
    strata = stats.t.ppf((np.arange(BARS - 1) + 0.5) / (BARS - 1), 4)
    return size * strata / np.sqrt(np.mean(strata**2))
