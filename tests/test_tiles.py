"""The tile contract: how a ragged book is cut changes no bit of any margin, and every shape is compiled once.

Three hundred and twenty perpetuals on eight coins; accounts of nought to three hundred positions.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from laws._books import NOW, Tables, book, contract, frame, market, scenario_set
from marginax.config import Config
from marginax.engine.tiles import Cut, build, cut
from marginax.exposures import Exposures, expose
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax.models.protocol import Margin, Prepared, Tile, Totals
from marginax.sections import Collateral, Engine, Risk, Scenarios
from marginax_kernels import accumulate

COINS = [f"C{k}" for k in range(8)]
PERPETUALS = [f"{coin}-P{k:02d}" for coin in COINS for k in range(40)]
ACCOUNTS = 420
# Position counts on both sides of a power of two, and one account far wider than all others. Every shape is compiled
# for every height, precision and device, half a second each: two widths are enough.
COUNTS = (1, 2, 5, 6, 8)


@cache
def tables() -> Tables:
    """The venue and its book, from one seed."""
    rng = np.random.default_rng(11)
    counts = np.append(rng.choice(COUNTS, ACCOUNTS), [0, 0, 300])
    positions, balances = [], []
    for k, count in enumerate(counts):
        account = f"account {k:03d}"
        held = rng.choice(len(PERPETUALS), count, replace=False)
        positions += [
            {"account_id": account, "instrument_id": PERPETUALS[i], "quantity": float(quantity)}
            for i, quantity in zip(held, rng.standard_t(2, count) * 10, strict=True)
        ]
        # A third holds no coins, the others up to four.
        coins = rng.choice(len(COINS), (0, 2, 4)[k % 3], replace=False)
        balances += [
            {"account_id": account, "asset": COINS[i], "amount": float(amount)}
            for i, amount in zip(coins, rng.normal(size=len(coins)) * 5, strict=True)
        ]
        balances += [{"account_id": account, "asset": "USD", "amount": float(rng.normal() * 1000)}]
    prices = {coin: 10.0 * 3**k for k, coin in enumerate(COINS)}
    return {
        "instruments": frame("instruments", [contract(name, "perpetual", name[:2]) for name in PERPETUALS]),
        "quotes": frame("quotes", [{"instrument_id": name, "mark_price": prices[name[:2]], "time": NOW}
                                   for name in PERPETUALS]),
        "underlyings": frame("underlyings", [{"underlying": coin, "index_price": prices[coin]} for coin in COINS]),
        "positions": frame("positions", positions),
        "balances": frame("balances", balances),
    }  # fmt: skip


@cache
def scenarios() -> mx.ScenarioSet:
    """An odd number of scenarios, so that no vector of any width fits."""
    rng = np.random.default_rng(12)
    names = (*COINS, *(f"basis:{name}" for name in PERPETUALS))
    size = np.where(np.arange(len(names)) < len(COINS), 0.06, 0.004)
    return scenario_set(names, np.clip(rng.standard_t(3, (101, len(names))), -6, 6) * size)


total = jax.jit(accumulate)

TRACED: list[tuple[int, ...]] = []


class Counted(ExpectedShortfall):
    """The plain model, which notes every shape of tile that it is traced for."""

    def margin(self, prepared: Any, tile: Tile) -> tuple[Margin, Totals]:
        TRACED.append((*tile.instruments.shape, tile.assets.shape[1]))
        return super().margin(prepared, tile)


def counted(
    scenarios: mx.ScenarioSet, *, tail: float = 0.05, haircuts: dict[str, float] | None = None
) -> ExpectedShortfall:
    """A tail of its own makes a model that no other test has compiled."""
    config = Config(
        risk=Risk(tail=tail), scenarios=Scenarios(least_bars=2), collateral=Collateral(haircuts=haircuts or {})
    )
    return Counted.from_config(config, name="expected_shortfall").with_scenarios(scenarios)


@cache
def model() -> ExpectedShortfall:
    return counted(scenarios())


@cache
def the_market() -> mx.Market:
    return market(tables())


def run(
    chosen: Tables | None = None, *, tile_rows: int = 128, streams: int = 2, precision: Any = "float32"
) -> mx.Result:
    settings = Engine(tile_rows=tile_rows, streams=streams, precision=precision)
    return mx.margin_book(book(chosen or tables()), the_market(), model(), engine=settings)


@cache
def usual() -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Margins, attribution and the venue's own loss at the default height."""
    answer = run()
    return answer.margins, answer.attribution(), answer.manifest["uncovered_loss"]


