"""A book partitioned by account: every row once, in order, where the id of its account says, whatever it came in."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import marginax as mx
from door_tables import KINDS, good, names, write
from marginax.cli.app import run, several_files
from marginax.cli.exits import Exit
from marginax.datasets import Dataset, row_groups, spill
from marginax.datasets.hashing import partition_numbers
from marginax.problems import BadInput
from marginax.tables import batches, csv_text
from marginax.tables.door import admit
from marginax.tables.schemas import TABLES

IDS = [
    "desk 7",
    'the "whale"',
    "a,b",
    "two\nlines",
    "Zürich-账户-🦈",
    "007",
    "null",
    *(f"account-{k}" for k in range(40)),
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches, runs and row groups of a few rows, so that small books have many of each."""
    monkeypatch.setattr(batches, "ROWS", 7)
    monkeypatch.setattr(csv_text, "BATCH", 200)
    monkeypatch.setattr(spill, "RUN_ROWS", 50)
    monkeypatch.setattr(row_groups, "ROW_GROUP", 16)


def book(rows: int = 300) -> dict[str, pl.DataFrame]:
    """Positions of all accounts but the last, dealt out in turns; balances of all; attributes of some."""
    holders = [IDS[(7 * k) % (len(IDS) - 1)] for k in range(rows)]
    size = pl.Series([k / 8 for k in range(rows)])
    return {
        "positions": pl.DataFrame({"account_id": holders, "instrument_id": "X", "quantity": size, "entry_price": 2.5}),
        "balances": pl.DataFrame({"account_id": IDS, "asset": "USD", "amount": [float(k) for k in range(len(IDS))]}),
        "accounts": pl.DataFrame({"account_id": IDS[::2], "currency": "USD"}),
    }


def partitioned(folder: Path, **options: Any) -> Dataset:
    """The book above in five partitions, unless said otherwise."""
    return mx.partition_book(**{**book(), "partitions": 5, "out": folder / "dataset", **options})


def rows_of(dataset: Dataset, table: str) -> pl.DataFrame:
    """The rows of a table, partition after partition, each with the number of its partition."""
    frames = [pl.read_parquet(part.files[table]) for part in dataset.partitions]
    return pl.concat(frame.with_columns(part=pl.lit(number)) for number, frame in enumerate(frames))


def hashes(dataset: Dataset) -> list[str]:
    return [file.sha256 for part in dataset.record.partitions for file in part.tables.values()]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_comes_back_once_in_its_order_with_the_types_of_the_door(
    kind: str, tmp_path: Path, small: None
) -> None:
    paths = {name: write(frame, tmp_path, name, kind) for name, frame in book().items()}
    dataset = partitioned(tmp_path, **paths)
    for name, path in paths.items():
        expected = admit(path, name).rows.select(TABLES[name].names)
        found = rows_of(dataset, name)
        assert found.drop("part").schema == expected.schema == TABLES[name].schema
        by_partition = expected.with_columns(
            part=pl.Series([crc32(account.encode()) % 5 for account in expected["account_id"]], dtype=pl.Int32)
        )
        # A stable sort of the input: rows of one partition, and so of one account, stand as they were given.
        assert found.equals(by_partition.sort("part", maintain_order=True))


def test_the_partition_of_an_account_is_published_arithmetic(tmp_path: Path) -> None:
    # The check value of CRC-32, and texts in UTF-8.
    assert partition_numbers(pl.Series(["123456789"]), 1 << 16).tolist() == [0xCBF43926 % (1 << 16)]
    dataset = partitioned(tmp_path)
    for account in IDS:
        part = dataset.partition_of(account)
        assert part.name == f"partition={crc32(account.encode()) % 5:05d}"
        assert account in pl.read_parquet(part.files["balances"])["account_id"]


def test_file_format_batch_size_and_cutting_into_files_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "ROW_GROUP", 16)
    expected = hashes(partitioned(tmp_path))
    for size in (5, 1000):
        monkeypatch.setattr(batches, "ROWS", size)
        monkeypatch.setattr(csv_text, "BATCH", 100 * size)
        monkeypatch.setattr(spill, "RUN_ROWS", 5 * size)
        for kind in KINDS:
            held, folder = book(), tmp_path / f"{kind}{size}"
            folder.mkdir()
            late, early = (
                write(held["positions"][cut], folder, str(cut.start), kind) for cut in (slice(100, None), slice(0, 100))
            )
            paths = {name: write(held[name], folder, name, kind) for name in ("balances", "accounts")}
            assert hashes(partitioned(folder, positions=[early, late], **paths)) == expected


