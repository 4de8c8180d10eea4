"""The regime in a margin: its part, what is told of signals, followed markets, and the door."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.cli.summary import print_summary
from marginax.config import Config, parse_config
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import AS_OF, BARS, INDEX, book_of, days, history, instruments, margin, quotes, row, tables

DOUBLE = Engine(precision="float64")
PLAIN: dict[str, Any] = {
    "model": "dynamic", "risk": {"tail": 0.02, "charge_tail": 0.05}, "scenarios": {"window": 200},
    "dependence": {"share": 0.1},
}  # fmt: skip
ON: dict[str, Any] = {
    "most": 1.5, "least": 0.9, "window_days": 100.0, "least_observations": 30,
    "signals": {"sentiment": {"direction": "low"}, "funding": {"direction": "high"}},
}  # fmt: skip
PARTS = ("core", "collateral", "dependence")


def config(**regime: Any) -> Config:
    return parse_config({**PLAIN, "regime": {**ON, **regime}}, "test")


def feed(name: str, of: str | None = None, *, seed: int = 1, bars: int = BARS) -> pl.DataFrame:
    """A value a day, six hours before its bar."""
    times = [each - timedelta(hours=6) for each in days(bars)]
    values = np.random.default_rng(seed).standard_normal(bars)
    stamps = pl.Series(times, dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {"time": stamps, "name": name, "underlying": pl.Series([of] * bars, dtype=pl.String), "value": values}
    )


@cache
def signals() -> pl.DataFrame:
    """Sentiment of the market, funding of all and of BTC; at the end the mood is bad, and longs of BTC pay much."""
    last = pl.col("time") > AS_OF - timedelta(days=12)
    mood = feed("sentiment", seed=1).with_columns(value=pl.when(last).then(-9.0).otherwise("value"))
    paid = feed("funding", "BTC", seed=2).with_columns(value=pl.when(last).then(9.0).otherwise("value"))
    return pl.concat([mood, feed("funding", seed=3), paid])


HELD = book_of(
    ("both", "BTC-SPOT", 1.0), ("both", "ETH-SPOT", -30.0), ("coins", "BTC-SPOT", 1.0), ("ether", "ETH-SPOT", -30.0),
    ("miner", "BTC-SPOT", -1.0),
)  # fmt: skip
OWNED = pl.DataFrame(
    [("both", "USD", 9e4), ("miner", "BTC", 0.7)], schema=["account_id", "asset", "amount"], orient="row"
)


def holdings() -> dict[str, Any]:
    """Two coins and who holds them: without a basis nothing is drawn."""
    listed = {"instruments": instruments(), "quotes": quotes()}
    spots = {name: each.filter(pl.col("instrument_id").str.ends_with("-SPOT")) for name, each in listed.items()}
    return tables(**spots, positions=HELD, balances=OWNED)


def run(settings: Config, rows: pl.DataFrame | None, **options: Any) -> mx.Result:
    given_tables = {**holdings(), **({} if rows is None else {"signals": rows})}
    return margin(given_tables, settings, engine=DOUBLE, **options)


@cache
def usual() -> mx.Result:
    return run(config(), signals())


def multipliers(result: mx.Result) -> dict[str, float]:
    return {**dict.fromkeys(INDEX, 1.0), **result.manifest["scenarios"]["regime"]["multipliers"]}


def test_the_part_is_the_multiplier_less_one_of_the_risk() -> None:
    told = multipliers(usual())
    # Both at the worst of a hundred days for twelve: a rank of 0.94, and a pressure of 0.88.
    assert told["BTC"] == 1.44
    assert 1 < told["ETH"] < 1.4
    shortfall = {"coins": "BTC", "ether": "ETH"}
    for account, name in shortfall.items():
        found = row(usual(), account)
        risk = sum(found[part] for part in PARTS)
        # The manifest has four digits.
        assert found["regime"] == pytest.approx((told[name] - 1) * risk, abs=1e-4 * risk)
        assert risk > 1
    found = row(usual(), "both")
    size = {account: row(usual(), account)["core"] for account in shortfall}
    mean = sum(told[shortfall[each]] * size[each] for each in size) / sum(size.values())
    risk = sum(found[part] for part in PARTS)
    assert found["regime"] == pytest.approx((mean - 1) * risk, abs=1e-4 * risk)
    coin = row(usual(), "miner")
    assert coin["regime"] == pytest.approx((told["BTC"] - 1) * sum(coin[part] for part in PARTS), abs=1)
    assert coin["regime"] > 100
    assert found["initial_margin"] == pytest.approx(
        sum(found[name] for name in (*PARTS, "regime", "haircut", "floor")), rel=1e-12
    )


def test_without_it_nothing_changes_and_the_table_is_named_as_not_read() -> None:
    off = run(parse_config(PLAIN, "test"), signals())
    assert "regime" not in off.margins.columns
    assert off.manifest["unused_tables"] == ["signals"]
    assert usual().manifest["unused_tables"] == []
    for name in ("core", "collateral", "dependence", "haircut", "var", "expected_shortfall", "stress_score"):
        np.testing.assert_allclose(off.margins[name], usual().margins[name], rtol=1e-12, atol=1e-9)
    more = usual().margins["initial_margin"] - off.margins["initial_margin"]
    np.testing.assert_allclose(more, usual().margins["regime"], rtol=1e-9, atol=1e-7)
    ratio = usual().margins["maintenance_margin"] - off.margins["maintenance_margin"]
    np.testing.assert_allclose(ratio, 0.8 * usual().margins["regime"], rtol=1e-9, atol=1e-7)


def test_shares_sum_to_it() -> None:
    shares = usual().attribution().group_by("account_id").agg(pl.col("regime").sum()).sort("account_id")
    margins = usual().margins.filter(pl.col("account_id").is_in(shares["account_id"].implode())).sort("account_id")
    np.testing.assert_allclose(shares["regime"], margins["regime"], rtol=1e-9, atol=1e-7)


def test_what_is_not_known_counts_as_the_worst_and_is_told() -> None:
    nothing = run(config(), None)
    assert set(multipliers(nothing).values()) == {1.5}
    assert nothing.manifest["scenarios"]["regime"]["not_known"] == ["funding", "sentiment"]
    lost = run(config(), signals().filter(pl.col("underlying").is_not_null()))
    assert lost.manifest["scenarios"]["regime"]["not_known"] == ["funding of ETH, DOGE, USDT, OIL", "sentiment"]
    short = run(config(), feed("sentiment", bars=29)).manifest["scenarios"]["regime"]
    assert short["not_known"] == ["funding", "sentiment"]
    for account in ("both", "coins", "ether"):
        assert row(nothing, account)["regime"] >= row(usual(), account)["regime"]
        assert row(lost, account)["regime"] >= row(usual(), account)["regime"]


def own_of(days_kept: float, begin: float = 1e9) -> pl.DataFrame:
    """The signals, with rows of BTC's own alone from so many days before the margin, and before `begin` days of it."""
    ago = (pl.lit(AS_OF) - pl.col("time")).dt.total_seconds() / 86_400
    own = pl.col("underlying").is_not_null()
    return signals().filter(~own | (ago < days_kept) | (ago > begin))


