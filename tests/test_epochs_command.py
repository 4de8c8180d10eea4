"""`marginax epochs`: folders and bars in, rows by epoch out; told how to go on where it is interrupted."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from marginax.cli.app import run
from marginax.cli.exits import Exit
from test_epochs import STEPS, bars, book, day, market

MODEL = "expected_shortfall"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tables of the book and of the market in folders of their own, and a file of bars."""
    home = tmp_path_factory.mktemp("inputs")
    for kind, tables in (("book", book().tables), ("market", market().tables)):
        (home / kind).mkdir()
        for name, table in tables.items():
            if table.given:
                table.rows.drop("__file", "__row", "__line").write_parquet(home / kind / f"{name}.parquet")
    bars().write_csv(home / "bars.csv")
    return {"book": home / "book", "market": home / "market", "bars": home / "bars.csv"}


def words(inputs: dict[str, Path], out: Path, *more: str) -> list[str]:
    given = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    return ["epochs", *given, "--out", str(out), "--model", MODEL, *more]


def test_a_book_is_replayed_and_what_matters_is_told(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(words(inputs, out, "--calls", "closed")) == Exit.SUCCESS
    said = capsys.readouterr().out
    assert f"{STEPS} epochs by {MODEL}, calls: closed, 8 accounts" in said
    assert f"{day(2):%Y-%m-%d %H:%M}" in said
    assert "written off" in said
    assert f"{out}/accounts.parquet" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["epochs"]["count"] == STEPS
    assert manifest["inputs"]["bars"]["rows"] == bars().height
    assert pl.read_parquet(out / "epochs.parquet").height == STEPS
    assert run(words(inputs, out, "--json")) == Exit.SUCCESS
    told = json.loads(capsys.readouterr().out)
    assert told["calls"] == "stand"
    assert told["outputs"] == json.loads((out / "manifest.json").read_text())["outputs"]


def test_one_that_is_interrupted_says_how_to_go_on(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "out", []

    def second() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["marginax.epochs.replay"], "stop_if_interrupted", second)
    assert run(words(inputs, out)) == Exit.INTERRUPTED
    said = capsys.readouterr().err
    assert f"{out / 'unfinished'} keeps what was done; the same command with --resume goes on" in said
    assert json.loads((out / "unfinished" / "run.json").read_text())["done"] == 2
    monkeypatch.undo()
    assert run(words(inputs, out)) == Exit.BAD_INPUT
    assert "Go on with --resume" in capsys.readouterr().err
    assert run(words(inputs, out, "--resume")) == Exit.SUCCESS
    whole = tmp_path / "whole"
    assert run(words(inputs, whole)) == Exit.SUCCESS
    for name in ("epochs.parquet", "accounts.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_what_cannot_be_used_is_named_and_nothing_is_written(
    inputs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(words({**inputs, "bars": tmp_path / "none.csv"}, out)) == Exit.BAD_INPUT
    assert "there is no such file" in capsys.readouterr().err
    assert run(words({**inputs, "market": tmp_path / "none"}, out)) == Exit.BAD_INPUT
    assert run(words(inputs, inputs["book"])) == Exit.BAD_INPUT
    assert "is where inputs lie" in capsys.readouterr().err
    lost = {name: path for name, path in inputs.items() if name != "market"}
    assert run(words(lost, out)) == Exit.BAD_INPUT
    assert "names no `quotes`" in capsys.readouterr().err
    assert run(words(inputs, out, "--every", "0")) == Exit.BAD_INPUT
    assert not out.exists()
