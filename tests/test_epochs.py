"""A book through a sequence of markets: margins, calls and equity at every epoch, against loops and single runs."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.epochs import Policy, Replayed, replay
from marginax.epochs.bars import read_bars
from marginax.epochs.calls import POLICIES
from marginax.epochs.prices import begun, moved, moves_of
from marginax.match import rematched
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import AS_OF, INDEX, UTC_TIME, balances, history, instruments, plus, positions
from reference import black
from reference import epochs as twin
from test_dynamic import ALL_ON

DOUBLE = Engine(precision="float64", streams=1)
STEPS = 5
STILL: dict[str, Any] = {"basis": {"volatility": 1e-12, "annualised_volatility": 0.0}}
# What a call is in these tests: thin accounts, so that some are called on quiet days too.
THIN = {"long": 7_000.0, "short": 7_000.0}


@cache
def model() -> mx.MarginModel:
    return mx.load_model(
        parse_config({**ALL_ON, **STILL, "scenarios": {**ALL_ON["scenarios"], "stale_after_days": 2.0}}, "test")
    )


@cache
def book() -> mx.Book:
    money = balances().with_columns(
        amount=pl.coalesce(pl.col("account_id").replace_strict(THIN, default=None), "amount")
    )
    alone = plus(positions().with_columns(isolated_margin=pl.lit(None, pl.Float64)), "spread", "BTC-PERP", 500.0, 900.0)
    return mx.read_book(instruments=instruments(), positions=alone, balances=money)


def day(back: int) -> datetime:
    return AS_OF - timedelta(days=back)


@cache
def market() -> mx.Market:
    """Everything at its index, five days before the end of the history."""
    past = history().filter(pl.col("time") <= day(STEPS))
    now = past.filter(pl.col("time") == day(STEPS))
    prices = dict(now.select("underlying", "price").iter_rows())
    listed = instruments()
    marks = listed["underlying"].replace_strict(prices, return_dtype=pl.Float64) * 1.001
    stamps = pl.Series([day(STEPS)] * listed.height, dtype=UTC_TIME)
    return mx.read_market(
        quotes=pl.DataFrame({"instrument_id": listed["instrument_id"], "mark_price": marks, "time": stamps}),
        underlyings=now.select("underlying", pl.col("price").alias("index_price"), "time"),
        history=past,
    )


@cache
def bars() -> pl.DataFrame:
    """The days after, BTC falling by a third on the third of them."""
    fall = pl.when((pl.col("underlying") == "BTC") & (pl.col("time") >= day(2))).then(0.67).otherwise(1.0)
    later = history().filter(pl.col("time") > day(STEPS))
    return later.select("time", "underlying", price=pl.col("price") * fall).sort("underlying", "time")


def run(out: Path, *, calls: Policy = "stand", rows: pl.DataFrame | None = None, **options: Any) -> Replayed:
    given_bars = bars() if rows is None else rows
    return replay(book(), market(), given_bars, model(), out=out, calls=calls, engine=DOUBLE, **options)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Replayed]:
    """A whole replay under each policy."""
    folder = tmp_path_factory.mktemp("replays")
    return {calls: run(folder / calls, calls=calls) for calls in POLICIES}


def prices_at(time: datetime) -> dict[str, float]:
    return dict(bars().filter(pl.col("time") == time).select("underlying", "price").iter_rows()) | {"USD": 1.0}


def prices_before() -> dict[str, float]:
    return dict(market().underlyings.select("underlying", "index_price").iter_rows()) | {"USD": 1.0}


def marks_at(time: datetime) -> dict[str, float]:
    """Marks by the loop: each moves with its index from the beginning on."""
    was, now = prices_before(), prices_at(time)
    first = dict(market().quotes.select("instrument_id", "mark_price").iter_rows())
    return {
        row["instrument_id"]: twin.moved_mark(
            first[row["instrument_id"]],
            (was[row["underlying"]], now[row["underlying"]]),
            (was[row["quote"]], now[row["quote"]]),
            absolute=False,
        )
        for row in instruments().iter_rows(named=True)
    }


def test_every_epoch_has_a_row_and_every_holder_a_row_at_each(replayed: dict[str, Replayed]) -> None:
    found = replayed["stand"]
    assert found.epochs["time"].to_list() == [day(back) for back in range(STEPS - 1, -1, -1)]
    assert (found.epochs["prices"] == len(INDEX)).all()
    rows = found.accounts().collect()
    assert rows.height == STEPS * book().holders
    assert rows.filter(pl.col("instrument_id").is_not_null())["instrument_id"].unique().to_list() == ["BTC-PERP"]
    owed = rows.group_by("time", maintain_order=True).agg(pl.col("initial_margin").sum())
    np.testing.assert_allclose(found.epochs["initial_margin"], owed["initial_margin"], rtol=1e-12)


def test_margins_are_those_of_the_market_followed_by_hand(replayed: dict[str, Replayed]) -> None:
    """`follow` and `after`, given the same prices; marks differ by the rounding of one product."""
    entered = (
        book()
        .tables["positions"]
        .rows.join(market().quotes.select("instrument_id", entry="mark_price"), on="instrument_id", how="left")
    )
    held = entered.select("account_id", "instrument_id", "quantity", "isolated_margin", entry_price="entry")
    money = book().tables["balances"].rows.select("account_id", "asset", "amount")
    live = mx.follow(mx.read_book(instruments=instruments(), positions=held, balances=money), market(), model())
    rows = replayed["stand"].accounts().collect()
    for back in range(STEPS - 1, STEPS - 4, -1):
        time = day(back)
        marks, prices = marks_at(time), prices_at(time)
        live = live.after(
            quotes=pl.DataFrame({"instrument_id": list(marks), "mark_price": list(marks.values()), "time": time}),
            underlyings=pl.DataFrame(
                {"underlying": list(INDEX), "index_price": [prices[name] for name in INDEX], "time": time}
            ),
        )
        one, mine = live.margins(engine=DOUBLE), rows.filter(pl.col("time") == time)
        for whole, part in ((one.margins, mine.filter(pl.col("instrument_id").is_null())),
                            (one.isolated, mine.filter(pl.col("instrument_id").is_not_null()))):  # fmt: skip
            for name in ("equity", "initial_margin", "maintenance_margin", "stress_score", "call"):
                np.testing.assert_allclose(part[name], whole[name], rtol=1e-10, atol=1e-7)


def test_equity_moves_with_prices_as_the_loop_says(replayed: dict[str, Replayed]) -> None:
    terms = {row["instrument_id"]: row for row in instruments().iter_rows(named=True)}
    first = dict(market().quotes.select("instrument_id", "mark_price").iter_rows())
    rows = replayed["stand"].accounts().filter(pl.col("instrument_id").is_null()).collect()
    money = book().tables["balances"].rows
    held = book().tables["positions"].rows.filter(pl.col("isolated_margin").is_null())
    for time in replayed["stand"].epochs["time"]:
        marks, prices = marks_at(time), prices_at(time)
        for row in rows.filter(pl.col("time") == time).iter_rows(named=True):
            account = row["account_id"]
            own = list(money.filter(account_id=account).select("asset", "amount").iter_rows())
            has = [(terms[name], size, first[name]) for name, size in
                   held.filter(account_id=account).select("instrument_id", "quantity").iter_rows()]  # fmt: skip
            assert row["equity"] == pytest.approx(twin.equity(own, has, marks, prices), rel=1e-10, abs=1e-6)


@pytest.mark.parametrize("calls", POLICIES)
def test_calls_are_paid_or_closed_as_the_loop_says(replayed: dict[str, Replayed], calls: Policy) -> None:
    """Without policy nothing moves but prices: what a policy adds is what the loop adds."""
    rows = replayed[calls].accounts().collect()
    for _, mine in rows.group_by("account_id", "instrument_id", maintain_order=True):
        holder = twin.Holder()
        plain = (
            replayed["stand"]
            .accounts()
            .collect()
            .filter(
                (pl.col("account_id") == mine["account_id"][0])
                & pl.col("instrument_id").eq_missing(mine["instrument_id"][0])
            )
        )
        # What is left of an isolated position that was closed is its account's from the next epoch on.
        alone = rows.filter((pl.col("account_id") == mine["account_id"][0]) & pl.col("instrument_id").is_not_null())
        alone = alone.filter(pl.col("is_closed") & mine["instrument_id"].is_null()[0])
        for row, at_first in zip(mine.iter_rows(named=True), plain["equity"], strict=False):
            back = alone.filter(pl.col("time") < row["time"])["equity"].clip(lower_bound=0.0).sum()
            if not holder.closed:
                assert row["equity"] == pytest.approx(at_first + holder.paid + back, rel=1e-9, abs=1e-6)
            elif row["instrument_id"] is None:
                assert row["initial_margin"] == 0
            assert row["is_new_call"] == (row["call"] > 0 and not holder.called)
            before = holder.closed
            holder.epoch(calls, row["equity"], row["call"])
            assert row["is_closed"] == (holder.closed and not before)
        if calls == "closed" and mine["instrument_id"][0] is None and holder.closed:
            assert mine["equity"][-1] >= 0
    told = replayed[calls].epochs
    assert told["new_calls"].sum() > 0
    assert (told["written_off"].sum() > 0) == (calls == "closed")
    assert (told["closed"].sum() > 0) == (calls == "closed")


def test_what_was_closed_owes_nothing_and_stays_what_it_was(replayed: dict[str, Replayed]) -> None:
    rows = replayed["closed"].accounts().collect()
    ended = rows.filter(pl.col("is_closed"))
    assert ended.height > 0
    for row in ended.iter_rows(named=True):
        after = rows.filter(
            (pl.col("time") > row["time"]) & (pl.col("account_id") == row["account_id"])
            & pl.col("instrument_id").eq_missing(row["instrument_id"])
        )  # fmt: skip
        if row["instrument_id"] is not None:
            assert after.is_empty()
            continue
        assert (after["initial_margin"] == 0).all()
        np.testing.assert_allclose(after["equity"], max(row["equity"], 0.0), rtol=1e-12)


def test_sums_of_an_epoch_are_those_of_its_rows(replayed: dict[str, Replayed]) -> None:
    for found in replayed.values():
        rows = found.accounts().collect()
        for epoch in found.epochs.iter_rows(named=True):
            mine = rows.filter(pl.col("time") == epoch["time"])
            called, lost = mine.filter(pl.col("call") > 0), mine.filter(pl.col("equity") < 0)
            assert epoch["below_maintenance"] == called.height
            assert epoch["call"] == pytest.approx(called["call"].sum())
            assert epoch["new_call"] == pytest.approx(called.filter(pl.col("is_new_call"))["call"].sum())
            assert epoch["shortfall"] == pytest.approx(-lost["equity"].sum())
            assert epoch["expected_below_zero"] == pytest.approx(mine["stress_score"].sum())
            assert epoch["expected_bad_debt"] >= 0
            ratios = mine.filter(pl.col("margin_ratio").is_not_null()).sort("margin_ratio")
            assert epoch["worst_ratio"] == ratios["margin_ratio"][0]
            assert epoch["worst_accounts"][0] == ratios["account_id"][0]


def test_a_fall_raises_the_requirement_of_who_holds_it_within_one_epoch(replayed: dict[str, Replayed]) -> None:
    rows = replayed["stand"].accounts().collect().filter(account_id="short")
    before, after = (rows.filter(pl.col("time") == day(back))["initial_margin"][0] for back in (3, 2))
    assert after / 0.67 > 1.2 * before  # a third less is held, and more is asked for each dollar of it


def test_a_call_below_the_minimum_is_none_and_its_account_is_below_maintenance_all_the_same(tmp_path: Path) -> None:
    stated = parse_config({**ALL_ON, **STILL, "calls": {"minimum_transfer": 1e9}}, "test")
    found = replay(book(), market(), bars(), mx.load_model(stated), out=tmp_path / "calls", engine=DOUBLE)
    assert found.epochs["below_maintenance"].sum() > 0 == found.epochs["call"].sum()


def test_accrued_funding_is_refused(tmp_path: Path) -> None:
    stated = parse_config({**ALL_ON, "funding": {"accrued": True}}, "test")
    with pytest.raises(BadInput, match=r"funding\.accrued.*settlements"):
        replay(book(), market(), bars(), mx.load_model(stated), out=tmp_path / "funding")


def test_a_coin_that_brings_no_price_keeps_its_own_and_is_stale(tmp_path: Path) -> None:
    gone = bars().filter(pl.col("underlying") != "ETH")
    found = run(tmp_path / "gone", rows=gone)
    assert found.manifest["epochs"]["underlyings_without_bars"] == ["ETH"]
    rows = found.accounts().filter(account_id="saver").collect()
    assert rows["equity"].n_unique() == 1
    spread = found.accounts().filter((pl.col("account_id") == "spread") & pl.col("instrument_id").is_null()).collect()
    assert spread["status"].to_list() == ["ok", "ok", "stale", "stale", "stale"]
    assert (spread["initial_margin"] > 0).all()


def test_marks_among_the_bars_are_used_and_kept_until_the_next() -> None:
    own = pl.DataFrame(
        {"time": [day(4), day(2)], "underlying": "BTC", "price": [50_000.0, 40_000.0], "instrument_id": "BTC-PERP"},
        schema_overrides={"time": UTC_TIME},
    )
    live = mx.follow(book(), market(), model())
    given_bars = read_bars([bars(), own.select("time", "underlying", "instrument_id", "price")], live)
    live, moves = begun(live, given_bars.marked), moves_of(live, given_bars.marked)
    now, marks = live.market, []
    for epoch in given_bars.from_epoch(0):
        now = moved(now, epoch, moves)
        row = now.quotes.filter(instrument_id="BTC-PERP")
        marks.append((row["mark_price"][0], row["time"][0]))
        other = now.quotes.filter(instrument_id="BTC-INV")["mark_price"][0]
        assert other == pytest.approx(1.001 * prices_at(epoch.time)["BTC"], rel=1e-12)
    kept = [(50_000.0, day(4)), (50_000.0, day(4)), (40_000.0, day(2)), (40_000.0, day(2)), (40_000.0, day(2))]
    assert marks == kept


def test_what_is_shocked_absolutely_keeps_its_distance_and_may_pass_zero(tmp_path: Path) -> None:
    oil = (
        market()
        .tables["underlyings"]
        .rows.select("underlying", "index_price", "time")
        .with_columns(shock=pl.when(pl.col("underlying") == "OIL").then(pl.lit("absolute")))
    )
    quotes = market().quotes.select("instrument_id", "mark_price", "time")
    priced = mx.read_market(quotes=quotes, underlyings=oil, history=history().filter(pl.col("time") <= day(STEPS)))
    below = (
        bars()
        .filter(pl.col("time") == day(4))
        .with_columns(price=pl.when(pl.col("underlying") == "OIL").then(-30.0).otherwise("price"))
    )
    live = mx.follow(book(), priced, "expected_shortfall")
    given_bars = read_bars(below, live)
    (epoch,) = given_bars.from_epoch(0)
    now = moved(live.market, epoch, moves_of(live, given_bars.marked))
    was, first = prices_before()["OIL"], quotes.filter(instrument_id="OIL-FUT")["mark_price"][0]
    wanted = twin.moved_mark(first, (was, -30.0), (1.0, 1.0), absolute=True)
    assert now.quotes.filter(instrument_id="OIL-FUT")["mark_price"][0] == pytest.approx(wanted, rel=1e-12)


def test_an_option_without_marks_keeps_its_volatility_and_moves_with_its_forward(tmp_path: Path) -> None:
    expiry = AS_OF + timedelta(days=30)
    index, volatility = prices_before()["BTC"], 0.6
    years = (expiry - day(STEPS)).total_seconds() / (365 * 86_400)
    strike = round(index, -3)
    call = pl.DataFrame(
        {"instrument_id": ["BTC-C"], "kind": ["call"], "underlying": ["BTC"], "quote": ["USD"],
         "settlement": ["linear"], "multiplier": [1.0], "strike": [strike], "expiry": [expiry]},
        schema_overrides={"expiry": UTC_TIME},
    )  # fmt: skip
    listed = pl.concat([instruments(), call], how="diagonal")
    mark = black.black76(index, strike, volatility * years**0.5, True)
    quoted = pl.concat(
        [
            market().quotes.select("instrument_id", "mark_price", "time"),
            pl.DataFrame({"instrument_id": ["BTC-C"], "mark_price": [mark], "time": [day(STEPS)]},
                         schema_overrides={"time": UTC_TIME}),
        ]
    )  # fmt: skip
    held = plus(positions(), "hedged", "BTC-C", 2.0)
    priced = mx.read_market(
        quotes=quoted, underlyings=market().underlyings.select("underlying", "index_price", "time"),
        history=history().filter(pl.col("time") <= day(STEPS)),
    )  # fmt: skip
    live = mx.follow(
        mx.read_book(instruments=listed, positions=held, balances=balances()), priced, "expected_shortfall"
    )
    given_bars = read_bars(bars(), live)
    live = begun(live, given_bars.marked)
    moves, now = moves_of(live, given_bars.marked), live.market
    for epoch in given_bars.from_epoch(0):
        now = moved(now, epoch, moves)
        left = (expiry - epoch.time).total_seconds() / (365 * 86_400)
        wanted = black.black76(prices_at(epoch.time)["BTC"], strike, volatility * left**0.5, True)
        row = now.quotes.filter(instrument_id="BTC-C")
        assert row["mark_price"][0] == pytest.approx(wanted, rel=1e-6)
        assert row["implied_vol"][0] == pytest.approx(volatility, rel=1e-6)
        assert row["time"][0] == epoch.time


def test_what_no_price_changes_is_taken_over_to_the_bit() -> None:
    live = mx.follow(book(), market(), "expected_shortfall")
    given_bars = read_bars(bars(), live)
    moves, bound = moves_of(live, given_bars.marked), None
    for epoch in given_bars.from_epoch(0):
        live = live.at(moved(live.market, epoch, moves), brought=epoch.underlyings)
        _, anew = live.ready(engine=DOUBLE)
        _, again = live.ready(engine=DOUBLE, before=bound)
        assert bound is None or again.matched.book is bound.matched.book
        for name in ("positions", "collateral"):
            for part in ("starts", "columns", "amounts"):
                one, other = (getattr(getattr(each.exposures, name), part) for each in (anew, again))
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(anew.exposures.equity, again.exposures.equity)
        bound = again
    assert bound is not None
    quotes = live.market.tables["quotes"]
    for rows in (quotes.rows.head(3), quotes.rows.with_columns(mark_price=-pl.col("mark_price"))):
        other = replace(live.market, tables={**live.market.tables, "quotes": quotes.of(rows)})
        assert rematched(bound.matched, other) is None
    assert rematched(bound.matched, replace(live.market, as_of=AS_OF + timedelta(days=400))) is None