def test_own_rows_that_are_missing_are_not_known_and_lower_no_margin() -> None:
    """An outage and eight rows after it, and a series of eight rows: the market's series, which is calm, is not asked.
    Without a row of its own an underlying goes by the market's."""
    for few in (own_of(8, begin=150), own_of(8)):
        found = run(config(), few)
        assert found.manifest["scenarios"]["regime"]["not_known"] == ["funding of BTC"]
        assert multipliers(found)["BTC"] >= multipliers(usual())["BTC"]
        for account in ("both", "coins", "miner"):
            assert row(found, account)["regime"] >= row(usual(), account)["regime"] > 0
    none = run(config(), own_of(0))
    assert none.manifest["scenarios"]["regime"]["not_known"] == []
    assert multipliers(none)["BTC"] == multipliers(none)["ETH"] == multipliers(usual())["ETH"]


def test_an_underlying_that_the_market_does_not_have_is_refused() -> None:
    """Where BTX was meant to be BTC, BTC would lose its signal."""
    listed = {"sentiment": {"direction": "low", "underlyings": ["BTX", "ETH"]}}
    told = r"regime\.signals\.sentiment\.underlyings: 'BTX' is no underlying .*did you mean `BTC`"
    with pytest.raises(BadInput, match=told):
        run(config(signals=listed), signals())


