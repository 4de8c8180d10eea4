"""Scores in a replay: those of a margin run on that day, blind to what comes later, failed where equity was lost."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import marginax as mx
from calibration._engine import again, history_of, prices_at, sources, spot
from calibration._histories import DAYS, NAMES, configured, held, panel, prices, usual_panel
from marginax.problems import BadInput
from marginax_calibration.score_replay import replay_scores
from marginax_calibration.studies import score_reliability
from marginax_calibration.studies.score_accounts import account_history, account_portfolios

SHARED = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
LEVELS = (0.005, 0.02, 0.05)
FIRST, LAST = 450, 475
OLD = [each for each in held().values() if "NEW" not in each.underlyings]


def played(closes: np.ndarray | None = None) -> pl.DataFrame:
    history = usual_panel() if closes is None else panel(closes)
    begin, end = (np.datetime64(DAYS[bar + 1].replace(tzinfo=None), "us") for bar in (FIRST, LAST))
    levels = np.tile(LEVELS, (len(OLD), 1))
    return replay_scores({"fhs": model()}, history, OLD, levels, first_time=begin, last_time=end, streams=1)


@cache
def model() -> mx.MarginModel:
    return configured("fhs")


@cache
def usual() -> pl.DataFrame:
    return played()


def test_a_score_is_that_of_a_margin_run_on_that_day() -> None:
    bar, names = 470, NAMES[:4]
    price = prices_at(names, bar)
    listed = [spot(name, price[name], bar) for name in names] + [again(price, bar)]
    positions, cash = [], []
    for each in OLD:
        for level in LEVELS:
            name = f"{each.name} {level}"
            positions += [(name, leg.underlying, leg.weight / price[leg.underlying]) for leg in each.legs]
            # What spot is worth counts as equity too.
            cash.append((name, "USD", level - sum(leg.weight for leg in each.legs)))
    balances = pl.DataFrame(cash, schema=["account_id", "asset", "amount"], orient="row")
    book, market = sources(listed, positions, balances, price, history_of(names, bar))
    wanted = dict(mx.margin_book(book, market, model()).margins.select("account_id", "stress_score").iter_rows())
    rows = usual().filter(pl.col("date") == DAYS[bar + 1].date())
    assert rows.height == len(wanted) == len(OLD) * len(LEVELS)
    scenarios = 2_000
    for row in rows.iter_rows(named=True):
        # Losses of float32 tell apart all but what lies within their rounding of the equity: a scenario at most.
        near = 1 / min(scenarios, bar) + 1e-6
        assert row["score"] == pytest.approx(wanted[f"{row['portfolio']} {row['equity']}"], abs=near)
    assert rows["score"].n_unique() > 8


def test_more_equity_scores_less_and_failures_are_losses_beyond_it() -> None:
    by_level = usual().sort("date", "portfolio", "equity").group_by("date", "portfolio", maintain_order=True)
    falls = by_level.agg(pl.col("score").diff().max(), pl.col("loss").n_unique().alias("losses"))
    assert (falls["score"] <= 0).all()
    assert (falls["losses"] == 1).all()
    assert usual()["failed"].equals((usual()["loss"] > usual()["equity"]).alias("failed"))
    row = usual().filter(portfolio="short BTC", date=DAYS[FIRST + 1].date()).row(0, named=True)
    assert row["loss"] == pytest.approx(prices()[FIRST + 1, 1] / prices()[FIRST, 1] - 1, rel=1e-12)
    assert 0 < usual()["failed"].mean() < 0.5


def test_another_future_changes_no_score_of_before() -> None:
    other = prices().copy()
    other[462:] *= np.exp(np.cumsum(np.full(other[462:].shape, 0.05), axis=0))
    later, known = played(other), pl.col("date") <= DAYS[462].date()
    columns = ("date", "portfolio", "equity", "score")
    assert later.filter(known).select(columns).equals(usual().filter(known).select(columns))
    assert not later.select(columns).equals(usual().select(columns))


def test_models_and_equities_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`equity` of shape \(2, 1\) must have a row for each of 5 portfolios"):
        replay_scores({"fhs": model()}, usual_panel(), OLD, np.ones((2, 1)))
    with pytest.raises(BadInput, match="`garch` estimates by account"):
        replay_scores({"garch": configured("garch")}, usual_panel(), OLD, np.ones((len(OLD), 1)))


def test_the_report_has_every_bin_and_says_whether_scores_were_right() -> None:
    day = np.repeat(np.arange(400), 5)
    rng = np.random.default_rng(3)
    score = rng.choice([0.02, 0.3], len(day))
    daily = pl.DataFrame(
        {
            "date": pl.Series([DAYS[k].date() for k in day]),
            "portfolio": np.tile([f"account {k}" for k in range(5)], 400),
            "model": "fhs",
            "equity": 0.1,
            "score": score,
            "failed": rng.random(len(day)) < score,
        }
    )
    text = score_reliability.report("real accounts", daily, 5)
    assert "### real accounts: 5 portfolios, 2021-01-01 to 2022-02-04" in text
    assert text.count("| `fhs` | 2,000 |") == 2  # all, and those with the equity they had
    assert f"| 30.0% to 50.0% | {(score == 0.3).sum():,} |" in text
    assert "| yes |" in text


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared data is not in {SHARED}; name it with MARGINAX_SHARED")
def test_real_accounts_keep_their_weights_and_their_leverage() -> None:
    history = account_history(SHARED / "data")
    portfolios, equity = account_portfolios(SHARED / "data", history)
    assert len(portfolios) == len(equity) > 50
    assert len({each.name for each in portfolios}) == len(portfolios)
    assert (equity > 0).all()
    known = set(history["underlying"])
    for each in portfolios:
        assert set(each.underlyings) <= known
        assert sum(abs(leg.weight) for leg in each.legs) == pytest.approx(1)
    folder = SHARED / "data" / "liquidations_accounts"
    held = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("*accounts_positions*.parquet"))[-1:]])
    first = portfolios[0]
    mine = held.filter(account=first.name)
    largest = mine.sort("position_value_usd")["coin"][-1]
    (leg,) = [leg for leg in first.legs if leg.underlying in (largest, largest[1:])]
    assert abs(leg.weight) == max(abs(each.weight) for each in first.legs)
    assert (leg.weight > 0) == (mine.sort("position_value_usd")["side"][-1] == "Long")
