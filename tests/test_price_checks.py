"""Prices against the last good ones: what falls back, what that charges, and who is told."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from door_tables import good, refused
from marginax.config import Config, parse_config
from marginax.market import Market
from marginax.price_sections import PriceChecks
from marginax.sections import Engine
from marginax.status import Status
from markets import AS_OF, INDEX, changed, history, instruments, priced, quotes, row, tables, underlyings

SHARED = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[2] / "shared")
CRASH = SHARED / "data" / "crypto_intraday" / "binance_oct2025_crash_1h_spot_perp_mark.parquet"
BEFORE = AS_OF - timedelta(hours=1)
DOUBLE = Engine(precision="float64")
CHARGED: dict[str, Any] = {
    "model": "dynamic",
    "scenarios": {"window": 200},
    "risk": {"tail": 0.02},
    "oracle": {"confidence_weight": 1.0, "z": 1.0},
}


def market(**given: pl.DataFrame) -> Market:
    names = ("quotes", "underlyings", "history")
    return mx.read_market(**{name: tables(**given)[name] for name in names}, as_of=AS_OF)


def last(time: datetime = BEFORE, **given: pl.DataFrame) -> Market:
    """The prices of the run before, as they stood at `time`."""
    earlier = {name: tables(**given)[name].with_columns(time=time) for name in ("quotes", "underlyings")}
    return mx.last_good(market(), **earlier)


def checked(now: Market, before: Market | None = None, **settings: Any) -> Market:
    chosen = PriceChecks(**settings) if settings else None
    return mx.check_prices(now, before or last(), chosen, instruments=instruments())


def index_of(found: Market, name: str) -> dict[str, Any]:
    return found.underlyings.row(by_predicate=pl.col("underlying") == name, named=True)


def mark_of(found: Market, name: str) -> dict[str, Any]:
    return found.quotes.row(by_predicate=pl.col("instrument_id") == name, named=True)


def margins(found: Market, config: Config | None = None) -> mx.Result:
    book = mx.read_book(**{name: tables()[name] for name in ("instruments", "positions", "balances")})
    return mx.margin_book(book, found, config or parse_config(CHARGED, "test"), engine=DOUBLE)


def reasons(found: Market) -> list[str]:
    return [each.reason for each in found.fallbacks or ()]


def test_prices_that_moved_as_they_do_are_used() -> None:
    moved = market(**priced("BTC", 84_000.0))
    found = checked(moved)
    assert found.fallbacks == ()
    assert found.quotes.equals(moved.quotes)
    assert found.underlyings.equals(moved.underlyings)


def test_a_price_that_jumped_falls_back_and_its_holders_are_told_both_prices_and_the_jump() -> None:
    found = checked(market(**priced("BTC", 160_000.0)))
    assert (index_of(found, "BTC")["index_price"], index_of(found, "BTC")["time"]) == (80_000.0, BEFORE)
    assert (mark_of(found, "BTC-PERP")["mark_price"], mark_of(found, "BTC-PERP")["bid"]) == (80_000.0, 79_992.0)
    assert index_of(found, "ETH")["time"] == AS_OF
    assert len(found.fallbacks or ()) == 1 + instruments().filter(underlying="BTC").height
    told = margins(found)
    for account in ("long", "short", "hedged", "inverse", "debtor"):
        answer = row(told, account)
        assert answer["status"] == Status.FALLBACK.label
        assert "index price of BTC: 80,000 is kept, 160,000 jumped (+100.0%, 2" in answer["reason"]
        assert answer["initial_margin"] is not None
    assert "mark of BTC-PERP: 80,000 is kept, 160,000 jumped" in row(told, "long")["reason"]
    assert row(told, "spread")["status"] == Status.OK.label
    assert told.manifest["data"]["prices_refused"] == reasons(found)
    assert told.manifest["accounts"]["by_status"]["fallback"] == 5


def test_a_fallback_charges_its_age_and_nobody_owes_less_than_at_the_last_good_price() -> None:
    fallen, fresh = margins(checked(market(**priced("BTC", 160_000.0)))), margins(market())
    for account in fresh.margins["account_id"]:
        assert row(fallen, account)["initial_margin"] >= row(fresh, account)["initial_margin"] - 1e-7, account
    assert row(fallen, "long")["oracle"] > row(fresh, "long")["oracle"]
    older = margins(checked(market(**priced("BTC", 160_000.0)), last(AS_OF - timedelta(hours=9))))
    assert row(older, "long")["oracle"] > row(fallen, "long")["oracle"]
    # Without the charge a fallback is the last good price, no more and no less.
    plain = parse_config({**CHARGED, "oracle": {}}, "test")
    one, other = margins(checked(market(**priced("BTC", 160_000.0))), plain), margins(market(), plain)
    assert one.margins["initial_margin"].to_list() == other.margins["initial_margin"].to_list()


def test_the_confidence_of_a_fallback_is_the_wider_of_both_and_unknown_where_one_is() -> None:
    jump = priced("BTC", 160_000.0)
    for now, before, kept in ((0.001, 0.004, 0.004), (0.004, 0.001, 0.004), (0.001, None, None), (None, 0.001, None)):
        wide = jump["underlyings"].with_columns(confidence=pl.lit(now, pl.Float64))
        narrow = underlyings().with_columns(confidence=pl.lit(before, pl.Float64))
        found = checked(market(**{**jump, "underlyings": wide}), last(underlyings=narrow))
        assert index_of(found, "BTC")["confidence"] == kept


def test_a_time_that_runs_backwards_keeps_the_previous_price() -> None:
    early = changed(underlyings(), "time", BEFORE - timedelta(minutes=5))
    early = changed(early, "index_price", 80_010.0)
    found = checked(market(underlyings=early))
    assert (index_of(found, "BTC")["index_price"], index_of(found, "BTC")["time"]) == (80_000.0, BEFORE)
    assert reasons(found) == [
        "index price of BTC: 80,000 is kept, 80,010 is of 2025-12-31 22:55:00, before 2025-12-31 23:00:00"
    ]


def test_a_price_without_a_time_is_used_and_its_age_is_the_worst() -> None:
    untimed = changed(underlyings(), "time", None)
    assert checked(market(underlyings=untimed)).fallbacks == ()
    assert (
        row(margins(checked(market(underlyings=untimed))), "long")["oracle"] > row(margins(market()), "long")["oracle"]
    )


def test_a_long_silence_allows_a_longer_way() -> None:
    """Three per cent a day, ten of them: 35 % in a day is a jump, in nine days it is not."""
    further = market(**priced("BTC", 108_000.0))
    assert reasons(checked(further, last(AS_OF - timedelta(days=1)), jump_sigmas=8.0))
    assert not reasons(checked(further, last(AS_OF - timedelta(days=9)), jump_sigmas=8.0))


def test_a_share_is_a_bound_of_its_own_and_a_peg_may_lose_a_tenth() -> None:
    moved = market(**priced("ETH", 2_600.0))
    assert not reasons(checked(moved))
    assert "index price of ETH: 3,000 is kept, 2,600 jumped (-13.3%" in reasons(checked(moved, jump_share=0.1))[0]
    # A tenth is hundreds of standard deviations of a peg: it is real more often than not.
    unpegged = changed(underlyings(), "index_price", 0.9, row=4)
    assert not reasons(checked(market(underlyings=unpegged)))
    assert reasons(checked(market(underlyings=unpegged), least_jump=0.05))
    assert not reasons(checked(market(**priced("BTC", 160_000.0)), jump_sigmas=None))


def test_what_has_no_history_or_no_last_price_is_measured_by_what_there_is() -> None:
    jump = priced("BTC", 160_000.0)
    without = history().filter(pl.col("underlying") != "BTC")
    young = market(**jump, history=without)
    assert not reasons(checked(young))
    assert reasons(checked(young, jump_share=0.5))
    of_others = [~pl.col(key).str.starts_with("BTC") for key in ("instrument_id", "underlying")]
    unknown = last(quotes=quotes().filter(of_others[0]), underlyings=underlyings().filter(of_others[1]))
    assert not reasons(checked(market(**jump), unknown))


def test_a_price_that_may_be_negative_is_measured_by_its_own_volatility() -> None:
    oil = {"shock": pl.when(pl.col("underlying") == "OIL").then(pl.lit("absolute")).otherwise(pl.lit("log"))}
    rows = underlyings().with_columns(**oil)
    drop = market(underlyings=changed(rows, "index_price", -37.0, row=5))
    (reason,) = reasons(checked(drop, last(underlyings=rows)))
    assert reason.startswith("index price of OIL: 70 is kept, -37 jumped (-152.9%, ")
    assert not reasons(checked(market(underlyings=changed(rows, "index_price", 66.0, row=5)), last(underlyings=rows)))


@pytest.mark.parametrize("name", ["quotes", "underlyings"])
@pytest.mark.parametrize(("confidence", "said"), [(-0.1, "not negative"), (1.5, "wider than the price itself")])
def test_a_confidence_that_is_none_is_refused_at_the_door(name: str, confidence: float, said: str) -> None:
    error = refused(good(name).with_columns(confidence=pl.Series([0.1, confidence, 1.0])), name)
    (problem,) = error.problems
    assert (problem.column, problem.row) == ("confidence", 2)
    assert said in str(problem)


def option_market(mark: float, index: float = 80_000.0) -> tuple[Market, Callable[[Market], Market]]:
    """A call at 0.02 coins and what it becomes, beside its coin."""
    listed = pl.DataFrame(
        {
            "instrument_id": ["BTC-CALL"], "kind": ["call"], "underlying": ["BTC"], "quote": ["USD"],
            "settlement": ["inverse"], "multiplier": [1.0], "strike": [90_000.0],
            "expiry": [AS_OF + timedelta(days=30)],
        }
    )  # fmt: skip

    def of(premium: float, price: float, time: datetime) -> dict[str, pl.DataFrame]:
        quoted = pl.DataFrame({"instrument_id": ["BTC-CALL"], "mark_price": [premium], "time": [time]})
        return {"quotes": quoted, "underlyings": priced("BTC", price)["underlyings"].with_columns(time=time)}

    now = mx.read_market(**of(mark, index, AS_OF), history=history(), as_of=AS_OF)
    before = mx.last_good(now, **of(0.02, 80_000.0, BEFORE))
    return now, lambda given: mx.check_prices(given, before, instruments=listed)


def test_the_mark_of_an_option_may_double_and_not_move_by_more_than_its_coin_can() -> None:
    now, check = option_market(0.04)
    assert check(now).fallbacks == ()
    now, check = option_market(0.9)
    (fallen,) = check(now).fallbacks or ()
    assert fallen.kept == 0.02
    assert "mark of BTC-CALL: 0.02 is kept, 0.9 jumped" in fallen.reason


def test_a_mark_apart_from_its_index_is_noted_beyond_confidence_and_basis() -> None:
    apart = quotes().drop("bid", "ask").with_columns(
        mark_price=pl.when(pl.col("instrument_id").is_in(["BTC-PERP", "ETH-FUT"]))
        .then(1.06 * pl.col("mark_price"))
        .otherwise("mark_price")
    )  # fmt: skip
    # Half a year of basis explains the future, and nothing explains the perpetual.
    assert margins(market(quotes=apart)).manifest["data"]["marks_apart_from_index"] == {"BTC-PERP": 0.06}
    wide = underlyings().with_columns(confidence=pl.lit(0.02))
    assert margins(market(quotes=apart, underlyings=wide)).manifest["data"]["marks_apart_from_index"] == {}
    strict = parse_config({**CHARGED, "price_checks": {"mark_share": 0.01}}, "test")
    told = margins(market(quotes=apart), strict).manifest["data"]["marks_apart_from_index"]
    assert told == {"BTC-PERP": 0.06, "ETH-FUT": 0.06}


@pytest.mark.skipif(not CRASH.is_file(), reason=f"there is no {CRASH}; name its folder with MARGINAX_SHARED")
def test_index_mark_and_last_of_10_october_2025_differ_and_the_notes_say_where() -> None:
    """21:00 UTC, the lows of the hour: spot for the index, the venue's mark, the last price of its perpetual."""
    hour = pl.read_parquet(CRASH).filter(pl.col("time") == datetime(2025, 10, 10, 21, tzinfo=AS_OF.tzinfo))
    lows = hour.pivot(on="market", index="symbol", values="low").drop_nulls().sort("symbol")
    apart = {name: (mark / spot - 1, last / mark - 1) for name, spot, last, mark in
             lows.select("symbol", "spot", "usdm_perp", "usdm_mark").iter_rows()}  # fmt: skip
    assert apart["BTC"] == (pytest.approx(-0.0012, abs=1e-4), pytest.approx(-0.0035, abs=1e-4))
    assert apart["SOL"][0] == pytest.approx(-0.148, abs=1e-3)
    assert apart["DOGE"] == (pytest.approx(-0.067, abs=1e-3), pytest.approx(-0.054, abs=1e-3))
    assert apart["ORCA"][0] > 1
    coins = lows["symbol"].to_list()
    listed = pl.DataFrame({"instrument_id": coins, "underlying": coins}).with_columns(
        kind=pl.lit("perpetual"), quote=pl.lit("USD"), settlement=pl.lit("linear"), multiplier=pl.lit(1.0)
    )
    time = pl.lit(AS_OF)
    walks = [history().filter(underlying="BTC").with_columns(underlying=pl.lit(name)) for name in coins]
    found = mx.margin_book(
        mx.read_book(
            instruments=listed,
            positions=pl.DataFrame({"account_id": coins, "instrument_id": coins, "quantity": [1.0] * len(coins)}),
            balances=tables()["balances"].clear(),
        ),
        mx.read_market(
            quotes=pl.DataFrame({"instrument_id": coins, "mark_price": lows["usdm_mark"]}).with_columns(time=time),
            underlyings=pl.DataFrame({"underlying": coins, "index_price": lows["spot"]}).with_columns(time=time),
            history=pl.concat(walks),
        ),
    )
    told = found.manifest["data"]["marks_apart_from_index"]
    assert set(told) == {name for name, (mark, _) in apart.items() if abs(mark) > 0.052}
    assert {"SOL", "DOGE", "ORCA"} <= set(told)
    assert "BTC" not in told
    assert INDEX.keys() & told.keys() == {"DOGE"}
