"""The search: the same for a seed, resumed to the same result, stopped by name where it has no number."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from calibration._fits import config, ground, group
from calibration._histories import held, panel, prices, usual_panel
from marginax.models.load import model_config
from marginax.problems import BadInput
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.ground import LEAST_CHECKED, Ground
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.parameters import tunable
from marginax_calibration.fitting.search import Search
from marginax_calibration.fitting.state import NotFinite, Settings, State

KEYS = ("filter.fast_share", "scenarios.volatility_floor")


@cache
def world() -> Ground:
    return ground(tunable(config(), KEYS))


def search(**settings: Any) -> Search:
    here = world()
    parts = here.parts()
    usual = {"steps": 6, "starts": 2, "batch": 2, "check_every": 2, "rate": 0.1}
    return Search(here, parts[:3], parts[3:], Weights(), Settings(**{**usual, **settings}))


@cache
def ended() -> tuple[State, tuple[dict[str, Any], ...]]:
    rows: list[dict[str, Any]] = []
    here = search()
    return here.run(here.begin(), lambda _, more: rows.extend(more)), tuple(rows)


@pytest.mark.long
def test_a_search_tells_every_term_of_every_step_and_keeps_the_best_that_was_checked() -> None:
    end, rows = ended()
    assert {row["on"] for row in rows} == {"fitted", "checked"}
    assert [row["step"] for row in rows if row["on"] == "fitted" and row["start"] == 0] == [1, 2, 3, 4, 5, 6]
    for start in range(2):
        checked = {row["step"]: row["objective"] for row in rows if row["on"] == "checked" and row["start"] == start}
        assert end.best_value[start] == pytest.approx(min(checked.values()), abs=2e-4)
        assert checked[int(end.best_step[start])] == end.best_value[start]
    for row in rows:
        wanted = sum(getattr(Weights(), name) * row[name] for name in row if hasattr(Weights(), name))
        assert row["objective"] == pytest.approx(wanted)


@pytest.mark.long
def test_a_search_that_was_stopped_goes_on_to_the_same_result() -> None:
    here, kept = search(), []

    class Stop(Exception):
        pass

    def stopping(state: State, _: Any) -> None:
        kept.append(state)
        if state.step == 4:
            raise Stop

    with pytest.raises(Stop):
        here.run(here.begin(), stopping)
    end = here.run(kept[-1])
    for found, wanted in zip(end, ended()[0], strict=True):
        np.testing.assert_equal(found, wanted)


def test_another_seed_searches_otherwise() -> None:
    here = search(seed=8)
    assert not np.array_equal(here.begin().free[1], search().begin().free[1])


@pytest.mark.long
def test_l_bfgs_only_goes_down() -> None:
    rows: list[dict[str, Any]] = []
    here = search(method="lbfgs", starts=1, steps=3)
    here.run(here.begin(), lambda _, more: rows.extend(more))
    fitted = [row["objective"] for row in rows if row["on"] == "fitted"]
    assert len(fitted) > 1
    assert fitted == sorted(fitted, reverse=True)


@pytest.mark.long
def test_a_start_that_settles_between_checks_is_judged_where_it_stands() -> None:
    here = search(method="lbfgs", starts=1, steps=200, check_every=200)
    end = here.run(here.begin())
    assert end.done.all()
    assert end.step < 200
    assert end.best_step[0] == end.step
    np.testing.assert_array_equal(end.best, end.free)


def test_every_set_of_numbers_that_is_given_is_a_start() -> None:
    here = search(starts=1)
    own = here.ground.tunable.start
    assert len(here.begin([own * 1.1, own * 1.2]).free) == 3
    assert len(here.begin([own]).free) == 1


@pytest.mark.long
def test_a_start_without_improvement_stops_early() -> None:
    here = search(steps=40, patience=1, rate=1e-4, starts=1)
    assert here.run(here.begin()).step < 40


@pytest.mark.long
def test_the_gradient_of_the_whole_objective_is_a_finite_difference() -> None:
    """Through the bijectors, margins, terms and prior, in float64 and with soft breaches."""
    here = ground(tunable(config(), KEYS), last=330, double=True)
    parts = here.parts()[:1]
    one = Search(here, parts, [], Weights(coverage=0.5), Settings(softness=(0.2, 0.2)))
    free = one.begin().free[:1] + 0.1
    _, gradient, _ = one.value(free, parts, 0.2)
    for k in range(len(KEYS)):
        step = np.zeros_like(free)
        step[0, k] = 1e-4
        ends = [one.value(free + sign * step, parts, 0.2)[0][0] for sign in (1, -1)]
        # Margins are float64 and their terms float32: two roundings of 1.2e-7 in a difference over 2e-4.
        assert gradient[0, k] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=0.01, abs=1e-3)


@pytest.mark.long
def test_an_objective_that_is_no_number_says_which_term_and_which_day() -> None:
    here = search()
    played = world().calendars[0].replay
    usual = played.margins

    def broken(values: Any, stretches: Any) -> Any:
        tables, pull = usual(values, stretches)
        tables[:, 17, 0, 2] = np.nan
        return tables, pull

    played.margins = broken  # type: ignore[method-assign]
    try:
        with pytest.raises(
            NotFinite, match=r"`cost`.* is no number: on 20\d\d-\d\d-\d\d a margin is none of 'long AAA'"
        ):
            here.run(here.begin())
    finally:
        played.margins = usual  # type: ignore[method-assign]


@pytest.mark.long
def test_a_slope_that_is_no_number_says_which_numbers_and_which_day(monkeypatch: pytest.MonkeyPatch) -> None:
    here = search()
    played = world().calendars[0].replay
    usual = played.margins
    bar = here.fitted[0].stretch.low + 9

    def broken(values: Any, stretches: Any) -> Any:
        tables, pull = usual(values, stretches)
        hit = any(each.low <= bar < each.high for each in stretches)

        def lost(slopes: Any, **way: Any) -> Any:
            return pull(slopes, **way) * np.array([np.nan if hit else 1.0, 1.0])

        return tables, lost

    monkeypatch.setattr(played, "margins", broken)
    day = np.datetime_as_string(world().calendars[0].times[bar + 1], unit="D")
    with pytest.raises(NotFinite, match=rf"slope in `filter.fast_share` is no number on {day}; terms there: `cost` "):
        here.value(here.begin().free, here.fitted, 0.05)


@pytest.mark.long
def test_a_prior_counts_where_nothing_is_held_back() -> None:
    parts = world().parts()
    held = Search(world(), parts[:3], [], Weights(anchor=1e6), Settings(steps=1, starts=2, check_every=1, rate=0.1))
    end = held.run(held.begin())
    # The random start is held to be far worse than the configuration's, whatever its margins are.
    assert end.best_value[1] > end.best_value[0] + 100
    assert end.best_value[0] < 0


def test_a_calendar_that_is_too_young_is_left_out() -> None:
    new = CalendarGroup(panel(prices()[:120]), tuple(held().values())[:2], {}, {})
    both = Ground(tunable(config(), KEYS), [new, group()], streams=1)
    assert len(both.calendars) == 1
    assert both.groups == (group(),)
    assert set(both.left_out) == {each.name for each in new.portfolios}


def test_windows_that_do_not_fit_the_history_are_refused() -> None:
    here = world()
    with pytest.raises(BadInput, match="stretches of 64 to fit on"):
        here.split(0.5)
    with pytest.raises(BadInput, match="no portfolio has a bar to fit on"):
        ground(tunable(config(), KEYS), last=200)


@pytest.mark.parametrize(("last", "stretches"), [(540, 1), (515, 2)])
def test_what_is_fitted_ends_before_what_is_checked_begins_and_that_is_half_a_stretch(
    last: int, stretches: int
) -> None:
    """Where the last stretch is shorter than that, the one before it is checked on too."""
    here = world() if last == 540 else ground(tunable(config(), KEYS), last=last)
    fitted, checked = here.split(0.01)
    assert max(here.end(part) for part in fitted) < min(here.time(part) for part in checked)
    assert len(checked) == stretches
    assert sum(part.stretch.high - part.stretch.low for part in checked) >= LEAST_CHECKED
    assert len(fitted) + len(checked) == len(here.parts())


def test_an_embargo_keeps_so_many_bars_between_what_is_fitted_and_what_is_checked() -> None:
    here = world()
    fitted, checked = here.split(0.01, embargo_bars=10)
    times = here.calendars[0].times
    between = (times > max(here.end(part) for part in fitted)) & (times < min(here.time(part) for part in checked))
    assert between.sum() >= 10
    assert len(fitted) + len(checked) < len(here.parts())


def test_an_embargo_counts_bars_of_the_calendar_that_is_checked_on() -> None:
    """A calendar that ends two bars before the other's check has no bars of its own to wait for."""
    _, checked = world().split(0.01)
    begin = int(np.searchsorted(usual_panel().grid.times, min(world().time(part) for part in checked)))
    ended = CalendarGroup(panel(prices()[: begin - 1]), tuple(held().values())[:2], {}, {})
    both = Ground(tunable(config(), KEYS), [ended, group()], streams=1)
    near, far = (both.split(0.01, embargo_bars=bars)[0] for bars in (0, 10))
    assert sum(part.group == 0 for part in far) == sum(part.group == 0 for part in near) - 1


@pytest.mark.parametrize(("least", "share"), [(491, 0.2), pytest.param(380, 0.0, marks=pytest.mark.long)])
def test_the_least_history_is_what_the_readme_says(least: int, share: float) -> None:
    def split(prices_given: int) -> tuple[list[Any], list[Any]]:
        young = CalendarGroup(panel(prices()[:prices_given]), tuple(held().values())[:2], {}, {})
        return Ground(tunable(model_config("dynamic"), ["filter.alpha"]), [young], streams=1).split(share)

    assert len(split(least)[0]) == 3
    with pytest.raises(BadInput, match="stretches of 64 to fit on"):
        split(least - 1)
