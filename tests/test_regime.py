"""The regime: against a loop over days, bounded and slow, blind to the future, and never lower for knowing less."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

import marginax as mx
from marginax.calendars import Grid
from marginax.config import Config, parse_config
from marginax.models.addons.regime import RegimeMultiplier, SignalArrays
from marginax.problems import BadInput
from marginax.regime_section import Regime
from marginax.sections import Engine
from marginax.signals import SignalHistory, signal_history
from marginax.tables.door import admit
from markets import AS_OF, BARS, INDEX, book_of, days, history, instruments, margin, quotes, row, tables
from reference import regime as twin

DOUBLE = Engine(precision="float64")
NAMES = ("BTC", "ETH", "OIL")
START, LENGTH = datetime(2026, 1, 1, tzinfo=UTC), 40
GRID = Grid(np.datetime64("2026-01-01", "us") + np.arange(LENGTH) * np.timedelta64(1, "D"), 1.0, 7.0)
SIGNALS = {
    "sentiment": {"direction": "low", "weight": 2.0},
    "funding": {"direction": "both", "weight": 1.0, "underlyings": ["BTC", "ETH"]},
    "open_interest": {"direction": "high", "weight": 0.5},
}
SETTINGS: dict[str, Any] = {
    "most": 1.6, "least": 0.8, "window_days": 15.0, "least_observations": 4, "stale_after_days": 2.0,
    "worst_age_days": 6.0, "rise_limit": 0.05, "fall_limit": 0.02, "signals": SIGNALS,
}  # fmt: skip
NUMBERS = twin.Numbers(1.6, 0.8, 15, 4, 2.0, 6.0, 0.05, 0.02)
SERIES = (("funding", None), ("funding", "BTC"), ("open_interest", None), ("sentiment", None))
# By series: whether a value comes on each day, how many hours before the bar, and what it is.
Feed = list[tuple[bool, int, int]]
FEEDS = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 23), st.integers(-3, 3)), min_size=LENGTH, max_size=LENGTH),
    min_size=len(SERIES), max_size=len(SERIES),
)  # fmt: skip


@cache
def settings() -> Regime:
    return Regime.model_validate(SETTINGS)


def rows_of(feeds: list[Feed]) -> pl.DataFrame:
    """The table `signals` of these feeds; each has a value on the first day, so that every series is there."""
    found = []
    for (name, of), feed in zip(SERIES, feeds, strict=True):
        for day, (comes, hours, value) in enumerate(feed):
            if comes or day == 0:
                found.append((START + timedelta(days=day) - timedelta(hours=hours), name, of, float(value)))
    schema = {"time": pl.Datetime("us", "UTC"), "name": pl.String, "underlying": pl.String, "value": pl.Float64}
    return admit(pl.DataFrame(found, schema=schema, orient="row"), "signals").rows


def signals_of(feeds: list[Feed]) -> SignalHistory:
    return signal_history(rows_of(feeds), settings(), NAMES, GRID)


@jax.jit
def _path(multiplier: RegimeMultiplier, signals: SignalArrays) -> Any:
    return multiplier.path(signals, bars_per_day=1.0)[0]


def path(signals: SignalHistory, chosen: Regime | None = None) -> np.ndarray:
    """Multipliers by bar and underlying."""
    multiplier = RegimeMultiplier.from_settings(chosen or settings())
    with jax.enable_x64(True):
        return np.asarray(_path(multiplier, SignalArrays.of(signals, settings(), NAMES)))


@settings_of(max_examples=15)
@given(FEEDS)
def test_multipliers_are_what_a_loop_over_days_finds(feeds: list[Feed]) -> None:
    found = path(signals_of(feeds))
    table = rows_of(feeds).with_columns(day=(pl.col("time") - START).dt.total_seconds() / 86_400).sort("day")

    def series(name: str, of: str | None) -> list[tuple[float, float]]:
        mine = table.filter(pl.col("name") == name, pl.col("underlying").eq_missing(pl.lit(of)))
        return list(mine.select("day", "value").iter_rows())

    for k, underlying in enumerate(NAMES):
        read = [name for name, each in SIGNALS.items() if underlying in each.get("underlyings", NAMES)]
        chosen = [
            twin.Signal(
                series(name, underlying), series(name, None), SIGNALS[name]["direction"], SIGNALS[name]["weight"]
            )
            for name in read
        ]
        wanted = twin.multipliers(chosen, list(map(float, range(LENGTH))), NUMBERS)
        np.testing.assert_allclose(found[:, k], wanted, rtol=1e-12)


@settings_of(max_examples=15)
@given(FEEDS)
def test_multipliers_are_bounded_and_move_at_limited_speed(feeds: list[Feed]) -> None:
    found = path(signals_of(feeds))
    assert found.min() >= 0.8 * (1 - 1e-12)
    assert found.max() <= 1.6 * (1 + 1e-12)
    steps = found[1:] / found[:-1]
    assert steps.max() <= 1.05 * (1 + 1e-12)
    assert steps.min() >= 0.98 * (1 - 1e-12)


@settings_of(max_examples=15)
@given(FEEDS, st.integers(0, LENGTH - 2), st.integers(0, 2**32 - 1))
def test_another_future_changes_no_bit_of_what_was_known_before(feeds: list[Feed], now: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = [
        [day if k <= now else (bool(rng.integers(2)), 0, int(rng.integers(-9, 9))) for k, day in enumerate(feed)]
        for feed in feeds
    ]
    np.testing.assert_array_equal(path(signals_of(feeds))[: now + 1], path(signals_of(other))[: now + 1])


@settings_of(max_examples=15)
@given(FEEDS, st.integers(0, len(SERIES) - 1))
def test_a_signal_that_is_lost_lowers_no_multiplier(feeds: list[Feed], lost: int) -> None:
    whole = signals_of(feeds)
    if whole.series[lost][1] is not None:
        return  # an underlying's own signal gives way to the market's
    values = whole.rows.values.copy()
    values[:, lost] = np.nan
    gone = whole.rows._replace(values=values)
    without = SignalHistory(whole.series, gone, None, whole.at, whole.last)
    assert (path(without) >= path(whole) * (1 - 1e-12)).all()


@settings_of(max_examples=15)
@given(FEEDS, st.integers(10, LENGTH - 2))
def test_a_feed_that_stops_is_never_calmer_for_being_older(feeds: list[Feed], stop: int) -> None:
    halted = [[day if k <= stop else (False, 0, 0) for k, day in enumerate(feed)] for feed in feeds]
    unhurried = settings().model_copy(update={"rise_limit": 10.0, "fall_limit": 0.99})
    found = path(signals_of(halted), unhurried)[stop:]
    assert (np.diff(found, axis=0) >= -1e-12).all()
    if LENGTH - stop > 8:
        np.testing.assert_allclose(found[8:], 1.6, rtol=1e-12)


def feeds_at(seed: int = 3) -> list[Feed]:
    rng = np.random.default_rng(seed)
    return [[(bool(rng.random() < 0.8), 0, int(rng.integers(-50, 50))) for _ in range(LENGTH)] for _ in SERIES]


def test_neither_the_order_of_rows_nor_the_unit_of_a_signal_matters() -> None:
    rows = rows_of(feeds_at())
    usual = path(signal_history(rows, settings(), NAMES, GRID))
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    # Any rising map keeps ranks.
    scaled = rows.with_columns(value=(pl.col("value") / 100).exp() * 7 - 3)
    for other in (shuffled, scaled):
        np.testing.assert_array_equal(path(signal_history(other, settings(), NAMES, GRID)), usual)
    assert np.ptp(usual) > 0.1


def test_slopes_are_those_of_finite_differences() -> None:
    quick = settings().model_copy(update={"rise_limit": 0.2, "fall_limit": 0.1})
    multiplier = RegimeMultiplier.from_settings(quick)
    assert multiplier is not None
    with jax.enable_x64(True):
        signals = SignalArrays.of(signals_of(feeds_at(5)), settings(), NAMES)
        weights = np.random.default_rng(2).random((LENGTH, len(NAMES)))

        @jax.jit
        def total(each: RegimeMultiplier) -> Any:
            return (each.path(signals, bars_per_day=1.0)[0] * weights).sum()

        slopes = jax.tree.leaves(jax.jit(jax.grad(total))(multiplier))
        leaves, shape = jax.tree.flatten(multiplier)
        for k, leaf in enumerate(leaves):
            for place in np.ndindex(np.shape(leaf)):
                step, ends = 1e-6, []
                for sign in (1, -1):
                    moved = np.array(leaf, float)
                    moved[place] += sign * step
                    ends.append(float(total(jax.tree.unflatten(shape, [*leaves[:k], moved, *leaves[k + 1 :]]))))
                slope = (ends[0] - ends[1]) / (2 * step)
                assert float(slopes[k][place]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
                assert slope != 0


# ---- in a margin ----

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
