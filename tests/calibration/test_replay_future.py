"""What comes later changes nothing that was charged before: no price, no bar, no leg, to the last bit."""

from functools import cache

import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._histories import (
    BARS,
    FIGURES,
    at_bar,
    baselines,
    between,
    columns,
    configured,
    held,
    known_at,
    optioned,
    panel,
    played,
    prices,
    usual_panel,
)
from calibration._laws import stated_figures, stated_fit
from marginax.calendars import Grid
from marginax.models import garch
from marginax_calibration.panel import Panel
from marginax_calibration.portfolios import Leg, Portfolio, portfolio
from marginax_calibration.replay import Replay, replay
from marginax_calibration.walk_forward import Schedule
from reference import baselines as twin

# The bar after which the future is another one; bars around it, of old portfolios and of those that have just begun.
NOW, AROUND = 460, (451, 475)


def holey() -> np.ndarray:
    """The usual closes with a bar missing here and there: what fills it is drawn."""
    closes = prices().copy()
    closes[300, 2], closes[455, 1], closes[NOW, 3] = np.nan, np.nan, np.nan
    return closes


@cache
def before() -> Replay:
    return played(panel(holey()), **between(*AROUND))


def same_past(one: pl.DataFrame, other: pl.DataFrame, bar: int) -> bool:
    """Whether all margins set, and all losses made, up to the close of a bar are the same bits."""
    pairs = zip(known_at(one, bar), known_at(other, bar), strict=True)
    return all(first.height > 0 and first.equals(second) for first, second in pairs)


@pytest.mark.parametrize("how", ["scrambled", pytest.param("multiplied", marks=pytest.mark.long), "ended"])
def test_another_future_changes_no_margin_of_the_six_baselines(how: str) -> None:
    closes, rng = holey(), np.random.default_rng(3)
    later = closes[NOW + 1 :]
    if how == "scrambled":
        later *= np.exp(rng.standard_normal(later.shape))
    elif how == "multiplied":
        later *= [1e-3, 10, 1, 1e3, 0.1]
    else:  # two legs die on the next bar, and their portfolios with them
        later[1:, [0, 4]] = np.nan
    after = played(panel(closes), **between(*AROUND)).daily
    assert same_past(before().daily, after, NOW)
    assert not same_past(before().daily, after, NOW + 2)


def test_a_history_that_ends_today_gives_the_margins_of_a_longer_one() -> None:
    """What fills a hole is drawn for a number of bars that does not grow with every bar of the history."""
    shorter = played(panel(holey()[: NOW + 2]), {"hs": baselines()["hs"]}, **between(*AROUND)).daily
    assert same_past(before().daily.filter(model="hs"), shorter, NOW)


def test_the_number_of_streams_changes_no_bit() -> None:
    assert played(panel(holey()), streams=2, **between(*AROUND)).daily.equals(before().daily)


MIXED = ("AAA", "BTC", "CCC", "OIL")


def mixed(*, future: float = 1.0) -> Panel:
    """Two coins, one with a bar missing, oil that passes through zero; after bar 310 prices are another multiple."""
    closes = prices()[:361, :4].copy()
    closes[:, 3] = 3 + np.cumsum(np.random.default_rng(2).standard_normal(361))
    closes[305, 2] = np.nan
    closes[311:] *= future
    return panel(closes, MIXED, absolute=["OIL"])


def of_all_kinds() -> list[Portfolio]:
    """Oil and options on it, and coins of which one misses a bar."""
    straddle = [Leg("OIL", -1.0, kind, 0.0, 30.0) for kind in ("call", "put")]
    legs = {"oil": [Leg("OIL", 1.0)], "straddle": straddle, "pair": [Leg("AAA", 1.0), Leg("CCC", -1.0)]}
    return [portfolio(name, "own", each) for name, each in legs.items()]


def test_nor_are_draws_of_options_and_oil_moved_by_what_comes_later() -> None:
    """Monte Carlo draws its laws anew, from what is known then: where its history begins, and then every year."""
    models, when = {"monte_carlo": configured("monte_carlo", monte_carlo={"draws": 512})}, between(298, 316)
    one, other = (replay(models, mixed(future=each), of_all_kinds(), streams=1, **when).daily for each in (1.0, 3.0))
    assert same_past(one, other, 310)
    assert not same_past(one, other, 312)
    assert replay(models, mixed(), of_all_kinds(), streams=2, **when).daily.equals(one)


