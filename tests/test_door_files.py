"""Files and frames as people have them: what can be read is read, what cannot is named with a remedy."""

import contextlib
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from door_tables import HEADER, KINDS, admitted, balances, cells, file, good, names, refused, write
from marginax.problems import BadInput


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a,USD,1\nb,BTC,-2.5\n",
        HEADER + "a,USD,1\nb,BTC,-2.5",
        "\ufeff" + HEADER + "a,USD,1\nb,BTC,-2.5\n",
        (HEADER + "a,USD,1\nb,BTC,-2.5\n").replace("\n", "\r\n"),
        (HEADER + "a,USD,1\nb,BTC,-2.5\n").replace("\n", "\r"),
        "\n\n" + HEADER + "a,USD,1\n\n\nb,BTC,-2.5\n\n\n",
        "account_id, asset , amount\na, USD , 1\nb ,BTC, -2.5 \n",
        '"account_id","asset","amount"\n"a","USD","1"\n"b","BTC","-2.5"\n',
        "amount,asset,account_id\n1,USD,a\n-2.5,BTC,b\n",
        HEADER + "a,USD,+1e0\nb,BTC,-25E-1\n",
        HEADER + "a,USD,1.\nb,BTC,-2.500\n",
    ],
    ids=["plain", "cut", "bom", "crlf", "cr", "blank", "spaced", "quoted", "reordered", "scientific", "points"],
)
def test_the_dialects_of_csv_say_the_same(text: str, tmp_path: Path) -> None:
    assert cells(file(tmp_path, text)) == [("a", "USD", 1.0), ("b", "BTC", -2.5)]


def test_ids_may_hold_spaces_quotes_commas_lines_and_any_letter(tmp_path: Path) -> None:
    ids = ["desk 7", 'the "whale"', "a,b", "two\nlines", "Zürich-账户-🦈", "007", "1e5", "null", "NaN", "true"]
    frame = pl.DataFrame({"account_id": ids, "asset": "USD", "amount": [float(k) for k in range(len(ids))]})
    for kind in KINDS:
        assert [row[0] for row in cells(write(frame, tmp_path, "balances", kind))] == ids


def test_white_space_around_an_id_makes_no_other_account(tmp_path: Path) -> None:
    text = HEADER + 'a,USD,1\n a,USD,2\n"a ",USD,3\n\ta,USD,4\n'
    assert {row[0] for row in cells(file(tmp_path, text))} == {"a"}
    padded = balances(account_id=["a         ", "b         "])
    assert [row[0] for row in cells(padded)] == ["a", "b"]


def test_blank_text_is_an_empty_cell_quoted_or_not(tmp_path: Path) -> None:
    for cell in ("", '""', "  ", '"  "'):
        path = file(tmp_path, HEADER + f"a,USD,1\n{cell},USD,1\n")
        names(refused(path, "balances"), path, "account_id", 2, "is empty", "(line 3)")
        optional = file(tmp_path, f"account_id,instrument_id,quantity,entry_price\na,X,1,{cell}\n", "positions.csv")
        assert admitted(optional, "positions").rows["entry_price"].to_list() == [None]


def test_the_line_is_named_where_rows_are_lines_and_the_row_always(tmp_path: Path) -> None:
    plain = file(tmp_path, HEADER + "a,USD,1\nb,USD,x\n\n\n")
    names(refused(plain, "balances"), plain, "amount", 2, "row 2 (line 3)")
    for text in (HEADER + "a,USD,1\n\nb,USD,x\n", HEADER + '"two\nlines",USD,1\nb,USD,x\n'):
        names(refused(file(tmp_path, text), "balances"), tmp_path / "balances.csv", "amount", 2, "row 2, column")


@pytest.mark.parametrize(
    "cell", ["1,000.5", "1.000,5", "1_000", "$5", "5 USD", "0x10", "1/2", "--1", "1e", "None", "n/a", "-", "true"]
)
def test_what_a_person_might_write_for_a_number_and_no_machine_should_guess(cell: str, tmp_path: Path) -> None:
    path = file(tmp_path, HEADER + f'a,USD,1\nb,USD,"{cell}"\n')
    names(refused(path, "balances"), path, "amount", 2, f"'{cell}' is not a number")


def test_numbers_of_any_size_are_read_to_the_nearest_double(tmp_path: Path) -> None:
    spelled = ["123456789012345678901234567890", "1e300", "5e-324", "9007199254740993", "0.1", "-0"]
    path = file(tmp_path, HEADER + "".join(f"a{k},USD,{number}\n" for k, number in enumerate(spelled)))
    assert [row[2] for row in cells(path)] == [float(number) for number in spelled]
    names(refused(file(tmp_path, HEADER + "a,USD,1e400\n"), "balances"), path, "amount", 1, "inf was given")


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_columns_separated_by_something_else_are_told_to_use_commas(sign: str, word: str, tmp_path: Path) -> None:
    path = file(tmp_path, (HEADER + "a,USD,1\n").replace(",", sign))
    names(refused(path, "balances"), path, None, None, f"separated by {word}", "Separate them by commas")


def test_a_row_with_more_or_fewer_cells_than_the_header_is_refused(tmp_path: Path) -> None:
    short = file(tmp_path, HEADER + "a,USD,1\nb,USD\n")
    names(refused(short, "balances"), short, None, 2, "has 2 cells and the header has 3", "(line 3)")
    long = file(tmp_path, HEADER + 'a,USD,"1,5"\nb,USD,1,5\n')
    names(refused(long, "balances"), long, None, 2, "has 4 cells and the header has 3")


