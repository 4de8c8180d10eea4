"""What the view says of books that grow, get poorer, or are not all known."""

from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from marginax.venue import VenueView
from marginax.venue_sections import SCALES
from venue_books import CLOSED, made, positions, settings, view

MONEY = ("open_interest", "expected_bad_debt", "tail_bad_debt", "beyond_fund", "beyond_margins", "delta_at_risk")


def value(found: VenueView, name: str) -> float:
    return float(found.notes["score"]["components"][name]["value"])


# ---- the score over books ----


def test_the_score_rises_when_two_rich_accounts_trade_more_with_each_other() -> None:
    """The margin they hold grows with it, and makes the venue no safer."""
    rich = pl.DataFrame({"account_id": ["a", "b"], "asset": ["USD", "USD"], "amount": [1e6, 1e6]})
    balances = pl.concat([markets.balances(), rich])
    before: VenueView | None = None
    for size in (1_000.0, 2_000.0, 4_000.0):
        rows = [*CLOSED, ("a", "BTC-PERP", size, None), ("b", "BTC-PERP", -size, None)]
        now = view(markets.margin(markets.tables(positions=positions(rows), balances=balances), settings()))
        if before is not None:
            assert now.score > before.score
            for name in ("open_interest", "beyond_margins", "concentration"):
                assert value(now, name) > value(before, name)
            for name in MONEY:
                assert value(now, name) >= value(before, name) * (1 - 1e-6)
        before = now


def test_the_score_rises_when_an_account_gets_poorer() -> None:
    scores, debts = [], []
    for money in (60_000.0, 30_000.0, 10_000.0, 2_000.0, -20_000.0):
        owns = pl.when(pl.col("account_id") == "long").then(money).otherwise("amount")
        balances = markets.balances().with_columns(amount=owns)
        found = view(markets.margin(markets.tables(positions=positions(), balances=balances), settings()))
        scores.append(found.score)
        debts.append(value(found, "expected_bad_debt"))
    assert scores == sorted(scores)
    assert scores[0] < scores[3] < scores[4]
    assert debts[0] < debts[3] < debts[4]


def test_money_is_measured_in_what_the_venue_has() -> None:
    whole = view(markets.margin(markets.tables(positions=positions()), settings(resources=0.0, insurance_fund=4e4)))
    more = view(markets.margin(markets.tables(positions=positions()), settings(resources=6e4, insurance_fund=4e4)))
    assert value(whole, "open_interest") == pytest.approx(whole.notes["open_interest"] / 4e4)
    for name in MONEY:
        assert value(more, name) == pytest.approx(0.4 * value(whole, name))
    assert more.score < whole.score


def test_who_is_long_gamma_loses_nothing_by_it() -> None:
    tables, _ = made()
    options = tables["instruments"].filter(pl.col("strike").is_not_null())["instrument_id"]
    loss = {}
    for side, held in (("long", pl.col("quantity") > 0), ("short", pl.col("quantity") < 0)):
        part = tables["positions"].filter(pl.col("instrument_id").is_in(options.implode()) & held)
        found = view(markets.margin({**tables, "positions": part}, settings(near_ratio=1e9)))
        assert found.underlyings["net_gamma_amount"].abs().max() > 0  # type: ignore[operator]
        loss[side] = found.notes["at_risk"]["gamma_loss"]
        short = (-found.underlyings["net_gamma_amount"]).clip(0).sum()
        assert loss[side] == pytest.approx(0.5 * short)
    assert loss["long"] == 0 < loss["short"]


# ---- what accounts without a margin owe ----


def owing(rows: list[tuple[str, str, float, float | None]], owned: dict[str, Any], **lacks: str) -> mx.Result:
    """Positions with entry prices and one balance of `broke`; `quote` and `index` name what has none."""
    schema = {"account_id": pl.String, "instrument_id": pl.String, "quantity": pl.Float64, "entry_price": pl.Float64}
    given = markets.tables(
        positions=pl.DataFrame(rows, schema=schema, orient="row"),
        balances=pl.concat([markets.balances(), pl.DataFrame({"account_id": "broke", **owned})]),
        quotes=markets.quotes().filter(pl.col("instrument_id") != lacks.get("quote", "")),
        underlyings=markets.underlyings().filter(pl.col("underlying") != lacks.get("index", "")),
    )
    return markets.margin(given, settings(), on_error="quarantine")


