"""Portfolios keep the calendar of what they hold: no other series in the file moves a bar of theirs, now or later."""

import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._histories import DAYS, baselines, prices, table
from marginax_calibration.calendar_groups import calendar_groups
from marginax_calibration.judgement import backtest, read_groups
from marginax_calibration.portfolios import Leg, portfolio, venue_portfolios
from marginax_calibration.prices import Prices, read_prices

QUICK = ("static", "ewma")


def weekdays(first: int = 0, last: int | None = None) -> pl.DataFrame:
    """AAA from Monday to Friday."""
    rows = table(prices()[:last, :1], ("AAA",)).filter(pl.col("time").dt.weekday() <= 5)
    return rows.filter(pl.col("time") >= DAYS[first])


def bitcoin() -> pl.DataFrame:
    """BTC on every day, with a crash that a Monday has forgotten."""
    closes = prices()[:, 1:2].copy()
    saturday = next(k for k in range(400, 420) if DAYS[k].weekday() == 5)
    closes[saturday] *= 0.2
    return table(closes, ("BTC",))


COIN, STOCK = portfolio("coin", "long", [Leg("BTC", 1.0)]), portfolio("stock", "long", [Leg("AAA", 1.0)])
BOTH = portfolio("both", "spread", [Leg("BTC", 1.0), Leg("AAA", -1.0)])


def daily(history: pl.DataFrame, *held) -> pl.DataFrame:
    return backtest({name: baselines()[name] for name in QUICK}, read_groups(history, list(held))).daily


def test_a_portfolio_of_coins_has_sundays_whatever_else_is_in_the_file_or_lists_later() -> None:
    alone = daily(bitcoin(), COIN)
    assert alone["loss"].max() > 0.75
    assert set(alone["date"].dt.weekday()) == set(range(1, 8))
    for stocks in (weekdays(), weekdays(300), weekdays(300, 410)):
        assert daily(pl.concat([bitcoin(), stocks]), COIN).equals(alone)
        assert daily(pl.concat([bitcoin(), stocks]), COIN, BOTH).filter(portfolio="coin").equals(alone)


def test_a_mixed_portfolio_keeps_weekdays_and_what_it_passes_over_is_counted() -> None:
    history = pl.concat([bitcoin(), weekdays()])
    groups = read_groups(history, [COIN, BOTH, STOCK])
    assert [[each.name for each in group.portfolios] for group in groups] == [["both", "stock"], ["coin"]]
    answer = backtest({name: baselines()[name] for name in QUICK}, groups)
    mixed = answer.daily.filter(portfolio="both")
    assert set(mixed["date"].dt.weekday()) == set(range(1, 6))
    assert mixed["loss"].max() < 0.3
    weekends = sum(day.weekday() >= 5 for day in DAYS[:-1]) + (DAYS[-1].weekday() >= 5)
    assert answer.judgement["between_bars"]["BTC"] == pytest.approx(weekends, abs=2)
    assert [each["bars_per_week"] for each in answer.manifest["calendars"]] == [5.0, 7.0]
    monday = mixed.filter(pl.col("date").dt.weekday() == 1, model="ewma").row(0, named=True)
    closes = dict(zip(("AAA", "BTC"), prices()[:, :2].T, strict=True))
    k = next(k for k, day in enumerate(DAYS) if day.date() == monday["date"])
    moves = {name: closes[name][k] / closes[name][k - 3] - 1 for name in closes}
    assert monday["loss"] == pytest.approx(-0.5 * moves["BTC"] + 0.5 * moves["AAA"], abs=1e-12)


def test_a_calendar_that_is_too_young_leaves_its_own_portfolios_out_and_no_others() -> None:
    answer = backtest({"ewma": baselines()["ewma"]}, read_groups(pl.concat([bitcoin(), weekdays(400)]), [COIN, STOCK]))
    assert set(answer.daily["portfolio"]) == {"coin"}
    assert list(answer.judgement["left_out"]) == ["stock"]
    with pytest.raises(mx.BadInput, match="no portfolio has a bar that all models can margin"):
        backtest({"ewma": baselines()["ewma"]}, read_groups(weekdays(400), [STOCK]))


def test_bars_of_different_lengths_are_judged_on_the_longest() -> None:
    weekly = table(prices()[:, :1], ("AAA",)).filter(pl.col("time").dt.weekday() == 3)
    groups = read_groups(pl.concat([bitcoin(), weekly]), [COIN, STOCK])
    assert len(groups) == 1
    assert groups[0].panel.grid.bars_per_week == pytest.approx(1.0, rel=0.01)


def test_a_colon_in_a_name_makes_no_forward_and_the_factor_does() -> None:
    names = ("EX:A", "EX:B")
    forward = (
        table(prices()[:, :1] * 1.01, ("EX:A",)).rename({"price": "value"}).with_columns(factor=pl.lit("forward:90d"))
    )
    read: Prices = read_prices(pl.concat([table(prices()[:, :2], names), forward], how="diagonal"))
    assert read.names == ("EX:A", "EX:A:90d", "EX:B")
    assert read.forwards == {"EX:A:90d": "EX:A"}
    found = {each.name: each for each in venue_portfolios(read.names, forwards=read.forwards)}
    assert {"long EX:A", "short EX:B", "spread EX:A EX:B", "spread EX:A:90d EX:A"} <= set(found)
    assert "long EX:A:90d" not in found
    (group,) = calendar_groups(read, [found["spread EX:A:90d EX:A"]])
    assert np.isfinite(group.panel.prices).all()


def test_the_row_of_a_price_without_a_logarithm_is_named() -> None:
    rows = table(prices()[:5, :1], ("AAA",)).sort("time", descending=True)
    bad = rows.with_columns(price=pl.when(pl.col("time") == DAYS[1]).then(-1.0).otherwise("price"))
    with pytest.raises(mx.BadInput, match=r"row 4.*-1 of AAA on 2021-01-02 has no logarithm"):
        read_prices(bad)