def test_only_what_was_known_at_the_time_of_the_margin_counts() -> None:
    later = signals().with_columns(pl.col("time") + timedelta(days=BARS), value=pl.lit(1e6))
    found = run(config(), pl.concat([signals(), later]))
    assert found.margins.equals(usual().margins)
    assert found.manifest["scenarios"]["regime"]["after_as_of"] == later.height


def test_an_old_signal_is_told_and_counts_for_worse() -> None:
    """Funding of all is calm, and stops ten days before the margin."""
    calm = signals().with_columns(
        value=pl.when(
            pl.col("name") == "funding", pl.col("underlying").is_null(), pl.col("time") > AS_OF - timedelta(days=60)
        )
        .then(-9.0)
        .otherwise("value")
    )
    late = (pl.col("name") == "funding") & pl.col("underlying").is_null() & (pl.col("time") > AS_OF - timedelta(days=9))
    fresh, stale = (run(config(), rows) for rows in (calm, calm.filter(~late)))
    assert fresh.manifest["scenarios"]["regime"]["stale"] == []
    assert stale.manifest["scenarios"]["regime"]["stale"] == ["funding"]
    assert multipliers(fresh)["ETH"] < multipliers(stale)["ETH"] < 1.5
    assert multipliers(fresh)["BTC"] == multipliers(stale)["BTC"]


def test_a_margin_of_a_later_time_counts_the_days_since_the_last_bar() -> None:
    """Signals stop with the history: two weeks on they are as old as can be, and the limit has let go."""
    later = AS_OF + timedelta(days=14)
    fresh = {name: holdings()[name].with_columns(time=pl.lit(later)) for name in ("quotes", "underlyings")}
    found = margin({**holdings(), **fresh, "signals": signals()}, config(), engine=DOUBLE, as_of=later)
    assert set(multipliers(found).values()) == {1.5}
    mood = signals().filter(pl.col("name") == "sentiment").tail(1)
    more = pl.concat([signals(), mood.with_columns(time=pl.lit(later), value=pl.lit(99.0))])
    new = margin({**holdings(), **fresh, "signals": more}, config(), engine=DOUBLE, as_of=later)
    assert multipliers(new)["ETH"] < 1.5


@cache
def book() -> mx.Book:
    return mx.read_book(**{name: holdings()[name] for name in ("instruments", "positions", "balances")})


def at(time: datetime) -> dict[str, pl.DataFrame]:
    closes = dict(history().filter(time=time).select("underlying", "price").iter_rows())
    marks = holdings()["quotes"].with_columns(
        mark_price=pl.col("instrument_id").str.extract(r"^(\w+?)-").replace_strict(closes, return_dtype=pl.Float64),
        time=pl.lit(time),
    )
    indices = pl.DataFrame({"underlying": list(INDEX), "index_price": [closes[name] for name in INDEX], "time": time})
    return {"quotes": marks.drop("bid", "ask"), "underlyings": indices}


def test_a_market_that_is_followed_is_margined_like_one_that_is_read_whole(tmp_path: Any) -> None:
    model = mx.load_model(config())
    past = history().filter(pl.col("time") <= AS_OF - timedelta(days=5))
    market = mx.read_market(**at(AS_OF - timedelta(days=4)), history=past, signals=signals())
    live = mx.follow(book(), market, model)
    for back in (3, 2, 1, 0):
        time = AS_OF - timedelta(days=back)
        new = signals().filter(pl.col("time") <= time, pl.col("time") > time - timedelta(days=30))
        live = live.after(**at(time), signals=new)
        if back == 2:
            live = mx.resume(live.save(tmp_path / "state.npz"), book(), model)
    whole = mx.margin_book(
        book(), mx.read_market(**at(AS_OF), history=history(), signals=signals()), model, engine=DOUBLE
    )
    found = live.margins(engine=DOUBLE)
    for name in ("regime", "initial_margin", "core"):
        np.testing.assert_allclose(found.margins[name], whole.margins[name], rtol=1e-8, atol=1e-6)
    told, wanted = (each.manifest["scenarios"]["regime"] for each in (found, whole))
    assert told["multipliers"] == wanted["multipliers"]
    assert told["age_days"] == wanted["age_days"]
    with pytest.raises(BadInput, match="'sentimant' is read by no table"):
        live.after(**at(AS_OF), as_of=AS_OF + timedelta(days=1), signals=feed("sentimant"))


