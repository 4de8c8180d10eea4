"""Isolated positions: each margined alone, with its own collateral and nothing of its account's."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
import markets

MONEY = ["equity", "initial_margin", "maintenance_margin", "available", "call", "var", "expected_shortfall"]
FIGURES = [*MONEY, "margin_ratio", "stress_score", "worst_scenario", "status", "reason", "core", "collateral", "floor"]
# Account, instrument, quantity, entry price, own collateral: one linear, one that settles in coins, one of spot.
ALONE: list[tuple[str, str, float, float | None, float | None]] = [
    ("long", "BTC-PERP", 2_000.0, 81_000.0, 12_000.0),
    ("long", "BTC-INV", 300.0, 79_000.0, 5_000.0),
    ("mixed", "DOGE-PERP", -900.0, None, 0.0),
    ("saver", "BTC-SPOT", 0.5, None, -100.0),
]
SCHEMA = {
    "account_id": pl.String,
    "instrument_id": pl.String,
    "quantity": pl.Float64,
    "entry_price": pl.Float64,
    "isolated_margin": pl.Float64,
}


def with_isolated(rows: list[tuple[Any, ...]] | None = None) -> pl.DataFrame:
    alone = pl.DataFrame(ALONE if rows is None else rows, schema=SCHEMA, orient="row")
    return pl.concat([markets.positions(), alone], how="diagonal")


def on_their_own() -> dict[str, pl.DataFrame]:
    """The same positions in accounts of their own, with their collateral as a balance."""
    rows = pl.DataFrame(ALONE, schema=SCHEMA, orient="row")
    names = pl.format("{} {}", "account_id", "instrument_id").alias("account_id")
    positions = rows.select(names, pl.exclude("account_id", "isolated_margin"))
    balances = rows.select(names, pl.lit("USD").alias("asset"), pl.col("isolated_margin").alias("amount"))
    return {
        "positions": pl.concat([markets.positions(), positions], how="diagonal"),
        "balances": pl.concat([markets.balances(), balances]),
    }


@pytest.mark.parametrize("model", ["expected_shortfall", "dynamic"])
def test_an_isolated_position_is_margined_like_an_account_that_holds_it_alone(model: str) -> None:
    got = markets.margin(markets.tables(positions=with_isolated()), model)
    wanted = markets.margin(markets.tables(**on_their_own()), model)
    names = [name for name in FIGURES if name in wanted.margins.columns]
    for row in got.isolated.iter_rows(named=True):
        alone = markets.row(wanted, f"{row['account_id']} {row['instrument_id']}")
        assert {name: row[name] for name in names} == {name: alone[name] for name in names}
    assert got.isolated.select("account_id", "instrument_id").rows() == sorted(row[:2] for row in ALONE)
    assert got.manifest["totals"] == pytest.approx(wanted.manifest["totals"], rel=1e-12)
    assert got.uncovered == pytest.approx(wanted.uncovered, rel=1e-6, abs=1e-6)


def test_what_is_isolated_changes_nothing_of_its_account() -> None:
    got = markets.margin(markets.tables(positions=with_isolated()))
    assert got.margins.equals(markets.clean().margins)
    assert got.manifest["accounts"] == markets.clean().manifest["accounts"]
    assert got.manifest["isolated"] == len(ALONE)
    assert got.attribution().equals(markets.clean().attribution())


def test_rows_of_one_isolated_position_are_one() -> None:
    halves = [(*row[:2], row[2] / 2, row[3], row[4] / 2) for row in ALONE for _ in range(2)]  # type: ignore[operator]
    got = markets.margin(markets.tables(positions=with_isolated(halves)))
    whole = markets.margin(markets.tables(positions=with_isolated()))
    assert got.isolated.equals(whole.isolated)


def test_an_isolated_account_needs_collateral_for_each_position() -> None:
    accounts = pl.DataFrame({"account_id": ["mixed"], "margin_mode": ["isolated"]})
    with pytest.raises(mx.BadInput, match="'mixed' is in isolated mode and its position has no collateral of its own"):
        markets.margin(markets.tables(positions=with_isolated(), accounts=accounts))
    aside = markets.margin(markets.tables(positions=with_isolated(), accounts=accounts), on_error="quarantine")
    assert markets.row(aside, "mixed")["status"] == "incomplete"
    assert aside.isolated.filter(account_id="mixed")["status"].to_list() == ["incomplete"]
    others = aside.isolated.filter(pl.col("account_id") != "mixed")
    assert others["status"].is_in(["ok"]).all()


def test_what_an_account_has_no_price_for_leaves_its_isolated_positions_alone() -> None:
    balances = markets.changed(markets.balances(), "asset", "SHIB", row=5)
    got = markets.margin(markets.tables(positions=with_isolated(), balances=balances), on_error="quarantine")
    assert markets.row(got, "long")["status"] == "missing_price"
    assert got.isolated.equals(markets.margin(markets.tables(positions=with_isolated())).isolated)


def test_isolated_positions_are_written_beside_margins(tmp_path: Path) -> None:
    got = markets.margin(markets.tables(positions=with_isolated()))
    folder = got.write(tmp_path / "run")
    assert pl.read_parquet(folder / "isolated.parquet").equals(got.isolated)
    plain = markets.clean().write(tmp_path / "plain")
    assert not (plain / "isolated.parquet").exists()


def test_a_dataset_has_the_isolated_positions_of_the_whole_book(tmp_path: Path) -> None:
    given = markets.tables(positions=with_isolated())
    held = {name: given.pop(name) for name in ("positions", "balances")}
    dataset = mx.partition_book(**held, out=tmp_path / "set", partitions=3)
    instruments = given.pop("instruments")
    found = mx.margin_dataset(dataset, instruments, mx.read_market(**given), out=tmp_path / "run")
    whole = markets.margin(markets.tables(positions=with_isolated()))
    parts = pl.read_parquet(tmp_path / "run" / "partition=*" / "isolated.parquet", hive_partitioning=False)
    assert parts.sort("account_id", "instrument_id").equals(whole.isolated)
    assert found.manifest["isolated"] == len(ALONE)
    assert found.manifest["totals"] == pytest.approx(whole.manifest["totals"], rel=1e-12)
