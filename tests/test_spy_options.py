"""The example on an American equity chain: parity's forwards and rate, European prices, and what they leave out.

What is expected is read from the file itself; money bounds are shares of the price of the underlying, so that another
day's chain is tested as it is.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
FOLDERS = [SHARED / "data" / name for name in ("options", "tradfi_daily")]

pytestmark = pytest.mark.skipif(
    not all(folder.is_dir() for folder in FOLDERS) or not any(FOLDERS[0].glob("spy_chain_*_eod.parquet")),
    reason=f"the shared chain of SPY is not in {SHARED}; name its folder with MARGINAX_SHARED",
)


@pytest.fixture(scope="module")
def spy() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "docs" / "examples"))
    try:
        yield importlib.import_module("spy_options")
    finally:
        sys.path.remove(str(ROOT / "docs" / "examples"))


@pytest.fixture(scope="module")
def chain(spy: ModuleType) -> pl.DataFrame:
    return spy.chain_of(SHARED)


@pytest.fixture(scope="module")
def history(spy: ModuleType, chain: pl.DataFrame) -> pl.DataFrame:
    return spy.closes(SHARED, chain["time"][0])


@pytest.fixture(scope="module")
def rows(spy: ModuleType, chain: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    return spy.priced(chain, spy.tables_of(chain, spy.rate_of(chain)), history)


def sizes(values: pl.Series) -> tuple[float, float]:
    """Median and 99 % quantile of sizes."""
    return tuple(float(np.quantile(np.abs(values.drop_nulls().to_numpy()), q)) for q in (0.5, 0.99))


def test_options_end_at_four_in_new_york_and_none_on_the_day_itself(chain: pl.DataFrame) -> None:
    """21:00 UTC in winter, 20:00 in summer."""
    assert set(chain["expiry"].dt.convert_time_zone("America/New_York").dt.hour()) == {16}
    assert set(chain["expiry"].dt.hour()) <= {20, 21}
    assert (chain["years"] > 0.5 / 365).all()
    assert chain["instrument_id"].is_unique().all()


def test_history_ends_before_the_quotes(history: pl.DataFrame, chain: pl.DataFrame) -> None:
    assert history.height > 100
    assert history["time"].max() <= chain["time"][0]


def test_parity_below_the_money_tells_a_rate(spy: ModuleType, chain: pl.DataFrame) -> None:
    """Dollar rates have been between zero and 5.5 % since SPY has such chains."""
    assert -0.005 <= spy.rate_of(chain) <= 0.065


def test_a_discount_read_from_the_slope_is_none_of_early_exercise(
    spy: ModuleType, chain: pl.DataFrame, history: pl.DataFrame
) -> None:
    """Read on both sides of the money it came to 1.012 three weeks out: puts in the money steepen the slope."""
    first = spy.priced(chain, spy.tables_of(chain), history).unique("expiry")
    rate = spy.rate_of(chain)
    assert (first["discount"] <= 1.005).all()
    off = (first["discount"].log() + rate * first["years"]).abs()
    # A cent or two of tick, over strikes tens of dollars apart, and a fifth of the discount itself.
    assert (off <= 0.01 + 0.35 * rate * first["years"]).all()


def test_forwards_of_parity_are_smooth_over_expiries(rows: pl.DataFrame) -> None:
    first = rows.unique("expiry").sort("expiry")
    assert (first["forward_source"] == "parity").all()
    assert sizes(1e4 * first["scatter"])[0] <= 5
    # Carry is rate less dividends: within 5 % a year, and 15 bp for a spot that is not of the quotes' own second.
    carry = (first["forward"] / first["spot"]).log().abs()
    assert (carry <= 0.05 * first["years"] + 0.0015).all()
    steps = first["forward"].log().diff().drop_nulls().to_numpy()
    assert steps.min() >= -0.01


def test_prices_of_the_files_volatilities_are_near_the_mids_out_of_the_money(rows: pl.DataFrame) -> None:
    """In basis points of the underlying, to a year: how the file's forward differs from parity's is most of it."""
    out = rows.filter(pl.col("money") < 0, pl.col("years") <= 1, pl.col("iv").is_not_null())
    median, most = sizes(1e4 * (out["model_price"] - out["mid"]) / out["spot"])
    assert median <= 3
    assert most <= 30


def test_deltas_are_near_the_files_out_of_the_money(rows: pl.DataFrame) -> None:
    out = rows.filter(pl.col("money") < 0, pl.col("years") <= 1, pl.col("iv").is_not_null())
    median, most = sizes(out["delta"] * out["forward"] / out["spot"] - out["delta_file"])
    assert median <= 0.005
    assert most <= 0.05


def test_a_mid_without_its_volatility_is_priced_exactly(
    spy: ModuleType, chain: pl.DataFrame, history: pl.DataFrame
) -> None:
    blind = chain.with_columns(iv=pl.lit(None, pl.Float64))
    found = spy.priced(blind, spy.tables_of(blind, spy.rate_of(chain)), history)
    read = found.filter(pl.col("volatility_source") == "mark")
    assert read.height > 0.5 * found.height
    np.testing.assert_allclose(read["model_price"], read["mid"], rtol=1e-9, atol=1e-8)


def test_early_exercise_is_worth_more_the_deeper_in_the_money_and_the_longer(
    spy: ModuleType, rows: pl.DataFrame
) -> None:
    """The limit, measured: European prices leave this out. It is next to nothing where rates are."""
    table = spy.early_exercise(rows).rows_by_key("", named=True, unique=True)
    rate = spy.rate_of(rows)
    for life in ("to a quarter", "to a year", "longer"):
        depths = [table.get(f"{depth}, {life}") for depth in ("at the money", "5 to 20 % in", "over 20 % in")]
        premiums = [each["premium, median"] for each in depths if each is not None]
        if rate > 0.02:
            assert premiums == sorted(premiums)
            assert premiums[-1] > 0


def test_puts_out_of_the_money_carry_no_premium(spy: ModuleType, rows: pl.DataFrame) -> None:
    """What the forward below the money is for: there American and European puts are worth the same."""
    both = spy.pairs(rows).drop_nulls("untouched").filter(pl.col("money_put").is_between(-0.2, -0.02))
    european = both["mid"] - both["discount"] * (both["untouched"] - both["strike"])
    off = (both["mid_put"] - european).abs() - both["half"] - both["half_put"]
    assert (off <= 0.001 * both["spot"]).mean() >= 0.95


def test_the_example_says_what_it_counts(
    spy: ModuleType, chain: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spy.main(SHARED, tmp_path)
    said = capsys.readouterr().out
    assert f"{chain.height:,} options on SPY, {chain['expiry'].n_unique()} expiries" in said
    assert "What early exercise is worth" in said
    assert pl.read_parquet(tmp_path / "priced.parquet").height == chain.height
