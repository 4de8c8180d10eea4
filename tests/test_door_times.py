"""Times at the door: however they are written, UTC microseconds come in, and what cannot be read is named by row."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from door_tables import KINDS, admitted, good, names, refused, write
from marginax.tables.schemas import UTC_TIME

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MIDNIGHT = datetime(2026, 1, 31, tzinfo=UTC)
HEADER = "time,underlying,price\n"


def times(source: Any) -> list[datetime]:
    rows = admitted(source, "history").rows
    assert rows.schema["time"] == UTC_TIME
    return rows["time"].to_list()


def one(time: Any) -> pl.DataFrame:
    return pl.DataFrame({"time": time, "underlying": "BTC", "price": 1.0})


def spelled(folder: Path, text: str) -> Path:
    path = folder / "history.csv"
    path.write_text(HEADER + f'2026-01-01,BTC,1\n"{text}",BTC,1\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_time_without_a_zone_and_of_any_unit_is_utc(unit: Any, kind: str, tmp_path: Path) -> None:
    frame = one(pl.Series([NOON.replace(tzinfo=None)], dtype=pl.Datetime(unit)))
    assert times(write(frame, tmp_path, "history", kind)) == [NOON]
    assert times(frame) == [NOON]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin"])
def test_a_time_in_another_zone_is_the_same_moment(zone: str, unit: Any, kind: str, tmp_path: Path) -> None:
    series = pl.Series([NOON], dtype=UTC_TIME).dt.convert_time_zone(zone).dt.cast_time_unit(unit)
    assert times(write(one(series), tmp_path, "history", kind)) == [NOON]


@pytest.mark.parametrize("zone", ["+02:00", "-05:30", "Z", "Etc/GMT+5", None])
def test_arrow_times_with_a_fixed_offset_are_the_same_moment(zone: str | None, tmp_path: Path) -> None:
    stamp = NOON.replace(tzinfo=None) if zone is None else NOON
    table = pa.table({"time": pa.array([stamp], pa.timestamp("ns", zone)), "underlying": ["BTC"], "price": [1.0]})
    pq.write_table(table, tmp_path / "history.parquet")
    assert times(table) == times(tmp_path / "history.parquet") == [NOON]


@pytest.mark.parametrize("kind", KINDS)
def test_a_date_is_its_midnight_in_utc(kind: str, tmp_path: Path) -> None:
    assert times(write(one([date(2026, 1, 31)]), tmp_path, "history", kind)) == [MIDNIGHT]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31t12:00:00z",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00",
        "2026-01-31 12:00",
        "2026-01-31T12:00Z",
        "2026-01-31 12:00:00 UTC",
        "2026-01-31 12:00:00.000",
        "2026-01-31T12:00:00.000000Z",
        "2026-01-31T12:00:00.000000000+00:00",
        "2026-01-31T12:00:00+00:00",
        "2026-01-31 12:00:00+00",
        "2026-01-31T12:00:00.000000+0000",
        "2026-01-31T14:00:00+02:00",
        "2026-01-31T14:00:00+0200",
        "2026-01-31 07:00:00-05",
        "2026-01-31 17:30:00.0+05:30",
        "2026-02-01T01:00+13:00",
        "  2026-01-31T12:00:00Z ",
    ],
)
def test_a_moment_in_any_iso_spelling_is_the_same(text: str, tmp_path: Path) -> None:
    assert times(spelled(tmp_path, text))[1] == NOON
    assert times(one([text])) == [NOON]


def test_a_day_alone_is_its_midnight(tmp_path: Path) -> None:
    assert times(spelled(tmp_path, "2026-01-31"))[1] == MIDNIGHT


@pytest.mark.parametrize("digits", range(1, 10))
def test_a_fraction_of_a_second_is_kept_to_the_microsecond(digits: int, tmp_path: Path) -> None:
    text = f"2026-01-31T12:00:00.{'123456789'[:digits]}Z"
    micros = int("123456789"[:digits].ljust(6, "0")[:6])
    assert times(spelled(tmp_path, text))[1] == NOON.replace(microsecond=micros)


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "31/01/2026",
        "01-31-2026",
        "20260131",
        "2026-02-30",
        "2026-01-31T25:00:00",
        "2026-01-31T12:61:00",
        "2026-01-31T12",
        "2026-01-31T12:00:00 CET",
        "2026-01-31T12:00:00+25:00",
        "1769860800",
        "1769860800000",
        "12:00:00",
        "2026-01",
        "12026-01-31",
        "1026-01-31",
    ],
)
def test_a_time_that_cannot_be_read_is_named_by_its_row(text: str, tmp_path: Path) -> None:
    path = spelled(tmp_path, text)
    names(refused(path, "history"), path, "time", 2, f"'{text}' is not a date or a UTC time", "2026-01-31T12:00:00Z")


@pytest.mark.parametrize(
    ("unit", "stamp"),
    [
        ("ms", 2**62),
        ("ms", -(2**62)),
        ("us", 2**62),
        ("us", -(2**62)),
        ("us", 10**16),
        ("ns", -(2**62)),
        ("ms", 10**15),
    ],
)
def test_a_stamp_of_another_age_is_a_wrong_unit_and_is_named_by_its_row(stamp: int, unit: Any) -> None:
    for zone in (None, "Asia/Tokyo"):
        series = pl.Series([0, stamp], dtype=pl.Int64).cast(pl.Datetime(unit, zone))
        names(refused(one(series), "history"), "<history>", "time", 2, "the cell is not a date or a UTC time")
    days = pl.Series([0, 2**31 - 1], dtype=pl.Int32).cast(pl.Date)
    names(refused(one(days), "history"), "<history>", "time", 2, "between 1900 and 2200")


def test_every_table_with_a_time_reads_it_alike(tmp_path: Path) -> None:
    for table, column in (
        ("quotes", "time"),
        ("underlyings", "time"),
        ("instruments", "expiry"),
        ("forwards", "expiry"),
    ):
        text = good(table).with_columns(pl.lit("2026-01-31T13:00:00+01:00").alias(column))
        for kind in KINDS:
            rows = admitted(write(text, tmp_path, table, kind), table).rows
            assert rows[column].to_list() == [NOON] * 3
            assert rows.schema[column] == UTC_TIME


def test_an_optional_time_may_be_empty_and_a_bad_one_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text("instrument_id,mark_price,time\nA,1,\nB,1,2026-01-31\n")
    assert admitted(path, "quotes").rows["time"].to_list() == [None, MIDNIGHT]
    path.write_text("instrument_id,mark_price,time\nA,1,soon\n")
    names(refused(path, "quotes"), path, "time", 1, "'soon' is not", "or leave it empty")
