"""An account's margin is its own affair: neighbours, the order of rows, another's broken price change no bit of it."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws._books import (
    ASSETS,
    HAIRCUTS,
    INSTRUMENTS,
    NOW,
    Holdings,
    Tables,
    account_name,
    allowed,
    contract,
    frame,
    holdings,
    margins,
    market,
    result,
    scenario_set,
    scenarios,
    venue,
)
from laws._books import given as given_model

# A margin pass costs 50 ms of tables and checks, whatever the book: eight books of six accounts are 48 examples.
few = settings(max_examples=8)
MONEY = ("initial_margin", "maintenance_margin", "var", "expected_shortfall", "core", "collateral", "haircut", "floor")


def together(*books: Tables) -> Tables:
    """One book of the accounts of several."""
    joined = {name: pl.concat([book[name] for book in books]) for name in ("positions", "balances")}
    return {**books[0], **joined}


def of(table: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return table.filter(pl.col("account_id").is_in(names)).sort("account_id")


def shuffled(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    return table[np.random.default_rng(seed).permutation(table.height).tolist()] if table.height else table


@given(mine=holdings(), others=holdings(), more=holdings())
@few
def test_no_account_sees_another(mine: Holdings, others: Holdings, more: Holdings) -> None:
    """Accounts beside mine are added before, between and after, changed, and removed."""
    names = [account_name(k) for k in range(mine.accounts)]
    before, between, after = (
        [f"{start} {k}" for k in range(others.accounts)] for start in ("a", f"{account_name(2)} and", "b")
    )
    own = mine.tables(names)
    alone = margins(own)
    crowd = together(own, others.tables(before), more.tables(between), others.tables(after))
    changed = together(own, more.tables(before), others.tables(between))
    for book in (crowd, changed):
        assert of(margins(book), names).equals(alone)


@given(held=holdings())
@few
def test_a_batch_is_a_loop_of_one_account_at_a_time(held: Holdings) -> None:
    batch = margins(held.tables())
    for k in range(held.accounts):
        alone = margins(held.pick([k]).tables([account_name(k)]))
        assert alone.equals(of(batch, [account_name(k)]))


@given(held=holdings(), seed=st.integers(0, 2**16))
@few
def test_the_order_of_accounts_changes_no_bit(held: Holdings, seed: int) -> None:
    """Ids are sorted, so new names are a new order of rows in every tile."""
    order = np.random.default_rng(seed).permutation(held.accounts)
    renamed = margins(held.tables([f"account {order[k]:03d}" for k in range(held.accounts)]))
    back = pl.DataFrame(
        {
            "account_id": [f"account {order[k]:03d}" for k in range(held.accounts)],
            "was": [account_name(k) for k in range(held.accounts)],
        }
    )
    undone = renamed.join(back, on="account_id").with_columns(account_id=pl.col("was")).drop("was").sort("account_id")
    assert undone.equals(margins(held.tables()))


@given(held=holdings(), seed=st.integers(0, 2**16))
@few
def test_the_order_of_rows_changes_no_bit(held: Holdings, seed: int) -> None:
    """Instruments are numbered by what they are, positions sorted by number; without entries all sums are exact."""
    tables = held.without_entries().tables()
    names = ("instruments", "quotes", "positions", "balances")
    mixed = {**tables, **{name: shuffled(tables[name], seed + k) for k, name in enumerate(names)}}
    assert margins(mixed, at=market(mixed)).equals(margins(tables))


@given(held=holdings())
@few
def test_the_order_of_underlyings_is_only_the_order_of_a_sum(held: Holdings) -> None:
    """Collateral is added in the order of `underlyings`: another order rounds elsewhere."""
    tables = held.tables()
    turned = {**tables, "underlyings": tables["underlyings"].reverse()}
    agree(margins(turned, at=market(turned)), margins(tables), held)


@cache
def reordered() -> Any:
    """The venue's model with its scenarios in another order."""
    usual = scenarios()
    order = np.random.default_rng(1).permutation(len(usual))
    mixed = scenario_set(
        usual.factors, usual.shocks[order], usual.weights[order], [usual.labels[int(k)] for k in order]
    )
    return given_model(mixed, haircuts=HAIRCUTS)


@given(held=holdings())
@few
def test_the_order_of_scenarios_is_only_the_order_of_a_sum(held: Holdings) -> None:
    """The mean of the tail is a sum over scenarios; value at risk is one of the losses and rounds with them alone."""
    agree(margins(held.tables(), by=reordered()), margins(held.tables()), held)


def agree(one: pl.DataFrame, other: pl.DataFrame, held: Holdings) -> None:
    """The same margins but for rounding, and the same words."""
    for mine, theirs in zip(one.iter_rows(named=True), other.iter_rows(named=True), strict=True):
        slack = 2 * allowed(held.gross[mine["account_id"]])
        for column in MONEY:
            assert mine[column] == pytest.approx(theirs[column], rel=0, abs=slack + 1e-9), column
        assert (mine["status"], mine["reason"]) == (theirs["status"], theirs["reason"])


