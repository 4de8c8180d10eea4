"""The dynamic margin in a replay: what a margin run charges that day, blind to what comes later, with all parts on."""

from functools import cache

import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._engine import charged
from calibration._histories import (
    FIGURES,
    NAMES,
    at_bar,
    between,
    configured,
    held,
    known_at,
    panel,
    played,
    prices,
    usual_panel,
)
from marginax_calibration.replay import Replay
from reference.samples import rounding

# Cubes are float32: at most four legs a portfolio, none of which moves by more than half of gross notional in a bar.
NEAR = rounding(np.dtype(np.float32), 4, 0.5)
NOW = 460


@cache
def model() -> mx.MarginModel:
    """The preset with every tool on; the stretch is longer than the first margins' history allows.

    A replay has no volumes and charges no liquidity, so the run that it is compared with charges none.
    """
    return configured(
        "dynamic",
        scenarios={"window": 400},
        correlation_break={"multiplier": 1.0, "windows": 4},
        dependence={"share": 0.2},
        liquidity=dict.fromkeys(("spread", "fee", "impact", "vega_share", "participation"), 0.0),
        stress_period={"weight": 0.3, "bars": 100},
        procyclicality={"buffer": 0.25, "floor_years": 1.0, "rise_limit": 0.05, "fall_limit": 0.01},
    )


@cache
def usual() -> Replay:
    return played(usual_panel(), {"dynamic": model()}, **between(450, 475))


def test_a_replay_charges_what_a_margin_run_charges_on_that_day() -> None:
    old = [each for each in held().values() if "NEW" not in each.underlyings]
    found = at_bar(usual().daily, 470)
    for name, wanted in charged(model(), old, names=NAMES[:4], bar=470).items():
        row = found["dynamic", name]
        # A charge adds a handful of shortfalls, each off by that rounding.
        assert [row[key] for key in FIGURES] == pytest.approx(wanted, abs=6 * NEAR), name


def test_another_future_changes_no_bit_of_what_was_charged_before() -> None:
    other = prices().copy()
    other[NOW + 1 :] *= np.exp(np.cumsum(np.full(other[NOW + 1 :].shape, 0.05), axis=0))
    later = played(panel(other), {"dynamic": model()}, **between(450, 475))
    for one, two in zip(known_at(usual().daily, NOW), known_at(later.daily, NOW), strict=True):
        assert one.equals(two)
    changed = at_bar(later.daily, 474)["dynamic", "long AAA"]["charged"]
    assert changed != at_bar(usual().daily, 474)["dynamic", "long AAA"]["charged"]


def test_tools_change_what_is_charged_and_never_the_figures_that_coverage_is_judged_by() -> None:
    bare = configured("dynamic", scenarios={"window": 400}, dependence={"share": 0.0}, stress_period={"weight": 0.0})
    plain = played(usual_panel(), {"dynamic": bare}, **between(450, 475)).daily
    for name in ("var", "es"):
        np.testing.assert_allclose(usual().daily[name], plain[name], atol=NEAR)
    more = usual().daily.select(pl.col("charged") - plain["charged"])["charged"]
    assert more.min() > -NEAR
    assert more.max() > 0.01
