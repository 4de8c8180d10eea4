"""Targets of the study of calibration: each said with what was reached, and which exclude each other."""

from copy import deepcopy
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from marginax_calibration.studies.calibration import PLANS
from marginax_calibration.studies.calibration_frontier import POINTS, points, report_of
from marginax_calibration.studies.calibration_targets import Aims, Target, excluded, target_table, targets, verdict

DAYS, KINDS = 300, ("long", "short", "spread", "neutral")
LEVELS = {"fixed_legs": 0.25, "static": 0.1, "fhs": 0.08, "garch": 0.075, "fitted": 0.06}


def daily(level: float, model: str, *, days: int = DAYS) -> pl.DataFrame:
    """A model that charges about one level for ever; losses are normal with a deviation of 4 %."""
    rng = np.random.default_rng(3)
    loss = 0.04 * rng.standard_normal((DAYS, len(KINDS)))[:days]
    dates = [date(2020, 1, 1) + timedelta(days=k) for k in range(days)]
    return pl.concat(
        pl.DataFrame(
            {"date": dates, "portfolio": kind, "kind": kind, "model": model, "loss": loss[:, k],
             "var": 0.09, "es": 0.1, "charged": level * (1 + 0.1 * np.sin(np.arange(days)))}
        )
        for k, kind in enumerate(KINDS)
    )  # fmt: skip


@pytest.fixture(scope="module")
def judgement() -> dict[str, Any]:
    rivals = pl.concat(daily(level, name) for name, level in LEVELS.items() if name != "fitted")
    return verdict(rivals, daily(LEVELS["fitted"], "fitted", days=250))


def test_models_are_judged_on_the_days_that_all_have(judgement: dict[str, Any]) -> None:
    assert {each["days"] for each in judgement["pooled"].values()} == {250 * len(KINDS)}


def test_targets_are_ratios_of_what_is_charged(judgement: dict[str, Any]) -> None:
    found = {each.name: each for each in targets(judgement, Aims())}
    assert found["charged, over that of `static`"].reached == "0.600"
    assert found["charged, over that of `static`"].met
    assert found["spread: charged, over that of `fixed_legs`"].reached == "0.240"
    # All have one score: none is below another.
    assert not found["FZ0 below every baseline's"].met
    assert len(found) == 11


def test_a_difference_beyond_chance_counts_only_for_the_better(judgement: dict[str, Any]) -> None:
    other = deepcopy(judgement)
    for name, each in other["pooled"].items():
        each["dm_p"] = dict.fromkeys(each["dm_p"], 0.001)
        each["mean_fz0"] = -1.0 if name == "fitted" else -0.5
    told = {each.name: each for each in targets(other, Aims())}["Diebold-Mariano p against each, which scores worse"]
    assert told.met
    other["pooled"]["garch"]["mean_fz0"] = -2.0
    told = {each.name: each for each in targets(other, Aims())}["Diebold-Mariano p against each, which scores worse"]
    assert not told.met
    assert told.reached == "0.001 (`garch`, which scores better)"


def test_a_plan_may_want_less(judgement: dict[str, Any]) -> None:
    found = targets(judgement, PLANS["multi-asset"].aims)
    assert [each.name for each in found] == ["FZ0 below every baseline's", "charged, over that of `static`"]


def test_what_excludes_what_is_told() -> None:
    def reached(*met: bool) -> list[Target]:
        return [Target(name, "1", f"{k}", ok) for k, (name, ok) in enumerate(zip("abc", met, strict=True))]

    found = {"one": reached(True, False, False), "two": reached(False, True, False)}
    said = excluded(found)
    assert "Met by none: c." in said
    assert "never together: a / b." in said
    assert "| a | 1 | 0 | **0** |" in target_table(found)
    assert "no two targets" in excluded({"one": reached(True, True, True)})


def test_a_frontier_has_a_row_for_each_point_and_each_that_it_is_compared_with(judgement: dict[str, Any]) -> None:
    judgement["pooled"]["by hand"] = judgement["pooled"]["static"]
    rows = points({"defaults": judgement})
    assert rows["name"].to_list() == ["defaults", "static", "fhs", "garch", "by hand"]
    assert rows["charged"][0] == pytest.approx(LEVELS["fitted"], rel=1e-3)
    assert "Met by none" in report_of({"defaults": judgement}, PLANS["crypto"])
    assert POINTS["defaults"] == ""
