"""What the door refuses, cell by cell and column by column: every refusal names file, column, row and remedy."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from door_tables import KINDS, T, admitted, as_text, good, names, refused, spoiled, write
from marginax.problems import SHOWN, BadInput
from marginax.tables.schemas import TABLES, UTC_TIME

NUMBERS = [
    (table.name, column.name) for table in TABLES.values() for column in table.columns if column.dtype == pl.Float64()
]
RULED = [
    (table.name, column.name, column.rule)
    for table in TABLES.values()
    for column in table.columns
    if column.rule != "any"
]
CHOSEN = [(table.name, column.name) for table in TABLES.values() for column in table.columns if column.choices]
REQUIRED = [(table.name, column.name) for table in TABLES.values() for column in table.columns if column.required]
OPTIONAL = [
    (table.name, column.name)
    for table in TABLES.values()
    for column in table.columns
    # Futures need the one of these, and rows without a value the other.
    if not column.required and (table.name, column.name) not in (("instruments", "expiry"), ("history", "price"))
]
KEYED = [table.name for table in TABLES.values() if table.key]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", TABLES)
def test_good_rows_of_every_table_come_in_as_they_are_from_every_kind_of_file(
    table: str, kind: str, tmp_path: Path
) -> None:
    path = write(good(table), tmp_path, table, kind)
    inside = admitted(path, table)
    assert inside.rows.select(TABLES[table].names).equals(good(table))
    assert inside.rows.schema["__row"] == pl.Int64
    assert (inside.given, inside.quarantine.height) == (3, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("table", "column"), NUMBERS)
def test_a_number_that_is_not_finite_is_refused(table: str, column: str, kind: str, tmp_path: Path) -> None:
    for value, shown in ((float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "-inf")):
        path = write(spoiled(table, column, value), tmp_path, table, kind)
        names(refused(path, table), path, column, 2, f"{shown} was given", "finite")


@pytest.mark.parametrize(("table", "column", "rule"), RULED)
def test_a_number_outside_its_range_is_refused(table: str, column: str, rule: str, tmp_path: Path) -> None:
    path = write(spoiled(table, column, -0.5, row=3), tmp_path, table, "parquet")
    names(refused(path, table), path, column, 3, "-0.5 was given")
    at_zero = spoiled(table, column, 0.0)
    if rule == "positive":
        names(refused(at_zero, table), f"<{table}>", column, 2, "0.0 was given", "above zero")
    elif (table, column) != ("accounts", "multiplier"):
        assert admitted(at_zero, table).given == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("table", "column"), CHOSEN)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(
    table: str, column: str, kind: str, tmp_path: Path
) -> None:
    path = write(spoiled(table, column, "perpetuum"), tmp_path, table, kind)
    names(refused(path, table), path, column, 2, "'perpetuum' was given", "Use one of ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("table", "column"), REQUIRED)
def test_an_empty_cell_in_a_required_column_is_refused(table: str, column: str, kind: str, tmp_path: Path) -> None:
    path = write(spoiled(table, column, None), tmp_path, table, kind)
    names(refused(path, table), path, column, 2, "is empty", "or remove the row")


@pytest.mark.parametrize(("table", "column"), REQUIRED)
def test_a_required_column_that_is_missing_is_named_once(table: str, column: str, tmp_path: Path) -> None:
    path = write(good(table).drop(column), tmp_path, table, "csv")
    names(refused(path, table), path, column, None, "is missing", "Add the column")


@pytest.mark.parametrize(("table", "column"), OPTIONAL)
def test_an_optional_column_may_be_missing_or_empty(table: str, column: str) -> None:
    for frame in (good(table).drop(column), good(table).with_columns(pl.lit(None).alias(column))):
        assert admitted(frame, table).rows[column].null_count() == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("table", "column"), REQUIRED)
def test_a_column_of_an_unknown_name_is_refused_with_the_nearest_known_one(
    table: str, column: str, kind: str, tmp_path: Path
) -> None:
    wrong = {"instrument_id": "instrumentid", "account_id": "acount_id"}.get(column, f"{column}s")
    path = write(good(table).with_columns(pl.col(column).alias(wrong)), tmp_path, table, kind)
    names(refused(path, table), path, wrong, None, f"did you mean `{column}`?")


def test_a_column_that_resembles_none_is_refused_with_all_known_ones() -> None:
    names(refused(good("balances").with_columns(zzz=1), "balances"), "<balances>", "zzz", None, "`amount`", "`asset`")


def test_a_column_in_capitals_is_told_its_name() -> None:
    renamed = good("balances").rename({"amount": "AMOUNT"})
    assert "did you mean `amount`?" in str(refused(renamed, "balances"))


@pytest.mark.parametrize(("table", "column"), NUMBERS)
def test_text_in_a_number_column_of_csv_is_a_bad_cell(table: str, column: str, tmp_path: Path) -> None:
    path = write(as_text(good(table), column, "much"), tmp_path, table, "csv")
    names(refused(path, table), path, column, 2, "'much' is not a number", "(line 3)")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(("table", "column"), NUMBERS)
def test_a_number_column_of_another_type_is_refused_whole(table: str, column: str, kind: str, tmp_path: Path) -> None:
    for values in (pl.lit("1"), pl.lit(True), pl.lit(T), pl.lit([1.0])):
        path = write(good(table).with_columns(values.alias(column)), tmp_path, table, kind)
        names(refused(path, table), path, column, None, "has the type", "Write it as a number")


@pytest.mark.parametrize("values", [pl.lit(1.5), pl.lit(True), pl.lit(T), pl.lit(b"a"), pl.lit(["a"])])
def test_an_id_that_is_neither_text_nor_a_whole_number_is_refused(values: pl.Expr) -> None:
    frame = good("positions").with_columns(values.alias("account_id"))
    names(refused(frame, "positions"), "<positions>", "account_id", None, "has the type", "Write it as text")


@pytest.mark.parametrize("values", [pl.lit(1_767_225_600), pl.lit(1.5), pl.lit(True), pl.lit(T.time())])
def test_a_time_that_is_a_bare_number_is_refused_because_its_unit_is_not_known(values: pl.Expr) -> None:
    frame = good("history").with_columns(values.alias("time"))
    names(refused(frame, "history"), "<history>", "time", None, "has the type", "a date or a UTC time")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", KEYED)
def test_a_row_that_is_there_twice_is_refused_with_the_place_of_the_first(
    table: str, kind: str, tmp_path: Path
) -> None:
    frame = good(table)
    path = write(pl.concat([frame, frame[1:2]]), tmp_path, table, kind)
    names(refused(path, table), path, refused(path, table).problems[0].column, 4, "in row 2 of", "Keep one of the two")


def test_a_duplicate_in_another_file_is_refused_with_the_place_of_the_first(tmp_path: Path) -> None:
    first = write(good("history"), tmp_path, "first", "csv")
    second = write(good("history")[2:], tmp_path, "second", "parquet")
    names(refused([first, second], "history"), second, "underlying", 1, f"in row 3 of {first}")


def test_the_same_time_and_underlying_may_stand_once_for_each_factor() -> None:
    basis = good("history").with_columns(factor=pl.lit("basis"))
    assert admitted([good("history"), basis], "history").given == 6
    unnamed = good("history").drop("factor")
    assert refused([good("history"), unnamed], "history").total == 3


@pytest.mark.parametrize("option", ["call", "put"])
@pytest.mark.parametrize("column", ["strike", "expiry"])
def test_an_option_needs_a_strike_and_an_expiry(option: str, column: str) -> None:
    whole = good("instruments").with_columns(kind=pl.lit(option))
    lacking = pl.when(pl.int_range(pl.len()) != 1).then(column).alias(column)
    names(
        refused(whole.with_columns(lacking), "instruments"), "<instruments>", column, 2, f"a {option} has no {column}"
    )


def test_instruments_that_contradict_themselves_are_refused() -> None:
    names(refused(spoiled("instruments", "expiry", None), "instruments"), "<instruments>", "expiry", 2, "no expiry")
    perpetual = spoiled("instruments", "kind", "perpetual")
    names(refused(perpetual, "instruments"), "<instruments>", "expiry", 2, "a perpetual has an expiry")
    spot = good("instruments").with_columns(kind=pl.lit("spot"), expiry=pl.lit(None, UTC_TIME))
    inverse = spot.with_columns(settlement=pl.Series(["linear", "linear", "inverse"]))
    names(refused(inverse, "instruments"), "<instruments>", "settlement", 3, "spot is settled inversely")


@pytest.mark.parametrize("kind", KINDS)
def test_a_crossed_quote_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(spoiled("quotes", "bid", 3.5), tmp_path, "quotes", kind)
    names(refused(path, "quotes"), path, "bid", 2, "the bid 3.5 is above the ask 3.0")


def test_a_locked_quote_or_one_side_alone_is_admitted() -> None:
    for frame in (spoiled("quotes", "bid", 3.0), spoiled("quotes", "bid", None), spoiled("quotes", "ask", None)):
        assert admitted(frame, "quotes").given == 3


def test_a_history_row_needs_a_price_or_a_value_and_not_both() -> None:
    names(refused(spoiled("history", "price", None), "history"), "<history>", "price", 2, "neither price nor value")
    names(refused(spoiled("history", "value", 1.0), "history"), "<history>", "value", 2, "both price and value")


def test_a_factor_of_the_history_is_a_known_one_or_a_forward_with_its_tenor() -> None:
    for factor in ("volatility", "forward:", "forward:90", "forward:d", "forward:0d", "forward:0.0y", "Price"):
        error = refused(spoiled("history", "factor", factor), "history")
        names(error, "<history>", "factor", 2, f"'{factor}' was given", "forward:90d")
    for factor in ("basis", "implied_vol", "forward:90d", "forward:1.5y", "forward:0.5Y", "forward:10W"):
        assert admitted(spoiled("history", "factor", factor), "history").given == 3


def test_multipliers_by_hand_are_numbers_that_make_sense() -> None:
    error = refused(spoiled("instruments", "margin_multiplier", 0.9), "instruments")
    names(error, "<instruments>", "margin_multiplier", 2, "0.9 was given", "Give 1 or more")
    error = refused(spoiled("accounts", "multiplier", -1.5), "accounts")
    names(error, "<accounts>", "multiplier", 2, "-1.5")
    assert admitted(spoiled("accounts", "multiplier", 0.5), "accounts").rows["multiplier"][1] == 0.5


def test_all_bad_rows_are_counted_and_the_first_are_shown_in_order() -> None:
    frame = pl.concat([good("balances")] * 50).with_columns(amount=pl.lit(float("nan")))
    error = refused(frame, "balances")
    lines = str(error).splitlines()
    assert error.total == 150
    assert len(lines) == SHOWN + 1
    assert lines[-1] == f"... and {150 - SHOWN} more."
    assert [problem.row for problem in error.problems] == list(range(1, 151))


def test_every_wrong_column_of_every_file_is_named_at_once() -> None:
    wrong = good("balances").rename({"amount": "amout"})
    error = refused([good("balances"), wrong.with_columns(asset=pl.lit(1.5))], "balances")
    assert [(problem.file, problem.column) for problem in error.problems] == [
        ("<balances 2>", "amout"),
        ("<balances 2>", "asset"),
        ("<balances 2>", "amount"),
    ]


def test_several_reasons_for_one_row_are_all_told() -> None:
    frame = good("quotes").with_columns(
        mark_price=pl.Series([1.0, float("nan"), 1.0]), confidence=pl.Series([0.1, -1.0, 0.1])
    )
    assert {problem.column for problem in refused(frame, "quotes").problems} == {"mark_price", "confidence"}


def test_an_error_is_a_value_error_with_its_problems() -> None:
    error = refused(spoiled("instruments", "expiry", T - timedelta(days=200_000)), "instruments")
    assert isinstance(error, ValueError)
    assert isinstance(error, BadInput)
    assert error.problems[0].table == "instruments"