@pytest.mark.parametrize(
    ("name", "quantity", "entry", "lost"),
    [
        ("OIL-FUT", 1.0, None, 0.0),
        ("OIL-FUT", 1.0, 170.0, 1_000.0),
        ("OIL-FUT", 1.0, 20.0, 0.0),  # what it has gained is not sure
        ("OIL-FUT", -1.0, 20.0, 500.0),
        ("BTC-INV", 100.0, 160_000.0, 5_000.0),
        ("BTC-SPOT", -1.0, None, 80_000.0),
        ("BTC-SPOT", 1.0, None, 0.0),
    ],
)
def test_a_missing_mark_makes_no_debt_smaller(name: str, quantity: float, entry: float | None, lost: float) -> None:
    rows = [("broke", name, quantity, entry), ("long", "BTC-PERP", 1.0, None)]
    owned = {"asset": "USD", "amount": -1e6}
    whole, less = view(owing(rows, owned)), view(owing(rows, owned, quote=name))
    assert less.notes["not_known"]["owed_without_margin"] == pytest.approx(1e6 + lost)
    debt = less.notes["bad_debt"]
    assert debt["complete"]
    assert debt["expected"] >= 1e6
    if (name, quantity) != ("BTC-SPOT", 1.0):  # what is owned and has no mark pays for nothing
        assert debt["expected"] >= whole.notes["bad_debt"]["expected"]
    if name == "OIL-FUT":
        assert less.score >= whole.score


def test_what_is_owed_in_coins_may_rise() -> None:
    rows: list[tuple[str, str, float, float | None]] = [("broke", "OIL-FUT", 1.0, None)]
    owned = {"asset": "BTC", "amount": -12.5}
    whole, less = view(owing(rows, owned)), view(owing(rows, owned, quote="OIL-FUT"))
    assert less.notes["not_known"]["owed_in_kind"] == pytest.approx(1e6)
    for name in ("expected", "at_tail"):
        assert less.notes["bad_debt"][name] >= whole.notes["bad_debt"][name]
    assert whole.notes["bad_debt"]["at_tail"] > 1.01e6


@pytest.mark.parametrize(("amount", "complete"), [(-5.0, False), (5.0, True)])
def test_a_debt_in_what_has_no_price_is_not_known(amount: float, complete: bool) -> None:
    found = view(owing([("broke", "BTC-PERP", 1.0, None)], {"asset": "XYZ", "amount": amount}))
    assert found.notes["bad_debt"]["complete"] is complete
    assert found.notes["not_known"]["debts_not_known"] == (not complete)
    assert (found.score == np.nextafter(1, 0)) is not complete


def test_without_an_index_price_all_that_is_money_is_as_bad_as_can_be() -> None:
    rows: list[tuple[str, str, float, float | None]] = [("broke", "OIL-FUT", 1.0, None)]
    owned = {"asset": "USD", "amount": 1e5}
    whole, less = view(owing(rows, owned)), view(owing(rows, owned, index="OIL"))
    assert whole.notes["bad_debt"]["complete"]
    assert not less.notes["bad_debt"]["complete"]
    parts = less.notes["score"]["components"]
    assert all(parts[name]["value"] is None for name in (*MONEY, "gamma_at_risk", "vega_at_risk"))
    assert parts["exhaustion"]["value"] == 1
    assert set(parts) == set(SCALES)
    assert less.score == np.nextafter(1, 0) > whole.score


def test_rows_that_nobody_can_read_are_counted() -> None:
    rows: list[Any] = [("long", "OIL-FUT", None, None), ("long", "OIL-FUT", 1.0, None)]
    found = view(owing(rows, {"asset": "USD", "amount": 1.0}))
    assert found.notes["not_known"]["rows_unreadable"] == 1
    assert not found.notes["bad_debt"]["complete"]


def test_a_position_beyond_any_number_has_a_view() -> None:
    rows = [*CLOSED, ("long", "BTC-PERP", 1e305, None)]
    found = view(markets.margin(markets.tables(positions=positions(rows)), settings()))
    assert found.notes["concentration"]["largest_share"] == 1
    assert found.score == np.nextafter(1, 0)


def test_caps_of_what_is_no_underlying_are_told() -> None:
    caps = {"BTX": [1.0, 2.0], "ETH": [1e6, 2e6]}
    found = view(markets.margin(markets.tables(positions=positions()), settings(caps=caps)))
    assert found.notes["caps_of_nothing"] == ["BTX"]
