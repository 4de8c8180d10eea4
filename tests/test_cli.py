"""The command line as a user meets it: files in, results and exit codes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from marginax.cli.app import run, several_files
from marginax.cli.exits import Exit
from marginax.cli.init import NAMES


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A folder as `marginax init` leaves it."""
    folder = tmp_path / "start"
    assert run(["init", str(folder)]) == Exit.SUCCESS
    return folder


def flags(folder: Path, **other: str) -> list[str]:
    """The words of `marginax margin` on the tables of a folder."""
    words = ["margin", "--config", str(folder / "marginax.toml"), "--out", str(folder / "results")]
    for name in NAMES:
        words += [f"--{name}", other.get(name, str(folder / f"{name}.csv"))]
    return words


def test_margin_runs_unchanged_on_what_init_wrote(start: Path) -> None:
    assert run(flags(start)) == Exit.SUCCESS
    margins = pl.read_parquet(start / "results" / "margins.parquet")
    accounts = pl.concat(pl.read_csv(start / f"{name}.csv")["account_id"] for name in ("positions", "balances"))
    assert margins["account_id"].to_list() == sorted(set(accounts))
    assert margins["initial_margin"].null_count() == 0


def test_backtest_runs_unchanged_on_what_init_wrote(start: Path) -> None:
    words = ["backtest", "--history", str(start / "history.csv"), "--portfolios", str(start / "portfolios.csv")]
    assert run([*words, "--models", "ewma,hs", "--out", str(start / "backtest")]) == Exit.SUCCESS
    daily = pl.read_parquet(start / "backtest" / "daily.parquet")
    assert set(daily["portfolio"]) == set(pl.read_csv(start / "portfolios.csv")["portfolio"])


