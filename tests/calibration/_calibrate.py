"""`marginax calibrate` on the usual history: its files, its words, and a stand-in for its search."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from calibration._histories import DAYS, NAMES, write_inputs
from marginax_calibration.fitting.fit import Fitting
from marginax_calibration.fitting.state import NotFinite

UNTIL = f"{DAYS[535]:%Y-%m-%d}"
# The model and the keys of the other fits, whose programs are compiled.
KEYS = "filter.fast_share,scenarios.volatility_floor"
MODEL = """
model = "dynamic"
[risk]
maintenance_ratio = 0.7
[filter]
kind = "two_speed"
slow_half_life_days = 30.0
fast_share = 0.4
[scenarios]
window = 260
volatility_floor = 0.4
[stress_period]
weight = 0.3
bars = 60
[dependence]
share = 0.2
[procyclicality]
buffer = 0.25
rise_limit = 0.05
fall_limit = 0.01
"""


def write_files(folder: Path) -> Path:
    """The usual history and portfolios, a model, and classes of three underlyings; returns the folder."""
    write_inputs(folder)
    (folder / "mine.toml").write_text(MODEL)
    rows = {"underlying": NAMES[:3], "index_price": 1.0, "asset_class": ["majors", "majors", None]}
    pl.DataFrame(rows).write_csv(folder / "underlyings.csv")
    return folder


def words(inputs: Path, out: Path, *more: str, steps: int = 4) -> list[str]:
    """A command line; a flag that is said again in `more` is the later one's."""
    files = ["--history", str(inputs / "history.csv"), "--portfolios", str(inputs / "portfolios.csv")]
    search = ["--free", KEYS, "--steps", str(steps), "--starts", "2", "--batch", "1", "--check", "0.25"]
    model = ["--model", str(inputs / "mine.toml")]
    return ["calibrate", *files, *model, "--until", UNTIL, "--out", str(out), *search, *more]


def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Fitting]:
    """Let no fit run: what was to run is kept."""
    kept: list[Fitting] = []

    def run(self: Fitting, *_: Any, **__: Any) -> Any:
        kept.append(self)
        raise NotFinite("not run")

    monkeypatch.setattr(Fitting, "run", run)
    return kept
