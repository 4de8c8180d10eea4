"""Parameter files: what they are put over, what they change for a book, and who approved of them."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from marginax.cli.app import Exit, run
from marginax.cli.init import NAMES
from marginax.models.load import model_config
from marginax.parameter_file import read_parameters, settings_between, settings_over

# The stretch of the small history that `init` writes.
SETTINGS = {"stress_period": {"weight": 0.6}, "scenarios": {"volatility_floor": 0.9}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book") / "start"
    assert run(["init", str(folder)]) == Exit.SUCCESS
    for name, settings in {"now": {}, "then": SETTINGS}.items():
        document = {"format": "marginax.parameters/1", "model": "dynamic", "settings": settings}
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def tables(folder: Path) -> list[str]:
    return [word for name in NAMES for word in (f"--{name}", str(folder / f"{name}.csv"))]


def test_settings_between_two_configurations_make_one_of_the_other() -> None:
    base = model_config("dynamic")
    other = settings_over(base, {**SETTINGS, "classes": {"default": "majors"}}, "test")
    between = settings_between(base, other)
    assert between == {**SETTINGS, "classes": {"default": "majors"}}
    assert settings_over(base, between, "test") == other
    assert settings_between(base, base) == {}


def test_tables_of_a_class_keep_the_keys_that_a_file_says_nothing_of_and_dates_of_stress_survive() -> None:
    window = {"name": "spring", "from": "2025-03-01", "to": "2025-04-01"}
    own = {"classes": {"parameters": {"stablecoins": {"haircut": 0.3}}}, "scenarios": {"stress": [window]}}
    mine = settings_over(model_config("dynamic"), own, "test")
    found = settings_over(mine, {"classes": {"parameters": {"stablecoins": {"bound": 6.0}}}}, "test")
    assert found.classes.parameters["stablecoins"].haircut == 0.3
    assert found.classes.parameters["stablecoins"].bound == 6.0
    assert found.scenarios.stress == mine.scenarios.stress
    assert settings_between(mine, found) == {"classes": {"parameters": {"stablecoins": {"bound": 6.0}}}}


def test_a_margin_takes_the_numbers_of_a_file(start: Path, tmp_path: Path) -> None:
    words = ["margin", *tables(start), "--model", "dynamic", "--out"]
    assert run([*words, str(tmp_path / "plain")]) == Exit.SUCCESS
    assert run([*words, str(tmp_path / "fitted"), "--params", str(start / "then.json")]) == Exit.SUCCESS
    plain, fitted = (pl.read_parquet(tmp_path / name / "margins.parquet") for name in ("plain", "fitted"))
    config = settings_over(model_config("dynamic"), SETTINGS, "test")
    book = mx.read_book(**{name: start / f"{name}.csv" for name in ("instruments", "positions", "balances")})
    market = mx.read_market(
        **{name: start / f"{name}.csv" for name in ("quotes", "underlyings", "forwards", "history")}
    )
    wanted = mx.margin_book(book, market, config).margins
    assert fitted["initial_margin"].to_list() == wanted["initial_margin"].to_list()
    assert (fitted["initial_margin"] > plain["initial_margin"]).any()
    manifest = json.loads((tmp_path / "fitted" / "manifest.json").read_text())
    assert list(manifest["parameters"]) == [str(start / "then.json")]


def test_params_diff_tells_by_account_what_would_change(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(start / "now.json"), str(start / "then.json")]
    assert (
        run(["params", "diff", *files, *tables(start), "--out", str(tmp_path / "d.parquet"), "--json"]) == Exit.SUCCESS
    )
    totals = json.loads(capsys.readouterr().out)
    accounts = pl.read_parquet(tmp_path / "d.parquet")
    change = accounts["initial_margin_after"] - accounts["initial_margin"]
    assert accounts["initial_change"].to_list() == change.to_list()
    assert totals["initial_margin_after"] - totals["initial_margin"] == pytest.approx(change.sum())
    assert totals["asked"] - totals["freed"] == pytest.approx(change.sum())
    assert totals["more"] + totals["less"] + totals["same"] == totals["compared"] == accounts.height
    newly = accounts.filter((pl.col("call_after") > 0) & ~(pl.col("call") > 0))
    assert totals["newly_called"] == newly.height
    assert run(["params", "diff", *files, *tables(start)]) == Exit.SUCCESS
    printed = capsys.readouterr().out
    assert "stress_period.weight" in printed
    assert "Who would owe most more" in printed


def test_the_same_parameters_change_nothing(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["params", "diff", "dynamic", str(start / "now.json"), *tables(start), "--json"]) == Exit.SUCCESS
    totals = json.loads(capsys.readouterr().out)
    assert totals["same"] == totals["accounts"]
    assert totals["asked"] == totals["freed"] == 0


def test_an_approval_is_written_into_the_file(start: Path, tmp_path: Path) -> None:
    file = tmp_path / "fit.json"
    file.write_text((start / "then.json").read_text())
    assert run(["params", "approve", str(file), "--note", "looked at the diff", "--by", "risk"]) == Exit.SUCCESS
    document = json.loads(file.read_text())
    assert document["approval"]["note"] == "looked at the diff"
    assert document["settings"] == SETTINGS
    assert read_parameters(file, ["dynamic"]) == ("dynamic", SETTINGS)
    document["settings"]["stress_period"]["weight"] = 0.1
    file.write_text(json.dumps(document))
    with pytest.raises(mx.BadInput, match="of other numbers"):
        read_parameters(file, ["dynamic"])
    assert run(["params", "approve", str(file), "--note", "looked again", "--by", "risk"]) == Exit.SUCCESS
    assert read_parameters(file, ["dynamic"])[1]["stress_period"] == {"weight": 0.1}
    assert run(["params", "approve", str(file), "--note", " ", "--by", "risk"]) == Exit.BAD_INPUT


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "cannot be read"),
        ([1, 2], "cannot be read"),
        ({"model": "dynamic"}, "cannot be read"),
        ({"model": "dynamic", "settings": []}, "`settings` an object"),
        ({"model": None, "settings": {}}, "`model` is to be text"),
        ({"model": "dynamic", "settings": {"run": {"seed": 3}}}, "belongs to a run"),
        ({"model": "dynamic", "settings": {"model": "fhs"}}, "belongs to a run"),
        ({"model": "dynamic", "settings": {}, "approval": {"of": "0"}}, "of other numbers"),
        ({"model": "fhs", "settings": {}}, "holds parameters of `fhs`"),
        ({"model": "dynamic", "settings": {}, "format": "marginax.parameters/9"}, "is of the format"),
        ({"model": "dynamic", "settings": {"filter": {"speed": 1}}}, "is not a key"),
        ({"model": "dynamic", "settings": {"filter": {"fast_share": 2.0}}}, "fast_share"),
    ],
)
def test_files_that_are_none_are_refused(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, said: str
) -> None:
    file = tmp_path / "fit.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    words = ["margin", *tables(start), "--model", "dynamic", "--out", str(tmp_path / "out"), "--params", str(file)]
    assert run(words) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert said in told
    assert str(file) in told
    assert not (tmp_path / "out").exists()
