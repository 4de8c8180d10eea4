"""Series that keep different calendars: one grid of joint bars, and what a bar, a day and a week then are."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from marginax.calendars import Grid, joint_grid, on_grid
from marginax.history import FactorHistory
from markets import AS_OF, business_days, config, days, margin, row, series, tables, walk

WEEK = timedelta(days=7)
CLOSE = timedelta(hours=21)


def grid(*rows: pl.DataFrame, leading: list[str] | None = None) -> Grid:
    return joint_grid(pl.concat(rows), None if leading is None else pl.Series(leading, dtype=pl.String))


def flat(name: str, times: list[datetime]) -> pl.DataFrame:
    return series(name, np.ones(len(times)), times)


def numpy_times(times: list[datetime]) -> np.ndarray:
    return np.array([time.replace(tzinfo=None) for time in times], "datetime64[us]")


def stamps(found: Grid) -> list[datetime]:
    return [stamp.replace(tzinfo=UTC) for stamp in found.times.astype("datetime64[us]").tolist()]


def hours(count: int, *, last: datetime = AS_OF) -> list[datetime]:
    return days(count, last=last, step=timedelta(hours=1))


def closes(count: int, *, last: datetime = AS_OF, holidays: tuple[datetime, ...] = ()) -> list[datetime]:
    """Business days at the close of an exchange."""
    return [day + CLOSE for day in business_days(count, last=last) if day not in holidays]


def factors(history: pl.DataFrame, *, as_of: datetime = AS_OF, **settings: Any) -> FactorHistory:
    """The factors of the tiny venue on this history."""
    given = tables(history=history)
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")}, as_of=as_of)
    return mx.load_model(config(**settings)).factors(market, book.instruments)


# ---- the grid ----


def test_coins_alone_keep_every_day_of_the_week() -> None:
    found = grid(flat("BTC", days(100)), flat("ETH", days(100)))
    assert stamps(found) == days(100)
    assert (found.bars_per_day, found.bars_per_week) == (1.0, 7.0)


def test_no_bars_make_an_empty_daily_grid() -> None:
    found = grid(flat("BTC", []))
    assert (len(found.times), found.bars_per_day, found.bars_per_week) == (0, 1.0, 7.0)


def test_coins_beside_equities_keep_business_days() -> None:
    found = grid(flat("BTC", days(400)), flat("SPX", closes(280)))
    inside = [stamp for stamp in stamps(found) if stamp >= closes(280)[0]]
    assert inside == [stamp for stamp in closes(280) if stamp <= AS_OF + CLOSE]
    assert {stamp.weekday() for stamp in stamps(found)} == {0, 1, 2, 3, 4}
    assert (found.bars_per_day, found.bars_per_week) == (1.0, 5.0)


def test_holidays_of_the_slow_market_are_no_bars() -> None:
    holidays = tuple(closes(200)[k] - CLOSE for k in (20, 21, 60, 130))
    found = grid(flat("BTC", days(290)), flat("SPX", closes(200, holidays=holidays)))
    assert not {stamp.date() for stamp in stamps(found)} & {holiday.date() for holiday in holidays}
    assert found.bars_per_week == 5.0


def test_the_weekend_of_a_coin_stands_in_the_return_of_monday() -> None:
    coin = days(400)
    prices = walk("BTC", 80_000.0, 400)
    history = pl.concat(
        [markets.history(400).filter(pl.col("underlying") != "OIL").filter(pl.col("underlying") != "BTC"),
         series("BTC", prices, coin), series("OIL", walk("OIL", 70.0, 280), closes(280, last=AS_OF - timedelta(1)))]
    )  # fmt: skip
    found = factors(history)
    price = dict(zip(coin, prices, strict=True))
    ends = [stamp.replace(tzinfo=UTC) for stamp in found.times.astype("datetime64[us]").tolist()]
    mondays = [k for k in range(60, len(ends)) if ends[k].weekday() == 0]
    assert len(mondays) > 40
    for k in mondays:
        midnight = ends[k] - CLOSE
        assert found.returns[k, 0] == pytest.approx(np.log(price[midnight] / price[midnight - timedelta(days=3)]))
        assert found.bars[k, 0] == 1
    assert found.grid.bars_per_day == 1.0


def test_a_weekend_crash_of_a_coin_counts_before_monday_has_a_bar() -> None:
    """On Sunday the grid ends on Friday; the coin's own last bar is of Sunday and already low."""
    friday = datetime(2025, 11, 28, tzinfo=UTC)
    sunday = friday + timedelta(days=2)
    coins = markets.history(400).filter((pl.col("underlying") != "OIL") & (pl.col("time") <= friday))
    oil = series("OIL", walk("OIL", 70.0, 280), closes(280, last=friday))
    last = coins.filter((pl.col("underlying") == "BTC") & (pl.col("time") == friday))["price"].item()
    crash = series("BTC", [last * 0.8, last * 0.6], [friday + timedelta(days=1), sunday])
    found = factors(pl.concat([coins, oil, crash]), as_of=sunday)
    assert found.gap_return[0] == pytest.approx(np.log(80_000 / last))
    assert found.gap_bars[0] >= 1


