"""Histories as they are: bars missing, legs that list late or die, prices that never move, hours, and bad input."""

from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._histories import (
    BARS,
    DAYS,
    FIGURES,
    LEAST,
    LISTED,
    NAMES,
    at_bar,
    baselines,
    between,
    columns,
    configured,
    held,
    panel,
    played,
    prices,
    table,
    usual,
    usual_panel,
)
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax.models.scenario_model import Charges
from marginax_calibration.models import BASELINES
from marginax_calibration.panel import Panel, read_panel
from marginax_calibration.portfolios import Leg, portfolio
from marginax_calibration.replay import LEAST_SHORTFALL, Replay, replay

QUICK = ("fixed_legs", "static", "ewma")


def quick() -> dict[str, mx.MarginModel]:
    """Three baselines that cost next to nothing."""
    return {name: baselines()[name] for name in QUICK}


def long(name: str, option: str = "") -> list:
    """One portfolio: long in an underlying, or in an option on it."""
    return [portfolio(f"long {name}", "long", [Leg(name, 1.0, option, 0.0, 30.0 if option else 0.0)])]


# --- Bars missing ----------------------------------------------------------------------------------------------------


def test_a_missing_bar_loses_nothing_and_the_next_one_carries_the_whole_move() -> None:
    """CCC misses bars 300 and 301: its portfolios have a row for every day all the same."""
    closes = prices().copy()
    closes[300:302, 2] = np.nan
    history = panel(closes)
    assert history.holes == {"CCC": 2}
    daily = played(history, quick(), **between(290, 310)).daily
    chosen = held()["basket"]
    for bar in range(298, 304):
        row = at_bar(daily, bar)["ewma", "basket"]
        before, after = (np.where(np.isnan(closes[t]), closes[299], closes[t]) for t in (bar, bar + 1))
        wanted = -sum(weight * (after[k] / before[k] - 1) for k, weight in columns(chosen).items())
        assert row["loss"] == pytest.approx(wanted, abs=1e-14)
    # Over the three days all of CCC's move is there: the sum of quarters of three moves and of one over three bars.
    alone = [at_bar(daily, bar)["ewma", "spread"]["loss"] for bar in (299, 300, 301)]
    others = [0.5 * (closes[t + 1, 3] / closes[t, 3] - 1) for t in (299, 300, 301)]
    assert sum(alone) - sum(others) == pytest.approx(-0.5 * (closes[302, 2] / closes[299, 2] - 1), abs=1e-14)


def test_nothing_is_dropped_for_a_missing_bar() -> None:
    closes = prices().copy()
    closes[[260, 300, 301, 355], 2] = np.nan
    daily = played(panel(closes), quick()).daily
    assert daily.height == usual().daily.filter(pl.col("model").is_in(QUICK)).height
    assert daily.null_count().sum_horizontal().item() == 0


def test_where_nothing_stands_in_for_it_a_price_missing_for_months_keeps_its_margin() -> None:
    """A history older than 60 days counts as none and its proxy takes over; without a proxy a zero would be free."""
    closes = prices()[:, [0, 2, 3]].copy()
    closes[300:400, 0] = np.nan
    history = panel(closes, ("AAA", "CCC", "DDD"))
    daily = replay({"ewma": baselines()["ewma"]}, history, long("AAA"), streams=1).daily
    assert daily["es"].min() > 0.5 * daily["es"].median()


# --- Legs that list and die ------------------------------------------------------------------------------------------

FALLS = {400: 0.4, 401: 0.03, 402: 0.003}


@cache
def luna() -> tuple[Panel, Replay]:
    """LUNA, there from the first bar, loses 60 %, 97 % and 99.7 % on three days, and is delisted."""
    closes, rng = prices().copy(), np.random.default_rng(9)
    closes[:400, 4] = 7 * np.exp(np.cumsum(0.03 * rng.standard_normal(400)))
    for bar, left in FALLS.items():
        closes[bar, 4] = left * closes[bar - 1, 4]
    closes[403:, 4] = np.nan
    history = panel(closes, (*NAMES[:4], "LUNA"))
    return history, played(history, quick())


