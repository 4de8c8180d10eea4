"""The regime in replays, fits and its study: what a margin run charges that day, blind to what comes later."""

import os
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._engine import charged
from calibration._histories import (
    BARS,
    DAYS,
    FIGURES,
    NAMES,
    TIME,
    at_bar,
    between,
    held,
    known_at,
    panel,
    prices,
    table,
    usual_panel,
    write_inputs,
)
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.config import parse_config
from marginax.problems import BadInput
from marginax.tables.door import admit
from marginax_calibration.daily_table import read_daily
from marginax_calibration.fitting.parameters import put, tunable
from marginax_calibration.judgement import read_groups
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.replay import Replay, known_of, replay
from marginax_calibration.studies import regime as study
from reference.samples import rounding

# Cubes are float32: at most four legs a portfolio, none of which moves by more than half of gross notional in a bar.
NEAR = rounding(np.dtype(np.float32), 4, 0.5)
NOW, AROUND = 460, (455, 466)
ON: dict[str, Any] = {
    "most": 1.6, "least": 0.7, "window_days": 120.0, "least_observations": 20, "rise_limit": 0.05, "fall_limit": 0.03,
    "signals": {"sentiment": {"direction": "low"}, "funding": {"direction": "both", "weight": 0.5}},
}  # fmt: skip


def signals(future: float = 1.0) -> pl.DataFrame:
    """Sentiment of the market with holes, and funding of all and, from bar 300 on, of BTC; another one after `NOW`."""
    rng = np.random.default_rng(5)
    parts = []
    for name, of, first in (("sentiment", None, 0), ("funding", None, 40), ("funding", "BTC", 300)):
        values = np.cumsum(rng.standard_normal(BARS))
        values[NOW + 1 :] *= -future if future != 1 else 1
        times = [day - timedelta(hours=4) for day in DAYS]
        rows = pl.DataFrame(
            {"time": pl.Series(times, dtype=TIME), "name": name, "underlying": pl.Series([of] * BARS, dtype=pl.String),
             "value": values}
        )  # fmt: skip
        parts.append(rows.filter(pl.Series(rng.random(BARS) < 0.8)).filter(pl.col("time") >= times[first]))
    return pl.concat(parts)


def with_signals(history: Panel, rows: pl.DataFrame) -> Panel:
    return replace(history, signals=admit(rows, "signals").rows)


@cache
def model() -> mx.MarginModel:
    return mx.load_model(parse_config({"model": "dynamic", "scenarios": {"window": 300}, "regime": ON}, "test"))


def few() -> list[Portfolio]:
    return [held()[name] for name in ("long AAA", "short BTC", "neutral")]


def replayed(history: Panel, models: dict[str, mx.MarginModel] | None = None) -> Replay:
    return replay(models or {"dynamic": model()}, history, few(), streams=1, **between(*AROUND))


@cache
def usual() -> Replay:
    return replayed(with_signals(usual_panel(), signals()))


def test_a_replay_charges_what_a_margin_run_charges_on_that_day() -> None:
    found = at_bar(usual().daily, NOW)
    # The run reads signals of later days too, and knows none of them.
    for name, wanted in charged(model(), few(), names=NAMES[:4], bar=NOW, signals=signals()).items():
        row = found["dynamic", name]
        assert [row[key] for key in FIGURES] == pytest.approx(wanted, abs=6 * NEAR), name


def test_another_future_changes_no_bit_of_what_was_charged_before() -> None:
    closes = prices().copy()
    closes[NOW + 1 :] *= np.exp(np.cumsum(np.full(closes[NOW + 1 :].shape, 0.05), axis=0))
    later = replayed(with_signals(panel(closes), signals(3.0)))
    for one, two in zip(known_at(usual().daily, NOW), known_at(later.daily, NOW), strict=True):
        assert one.equals(two)
    only = replayed(with_signals(usual_panel(), signals(3.0)))
    one, two = (at_bar(each.daily, NOW + 4)["dynamic", "long AAA"]["charged"] for each in (usual(), only))
    assert one != two


def test_without_signals_a_replay_is_refused() -> None:
    with pytest.raises(BadInput, match=r"regime: is on, and the history has no signals\. Give the table `signals`"):
        replayed(usual_panel())


