"""Horizons of several days, of parts of one, and what they cost."""

import numpy as np
import pytest

import markets
from markets import config, margin, row, tables


def test_longer_horizons_cost_about_the_root_of_their_days() -> None:
    given = tables(history=markets.history(1_000))
    short, week, fortnight = (
        row(margin(given, config(f"risk.horizon_days = {horizon}", source="historical")), "long")["expected_shortfall"]
        for horizon in (1, 5, 10)
    )
    # Independent draws; the losses of a long are a little thinner than linear because prices are log-normal.
    assert 1.6 < week / short < 2.6
    assert 2.1 < fortnight / short < 3.7
    assert short < week < fortnight


def test_labels_of_a_longer_horizon_say_their_first_and_last_day() -> None:
    result = margin(tables(), config("risk.horizon_days = 5"))
    assert result.manifest["scenarios"]["count"] == markets.BARS - 1 - 4
    assert result.manifest["scenarios"]["last"] == "2025-12-28 to 2026-01-01"


def test_a_horizon_of_half_a_day_is_a_day_over_the_root_of_two() -> None:
    whole, half = (
        row(margin(tables(), config(f"risk.horizon_days = {horizon}", source="historical")), "hedged")["core"]
        for horizon in (1.0, 0.5)
    )
    assert half == pytest.approx(whole / np.sqrt(2), rel=0.05)
