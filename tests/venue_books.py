"""Books of a venue and their margins, for the tests of its view."""

from functools import cache
from typing import Any

import polars as pl

import marginax as mx
import markets
from marginax.config import parse_config
from marginax.synthetic import venue as synthetic_venue
from marginax.venue import VenueView

# A book in which everybody's contract is somebody else's: no net position but in spot.
CLOSED: list[tuple[str, str, float, float | None]] = [
    ("hedged", "BTC-SPOT", 1.0, None),
    ("hedged", "BTC-PERP", -1_000.0, None),
    ("long", "BTC-PERP", 1_000.0, None),
    ("inverse", "BTC-INV", 400.0, None),
    ("mixed", "BTC-INV", -400.0, None),
    ("spread", "ETH-PERP", 1_000.0, None),
    ("spread", "ETH-FUT", -1_000.0, None),
    ("mixed", "ETH-PERP", -1_000.0, None),
    ("short", "ETH-FUT", 1_000.0, None),
    ("long", "DOGE-PERP", 500.0, 1_000.0),
    ("short", "DOGE-PERP", -500.0, 40.0),
]
SCHEMA = {
    "account_id": pl.String,
    "instrument_id": pl.String,
    "quantity": pl.Float64,
    "isolated_margin": pl.Float64,
}
NEAR = 2.0
FUND = 2_000.0


def settings(model: str = "expected_shortfall", **venue: Any) -> mx.Config:
    told = {"report": True, "near_ratio": NEAR, "insurance_fund": FUND, **venue}
    asked: dict[str, Any] = {"model": model, "scenarios": {"window": 200}, "venue": told}
    asked["collateral"] = {"haircuts": {"BTC": 0.05, "USDT": 0.02}}
    if model == "dynamic":
        asked["stress_period"] = {"weight": 0.25, "bars": 100}
    return parse_config(asked, "test")


def positions(rows: list[tuple[str, str, float, float | None]] | None = None) -> pl.DataFrame:
    return pl.DataFrame(CLOSED if rows is None else rows, schema=SCHEMA, orient="row")


@cache
def told(model: str = "expected_shortfall") -> mx.Result:
    return markets.margin(markets.tables(positions=positions()), settings(model))


def view(result: mx.Result) -> VenueView:
    assert result.venue is not None
    return result.venue


@cache
def made() -> tuple[dict[str, pl.DataFrame], mx.Result]:
    tables = synthetic_venue(
        accounts=120, underlyings=4, instruments=12, bars=300, options=1, expiries=2, strikes=3
    ).tables
    # Nobody's ratio is below so much but where something is owed, so nearly all of the venue is at risk.
    return tables, markets.margin(tables, settings(near_ratio=1e9))