def test_the_record_counts_rows_and_accounts_and_hashes_every_file(tmp_path: Path) -> None:
    from hashlib import sha256

    paths = {name: write(frame, tmp_path, name, "csv") for name, frame in book().items()}
    record = json.loads((partitioned(tmp_path, **paths).path / "dataset.json").read_text())
    assert (record["accounts"], record["count"], record["hash"], record["quarantine"]) == (len(IDS), 5, "crc32", None)
    assert {name: table["rows"] for name, table in record["tables"].items()} == {
        name: frame.height for name, frame in book().items()
    }
    assert record["tables"]["positions"]["accounts"] == len(IDS) - 1
    assert record["tables"]["positions"]["inputs"] == {
        str(paths["positions"]): sha256(paths["positions"].read_bytes()).hexdigest()
    }
    for part in record["partitions"]:
        held = {name: pl.read_parquet(tmp_path / "dataset" / file["file"]) for name, file in part["tables"].items()}
        for name, file in part["tables"].items():
            assert file["sha256"] == sha256((tmp_path / "dataset" / file["file"]).read_bytes()).hexdigest()
            assert (file["rows"], file["accounts"]) == (held[name].height, held[name]["account_id"].n_unique())
        assert part["accounts"] == pl.concat(frame["account_id"] for frame in held.values()).n_unique()


def test_what_was_partitioned_is_read_as_a_book_of_each_partition(tmp_path: Path) -> None:
    dataset = partitioned(tmp_path)
    accounts: list[str] = []
    for part in dataset.partitions:
        held = mx.read_book(
            instruments=good("instruments").with_columns(instrument_id=pl.Series(["X", "Y", "Z"])), **part.files
        )
        assert len(held) == part.accounts
        accounts += held.accounts.tolist()
    assert sorted(accounts) == sorted(IDS)


def test_tables_without_rows_and_partitions_without_accounts_have_their_files_all_the_same(tmp_path: Path) -> None:
    empty = {name: write(frame.clear(), tmp_path, name, "csv") for name, frame in book().items()}
    dataset = partitioned(tmp_path, **empty, orders=good("orders").clear(), partitions=3)
    assert [part.accounts for part in dataset.partitions] == [0, 0, 0]
    assert pl.read_parquet(dataset.partitions[2].files["orders"]).schema == TABLES["orders"].schema
    few = partitioned(tmp_path, partitions=200)
    assert 0 in [part.accounts for part in few.partitions]
    assert sum(part.rows["positions"] for part in few.partitions) == 300
    assert mx.open_dataset(few.path).partitions == few.partitions


def test_there_are_so_many_partitions_that_each_holds_about_the_rows_asked_for(tmp_path: Path) -> None:
    for kind in KINDS:
        path = write(book()["positions"], tmp_path, "positions", kind)
        assert len(partitioned(tmp_path, positions=path, partitions=None, rows=100)) in (3, 4)  # ids of two lines
    assert len(partitioned(tmp_path, partitions=None)) == 1


def test_a_bad_cell_is_told_as_the_door_tells_it_though_it_is_far_down(tmp_path: Path, small: None) -> None:
    text = "account_id,asset,amount\n" + "".join(f"a{k},USD,{k}\n" for k in range(60))
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(text)
    second.write_text(text.replace("a50,USD,50\n", "a50,USD,fifty\n").replace("a55,USD,55\n", "a55,,55\n"))
    with pytest.raises(BadInput) as caught:
        partitioned(tmp_path, balances=[first, second])
    assert f"{second}, row 51 (line 52), column amount: 'fifty' is not a number." in str(caught.value)
    with pytest.raises(BadInput) as at_the_door:
        admit([first, second], "balances")
    assert (str(caught.value), caught.value.total) == (str(at_the_door.value), 2)
    assert not (tmp_path / "dataset").exists()
    # A blank line, far below: rows are no lines then, and only the row is named.
    second.write_text(second.read_text() + "\na60,USD,60\n")
    with pytest.raises(BadInput, match=r"row 51, column amount"):
        partitioned(tmp_path, balances=[first, second])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_of_typed_files_are_counted_over_batches_too(kind: str, tmp_path: Path, small: None) -> None:
    spoiled = book()["positions"].with_columns(
        quantity=pl.when(pl.int_range(pl.len()) == 200).then(float("nan")).otherwise(1.0)
    )
    path = write(spoiled, tmp_path, "positions", kind)
    with pytest.raises(BadInput) as caught:
        partitioned(tmp_path, positions=path)
    names(caught.value, path, "quantity", 201, "NaN was given")


def test_what_a_table_lacks_stops_before_any_row_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches.Batches, "parts", None)
    for name, frame in (
        ("balances", book()["balances"].rename({"amount": "sum"})),
        ("accounts", good("accounts").drop("account_id")),
    ):
        with pytest.raises(BadInput, match="is missing"):
            partitioned(tmp_path, **{name: frame})
    with pytest.raises(BadInput, match="there is no such file"):
        partitioned(tmp_path, orders=tmp_path / "nowhere.csv")


