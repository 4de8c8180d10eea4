"""The studies of the documentation: tables of a judged backtest, pictures, and what is told when data lacks."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from calibration._histories import NAMES, prices, table
from calibration._histories import baselines as six
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax_calibration.judgement import backtest, read_groups
from marginax_calibration.portfolios import LINEAR_KINDS, Leg, portfolio, venue_portfolios
from marginax_calibration.studies import baselines, dynamic, pictures

PNG = b"\x89PNG"
MODELS = ("fixed_legs", "ewma")


@pytest.fixture(scope="module")
def judged():
    own = [portfolio("half and half", "own", [Leg("AAA", 1.0), Leg("BTC", 1.0)])]
    linear = [each for each in venue_portfolios(NAMES, neutral=2) if each.kind in LINEAR_KINDS]
    return backtest({name: six()[name] for name in MODELS}, read_groups(table(prices()), linear + own))


def test_a_study_has_a_table_of_all_and_one_of_each_crisis_it_lived(judged, monkeypatch: pytest.MonkeyPatch) -> None:
    crises = {"a spring": (date(2022, 3, 1), date(2022, 5, 1)), "long before": (date(2008, 9, 12), date(2008, 11, 30))}
    monkeypatch.setattr(baselines, "CRISES", crises)
    text = baselines.tables("usual", judged, MODELS)
    linear = judged.daily.filter(pl.col("kind").is_in(LINEAR_KINDS))
    assert f"{linear['portfolio'].n_unique()} linear portfolios" in text
    assert "a spring (" in text
    assert "long before" not in text
    assert "\nown:\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| `ewma`")]
    window = linear.filter(pl.col("date").is_between(*crises["a spring"]), model="ewma")
    assert f"| {(window['loss'] > window['var']).sum()} of {0.01 * window.height:.0f} |" in rows[-1]
    pooled = linear.filter(model="ewma")
    assert f"| {(pooled['loss'] > pooled['var']).mean():.2%} |" in rows[0]
    assert f"| {pooled['charged'].mean():.2%} |" in rows[0]


def test_pictures_are_drawn(judged, tmp_path: Path) -> None:
    spring, name = (date(2022, 3, 1), date(2022, 5, 1)), judged.daily["portfolio"][0]
    pictures.margin_through(judged.daily, name, spring, MODELS, tmp_path / "through.png")
    pictures.cost_and_loss({"usual": judged.judgement["pooled"]}, MODELS, tmp_path / "cost.png")
    for path in (tmp_path / "through.png", tmp_path / "cost.png"):
        assert path.read_bytes()[:4] == PNG


def test_what_accounts_are_called_for_is_the_rise_of_the_requirement_and_the_loss(
    judged, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spring, account = (date(2022, 3, 1), date(2022, 5, 1)), "long AAA"
    monkeypatch.setattr(dynamic, "CRISES", {"a spring": spring})
    monkeypatch.setattr(dynamic, "ACCOUNTS", (account, "nobody"))
    text = dynamic.through(judged.daily, MODELS)
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{account}` `ewma`")]
    rows = judged.daily.filter(portfolio=account, model="ewma").sort("date")
    charged, loss = rows["charged"].to_list(), rows["loss"].to_list()
    calls = [max(charged[k] - charged[k - 1] + loss[k - 1], 0) for k in range(1, len(charged))]
    inside = [call for call, day in zip(calls, rows["date"][1:], strict=True) if spring[0] <= day <= spring[1]]
    assert f"| {sum(inside):.1%} | {max(inside):.1%} |" in row
    assert "nobody" not in text
    pictures.through_crisis(judged.daily, (account,), spring, MODELS, tmp_path / "crisis.png")
    assert (tmp_path / "crisis.png").read_bytes()[:4] == PNG


def test_variants_are_the_preset_with_some_keys_changed() -> None:
    for some in (dynamic.PARTS, dynamic.CHOICES, dynamic.TOOLS):
        made = dynamic.variants(some)
        digests = {model.settings.model_dump_json() for model in made.values()}
        assert len(digests) == len(some)
        assert all(model.name == "dynamic" for model in made.values())
    figures = {"one": {"2": {"multiple": 2.0, "overshoot": 0.1, "overshoot_error": 0.02, "half_life": 5, "peak": 9}}}
    assert "| `one` | 2.00 | +10.0% | 2.0% | 5 | 9 |" in dynamic.responses(figures, "2")


def test_impulse_draws_its_paths(tmp_path: Path) -> None:
    drawn, few = tmp_path / "impulse.png", ["--seeds", "2", "--before", "260", "--after", "251", "--steps", "2"]
    assert run(["impulse", "--models", "ewma", *few, "--picture", str(drawn)]) == Exit.SUCCESS
    assert drawn.read_bytes()[:4] == PNG
    assert list(tmp_path.iterdir()) == [drawn]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing", "--data", "{here}"], "'nothing' is none"),
        (["baselines", "--data", "{here}/absent"], "is no folder"),
        (["baselines", "--data", "{here}", "--only", "moon"], "'moon' is no history"),
        (["baselines", "--data", "{here}", "--only", "seven coins"], "panel_close_stitched.parquet"),
        (["forecasts", "--data", "{here}"], "panel_close_stitched.parquet"),
        (["calibration", "--data", "{here}"], "panel_close_stitched.parquet"),
        (["calibration", "--data", "{here}", "--only", "seven coins"], "'seven coins' is no history"),
    ],
)
def test_a_study_without_its_data_says_what_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    given = [word.format(here=tmp_path) for word in words]
    assert run(["study", *given, "--out", str(tmp_path / "out")]) == Exit.BAD_INPUT
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
