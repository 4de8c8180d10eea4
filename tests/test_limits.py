"""Limits on what an account holds in one underlying: who passes them, by how much, and that no margin changes."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.limits import breach_notes, joined_notes
from markets import book_of, margin, tables, underlyings

WORST = {"worst_adv": 200_000.0, "worst_depth": 50_000.0, "worst_open_interest": 200_000.0}
LIMITS = {"adv_share": 0.1, "depth_share": 0.5, "open_interest_share": 0.05, **WORST}


def given(**more: Any) -> dict[str, Any]:
    market = underlyings().with_columns(
        pl.Series("adv", [1e6, 2e5, None, None, None], pl.Float64),
        pl.Series("depth", [1e5, None, None, None, None], pl.Float64),
        pl.Series("open_interest", [3e6, None, None, None, None], pl.Float64),
    )
    held = book_of(("big", "BTC-PERP", 1_500.0), ("big", "ETH-PERP", 1_000.0), ("hedged", "BTC-PERP", 1_500.0),
                   ("hedged", "BTC-INV", -1_200.0), ("small", "DOGE-PERP", -100.0))  # fmt: skip
    return tables(underlyings=market, positions=held, **more)


def limited(limits: dict[str, Any] = LIMITS) -> mx.Config:
    return parse_config({"scenarios": {"window": 200}, "limits": limits}, "test")


def test_each_limit_that_is_passed_is_a_row_with_what_it_allows() -> None:
    """120,000 dollars net in BTC, none in the hedged account; ETH by the worst where nothing is known."""
    found = margin(given(), limited())
    assert found.breaches is not None
    assert found.breaches.rows() == [
        ("big", "BTC", "depth", pytest.approx(120_000), 50_000.0, pytest.approx(50 / 120)),
        ("big", "BTC", "adv", pytest.approx(120_000), 100_000.0, pytest.approx(100 / 120)),
        ("big", "ETH", "depth", pytest.approx(30_000), 25_000.0, pytest.approx(25 / 30)),
        ("big", "ETH", "adv", pytest.approx(30_000), 20_000.0, pytest.approx(20 / 30)),
        ("big", "ETH", "open_interest", pytest.approx(30_000), 10_000.0, pytest.approx(10 / 30)),
    ]
    told = found.manifest["limits"]
    assert told["count"] == 5
    assert told["accounts"] == 1
    assert told["by_limit"] == {"adv": 2, "depth": 2, "open_interest": 1}
    assert told["furthest"][0] == {
        "account_id": "big", "underlying": "ETH", "limit": "open_interest", "allowed_share": pytest.approx(1 / 3),
    }  # fmt: skip


def test_limits_change_no_margin_and_are_written_beside_them(tmp_path: Path) -> None:
    found, plain = margin(given(), limited()), margin(given(), limited({}))
    assert found.margins.equals(plain.margins)
    assert plain.breaches is None
    assert plain.manifest["limits"] == {}
    found.write(tmp_path / "limited")
    plain.write(tmp_path / "plain")
    assert pl.read_parquet(tmp_path / "limited" / "breaches.parquet").height == 5
    assert not (tmp_path / "plain" / "breaches.parquet").exists()
    assert json.loads((tmp_path / "limited" / "manifest.json").read_text())["limits"]["count"] == 5


def test_a_depth_that_is_not_said_is_that_of_the_order_book_on_its_thinner_side() -> None:
    rows = [
        ("ETH-PERP", "bid", 2_999.0, 4_000.0),
        ("ETH-PERP", "bid", 2_900.0, 9_000.0),
        ("ETH-PERP", "ask", 3_001.0, 5_000.0),
    ]
    levels = pl.DataFrame(rows, schema=["instrument_id", "side", "price", "size"], orient="row")
    found = margin(given(order_book=levels), limited({"depth_share": 0.1, **WORST}))
    assert found.breaches is not None
    # 4,000 contracts of a hundredth of 3,000 dollars within 50 bp, and the second level is further away.
    assert found.breaches.filter(underlying="ETH")["allowed_usd"].to_list() == [pytest.approx(12_000)]


def test_notes_of_two_books_are_those_of_both() -> None:
    both = margin(given(), limited()).breaches
    assert both is not None
    more = both.with_columns(pl.lit("other").alias("account_id")).filter(limit="adv")
    joined = joined_notes(breach_notes(both), breach_notes(more))
    assert joined == breach_notes(pl.concat([both, more]))
    assert joined_notes({}, {}) == {}


@pytest.mark.parametrize("limits", [{"adv_share": 0.0}, {"depth_share": -1.0}, {"worst_open_interest": 0.0}])
def test_shares_that_are_none_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(mx.BadInput, match=r"limits\."):
        limited(limits)