def test_init_overwrites_nothing(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (start / "positions.csv").read_bytes()
    assert run(["init", str(start)]) == Exit.BAD_INPUT
    assert "positions.csv" in capsys.readouterr().err
    assert (start / "positions.csv").read_bytes() == before


def test_json_prints_the_manifest_and_nothing_else(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run([*flags(start), "--json"]) == Exit.SUCCESS
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((start / "results" / "manifest.json").read_text())
    assert printed["scenarios"] == written["scenarios"]
    assert printed["accounts"]["by_status"]["ok"] == printed["accounts"]["total"]


def test_the_manifest_hashes_every_input_and_output(start: Path) -> None:
    from hashlib import sha256

    assert run(flags(start)) == Exit.SUCCESS
    manifest = json.loads((start / "results" / "manifest.json").read_text())
    for name in NAMES:
        path = str(start / f"{name}.csv")
        assert manifest["inputs"][name]["sha256"][path] == sha256(Path(path).read_bytes()).hexdigest()
    for name, record in manifest["outputs"].items():
        assert record["sha256"] == sha256((start / "results" / name).read_bytes()).hexdigest()


def test_bad_input_names_the_place_and_writes_nothing(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (start / "positions.csv").read_text().splitlines()
    text[3] = text[3].rsplit(",", 2)[0] + ",abc,"
    (start / "positions.csv").write_text("\n".join(text) + "\n")
    assert run(flags(start)) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    for word in ("positions.csv", "row 3", "line 4", "quantity", "'abc'"):
        assert word in told
    assert not (start / "results").exists()


def test_quarantine_sets_rows_aside_and_the_exit_code_says_so(start: Path) -> None:
    text = (start / "positions.csv").read_text().splitlines()
    lost = text[3].split(",")[0]
    text[3] = f"{lost},NO-SUCH-THING,1.0,"
    (start / "positions.csv").write_text("\n".join(text) + "\n")
    assert run([*flags(start), "--on-error", "quarantine"]) == Exit.EXCEPTED
    rows = pl.read_parquet(start / "results" / "quarantine.parquet")
    assert rows.height == 1
    assert "NO-SUCH-THING" in rows["reason"][0]
    margins = pl.read_parquet(start / "results" / "margins.parquet")
    assert margins.filter(pl.col("status") == "incomplete")["account_id"].to_list() == [lost]
    assert run(flags(start)) == Exit.BAD_INPUT


def test_a_clean_run_takes_away_the_quarantine_of_the_one_before(start: Path) -> None:
    clean = (start / "positions.csv").read_text()
    (start / "positions.csv").write_text(clean + "account-000001,NO-SUCH-THING,1.0,\n")
    assert run([*flags(start), "--on-error", "quarantine"]) == Exit.EXCEPTED
    (start / "positions.csv").write_text(clean)
    assert run([*flags(start), "--attribution"]) == Exit.SUCCESS
    left = sorted(path.name for path in (start / "results").iterdir())
    assert left == ["attribution.parquet", "manifest.json", "margins.parquet", "options.parquet"]


def test_attribution_on_disk_sums_to_the_margins(start: Path) -> None:
    assert run([*flags(start), "--attribution"]) == Exit.SUCCESS
    results = start / "results"
    shares = pl.read_parquet(results / "attribution.parquet").group_by("account_id").agg(pl.col("total").sum())
    both = pl.read_parquet(results / "margins.parquet").join(shares, on="account_id")
    # Sums of float32 shares: a rounding of 6e-8 for each of a few positions.
    assert (
        both.select(((pl.col("total") - pl.col("initial_margin")).abs() / pl.col("initial_margin")).max()).item() < 1e-5
    )


def test_a_failing_write_leaves_the_old_results_or_none(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    assert run(flags(start)) == Exit.INTERNAL
    assert list((start / "results").iterdir()) == []


def test_the_model_and_the_time_can_be_said_on_the_command_line(start: Path) -> None:
    assert run([*flags(start), "--model", "expected_shortfall", "--as-of", "2026-01-02"]) == Exit.SUCCESS
    manifest = json.loads((start / "results" / "manifest.json").read_text())
    assert manifest["as_of"].startswith("2026-01-02T00:00:00")
    assert run([*flags(start), "--model", "no_such_model"]) == Exit.BAD_INPUT
    assert run([*flags(start), "--as-of", "tomorrow"]) == Exit.BAD_INPUT


def test_a_preset_can_be_asked_for_beside_a_configuration(start: Path) -> None:
    assert run([*flags(start), "--model", "monte_carlo"]) == Exit.SUCCESS
    manifest = json.loads((start / "results" / "manifest.json").read_text())
    assert manifest["scenarios"]["source"] == "monte_carlo"


def test_history_may_be_many_files(start: Path) -> None:
    rows = pl.read_csv(start / "history.csv", infer_schema=False)
    rows[:700].write_csv(start / "early.csv")
    rows[700:].write_csv(start / "late.csv")
    words = flags(start)
    k = words.index("--history")
    assert run([*words[: k + 1], str(start / "early.csv"), str(start / "late.csv"), *words[k + 2 :]]) == Exit.SUCCESS
    assert several_files(["--history", "a", "b", "--out", "c"]) == ["--history", "a", "--history", "b", "--out", "c"]


def test_a_missing_flag_or_file_is_bad_input(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["margin", "--out", str(start / "results")]) == Exit.BAD_INPUT
    assert run(flags(start, quotes=str(start / "nowhere.csv"))) == Exit.BAD_INPUT
    assert "nowhere.csv" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from marginax.cli import app; "
        "heavy = {'jax', 'polars', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules); "
        "sys.exit(f'{heavy} imported' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_second_run_of_the_command_compiles_nothing(start: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", "from marginax.cli import main; main()", *flags(start)]

    def programs() -> set[str]:
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return {path.name for path in (tmp_path / "cache").rglob("*-cache")}

    first = programs()
    assert first
    assert programs() == first


def test_a_progress_bar_is_drawn_on_terminals_only(start: Path) -> None:
    command = [sys.executable, "-c", "from marginax.cli import main; main()", *flags(start), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    json.loads(done.stdout)