def test_a_file_cut_in_the_middle_of_a_row_is_refused_though_its_last_columns_are_optional(tmp_path: Path) -> None:
    whole = "account_id,instrument_id,quantity,entry_price\na,X,100,2\nb,X,100,2\n"
    path = file(tmp_path, whole[: whole.rindex("00,2")], "positions.csv")
    names(refused(path, "positions"), path, None, 2, "has 3 cells and the header has 4")


def test_a_quote_that_never_ends_swallows_no_rows(tmp_path: Path) -> None:
    text = 'account_id,instrument_id,quantity,venue\na,X,1,"here\nb,X,100,there\nc,X,100,there\n'
    path = file(tmp_path, text, "positions.csv")
    names(refused(path, "positions"), path, None, None, "line 2 cannot be read", "Close its quotes")


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "account_id,asset,amount,amount\na,USD,1,2\n")
    names(refused(path, "balances"), path, "amount", None, "more than once")
    arrow = pa.table([["a"], ["USD"], [1.0], [2.0]], names=["account_id", "asset", "amount", "amount"])
    names(refused(arrow, "balances"), "<balances>", None, None, "is no frame", "Give each column once")


def test_a_column_without_a_name_is_refused_as_the_index_that_it_mostly_is(tmp_path: Path) -> None:
    for text in (",account_id,asset,amount\n0,a,USD,1\n", "account_id,asset,amount,\na,USD,1,\n"):
        assert "has no name" in str(refused(file(tmp_path, text), "balances"))
    assert "without a name" in str(refused(balances().with_columns(pl.lit(0).alias("")), "balances"))


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_a_file_without_a_header_is_refused(text: str, tmp_path: Path) -> None:
    path = file(tmp_path, text)
    names(refused(path, "balances"), path, None, None, "is empty", "header")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_no_rows_is_admitted(kind: str, tmp_path: Path) -> None:
    inside = admitted(write(good("positions").clear(), tmp_path, "positions", kind), "positions")
    assert (inside.given, inside.rows.height) == (0, 0)
    assert inside.rows.schema["quantity"] == pl.Float64
    assert cells(file(tmp_path, HEADER.strip())) == []


@pytest.mark.parametrize(
    "data",
    [HEADER.encode("utf-16"), HEADER.encode() + "é,USD,1\n".encode("latin-1")],
    ids=["utf-16", "latin-1"],
)
def test_text_that_is_not_utf8_is_told_to_be(data: bytes, tmp_path: Path) -> None:
    path = file(tmp_path, data)
    names(refused(path, "balances"), path, None, None, "is not UTF-8", "Save it as UTF-8")


@pytest.mark.parametrize("name", ["x.parquet", "x.pq", "x.arrow", "x.feather", "x.ipc"])
@pytest.mark.parametrize("data", [b"", b"PAR1", HEADER.encode()], ids=["empty", "cut", "text"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    path = file(tmp_path, data, name)
    names(refused(path, "balances"), path, None, None, "cannot be read", "Write the file again")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(good("balances"), tmp_path, "balances", kind)
    path.write_bytes(path.read_bytes()[:-20])
    names(refused(path, "balances"), path, None, None, "cannot be read")


def test_a_path_to_nothing_to_a_folder_or_to_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    names(refused(tmp_path / "no.csv", "balances"), tmp_path / "no.csv", None, None, "there is no such file")
    names(refused("no.csv", "balances"), "no.csv", None, None, "there is no such file")
    names(refused(tmp_path, "balances"), tmp_path, None, None, "is a folder")
    folder = tmp_path / "balances.parquet"
    folder.mkdir()
    names(refused(folder, "balances"), folder, None, None, "is a folder")
    for name in ("balances.xlsx", "balances.csv.gz", "balances"):
        assert ".parquet, .csv or .arrow" in str(refused(file(tmp_path, HEADER, name), "balances"))


def test_an_ending_may_be_in_capitals_and_a_name_may_hold_any_sign(tmp_path: Path) -> None:
    assert cells(file(tmp_path, HEADER + "a,USD,1\n", "BALANCES.CSV")) == [("a", "USD", 1.0)]
    for kind in KINDS:
        path = write(balances(), tmp_path, "balances [1] * of ü?", kind)
        assert len(cells(path)) == 2


@pytest.mark.parametrize("source", [None, 5, {"account_id": ["a"]}, b"balances.csv", [None], (x for x in "ab")])
def test_what_is_no_table_at_all_is_refused_with_what_would_be(source: Any) -> None:
    error = refused(source, "balances")
    assert "was given" in str(error)
    assert "a polars frame or an Arrow table" in str(error)


def test_an_empty_list_of_files_is_refused() -> None:
    names(refused([], "history"), "<history>", None, None, "an empty list was given")


def test_the_same_file_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(good("history"), tmp_path, "history", "csv")
    monkeypatch.chdir(tmp_path)
    names(refused([path, "history.csv"], "history"), path, None, None, "is given twice")


def test_no_bytes_at_all_lead_to_anything_but_a_table_or_a_refusal(tmp_path: Path) -> None:
    import random

    coin = random.Random(1)
    for kind in KINDS:
        whole = write(good("balances"), tmp_path, "whole", kind).read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(coin.choice([1, 4, 30])):
                data[coin.randrange(len(data))] = coin.randrange(256)
            path = file(
                tmp_path, bytes(data[: coin.randrange(len(data))] if coin.random() < 0.3 else data), f"x.{kind}"
            )
            with contextlib.suppress(BadInput):
                admitted(path, "balances")
