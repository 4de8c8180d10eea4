"""The engine asks the kernel of whole books: the same margins as tile by tile, and nothing that may not change a bit.

The book and the scenarios are those of the tile contract; the model that notes its tiles sees losses, the plain one
asks for tails alone.
"""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import Config
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax.sections import Collateral, Engine, Risk, Scenarios
from marginax_kernels import native_path
from test_tiles import ACCOUNTS, COINS, Counted, book, only, scenarios, some_of, tables, the_market

MONEY = ("initial_margin", "maintenance_margin", "var", "expected_shortfall", "core", "collateral", "haircut", "floor")


def config(**risk: float) -> Config:
    haircuts = {coin: 0.01 * (1 + k) for k, coin in enumerate(COINS)}
    return Config(
        risk=Risk(tail=0.05, **risk), scenarios=Scenarios(least_bars=2), collateral=Collateral(haircuts=haircuts)
    )


def models(draws: mx.ScenarioSet, **risk: float) -> tuple[Any, Any]:
    """The model that asks for tails, and one that sees losses."""
    return tuple(
        kind.from_config(config(**risk), name="expected_shortfall").with_scenarios(draws)
        for kind in (ExpectedShortfall, Counted)
    )


def run(model: Any, chosen: Any = None, **engine: Any) -> mx.Result:
    return mx.margin_book(book(chosen or tables()), the_market(), model, engine=Engine(**engine))


def worth(chosen: Any) -> pl.Series:
    """What the accounts hold at today's prices, long and short, in the order of their ids."""
    price = dict(tables()["underlyings"].select("underlying", "index_price").iter_rows())
    held = [
        chosen["positions"].select("account_id", coin=pl.col("instrument_id").str.head(2), amount="quantity"),
        chosen["balances"].select("account_id", coin="asset", amount="amount"),
    ]
    each = pl.col("amount").abs() * pl.col("coin").replace_strict(price, default=1.0)
    return pl.concat(held).group_by("account_id").agg(each.sum()).sort("account_id")["amount"]


@cache
def usual() -> mx.Result:
    return run(models(weighted())[0])


@cache
def weighted() -> mx.ScenarioSet:
    """Weights far apart, two of nothing."""
    counts = np.resize([1, 7, 4, 0, 6], len(scenarios()))
    return replace(scenarios(), weights=counts / counts.sum())


SETS = {
    "equal": lambda: scenarios(),
    "weighted": weighted,
    "independent": lambda: replace(weighted(), independent=True),
    "scrambled": lambda: replace(scenarios(), scrambles=16, drawn=96),
}


@pytest.mark.parametrize(
    ("draws", "risk", "precision"),
    [*((name, {}, "float32") for name in SETS), ("weighted", {"charge_tail": 0.2}, "float64")],
)
def test_margins_are_those_of_losses_tile_by_tile(draws: str, risk: dict[str, float], precision: str) -> None:
    asks, sees = models(SETS[draws](), **risk)
    chosen = only(pl.col("account_id").is_in(some_of(5).implode()))
    got, wanted = (run(each, chosen, precision=precision) for each in (asks, sees))
    one, other = got.margins, wanted.margins
    assert asks.tails == ((0.05, 0.2) if risk else (0.05,))
    assert asks.asks_tails
    assert not sees.asks_tails
    for name in ("account_id", "equity", "worst_scenario", "status", "reason"):
        assert one[name].equals(other[name])
    # A loss is a sum of at most twelve products whose prices move by less than half of themselves, and a part one
    # of a hundred and one excesses; psi is losses over the tail.
    off = (12 + 101 + 17) * float(np.finfo(precision).eps) * worth(chosen)
    for name, slack in (*((name, off) for name in MONEY), ("es_std_error", off / 0.05)):
        assert one[name].is_null().equals(other[name].is_null())
        assert ((one[name] - other[name]).abs().fill_null(0) <= slack).all(), name
    assert one["es_std_error"].null_count() == (0 if draws in ("independent", "scrambled") else len(one))
    mass = 1 / len(scenarios()) + 1e-6
    assert ((one["stress_score"] - other["stress_score"]).abs() <= mass).all()
    uncovered, beside = got.manifest["uncovered_loss"], wanted.manifest["uncovered_loss"]
    assert uncovered["mean"] == pytest.approx(beside["mean"], rel=1e-6)
    assert uncovered["worst_scenario"] == beside["worst_scenario"]