def only(some: pl.Expr) -> Tables:
    """The tables with some of the accounts."""
    return {**tables(), **{name: tables()[name].filter(some) for name in ("positions", "balances")}}


def some_of(positions: int) -> pl.Series:
    """The accounts with so many positions: some eighty of them, with and without coins."""
    counts = tables()["positions"].group_by("account_id").len()
    return counts.filter(pl.col("len") == positions)["account_id"].sort()


def exposed() -> Exposures:
    """The book by rows of the cube, as the engine sees it."""
    with jax.enable_x64(True):
        held = book(tables())
        return expose(held, the_market(), model().factors(the_market(), held.instruments))


def tiles(exposures: Exposures, tile_rows: int = 64) -> Iterator[tuple[Cut, Tile]]:
    for part in cut(exposures, np.arange(len(exposures.equity)), tile_rows=tile_rows, scenarios=1_000):
        yield part, build(exposures, part, np.float32)


@pytest.mark.parametrize(("tile_rows", "streams"), [(64, 1), (64, 3), (128, 1), (256, 3)])
def test_no_bit_depends_on_the_height_of_tiles_or_the_number_of_streams(tile_rows: int, streams: int) -> None:
    margins, _, uncovered = usual()
    answer = run(tile_rows=tile_rows, streams=streams)
    assert margins["status"].unique().to_list() == ["ok"]
    assert answer.margins.equals(margins)
    assert answer.manifest["uncovered_loss"] == uncovered
    assert answer.manifest["scenarios"]["sha256"] == scenarios().digest


def test_no_bit_of_a_standard_error_depends_on_the_height_of_tiles() -> None:
    """Sixteen scrambles of 64 rows are fewer numbers than XLA begins to sum in another order at, those of 256 more."""
    draws = replace(scenarios(), scrambles=16, drawn=96)
    low, high = (
        mx.margin_book(book(tables()), the_market(), counted(draws), engine=Engine(tile_rows=height)).margins
        for height in (64, 256)
    )
    assert low["es_std_error"].min() >= 0
    assert low.equals(high)


def test_no_bit_of_an_attribution_depends_on_the_height_of_tiles() -> None:
    assert run(tile_rows=64, streams=1).attribution().equals(usual()[1])


def test_float64_keeps_the_contract_too() -> None:
    chosen = only(pl.col("account_id").is_in(some_of(5).implode()))
    low, high = (run(chosen, tile_rows=height, streams=2, precision="float64") for height in (64, 256))
    assert low.margins.equals(high.margins)
    assert not low.margins.equals(run(chosen).margins)


@pytest.mark.parametrize("count", [16, 40])
def test_a_handful_of_scenarios_keeps_the_contract_too(count: int) -> None:
    """XLA sums fewer than 4,096 numbers in another order than more, so tiles are never that small."""
    few = counted(scenario_set(COINS, scenarios().shocks[:count, : len(COINS)]), tail=0.25)
    chosen = only(pl.col("account_id").is_in(some_of(5).implode()))
    low, high = (
        mx.margin_book(book(chosen), the_market(), few, engine=Engine(tile_rows=height)).margins for height in (64, 256)
    )
    assert low.equals(high)


def test_haircuts_of_many_coins_keep_the_contract_too() -> None:
    """From five coins on, collateral is 16 wide, and XLA would sum 256 such rows in another order than 128."""
    names = some_of(5)
    rng = np.random.default_rng(13)
    rich = [
        {"account_id": name, "asset": coin, "amount": float(amount)}
        for name in names
        for coin, amount in zip(COINS, rng.uniform(1, 100, len(COINS)), strict=True)
    ]
    chosen = {**only(pl.col("account_id").is_in(names.implode())), "balances": frame("balances", rich)}
    shorn = counted(scenarios(), haircuts={coin: 0.01 * (1 + k) for k, coin in enumerate(COINS)})
    low, high = (
        mx.margin_book(book(chosen), the_market(), shorn, engine=Engine(tile_rows=height)).margins
        for height in (128, 256)
    )
    assert (low["haircut"] > 0).all()
    assert low.equals(high)