def test_own_rows_that_begin_in_a_followed_market_count_as_one_that_is_read_whole_counts_them(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three days of BTC's own: the worst in both, and told as begun later, not as rows of nothing. One of ETH's after
    an outage is not known in both."""
    eth = pl.concat([feed("funding", "ETH", bars=120).head(10), feed("funding", "ETH").tail(3)])
    own = pl.concat([own_of(3), eth.unique("time", keep="last"), feed("funding", "SHIB").tail(1)])
    model = mx.load_model(config())
    past = history().filter(pl.col("time") <= AS_OF - timedelta(days=5))
    live = mx.follow(book(), mx.read_market(**at(AS_OF - timedelta(days=4)), history=past, signals=own), model)
    for back in (3, 2, 1, 0):
        time = AS_OF - timedelta(days=back)
        live = live.after(**at(time), signals=own.filter(pl.col("time") <= time))
        if back == 1:
            live = mx.resume(live.save(tmp_path / "state.npz"), book(), model)
    whole = mx.margin_book(book(), mx.read_market(**at(AS_OF), history=history(), signals=own), model, engine=DOUBLE)
    found = live.margins(engine=DOUBLE)
    np.testing.assert_allclose(found.margins["regime"], whole.margins["regime"], rtol=1e-8, atol=1e-6)
    told, wanted = (each.manifest["scenarios"]["regime"] for each in (found, whole))
    assert told["multipliers"] == wanted["multipliers"]
    assert told["not_known"] == wanted["not_known"] == ["funding of BTC, ETH"]
    assert told["begun_later"] == ["funding of BTC"]
    assert told["of_nothing"] == wanted["of_nothing"] == ["SHIB"]
    assert wanted["begun_later"] == []
    print_summary(found, tmp_path)
    printed = capsys.readouterr().out
    assert "count as the worst until it is followed anew: funding of BTC." in printed
    assert "Signals of no underlying, ignored: SHIB." in printed


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (feed("fundng"), r"<signals>, row 1, column name: 'fundng' is read by no table .*did you mean `funding`"),
        (
            feed("funding").with_columns(pl.col("time") + timedelta(days=999)),
            "<signals>, column time: begin at 2028-01-10",
        ),
        (feed("funding").with_columns(value=pl.lit(float("nan"))), "row 1, column value: NaN was given"),
        (
            pl.concat([feed("funding"), feed("funding")]),
            f"row {BARS + 1}, column name: this time and name and underlying",
        ),
    ],
    ids=["name", "future", "nan", "twice"],
)
def test_bad_signals_are_refused_by_name(rows: pl.DataFrame, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        run(config(), rows)


@pytest.mark.parametrize(
    ("regime", "told"),
    [
        ({"most": 1.5}, "no signal has a weight"),
        ({"most": 1.5, "signals": {"funding": {"weight": 0.0}}}, "no signal has a weight"),
        ({**ON, "stale_after_days": 14.0}, "is not below `worst_age_days`"),
        ({**ON, "signals": {"funding": {"direction": "up"}}}, r"regime\.signals\.funding\.direction"),
        ({**ON, "signals": {"funding": {"wieght": 1.0}}}, "did you mean `weight`"),
    ],
)
def test_a_section_that_says_nothing_or_too_much_is_refused(regime: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_config({"model": "dynamic", "regime": regime}, "test")


def test_other_models_do_not_read_it() -> None:
    with pytest.raises(BadInput, match="`expected_shortfall` does not read it"):
        mx.load_model(parse_config({"model": "expected_shortfall", "regime": ON}, "test"))
