"""`marginax backtest` as a user meets it: history in; a verdict, a daily table, a judgement and a manifest out."""

import json
import subprocess
import sys
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from calibration._histories import DAYS, FIGURES, at_bar, configured, held, prices, table, usual, write_inputs
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax_calibration.backtests import judge
from marginax_calibration.judgement import backtest, read_groups
from marginax_calibration.models import BASELINES

COLUMNS = {"date", "portfolio", "kind", "model", "loss", *FIGURES}
JUDGED = {"pooled", "kinds", "portfolios", "rejections"}
# Rows that cost little: bars whose portfolios have all begun.
FEW = ("--from", f"{DAYS[452]:%Y-%m-%d}", "--to", f"{DAYS[511]:%Y-%m-%d}")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the usual history and the eight portfolios, as files."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def flags(inputs: Path, *more: str, models: str = "hs,ewma") -> list[str]:
    """The words of a backtest of the eight portfolios."""
    history, portfolios = str(inputs / "history.csv"), str(inputs / "portfolios.csv")
    return ["backtest", "--history", history, "--portfolios", portfolios, "--models", models, *more]


@pytest.fixture(scope="module")
def results(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a backtest of the six baselines writes: `--out`, and both files beside it."""
    folder = tmp_path_factory.mktemp("results")
    words = flags(inputs, *FEW, models=",".join(BASELINES))
    words += ["--out", str(folder / "out"), "--daily", str(folder / "d.parquet"), "--json", str(folder / "j.json")]
    assert run(words) == Exit.SUCCESS
    return folder


def judgement(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_out_holds_the_daily_table_the_judgement_and_a_manifest(results: Path) -> None:
    assert sorted(path.name for path in (results / "out").iterdir()) == [
        "daily.parquet", "judgement.json", "manifest.json",
    ]  # fmt: skip
    assert judgement(results / "out" / "judgement.json") == judgement(results / "j.json")
    assert pl.read_parquet(results / "out" / "daily.parquet").equals(pl.read_parquet(results / "d.parquet"))


def test_every_model_has_a_number_for_the_same_days_and_portfolios(results: Path) -> None:
    daily = pl.read_parquet(results / "d.parquet")
    assert set(daily.columns) == COLUMNS
    assert daily.null_count().sum_horizontal().item() == 0
    assert daily.select(pl.col("loss", *FIGURES).is_finite().all()).row(0) == (True,) * 4
    assert daily["es"].min() > 0
    assert (daily["es"] >= daily["var"]).all()
    keys = [daily.filter(model=name).select("date", "portfolio", "kind") for name in BASELINES]
    assert keys[0].height == 60 * 8
    assert all(each.equals(keys[0]) for each in keys)


def test_the_rows_are_those_of_a_replay_in_python(results: Path) -> None:
    """Prices pass through a text file, which keeps every digit."""
    daily = pl.read_parquet(results / "d.parquet")
    for bar in (451, 480, 510):
        assert at_bar(daily, bar) == at_bar(usual().daily, bar)


def test_the_judgement_can_be_made_again_from_the_daily_table(results: Path) -> None:
    written = judgement(results / "j.json")
    assert {*JUDGED, "late_or_short", "left_out", "holes", "es_floored", "settings"} <= set(written)
    again = json.loads(json.dumps(judge(pl.read_parquet(results / "d.parquet"))))
    assert {key: written[key] for key in JUDGED} == again
    for part in ("pooled", "rejections"):
        assert set(written[part]) == set(BASELINES)
    assert set(written["portfolios"]) == set(held())
    assert written["settings"]["tail"] == 0.01
    assert set(written["settings"]["charge_tail"].values()) == {0.025}


def test_the_manifest_hashes_what_went_in_and_what_came_out(results: Path, inputs: Path) -> None:
    manifest = judgement(results / "out" / "manifest.json")
    given = [inputs / "history.csv", inputs / "portfolios.csv"]
    assert manifest["inputs"] == {str(path): sha256(path.read_bytes()).hexdigest() for path in given}
    for name, record in manifest["outputs"].items():
        assert record["sha256"] == sha256((results / "out" / name).read_bytes()).hexdigest()
    assert ([each["bars"] for each in manifest["calendars"]], manifest["portfolios"]) == ([541], 8)
    assert set(manifest["configuration"]) == set(BASELINES)


def test_from_and_to_bound_the_dates_of_losses(results: Path) -> None:
    dates = pl.read_parquet(results / "d.parquet")["date"]
    assert (dates.min(), dates.max()) == (DAYS[452].date(), DAYS[511].date())
    assert dates.n_unique() == 60


def test_portfolios_that_begin_late_are_named_with_the_reason(inputs: Path, tmp_path: Path) -> None:
    assert run(flags(inputs, "--json", str(tmp_path / "j.json"), models="ewma")) == Exit.SUCCESS
    written = judgement(tmp_path / "j.json")
    late = written["late_or_short"]
    assert set(late) == {"long last", "last and BTC", "all but one"}
    assert late["long last"]["reason"] == "NEW begins on 2021-07-20, and the models need 250 returns"
    assert late["long last"]["first"] == f"{DAYS[451]:%Y-%m-%d}"
    assert late["long last"]["days"] == 90
    assert written["left_out"] == {}
    assert run(flags(inputs, "--to", "2022-01-31", "--json", str(tmp_path / "k.json"), models="ewma")) == Exit.SUCCESS
    out = judgement(tmp_path / "k.json")["left_out"]
    assert set(out) == set(late)
    assert "none on the dates asked for" in out["long last"]


def test_the_verdict_has_a_line_for_each_model(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(flags(inputs, *FEW)) == Exit.SUCCESS
    told = capsys.readouterr().out
    assert "8 portfolios, 480 portfolio-days" in told
    lines = [line.split() for line in told.splitlines()]
    assert {"hs", "ewma"} <= {words[0] for words in lines if words}
    assert "Wrote" not in told


def test_a_venues_own_portfolios_are_the_default(inputs: Path, tmp_path: Path) -> None:
    history = pl.read_csv(inputs / "history.csv").filter(pl.col("underlying") == "BTC")
    history.write_csv(tmp_path / "history.csv")
    words = ["backtest", "--history", str(tmp_path / "history.csv"), "--models", "ewma", "--daily"]
    assert run([*words, str(tmp_path / "d.parquet"), "--from", "2022-05-01"]) == Exit.SUCCESS
    daily = pl.read_parquet(tmp_path / "d.parquet")
    kinds = dict(daily.group_by("kind").agg(pl.col("portfolio").n_unique()).iter_rows())
    assert kinds == {"long": 1, "short": 1, "straddle": 1, "strangle": 1, "collar": 1, "market_maker": 2}
    assert daily["date"].min() == date(2022, 5, 1)


def test_fitted_parameters_and_files_of_ones_own_are_models_too(inputs: Path, tmp_path: Path) -> None:
    lines = ('model = "normal"', "[scenarios]", 'source = "age_weighted"', "age_half_life_days = 5.0", "window = 400",
             "least_bars = 250")  # fmt: skip
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    fitted = {"model": "ewma", "settings": {"scenarios": {"age_half_life_days": 5.0}}}
    (tmp_path / "fitted.json").write_text(json.dumps(fitted))
    words = flags(inputs, *FEW, "--params", str(tmp_path / "fitted.json"), "--daily", str(tmp_path / "d.parquet"),
                  models=f"ewma,{tmp_path / 'mine.toml'}")  # fmt: skip
    assert run(words) == Exit.SUCCESS
    daily = pl.read_parquet(tmp_path / "d.parquet")
    one, other = (daily.filter(model=name).drop("model") for name in ("ewma", "mine"))
    assert one.equals(other)
    assert not one["var"].equals(usual().daily.filter(pl.col("date").is_in(one["date"].implode()), model="ewma")["var"])


def test_the_tails_are_those_that_were_asked_for(inputs: Path, tmp_path: Path) -> None:
    words = flags(
        inputs, *FEW, "--tail", "0.05", "--charge-tail", "0.05", "--out", str(tmp_path / "out"), models="ewma"
    )
    assert run(words) == Exit.SUCCESS
    daily = pl.read_parquet(tmp_path / "out" / "daily.parquet")
    assert daily["es"].to_list() == pytest.approx(daily["charged"].to_list(), rel=1e-6)
    assert judgement(tmp_path / "out" / "judgement.json")["settings"]["tail"] == 0.05


def test_a_bar_is_margined_for_the_horizon_of_a_bar(inputs: Path, tmp_path: Path) -> None:
    """Hours are to a history of hours what days are to one of days: plain history, which knows no clock, says the same.

    A row then has a time in UTC.
    """
    hours = [DAYS[0] + timedelta(hours=k) for k in range(len(DAYS))]
    table(prices(), days=hours).write_parquet(tmp_path / "hours.parquet")
    words = ["backtest", "--history", str(tmp_path / "hours.parquet"), "--models", "hs", "--portfolios"]
    words += [
        str(inputs / "portfolios.csv"),
        "--from",
        f"{hours[452]:%Y-%m-%dT%H:%M}",
        "--to",
        f"{hours[511]:%Y-%m-%dT%H:%M}",
    ]
    assert run([*words, "--out", str(tmp_path / "out")]) == Exit.SUCCESS
    daily = pl.read_parquet(tmp_path / "out" / "daily.parquet")
    assert daily.schema["date"] == pl.Datetime("us", "UTC")
    assert sorted(set(daily["date"])) == hours[452:512]
    same = usual().daily.filter(pl.col("date").is_between(DAYS[452].date(), DAYS[511].date()), model="hs")
    assert daily.drop("date").equals(same.drop("date"))


def test_a_model_for_another_horizon_is_refused() -> None:
    """Its margin would be judged by the losses of one bar all the same."""
    other = {"hs": configured("hs", risk={"horizon_days": 5.0})}
    with pytest.raises(mx.BadInput, match="margins 5 trading days, and a bar of the history is 1"):
        backtest(other, read_groups(table(prices()), list(held().values())))


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "hs,no_such_model"], "no_such_model"),
        (["--models", "hs,hs"], "named twice"),
        (["--models", ","], "names no model"),
        (["--from", "yesterday"], "--from"),
        (["--from", "2022-05-01", "--to", "2022-04-01"], "--to"),
        (["--from", "2030-01-01", "--to", "2030-02-01"], "none on the dates asked for"),
        (["--absolute", "XRP"], "'XRP' is no underlying"),
        (["--tail", "0"], "--tail"),
        (["--tail", "0.9"], "--tail"),
        (["--charge-tail", "no"], "--charge-tail"),
        (["--seed", "-1"], "--seed"),
        (["--history", "nowhere.csv"], "nowhere.csv"),
        (["--portfolios", "nowhere.csv"], "nowhere.csv"),
        (["--params", "nowhere.json"], "nowhere.json"),
        (["--params", "{params}"], "and what is run is"),
        (["--params", "{torn}"], "cannot be read"),
        (["--json", "no_such_folder/j.json"], "no_such_folder"),
        (["--daily", "."], "is no file"),
        (["--json", "-"], "-: is no file"),
        (["--json", "/dev/null"], "/dev/null: is no file"),
        (["--portfolios", "{wrong}", "--json", "{wrong}"], "is an input"),
        (["--params", "{params}", "--daily", "{params}"], "is an input"),
        (["--daily", "{both}", "--json", "{here}/../{name}/one"], "two results"),
        (["--params", "{judged}", "--out", "{here}"], "holds the input judgement.json"),
        (["--daily", "{both}", "--json", "{both}"], "two results"),
        (["--out", "{torn}"], "torn.json"),
        (["--portfolios", "{wrong}"], "'XRP' is no underlying"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_flags_are_told_and_nothing_is_written(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    (tmp_path / "params.json").write_text('{"model": "fhs", "settings": {}}')
    (tmp_path / "judgement.json").write_text('{"model": "fhs", "settings": {}}')
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "wrong.csv").write_text("portfolio,underlying,weight\na,XRP,1\n")
    names = {"params": "params.json", "judged": "judgement.json", "torn": "torn.json", "wrong": "wrong.csv"}
    files = {name: str(tmp_path / file) for name, file in {**names, "both": "one"}.items()}
    files |= {"here": str(tmp_path), "name": tmp_path.name}
    before = sorted(tmp_path.iterdir())
    paths = {"--out": "out", "--daily": "d.parquet", "--json": "j.json"}
    given = [word.format(**files) for word in words]
    kept = [word for flag, name in paths.items() if flag not in given for word in (flag, str(tmp_path / name))]
    assert run([*flags(inputs, *FEW, *kept), *given]) == Exit.BAD_INPUT
    assert told in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_bad_prices_are_told_with_their_place_and_the_flag_that_lets_them_in(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pl.read_csv(inputs / "history.csv")
    rows.with_columns(price=pl.when(pl.int_range(pl.len()) == 3).then(-5.0).otherwise("price")).write_csv(
        tmp_path / "h.csv"
    )
    words = ["backtest", "--history", str(tmp_path / "h.csv"), "--models", "ewma", "--out", str(tmp_path / "out")]
    assert run(words) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert "h.csv" in told
    assert "--absolute AAA" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["backtest", "impulse", "study"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from marginax.cli.app import run; left = run(['{command}', '--help']); "
        "heavy = {'jax', 'polars', 'numpy', 'scipy', 'pyarrow'} & set(sys.modules); "
        "sys.exit(f'{heavy} imported' if heavy else left)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{command} [OPTIONS]" in done.stdout