def test_its_numbers_can_be_fitted() -> None:
    """Slopes of the multipliers of a replay in the free keys are finite differences."""
    keys = ["regime.most", "regime.least", "regime.signals.funding.weight", "regime.rise_limit", "regime.fall_limit"]
    numbers = tunable(model().settings, keys)
    assert {"regime.most", "regime.least"} <= {each.key for each in tunable(model().settings).free}
    with jax.enable_x64(True):
        known = known_of(numbers.model, with_signals(usual_panel(), signals()), {})
        ways = np.random.default_rng(5).standard_normal((BARS, len(NAMES)))

        @jax.jit
        def total(values: Any) -> Any:
            return (put(numbers.model, numbers.places, values).past(known).regime * ways).sum()

        slopes, start = jax.grad(total)(numbers.start), numbers.start
        for k, key in enumerate(keys):
            step = np.zeros(len(keys))
            step[k] = 1e-6 * start[k]
            difference = float(total(start + step) - total(start - step)) / (2 * step[k])
            assert float(slopes[k]) == pytest.approx(difference, rel=1e-5, abs=1e-7), key
            assert difference != 0


# ---- the study ----


def planted(*, knows: bool) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """A daily table of the preset and one variant, and signals: losses are great when fear is (`knows`), or never mind.

    Charges are those of a market whose volatility nobody follows.
    """
    rng, days = np.random.default_rng(8), 900
    fear = np.repeat(rng.random(days // 30), 30)
    size = 0.02 * np.exp(2 * (fear if knows else np.roll(fear, 450)) - 1)
    loss = size * rng.standard_normal(days)
    times = pl.datetime_range(DAYS[0], DAYS[0] + timedelta(days=days - 1), "1d", eager=True).cast(TIME)
    rows = pl.DataFrame({"time": times, "name": "sentiment", "value": 1 - fear + 1e-3 * rng.random(days)})
    table = {"fear": {"most": 2.0, "least": 0.5, "rise_limit": 10.0, "fall_limit": 0.9, "least_observations": 20,
                      "signals": {"sentiment": {"direction": "low"}}}}  # fmt: skip
    scale = study.multipliers(table["fear"], rows, times.dt.date())
    plain = pl.DataFrame({"date": times.dt.date()[1:], "portfolio": "one", "loss": loss[1:], "charged": 0.05})
    own = plain.with_columns(charged=0.05 * scale[:-1], model=pl.lit("fear"))
    return pl.concat([plain.with_columns(model=pl.lit(study.PLAIN)), own]), rows, table


def test_a_signal_that_knows_is_told_from_one_that_does_not() -> None:
    half = (DAYS[0] + timedelta(days=450)).date()
    options: dict[str, Any] = {"half": half, "placebos": 39, "block_days": 30}
    daily, rows, table = planted(knows=True)
    knows = study.ablation(daily, rows, table, **options)
    assert knows.costs["fear"][0] < -0.02
    assert knows.p("fear", 0) == knows.p_of_best(0) == 1 / 40
    assert "The regime helps on this history" in study.verdict(knows)
    daily, rows, table = planted(knows=False)
    guesses = study.ablation(daily, rows, table, **options)
    assert guesses.costs["fear"][2] > -0.02
    assert "The regime does not help on this history" in study.verdict(guesses)


def test_cost_is_what_equal_uncovered_losses_take() -> None:
    rng = np.random.default_rng(3)
    loss, plain = 0.05 * rng.standard_normal(4000), np.full(4000, 0.06)
    # Twice as much everywhere is the same timing.
    assert study.cost(loss, plain, 2 * plain) == pytest.approx(0, abs=1e-8)
    uneven = plain * np.where(np.arange(4000) % 2, 1.5, 0.5)
    more = study.cost(loss, plain, uneven)
    scale = (1 + more) * plain.mean() / uneven.mean()
    left = [np.maximum(loss - each, 0).mean() for each in (plain, scale * uneven)]
    assert left[0] == pytest.approx(left[1], rel=1e-6)
    assert more > 0.05


def test_shuffled_signals_are_the_same_values_in_the_same_runs() -> None:
    _, rows, _ = planted(knows=True)
    mixed = study.shuffled(rows, np.random.default_rng(1), block_days=30)
    assert sorted(mixed["value"]) == sorted(rows["value"])
    assert mixed["time"].to_list() == rows["time"].to_list()
    follows = dict(zip(rows["value"][:-1], rows["value"][1:], strict=True))
    kept = sum(follows.get(one) == other for one, other in zip(mixed["value"][:-1], mixed["value"][1:], strict=True))
    assert 900 - 1 - 30 <= kept < 900 - 1


def test_a_charge_with_a_market_wide_multiplier_is_the_presets_times_it() -> None:
    """What the placebos of the study stand on, by replays of both."""
    own = {"sentiment": {"direction": "low"}}
    chosen = {**ON, "signals": own}
    rows = signals().filter(pl.col("name") == "sentiment")
    # The bar is that of the day: what came four hours before it is known.
    dated = rows.with_columns(pl.col("time") + timedelta(hours=4)).drop("underlying")
    plainly = {"model": "dynamic", "scenarios": {"window": 300}}
    models = {
        study.PLAIN: mx.load_model(parse_config(plainly, "test")),
        "fear": mx.load_model(parse_config({**plainly, "regime": chosen}, "test")),
    }
    daily = replayed(with_signals(usual_panel(), dated), models).daily
    read_daily(daily)
    days = pl.date_range(DAYS[0].date(), DAYS[-1].date(), eager=True)
    scale = study.multipliers(chosen, dated, days)
    plain, fear = (daily.filter(model=name).sort("date", "portfolio") for name in models)
    place = (plain["date"] - days[0]).dt.total_days().to_numpy() - 1
    np.testing.assert_allclose(fear["charged"], plain["charged"].to_numpy() * scale[place], rtol=2e-5)
    assert np.ptp(scale[place]) > 0.01


def test_the_study_names_the_data_that_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "regime", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert run(words) == Exit.BAD_INPUT
    assert "crypto_fear_greed_1d.parquet" in capsys.readouterr().err
    assert run([*words, "--only", "multi-asset"]) == Exit.BAD_INPUT
    assert "'multi-asset' is no history of this study" in capsys.readouterr().err


def test_fear_and_funding_of_real_crises_are_where_they_were() -> None:
    """The eve of 12 March 2020 and of May 2021 was fearful; in February 2021 longs paid more than in most of a year."""
    folder = Path(os.environ.get("MARGINAX_SHARED", "../shared")) / "data"
    if not (folder / "sentiment" / "crypto_fear_greed_1d.parquet").is_file():
        pytest.skip(f"there is no {folder / 'sentiment'}; MARGINAX_SHARED names the folder of `data`")
    rows = study.market_signals(folder)
    days = pl.select(pl.date_range(date(2018, 2, 1), date(2026, 1, 14))).to_series()
    found = {name: study.multipliers(study.VARIANTS[name], rows, days) for name in ("fear", "longs pay")}
    for each in found.values():
        assert 0.8 <= each.min() < 0.81
        assert 1.49 < each.max() <= 1.5

    def on(day: date, name: str) -> float:
        return float(found[name][(day - days[0]).days])

    assert min(on(day, "fear") for day in (date(2020, 3, 11), date(2021, 5, 18))) > 1.4
    assert on(date(2021, 2, 15), "fear") < 0.85
    assert on(date(2021, 2, 15), "longs pay") > 1.4 > 0.9 > on(date(2020, 3, 20), "longs pay")


def test_commands_read_signals_and_refuse_a_regime_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path)
    text = '[regime]\nmost = 1.5\n[regime.signals.sentiment]\ndirection = "low"\n'
    (tmp_path / "own.toml").write_text(f'model = "dynamic"\n[scenarios]\nwindow = 300\n{text}')
    wrong = signals().with_columns(name=pl.lit("sentimant")).unique(["time", "underlying"])
    wrong.write_csv(tmp_path / "signals.csv")
    history, portfolios = (str(tmp_path / f"{name}.csv") for name in ("history", "portfolios"))
    own = ["--history", history, "--portfolios", portfolios]
    words = ["backtest", *own, "--models", str(tmp_path / "own.toml")]
    assert run(words) == Exit.BAD_INPUT
    assert "the history has no signals" in capsys.readouterr().err
    assert run([*words, "--signals", str(tmp_path / "signals.csv")]) == Exit.BAD_INPUT
    assert "'sentimant' is read by no table [regime.signals]" in capsys.readouterr().err


def test_what_was_known_by_a_date_has_the_signals_of_then() -> None:
    until = DAYS[300]
    (found,) = read_groups(table(prices()), list(held().values())[:1], until=until, signals=signals())
    assert found.panel.signals is not None
    assert found.panel.signals["time"].max() <= until
    assert found.panel.signals.height == signals().filter(pl.col("time") <= until).height
