"""Time, settlement and smiles in a scenario, against numbers worked by hand: the venue of `test_option_margins`."""

from datetime import timedelta
from functools import cache
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from laws._books import NOW, Tables
from laws._options import frame, option, steady, venue
from reference.black import black76
from test_option_margins import (
    CALL,
    CENT,
    COIN,
    DEVIATION,
    INDEX,
    PRICES,
    STYLE,
    USDT,
    at_the_money,
    forward,
    gains,
    tables,
)


def weekdays(count: int = 60) -> list[Any]:
    days = [NOW - timedelta(days=k) for k in range(2 * count)]
    return [day for day in days if day.weekday() < 5][:count][::-1]


@pytest.mark.parametrize(
    ("trading", "horizon", "days"), [("daily", 1.0, 1.0), ("weekdays", 1.0, 1.4), ("weekdays", 5.0, 7.0)]
)
def test_time_passes_by_the_calendar_of_the_history(trading: str, horizon: float, days: float) -> None:
    """A trading day is a day where bars are daily and 7 / 5 of one on weekdays; a call loses what d loses to it."""
    bars = weekdays() if trading == "weekdays" else [NOW - timedelta(days=k) for k in range(59, -1, -1)]
    names = ["BTC", "OIL"]
    at = {**tables(), "history": frame("history", steady([*names, "USDT"], names, days=bars))}
    told = gains({}, at, horizon=horizon)
    left = (30 - days) / 30
    then = INDEX * at_the_money(DEVIATION * sqrt(left))
    assert told["FS-C"] == pytest.approx(then - CALL, abs=CENT)
    assert told["FS-P"] == pytest.approx(then - CALL, abs=CENT)
    assert told["UP-C"] == pytest.approx(0.99**left * then - 0.99 * CALL, abs=CENT)
    assert told["COIN-C"] == pytest.approx(then - CALL, abs=CENT)
    assert told["OIL-P"] == pytest.approx(10 * norm.pdf(0) * (sqrt(left) - 1), abs=CENT)
    assert told["FUT"] == pytest.approx(0, abs=CENT)


EXPIRING = (
    option("UP-C", "call", "BTC", INDEX, 0.5),
    option("UP-P", "put", "BTC", INDEX, 0.5),
    option("FS-C", "call", "BTC", INDEX, 0.5, **STYLE),
    option("COIN-C", "call", "BTC", INDEX, 0.5, **COIN),
    option("USDT-C", "call", "BTC", INDEX / 0.98, 0.5, **USDT),
    option("LAST-C", "call", "BTC", INDEX, 1.0, **STYLE),
    option("OIL-P", "put", "OIL", 64.0, 0.5),
)


def expiring(contracts: Any = EXPIRING, days: float = 0.5) -> Tables:
    """Options that settle within a day: forwards far from the index, discounts and volatilities that do not matter."""
    marks: dict[str, Any] = {"UP-C": 700.0, "UP-P": 650.0, "FS-C": 700.0, "COIN-C": 0.014, "USDT-C": 750.0,
                             "LAST-C": 800.0, "OIL-P": 2.0}  # fmt: skip
    quotes = {
        row["instrument_id"]: (marks[row["instrument_id"]], 0.6 if row["underlying"] == "BTC" else 30.0)
        for row in contracts
    }
    forwards = [forward("BTC", days, 51_000.0, 0.9), forward("OIL", days, 66.0, 0.9), forward("BTC", 1.0, 51_000.0)]
    return venue(contracts, quotes, PRICES, forwards=forwards)


def test_what_expires_within_the_horizon_settles_at_intrinsic_on_the_index() -> None:
    """BTC at 52,000 pays 2,000 on a call, in full, whatever forward, basis, volatility and interest say."""
    everything = {"BTC": log(1.04), "implied_vol:BTC": log(3), "OIL": -10.0}
    everything[f"basis:BTC:{NOW + timedelta(days=0.5):%Y-%m-%dT%H:%M}"] = 0.5
    told = gains(everything, expiring(), horizon=1.0)
    for name, gain in (("UP-C", 1_300.0), ("UP-P", -650.0), ("FS-C", 1_300.0), ("COIN-C", 1_300.0), ("OIL-P", 8.0)):
        assert told[name] == pytest.approx(gain, abs=CENT), name
    # 2,000 dollars are 2,040.82 USDT of 0.98.
    assert told["USDT-C"] == pytest.approx(2_000 - 750 * 0.98, abs=CENT)
    # What expires as the horizon ends settles too.
    assert told["LAST-C"] == pytest.approx(1_200.0, abs=CENT)
    still = gains({}, expiring(), horizon=1.0)
    assert still["UP-C"] == pytest.approx(-700, abs=CENT)
    assert still["COIN-C"] == pytest.approx(-700, abs=CENT)


