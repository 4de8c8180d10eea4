"""The view of a venue in files, over partitions, and in the terminal."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
import markets
from marginax.cli.app import run
from marginax.cli.exits import Exit
from venue_books import made, positions, settings, told, view


def test_a_partitioned_book_has_the_view_of_the_whole(tmp_path: Path) -> None:
    tables, _ = made()
    book = mx.partition_book(
        positions=tables["positions"], balances=tables["balances"], partitions=3, out=tmp_path / "book"
    )
    market = mx.read_market(**{name: tables[name] for name in ("quotes", "underlyings", "history", "forwards")})
    wanted = view(markets.margin(tables, settings()))
    for _ in range(2):  # the second run takes the place of the first
        result = mx.margin_dataset(book, tables["instruments"], market, settings(), out=tmp_path / "margins")
    assert result.venue is not None
    _assert_close(result.venue.notes, wanted.notes)
    for name, table in wanted.tables.items():
        written = pl.read_parquet(tmp_path / "margins" / f"{name}.parquet")
        assert written.columns == table.columns
        for column, dtype in table.schema.items():
            if dtype.is_float():
                # Sums of three partitions against one: rounding of float64, which nets near zero feel most.
                size = float(table[column].abs().max() or 0)  # type: ignore[arg-type]
                close = pytest.approx(table[column].fill_null(-1).to_numpy(), rel=1e-9, abs=1e-9 * max(size, 1e6))
                assert written[column].fill_null(-1).to_numpy() == close, column
            else:
                assert written[column].equals(table[column]), column
    assert json.loads((tmp_path / "margins" / "manifest.json").read_text())["venue"] == result.venue.notes


def _assert_close(got: Any, wanted: Any) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            _assert_close(got[key], wanted[key])
    elif isinstance(wanted, list):
        for each, other in zip(got, wanted, strict=True):
            _assert_close(each, other)
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    else:
        assert got == wanted


def test_tables_are_written_whole_and_taken_away_by_a_run_without_them(tmp_path: Path) -> None:
    told().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["venue"] == json.loads(json.dumps(view(told()).notes))
    for name, table in view(told()).tables.items():
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(table)
        assert manifest["outputs"][f"{name}.parquet"]["rows"] == table.height
    markets.clean().write(tmp_path)
    assert not [name for name in view(told()).tables if (tmp_path / f"{name}.parquet").exists()]


def test_the_command_tells_of_the_venue_in_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, words = markets.tables(positions=positions()), ["margin", "--out", str(tmp_path / "out"), "--venue"]
    for name, table in given.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
        words += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    mine = "[scenarios]\nwindow = 200\n[venue]\ninsurance_fund = 5000.0\nupper = 1e6\ncaps = {BTX = [1, 2]}\n"
    (tmp_path / "mine.toml").write_text(mine)
    assert run([*words, "--config", str(tmp_path / "mine.toml")]) == Exit.SUCCESS
    said = capsys.readouterr().out
    assert "Open interest 186,250 USD long, 186,250 short; accounts below a margin ratio of 1.25 hold" in said
    assert "against a fund of 5,000" in said
    assert "Loss beyond margins:" in said
    assert "Margins that follow open interest would ask" in said
    assert "Protocol risk score 0." in said
    assert "Caps of open interest for what is no underlying: BTX." in said
    assert "venue_losses.parquet" in said
    assert (tmp_path / "out" / "open_interest.parquet").exists()
