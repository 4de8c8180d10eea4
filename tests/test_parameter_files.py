"""Parameter files: what is read of them, what they are put over, and what an approval holds for."""

import json
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from marginax import parameter_file
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.cli.init import NAMES
from marginax.config import Config, load_config
from marginax.models.load import model_config
from marginax.parameter_file import (
    approved,
    base_hash,
    notes_on,
    read_document,
    settings_between,
    settings_over,
)

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


def test_the_preset_has_the_numbers_of_the_fit_that_comes_with_it() -> None:
    with resources.as_file(resources.files("marginax.models") / "presets" / "dynamic.json") as place:
        document = read_document(place)
    preset = model_config(document["model"])
    assert settings_between(preset, settings_over(preset, document["settings"], "fit")) == {}
    assert {each["key"].split(".")[0] for each in document["numbers"]} == set(document["settings"])


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
    content = (start / "then.json").read_bytes()
    ran = {"file": str(start / "then.json"), "sha256": sha256(content).hexdigest(), "model": "dynamic"}
    assert manifest["parameters"] == {**ran, "date": None, "approval": None}


def test_a_margin_says_which_file_ran_and_who_approved_of_it(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fit.json"
    document = {**json.loads((start / "then.json").read_text()), "date": "2026-01-01"}
    document["risk"] = {"tail": 0.01, "charge_tail": 0.05, "horizon_days": 1.0}
    words = ["margin", *tables(start), "--model", "dynamic", "--params", str(file), "--out", str(tmp_path / "out")]
    file.write_text(json.dumps(document))
    assert run(words) == Exit.SUCCESS
    printed = capsys.readouterr()
    assert "Parameters: fit.json of 2026-01-01, not approved\n" in printed.out
    assert "was fitted with a `charge_tail` of 0.05, and runs with 0.025" in printed.err
    assert all(line == line.rstrip() for line in printed.out.splitlines())
    document = approved(document, "looked at", "A. Name")
    file.write_text(json.dumps(document))
    assert run(words) == Exit.SUCCESS
    said = f"Parameters: fit.json of 2026-01-01, approved by A. Name on {document['approval']['date']}"
    assert said in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["parameters"]["approval"] == document["approval"]


def test_an_approval_holds_for_the_numbers_and_for_what_is_under_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fit.json"
    document = approved({"model": "dynamic", "settings": SETTINGS}, "looked at", "risk")
    file.write_text(json.dumps(document))
    assert read_document(file)["settings"] == SETTINGS

    changed = {**document, "settings": {**SETTINGS, "stress_period": {"weight": 0.1}}}
    file.write_text(json.dumps(changed))
    with pytest.raises(mx.BadInput, match=r"other numbers than the file has now; .* as it was.*approve --again"):
        read_document(file)

    with monkeypatch.context() as patch:
        patch.setattr(parameter_file, "load_config", with_another_floor)
        with pytest.raises(mx.BadInput, match="other numbers than the file has now, and of another configuration"):
            read_document(file)
        file.write_text(json.dumps(document))
        with pytest.raises(mx.BadInput, match=r"the numbers of the file, but .* of `dynamic` under them has changed"):
            read_document(file)
    assert read_document(file) == document


def test_a_base_is_all_of_a_configuration_but_what_a_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base_hash("dynamic")
    assert before == base_hash("dynamic") != base_hash("fhs")
    assert base_hash("normal") != base_hash("expected_shortfall")
    monkeypatch.setattr(parameter_file, "load_config", with_another_floor)
    assert base_hash("dynamic") != before
    of_a_run = load_config("dynamic").model_copy(update={"run": mx.Config().run.model_copy(update={"seed": 99})})
    monkeypatch.setattr(parameter_file, "load_config", lambda _: of_a_run)
    assert base_hash("dynamic") == before


def with_another_floor(name: str) -> Config:
    return settings_over(load_config(name), {"scenarios": {"volatility_floor": 0.7}}, "test")


def test_a_fit_over_another_base_is_told_unless_it_was_approved() -> None:
    config, file = model_config("dynamic"), Path("fit.json")
    risk = config.risk.model_dump()
    document = {"model": "dynamic", "settings": {}, "base": base_hash("dynamic"), "risk": risk, "approval": None}
    assert notes_on(file, document, config) == []
    (unsaid,) = notes_on(file, {**document, "risk": {}}, config)
    assert unsaid.startswith("fit.json: does not say with which tails it was fitted")
    (note,) = notes_on(file, {**document, "base": "0"}, config)
    assert note.startswith("fit.json: was fitted over another configuration of `dynamic`")
    assert notes_on(file, approved({**document, "base": "0"}, "looked at", "risk"), config) == []


def test_tails_that_are_not_those_of_the_fit_are_told() -> None:
    config = settings_over(model_config("dynamic"), {"risk": {"tail": 0.02, "horizon_days": 2.0}}, "test")
    fitted = {"tail": 0.01, "charge_tail": 0.025, "horizon_days": 1.0000000001}
    document = {"model": "dynamic", "settings": {}, "risk": fitted}
    tail, horizon = notes_on(Path("fit.json"), document, config)
    assert "`tail` of 0.01, and runs with 0.02" in tail
    assert "`horizon_days` of 1, and runs with 2" in horizon
    assert notes_on(Path("fit.json"), document, model_config("dynamic")) == []
    plain = {"model": "hs", "settings": {}, "risk": {"tail": 0.01, "charge_tail": None}}
    (charged,) = notes_on(Path("fit.json"), plain, model_config("hs"))
    assert "`charge_tail` of 0.01, and runs with 0.025" in charged


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("filter.fast_share", None),
        ("classes.parameters.A.B.haircut", None),
        ("classes.parameters.A.haircut", "which is what runs, says 0.1"),
        ("filter.bound", "says nothing of it"),
    ],
)
def test_numbers_for_people_are_those_that_run(tmp_path: Path, key: str, said: str | None) -> None:
    settings = {
        "filter": {"fast_share": 0.3},
        "classes": {"parameters": {"A": {"haircut": 0.1}, "A.B": {"haircut": 0.3}}},
    }
    file = tmp_path / "fit.json"
    document = {"model": "dynamic", "settings": settings, "numbers": [{"key": key, "value": 0.3}]}
    file.write_text(json.dumps(document))
    if said is None:
        assert read_document(file) == document
    else:
        with pytest.raises(mx.BadInput, match=f"key {key}: says 0.3 in `numbers`, .*{said}"):
            read_document(file)