def test_a_leg_that_dies_takes_its_portfolios_with_it_after_its_last_loss() -> None:
    _, answer = luna()
    for bar, left in FALLS.items():
        assert at_bar(answer.daily, bar - 1)["ewma", "long last"]["loss"] == pytest.approx(1 - left, abs=1e-12)
    for name, each in held(last="LUNA").items():
        dates = answer.daily.filter(portfolio=name)["date"]
        dies = "LUNA" in each.underlyings
        assert dates.max() == DAYS[402 if dies else BARS - 1].date()
        assert dates.n_unique() == (402 if dies else BARS - 1) - LEAST
    # The margin of the last day has seen the first two falls.
    charged = answer.daily.filter(portfolio="long last", model="ewma").sort("date")["charged"]
    assert charged[-1] > 5 * charged[-3]


def test_the_life_of_a_portfolio_says_why_it_is_short() -> None:
    _, answer = luna()
    reasons = dict(zip(held(last="LUNA"), (life.reason for life in answer.lives), strict=True))
    ends = f"LUNA ends on {DAYS[402]:%Y-%m-%d}"
    assert reasons == {name: ends if "last" in name or name == "all but one" else "" for name in reasons}
    begins = dict(zip(held(), (life.reason for life in usual().lives), strict=True))
    assert begins["long last"] == f"NEW begins on {DAYS[LISTED]:%Y-%m-%d}, and the models need 250 returns"
    assert begins["basket"] == ""


def test_a_portfolio_begins_when_its_youngest_leg_has_the_least_window() -> None:
    rows = usual().daily.group_by("portfolio").agg(pl.col("date").min(), pl.len().alias("rows"))
    for name, first, count in rows.iter_rows():
        begin = LEAST + (LISTED if "NEW" in held()[name].underlyings else 0)
        assert first == DAYS[begin + 1].date()
        assert count == len(BASELINES) * (BARS - 1 - begin)


def test_a_leg_that_never_gets_there_leaves_its_portfolios_out_with_the_reason() -> None:
    closes = prices().copy()
    closes[:400, 4] = np.nan
    answer = played(panel(closes), quick())
    out = {name for name, life in zip(held(), answer.lives, strict=True) if not life.rows}
    assert out == {"long last", "last and BTC", "all but one"}
    assert answer.lives[-1].reason == "NEW has 141 prices with the other legs, and the models need 252"
    assert set(answer.daily["portfolio"]) == set(held()) - out


def test_rows_are_those_whose_loss_falls_between_two_times() -> None:
    begin, end = DAYS[300], DAYS[309]
    when = {"first_time": np.datetime64("2021-10-28"), "last_time": np.datetime64("2021-11-06")}
    assert (begin.date(), end.date()) == (date(2021, 10, 28), date(2021, 11, 6))
    daily = played(usual_panel(), quick(), **when).daily
    assert (daily["date"].min(), daily["date"].max()) == (begin.date(), end.date())
    same = usual().daily.filter(pl.col("model").is_in(QUICK) & pl.col("date").is_between(begin.date(), end.date()))
    assert daily.equals(same)


# --- Prices that do not move -----------------------------------------------------------------------------------------


def test_what_never_moved_is_charged_as_if_it_might() -> None:
    """0.1 % a day stands in for its volatility; the tail mean of 1 % of a law with that deviation is 0.2 % or more."""
    closes = prices().copy()
    closes[:, 3] = 5.0
    daily = replay(baselines(), panel(closes), [*held().values(), *long("DDD")], streams=1, **between(440, 500)).daily
    assert daily.null_count().sum_horizontal().item() == 0
    assert (daily["var"] <= daily["es"]).all()
    assert daily["es"].min() >= LEAST_SHORTFALL
    alone = daily.filter(portfolio="long DDD")
    assert alone["es"].min() > 0.002
    assert alone["charged"].min() > 0.002
    assert (alone["loss"] == 0).all()


