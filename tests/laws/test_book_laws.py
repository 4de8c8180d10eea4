"""Laws that every book keeps, whatever it holds: what merging, doubling, splitting and hedging may do to a margin."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws._books import (
    ASSETS,
    BOTH,
    HAIRCUTS,
    INSTRUMENTS,
    MONEY,
    PARTS,
    TAIL,
    Holdings,
    account_name,
    allowed,
    by_account,
    few,
    frame,
    holdings,
    margins,
    result,
    scenarios,
)
from reference import margin as reference


def added(tables: Mapping[str, pl.DataFrame], table: str, rows: list[dict[str, Any]]) -> dict[str, pl.DataFrame]:
    """The same tables with more rows in one of them."""
    return {**tables, table: pl.concat([tables[table], frame(table, rows)])}


@pytest.mark.parametrize("precision", BOTH)
@given(held=holdings())
@few
def test_the_engine_says_what_a_loop_over_accounts_says(precision: str, held: Holdings) -> None:
    tables = held.tables()
    told = by_account(margins(tables, precision=precision))
    wanted = reference.margin(tables, scenarios(), tail=TAIL, maintenance_ratio=0.8, haircuts=HAIRCUTS)
    assert set(told) == set(wanted)
    for name, margin in wanted.items():
        slack = allowed(held.gross[name], precision)
        # Equity is summed in float64 on both sides, in another order: 20 amounts of at most a few million.
        assert told[name]["equity"] == pytest.approx(margin.equity, rel=1e-12, abs=1e-6)
        for column in MONEY:
            assert told[name][column] == pytest.approx(getattr(margin, column), rel=0, abs=slack + 1e-9), column
        assert told[name]["available"] == pytest.approx(margin.available, rel=0, abs=slack + 1e-6)
        # The score may move by the scenarios whose loss is nearer to the equity than rounding can tell, and the
        # worst scenario to another that is as bad. Equity and haircut are rounded too where they are compared.
        slack += float(np.finfo(precision).eps) * (abs(margin.equity) + margin.haircut)
        near = np.abs(margin.joint_losses - (margin.equity - margin.haircut)) <= slack + 1e-9
        assert abs(told[name]["stress_score"] - margin.stress_score) <= scenarios().weights[near].sum() + 1e-6
        if margin.worst_scenario is None:
            assert told[name]["worst_scenario"] is None
        else:
            worst = margin.joint_losses[scenarios().labels.index(told[name]["worst_scenario"])]
            assert worst >= margin.joint_losses.max() - slack


@given(held=holdings())
@few
def test_a_merged_book_is_never_riskier_than_its_parts(held: Holdings) -> None:
    tables = held.tables()
    everyone = pl.lit("everyone").alias("account_id")
    merged = {**tables, **{name: tables[name].with_columns(everyone) for name in ("positions", "balances")}}
    together = margins(merged)["expected_shortfall"].sum()
    apart = margins(tables)["expected_shortfall"].sum()
    # Both sides are rounded: each account's own, and the merged one's whose gross is at most the sum of theirs.
    assert together <= apart + 2 * allowed(sum(held.gross.values()))


@given(held=holdings(), factor=st.sampled_from([2.0, 0.25, 16.0]))
@few
def test_doubling_every_position_and_balance_doubles_the_margin_to_the_last_bit(held: Holdings, factor: float) -> None:
    """A power of two is exact in binary; no sum, maximum or selection can see it."""
    one = margins(held.tables())
    more = margins(Holdings(factor * held.quantities, held.entries, factor * held.money).tables())
    for column in (*MONEY, "equity", "available", "call"):
        np.testing.assert_array_equal(more[column], factor * one[column], err_msg=column)
    for column in ("stress_score", "worst_scenario", "margin_ratio"):
        assert more[column].equals(one[column]), column


@given(held=holdings())
@few
def test_trebling_every_position_and_balance_trebles_the_margin(held: Holdings) -> None:
    one = by_account(margins(held.tables()))
    three = by_account(margins(Holdings(3 * held.quantities, held.entries, 3 * held.money).tables()))
    for name in one:
        slack = 2 * allowed(3 * held.gross[name])
        assert three[name]["initial_margin"] == pytest.approx(3 * one[name]["initial_margin"], rel=0, abs=slack + 1e-9)


@given(held=holdings(), cut=st.integers(-40, 40))
@few
def test_splitting_a_position_into_rows_changes_nothing(held: Holdings, cut: int) -> None:
    """Without entry prices every sum of parts is exact: the same bits. With them, the P&L of a part is rounded."""
    for book, exact in ((held.without_entries(), True), (held, False)):
        tables = book.tables()
        first = tables["positions"].with_columns(quantity=pl.lit(cut / 8))
        rest = tables["positions"].with_columns(quantity=pl.col("quantity") - cut / 8)
        split = {**tables, "positions": pl.concat([rest, first])}
        whole, parts = margins(tables), margins(split)
        if exact:
            assert parts.equals(whole)
        for name, row in by_account(parts).items():
            slack = 2 * allowed(book.gross[name])
            before = by_account(whole)[name]
            assert row["equity"] == pytest.approx(before["equity"], rel=1e-12, abs=1e-6)
            assert row["initial_margin"] == pytest.approx(before["initial_margin"], rel=0, abs=slack + 1e-9)


@given(held=holdings())
@few
def test_rows_of_zero_contribute_nothing(held: Holdings) -> None:
    tables = held.tables()
    names = sorted({*tables["positions"]["account_id"], *tables["balances"]["account_id"]})
    nothing = [
        {"account_id": account, "instrument_id": name, "quantity": 0.0, "entry_price": price}
        for account in names
        for name, price in zip(INSTRUMENTS, (None, 1.0, 2.0, None, 1.0, None, 3.0, None), strict=True)
    ]
    empty = [{"account_id": account, "asset": asset, "amount": 0.0} for account in names for asset in ASSETS]
    assert margins(added(added(tables, "positions", nothing), "balances", empty)).equals(margins(tables))


@given(held=holdings(), size=st.integers(1, 80))
@few
def test_long_and_short_of_one_contract_at_one_price_are_no_position(held: Holdings, size: int) -> None:
    tables = held.without_entries().tables()
    names = sorted({*tables["positions"]["account_id"], *tables["balances"]["account_id"]})
    both = [
        {"account_id": account, "instrument_id": name, "quantity": sign * size / 8}
        for account in names
        for name in INSTRUMENTS
        for sign in (1, -1)
    ]
    assert margins(added(tables, "positions", both)).equals(margins(tables))


@given(held=holdings())
@few
def test_parts_sum_to_the_requirement_and_maintenance_never_exceeds_it(held: Holdings) -> None:
    table = margins(held.tables())
    total = sum((table[name] for name in PARTS), start=pl.zeros(len(table), dtype=pl.Float64, eager=True))
    # The parts are added in float64 in the order they are reported: three additions.
    gross = np.array([held.gross[name] for name in table["account_id"]])
    assert (np.abs(table["initial_margin"] - total) <= 4 * np.finfo(float).eps * gross).all()
    assert (table["maintenance_margin"] >= 0).all()
    assert (table["maintenance_margin"] <= table["initial_margin"]).all()
    assert (table["floor"] >= 0).all()
    assert (table["haircut"] >= 0).all()


@given(held=holdings())
@few
def test_attribution_sums_to_each_part_and_to_the_requirement(held: Holdings) -> None:
    answer = result(held.tables())
    shares = answer.attribution().group_by("account_id").agg(pl.col(*PARTS, "total").sum())
    told, wanted = by_account(shares), by_account(answer.margins)
    for name, row in wanted.items():
        if name not in told:  # nothing that moves, nothing owed
            assert row["initial_margin"] == 0
            continue
        # A share is a sum over the scenarios of what one entry loses there, weighted by numbers that sum to one.
        slack = 2 * allowed(held.gross[name])
        for part in PARTS:
            assert told[name][part] == pytest.approx(row[part], rel=0, abs=slack + 1e-9), part
        assert told[name]["total"] == pytest.approx(row["initial_margin"], rel=0, abs=slack + 1e-9)


@given(held=holdings(), cash=st.integers(-10_000, 10_000))
@few
def test_cash_in_account_currency_moves_equity_by_itself_and_margin_by_nothing(held: Holdings, cash: int) -> None:
    tables = held.tables()
    names = sorted({*tables["positions"]["account_id"], *tables["balances"]["account_id"]})
    paid = added(tables, "balances", [{"account_id": name, "asset": "USD", "amount": float(cash)} for name in names])
    before, after = margins(tables), margins(paid)
    assert after.select(MONEY).equals(before.select(MONEY))
    # Entries sum to at most a few million dollars each; twenty of them are added in float64.
    np.testing.assert_allclose(after["equity"], before["equity"] + cash, rtol=1e-12, atol=1e-6)


@given(held=holdings())
@few
def test_float32_and_float64_agree_to_what_rounding_allows(held: Holdings) -> None:
    single, double = by_account(margins(held.tables())), by_account(margins(held.tables(), precision="float64"))
    for name, row in double.items():
        for column in MONEY:
            slack = allowed(held.gross[name]) + allowed(held.gross[name], "float64") + 1e-12
            assert single[name][column] == pytest.approx(row[column], rel=0, abs=slack), column


def test_a_hedge_in_coins_is_worth_dollars() -> None:
    """A coin in the balance against an inverse short of its dollar value is a dollar: both move by index alone."""
    tables = Holdings(np.zeros((1, 8)), np.full((1, 8), np.nan), np.array([[0.0, 4.0, 0.0, 0.0]])).tables()
    short = [{"account_id": account_name(0), "instrument_id": "BTC-COIN", "quantity": -4 * 1023.5 / 128}]
    table = margins(added(tables, "positions", short))
    # What is left is the basis of the perpetual, 0.4 % a scenario against 6 % of the coin itself.
    (alone,) = margins(
        added(Holdings.tables(Holdings(*(np.zeros((0, 8)),) * 2, np.zeros((0, 4)))), "positions", short)
    )["initial_margin"]
    assert 0 < table["expected_shortfall"].item() < 0.2 * alone