@pytest.mark.long
def test_no_bit_depends_on_how_many_devices_there_are(tmp_path: Path) -> None:
    """Another process takes its CPU for three devices and hands them tiles in turn."""
    here = Path(__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(here)!r}); import jax, test_tiles as t; assert jax.device_count() == 3; "
        f"a = t.run(tile_rows=64, streams=3); a.margins.write_parquet({str(tmp_path / 'margins')!r}); "
        f"a.attribution().write_parquet({str(tmp_path / 'attribution')!r}); print(a.manifest['uncovered_loss'])"
    )
    flags = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    told = subprocess.run([sys.executable, "-c", code], env=flags, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    margins, attribution, uncovered = usual()
    assert pl.read_parquet(tmp_path / "margins").equals(margins)
    assert pl.read_parquet(tmp_path / "attribution").equals(attribution)
    assert told.stdout.strip() == str(uncovered)


@pytest.mark.parametrize("step", [2, 7, 100])
def test_no_bit_depends_on_the_neighbours_in_a_tile(step: int) -> None:
    """Every second, seventh, hundredth account alone: each stands in another row, beside others, above more padding."""
    margins, _, _ = usual()
    names = margins["account_id"][::step]
    some = pl.col("account_id").is_in(names.implode())
    assert run(only(some)).margins.equals(margins.filter(some))


def test_widths_are_powers_of_two_by_the_accounts_own_positions() -> None:
    exposures = exposed()
    seen = []
    for part, tile in tiles(exposures):
        for k, account in enumerate(part.accounts):
            count, coins = int(exposures.positions.counts[account]), int(exposures.collateral.counts[account])
            assert part.width == max(2, 2 ** int(np.ceil(np.log2(max(count, 1)))))
            assert part.collateral_width == (0 if coins == 0 else 4 ** int(max(1, np.ceil(np.log2(coins) / 2))))
            # The account's own entries first, in the order of the cube, then padding: the zero row, amount zero.
            row = slice(exposures.positions.starts[account], exposures.positions.starts[account + 1])
            np.testing.assert_array_equal(tile.instruments[k, :count], exposures.positions.columns[row])
            np.testing.assert_array_equal(
                tile.quantities[k, :count], exposures.positions.amounts[row].astype(np.float32)
            )
            assert (np.diff(tile.instruments[k, :count]) > 0).all()
            assert (tile.instruments[k, count:] == exposures.zero_row).all()
            assert (tile.quantities[k, count:] == 0).all()
            assert (tile.assets[k, coins:] == exposures.zero_row).all()
            assert tile.equity[k] == np.float32(exposures.equity[account])
        seen.append(part.accounts)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(ACCOUNTS + 3))


@pytest.mark.parametrize("tile_rows", [64, 128, 256])
def test_tiles_have_a_multiple_of_64_rows_and_never_one(tile_rows: int) -> None:
    """Also where a single account has its shape: the one with 300 positions."""
    exposures = exposed()
    heights = {part.width: tile.instruments.shape[0] for part, tile in tiles(exposures, tile_rows)}
    assert heights == {2: tile_rows, 8: tile_rows, 512: 64}
    (lonely,) = [part for part, _ in tiles(exposures) if part.width == 512]
    assert len(lonely.accounts) == 1
    (single,) = cut(exposures, np.array([5]), tile_rows=tile_rows, scenarios=1_000)
    assert build(exposures, single, np.float32).quantities.shape == (tile_rows, single.width)


def test_a_shape_is_compiled_once_whatever_the_book() -> None:
    TRACED.clear()
    fresh = counted(scenarios(), tail=0.06)
    for size in (ACCOUNTS, 60, 250):
        chosen = only(pl.col("account_id") < f"account {size:03d}")
        mx.margin_book(book(chosen), the_market(), fresh, engine=Engine(tile_rows=64, streams=2))
    # Two widths of positions, with and without collateral. (Two streams may trace one shape at the same time.)
    assert set(TRACED) == {(64, width, side) for width in (2, 8) for side in (0, 4)}
    assert len(TRACED) <= 2 * len(set(TRACED))
    TRACED.clear()
    mx.margin_book(book(tables()), the_market(), fresh, engine=Engine(tile_rows=64, streams=1))
    assert TRACED == [(64, 512, 4)]