def test_lost_days_of_a_coin_slow_nothing_down() -> None:
    lossy = [day for k, day in enumerate(days(300)) if k % 10 and not 100 < k < 130]
    for other in ([flat("ETH", days(300))], [flat("ETH", days(300)), flat("SOL", days(300))]):
        found = grid(flat("BTC", lossy), *other)
        assert stamps(found) == days(300)
        assert found.bars_per_week == 7.0


def test_exchanges_that_close_at_different_hours_share_the_bar_of_their_day() -> None:
    tokyo = [day + timedelta(hours=6) for day in business_days(200)]
    found = grid(flat("N225", tokyo), flat("SPX", closes(200)), flat("BTC", days(280)))
    assert set(closes(200)) <= set(stamps(found))
    assert len({stamp.date() for stamp in stamps(found)}) == len(stamps(found))


def test_a_slow_series_that_starts_later_lengthens_no_day_before_it() -> None:
    found = grid(flat("BTC", days(600)), flat("SPX", closes(100)))
    start = closes(100)[0]
    before = [stamp for stamp in stamps(found) if stamp < start]
    assert before == [day for day in days(600) if day < start - CLOSE and day.weekday() < 5]
    assert found.bars_per_day == 1.0


def test_a_series_that_ended_keeps_its_past_and_the_others_go_on() -> None:
    dead = days(200, last=AS_OF - timedelta(days=100))
    found = grid(flat("BTC", days(400)), flat("LUNA", dead))
    assert stamps(found) == days(400)
    column = on_grid(found, numpy_times(dead), np.arange(200.0))
    assert np.flatnonzero(~np.isnan(column)).tolist() == list(range(100, 300))


def test_only_leading_series_slow_the_grid() -> None:
    bars = flat("BTC", days(300)), flat("OLD", business_days(100, last=AS_OF - timedelta(days=150)))
    assert grid(*bars, leading=["BTC"]).bars_per_week == 7.0
    assert grid(*bars, leading=["BTC", "OLD"]).bars_per_week == 5.0
    assert grid(*bars, leading=[]).bars_per_week == 7.0


@pytest.mark.parametrize("listed", [1, 2, 3, 5, 8, 40])
def test_a_coin_of_a_few_bars_makes_no_calendar(listed: int) -> None:
    history = pl.concat([markets.history(), series("NEW", walk("NEW", 5.0, listed))])
    found = factors(history)
    assert len(found.times) == markets.BARS - 1
    assert (found.grid.bars_per_day, found.grid.bars_per_week) == (1.0, 7.0)


# ---- hours and weeks ----


def test_hourly_bars_make_twenty_four_to_a_day() -> None:
    found = grid(flat("BTC", hours(24 * 30)), flat("ETH", hours(24 * 30)))
    assert (found.bars_per_day, found.bars_per_week) == (24.0, 168.0)
    assert stamps(found) == hours(24 * 30)


def test_hourly_stamps_that_differ_by_minutes_are_one_bar() -> None:
    late = [stamp + timedelta(minutes=1) for stamp in hours(24 * 30)]
    found = grid(flat("BTC", hours(24 * 30)), flat("ETH", late))
    assert stamps(found) == late
    assert found.bars_per_day == 24.0
    column = on_grid(found, numpy_times(hours(24 * 30)), np.arange(720.0))
    assert column.tolist() == np.arange(720.0).tolist()


def test_an_hourly_coin_of_five_days_keeps_no_five_day_week() -> None:
    found = grid(flat("BTC", hours(24 * 60)), flat("NEW", hours(24 * 5)))
    assert stamps(found) == hours(24 * 60)
    assert found.bars_per_week == 168.0