def test_nor_is_the_price_of_an_option() -> None:
    """Volatilities too are those of the day."""
    closes, when = prices()[:, :2].copy(), between(300, 316)
    closes[305, 1] = np.nan
    _, one = optioned(closes, **when)
    later = closes.copy()
    later[311:] *= np.exp(np.random.default_rng(5).standard_normal(later[311:].shape))
    _, other = optioned(later, **when)
    assert same_past(one, other, 310)
    assert not same_past(one, other, 312)


# --- Refits ----------------------------------------------------------------------------------------------------------

EVERY, LEAST = 40, 120


def refitted(*, embargo: int, horizon: float) -> dict[str, mx.MarginModel]:
    """`static` anew every 40 bars, and not before it has 120 returns."""
    keys = {"refit_bars": EVERY, "embargo_bars": embargo}
    model = configured("static", scenarios={"least_bars": LEAST}, replay=keys, risk={"horizon_days": horizon})
    return {"static": model}


def figures(daily: pl.DataFrame, bar: int) -> list[float]:
    """Those of the portfolios that are there from the start, of the margin set at a bar."""
    rows = at_bar(daily, bar)
    return [rows["static", name][key] for name in list(held())[:5] for key in FIGURES]


@pytest.mark.parametrize(("embargo", "horizon", "gap"), [(7, 1.0, 7), (7, 3.0, 9)], ids=["embargo", "and_horizon"])
def test_a_refit_looks_at_nothing_in_its_embargo_and_purge(embargo: int, horizon: float, gap: int) -> None:
    """A horizon of h bars keeps h - 1 returns from a refit, an embargo as many as it says: together their sum.

    A portfolio's first margin waits until its first refit may look at as many returns as the model needs.
    """
    models, closes = refitted(embargo=embargo, horizon=horizon), prices()[:301]
    usual = played(panel(closes), models)
    first, second = LEAST + gap, LEAST + gap + EVERY
    assert [life.begin for life in usual.lives[:5]] == [first] * 5
    assert min(figures(usual.daily, first)) > 0.005
    assert figures(usual.daily, first) == figures(usual.daily, second - 1) != figures(usual.daily, second)

    last_seen = second - gap
    unseen, seen = closes.copy(), closes.copy()
    unseen[last_seen + 1 :] *= np.exp(0.5 * np.random.default_rng(4).standard_normal(unseen[last_seen + 1 :].shape))
    seen[last_seen] *= [0.3, 3, 0.3, 3, 1]  # against every portfolio
    assert figures(played(panel(unseen), models).daily, second) == figures(usual.daily, second)
    assert figures(played(panel(seen), models).daily, second) != figures(usual.daily, second)


def test_a_law_is_that_of_the_last_refit_and_its_filter_that_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anew every 30 bars, which an embargo keeps from the last five: ten refits of the old portfolios, four of others.

    Cubes are float32, and a forecast is a root of sums of their squares.
    """
    monkeypatch.setattr(garch, "_fit", stated_fit)
    every, gap = 30, 5
    # A model that no other test has, so that its programs are used nowhere else.
    keys = {"refit_years": 0.0, "refit_bars": every, "embargo_bars": gap}
    daily = played(usual_panel(), {"garch": configured("garch", replay=keys)}).daily
    for name, begins in (("basket", 255), ("short BTC", 255), ("last and BTC", 455)):
        gains = -np.array([twin.loss(prices(), columns(held()[name]), t) for t in range(begins - 255, BARS - 1)])
        for bar in (begins, begins + every - 1, begins + every, BARS - 2):
            seen = begins + (bar - begins) // every * every - gap
            until, known = (end - (begins - 255) for end in (bar, seen))
            wanted = stated_figures(gains[:until], np.mean(gains[:known] ** 2))
            row = at_bar(daily, bar)["garch", name]
            assert [row[key] for key in FIGURES] == pytest.approx(wanted, rel=1e-5), (name, bar)


def test_refits_are_counted_from_a_portfolios_first_margin() -> None:
    grid = usual_panel().grid
    yearly = Schedule.of(baselines()["garch"].settings, grid)
    assert (yearly.every, yearly.gap) == (365, 0)
    kept = Schedule.of(baselines()["static"].settings, grid)
    assert kept.refits(450, 1_000).tolist() == [450, 700, 950]
    assert kept.last_refit(450, np.array([450, 699, 700, 949, 950])).tolist() == [0, 0, 1, 1, 2]
    never = Schedule.of(baselines()["hs"].settings, grid)
    assert never.every == 0
    business = Grid(grid.times, 1.0, 5.0)
    assert Schedule.of(baselines()["garch"].settings, business).every == round(365 / 7 * 5)
    hourly = Grid(grid.times, 24.0, 168.0)
    assert Schedule.of(refitted(embargo=3, horizon=1.0)["static"].settings, hourly).gap == 23 + 3
