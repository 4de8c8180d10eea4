"""The stress score: against loops over scenarios, its bands, what is told on request, and its slopes."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.cli.init import NAMES as FILES
from marginax.config import parse_config
from marginax.engine.bands import BANDS, bands
from marginax.models.tile_losses import tile_losses
from marginax.problems import BadInput
from marginax.score_sections import Score
from marginax.sections import Engine
from markets import INDEX, balances, margin, plus, positions, priced, row, tables
from reference import score as twin

DOUBLE = Engine(precision="float64")
CONFIG: dict[str, Any] = {
    "model": "dynamic",
    "risk": {"tail": 0.05},
    "scenarios": {"window": 120},
    "collateral": {"haircuts": {"BTC": 0.05, "ETH": 0.1, "USDT": 0.01}, "limits": {"USDT": 4_000.0}},
    "liquidity": {"spread": 1.0, "fee": 0.001, "impact": 1.0},
    "oracle": {"confidence_weight": 1.0},
}
CLOSING = ("haircut", "concentration", "liquidity")
TOLD = ("cost_of_closing", "stress_score_smooth", "bandwidth", "expected_shortfall_beyond_equity",
        "shortfall_given_exhaustion")  # fmt: skip


def holdings() -> dict[str, Any]:
    """The tiny venue, nearer to trouble, with accounts that have no equity and one that nothing can be said of."""
    held, money = positions(), balances()
    for entry in (("broke", "BTC-PERP", 100.0), ("under", "ETH-PERP", -10.0), ("thin", "BTC-PERP", 1_000.0)):
        held = plus(held, *entry)
    for entry in (("cash", "USD", 5.0), ("debt", "USD", -5.0), ("thin", "USDT", 4_500.0), ("under", "USD", -1.0),
                  ("debtor", "USD", -28_400.0), ("long", "USD", -28_000.0), ("short", "USD", -27_500.0),
                  ("mixed", "USDT", -18_900.0), ("spread", "BTC", 0.01)):  # fmt: skip
        money = plus(money, *entry)
    return tables(positions=held, balances=money)


@cache
def scored() -> mx.Result:
    return margin(holdings(), parse_config(CONFIG, "test"), engine=DOUBLE)


@cache
def frame() -> pl.DataFrame:
    return scored().scores()


def told(account: str, result: pl.DataFrame | None = None) -> dict[str, Any]:
    rows = frame() if result is None else result
    return rows.row(by_predicate=pl.col("account_id") == account, named=True)


@jax.jit
def _joint(_: Any, prepared: Any, tile: Any) -> jax.Array:
    return tile_losses(prepared, tile)[1]


def losses_of(result: mx.Result) -> dict[str, np.ndarray]:
    """The joint loss of each account in each scenario, as the model sees it."""
    accounts = result.matched.book.accounts
    found = {}
    tiles = result.ready.tiles.over(result._exposures).tiles
    for part, joint in tiles.answers(np.arange(len(accounts)), _joint):
        found |= {accounts[account]: joint[k] for k, account in enumerate(part.accounts)}
    return found


@cache
def losses() -> dict[str, np.ndarray]:
    return losses_of(scored())


def limit_of(account: str, result: mx.Result | None = None) -> float:
    """Equity less what closing costs."""
    found = row(scored() if result is None else result, account)
    return found["equity"] - sum(found.get(name, 0.0) for name in CLOSING)


def weights() -> np.ndarray:
    return scored().scenarios.weights


def test_the_score_is_the_mass_of_scenarios_that_leave_nothing_once_all_is_closed() -> None:
    scores = set()
    for account, joint in losses().items():
        wanted = weights()[joint > limit_of(account)].sum()
        if account in ("broke", "under"):
            wanted = 1.0
        assert row(scored(), account)["stress_score"] == pytest.approx(wanted, abs=1e-12), account
        scores.add(round(wanted, 6))
    assert len(scores) >= 5
    # Closing costs something, doubt about prices is no cost, and both show.
    thin = row(scored(), "thin")
    assert min(thin[name] for name in ("haircut", "liquidity", "oracle")) > 0
    assert (losses()["thin"] > limit_of("thin")).sum() > (losses()["thin"] > thin["equity"]).sum()


def test_what_is_told_on_request_is_what_a_loop_finds() -> None:
    for account, joint in losses().items():
        found, limit = told(account), limit_of(account)
        assert found["stress_score"] == row(scored(), account)["stress_score"]
        assert found["cost_of_closing"] == pytest.approx(found["equity"] - limit, abs=1e-8)
        beyond = twin.mean_excess(joint, weights(), limit)
        assert found["expected_shortfall_beyond_equity"] == pytest.approx(beyond, abs=1e-8), account
        if account in ("broke", "under"):
            assert found["stress_score_smooth"] == 1
        else:
            wanted = twin.smooth_exceedance(joint, weights(), limit, found["bandwidth"] or 0.0)
            assert found["stress_score_smooth"] == pytest.approx(wanted, abs=1e-12), account
        given = found["shortfall_given_exhaustion"]
        if found["stress_score"] > 0:
            assert given * found["stress_score"] == pytest.approx(beyond, abs=1e-8)
        else:
            assert given is None
    assert frame()["stress_score_smooth"].is_between(0.001, 0.999).sum() >= 3


def test_the_bandwidth_is_a_share_of_the_shortfall_and_no_hedge_takes_it_away() -> None:
    shortfall = row(scored(), "thin")["expected_shortfall"]
    assert told("thin")["bandwidth"] == pytest.approx(0.1 * shortfall, rel=1e-12)
    # Spot against a perpetual on it that never leaves its index: nothing is lost, and two coins' moves are held.
    hedged, alone = told("spread"), 1_000 * 0.01 * INDEX["ETH"]
    moves = np.abs(np.expm1(scored().scenarios.shocks[:, 1])) @ weights()
    assert hedged["bandwidth"] >= 2 * 0.01 * alone * moves * 0.9
    # What cannot move has nothing to be smoothed.
    for account in ("cash", "debt"):
        assert told(account)["bandwidth"] is None
        assert told(account)["stress_score_smooth"] == told(account)["stress_score"]


def test_who_has_no_equity_scores_one_and_who_holds_nothing_only_by_what_is_owed() -> None:
    for account in ("broke", "under", "debt"):
        assert (told(account)["stress_score"], told(account)["band"]) == (1, "liquidate")
    for account in ("cash", "saver"):
        assert (told(account)["stress_score"], told(account)["band"]) == (0, "healthy")
    # Coins against a debt in dollars: no positions, and a score between.
    assert 0 < told("debtor")["stress_score"] < 1
    assert told("debtor")["cost_of_closing"] == 0


def test_an_account_without_a_margin_has_no_score_no_band_and_the_others_have_theirs() -> None:
    given = holdings()
    lost = plus(given["positions"], "lost", "BTC-PERP", 1.0)
    quotes = given["quotes"].filter(pl.col("instrument_id") != "OIL-FUT")
    config = parse_config({**CONFIG, "model": "expected_shortfall", "liquidity": {}, "oracle": {},
                           "collateral": {}}, "test")  # fmt: skip
    result = margin({**given, "positions": lost, "quotes": quotes}, config, on_error="quarantine")
    mixed, others = row(result, "mixed"), result.margins.filter(pl.col("account_id") != "mixed")
    assert (mixed["status"], mixed["stress_score"], mixed["band"]) == ("missing_price", None, None)
    assert others["band"].null_count() == 0
    rows = result.scores(["mixed", "lost"])
    assert rows["status"].to_list() == ["ok", "missing_price"]
    assert told("mixed", rows) | dict.fromkeys(TOLD) == told("mixed", rows)
    assert told("lost", rows)["stress_score"] == 1
    assert result.manifest["accounts"]["by_band"]["none"] == 1
    with pytest.raises(ValueError, match=r"mixed has no score: missing_price"):
        result.score_gradient("mixed")
    with pytest.raises(KeyError, match="no account 'nobody' in the book"):
        result.score_gradient("nobody")
    with pytest.raises(KeyError, match="no account 'nobody' in the book"):
        result.scores(["nobody", "lost"])


@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=20), low=st.floats(1e-4, 0.2))
def test_bands_rise_with_scores_and_begin_where_they_are_said_to(scores: list[float], low: float) -> None:
    settings = Score(watch=low, reduce=2 * low, liquidate=4 * low)
    found = bands(np.array([*scores, low, 2 * low, 4 * low, np.nan]), settings).to_list()
    ranks = [BANDS.index(each) for each in found[: len(scores)]]
    order = np.argsort(scores, kind="stable")
    assert (np.diff(np.array(ranks)[order]) >= 0).all()
    assert found[len(scores) :] == ["watch", "reduce", "liquidate", None]


def test_rounding_puts_nobody_in_a_better_band() -> None:
    ten = float(np.sum(np.full(10, 0.001, np.float32), dtype=np.float32)) - 1e-8
    assert ten < 0.01
    assert bands(np.array([ten, 0.0099]), Score(watch=0.01)).to_list() == ["watch", "healthy"]


def test_bands_follow_the_configuration_and_no_margin_does() -> None:
    other = margin(holdings(), parse_config({**CONFIG, "score": {"watch": 0.3, "reduce": 0.6, "liquidate": 1.0}},
                                            "test"), engine=DOUBLE)  # fmt: skip
    assert other.margins.drop("band").equals(scored().margins.drop("band"))
    assert other.margins["band"].to_list() != scored().margins["band"].to_list()
    for result, thresholds in ((other, (0.3, 0.6, 1.0)), (scored(), (0.01, 0.05, 0.25))):
        for score, band in result.margins.select("stress_score", "band").iter_rows():
            assert band == BANDS[sum(score >= each * (1 - 1e-5) for each in thresholds)]
        counts = dict(result.margins.group_by("band").len().iter_rows())
        assert result.manifest["accounts"]["by_band"] == {**dict.fromkeys((*BANDS, "none"), 0), **counts}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"watch": 0.1, "reduce": 0.1}, "`reduce` 0.1 is not above `watch` 0.1"),
        ({"reduce": 0.5}, "`liquidate` 0.25 is not above `reduce` 0.5"),
        ({"watch": 0.0}, "greater than 0"),
        ({"liquidate": 1.5}, "less than or equal to 1"),
        ({"bandwidth": 0.0}, "greater than 0"),
    ],
)
def test_thresholds_that_are_none_are_refused(keys: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_config({"score": keys}, "test")


def moved(account: str, given: dict[str, Any], base: mx.Result, model: Any, equity: float | None = None) -> float:
    """The smooth score of an account on other tables, at the bandwidth of before; `equity` in place of theirs."""
    result = margin(given, model, engine=DOUBLE)
    limit = limit_of(account, result)
    if equity is not None:
        limit += equity - row(result, account)["equity"]
    width = told(account, base.scores([account]))["bandwidth"]
    return twin.smooth_exceedance(losses_of(result)[account], base.scenarios.weights, limit, width)


def held_more(given: dict[str, Any], name: str, account: str, key: str, more: float) -> dict[str, Any]:
    """The tables with more of one thing in one account."""
    rows, amount = given[name], {"positions": "quantity", "balances": "amount"}[name]
    column = {"positions": "instrument_id", "balances": "asset"}[name]
    mine = (pl.col("account_id") == account) & (pl.col(column) == key)
    return {**given, name: rows.with_columns(pl.when(mine).then(pl.col(amount) + more).otherwise(amount).alias(amount))}


@pytest.mark.parametrize(
    ("account", "name", "key", "step"),
    [
        ("thin", "positions", "BTC-PERP", 0.05),
        ("mixed", "positions", "ETH-PERP", 0.05),
        ("thin", "balances", "USDT", 0.2),
    ],
)
def test_slopes_in_what_is_held_are_finite_differences(account: str, name: str, key: str, step: float) -> None:
    """Costs of closing included; equity stays, as what is bought is paid for."""
    model, given, base = parse_config(CONFIG, "test"), holdings(), scored()
    equity = row(base, account)["equity"]
    up, down = (
        moved(account, held_more(given, name, account, key, each), base, model, equity) for each in (step, -step)
    )
    gradient = base.score_gradient(account)
    column = "instrument_id" if name == "positions" else "asset"
    slope = gradient.positions.row(by_predicate=pl.col(column) == key, named=True)["slope"]
    assert slope != 0
    # The score is piecewise cubic: a step of a few ten-thousandths of the bandwidth is right to its square.
    assert (up - down) / (2 * step) == pytest.approx(slope, rel=1e-3)
    assert gradient.stress_score_smooth == told(account, base.scores([account]))["stress_score_smooth"]


def test_the_slope_in_equity_is_a_finite_difference_and_more_equity_is_safer() -> None:
    for account in ("thin", "mixed"):
        gradient, limit = scored().score_gradient(account), limit_of(account, scored())
        up, down = (
            twin.smooth_exceedance(losses_of(scored())[account], weights(), limit + each, gradient.bandwidth)
            for each in (0.1, -0.1)
        )
        assert (up - down) / 0.2 == pytest.approx(gradient.equity, rel=1e-3)
        assert gradient.equity < 0


def test_slopes_in_prices_are_finite_differences_of_margins_at_moved_prices() -> None:
    """Scenarios are given, so that no filter sees the move; contracts keep the price that they were entered at."""
    plain = mx.load_model(parse_config({"scenarios": {"window": 120}, "risk": {"tail": 0.05}}, "test"))
    known = margin(holdings(), plain, engine=DOUBLE).scenarios
    shocks = known.shocks[:, :5]
    model = plain.with_scenarios(mx.ScenarioSet(tuple(INDEX), shocks, known.weights, known.labels))
    entered = {**holdings(), "positions": with_entries(holdings()["positions"])}
    entered = held_more(entered, "balances", "inverse", "BTC", -0.995)
    base = margin(entered, model, engine=DOUBLE)
    seen = 0
    for account, coin in (("thin", "USDT"), ("mixed", "ETH"), ("inverse", "BTC")):
        gradient = base.score_gradient(account)
        slope = dict(gradient.prices.iter_rows())[coin]
        step = 1e-5
        changed = ({**entered, **priced_at(coin, each)} for each in (step, -step))
        up, down = (moved(account, each, base, model) for each in changed)
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=2e-3, abs=1e-6), (account, coin)
        seen += abs(slope) > 1e-3
    assert seen == 3
    assert set(base.score_gradient("thin").prices["underlying"]) == {"BTC", "USDT"}


def priced_at(coin: str, move: float) -> dict[str, pl.DataFrame]:
    """Prices after a relative move of one underlying; a mark in what falls rises, for what it is of stays."""
    made = priced(coin, INDEX[coin] * (1 + move))
    quoted = tables()["instruments"].filter(quote=coin)["instrument_id"].implode()
    mark = (
        pl.when(pl.col("instrument_id").is_in(quoted)).then(pl.col("mark_price") / (1 + move)).otherwise("mark_price")
    )
    return {**made, "quotes": made["quotes"].with_columns(mark.alias("mark_price"))}


def with_entries(held: pl.DataFrame) -> pl.DataFrame:
    coin = pl.col("instrument_id").str.split("-").list.first()
    return held.with_columns(entry_price=coin.replace_strict(INDEX, return_dtype=pl.Float64))


def test_without_equity_no_small_change_helps() -> None:
    gradient = scored().score_gradient("broke")
    assert gradient.stress_score_smooth == 1
    assert gradient.equity == 0
    assert (gradient.positions["slope"] == 0).all()
    assert gradient.prices.is_empty()


def test_isolated_positions_have_scores_of_their_own() -> None:
    given = holdings()
    alone = plus(
        given["positions"].with_columns(isolated_margin=pl.lit(None, pl.Float64)), "long", "ETH-PERP", 500.0, 500.0
    )
    result = margin({**given, "positions": alone}, parse_config(CONFIG, "test"), engine=DOUBLE)
    (own,) = result.scores(["long"]).filter(pl.col("instrument_id").is_not_null()).iter_rows(named=True)
    assert own["equity"] == 500
    assert own["stress_score"] == result.isolated["stress_score"].item()
    assert own["band"] == result.isolated["band"].item() != "healthy"
    gradient = result.score_gradient("long", "ETH-PERP")
    assert gradient.stress_score_smooth == pytest.approx(own["stress_score_smooth"], rel=1e-6)
    assert gradient.positions["instrument_id"].to_list() == ["ETH-PERP"]
    with pytest.raises(KeyError, match="no account 'long' with an isolated position in 'BTC-PERP'"):
        result.score_gradient("long", "BTC-PERP")
    assert told("long", result.scores(["long"]).head(1)) == told("long")


def test_single_precision_says_the_same_but_for_scenarios_on_the_edge() -> None:
    given, few = holdings(), pl.col("account_id").is_in(["long", "short"])
    some = {**given, **{name: given[name].filter(few) for name in ("positions", "balances")}}
    single, double = margin(some, parse_config(CONFIG, "test")).scores(), frame().filter(few)
    heaviest = weights().max()
    assert ((single["stress_score"] - double["stress_score"]).abs() <= heaviest + 1e-6).all()
    # Losses of single precision are off by less than a thousandth of a bandwidth.
    assert ((single["stress_score_smooth"] - double["stress_score_smooth"]).abs() <= 1e-3).all()


def test_scores_on_disk_are_those_of_the_margins(tmp_path: Path) -> None:
    start = tmp_path / "start"
    assert run(["init", str(start)]) == Exit.SUCCESS
    words = ["margin", "--config", str(start / "marginax.toml"), "--out", str(start / "results"), "--scores"]
    for name in FILES:
        words += [f"--{name}", str(start / f"{name}.csv")]
    assert run(words) == Exit.SUCCESS
    scores, margins = (pl.read_parquet(start / "results" / f"{name}.parquet") for name in ("scores", "margins"))
    both = scores.filter(pl.col("instrument_id").is_null())
    assert both["account_id"].to_list() == margins["account_id"].to_list()
    for name in ("stress_score", "band", "equity"):
        assert both[name].equals(margins[name])