def test_other_scenarios_of_the_same_shape_compile_nothing() -> None:
    """No tile depends on the numbers of a set, nor on which object holds them."""
    TRACED.clear()
    few = {**tables(), "positions": tables()["positions"][:4], "balances": tables()["balances"][:4]}
    sets = [scenario_set(scenarios().factors, factor * scenarios().shocks) for factor in (1.0, 1.5, 2.0)]
    for each in sets:
        mx.margin_book(book(few), the_market(), counted(each, tail=0.07), engine=Engine(tile_rows=64, streams=1))
    assert len(TRACED) == len(set(TRACED))


def test_padding_meets_no_broken_price_of_another_row() -> None:
    """The cube is NaN wherever no account of the tile has a position: zero times NaN would be NaN."""
    exposures = exposed()
    for part, tile in tiles(exposures):
        cube = np.full((exposures.zero_row + 1, 3), np.nan, np.float32)
        cube[-1] = 0
        for rows, amounts in ((tile.instruments, tile.quantities), (tile.assets, tile.amounts)):
            if rows.shape[1] == 0:
                continue
            cube[rows[amounts != 0]] = [1, 0, -1]
            losses = np.asarray(total(cube, rows, amounts))
            np.testing.assert_allclose(losses[:, 0], amounts.sum(axis=1), rtol=1e-4, atol=1e-3)
            assert (losses[:, 1] == 0).all()
            assert (losses[len(part.accounts) :] == 0).all()


def test_a_broken_row_is_a_broken_account_and_no_other() -> None:
    exposures = exposed()
    for _, tile in tiles(exposures):
        cube = np.ones((exposures.zero_row + 1, 3), np.float32)
        cube[-1] = 0
        cube[7] = np.nan
        losses = np.asarray(total(cube, tile.instruments, tile.quantities))
        np.testing.assert_array_equal(np.isnan(losses).any(axis=1), (tile.instruments == 7).any(axis=1))


def test_runs_are_the_groups_of_two_or_more_entries_in_one_underlying() -> None:
    exposures = exposed()
    for part, tile in tiles(exposures):
        wanted = []
        for k, account in enumerate(part.accounts):
            first = exposures.positions.starts[account]
            coins = [int(exposures.instruments.underlying[exposures.positions.columns[first + i]])
                     for i in range(exposures.positions.counts[account])]  # fmt: skip
            start = exposures.collateral.starts[account]
            owned = exposures.collateral.columns[start : start + exposures.collateral.counts[account]]
            assets = [int(exposures.groups[row]) for row in owned]
            groups = [
                (coins.index(coin), coins.count(coin), k, assets.index(coin) if coin in assets else -1)
                for coin in sorted(set(coins))
            ]
            wanted += [run for run in groups if run[1] > 1 or run[3] >= 0]
        real = tile.runs.length > 0
        columns = (tile.runs.start, tile.runs.length, tile.runs.owner, tile.runs.asset)
        told = np.stack(columns)[:, real].T
        assert [tuple(run) for run in told.tolist()] == wanted
        assert real[: len(wanted)].all()
        most = min(part.width, (part.width + part.collateral_width) // 2)
        assert len(tile.runs.length) == part.rows * most


def test_an_empty_book_has_no_margins_and_breaks_nothing() -> None:
    empty = {**tables(), "positions": frame("positions", []), "balances": frame("balances", [])}
    answer = run(empty)
    assert answer.margins.height == 0
    assert answer.margins.columns == usual()[0].columns
    assert answer.attribution().height == 0
    assert answer.manifest["accounts"]["total"] == 0


def test_a_prepared_market_serves_every_tile() -> None:
    """The cube has one row per instrument, one per asset, and one of zeros that padding points at."""
    with jax.enable_x64(True):
        held, chosen = book(tables()), model()
        history = chosen.factors(the_market(), held.instruments)
        exposures = expose(held, the_market(), history)
        state, draws = chosen.observe(history), chosen.draw(7, history)
        prepared: Prepared = chosen.prepare(exposures.instruments, exposures.market, state, draws)[0]
    assert prepared.cube.shape == (len(PERPETUALS) + len(COINS) + 1, len(scenarios()))
    assert exposures.zero_row == len(PERPETUALS) + len(COINS)
    assert (np.asarray(prepared.cube[-1]) == 0).all()
    assert not (np.asarray(prepared.cube[:-1]) == 0).all(axis=1).any()