def test_minutes_before_the_life_of_hourly_bars_are_hours_too() -> None:
    minutes = days(60 * 24 * 4, step=timedelta(minutes=1))
    found = grid(flat("BTC", minutes), flat("ETH", hours(24 * 2, last=AS_OF - timedelta(hours=1))))
    assert found.bars_per_day == 24.0
    assert 3.9 * 24 < len(found.times) < 4.1 * 24
    steps = np.diff(found.times).astype("timedelta64[m]").astype(int)
    assert set(steps[1:-1].tolist()) <= {29, 31, 60, 89, 91}


def test_hours_of_an_exchange_are_the_hours_of_the_coins_beside_it() -> None:
    session = [day + timedelta(hours=14 + k) for day in business_days(60) for k in range(7)]
    found = grid(flat("BTC", hours(24 * 120)), flat("SPX", session))
    assert (found.bars_per_day, found.bars_per_week) == (7.0, 35.0)
    assert {stamp.hour for stamp in stamps(found)} == set(range(14, 21))
    assert {stamp.weekday() for stamp in stamps(found)} == set(range(5))


def test_hourly_coins_beside_daily_closes_keep_days() -> None:
    found = grid(flat("BTC", hours(24 * 100)), flat("SPX", closes(60)))
    assert (found.bars_per_day, found.bars_per_week) == (1.0, 5.0)
    assert set(closes(60)) <= set(stamps(found))


def test_a_day_of_hourly_bars_sums_twenty_four() -> None:
    bars = 24 * 20
    walks = [
        series(name, walk(name, last, bars, volatility=0.005), hours(bars)) for name, last in markets.INDEX.items()
    ]
    result = margin(tables(history=pl.concat(walks)))
    scenarios = result.manifest["scenarios"]
    assert scenarios["bars_per_day"] == 24.0
    assert scenarios["count"] == bars - 1 - 23
    assert scenarios["last"] == "2025-12-31 01:00 to 2026-01-01 00:00"
    hour = margin(tables(history=pl.concat(walks)), config(f"risk.horizon_days = {1 / 24}"))
    ratio = row(result, "long")["expected_shortfall"] / row(hour, "long")["expected_shortfall"]
    # The square root of 24 is 4.9; twenty days hold few independent ones.
    assert 2.5 < ratio < 7


def test_weekly_bars_are_fifths_of_a_day_and_scale_by_the_root() -> None:
    fridays = days(260, last=datetime(2025, 12, 26, tzinfo=UTC), step=WEEK)
    weekly = pl.concat([series(name, walk(name, last), fridays) for name, last in markets.INDEX.items()])
    found = factors(weekly)
    assert found.grid.bars_per_week == pytest.approx(1.0, rel=0.01)
    assert found.grid.bars_per_day == pytest.approx(0.2, rel=0.01)
    daily = margin(tables())
    result = margin(tables(history=weekly), config(half_life_days=23.0 * 5, stale_after_days=10.0))
    ratio = row(result, "long")["expected_shortfall"] / row(daily, "long")["expected_shortfall"]
    # The same returns, of weeks instead of days: a day is the square root of a fifth of a week.
    assert 0.3 < ratio < 0.65
    assert row(result, "long")["status"] == "ok"


def test_coins_beside_weekly_or_monthly_series_keep_their_strides_where_those_have_no_life() -> None:
    for step, count in ((7, 30), (30, 12)):
        slow = days(count, last=AS_OF - timedelta(days=2), step=timedelta(days=step))
        found = grid(flat("BTC", days(800)), flat("CPI", slow))
        steps = np.diff(found.times).astype("timedelta64[D]").astype(int)
        assert set(slow) <= set(stamps(found))
        assert set(steps) <= {step - 1, step, step + 1}
        assert len(found.times) > 700 / step
        assert found.bars_per_day == pytest.approx(7 / step / 5, rel=0.1)


def test_bars_between_counts_bars_of_the_calendar() -> None:
    friday, monday = np.datetime64("2026-01-02", "us"), np.datetime64("2026-01-05", "us")
    times = np.array([friday, np.datetime64("2025-12-15", "us"), np.datetime64("NaT", "us")], "datetime64[us]")
    assert Grid(times, 1.0, 7.0).bars_between(times, monday)[:2].tolist() == [3, 21]
    assert Grid(times, 1.0, 5.0).bars_between(times, monday)[:2].tolist() == [2, 15]
    assert np.isnan(Grid(times, 1.0, 5.0).bars_between(times, monday)[2])
