"""Walking forward: each fit knows what was known at its date, and margins until the next."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from calibration._fits import config, group
from calibration._histories import DAYS, held, prices
from calibration._histories import panel as panel_of
from marginax.problems import BadInput
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.state import Settings
from marginax_calibration.fitting.walk import FITTED, Walk, walk_forward, yearly
from marginax_calibration.replay import replay

KEYS = ("filter.fast_share", "scenarios.volatility_floor")
SEARCH = Settings(steps=2, batch=1, starts=1, check_every=2, rate=0.2)
DATES = [np.datetime64(DAYS[bar].replace(tzinfo=None), "us") for bar in (515, 530)]


def walked(groups: list[CalendarGroup], dates: list[np.datetime64] = DATES, **options: Any) -> Walk:
    return walk_forward(
        config(), groups, dates, settings=SEARCH, keys=KEYS, check_share=0.0, streams=1, purge_days=3, **options
    )


@cache
def usual() -> Walk:
    return walked([group()])


def test_a_fit_ends_before_its_date_by_the_purge() -> None:
    for date, found in usual().fits.items():
        last = np.datetime64(found.data["fitted"]["last"])
        assert last <= date - np.timedelta64(3, "D")
    first, second = usual().fits.values()
    assert not np.array_equal(first.values, second.values)


def test_margins_are_those_of_the_last_fit() -> None:
    daily = usual().daily
    assert daily["model"].unique().to_list() == [FITTED]
    assert daily["date"].min() == DATES[0].astype("datetime64[D]").item()
    for (begin, found), end in zip(usual().fits.items(), [DATES[1] - np.timedelta64(1, "us"), None], strict=True):
        own = replay(
            {FITTED: found.model}, group().panel, list(held().values()), streams=1, first_time=begin, last_time=end
        ).daily
        dates = own["date"].unique().implode()
        assert daily.filter(pl.col("date").is_in(dates)).equals(own)


def test_another_future_changes_no_fit_before_it() -> None:
    closes = prices().copy()
    closes[513:] *= 2.0
    other = walked([CalendarGroup(panel_of(closes), group().portfolios, {}, {})], DATES[:1])
    np.testing.assert_array_equal(other.fits[DATES[0]].values, usual().fits[DATES[0]].values)


@pytest.mark.parametrize("days", [0, -20])
def test_a_purge_of_less_than_a_bar_is_refused(days: int) -> None:
    with pytest.raises(BadInput, match="Give 1 or more"):
        walk_forward(config(), [group()], DATES, settings=SEARCH, purge_days=days)


def test_dates_that_do_not_rise_or_have_no_history_are_refused() -> None:
    with pytest.raises(BadInput, match="do not rise"):
        walked([group()], [DATES[1], DATES[0]])
    with pytest.raises(BadInput, match="to fit on"):
        walked([group()], [np.datetime64("2021-06-01", "us")])


def test_dates_by_the_year_are_the_same_day() -> None:
    dates = yearly(np.datetime64("2019-12-01", "us"), np.datetime64("2024-06-01", "us"), 2)
    assert [str(date)[:10] for date in dates] == ["2019-12-01", "2021-12-01", "2023-12-01"]
