"""`marginax params`: what a parameter file changes for a book, and its approval."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.cli.init import NAMES
from marginax.models.load import model_config
from marginax.parameter_diff import key_changes
from marginax.parameter_file import read_document, settings_over

HIGHER = {"stress_period": {"weight": 0.6}, "scenarios": {"volatility_floor": 0.9}}
APPROVE = ("--note", "looked at the diff", "--by", "A. Name")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book") / "start"
    assert run(["init", str(folder)]) == Exit.SUCCESS
    for name, settings in {"now": {}, "then": HIGHER}.items():
        write(folder / f"{name}.json", settings=settings)
    return folder


def write(path: Path, **other: Any) -> Path:
    path.write_text(json.dumps({"format": "marginax.parameters/1", "model": "dynamic", "settings": {}, **other}))
    return path


def diff(folder: Path, one: str, other: str) -> list[str]:
    tables = [word for name in NAMES for word in (f"--{name}", str(folder / f"{name}.csv"))]
    return ["params", "diff", one, other, *tables]


def test_a_diff_tells_by_account_what_would_change(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = diff(start, str(start / "now.json"), str(start / "then.json"))
    assert run([*words, "--out", str(tmp_path / "d.parquet"), "--json"]) == Exit.SUCCESS
    totals = json.loads(capsys.readouterr().out)
    accounts = pl.read_parquet(tmp_path / "d.parquet")
    change = accounts["initial_margin_after"] - accounts["initial_margin"]
    assert accounts["initial_change"].to_list() == change.to_list()
    assert totals["initial_margin_after"] - totals["initial_margin"] == pytest.approx(change.sum())
    assert totals["asked"] - totals["freed"] == pytest.approx(change.sum())
    assert totals["more"] + totals["less"] + totals["same"] == totals["compared"] == accounts.height
    newly = accounts.filter((pl.col("call_after") > 0) & ~(pl.col("call") > 0))
    assert totals["newly_called"] == newly.height


def test_a_diff_names_only_those_who_would_owe_more_and_those_who_would_owe_less(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now, then = str(start / "now.json"), str(start / "then.json")
    for words, most, nobody in ((diff(start, now, then), "more", "less"), (diff(start, then, now), "less", "more")):
        assert run(words) == Exit.SUCCESS
        printed = capsys.readouterr().out
        assert "stress_period.weight" in printed
        assert f"Who would owe most {most}:" in printed
        assert f"Nobody would owe {nobody}." in printed
        rows = [line.split() for line in printed.splitlines() if line.startswith("account-")]
        signs = {"-" if row[4].startswith("-") else "+" for row in rows}
        assert signs == {"+" if most == "more" else "-"}
        assert all(line == line.rstrip() for line in printed.splitlines())
        assert " 1 accounts" not in printed


def test_the_same_parameters_change_nothing(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = diff(start, "dynamic", str(start / "now.json"))
    assert run([*words, "--json"]) == Exit.SUCCESS
    totals = json.loads(capsys.readouterr().out)
    assert totals["same"] == totals["accounts"]
    assert totals["asked"] == totals["freed"] == 0


def test_keys_that_are_switched_off_are_told_on_both_sides() -> None:
    bounded = settings_over(model_config("dynamic"), {"filter": {"bound": 6.0}}, "test")
    free = settings_over(bounded, {"filter": {"bound": None}}, "test")
    assert key_changes(bounded, free) == [("filter.bound", "6.0", "off")]
    assert key_changes(free, bounded) == [("filter.bound", "off", "6.0")]
    assert key_changes(free, free) == []


def test_tables_of_one_side_alone_are_told_too_and_so_is_another_model() -> None:
    plain = model_config("fhs")
    own = settings_over(plain, {"classes": {"parameters": {"A.B": {"haircut": 0.3}}}}, "test")
    assert key_changes(plain, own) == [("classes.parameters.A.B.haircut", "-", "0.3")]
    assert key_changes(own, plain) == [("classes.parameters.A.B.haircut", "0.3", "-")]
    assert ("model", "expected_shortfall", "dynamic") in key_changes(plain, model_config("dynamic"))


def test_an_approval_is_written_into_the_file_and_replaced_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "fit.json", settings=HIGHER)
    assert run(["params", "approve", str(file), *APPROVE]) == Exit.SUCCESS
    given = json.loads(file.read_text())["approval"]
    assert (given["note"], given["by"]) == ("looked at the diff", "A. Name")
    assert read_document(file)["settings"] == HIGHER
    before, again = file.read_text(), ["params", "approve", str(file), "--note", "again", "--by", "B. Name"]
    capsys.readouterr()
    assert run(again) == Exit.BAD_INPUT
    assert f"is approved by A. Name on {given['date']} already. Replace that with `--again`" in capsys.readouterr().err
    assert file.read_text() == before
    assert run([*again, "--again"]) == Exit.SUCCESS
    assert json.loads(file.read_text())["approval"]["by"] == "B. Name"


def test_numbers_that_were_changed_can_be_approved_of_again(tmp_path: Path) -> None:
    file = write(tmp_path / "fit.json", settings=HIGHER)
    assert run(["params", "approve", str(file), *APPROVE]) == Exit.SUCCESS
    document = json.loads(file.read_text())
    document["settings"]["stress_period"]["weight"] = 0.1
    file.write_text(json.dumps(document))
    assert run(["params", "approve", str(file), *APPROVE, "--again"]) == Exit.SUCCESS
    assert read_document(file)["settings"]["stress_period"] == {"weight": 0.1}


@pytest.mark.parametrize(
    ("document", "words", "said"),
    [
        ({}, ["--note", " ", "--by", "A. Name"], "--note: is empty"),
        ({"model": "no_such"}, APPROVE, "fit.json, key model: `no_such` is no margin model"),
        ({"settings": {"filter": {"speed": 1}}}, APPROVE, "is not a key"),
    ],
)
def test_what_cannot_run_is_not_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: dict[str, Any], words: list[str], said: str
) -> None:
    file = write(tmp_path / "fit.json", **document)
    before = file.read_text()
    assert run(["params", "approve", str(file), *words]) == Exit.BAD_INPUT
    assert said in capsys.readouterr().err
    assert file.read_text() == before


def test_a_diff_names_the_file_of_an_unknown_model(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "fit.json", model="no_such")
    assert run(diff(start, "dynamic", str(file))) == Exit.BAD_INPUT
    assert f"{file}, key model: `no_such` is no margin model" in capsys.readouterr().err
