"""`marginax calibrate` as a user meets it: history in; a parameter file out that backtests and margins take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from calibration._calibrate import KEYS, UNTIL, words, write_files
from calibration._histories import DAYS
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.parameter_file import base_hash


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("inputs"))


def without_date(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "date"}


@pytest.fixture(scope="module")
def fitted(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    assert run(words(inputs, folder / "fit.json", "--dir", str(folder / "dir"))) == Exit.SUCCESS
    return folder


def test_the_file_says_what_was_fitted_on_what_for_what_and_by_whom_it_is_approved(fitted: Path) -> None:
    document = json.loads((fitted / "fit.json").read_text())
    assert document["format"] == "marginax.parameters/1"
    assert document["model"] == "dynamic"
    assert document["settings"]["scenarios"]["window"] == 260  # of the file of one's own: it stands on the preset alone
    assert document["settings"]["risk"] == {"maintenance_ratio": 0.7}  # a run has tails and a horizon of its own
    assert document["risk"]["charge_tail"] == 0.025
    assert document["base"] == base_hash("dynamic")
    assert [each["key"] for each in document["numbers"]] == KEYS.split(",")
    for each in document["numbers"]:
        section, key = each["key"].split(".")
        assert document["settings"][section][key] == each["value"]
        assert each["bounds"][0] < each["value"] < each["bounds"][1]
    assert document["data"]["checked"]["last"] <= UNTIL
    assert document["data"]["left_out"] == {}
    assert len(next(iter(document["data"]["inputs"].values()))) == 64
    assert set(document["objective"]["weights"]) >= {"fz0", "coverage", "cost", "procyclicality", "uncovered"}
    assert len(document["diagnostics"]["starts"]) == 2
    assert document["approval"] is None


def test_the_folder_has_the_fit_its_path_and_a_manifest(fitted: Path) -> None:
    folder = fitted / "dir"
    assert {"fit.json", "path.parquet", "manifest.json"} <= {path.name for path in folder.iterdir()}
    assert (folder / "fit.json").read_text() == (fitted / "fit.json").read_text()
    path = pl.read_parquet(folder / "path.parquet")
    assert path.filter(pl.col("on") == "fitted")["step"].max() == 4
    assert {"fz0", "coverage", "cost", "uncovered", "procyclicality", "objective"} <= set(path.columns)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["numbers"] == KEYS.split(",")
    assert set(manifest["outputs"]) == {"fit.json", "path.parquet"}
    assert manifest["device"]
    assert {"read", "prepared", "searched", "intervals"} <= set(manifest["seconds"])
    # As it was given: half-lives went to the free scale and back, which 30 does not survive to the last digit.
    assert manifest["configuration"]["filter"]["slow_half_life_days"] == 30.0
    assert manifest["configuration"]["scenarios"]["volatility_floor"] == 0.4


def test_a_backtest_takes_the_file(inputs: Path, fitted: Path, tmp_path: Path) -> None:
    files = ["--history", str(inputs / "history.csv"), "--portfolios", str(inputs / "portfolios.csv")]
    wanted = ["--models", "hs,dynamic", "--params", str(fitted / "fit.json"), "--out", str(tmp_path / "o")]
    few = ["--from", f"{DAYS[536]:%Y-%m-%d}", "--to", f"{DAYS[539]:%Y-%m-%d}"]
    assert run(["backtest", *files, *wanted, *few]) == Exit.SUCCESS
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())
    numbers = {each["key"]: each["value"] for each in json.loads((fitted / "fit.json").read_text())["numbers"]}
    assert manifest["configuration"]["dynamic"]["filter"]["fast_share"] == numbers["filter.fast_share"]


def test_a_search_that_was_interrupted_goes_on_to_the_same_file(
    inputs: Path,
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from marginax_calibration.fitting import fit_file

    usual, kept = fit_file.write_state, []

    def once(*given: Any) -> None:
        usual(*given)
        kept.append(given[1].step)
        if kept[-1] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit_file, "write_state", once)
    asked = words(inputs, tmp_path / "fit.json", "--dir", str(tmp_path / "dir"))
    assert run(asked) == Exit.INTERRUPTED
    assert kept == [0, 1, 2, 3]
    told = capsys.readouterr().err
    assert "The search stands at step 3 of at most 4" in told
    assert f"go on with --resume --dir {tmp_path / 'dir'}" in told
    assert run(asked) == Exit.BAD_INPUT
    assert "holds a search that did not end" in capsys.readouterr().err
    assert not (tmp_path / "fit.json").exists()
    assert not (tmp_path / "dir" / "fit.json").exists()
    monkeypatch.setattr(fit_file, "write_state", usual)
    assert run([*asked, "--resume"]) == Exit.SUCCESS
    assert without_date(tmp_path / "fit.json") == without_date(fitted / "fit.json")
    paths = (pl.read_parquet(folder / "dir" / "path.parquet") for folder in (tmp_path, fitted))
    assert next(paths).equals(next(paths))


def test_an_objective_that_is_no_number_stops_the_search_and_keeps_the_best_so_far_apart(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from marginax_calibration.fitting.search import Search
    from marginax_calibration.fitting.state import NotFinite

    usual, calls = Search.value, []

    def failing(self: Search, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise NotFinite("`cost` is no number: on 2022-01-01 a margin is none of 'basket'")
        return usual(self, *given)

    monkeypatch.setattr(Search, "value", failing)
    folder = tmp_path / "dir"
    assert run(words(inputs, tmp_path / "fit.json", "--dir", str(folder))) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert "`cost` is no number: on 2022-01-01" in told
    assert not (tmp_path / "fit.json").exists()
    assert {path.name for path in folder.iterdir()} == {"search.npz", "unfinished.json"}
    assert f"the best numbers so far are in {folder / 'unfinished.json'}" in told
    assert json.loads((folder / "unfinished.json").read_text())["step"] == 2
    taken = ["--models", "dynamic", "--params", str(folder / "unfinished.json")]
    assert run(["backtest", "--history", str(inputs / "history.csv"), *taken]) == Exit.BAD_INPUT
    assert "is of the format `marginax.unfinished/1`" in capsys.readouterr().err
    monkeypatch.setattr(Search, "value", usual)
    assert run([*words(inputs, tmp_path / "fit.json", "--dir", str(folder)), "--resume"]) == Exit.SUCCESS
    assert not (folder / "unfinished.json").exists()


@pytest.mark.parametrize(("stops", "code"), [("NotFinite", Exit.BAD_INPUT), ("interrupt", Exit.INTERRUPTED)])
def test_a_search_that_stops_before_its_first_check_has_kept_nothing(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stops: str,
    code: Exit,
) -> None:
    from marginax_calibration.fitting.search import Search
    from marginax_calibration.fitting.state import NotFinite

    def stopping(*_: Any) -> Any:
        raise NotFinite("`fz0` is no number") if stops == "NotFinite" else KeyboardInterrupt

    monkeypatch.setattr(Search, "judged", stopping)
    folder = ["--dir", str(tmp_path / "dir")] if stops == "NotFinite" else []
    assert run(words(inputs, tmp_path / "fit.json", *folder)) == code
    told = capsys.readouterr().err
    assert "unfinished.json" not in told
    assert ("`fz0` is no number" if folder else "Nothing was kept of the search: `--dir DIR` keeps") in told
    assert not folder or list((tmp_path / "dir").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "8"], "`search.seed` was 7 and is 8"),
        (["--method", "lbfgs"], '`search.method` was "adam" and is "lbfgs"'),
        (["--absolute", "CCC"], '`data.absolute` was [] and is ["CCC"]'),
    ],
)
def test_a_folder_of_another_search_is_not_gone_on_with_and_what_differs_is_named(
    inputs: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    other = words(inputs, tmp_path / "fit.json", "--dir", str(fitted / "dir"), "--resume", *more)
    assert run(other) == Exit.BAD_INPUT
    assert said in capsys.readouterr().err
    assert (fitted / "dir" / "fit.json").is_file()


def test_a_search_that_is_damaged_is_told_in_plain_words(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "search.npz").write_bytes(b"PK" + bytes(100))
    assert run(words(inputs, tmp_path.parent / "fit.json", "--dir", str(tmp_path), "--resume")) == Exit.BAD_INPUT
    assert "search.npz: cannot be read: it is damaged, or of another kind" in capsys.readouterr().err


def test_a_file_of_another_model_is_refused(inputs: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--history", str(inputs / "history.csv"), "--portfolios", str(inputs / "portfolios.csv")]
    assert run(["backtest", *files, "--models", "hs,fhs", "--params", str(fitted / "fit.json")]) == Exit.BAD_INPUT
    assert "holds parameters of `dynamic`" in capsys.readouterr().err


def test_help_comes_without_the_heavy_imports() -> None:
    script = "import sys; from marginax.cli.app import run; run(['calibrate', '--help']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert "parameter file" in done.stdout
    assert done.stdout.rstrip().endswith("False")
