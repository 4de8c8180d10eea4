"""Frames and columns of every type that a table may come in."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from door_tables import KINDS, admitted, balances, cells, good, names, refused, write


def test_history_may_come_in_files_of_every_kind_and_frames(tmp_path: Path) -> None:
    rows = good("history")
    many = [write(rows[k : k + 1], tmp_path, f"part{k}", kind) for k, kind in enumerate(KINDS)]
    late = rows.with_columns(underlying=pl.lit("ETH"))
    inside = admitted([*many, late, late.with_columns(underlying=pl.lit("OIL")).to_arrow()], "history")
    assert inside.rows.height == 9
    assert list(inside.digests) == [*map(str, many), "<history 4>", "<history 5>"]
    assert len(set(inside.digests.values())) == 5


def test_rows_of_several_frames_keep_their_own_places() -> None:
    bad = balances(amount=[1.0, float("nan")])
    names(refused([balances(account_id=["c", "d"]), bad], "balances"), "<balances 2>", "amount", 2)


def test_arrow_ipc_is_read_as_a_file_and_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "balances.arrow"
    balances().write_ipc_stream(path)
    assert len(cells(path)) == 2
    balances().write_ipc(path, compression="zstd")
    assert len(cells(path)) == 2


def test_frames_and_arrow_tables_in_all_their_forms_say_the_same() -> None:
    arrow = balances().to_arrow()
    for source in (balances(), balances().lazy(), arrow, arrow.to_batches()[0], arrow.to_reader(), [arrow]):
        assert cells(source) == [("a", "USD", 1.0), ("b", "BTC", -2.5)]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a", "b"])])
def test_ids_may_be_categories(dtype: Any, tmp_path: Path) -> None:
    frame = balances().with_columns(pl.col("account_id").cast(dtype))
    assert [row[0] for row in cells(write(frame, tmp_path, "balances", "parquet"))] == ["a", "b"]
    assert [row[0] for row in cells(frame)] == ["a", "b"]


@pytest.mark.parametrize(("dtype", "most"), [(pl.Int8, 127), (pl.UInt16, 65_535), (pl.UInt64, 2**64 - 1)])
def test_ids_may_be_whole_numbers(dtype: Any, most: int) -> None:
    ids = [7, most]
    assert [row[0] for row in cells(balances(account_id=pl.Series(ids, dtype=dtype)))] == [str(id) for id in ids]


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([1, -2], dtype=pl.Int8),
        pl.Series([1, -2], dtype=pl.Int64),
        pl.Series([1.0, -2.0], dtype=pl.Float32),
        pl.Series([Decimal("1.00"), Decimal("-2.00")]),
    ],
    ids=str,
)
def test_numbers_may_be_of_any_type_of_number(values: pl.Series, tmp_path: Path) -> None:
    frame = balances(amount=values)
    for source in (frame, write(frame, tmp_path, "balances", "parquet")):
        assert [row[2] for row in cells(source)] == [1.0, -2.0]


def test_a_column_of_nulls_without_a_type_is_empty(tmp_path: Path) -> None:
    frame = good("positions").with_columns(entry_price=None, venue=None)
    for kind in ("parquet", "arrow"):
        inside = admitted(write(frame, tmp_path, "positions", kind), "positions")
        assert inside.rows["entry_price"].to_list() == [None] * 3
    assert refused(good("positions").with_columns(quantity=None), "positions").total == 3
    assert refused(good("history").with_columns(time=None), "history").total == 3


@pytest.mark.parametrize("values", [[object(), object()], [{"a": 1}, {"a": 2}], [["a"], ["b"]]])
def test_a_column_of_things_is_refused_by_its_type(values: list[Any]) -> None:
    dtype = pl.Object if type(values[0]) is object else None
    frame = balances(amount=pl.Series(values, dtype=dtype))
    names(refused(frame, "balances"), "<balances>", "amount", None, "has the type", "Write it as a number")


def test_the_hash_of_a_file_is_of_its_bytes_and_of_a_frame_of_its_cells(tmp_path: Path) -> None:
    from hashlib import sha256

    path = write(balances(), tmp_path, "balances", "csv")
    assert admitted(path, "balances").digests == {str(path): sha256(path.read_bytes()).hexdigest()}
    hashes = [next(iter(admitted(frame, "balances").digests.values())) for frame in (balances(), balances())]
    other = next(iter(admitted(balances(amount=[1.0, 2.0]), "balances").digests.values()))
    assert hashes[0] == hashes[1] != other
