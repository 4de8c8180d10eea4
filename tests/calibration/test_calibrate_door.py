"""`marginax calibrate` at its door: what is refused in the words of its flags, replaced only where that is said, and
who is left out."""

import json
from pathlib import Path

import polars as pl
import pytest

from calibration._calibrate import prepared, words, write_files
from calibration._histories import DAYS
from marginax.cli.app import run
from marginax.cli.exits import Exit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume"], "--resume: needs a folder"),
        (["--free", "filter.speed"], "--free: `filter.speed` is not a key"),
        (["--free", "filter.fast_shore"], "Did you mean `filter.fast_share`?"),
        (["--free", "volatility_floor"], "Did you mean `scenarios.volatility_floor`?"),
        (["--free", "scenarios.window"], "`scenarios.window` is a whole number"),
        (["--free", "filter.kind"], "`filter.kind` is a choice"),
        (["--free", "filter"], "`filter` is a table. Name a key of it, such as `filter."),
        (["--free", "filter.daily"], "(`filter.kind` is `two_speed`)"),
        (["--free", " , "], "--free: names no key"),
        (["--free", "filter.bound,filter.bound"], "named twice"),
        (["--weights", "speed=1"], "is no term"),
        (["--weights", "cost=-1"], "not negative"),
        (["--weights", "cost=abc"], "--weights: the weight of `cost` is 'abc', which is no number"),
        (["--weights", "cost="], "--weights: `cost=` says no weight"),
        (["--rate", "nan"], "--rate"),
        (["--from", "2023-01-01"], "is before 2023-01-01, which `--from` says. Give an earlier --from"),
        (["--from", f"{DAYS[520]:%Y-%m-%d}"], "--from: the history has"),
        (["--until", "2020-01-01"], "begins on 2021-01-01"),
        (["--until", "yesterday"], "yesterday"),
        (["--until", f"{DAYS[300]:%Y-%m-%d}", "--check", "0"], "a later `--until`, or more history"),
        (["--embargo", "400"], "--embargo: the history has"),
        (["--check", "0.5"], "--check: the history has"),
        (["--model", "garch", "--free", "risk.maintenance_ratio"], "likelihood of its own"),
        (["--model", "static", "--free", "risk.maintenance_ratio"], "--model: `static` keeps its margins"),
        (["--model", "fixed_legs", "--free", "risk.maintenance_ratio"], "fixed_legs"),
        (["--model", "nothing"], "is no margin model"),
        (["--model", "nothing.toml"], "--model: there is no file nothing.toml"),
        (["--model", "fit.json"], "`margin` and `backtest` take the file by `--params`"),
    ],
)
def test_bad_input_stops_at_the_door_and_names_the_flag(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert run([*words(inputs, tmp_path / "fit.json"), *more]) == Exit.BAD_INPUT
    assert said in capsys.readouterr().err
    assert not (tmp_path / "fit.json").exists()


def test_nothing_that_was_approved_or_did_not_end_is_replaced_unasked(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = prepared(monkeypatch)
    out, folder = tmp_path / "fit.json", tmp_path / "dir"
    folder.mkdir()
    asked = words(inputs, out, "--dir", str(folder))
    for place in (out, folder / "fit.json"):
        place.write_text(json.dumps({"model": "dynamic", "settings": {}, "approval": {"by": "somebody"}}))
        assert run(asked) == Exit.BAD_INPUT
        assert f"{place}: holds parameters that were approved" in capsys.readouterr().err
        place.write_text(json.dumps({"model": "dynamic", "settings": {}, "approval": None}))
    (folder / "search.npz").write_bytes(b"of a search")
    assert run(asked) == Exit.BAD_INPUT
    assert "Go on with it by `--resume`, or begin anew with `--overwrite`" in capsys.readouterr().err
    assert (folder / "fit.json").is_file()
    assert not ran
    run([*asked, "--overwrite"])
    assert len(ran) == 1
    assert list(folder.iterdir()) == []


def test_nothing_to_go_on_with_makes_no_folder(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(inputs, tmp_path / "fit.json", "--dir", str(tmp_path / "nothing"), "--resume")
    assert run(asked) == Exit.BAD_INPUT
    assert "nothing: holds no search to go on with" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_portfolio_of_what_lists_after_the_data_ends_is_left_out_with_the_reason(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = prepared(monkeypatch)
    late = pl.DataFrame({"time": [f"{day:%Y-%m-%d}" for day in DAYS[537:]], "underlying": "LATE", "price": 1.0})
    late.write_csv(tmp_path / "late.csv")
    one = "portfolio,kind,underlying,weight\nlong LATE,own,LATE,1\n"
    both = tmp_path / "both.csv"
    both.write_text(f"{one}long BTC,own,BTC,1\n")
    history = ["--history", str(tmp_path / "late.csv")]
    run(words(inputs, tmp_path / "fit.json", *history, "--portfolios", str(both)))
    assert ran[0].data["left_out"] == {"long LATE": f"LATE begins on {DAYS[537]:%Y-%m-%d}, after the data ends"}
    assert ran[0].data["portfolios"] == 1
    both.write_text(one)
    capsys.readouterr()
    assert run(words(inputs, tmp_path / "fit.json", *history, "--portfolios", str(both))) == Exit.BAD_INPUT
    assert "no portfolio is left: LATE begins on" in capsys.readouterr().err


def test_classes_are_those_of_the_underlyings_and_else_the_model_s(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = prepared(monkeypatch)
    split = ["--by", "class", "--free", "scenarios.volatility_floor"]
    run(words(inputs, tmp_path / "fit.json", *split, "--underlyings", str(inputs / "underlyings.csv")))
    keys = [each.key for each in ran[0].tunable.free]
    assert keys == [f"classes.parameters.{word}.volatility_floor" for word in ("altcoins", "majors")]
    names = ran[0].tunable.config.classes.names
    assert (names["AAA"], names["BTC"]) == ("majors", "majors")
    assert str(inputs / "underlyings.csv") in ran[0].data["inputs"]
    (tmp_path / "none.csv").write_text("underlying,index_price\nBTC,1\n")
    capsys.readouterr()
    none = words(inputs, tmp_path / "fit.json", *split, "--underlyings", str(tmp_path / "none.csv"))
    assert run(none) == Exit.BAD_INPUT
    assert "none.csv, column asset_class: states no class of what is held" in capsys.readouterr().err
    (tmp_path / "one.csv").write_text("portfolio,kind,underlying,weight\nlong AAA,own,AAA,1\n")
    unplaced = words(inputs, tmp_path / "fit.json", *split, "--portfolios", str(tmp_path / "one.csv"))
    assert run(unplaced) == Exit.BAD_INPUT
    assert "--by: no underlying of the history has a class: all would be `altcoins`" in capsys.readouterr().err
