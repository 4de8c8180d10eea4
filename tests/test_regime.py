"""The regime: against a loop over days, bounded and slow, blind to the future, and never lower for knowing less."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from marginax.calendars import Grid
from marginax.models.addons.regime import RegimeMultiplier, SignalArrays
from marginax.regime_section import Regime
from marginax.signals import SignalHistory, signal_history
from marginax.tables.door import admit
from reference import regime as twin

NAMES = ("BTC", "ETH", "OIL")
START, LENGTH = datetime(2026, 1, 1, tzinfo=UTC), 40
GRID = Grid(np.datetime64("2026-01-01", "us") + np.arange(LENGTH) * np.timedelta64(1, "D"), 1.0, 7.0)
SIGNALS = {
    "sentiment": {"direction": "low", "weight": 2.0},
    "funding": {"direction": "both", "weight": 1.0, "underlyings": ["BTC", "ETH"]},
    "open_interest": {"direction": "high", "weight": 0.5},
}
SETTINGS: dict[str, Any] = {
    "most": 1.6, "least": 0.8, "window_days": 15.0, "least_observations": 4, "stale_after_days": 2.0,
    "worst_age_days": 6.0, "rise_limit": 0.05, "fall_limit": 0.02, "signals": SIGNALS,
}  # fmt: skip
NUMBERS = twin.Numbers(1.6, 0.8, 15, 4, 2.0, 6.0, 0.05, 0.02)
SERIES = (("funding", None), ("funding", "BTC"), ("open_interest", None), ("sentiment", None))
# By series: whether a value comes on each day, how many hours before the bar, and what it is.
Feed = list[tuple[bool, int, int]]
FEEDS = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 23), st.integers(-3, 3)), min_size=LENGTH, max_size=LENGTH),
    min_size=len(SERIES), max_size=len(SERIES),
)  # fmt: skip


@cache
def settings() -> Regime:
    return Regime.model_validate(SETTINGS)


def rows_of(feeds: list[Feed]) -> pl.DataFrame:
    """The table `signals` of these feeds; each has a value on the first day, so that every series is there."""
    found = []
    for (name, of), feed in zip(SERIES, feeds, strict=True):
        for day, (comes, hours, value) in enumerate(feed):
            if comes or day == 0:
                found.append((START + timedelta(days=day) - timedelta(hours=hours), name, of, float(value)))
    schema = {"time": pl.Datetime("us", "UTC"), "name": pl.String, "underlying": pl.String, "value": pl.Float64}
    return admit(pl.DataFrame(found, schema=schema, orient="row"), "signals").rows


def signals_of(feeds: list[Feed]) -> SignalHistory:
    return signal_history(rows_of(feeds), settings(), NAMES, GRID)


@jax.jit
def _path(multiplier: RegimeMultiplier, signals: SignalArrays) -> Any:
    return multiplier.path(signals, bars_per_day=1.0)[0]


def path(signals: SignalHistory, chosen: Regime | None = None) -> np.ndarray:
    """Multipliers by bar and underlying."""
    multiplier = RegimeMultiplier.from_settings(chosen or settings())
    with jax.enable_x64(True):
        return np.asarray(_path(multiplier, SignalArrays.of(signals, settings(), NAMES)))


@settings_of(max_examples=15)
@given(FEEDS)
def test_multipliers_are_what_a_loop_over_days_finds(feeds: list[Feed]) -> None:
    found = path(signals_of(feeds))
    table = rows_of(feeds).with_columns(day=(pl.col("time") - START).dt.total_seconds() / 86_400).sort("day")

    def series(name: str, of: str | None) -> list[tuple[float, float]]:
        mine = table.filter(pl.col("name") == name, pl.col("underlying").eq_missing(pl.lit(of)))
        return list(mine.select("day", "value").iter_rows())

    for k, underlying in enumerate(NAMES):
        read = [name for name, each in SIGNALS.items() if underlying in each.get("underlyings", NAMES)]
        chosen = [
            twin.Signal(
                series(name, underlying), series(name, None), SIGNALS[name]["direction"], SIGNALS[name]["weight"]
            )
            for name in read
        ]
        wanted = twin.multipliers(chosen, list(map(float, range(LENGTH))), NUMBERS)
        np.testing.assert_allclose(found[:, k], wanted, rtol=1e-12)


@settings_of(max_examples=15)
@given(FEEDS)
def test_multipliers_are_bounded_and_move_at_limited_speed(feeds: list[Feed]) -> None:
    found = path(signals_of(feeds))
    assert found.min() >= 0.8 * (1 - 1e-12)
    assert found.max() <= 1.6 * (1 + 1e-12)
    steps = found[1:] / found[:-1]
    assert steps.max() <= 1.05 * (1 + 1e-12)
    assert steps.min() >= 0.98 * (1 - 1e-12)


@settings_of(max_examples=15)
@given(FEEDS, st.integers(0, LENGTH - 2), st.integers(0, 2**32 - 1))
def test_another_future_changes_no_bit_of_what_was_known_before(feeds: list[Feed], now: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = [
        [day if k <= now else (bool(rng.integers(2)), 0, int(rng.integers(-9, 9))) for k, day in enumerate(feed)]
        for feed in feeds
    ]
    np.testing.assert_array_equal(path(signals_of(feeds))[: now + 1], path(signals_of(other))[: now + 1])


@settings_of(max_examples=15)
@given(FEEDS, st.integers(0, len(SERIES) - 1))
def test_a_signal_that_is_lost_lowers_no_multiplier(feeds: list[Feed], lost: int) -> None:
    whole = signals_of(feeds)
    # An underlying's own series is its own from its first value on, and the market's speaks before: it keeps that one.
    kept = 0 if whole.series[lost][1] is None else 1
    values = whole.rows.values.copy()
    values[kept:, lost] = np.nan
    gone = whole.rows._replace(values=values)
    without = SignalHistory(whole.series, gone, None, whole.at, whole.last)
    assert (path(without) >= path(whole) * (1 - 1e-12)).all()


@settings_of(max_examples=15)
@given(FEEDS, st.integers(10, LENGTH - 2))
def test_a_feed_that_stops_is_never_calmer_for_being_older(feeds: list[Feed], stop: int) -> None:
    halted = [[day if k <= stop else (False, 0, 0) for k, day in enumerate(feed)] for feed in feeds]
    unhurried = settings().model_copy(update={"rise_limit": 10.0, "fall_limit": 0.99})
    found = path(signals_of(halted), unhurried)[stop:]
    assert (np.diff(found, axis=0) >= -1e-12).all()
    if LENGTH - stop > 8:
        np.testing.assert_allclose(found[8:], 1.6, rtol=1e-12)


def feeds_at(seed: int = 3) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [[(bool(rng.random() < 0.8), 0, int(rng.integers(-50, 50))) for _ in range(LENGTH)] for _ in SERIES]


def test_neither_the_order_of_rows_nor_the_unit_of_a_signal_matters() -> None:
    rows = rows_of(feeds_at())
    usual = path(signal_history(rows, settings(), NAMES, GRID))
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    # Any rising map keeps ranks.
    scaled = rows.with_columns(value=(pl.col("value") / 100).exp() * 7 - 3)
    for other in (shuffled, scaled):
        np.testing.assert_array_equal(path(signal_history(other, settings(), NAMES, GRID)), usual)
    assert np.ptp(usual) > 0.1


def test_slopes_are_those_of_finite_differences() -> None:
    quick = settings().model_copy(update={"rise_limit": 0.2, "fall_limit": 0.1})
    multiplier = RegimeMultiplier.from_settings(quick)
    assert multiplier is not None
    with jax.enable_x64(True):
        signals = SignalArrays.of(signals_of(feeds_at(5)), settings(), NAMES)
        weights = np.random.default_rng(2).random((LENGTH, len(NAMES)))

        @jax.jit
        def total(each: RegimeMultiplier) -> Any:
            return (each.path(signals, bars_per_day=1.0)[0] * weights).sum()

        slopes = jax.tree.leaves(jax.jit(jax.grad(total))(multiplier))
        leaves, shape = jax.tree.flatten(multiplier)
        for k, leaf in enumerate(leaves):
            for place in np.ndindex(np.shape(leaf)):
                step, ends = 1e-6, []
                for sign in (1, -1):
                    moved = np.array(leaf, float)
                    moved[place] += sign * step
                    ends.append(float(total(jax.tree.unflatten(shape, [*leaves[:k], moved, *leaves[k + 1 :]]))))
                slope = (ends[0] - ends[1]) / (2 * step)
                assert float(slopes[k][place]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
                assert slope != 0
