"""Assets that can lose their peg: the scenario and its mass, and what it would have charged before two that did."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import book_of, margin, row, tables

DOUBLE = Engine(precision="float64")
PEGGED: dict[str, Any] = {
    "classes": {
        "default": "coins",
        "names": {"USDT": "pegged"},
        "parameters": {"coins": {"falls_with_pegs": 0.05}, "pegged": {"jump_rate": 0.3, "jump_size": 0.1}},
    }
}
PROBABILITY = -np.expm1(-0.3 / 365)


def holding(positions: pl.DataFrame) -> dict[str, Any]:
    return tables(positions=positions, balances=pl.DataFrame({"account_id": ["a"], "asset": ["USDT"], "amount": [1e6]}))


def test_a_lost_peg_is_one_scenario_with_the_probability_of_its_rate() -> None:
    given = holding(book_of(("a", "ETH-SPOT", 0.001)))
    config = parse_config(PEGGED, "test")
    result = margin(given, config, engine=DOUBLE)
    assert result.scenarios.labels[-1] == "USDT loses its peg"
    assert result.scenarios.weights[-1] == pytest.approx(PROBABILITY, rel=1e-12)
    moves = result.scenario("USDT loses its peg")
    told = dict(moves.filter(pl.col("factor") == "price").select("underlying", "move").iter_rows())
    assert told == pytest.approx({"USDT": -0.1, "BTC": -0.05, "ETH": -0.05, "DOGE": -0.05, "OIL": -0.05})
    plain = margin(given, parse_config({}, "test"), engine=DOUBLE)
    more = row(result, "a")["initial_margin"] - row(plain, "a")["initial_margin"]
    # A hundred thousand are lost in p of all cases, all of them in the tail; what they push out of it is small.
    assert 0.8 < more / (PROBABILITY / 0.01 * 1e5) < 1.0


def test_rate_and_size_of_an_asset_come_before_those_of_its_class() -> None:
    own = {**PEGGED, "pegs": {"rates": {"USDT": 0.1, "OIL": 0.2}, "sizes": {"USDT": 0.2, "OIL": 0.5}}}
    result = margin(holding(book_of(("a", "ETH-SPOT", 0.001))), parse_config(own, "test"), engine=DOUBLE)
    assert list(result.scenarios.labels[-2:]) == ["USDT loses its peg", "OIL loses its peg"]
    np.testing.assert_allclose(result.scenarios.weights[-2:], -np.expm1(-np.array([0.1, 0.2]) / 365))
    moves = dict(result.scenario("USDT loses its peg").select("underlying", "move").iter_rows())
    assert moves["USDT"] == pytest.approx(-0.2)
    assert moves["OIL"] == 0


@pytest.mark.parametrize(
    ("pegs", "said"),
    [
        ({"rates": {"USDT": -0.1}}, r"pegs\.rates\.USDT.*greater than or equal to 0"),
        ({"sizes": {"USDT": 1.0}}, r"pegs\.sizes\.USDT.*less than 1"),
    ],
)
def test_rates_and_sizes_are_shares(pegs: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_config({"pegs": pegs}, "test")


SHARED = Path(os.environ.get("MARGINAX_SHARED", "../shared")) / "data" / "crypto_daily" / "yahoo_usd_1d.parquet"


def charged(history: pl.DataFrame, asset: str, as_of: datetime, model: Any) -> float:
    """What a million of an asset beside a small position costs in margin, per cent of it."""
    known = history.filter(pl.col("time") <= as_of)
    last = dict(known.sort("time").group_by("underlying").last().select("underlying", "price").iter_rows())
    instruments = pl.DataFrame(
        {"instrument_id": ["BTC-SPOT"], "kind": ["spot"], "underlying": ["BTC"], "quote": ["USD"],
         "settlement": ["linear"], "multiplier": [1.0]}
    )  # fmt: skip
    book = mx.read_book(
        instruments=instruments,
        positions=book_of(("a", "BTC-SPOT", 1e-6)),
        balances=pl.DataFrame({"account_id": ["a"], "asset": [asset], "amount": [1e6]}),
    )
    market = mx.read_market(
        quotes=pl.DataFrame({"instrument_id": ["BTC-SPOT"], "mark_price": [last["BTC"]], "time": [as_of]}),
        underlyings=pl.DataFrame({"underlying": list(last), "index_price": list(last.values()), "time": as_of}),
        history=known,
    )
    return 1e-4 * float(mx.margin_book(book, market, model, engine=DOUBLE).margins["initial_margin"][0])


@pytest.mark.skipif(not SHARED.is_file(), reason=f"no {SHARED}; MARGINAX_SHARED names the folder of the data")
def test_before_usdc_broke_in_march_2023_the_preset_charged_many_times_what_its_calm_history_says() -> None:
    rows = pl.read_parquet(SHARED).filter(pl.col("symbol").is_in(["BTC", "USDC"]))
    time = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("time")
    history = rows.select(time, pl.col("symbol").alias("underlying"), pl.col("close").alias("price")).sort("time")
    before = datetime(2023, 3, 10, tzinfo=UTC)
    price = history.filter(underlying="USDC").filter(
        pl.col("time").dt.date().is_between(before.date(), datetime(2023, 3, 11).date())
    )
    lost = 100 * (1 - price["price"][1] / price["price"][0])
    plain, preset = (charged(history, "USDC", before, name) for name in ("fhs", "dynamic"))
    assert lost == pytest.approx(2.8, abs=0.01)
    assert plain < lost / 4
    assert preset > 5 * plain
    # Nearly what was lost from close to close, and a quarter of what the day's low took.
    assert preset > 0.9 * lost


def test_before_ust_broke_in_may_2022_too_and_by_far_not_enough() -> None:
    """A coin that never moved by more than a few basis points; it fell from 1 to 0.68 in a day on 9 May 2022 (CoinDesk,
    10 May 2022). No margin by its own history, and none that is paid for by a rate, would have covered that: a limit on
    how much of it counts would."""
    rng = np.random.default_rng(9)
    times = pl.datetime_range(datetime(2020, 12, 1), datetime(2022, 5, 8), "1d", time_zone="UTC", eager=True)
    walk = 30_000 * np.exp(np.cumsum(0.04 * rng.standard_normal(len(times))))
    calm = 1 + 5e-4 * rng.standard_normal(len(times))
    parts = [
        pl.DataFrame({"time": times, "underlying": name, "price": path})
        for name, path in (("BTC", walk), ("UST", calm))
    ]
    history, before, lost = pl.concat(parts).sort("time"), datetime(2022, 5, 8, tzinfo=UTC), 32.0
    plain, preset = (charged(history, "UST", before, name) for name in ("fhs", "dynamic"))
    assert plain < 0.3
    assert 2 < preset < lost / 5
    limited = mx.load_config("dynamic").model_dump(mode="json", exclude_defaults=True)
    limited["collateral"] = {**limited["collateral"], "limits": {"UST": 600_000.0}}
    assert charged(history, "UST", before, parse_config(limited, "test")) > lost


def test_a_rate_has_the_slope_of_its_finite_difference(double: None) -> None:
    import equinox as eqx
    import jax.numpy as jnp

    from marginax.scenarios.filtering import factor_arrays

    model: Any = mx.load_model(parse_config(PEGGED, "test"))
    given = tables()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})
    history = model.factors(market, book.instruments)
    factors, draws = factor_arrays(history), model.source.pegs.draw(history)

    def mass(rate: jax.Array) -> jax.Array:
        pegs = eqx.tree_at(lambda each: each.rate, model.source.pegs, rate)
        return jnp.sum(pegs.shocks(factors, draws)[1])

    at = jnp.asarray(model.source.pegs.rate)
    slope = jax.grad(mass)(at)
    step = 1e-6 * jnp.eye(len(at))[1]
    assert float(slope[1]) == pytest.approx(float(mass(at + step) - mass(at - step)) / 2e-6, rel=1e-6)
