"""Walking forward: each fit knows what was known at its date, and margins until the next."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from calibration._fits import config, group
from calibration._histories import DAYS, held, prices
from calibration._histories import panel as panel_of
from marginax.parameter_file import base_hash, read_document
from marginax.problems import BadInput
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.commands.calibrate_report import tell
from marginax_calibration.fitting import save_fit
from marginax_calibration.fitting.state import Settings
from marginax_calibration.fitting.walk import FITTED, Walk, walk_forward, yearly
from marginax_calibration.replay import replay

KEYS = ("filter.fast_share", "scenarios.volatility_floor")
SEARCH = Settings(steps=2, batch=1, starts=1, check_every=2, rate=0.2)
DATES = [np.datetime64(DAYS[bar].replace(tzinfo=None), "us") for bar in (515, 530)]
# Two steps do not get past the anchor.
SCORES = {"anchor": 0.0}


def walked(groups: list[CalendarGroup], dates: Sequence[Any] = DATES, **options: Any) -> Walk:
    return walk_forward(
        config(filter={"kind": "two_speed"}), groups, dates, settings=SEARCH, keys=KEYS, objective=SCORES,
        check_share=0.0, streams=1, purge_days=3, **options,
    )  # fmt: skip


@cache
def usual() -> Walk:
    return walked([group()], [DAYS[515], f"{DAYS[530]:%Y-%m-%d}"])


def test_a_fit_ends_before_its_date_by_the_purge() -> None:
    for date, found in usual().fits.items():
        last = np.datetime64(found.data["fitted"]["last"])
        assert last == date.astype("datetime64[D]") - np.timedelta64(3, "D")
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


def test_a_date_is_the_time_that_it_says_in_any_form() -> None:
    assert list(usual().fits) == DATES


def test_a_fit_tells_itself_in_a_line() -> None:
    told = repr(usual().fits[DATES[0]])
    assert told.startswith("Fit(dynamic: filter.fast_share=")
    assert "objective on what was fitted" in told
    assert len(told) < 200


def test_one_start_agrees_with_nothing_and_its_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = usual().fits[DATES[0]]
    assert found.agreed is None
    save_fit(found, tmp_path / "fit.json")
    document = read_document(tmp_path / "fit.json")
    assert document["diagnostics"]["starts_agree"] is None
    assert document["base"] == base_hash("dynamic")
    tell(found)
    assert "No two starts began apart" in capsys.readouterr().out


def test_what_was_approved_is_not_replaced_unasked(tmp_path: Path) -> None:
    found, file = usual().fits[DATES[0]], tmp_path / "fit.json"
    save_fit(found, file)
    approved = file.read_text().replace('"approval": null', '"approval": {"by": "somebody"}')
    file.write_text(approved)
    with pytest.raises(BadInput, match="holds parameters that were approved"):
        save_fit(found, file)
    assert file.read_text() == approved
    save_fit(found, file, overwrite=True)
    assert file.read_text() != approved
    with pytest.raises(BadInput, match="there is no folder"):
        save_fit(found, tmp_path / "nowhere" / "fit.json")


def test_a_fit_that_found_nothing_better_says_so_and_who_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    found = usual().fits[DATES[0]]
    stayed, moved = (replace(found.starts[0], step=step) for step in (0, 2))
    assert replace(found, starts=(moved,)).improved
    out = {"long LATE": "LATE begins on 2030-01-01, after the data ends"}
    tell(replace(found, starts=(stayed,), data={**found.data, "left_out": out}))
    told = capsys.readouterr().out
    assert "Nothing better was found than the numbers it started from." in told
    assert "1  LATE begins on 2030-01-01" in told
    assert [line for line in told.splitlines() if line != line.rstrip()] == []
    better = replace(found.starts[0], objective=found.starts[0].objective - 1)
    assert replace(found, starts=(stayed, better)).improved


@pytest.mark.long
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
    with pytest.raises(BadInput, match="dates: are none"):
        walked([group()], [])
    with pytest.raises(BadInput, match="do not rise"):
        walked([group()], [DATES[1], str(DATES[0])])
    with pytest.raises(BadInput, match="dates: 'soon' was given"):
        walked([group()], ["soon"])
    with pytest.raises(BadInput, match="there is no such file"):
        walk_forward(config(), "nothing.csv", DATES)
    with pytest.raises(BadInput, match="to fit on"):
        walked([group()], [np.datetime64("2021-06-01", "us")])


def test_dates_by_the_year_are_the_same_day() -> None:
    dates = yearly(np.datetime64("2019-12-01", "us"), np.datetime64("2024-06-01", "us"), 2)
    assert [str(date)[:10] for date in dates] == ["2019-12-01", "2021-12-01", "2023-12-01"]


def test_the_last_of_february_stays_in_february() -> None:
    dates = yearly(np.datetime64("2020-02-29", "us"), np.datetime64("2024-02-29", "us"), 1)
    assert [str(date)[:10] for date in dates] == ["2020-02-29", "2021-02-28", "2022-02-28", "2023-02-28"]
