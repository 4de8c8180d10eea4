"""A replay is a margin run at every bar: what `margin_book` charges then, what loops in NumPy find, and some laws."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration._engine import charged, margined
from calibration._histories import (
    BARS,
    FIGURES,
    LISTED,
    NAMES,
    at_bar,
    baselines,
    between,
    columns,
    configured,
    held,
    narrow_basis,
    optioned,
    panel,
    played,
    prices,
    usual,
    usual_panel,
    with_options,
)
from marginax_calibration.models import BASELINES
from marginax_calibration.portfolios import Leg, portfolio
from marginax_calibration.replay import replay
from reference import baselines as twin
from reference.black import black76
from reference.samples import rounding

# Cubes are float32: at most four legs a portfolio, none of which moves by more than half of gross notional in a bar.
NEAR = rounding(np.dtype(np.float32), 4, 0.5)

OLD, YOUNG = NAMES[:4], ("AAA", "BTC", "CCC", "NEW")
# (underlyings, first bar of the history, last bar): when the portfolios that are there from the start, and those of the
# youngest underlying, have their first margin, which is a refit too.
OLD_FIRST, YOUNG_FIRST = (OLD, 0, 250), (YOUNG, LISTED, 450)
# A filter begins with an underlying's first price, so a history cut at the youngest's is another to `fhs`.
ENGINE = (
    *((model, OLD_FIRST) for model in BASELINES),
    *(pytest.param(model, YOUNG_FIRST, marks=pytest.mark.long) for model in BASELINES if model not in ("fhs", "hs")),
    ("hs", YOUNG_FIRST),
)

TWINS: dict[str, Callable[..., twin.Figures]] = {
    "hs": twin.historical,
    "fhs": twin.filtered,
    "ewma": twin.exponential,
    "static": lambda *what: twin.kept(twin.everything, *what),
    "fixed_legs": lambda *what: twin.kept(twin.without_offsets, *what),
}


@pytest.mark.parametrize(("model", "when"), ENGINE, ids=lambda each: each if isinstance(each, str) else f"bar{each[2]}")
def test_a_replay_charges_what_a_margin_run_charges_on_that_day(
    model: str, when: tuple[tuple[str, ...], int, int]
) -> None:
    names, first, bar = when
    young = names == YOUNG
    chosen = [each for each in held().values() if ("NEW" in each.underlyings) == young]
    if model == "garch":  # a fit compiles anew for each width of a tile
        chosen = [each for each in chosen if len(each.legs) > 2]
    found = at_bar(usual().daily, bar)
    for name, wanted in charged(margined(model), chosen, names=names, first=first, bar=bar).items():
        row = found[model, name]
        assert [row[key] for key in FIGURES] == pytest.approx(wanted, abs=NEAR), name


def test_options_too_are_charged_what_a_margin_run_charges() -> None:
    history, daily = optioned()
    found = at_bar(daily, 330)
    wanted = charged(narrow_basis(), list(with_options().values()), names=history.names, bar=330, options=history)
    for name, figures in wanted.items():
        assert [found["fhs", name][key] for key in FIGURES] == pytest.approx(figures, abs=NEAR), name


def test_an_option_loses_what_black_76_says_with_a_day_less_to_run() -> None:
    history, daily = optioned()
    bar, found = 330, at_bar(daily, 330)

    def change(k: int, kind: str, deviations: float) -> float:
        """Of an option on one USD of an underlying, from the close of the bar to the next."""
        volatility, moved = history.volatility[:, k], history.prices[bar + 1, k] / history.prices[bar, k]
        now, later = volatility[bar] * np.sqrt(30 / 365), volatility[bar + 1] * np.sqrt(29 / 365)
        strike, call = np.exp(deviations * now), kind == "call"
        return black76(moved, strike, later, call=call) - black76(1.0, strike, now, call=call)

    straddle = -0.5 * (change(1, "call", 0.0) + change(1, "put", 0.0))
    move = history.prices[bar + 1, 0] / history.prices[bar, 0] - 1
    collar = (move + change(0, "put", -1.0) - change(0, "call", 1.0)) / 3
    assert found["fhs", "straddle"]["loss"] == pytest.approx(-straddle, abs=1e-12)
    assert found["fhs", "collar"]["loss"] == pytest.approx(-collar, abs=1e-12)


@pytest.mark.parametrize("model", TWINS)
def test_figures_are_those_of_a_loop_over_days_and_portfolios(model: str) -> None:
    """Bars on both sides of refits (250 and 500 for the old, 450 for the young), and the last."""
    for bar in (250, 300, 449, 450, 499, 500, BARS - 2):
        for (name, of), row in at_bar(usual().daily, bar).items():
            if name == model:
                wanted = TWINS[model](prices(), columns(held()[of]), bar)
                assert [row[key] for key in FIGURES] == pytest.approx(wanted, abs=NEAR), (bar, of)


def test_a_garch_is_carried_on_from_its_last_fit() -> None:
    """Fitted at a portfolio's first margin, and a year later again.

    A likelihood of some hundreds in float64 has rounding of 1e-13, so the simplex knows its maximum to 1e-6 or so of
    the parameters' own scale, and the volatility follows with a few of these.
    """
    for name, fitted_at, bars in (
        ("neutral", 250, (250, 500)),
        ("spread", 250, (300,)),
        ("long last", 450, (450, 539)),
    ):
        for bar in bars:
            row = at_bar(usual().daily, bar)["garch", name]
            wanted = twin.student(prices(), columns(held()[name]), bar, fitted_at=fitted_at)
            assert [row[key] for key in FIGURES] == pytest.approx(wanted, rel=2e-5), (name, bar)


def test_a_row_holds_the_loss_of_its_date_and_the_margin_of_the_bar_before() -> None:
    for bar in (250, 400, BARS - 2):
        for (_, name), row in at_bar(usual().daily, bar).items():
            wanted = twin.loss(prices(), columns(held()[name]), bar)
            # The same products in float64, in another order.
            assert row["loss"] == pytest.approx(wanted, abs=1e-14)


def test_a_window_forgets_what_is_older() -> None:
    """The usual windows are longer than this history; with one of 150 the old portfolios soon share a full one."""
    model = configured("hs", scenarios={"window": 150, "least_bars": 120})
    daily = played(usual_panel(), {"hs": model}).daily
    for bar in (120, 149, 150, 330, 420, BARS - 2):
        for (_, name), row in at_bar(daily, bar).items():
            wanted = twin.historical(prices(), columns(held()[name]), bar, window=150)
            assert [row[key] for key in FIGURES] == pytest.approx(wanted, abs=NEAR), (bar, name)


def test_where_prices_pass_through_zero_a_weight_is_a_share_of_the_price_level() -> None:
    """The level is the larger, in size, of the last price and the median so far; moves are differences."""
    walk = 3 + np.cumsum(np.random.default_rng(2).standard_normal(300))
    assert walk.min() < 0
    history = panel(walk[:, None], ("OIL",), absolute=["OIL"])
    short = portfolio("short", "own", [Leg("OIL", -1.0)])
    daily = replay({"hs": baselines()["hs"]}, history, [short], streams=1).daily
    for bar, greater in ((255, "median"), (280, "last")):
        last, median = abs(walk[bar]), np.median(np.abs(walk[: bar + 1]))
        assert (last > median) == (greater == "last")
        level = max(last, median)
        row = at_bar(daily, bar)["hs", "short"]
        assert row["loss"] == pytest.approx((walk[bar + 1] - walk[bar]) / level, rel=1e-12)
        losses = np.sort(np.diff(walk[: bar + 1]) / level)[::-1]
        # 1 % of 255 or 280 scenarios are the two worst and part of the third.
        part = 0.01 * bar - 2
        assert row["var"] == pytest.approx(losses[2], rel=1e-6)
        assert row["es"] == pytest.approx((losses[:2].sum() + part * losses[2]) / (2 + part), rel=1e-6)


COHERENT = ("fixed_legs", "hs", "ewma", "fhs")


def replayed(weights: np.ndarray, closes: np.ndarray | None = None) -> pl.DataFrame:
    """The last 60 bars of a portfolio for each row of weights in the four old underlyings, and of the fifth alone."""
    alone = portfolio("last", "own", [Leg("NEW", 1.0)])
    legs = [[Leg(name, float(weight)) for name, weight in zip(OLD, row, strict=True)] for row in weights]
    chosen = [alone, *(portfolio(f"drawn {k}", "own", each) for k, each in enumerate(legs))]
    models = {name: baselines()[name] for name in COHERENT}
    history, when = usual_panel() if closes is None else panel(closes), between(BARS - 61, BARS - 2)
    return replay(models, history, chosen, streams=1, **when).daily.sort("model", "portfolio", "date")


# Sixteenths of gross notional, none of them zero, so that every portfolio holds all four.
SOME = st.integers(1, 16).flatmap(lambda size: st.sampled_from([size / 16, -size / 16]))
# One example is a replay of 60 bars, a quarter of a second.
few = settings(max_examples=4)


@few
@given(arrays(float, (2, 4), elements=SOME))
def test_a_merged_portfolio_is_never_riskier_than_its_halves(weights: np.ndarray) -> None:
    """Expected shortfall and the charge are sub-additive; legs without offsets simply add up where signs agree."""
    halves = weights / np.abs(weights).sum(axis=1, keepdims=True) / 2
    merged = halves.sum(axis=0)
    gross = np.abs(merged).sum()
    if np.abs(merged).min() == 0:
        return
    daily = replayed(np.vstack([halves, merged]))
    for key in ("es", "charged"):
        first, second, both = (daily.filter(portfolio=f"drawn {k}")[key].to_numpy() for k in range(3))
        assert np.all(gross * both <= (first + second) / 2 + NEAR)


@few
@given(st.integers(-20, 20), st.integers(0, 3))
def test_the_unit_that_a_price_is_quoted_in_changes_nothing(power: int, which: int) -> None:
    """By a power of two, so that quotients of prices are the same bits and logarithms differ by rounding alone."""
    closes = prices().copy()
    closes[:, which] *= 2.0**power
    weights = np.array([[0.25, -0.25, 0.25, 0.25], [0.5, 0.25, -0.125, 0.125]])
    one, other = replayed(weights), replayed(weights, closes)
    assert one["loss"].equals(other["loss"])
    for key in FIGURES:
        assert np.abs(one[key].to_numpy() - other[key].to_numpy()).max() <= NEAR


def test_legs_without_offsets_and_a_normal_law_charge_long_and_short_alike() -> None:
    weights = np.array([[0.5, -0.25, 0.125, 0.125]])
    daily = replayed(np.vstack([weights, -weights]))
    one, other = (daily.filter(portfolio=f"drawn {k}").drop("portfolio", "loss") for k in (0, 1))
    alike = pl.col("model").is_in(["fixed_legs", "ewma"])
    assert one.filter(alike).equals(other.filter(alike))
    assert not one.filter(~alike).equals(other.filter(~alike))