@pytest.mark.parametrize("engine", [{"tile_rows": 64, "streams": 1}, {"tile_rows": 1024, "streams": 3}])
def test_no_bit_depends_on_tiles_or_streams(engine: dict[str, int]) -> None:
    answer = run(models(weighted())[0], **engine)
    assert answer.margins.equals(usual().margins)


@pytest.mark.parametrize("step", [2, 100])
def test_no_bit_depends_on_who_else_is_in_the_book(step: int) -> None:
    names = usual().margins["account_id"][::step]
    some = pl.col("account_id").is_in(names.implode())
    assert run(models(weighted())[0], only(some)).margins.equals(usual().margins.filter(some))


def test_no_bit_depends_on_how_many_accounts_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginax.engine.tail_pass.CHUNK", 100)
    done: list[tuple[int, int]] = []
    answer = mx.margin_book(
        book(tables()), the_market(), models(weighted())[0], progress=lambda some, total: done.append((some, total))
    )
    assert answer.margins.equals(usual().margins)
    assert done == [(min(100 * k, ACCOUNTS + 3), ACCOUNTS + 3) for k in range(1, 6)]


@pytest.mark.long
@pytest.mark.parametrize("native", [pytest.param("0", id="pure"), pytest.param("1", id="native")])
def test_no_bit_depends_on_how_many_devices_there_are(native: str, tmp_path: Path) -> None:
    """Processes that take their CPU for one device and for three, and hand them tiles in turn."""
    here = Path(__file__).parent
    for devices in (1, 3):
        code = (
            f"import sys; sys.path.insert(0, {str(here)!r}); import jax, polars as pl, test_tail_pass as t; "
            f"assert jax.device_count() == {devices}; a = t.run(t.models(t.weighted())[0], t.only(pl.col('account_id')"
            f".is_in(t.some_of(5).implode())), tile_rows=64, streams=3); assert not a.excepted; "
            f"a.margins.write_parquet({str(tmp_path / str(devices))!r})"
        )
        flags = {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "MARGINAX_NATIVE": native,
        }
        told = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **flags}, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr
    one, three = (pl.read_parquet(tmp_path / str(devices)) for devices in (1, 3))
    assert len(one) > 20
    assert one.equals(three)


def test_wide_accounts_are_products_from_the_configured_width_on() -> None:
    wide = pl.col("account_id") == f"account {ACCOUNTS + 2:03d}"  # three hundred of three hundred and twenty
    dense, gathered = (run(models(weighted())[0], only(wide), dense_width=width) for width in (128, 1000))
    assert dense.manifest["configuration"]["engine"]["dense_width"] == 128
    for name in MONEY:
        np.testing.assert_allclose(dense.margins[name], gathered.margins[name], rtol=1e-4, atol=1e-2)
    assert dense.margins.equals(usual().margins.filter(wide))


def test_the_manifest_says_what_computed_the_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    asks, sees = models(weighted())
    few = only(pl.col("account_id").is_in(some_of(1).implode()))
    if native_path().in_use:
        assert usual().manifest["kernel"].startswith("machine code (compiled by ")
    assert run(sees, few).manifest["kernel"] == "JAX, tile by tile"
    monkeypatch.setenv("MARGINAX_NATIVE", "0")
    pure = run(asks, few)
    assert pure.manifest["kernel"] == "JAX (MARGINAX_NATIVE is 0)"
    np.testing.assert_allclose(
        pure.margins["initial_margin"],
        usual().margins.join(pure.margins, on="account_id", how="semi")["initial_margin"],
        rtol=1e-4,
        atol=1e-2,
    )


def test_an_attribution_sums_to_the_margin() -> None:
    answer = run(models(weighted())[0])
    shares = answer.attribution().group_by("account_id").agg(pl.col("total").sum())
    both = answer.margins.join(shares, on="account_id")
    assert len(both) > 300
    size = 1 + both["expected_shortfall"].abs() + both["core"].abs()
    assert ((both["total"] - both["initial_margin"]).abs() <= 1e-4 * size).all()