def broken(*, mark: float, index: float | None, name: str) -> Tables:
    """The venue with one more contract at an absurd price; on an underlying of its own where an index is given.

    Its name sorts first, so that it is row 0 of the cube, where careless padding would point.
    """
    tables = dict(venue())
    underlying = "BTC" if index is None else "AAA"
    tables["instruments"] = pl.concat(
        [tables["instruments"], frame("instruments", [contract(name, "spot", underlying)])]
    )
    quote = {"instrument_id": name, "mark_price": mark, "time": NOW}
    tables["quotes"] = pl.concat([tables["quotes"], frame("quotes", [quote])])
    if index is not None:
        row = frame("underlyings", [{"underlying": underlying, "index_price": index}])
        tables["underlyings"] = pl.concat([tables["underlyings"], row])
    return tables


@cache
def shaken() -> Any:
    """The venue's model where the absurd underlying moves too."""
    usual = scenarios()
    more = np.column_stack([usual.shocks, np.linspace(-0.5, 0.5, len(usual))])
    return given_model(
        scenario_set((*usual.factors, "AAA"), more, usual.weights, usual.labels), haircuts={**HAIRCUTS, "AAA": 0.5}
    )


def margins_beside(held: Holdings, tables: Tables, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Margins in a market with an absurd price: those of the accounts that hold it, and of those that do not."""
    mine = held.tables()
    holders = [
        {"account_id": "holder long", "instrument_id": name, "quantity": 1.0},
        {"account_id": "holder short", "instrument_id": name, "quantity": -1.0},
        {"account_id": "holder too", "instrument_id": name, "quantity": 0.125},
        {"account_id": "holder too", "instrument_id": "ETH-PERP", "quantity": 1.0},
    ]
    book = {**tables, "positions": pl.concat([mine["positions"], frame("positions", holders)])}
    book["balances"] = mine["balances"]
    told = margins(book, at=market(tables), by=shaken())
    hold = pl.col("account_id").str.starts_with("holder")
    return told.filter(hold), told.filter(~hold)


@pytest.mark.parametrize(("mark", "index"), [(1e300, None), (1e300, 1e300), (3e38, None), (1024.0, 1e300)])
@given(held=holdings())
@settings(max_examples=4)
def test_an_absurd_price_breaks_its_holders_alone(mark: float, index: float | None, held: Holdings) -> None:
    sick, well = margins_beside(held, broken(mark=mark, index=index, name="AAA-SPOT"), "AAA-SPOT")
    tame = broken(mark=1024.0, index=None if index is None else 1.0, name="AAA-SPOT")
    sane, before = margins_beside(held, tame, "AAA-SPOT")
    assert sane["status"].to_list() == ["ok"] * 3
    if mark == 1e300:
        assert sick["status"].to_list() == ["numerical"] * 3
        assert sick["initial_margin"].null_count() == 3
    assert well.equals(before)
    assert well.equals(margins(held.tables()))


def test_a_price_beyond_float32_is_a_status_and_not_a_warning() -> None:
    """A number too large for float32 is cast to infinity without a word on the user's console."""
    sick, _ = margins_beside(one_of_each(), broken(mark=1e300, index=None, name="AAA-SPOT"), "AAA-SPOT")
    assert sick["status"].to_list() == ["numerical"] * 3


@pytest.mark.parametrize(("quantity", "entry"), [(1.7e308, None), (1.0, 5e-324), (1.0, 1e308)])
def test_an_amount_beyond_float64_is_a_status_and_not_a_warning(quantity: float, entry: float | None) -> None:
    """Products of such a quantity or entry price are beyond float64."""
    tables = one_of_each().tables()
    absurd = {"account_id": "absurd", "instrument_id": "BTC-COIN", "quantity": quantity, "entry_price": entry}
    book = {**tables, "positions": pl.concat([tables["positions"], frame("positions", [absurd])])}
    told = margins(book)
    assert of(told, [account_name(0)]).equals(margins(tables))
    assert of(told, ["absurd"])["status"].item() == ("ok" if entry == 1e308 else "numerical")


def test_money_beyond_counting_spoils_no_other_account_and_no_file(tmp_path: Path) -> None:
    """One infinite equity leaves the manifest valid JSON, and everything is written."""
    tables = one_of_each().tables()
    rich = frame("balances", [{"account_id": "rich", "asset": "USD", "amount": 1.7e308}] * 2)
    answer = result({**tables, "balances": rich})
    assert answer.margins.filter(pl.col("account_id") == account_name(0)).equals(margins(tables))
    assert (answer.write(tmp_path / "out") / "margins.parquet").exists()


def one_of_each() -> Holdings:
    """One account with one contract of each kind."""
    return Holdings(np.ones((1, len(INSTRUMENTS))), np.full((1, len(INSTRUMENTS)), np.nan), np.zeros((1, len(ASSETS))))
