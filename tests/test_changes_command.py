"""`marginax changes` and `marginax whatif`: folders in, causes and consequences out."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import marginax as mx
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.run_inputs import read_inputs

DEARER = "[risk]\nmaintenance_ratio = 1.0\n[scenarios]\nvolatility_floor = 1.5\n"
CAUSES = ["positions", "time", "market", "data_quality", "parameters"]


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("books") / "monday"
    assert run(["init", str(folder)]) == Exit.SUCCESS
    return folder


@pytest.fixture(scope="module")
def tuesday(monday: Path) -> Path:
    """The same with one account's positions doubled."""
    folder = monday.with_name("tuesday")
    shutil.copytree(monday, folder)
    rows = pl.read_csv(folder / "positions.csv")
    twice = pl.when(account_id="account-000001").then(pl.col("quantity") * 2).otherwise("quantity")
    rows.with_columns(twice.alias("quantity")).write_csv(folder / "positions.csv")
    return folder


def words(before: Path, after: Path, *more: str) -> list[str]:
    return ["changes", "--before", str(before), "--after", str(after), *more]


def test_two_folders_are_compared_and_the_table_is_written(
    monday: Path, tuesday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "why"
    assert run(words(monday, tuesday, "--out", str(out))) == Exit.SUCCESS
    printed = capsys.readouterr().out
    assert "positions and balances" in printed
    assert "account-000001" in printed
    assert sorted(path.name for path in out.iterdir()) == ["changes.json", "changes.parquet", "manifest.json"]
    table = pl.read_parquet(out / "changes.parquet")
    moved = table.filter(pl.col("total") != 0)
    assert moved["account_id"].to_list() == ["account-000001"]
    assert moved["positions"].to_list() == moved["total"].to_list()
    document = json.loads((out / "changes.json").read_text())
    assert document["order"] == CAUSES
    assert document["totals"]["initial_margin"]["total"] == pytest.approx(table["total"].sum())


def test_one_account_is_explained_in_words_and_in_json(
    monday: Path, tuesday: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(monday, tuesday, "--account", "account-000001")) == Exit.SUCCESS
    printed = capsys.readouterr().out
    assert "The initial margin rose by" in printed
    assert "most of all by positions and balances" in printed
    assert "What drove it" in printed
    assert run(words(monday, tuesday, "--account", "account-000001", "--json")) == Exit.SUCCESS
    told = json.loads(capsys.readouterr().out)
    assert [each["cause"] for each in told["causes"]] == CAUSES
    assert sum(each["initial_margin"] for each in told["causes"]) == pytest.approx(told["total"])
    assert told["positions"]
    assert run(words(monday, tuesday, "--account", "account-000002")) == Exit.SUCCESS
    assert "Nothing moved it." in capsys.readouterr().out


def test_a_file_names_tables_configuration_and_time(monday: Path, tuesday: Path, tmp_path: Path) -> None:
    (tmp_path / "new.toml").write_text(DEARER)
    file = tmp_path / "tuesday.toml"
    file.write_text(
        f'folder = "{monday}"\npositions = "{tuesday / "positions.csv"}"\nhistory = ["{monday / "history.csv"}"]\n'
        'config = "new.toml"\nas_of = 2026-01-01T06:00:00Z\nseed = 3\n'
    )
    given = read_inputs(file)
    assert given.market.as_of.hour == 6
    assert given.config.run.seed == 3
    assert given.config.risk.maintenance_ratio == 1.0
    assert mx.read_inputs(monday).config.run.seed == 7


def test_a_folder_of_results_is_run_as_its_manifest_says(monday: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(monday, folder)
    (folder / "marginax.toml").unlink()
    margins = read_inputs(folder, config=mx.load_config("dynamic")).margin()
    margins.write(folder)
    given = read_inputs(folder)
    assert given.margin().margins.equals(margins.margins)


def test_results_replace_no_inputs(monday: Path, tuesday: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (words(monday, tuesday), ["whatif", str(tuesday), "--config", "dynamic"]):
        assert run([*flags, "--out", str(tuesday)]) == Exit.BAD_INPUT
        assert "is where inputs lie" in capsys.readouterr().err
    assert not (tuesday / "manifest.json").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("folder = 3\n", "key folder: 3 was given. Give a path"),
        ('folder = "nowhere"\n', "there is no such folder as"),
        ('folders = "monday"\n', "key folders: is no key of a set of inputs. Remove it; did you mean `folder`?"),
        ('quotes = "q.csv"\n', "names no `instruments`, `positions`, `balances`, `underlyings`, `history`"),
        ("as_of = 3\n", "Give a UTC time"),
        ("seed = -1\n", "Give a whole number, zero or above"),
        ("folder =\n", "is not TOML"),
    ],
)
def test_a_file_of_inputs_that_says_too_little_or_too_much_is_refused(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "after.toml").write_text(text)
    assert run(words(monday, tmp_path / "after.toml")) == Exit.BAD_INPUT
    assert said in capsys.readouterr().err


def test_unknown_accounts_and_missing_files_are_refused(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(monday, monday, "--account", "account-1")) == Exit.BAD_INPUT
    assert "no account 'account-1' is in either run. Name one of theirs" in capsys.readouterr().err
    assert run(words(monday, tmp_path / "nowhere")) == Exit.BAD_INPUT
    assert "nowhere: there is no such folder or file. Name a folder with the tables" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(monday, broken)
    shutil.copy(broken / "quotes.csv", broken / "quotes.arrow")
    assert run(words(monday, broken)) == Exit.BAD_INPUT
    assert "holds quotes.csv and quotes.arrow, and either may be meant" in capsys.readouterr().err


def test_accounts_without_a_margin_are_told_and_the_exit_code_says_so(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unpriced"
    shutil.copytree(monday, folder)
    held = pl.read_csv(folder / "positions.csv")["instrument_id"][0]
    pl.read_csv(folder / "quotes.csv").filter(pl.col("instrument_id") != held).write_csv(folder / "quotes.csv")
    assert run(words(monday, folder, "--on-error", "quarantine", "--account", "account-000001")) == Exit.EXCEPTED
    printed = capsys.readouterr().out
    assert "after: no margin, missing_price" in printed
    assert "Without a margin on both sides there is no change to split." in printed
    assert run(words(monday, folder)) == Exit.BAD_INPUT


def test_what_other_parameters_would_ask_is_told_by_account_and_by_part(
    monday: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.toml").write_text(DEARER)
    flags = ["whatif", str(monday), "--config", str(tmp_path / "new.toml")]
    assert run([*flags, "--out", str(tmp_path / "if")]) == Exit.SUCCESS
    printed = capsys.readouterr().out
    for told in ("scenarios.volatility_floor", "maintenance margin", "core", "would be called", "Who would owe most"):
        assert told in printed
    table = pl.read_parquet(tmp_path / "if" / "whatif.parquet")
    document = json.loads((tmp_path / "if" / "whatif.json").read_text())
    totals = document["totals"]
    assert totals["maintenance_margin_after"] == pytest.approx(table["maintenance_margin_after"].sum())
    assert totals["asked"] - totals["freed"] == pytest.approx(table["initial_change"].sum())
    newly = table.filter((pl.col("equity_after") < pl.col("maintenance_margin_after")) & (pl.col("call") == 0))
    assert totals["newly_called"] == newly.height
    assert totals["newly_called_for"] == pytest.approx(newly["call_after"].sum())
    parts = pl.DataFrame(document["parts"])
    assert float(parts["change"].sum()) == pytest.approx(table["initial_change"].sum(), rel=1e-5)
    assert run([*flags, "--json"]) == Exit.SUCCESS
    assert json.loads(capsys.readouterr().out) == document


def test_the_parameters_that_are_run_change_nothing(monday: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["whatif", str(monday), "--config", "expected_shortfall", "--now", "expected_shortfall"]
    assert run(flags) == Exit.SUCCESS
    printed = capsys.readouterr().out
    assert "No key differs." in printed
    assert "Nobody would owe more." in printed
