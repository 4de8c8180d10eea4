"""The view of a venue over what 157 real accounts held: a part of a venue, whose book is not closed."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.venue import VenueView

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
FOLDERS = [SHARED / "data" / name for name in ("liquidations_accounts", "crypto_daily")]
NEAR = 1.5

pytestmark = pytest.mark.skipif(
    not all(folder.is_dir() for folder in FOLDERS),
    reason=f"the shared data is not in {SHARED}; name its folder with MARGINAX_SHARED",
)


@pytest.fixture(scope="module")
def margined() -> tuple[pl.DataFrame, mx.Result, VenueView]:
    """Positions with their worth and their account's margin ratio, the result, and its view."""
    spec = importlib.util.spec_from_file_location("real_accounts", ROOT / "docs" / "examples" / "real_accounts.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    accounts, positions = example.holdings(SHARED)
    tables = {**example.book_and_prices(accounts, positions), "history": example.closes(SHARED)}
    market = mx.read_market(**{name: tables[name] for name in ("quotes", "underlyings", "history")})
    book = mx.read_book(**{name: tables[name] for name in ("instruments", "positions", "balances")})
    told = parse_config({"venue": {"report": True, "near_ratio": NEAR, "insurance_fund": 1e6}}, "test")
    result = mx.margin_book(book, market, told)
    assert result.venue is not None
    prices = tables["underlyings"].select("underlying", "index_price")
    rows = (
        tables["positions"]
        .join(tables["instruments"], on="instrument_id")
        .join(prices, on="underlying")
        .join(result.margins.select("account_id", "margin_ratio"), on="account_id")
        .with_columns(worth=pl.col("quantity") * pl.col("multiplier") * pl.col("index_price"))
    )
    return rows, result, result.venue


def test_open_interest_is_what_the_accounts_show_by_coin_and_side(
    margined: tuple[pl.DataFrame, mx.Result, VenueView],
) -> None:
    rows, _, view = margined
    wanted = rows.group_by("underlying").agg(
        open_interest=pl.col("worth").clip(lower_bound=0).sum(),
        short_interest=-pl.col("worth").clip(upper_bound=0).sum(),
        at_risk=pl.col("worth").abs().filter(pl.col("margin_ratio") < NEAR).sum(),
        net_delta_amount=pl.col("worth").filter(pl.col("margin_ratio") < NEAR).sum(),
    )
    both = view.underlyings.join(wanted, on="underlying", suffix="_wanted", validate="1:1")
    assert both.height == view.underlyings.height == rows["underlying"].n_unique()
    for name in wanted.columns[1:]:
        size = float(both[f"{name}_wanted"].abs().max())  # type: ignore[arg-type]
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_wanted"].to_numpy(), rel=1e-9, abs=1e-9 * size)
    assert not view.notes["closed"]
    assert view.notes["imbalance"] == pytest.approx((both["open_interest"] - both["short_interest"]).abs().sum())
    # What an account showed is its own mark of a few seconds before or after the median of all.
    shown = rows["worth"].abs().sum()
    assert view.notes["open_interest"] + view.notes["short_interest"] == pytest.approx(shown, rel=1e-9)


def test_shares_of_the_largest_accounts_are_those_of_their_positions(
    margined: tuple[pl.DataFrame, mx.Result, VenueView],
) -> None:
    rows, _, view = margined
    gross = rows.group_by("account_id").agg(pl.col("worth").abs().sum()).sort("worth", descending=True)
    share = (gross["worth"] / gross["worth"].sum()).to_numpy()
    whole = view.notes["concentration"]
    assert whole["largest"] == gross["account_id"][0]
    assert whole["largest_share"] == pytest.approx(share[0])
    assert whole["few_share"] == pytest.approx(share[:5].sum())
    assert whole["herfindahl"] == pytest.approx((share**2).sum())


def test_the_loss_of_the_venue_is_that_of_the_pass_and_more_is_lost_beyond_margins(
    margined: tuple[pl.DataFrame, mx.Result, VenueView],
) -> None:
    _, result, view = margined
    assert view.notes["not_known"]["holders_without_margin"] == 0
    assert view.losses["beyond_equity"].to_numpy().tolist() == result.uncovered.tolist()
    assert view.notes["loss_beyond_margins"]["mean"] > view.notes["loss_beyond_equity"]["mean"] > 0
    assert 0 < view.score < 1
    worst = view.losses.filter(pl.col("beyond_equity") == pl.col("beyond_equity").max())["scenario"]
    assert view.notes["loss_beyond_equity"]["worst_scenario"] in worst
    assert np.isfinite(view.losses["beyond_margins"].to_numpy()).all()