def test_a_model_is_named_as_whoever_runs_it_wrote_it(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = str(start / "then.json"), tmp_path / "mine.toml"
    config.write_text('model = "fhs"\n')
    words = ["margin", *tables(start), "--out", str(tmp_path / "out"), "--params", file]
    for asked in (["--model", "fhs"], ["--config", str(config)]):
        assert run([*words, *asked]) == Exit.BAD_INPUT
        assert "holds parameters of `dynamic`, and what is run is `fhs`. Run `dynamic`" in capsys.readouterr().err


def test_a_file_under_the_wrong_flag_is_told_the_right_one(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, file = str(start / "marginax.toml"), str(start / "then.json")
    margin = ["margin", *tables(start), "--out", str(tmp_path / "out")]
    backtest = ["backtest", "--history", str(start / "history.csv")]
    for words, said in (
        ([*margin, "--params", config], "Give it to `--config` of `marginax margin`, or to `--models`"),
        ([*margin, "--model", file], f"--model {file}: is JSON"),
        ([*margin, "--config", file], "Give it to `--params`"),
        ([*backtest, "--models", f"hs,{file}"], f"--models {file}: is JSON"),
        ([*backtest, "--params", config], "parameter files are JSON"),
    ):
        assert run(words) == Exit.BAD_INPUT
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 100_000, b"{" + b'"model":1,' * 2, None])
def test_what_cannot_be_read_is_told_in_plain_words(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "fit.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(mx.BadInput) as refused:
        read_document(file)
    assert not any(word in str(refused.value) for word in ("Error", "Errno", "codec"))
    with pytest.raises(mx.BadInput, match="is a folder"):
        read_document(tmp_path)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "cannot be read: line 1, column 2 is not JSON"),
        ('{"model": "dynamic",\n "settings": }', "line 2, column 14"),
        ([1, 2], "is JSON, but no object"),
        ({"model": "dynamic"}, "key settings: is missing"),
        ({"model": "dynamic", "settings": []}, "`settings` is to be an object"),
        ({"model": None, "settings": {}}, "`model` is to be text"),
        ({"model": "dynamic", "settings": {"run": {"seed": 3}}}, "belongs to a run"),
        ({"model": "dynamic", "settings": {"model": "fhs"}}, "belongs to a run"),
        ({"model": "dynamic", "settings": {}, "approval": {"of": "0"}}, "of other numbers"),
        ({"model": "dynamic", "settings": {}, "approval": {"by": "risk"}}, "does not say what it is of"),
        ({"model": "dynamic", "settings": {}, "approval": "yes"}, "does not say what it is of"),
        ({"model": "no_such", "settings": {}}, "holds parameters of `no_such`, and what is run is `dynamic`"),
        ({"model": "fhs", "settings": {}}, "holds parameters of `fhs`"),
        ({"model": "dynamic", "settings": {}, "format": "marginax.parameters/9"}, "is of the format"),
        ({"model": "dynamic", "settings": {"filter": {"speed": 1}}}, "is not a key"),
        ({"model": "dynamic", "settings": {}, "numbers": "hello"}, "`numbers` is to be a list"),
        ({"model": "dynamic", "settings": {}, "numbers": [3]}, "number 0 says no key with a value"),
        ({"model": "dynamic", "settings": {}, "date": 5}, "`date` is to be text"),
        ({"model": "dynamic", "settings": {}, "diagnostics": None}, "`diagnostics` is to be an object"),
        ({"model": "dynamic", "settings": {"filter": {"bound": float("nan")}}}, "NaN is no number of JSON"),
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


def test_an_approval_is_not_of_a_run_with_other_keys(tmp_path: Path) -> None:
    base = model_config("dynamic")
    document = approved({"model": "dynamic", "settings": SETTINGS}, "looked at", "risk")
    file = tmp_path / "fit.json"
    run_as_approved = settings_over(base, SETTINGS, "fit")
    assert notes_on(file, document, run_as_approved) == []
    other = settings_over(run_as_approved, {"filter": {"bound": 9.0}, "risk": {"tail": 0.02}}, "mine")
    (note,) = notes_on(file, document, other)
    assert "runs with another `filter`. The approval is not of this run" in note