def test_an_average_that_is_half_fixed_moves_by_half() -> None:
    """An hour's average half an hour before its end: at 52,000 the other half makes 51,000; a coin then is 52,000."""
    days = 30 / (24 * 60)
    soon = tuple({**row, "expiry": NOW + timedelta(days=days)} for row in EXPIRING if row["instrument_id"] != "LAST-C")
    told = gains(
        {"BTC": log(1.04), "OIL": -10.0}, expiring(soon, days), horizon=1.0, options={"settlement_window_minutes": 60.0}
    )
    assert told["UP-C"] == pytest.approx(1_000 - 700, abs=1e-3)
    assert told["FS-C"] == pytest.approx(1_000 - 700, abs=1e-3)
    assert told["UP-P"] == pytest.approx(-650, abs=1e-3)
    assert told["COIN-C"] == pytest.approx(1_000 / 51_000 * 52_000 - 700, abs=1e-3)
    assert told["OIL-P"] == pytest.approx(5 - 2, abs=1e-6)


def test_the_forward_of_an_average_that_has_begun_moves_by_what_is_open() -> None:
    """An hour's average half an hour before its end, over no time: half of 4 % of a forward, not yet settled."""
    days = 30 / (24 * 60)
    soon = tuple({**row, "expiry": NOW + timedelta(days=days)} for row in EXPIRING if row["instrument_id"] == "FS-C")
    told = gains({"BTC": log(1.04)}, expiring(soon, days), options={"settlement_window_minutes": 60.0})
    # A call at 50,000 on a forward of 51,000 is as good as the forward: the deviation of a quarter of an hour is 0.2 %.
    assert told["FS-C"] == pytest.approx(0.02 * 51_000, abs=1.0)


def test_an_average_has_less_variance_than_a_price() -> None:
    """A mean over the last day has a third of its variance: 30 days count as 29 and a third."""
    told = gains({"implied_vol:BTC": log(2)}, options={"settlement_window_minutes": 1440.0})
    root = sqrt((30 - 2 / 3) / 30)
    assert told["FS-C"] == pytest.approx(INDEX * (at_the_money(0.4 * root) - at_the_money(0.2 * root)), abs=CENT)


# --- Where the volatility of a strike goes when the forward moves ----------------------------------------------------

# Thirteen steps of the grid on which smiles are read, so that nothing is interpolated.
STEP = 13 * 3 / 128
SMILE = {-STEP: 0.9, 0.0: 0.7, STEP: 0.6}


@cache
def skewed() -> Tables:
    contracts = [option(f"AT {k:+.2f}", "call", "BTC", INDEX * exp(k), 30, **STYLE) for k in SMILE]
    marks = {row["instrument_id"]: (0.0, vol) for row, vol in zip(contracts, SMILE.values(), strict=True)}
    return venue(contracts, marks, PRICES, forwards=[forward("BTC", 30, INDEX)])


@pytest.mark.parametrize(
    ("stickiness", "move", "volatility"),
    [(0.0, STEP, 0.7), (0.0, -STEP, 0.7), (1.0, STEP, 0.9), (1.0, -STEP, 0.6), (0.5, STEP, 0.8), (0.5, -STEP, 0.65)],
)
def test_a_strike_keeps_its_volatility_or_takes_that_of_its_new_distance(
    stickiness: float, move: float, volatility: float
) -> None:
    """The forward rises by a step: a strike at the old forward is then where the low strike was, at 90 %."""
    told = gains({"BTC": move}, skewed(), options={"stickiness": stickiness})
    root, name = sqrt(30 / 365), f"AT {0:+.2f}"
    then, now = black76(INDEX * exp(move), INDEX, volatility * root, True), INDEX * at_the_money(0.7 * root)
    assert told[name] == pytest.approx(then - now, abs=CENT)


def test_no_smile_makes_an_option_riskless() -> None:
    """Where the smile ends or falls away, a strike keeps a fifth of its volatility at least."""
    contracts = [
        option("LOW", "call", "BTC", INDEX, 30, **STYLE),
        option("HIGH", "call", "BTC", INDEX * exp(STEP), 30, **STYLE),
    ]
    at = venue(contracts, {"LOW": (5_000.0, 1.0), "HIGH": (200.0, 0.01)}, PRICES, forwards=[forward("BTC", 30, INDEX)])
    told = gains({"BTC": -STEP}, at, options={"stickiness": 1.0})
    root = sqrt(30 / 365)
    then = black76(INDEX * exp(-STEP), INDEX, 0.2 * root, True)
    assert told["LOW"] == pytest.approx(then - INDEX * at_the_money(root), abs=CENT)
    assert np.isfinite(told["HIGH"])