def test_a_file_that_breaks_in_its_middle_is_refused(tmp_path: Path, small: None) -> None:
    ragged = tmp_path / "positions.csv"
    ragged.write_text("account_id,instrument_id,quantity\n" + "a,X,1\n" * 100 + "a,X\n" + "a,X,1\n" * 100)
    with pytest.raises(BadInput) as caught:
        partitioned(tmp_path, positions=ragged)
    names(caught.value, ragged, None, 101, "has 2 cells and the header has 3", "(line 102)")
    unclosed = tmp_path / "unclosed.csv"
    unclosed.write_text("account_id,instrument_id,quantity\n" + "a,X,1\n" * 100 + 'a,"X,1\n' + "a,X,1\n" * 100)
    with pytest.raises(BadInput, match="Close its quotes"):
        partitioned(tmp_path, positions=unclosed)
    broken = write(book(3000)["positions"], tmp_path, "broken", "parquet")
    data = bytearray(broken.read_bytes())
    data[40:200] = bytes(160)
    broken.write_bytes(data)
    with pytest.raises(BadInput, match="cannot be read"):
        partitioned(tmp_path, positions=broken)
    assert not (tmp_path / "dataset").exists()


def test_quarantined_rows_are_those_of_the_door_and_the_rest_is_partitioned(tmp_path: Path, small: None) -> None:
    spoiled = book()["positions"].with_columns(
        quantity=pl.when(pl.int_range(pl.len()) % 9 == 5).then(float("inf")).otherwise(1.0)
    )
    first = write(spoiled[:200], tmp_path, "a", "parquet")
    second = write(spoiled[200:], tmp_path, "b", "csv")
    dataset = partitioned(tmp_path, positions=[first, second], on_error="quarantine")
    door = admit([first, second], "positions", on_error="quarantine")
    assert dataset.quarantine is not None
    assert pl.read_parquet(dataset.quarantine).equals(door.quarantine)
    assert dataset.record.tables["positions"].quarantined == door.quarantine.height > 30
    assert rows_of(dataset, "positions").height == door.rows.height
    clean = partitioned(tmp_path, on_error="quarantine")
    assert clean.quarantine is None
    assert not (clean.path / "quarantine.parquet").exists()


def test_an_account_listed_twice_is_left_for_the_reader_of_its_partition(tmp_path: Path) -> None:
    twice = pl.concat([book()["accounts"], book()["accounts"][:1]])
    part = partitioned(tmp_path, accounts=twice).partition_of(IDS[0])
    with pytest.raises(BadInput, match="'desk 7' is there already"):
        admit(part.files["accounts"], "accounts")


def test_numbers_of_partitions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for options, words in (
        ({"partitions": 0}, "0 was given"),
        ({"partitions": 70_000}, "at most 65,536"),
        ({"partitions": None, "rows": -1}, "-1 was given"),
        ({"partitions": 5, "rows": 5}, "is given beside `partitions`"),
    ):
        with pytest.raises(BadInput, match=words):
            partitioned(tmp_path, **options)
    with pytest.raises(ValueError, match="neither 'raise' nor 'quarantine'"):
        partitioned(tmp_path, on_error="ignore")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line that partitions the book, positions in two files."""
    held = book()
    early, late = (
        write(held["positions"][cut], tmp_path, str(cut.start), "csv") for cut in (slice(0, 100), slice(100, None))
    )
    balances, accounts = (str(write(held[name], tmp_path, name, "parquet")) for name in ("balances", "accounts"))
    return ["partition", "--positions", str(early), str(late), "--balances", balances, "--accounts", accounts,
           "--partitions", "5", "--out", str(tmp_path / "dataset")]  # fmt: skip


def test_the_command_takes_several_files_and_tells_what_it_wrote(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == Exit.SUCCESS
    told = capsys.readouterr().out
    for piece in (f"{len(IDS)} accounts in 5 partitions of", "300 rows", f"of {len(IDS) - 1} accounts", "dataset.json"):
        assert piece in told
    assert run([*words, "--json"]) == Exit.SUCCESS
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert hashes(mx.open_dataset(tmp_path / "dataset")) == hashes(partitioned(tmp_path))


def test_the_exit_code_says_that_rows_were_set_aside_or_refused(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "100.csv"
    path.write_text(path.read_text() + "a,X,much,1\n")
    assert run(words) == Exit.BAD_INPUT
    assert not (tmp_path / "dataset").exists()
    assert run([*words, "--on-error", "quarantine"]) == Exit.EXCEPTED
    assert run([*words, "--rows", "100"]) == Exit.BAD_INPUT


def test_other_commands_still_refuse_a_second_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert several_files(["partition", "--positions", "a", "b"]) == [
        "partition",
        "--positions",
        "a",
        "--positions",
        "b",
    ]
    assert several_files(["margin", "--positions", "a", "b"]) == ["margin", "--positions", "a", "b"]


def test_what_is_held_of_a_file_that_is_read_does_not_grow_with_its_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    size, groups = 10_000, 40
    monkeypatch.setattr(batches, "ROWS", size)
    ids = [f"account-{k}" for k in range(groups * size)]
    frame = pl.DataFrame({"account_id": ids, "instrument_id": "X", "quantity": rng.normal(size=groups * size)})
    path = tmp_path / "positions.parquet"
    frame.write_parquet(path, row_group_size=size)
    (opened,) = batches.open_batches(path, "positions")
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in opened.parts()]
    assert len(held) == groups
    # A batch of 300 kB and its buffers; those of all row groups, which one reader would keep, are 4 MB.
    assert max(held) < 1_500_000
