"""What a fit is asked for from Python: settings in range, and the forms that people give dates, keys and weights in."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from calibration._fits import config, group
from calibration._histories import prices, table
from marginax.problems import BadInput
from marginax_calibration.commands.search_display import search_display
from marginax_calibration.dates import time_of
from marginax_calibration.fitting import Settings, Weights, fit, read_groups
from marginax_calibration.fitting.arguments import keys_of, weights_of
from marginax_calibration.fitting.objective import TERMS
from marginax_calibration.fitting.state import State
from marginax_calibration.portfolios import Leg, portfolio


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "newton"}, "no method"),
        ({"starts": 0}, "`starts` is 0"),
        ({"steps": 2.5}, "`steps` is 2.5; give a whole number"),
        ({"seed": -1}, "`seed` is -1"),
        ({"rate": 0.0}, "`rate` is 0.0"),
        ({"rate": float("nan")}, "`rate` is nan"),
        ({"spread": -0.1}, "`spread` is -0.1"),
        ({"softness": 0.1}, "`softness` is 0.1; give two numbers"),
        ({"softness": (0.01, 0.08)}, "the wide one first"),
        ({"softness": (0.1, 0.0)}, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"by": "sector"}, "`by` is 'sector'; say all, class or underlying"),
        ({"check_share": 0.6}, "`check_share` is 0.6"),
        ({"check_share": float("nan")}, "`check_share` is nan"),
        ({"embargo_bars": -1}, "`embargo_bars` is -1"),
        ({"objective": {"speed": 1.0}}, "`speed` is no term"),
        ({"objective": {"cost": -1.0}}, "`cost` is -1.0"),
        ({"first_time": "2030-01-01"}, "first_time: 2030-01-01 is after the last bar"),
        ({"first_time": "2022-01-01", "last_time": date(2021, 1, 1)}, "last_time: 2021-01-01 is before"),
        ({"last_time": "soon"}, "last_time: 'soon' was given"),
        ({"last_time": 20220101}, "last_time: a int was given"),
    ],
)
def test_a_fit_refuses_by_name_what_is_out_of_range(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(config(), [group()], **wrong)


def test_an_objective_is_weights_or_those_that_differ() -> None:
    assert weights_of({"cost": 0.5}) == Weights(cost=0.5)
    assert weights_of(None) == Weights()
    with pytest.raises(TypeError, match="the objective is a list; give Weights, or a dict"):
        weights_of(["cost"])  # type: ignore[arg-type]


def test_a_portfolio_of_what_has_no_history_is_told_by_name() -> None:
    with pytest.raises(BadInput, match=r"'mine' holds 'BTV', which is no underlying of the history. .* `BTC`"):
        read_groups(table(prices()), [portfolio("mine", "own", [Leg("BTV", 1.0)])])


def test_keys_may_be_one_text() -> None:
    assert keys_of("filter.alpha, filter.beta") == keys_of(["filter.alpha", "filter.beta"])
    assert keys_of("") == ()


def test_dates_in_any_form_are_utc() -> None:
    noon = np.datetime64("2026-01-31T12:00:00", "us")
    cet = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    for given in ("2026-01-31T12:00", "2026-01-31T13:00+01:00", cet, datetime(2026, 1, 31, 12, tzinfo=UTC), noon):
        assert time_of(given, "x", last=True) == noon
    end = np.datetime64("2026-02-01", "us") - np.timedelta64(1, "us")
    for day in ("2026-01-31", date(2026, 1, 31)):
        assert time_of(day, "x") == np.datetime64("2026-01-31", "us")
        assert time_of(day, "x", last=True) == end
    with pytest.raises(BadInput, match="x: 'NaT' was given"):
        time_of(np.datetime64("NaT"), "x")


def test_a_search_without_a_terminal_tells_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    def row(on: str, objective: float, start: int = 0) -> dict[str, Any]:
        return {"start": start, "on": on, "objective": objective, **dict.fromkeys(TERMS, 0.25)}

    def state(step: int) -> State:
        none = np.zeros((2, 1))
        return State(step, none, None, none, none[:, 0], none[:, 0], np.zeros(2, bool))

    with search_display(Settings(steps=20)) as show:
        show(state(0), [row("checked", 2.0), row("checked", 1.5, start=1)])
        show(state(1), [row("fitted", 1.0)])
        show(state(10), [row("fitted", 1.0), row("checked", 1.75)])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 0 of at most 20, 0 s: best objective 1.5000 (start 2: fz0 0.25")
    assert second.startswith("step 10 of at most 20")
    assert "s left: best objective 1.5000 (start 2" in second
