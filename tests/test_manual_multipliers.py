"""Multipliers set by hand: of an account's whole requirement, and of what an instrument would owe alone."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets

ACCOUNTS = pl.DataFrame({"account_id": ["long", "mixed", "hedged"], "multiplier": [1.5, 2.0, None]})


def raised(instrument: str, times: float) -> pl.DataFrame:
    times_here = pl.when(pl.col("instrument_id") == instrument).then(times).alias("margin_multiplier")
    return markets.instruments().with_columns(times_here)


@pytest.mark.parametrize("model", ["expected_shortfall", "dynamic"])
def test_an_accounts_requirement_is_multiplied_and_no_others(model: str) -> None:
    plain = markets.margin(markets.tables(), model)
    got = markets.margin(markets.tables(accounts=ACCOUNTS), model)
    times = np.array([{"long": 1.5, "mixed": 2.0}.get(name, 1.0) for name in plain.margins["account_id"]])
    for name in ("initial_margin", "maintenance_margin"):
        np.testing.assert_allclose(got.margins[name], times * plain.margins[name].to_numpy(), rtol=1e-14)
    np.testing.assert_allclose(got.margins["manual"], (times - 1) * plain.margins["initial_margin"], rtol=1e-12)
    for name in (*plain.parts, "equity", "var", "expected_shortfall", "stress_score"):
        assert got.margins[name].equals(plain.margins[name])
    said = got.manifest["manual"]
    assert said["accounts"] == {"long": 1.5, "mixed": 2.0}
    assert said["initial_margin"] == pytest.approx(got.margins["manual"].sum())


def test_isolated_positions_are_multiplied_with_their_account() -> None:
    positions = markets.positions().with_columns(isolated_margin=pl.lit(1_000.0))
    plain = markets.margin(markets.tables(positions=positions)).isolated
    got = markets.margin(markets.tables(positions=positions, accounts=ACCOUNTS)).isolated
    times = np.array([{"long": 1.5, "mixed": 2.0}.get(name, 1.0) for name in plain["account_id"]])
    np.testing.assert_allclose(got["initial_margin"], times * plain["initial_margin"].to_numpy(), rtol=1e-14)


@pytest.mark.parametrize("model", ["expected_shortfall", "dynamic"])
def test_an_instrument_adds_what_its_contracts_would_owe_alone(model: str) -> None:
    plain = markets.margin(markets.tables(), model)
    got = markets.margin(markets.tables(instruments=raised("BTC-PERP", 1.25)), model)
    sides = markets.book_of(("one long", "BTC-PERP", 1.0), ("one short", "BTC-PERP", -1.0))
    alone = markets.margin(markets.tables(positions=sides, balances=markets.balances().clear()), model)
    for account, contracts, side in (("hedged", 1_000, "short"), ("short", 1_000, "short"), ("long", 1_000, "long")):
        for name in ("initial_margin", "maintenance_margin"):
            added = markets.row(got, account)[name] - markets.row(plain, account)[name]
            assert added == pytest.approx(0.25 * contracts * markets.row(alone, f"one {side}")[name], rel=1e-5)
    others = ~pl.col("account_id").is_in(["hedged", "short", "long"])
    assert got.margins.filter(others)["manual"].to_list() == [0.0] * got.margins.filter(others).height
    assert got.manifest["manual"]["instruments"] == {"BTC-PERP": 1.25}


def test_what_is_added_by_hand_is_shared_out_like_the_rest() -> None:
    given = markets.tables(accounts=ACCOUNTS, instruments=raised("ETH-PERP", 3.0))
    got = markets.margin(given, "dynamic")
    sums = got.attribution().group_by("account_id").agg(pl.col(*got.parts, "total").sum()).sort("account_id")
    margins = got.margins.filter(pl.col("account_id").is_in(sums["account_id"].implode()))
    assert "manual" in got.parts
    for part, total in (*zip(got.parts, got.parts, strict=True), ("total", "initial_margin")):
        np.testing.assert_allclose(sums[part], margins[total], rtol=2e-5, atol=0.05)


def test_tables_that_say_nothing_of_multipliers_add_no_part() -> None:
    assert "manual" not in markets.clean().parts
    assert markets.clean().manifest["manual"] == {}
    silent = pl.DataFrame({"account_id": ["long"], "group": ["member"]})
    assert markets.margin(markets.tables(accounts=silent)).margins.equals(markets.clean().margins)


@pytest.mark.parametrize("times", [0.5, -1.0, float("nan")])
def test_a_multiplier_that_would_lower_an_instruments_margin_is_refused(times: float) -> None:
    with pytest.raises(mx.BadInput, match="margin_multiplier"):
        markets.margin(markets.tables(instruments=raised("BTC-PERP", times)))


def test_partitions_with_and_without_multiplied_accounts_have_the_same_columns(tmp_path: Path) -> None:
    given = markets.tables(accounts=ACCOUNTS)
    held = {name: given.pop(name) for name in ("positions", "balances", "accounts")}
    dataset = mx.partition_book(**held, out=tmp_path / "set", partitions=4)
    instruments = given.pop("instruments")
    found = mx.margin_dataset(dataset, instruments, mx.read_market(**given), out=tmp_path / "run")
    whole = markets.margin(markets.tables(accounts=ACCOUNTS))
    assert found.margins().collect().sort("account_id").equals(whole.margins)
    assert found.manifest["manual"]["accounts"] == whole.manifest["manual"]["accounts"]
