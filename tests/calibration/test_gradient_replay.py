"""The replay that a gradient flows through: its margins are those of a replay, its slopes finite differences."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from calibration._fits import config, ground, group
from calibration._histories import FIGURES, at_bar, configured, held, played, prices
from calibration._histories import panel as panel_of
from marginax.problems import BadInput
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.ground import Ground
from marginax_calibration.fitting.parameters import tunable

LAST = 330


@cache
def doubled() -> Ground:
    return ground(last=LAST, double=True)


def test_margins_are_those_of_a_replay() -> None:
    numbers = tunable(config())
    here = ground(numbers, last=LAST)
    parts = here.parts()
    (table,), _ = here.margins(numbers.start[None], parts)
    daily = played(group().panel, {"dynamic": numbers.model}).daily
    names = list(held())
    for part in parts[:1]:
        for row in (0, 13, 60):
            found = at_bar(daily, part.stretch.low + row)
            for k, name in enumerate(names):
                if ("dynamic", name) in found:
                    wanted = [found["dynamic", name][figure] for figure in FIGURES]
                    # Here the scenarios are prepared in float32 too.
                    assert table[0, row, k] == pytest.approx(wanted, rel=2e-4), (row, name)


def test_its_slopes_are_finite_differences_in_every_number() -> None:
    """Through the filters, the correlation map, repricing, selection, dependence and the tools, in float64."""
    here = doubled()
    parts, start = here.parts()[:1], here.tunable.start
    tables, pull = here.margins(start[None], parts)
    rng = np.random.default_rng(5)
    ways = [np.where(np.isnan(table), 0, rng.standard_normal(table.shape)) for table in tables]
    slopes = pull(ways)[0]

    def value(values: np.ndarray) -> float:
        (table,), _ = here.margins(values[None], parts)
        return float(np.nansum(table * ways[0]))

    for k, each in enumerate(here.tunable.free):
        step = np.zeros(len(start))
        # Small enough that no scenario overtakes another at the edge, and 1e4 roundings of the sum at least.
        step[k] = 1e-7 * start[k]
        difference = (value(start + step) - value(start - step)) / (2 * step[k])
        assert slopes[k] == pytest.approx(difference, rel=2e-4, abs=2e-4 * abs(slopes).max()), each.key


def test_several_sets_of_numbers_are_each_by_itself_to_the_last_bit() -> None:
    here = ground(last=LAST)
    parts, start = here.parts()[:1], here.tunable.start
    both = np.stack([start, 1.05 * start])
    (table,), pull = here.margins(both, parts)
    ways = np.where(np.isnan(table), 0, 1.0)
    slopes = pull([ways])
    for k in range(2):
        (alone,), back = here.margins(both[k : k + 1], parts)
        np.testing.assert_array_equal(table[k], alone[0])
        np.testing.assert_array_equal(slopes[k], back([ways[k : k + 1]])[0])


def test_another_future_changes_no_margin_and_no_slope() -> None:
    closes = prices().copy()
    closes[LAST + 1 :] *= np.linspace(1, 3, len(closes) - LAST - 1)[:, None]
    other = CalendarGroup(panel_of(closes), group().portfolios, {}, {})
    numbers = tunable(config())
    end = np.datetime64("2021-11-27", "us")
    found = []
    for each in (group(), other):
        here = Ground(numbers, [each], last_time=end, streams=1)
        parts = [part for part in here.parts() if here.end(part) <= end]
        (table,), pull = here.margins(numbers.start[None], parts)
        found.append((table, pull([np.where(np.isnan(table), 0, 1.0)])))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("preset", "said"), [("static", "keeps its margins"), ("garch", "likelihood of its own")])
def test_models_that_no_gradient_flows_through_are_refused(preset: str, said: str) -> None:
    settings: Any = configured(preset).settings
    with pytest.raises(BadInput, match=said):
        ground(tunable(settings, ["risk.maintenance_ratio"]))