def test_what_moved_once_and_never_again_has_the_least_shortfall() -> None:
    """Expected shortfall is floored where a history has no loss in its tail, and the replay says how often."""
    closes = prices().copy()
    closes[:, 3] = np.where(np.arange(BARS) < 3, 5.0, 6.0)
    chosen = [*held().values(), *long("DDD")]
    answer = replay({"static": baselines()["static"]}, panel(closes), chosen, streams=1)
    still = answer.daily.filter(portfolio="long DDD")
    assert still["es"].unique().to_list() == [LEAST_SHORTFALL]
    assert still["var"].max() <= LEAST_SHORTFALL
    assert answer.floored == {"static": still.height}


def test_an_option_on_what_never_moved_is_left_out_and_the_reason_names_its_volatility() -> None:
    closes = prices().copy()
    closes[:, 3] = 5.0
    with pytest.raises(mx.BadInput, match="DDD never moved"):
        replay({"static": baselines()["static"]}, panel(closes), long("DDD", "call"), streams=1)


def test_options_on_a_calm_price_are_there_on_the_day_it_is_calm_no_more() -> None:
    """A peg of a hundredth of a per cent a day has a volatility of its own below the least one."""
    closes, rng = prices().copy(), np.random.default_rng(5)
    closes[:, 3] = np.exp(np.cumsum(rng.standard_normal(BARS) * 1e-4))
    closes[400:, 3] *= 0.9
    answer = replay(quick(), panel(closes), long("DDD", "put"), streams=1)
    assert answer.daily["date"].min() == DAYS[LEAST + 1].date()
    assert answer.daily.filter(pl.col("date") == DAYS[400].date())["loss"].to_list() == pytest.approx(
        [-0.1] * 3, abs=0.01
    )


# --- Times -----------------------------------------------------------------------------------------------------------


def test_options_begin_with_the_first_quote_of_their_volatility() -> None:
    """From a fitted volatility to a quoted one is no move of the market."""
    closes = prices()[:, 1:2]
    fitted = read_panel(table(closes, ("BTC",)))
    quoted = np.full((BARS, 1), np.nan)
    quoted[100:] = 3 * fitted.volatility[100:]
    factor = table(quoted, ("BTC",)).rename({"price": "value"}).with_columns(factor=pl.lit("implied_vol"))
    mixed = read_panel(pl.concat([table(closes, ("BTC",)), factor], how="diagonal"))
    assert np.isnan(mixed.volatility[:100]).all()
    np.testing.assert_allclose(mixed.volatility[100:], quoted[100:], rtol=1e-12)
    answer = replay(quick(), mixed, [portfolio("straddle", "straddle", [Leg("BTC", -1.0, "call", 0.0, 30.0)])])
    assert answer.daily["date"].min() == DAYS[100 + LEAST + 1].date()


class Inverted(ExpectedShortfall):
    """A model whose expected shortfall is less than its value at risk."""

    def charges(self, *given: Any) -> Charges:
        right = super().charges(*given)
        return right._replace(shortfall=0.9 * right.var)


def test_a_shortfall_below_its_value_at_risk_is_the_models_own_mistake() -> None:
    wrong = Inverted.from_config(baselines()["hs"].settings, name="hs")
    with pytest.raises(mx.BadInput, match="`wrong` gives an expected shortfall below its value at risk in"):
        replay({"wrong": wrong}, usual_panel(), long("BTC"))


class Unreplayed(ExpectedShortfall):
    """A model of somebody's own that knows one day only."""

    lookback = mx.MarginModel.lookback


def test_a_model_that_cannot_be_replayed_says_what_it_lacks() -> None:
    own = Unreplayed.from_config(baselines()["hs"].settings, name="own")
    with pytest.raises(mx.BadInput, match=r"`own` cannot be replayed.*`lookback`, `past` and `before`"):
        replay({"own": own}, usual_panel(), long("BTC"))


def test_a_replay_of_nothing_is_refused() -> None:
    for models, portfolios in (({}, long("BTC")), (quick(), [])):
        with pytest.raises(ValueError, match="a replay needs a model and a portfolio"):
            replay(models, usual_panel(), portfolios)


