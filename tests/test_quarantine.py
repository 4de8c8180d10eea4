"""Quarantine: bad rows are set aside with reasons, their accounts have no margin, all others keep theirs to the bit."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
import markets
from door_tables import KINDS, write
from marginax.status import Status
from markets import changed, clean, margin, tables

MARGINS = ["initial_margin", "maintenance_margin", "var", "expected_shortfall", "core", "collateral", "stress_score"]


def aside(**spoiled: Any) -> mx.Result:
    return margin(tables(**spoiled), on_error="quarantine")


def loses(result: mx.Result, status: Status, *accounts: str) -> None:
    """These accounts have the status and no margin; every other row is bit for bit that of the clean book."""
    lost = pl.col("account_id").is_in(accounts)
    assert result.margins.filter(~lost).equals(clean().margins.filter(~lost))
    rows = result.margins.filter(lost)
    assert rows["account_id"].to_list() == sorted(accounts)
    assert rows["status"].to_list() == [status.label] * len(accounts)
    assert rows.select(*MARGINS, "equity", "available", "call").null_count().row(0) == (len(accounts),) * 10
    assert rows["reason"].null_count() == 0


def balanced(result: mx.Result) -> None:
    """Rows given are rows admitted and rows set aside, in every table of the manifest."""
    held = {**result.matched.book.tables, **result.matched.market.tables}
    for name, record in result.manifest["inputs"].items():
        later = result.manifest["history_rows_after_as_of"] if name == "history" else 0
        assert record["rows"] == held[name].rows.height + record["quarantined"] + later
        assert record["quarantined"] == (result.quarantine["table"] == name).sum()
    assert sum(record["quarantined"] for record in result.manifest["inputs"].values()) == result.quarantine.height


# Each bad row: its table, column, value and row; the accounts that lose something by it; and their status.
POSITION, QUOTE, INSTRUMENT = (
    ("positions", markets.positions),
    ("quotes", markets.quotes),
    ("instruments", markets.instruments),
)
BALANCE, INDEX = ("balances", markets.balances), ("underlyings", markets.underlyings)
CASES: list[tuple[Any, str, Any, int, tuple[str, ...], Status]] = [
    (POSITION, "quantity", float("nan"), 5, ("long",), Status.INCOMPLETE),
    (POSITION, "quantity", None, 6, ("mixed",), Status.INCOMPLETE),
    (POSITION, "entry_price", float("inf"), 1, ("hedged",), Status.INCOMPLETE),
    (POSITION, "entry_price", -1.0, 3, ("inverse",), Status.INCOMPLETE),
    (POSITION, "instrument_id", "NO-SUCH", 11, ("spread",), Status.INCOMPLETE),
    (POSITION, "isolated_margin", float("nan"), 9, ("short",), Status.INCOMPLETE),
    (BALANCE, "amount", float("-inf"), 7, ("saver",), Status.INCOMPLETE),
    (BALANCE, "asset", None, 5, ("long",), Status.INCOMPLETE),
    (BALANCE, "asset", "SHIB", 6, ("mixed",), Status.MISSING_PRICE),
    (QUOTE, "mark_price", float("nan"), 9, ("mixed",), Status.MISSING_PRICE),
    (QUOTE, "mark_price", 0.0, 8, ("spread",), Status.MISSING_PRICE),
    (QUOTE, "bid", 1e9, 10, ("mixed",), Status.MISSING_PRICE),
    (QUOTE, "mark_price", float("nan"), 6, (), Status.OK),
    (INSTRUMENT, "multiplier", -1.0, 9, ("mixed",), Status.INCOMPLETE),
    (INSTRUMENT, "multiplier", 0.0, 6, (), Status.OK),
    (INSTRUMENT, "kind", "warrant", 8, ("spread",), Status.INCOMPLETE),
    (INSTRUMENT, "expiry", markets.AS_OF, 5, ("inverse",), Status.INCOMPLETE),
    (INDEX, "index_price", -1.0, 3, ("mixed",), Status.MISSING_PRICE),
    (INDEX, "adv", -1.0, 5, ("mixed",), Status.MISSING_PRICE),
    (INDEX, "proxy", "NO-SUCH", 3, ("mixed",), Status.MISSING_PRICE),
]  # fmt: skip


@pytest.mark.parametrize(("source", "column", "value", "row", "accounts", "status"), CASES)
def test_a_bad_row_takes_the_margins_of_its_own_accounts_and_of_no_other(
    source: Any, column: str, value: Any, row: int, accounts: tuple[str, ...], status: Status
) -> None:
    table, make = source
    result = aside(**{table: changed(make(), column, value, row=row)})
    loses(result, status, *accounts)
    balanced(result)
    first = result.quarantine.filter(table=table).row(0, named=True)
    assert (first["file"], first["row"]) == (f"<{table}>", row)
    assert column in first["reason"]
    assert first["reason"].endswith(".")
    key = "account_id" if table in ("positions", "balances") else None
    assert first["account_id"] == (make()[key][row - 1] if key else None)
    assert json.loads(first["cells"])[make().columns[0]] == make()[row - 1, 0]


@pytest.mark.parametrize("table", ["instruments", "quotes", "underlyings", "history", "accounts"])
def test_of_two_rows_with_one_id_the_first_is_kept(table: str) -> None:
    made = {"accounts": pl.DataFrame({"account_id": ["saver", "long"]}), **tables()}[table]
    result = aside(**{table: pl.concat([made, made[:1]])})
    lost = ("saver",) if table == "accounts" else ()
    loses(result, Status.INCOMPLETE, *lost)
    balanced(result)
    assert result.quarantine["row"].to_list() == [made.height + 1]


def test_positions_of_an_instrument_set_aside_say_so() -> None:
    result = aside(instruments=changed(markets.instruments(), "multiplier", -1.0, row=9))
    reasons = dict(result.quarantine.select("table", "reason").iter_rows())
    assert "-1.0 was given" in reasons["instruments"]
    assert "'DOGE-PERP' is unknown or was set aside" in reasons["positions"]


def test_a_row_that_no_account_can_be_read_from_takes_no_account_with_it() -> None:
    for blank in (None, "  "):
        result = aside(positions=changed(markets.positions(), "account_id", blank, row=5))
        kept = result.margins.filter(pl.col("account_id") != "long")
        assert kept.equals(clean().margins.filter(pl.col("account_id") != "long"))
        assert result.quarantine["account_id"].to_list() == [None]
        balanced(result)


def test_an_account_that_exists_only_in_bad_rows_is_still_listed() -> None:
    result = aside(positions=markets.plus(markets.positions(), "ghost ", "BTC-PERP", float("nan")))
    loses(result, Status.INCOMPLETE, "ghost")


def test_an_account_is_found_by_its_id_however_its_bad_row_spells_it(tmp_path: Path) -> None:
    path = tmp_path / "positions.csv"
    markets.positions().with_columns(pl.col("quantity").cast(pl.String)).write_csv(path)
    path.write_text(path.read_text() + "  saver  ,BTC-PERP,many\n")
    loses(aside(positions=path), Status.INCOMPLETE, "saver")
    numbered = markets.balances().with_columns(account_id=pl.int_range(9, dtype=pl.Int64))
    numbered = changed(numbered, "amount", float("nan"), row=3)
    result = aside(balances=numbered)
    assert result.quarantine["account_id"].to_list() == ["2"]
    assert markets.row(result, "2")["status"] == "incomplete"


def test_a_bad_bar_of_the_history_is_only_a_missing_bar() -> None:
    spoiled = changed(markets.history(), "price", float("nan"), row=100)
    result = aside(history=spoiled)
    balanced(result)
    without = margin(tables(history=markets.history().with_row_index().filter(pl.col("index") != 99).drop("index")))
    assert result.margins.equals(without.margins)


def test_the_gravest_reason_is_shown_and_every_reason_told() -> None:
    spoiled = changed(markets.positions(), "quantity", float("nan"), row=6)
    result = aside(positions=spoiled, balances=changed(markets.balances(), "asset", "SHIB", row=6))
    loses(result, Status.INCOMPLETE, "mixed")
    reason = markets.row(result, "mixed")["reason"]
    assert reason.startswith("incomplete: ")
    assert "missing_price: " in reason


def test_every_reason_of_a_row_stands_in_one_line_of_the_quarantine() -> None:
    spoiled = changed(changed(markets.quotes(), "mark_price", float("nan"), row=9), "confidence", -1.0, row=9)
    reason = aside(quotes=spoiled).quarantine.filter(table="quotes")["reason"].item()
    assert "mark_price: NaN was given" in reason
    assert "confidence: -1.0 was given" in reason


def test_a_proxy_set_aside_leaves_those_that_have_their_own_history() -> None:
    chained = markets.underlyings().with_columns(proxy=pl.Series([None, "DOGE", None, None, None], dtype=pl.String))
    result = aside(underlyings=changed(chained, "index_price", -1.0, row=3))
    loses(result, Status.MISSING_PRICE, "mixed")


def test_a_proxy_set_aside_takes_those_that_live_by_it() -> None:
    chained = markets.underlyings().with_columns(proxy=pl.Series([None, None, "OIL", None, None], dtype=pl.String))
    history = markets.history().filter(pl.col("underlying") != "DOGE")
    only = markets.positions().filter(pl.col("instrument_id") != "OIL-FUT")
    result = aside(underlyings=changed(chained, "index_price", -1.0, row=5), history=history, positions=only)
    assert markets.row(result, "mixed")["status"] == Status.MISSING_HISTORY.label
    assert markets.row(result, "mixed")["initial_margin"] is None


def test_a_circle_of_proxies_is_set_aside_whole() -> None:
    circle = markets.underlyings().with_columns(proxy=pl.Series([None, None, "OIL", None, "DOGE"], dtype=pl.String))
    loses(aside(underlyings=circle), Status.MISSING_PRICE, "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_are_quarantined_alike(kind: str, tmp_path: Path) -> None:
    spoiled = changed(markets.positions(), "quantity", float("nan"), row=5)
    path = write(spoiled, tmp_path, "positions", kind)
    result = aside(positions=path)
    loses(result, Status.INCOMPLETE, "long")
    assert result.quarantine["file"].to_list() == [str(path)]
    assert json.loads(result.quarantine["cells"].item()) == {
        "account_id": "long",
        "instrument_id": "BTC-PERP",
        "quantity": "NaN",
    }
    folder = result.write(tmp_path / "out")
    assert pl.read_parquet(folder / "quarantine.parquet").equals(result.quarantine)


def test_a_wrong_column_is_raised_even_under_quarantine() -> None:
    positions = markets.positions()
    for wrong in (
        positions.rename({"quantity": "quantiti"}),
        positions.drop("account_id"),
        positions.with_columns(pl.col("quantity").cast(pl.String)),
        positions.with_columns(note=pl.lit("")),
    ):
        with pytest.raises(mx.BadInput):
            aside(positions=wrong)


def test_a_row_of_another_length_is_raised_even_under_quarantine(tmp_path: Path) -> None:
    path = write(markets.positions(), tmp_path, "positions", "csv")
    path.write_text(path.read_text() + "long,BTC-PERP\n")
    with pytest.raises(mx.BadInput, match="has 2 cells"):
        aside(positions=path)


def test_nothing_set_aside_is_the_plain_result() -> None:
    result = aside()
    assert result.margins.equals(clean().margins)
    assert result.quarantine.height == 0
    balanced(result)


def test_everything_set_aside_leaves_accounts_without_margins() -> None:
    result = aside(positions=markets.positions().with_columns(quantity=pl.lit(float("nan"))))
    assert result.quarantine.height == markets.positions().height
    lost = sorted(set(markets.positions()["account_id"]))
    loses(result, Status.INCOMPLETE, *lost)
