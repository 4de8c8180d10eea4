"""The table of a market's options: prices, Greeks that are slopes of them, and where it is written."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import NOW, contract, scenario_set
from laws._options import given, holding, option, venue
from test_chains import FORWARD, INDEX, STYLES, chain, marks, stated, told


def table_at(*, forward: float = 0.0, volatility: float = 0.0, hours: float = 0.0, window: float = 0.0) -> pl.DataFrame:
    """Options of every kind, and some of today, with their inputs moved a little; all is stated, marks are mute."""
    contracts = [
        *(row for style in STYLES for row in chain(style, strikes=(45_000.0, 52_000.0))),
        *chain("F", strikes=(49_800.0,), days=0.25),
        option("OIL-C", "call", "OIL", 60.0, 30),
        option("OIL-P", "put", "OIL", -5.0, 30),
    ]
    quotes = {
        row["instrument_id"]: (0.0, (40.0 if row["underlying"] == "OIL" else 0.7) + volatility) for row in contracts
    }
    forwards = [stated(forward=FORWARD + forward), stated(0.25, 50_010.0 + forward, None)]
    forwards.append({**stated(forward=62.0 + forward), "underlying": "OIL"})
    oil = {"index_price": 64.0, "shock": "absolute"}
    tables = venue(contracts, quotes, {"BTC": INDEX, "OIL": oil}, forwards=forwards)
    held = mx.read_book(**{name: holding(tables, {})[name] for name in ("instruments", "positions", "balances")})
    names = ("quotes", "underlyings", "history", "forwards")
    known = mx.read_market(**{name: tables[name] for name in names}, as_of=NOW + timedelta(hours=hours))
    by = given(
        scenario_set(("BTC", "OIL"), [[0.0, 0.0]]), options={"forward_bound": 0.99, "settlement_window_minutes": window}
    )
    return mx.margin_book(held, known, by).options


def test_greeks_are_the_slopes_of_the_model_price() -> None:
    """Central differences of prices and deltas; those of coins are of the value in quote currency."""
    now = table_at()
    in_coins = pl.Series([name.startswith("BTC-B-") for name in now["instrument_id"]])

    def value(table: pl.DataFrame) -> np.ndarray:
        return (table["model_price"] * np.where(in_coins, table["forward"], 1.0)).to_numpy()

    # A step of 1e-4 of each input: curvature is left with 1e-8 of a slope, and rounding with 1e-16 / 1e-4. Oil, whose
    # forward is a thousandth of the coin's, takes steps of its own size.
    is_oil = (now["underlying"] == "OIL").to_numpy()
    for step, which in ((5.0, ~is_oil), (0.005, is_oil)):
        up, down = table_at(forward=step), table_at(forward=-step)
        slope = (value(up) - value(down)) / (2 * step)
        bend = (up["delta"] - down["delta"]).to_numpy() / (2 * step)
        np.testing.assert_allclose(slope[which], now["delta"].to_numpy()[which], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(bend[which], now["gamma"].to_numpy()[which], rtol=1e-4, atol=1e-9)
    for step, which in ((1e-4, ~is_oil), (1e-2, is_oil)):
        up, down = table_at(volatility=step), table_at(volatility=-step)
        slope = (value(up) - value(down)) / (2 * step)
        cross = (up["delta"] - down["delta"]).to_numpy() / (2 * step)
        np.testing.assert_allclose(slope[which], now["vega"].to_numpy()[which], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cross[which], now["vanna"].to_numpy()[which], rtol=1e-4, atol=1e-8)
    # Half a minute either way, of six hours at the least.
    hours = 1 / 120
    slope = (value(table_at(hours=hours)) - value(table_at(hours=-hours))) / (2 * hours / (365 * 24))
    np.testing.assert_allclose(slope, now["theta"].to_numpy(), rtol=1e-4, atol=1e-6)
    assert now["years"].min() == pytest.approx(0.25 / 365)


def test_theta_of_an_average_is_the_slope_of_its_price_too() -> None:
    """Over the last ten hours: options of six hours are inside, those of thirty days are not."""
    hours = 1 / 120
    now, later, before = (table_at(hours=each, window=600.0) for each in (0.0, hours, -hours))
    unit = np.where([name.startswith("BTC-B-") for name in now["instrument_id"]], now["forward"].to_numpy(), 1.0)
    slope = unit * (later["model_price"] - before["model_price"]).to_numpy() / (2 * hours / (365 * 24))
    np.testing.assert_allclose(slope, now["theta"].to_numpy(), rtol=1e-4, atol=1e-6)
    inside = now["years"].to_numpy() < 600 / (365 * 24 * 60)
    assert inside.any()
    assert not np.allclose(now["theta"].to_numpy()[inside], table_at()["theta"].to_numpy()[inside], rtol=0.1)


def test_options_are_written_as_they_are_told(tmp_path: Path) -> None:
    contracts = chain("B")
    answer = told(venue(contracts, marks(contracts), {"BTC": INDEX}), {"a": {contracts[0]["instrument_id"]: 1.0}})
    folder = answer.write(tmp_path / "out")
    assert pl.read_parquet(folder / "options.parquet").equals(answer.options)
    # Deltas of calls are positive, of puts negative, and one apart at a strike (nothing is discounted in coins).
    calls, puts = (answer.options.filter(pl.col("kind") == kind)["delta"] for kind in ("call", "put"))
    np.testing.assert_allclose(calls - puts, 1.0, rtol=1e-12)
    assert (answer.options["vega"] > 0).all()
    assert (answer.options["theta"] < 0).all()


def test_a_venue_without_options_writes_no_table_of_them(tmp_path: Path) -> None:
    at = venue([contract("SPOT", "spot", "BTC")], {"SPOT": INDEX}, {"BTC": INDEX})
    answer = told(at, {"a": {"SPOT": 1.0}})
    assert answer.options.height == 0
    assert not (answer.write(tmp_path / "out") / "options.parquet").exists()