def test_a_days_row_has_its_date() -> None:
    assert usual().daily.schema["date"] == pl.Date()
    assert usual().daily["date"].max() == DAYS[-1].date()


def test_the_order_of_rows_changes_nothing() -> None:
    rows = table(prices())
    mixed = read_panel(rows.sample(fraction=1.0, shuffle=True, seed=3))
    assert mixed.names == usual_panel().names
    for one, other in ((mixed.prices, usual_panel().prices), (mixed.volatility, usual_panel().volatility)):
        assert np.array_equal(one, other, equal_nan=True)


# --- Bad input -------------------------------------------------------------------------------------------------------


def refused(history: pl.DataFrame, absolute: Sequence[str] = ()) -> str:
    with pytest.raises(mx.BadInput) as caught:
        read_panel(history, absolute=absolute)
    return str(caught.value)


def test_one_price_twice_is_refused() -> None:
    rows = table(prices()[:40])
    assert "is there already" in refused(pl.concat([rows, rows[:1]]))
    named = rows.with_columns(factor=pl.lit("price"))
    unnamed = rows[:1].with_columns(factor=pl.lit(None, pl.String))
    assert "is there already" in refused(pl.concat([named, unnamed]))


def test_a_price_at_or_below_zero_asks_for_the_flag_that_lets_it_in() -> None:
    closes = prices()[:40, :2].copy()
    for price in (0.0, -1.0):
        closes[7, 0] = price
        told = refused(table(closes, ("AAA", "BTC")))
        assert "--absolute AAA" in told
        assert "2021-01-08" in told
    assert read_panel(table(closes, ("AAA", "BTC")), absolute=["AAA"]).absolute.tolist() == [True, False]
    assert "did you mean `BTC`?" in refused(table(closes, ("AAA", "BTC")), absolute=["BTX"])


@pytest.mark.parametrize(
    ("bars", "told"),
    [
        (1, "needs two"),
        (200, "AAA has 200 prices, and the models need 252"),
        (251, "AAA has 251 prices, and the models need 252"),
    ],
)
def test_a_history_that_is_too_short_says_what_is_needed(bars: int, told: str) -> None:
    with pytest.raises(mx.BadInput, match=told) as caught:
        replay(quick(), panel(prices()[:bars, :2], ("AAA", "BTC")), long("AAA"), streams=1)
    assert "Give more history" in str(caught.value)


def test_dates_outside_the_history_are_refused() -> None:
    for when in ({"first_time": np.datetime64("2030-01-01")}, {"last_time": np.datetime64("2020-01-01")}):
        with pytest.raises(mx.BadInput, match="none on the dates asked for"):
            replay(quick(), panel(prices()[:300, :2], ("AAA", "BTC")), long("AAA"), streams=1, **when)


def test_a_tail_thinner_than_the_first_margins_heaviest_return_is_refused_as_a_margin_run_would() -> None:
    """0.2 % of 250 returns is half a return: a longer window later on does not help the first margins."""
    thin = {"hs": configured("hs", risk={"tail": 0.002})}
    with pytest.raises(mx.BadInput, match=r"`tail=0.002` of 250 scenarios is 0.5 of a scenario") as caught:
        played(usual_panel(), thin)
    assert "scenarios.least_bars" in str(caught.value)


def test_stress_windows_would_be_known_before_they_happened() -> None:
    window = {"name": "spring", "from": "2021-03-01", "to": "2021-03-05", "mass": 0.0}
    with pytest.raises(mx.BadInput, match="before they happened"):
        played(usual_panel(), {"hs": configured("hs", scenarios={"stress": [window]})})


def test_every_figure_is_a_number_and_every_model_has_the_same_rows() -> None:
    daily = usual().daily
    assert set(daily.columns) == {"date", "portfolio", "kind", "model", "loss", *FIGURES}
    assert daily.select(pl.col("loss", *FIGURES).is_finite().all()).row(0) == (True,) * 4
    assert (daily["es"] >= daily["var"]).all()
    keys = [daily.filter(model=name).select("date", "portfolio", "kind") for name in BASELINES]
    assert all(each.equals(keys[0]) for each in keys)
