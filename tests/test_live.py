"""A market followed bar by bar: the margins of a run over the whole history, and states that are saved and resumed."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import AS_OF, INDEX, balances, history, instruments, positions, row
from test_dynamic import ALL_ON

DOUBLE = Engine(precision="float64", streams=1)
STEPS = 6
# Stand-in noise belongs to rows of the window, which is longer than this history: without it nothing is drawn.
STILL: dict[str, Any] = {"basis": {"volatility": 1e-12, "annualised_volatility": 0.0}}


@cache
def model() -> mx.MarginModel:
    return mx.load_model(parse_config({**ALL_ON, **STILL}, "test"))


def book(held: pl.DataFrame | None = None) -> mx.Book:
    return mx.read_book(instruments=instruments(), positions=positions() if held is None else held, balances=balances())


def days_before(count: int) -> datetime:
    return AS_OF - timedelta(days=count)


@cache
def closes() -> dict[datetime, dict[str, float]]:
    table = history().pivot(on="underlying", index="time", values="price").sort("time")
    return {row.pop("time"): row for row in table.iter_rows(named=True)}


def at(time: datetime, names: Any = tuple(INDEX)) -> dict[str, pl.DataFrame]:
    """Quotes and underlyings of a bar: everything at its close."""
    prices = {name: closes()[time][name] for name in names}
    listed = instruments().filter(pl.col("underlying").is_in(list(prices)))
    marks = listed["underlying"].replace_strict(prices, return_dtype=pl.Float64)
    stamps = pl.Series([time] * listed.height, dtype=pl.Datetime("us", "UTC"))
    return {
        "quotes": pl.DataFrame({"instrument_id": listed["instrument_id"], "mark_price": marks, "time": stamps}),
        "underlyings": pl.DataFrame({"underlying": list(prices), "index_price": list(prices.values()), "time": time}),
    }


def until(time: datetime) -> mx.Market:
    return mx.read_market(**at(time), history=history().filter(pl.col("time") <= time))


@cache
def begun() -> mx.LiveMargin:
    return mx.follow(book(), until(days_before(STEPS)), model())


@cache
def followed() -> mx.LiveMargin:
    live = begun()
    for back in range(STEPS - 1, -1, -1):
        live = live.after(**at(days_before(back)))
    return live


NUMBERS = ("initial_margin", "maintenance_margin", "var", "expected_shortfall", "equity", "dependence", "stress",
           "procyclicality", "correlation_break")  # fmt: skip


@pytest.mark.parametrize("live", ["begun", "followed"])
def test_a_followed_market_is_margined_like_one_that_is_read_whole(live: str) -> None:
    time = days_before(STEPS if live == "begun" else 0)
    whole = mx.margin_book(book(), until(time), model(), engine=DOUBLE).margins
    found = {"begun": begun, "followed": followed}[live]().margins(engine=DOUBLE).margins
    assert found["as_of"][0] == time
    for name in NUMBERS:
        # Nothing is missing here, so nothing is drawn; sums over the history are taken in another order.
        np.testing.assert_allclose(found[name].to_numpy(), whole[name].to_numpy(), rtol=1e-8, atol=1e-6)


def test_a_state_that_was_saved_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    half = begun().after(**at(days_before(5))).after(**at(days_before(4)))
    path = half.save(tmp_path / "state.npz")
    again = mx.resume(path, book(), model())
    for back in range(3, -1, -1):
        again = again.after(**at(days_before(back)))
    for one, other in zip(jax.tree.leaves(again.state), jax.tree.leaves(followed().state), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert again.margins(engine=DOUBLE).margins.equals(followed().margins(engine=DOUBLE).margins)


def test_a_bar_without_a_price_keeps_the_volatility_and_the_next_one_brings_the_whole_move() -> None:
    some = [name for name in INDEX if name != "ETH"]
    halted = begun().after(**at(days_before(5), some)).after(**at(days_before(4), some))
    k = halted.history.names.index("ETH")

    def today(live: mx.LiveMargin) -> float:
        with jax.enable_x64(True):
            return float(live.model.known(live.state).observed.today[k])

    assert today(halted) == today(begun())
    old = row(halted.margins(engine=DOUBLE), "spread")
    assert old["initial_margin"] > 0
    back = halted.after(**at(days_before(3)))
    window = back.model.carried_factors(back.state)
    moved = np.log(closes()[days_before(3)]["ETH"] / closes()[days_before(6)]["ETH"])
    assert float(window.returns[-1, k]) == pytest.approx(moved, rel=1e-12)
    assert float(window.bars[-1, k]) == 3


def test_what_is_not_quoted_for_long_is_stale_and_then_stands_on_its_proxy() -> None:
    some = [name for name in INDEX if name != "ETH"]
    given = at(days_before(5), some)
    settings = {**ALL_ON, **STILL, "scenarios": {**ALL_ON["scenarios"], "unusable_after_days": 15.0}}
    live = mx.follow(book(), until(days_before(STEPS)), parse_config(settings, "test"))

    def later(days: int) -> mx.LiveMargin:
        time = days_before(STEPS) + timedelta(days=days)
        stamped = {name: table.with_columns(time=pl.lit(time)) for name, table in given.items()}
        return live.after(**stamped)

    assert row(later(10).margins(engine=DOUBLE), "spread")["status"] == "stale"
    assert row(later(20).margins(engine=DOUBLE), "spread")["status"] == "proxied"
    assert row(later(20).margins(engine=DOUBLE), "long")["status"] == "ok"


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (days_before(STEPS), "is that of the last bar.*Give every bar once"),
        (days_before(STEPS + 1), "is before the last bar"),
        (days_before(STEPS) + timedelta(hours=3), "is no bar of this calendar later"),
    ],
    ids=["twice", "backwards", "too soon"],
)
def test_bars_come_once_and_in_order(time: datetime, said: str) -> None:
    given = at(days_before(5))
    with pytest.raises(BadInput, match=said):
        begun().after(**given, as_of=time)


def test_an_underlying_that_appears_is_told_to_bring_its_history() -> None:
    given = at(days_before(5))
    new = pl.DataFrame({"underlying": ["SOL"], "index_price": [150.0], "time": [days_before(5)]})
    with pytest.raises(
        BadInput, match=r"'SOL' is no underlying of the state\. Follow the market anew with its history"
    ):
        begun().after(quotes=given["quotes"], underlyings=pl.concat([given["underlyings"], new]))


def test_values_of_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="'implied_vol:BTC' is no factor with a history of its own"):
        begun().after(**at(days_before(5)), values={"implied_vol:BTC": 0.5})


def test_a_state_of_another_configuration_or_model_is_refused(tmp_path: Path) -> None:
    path = begun().save(tmp_path / "state.npz")
    other = parse_config({**ALL_ON, **STILL, "dependence": {"share": 0.2}}, "test")
    with pytest.raises(BadInput, match=r"was saved with other values of `dependence\.share`"):
        mx.resume(path, book(), other)
    with pytest.raises(BadInput, match="is a state of `dynamic`, not of `expected_shortfall`"):
        mx.resume(path, book(), "expected_shortfall")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadInput, match="is no state"):
        mx.resume(tmp_path / "text.npz", book(), model())
    with pytest.raises(BadInput, match="there is no such file"):
        mx.resume(tmp_path / "none.npz", book(), model())


def test_a_state_that_is_interrupted_while_it_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun().save(tmp_path / "state.npz")
    whole = path.read_bytes()

    def half(file: Any, **arrays: Any) -> None:
        file.write(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        begun().after(**at(days_before(5))).save(path)
    assert path.read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["state.npz"]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="is no state"):
        mx.resume(path, book(), model())


def test_an_old_price_that_a_feed_repeats_is_no_return_of_zero() -> None:
    given = at(days_before(5))
    frozen = pl.when(pl.col("underlying") == "ETH")
    old = days_before(STEPS)
    repeated = given["underlyings"].with_columns(
        index_price=frozen.then(closes()[old]["ETH"]).otherwise("index_price"), time=frozen.then(old).otherwise("time")
    )
    without = given["underlyings"].filter(pl.col("underlying") != "ETH")
    one = begun().after(quotes=given["quotes"], underlyings=repeated)
    other = begun().after(quotes=given["quotes"], underlyings=without)
    for left, right in zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def test_a_bar_that_brings_nothing_is_refused() -> None:
    given = at(days_before(5))
    with pytest.raises(BadInput, match="brings no price"):
        begun().after(quotes=given["quotes"], underlyings=given["underlyings"].clear(), as_of=days_before(5))


def test_contracts_that_were_listed_later_have_no_basis_and_are_refused(tmp_path: Path) -> None:
    spots = instruments().filter(pl.col("kind") == "spot")
    held = positions().filter(pl.col("instrument_id").is_in(spots["instrument_id"].implode()))
    few = mx.read_book(instruments=spots, positions=held, balances=balances())
    prices = at(days_before(STEPS))
    quoted = prices["quotes"].filter(pl.col("instrument_id").is_in(spots["instrument_id"].implode()))
    market = mx.read_market(
        quotes=quoted, underlyings=prices["underlyings"],
        history=history().filter(pl.col("time") <= days_before(STEPS)),
    )  # fmt: skip
    live = mx.follow(few, market, model())
    with pytest.raises(BadInput, match=r"'BTC-.*' was listed after the market was first followed"):
        live.with_book(book())
    with pytest.raises(BadInput, match=r"'BTC-.*' was listed after"):
        mx.resume(live.save(tmp_path / "state.npz"), book(), model())
    assert begun().with_book(few).margins(engine=DOUBLE).margins.height == few.accounts.size


@pytest.mark.parametrize("which", ["business days", "a young listing"])
def test_other_calendars_and_new_listings_are_followed_as_they_are_read(tmp_path: Path, which: str) -> None:
    """Mondays span one bar where Saturdays are none; a new coin keeps its returns from before it stood alone."""
    rows = history()
    if which == "business days":
        rows = rows.filter(pl.col("time").dt.weekday() <= 5)
    else:
        rows = rows.filter((pl.col("underlying") != "DOGE") | (pl.col("time") > days_before(102)))
    stamps = rows["time"].unique().sort()
    first, rest = stamps[-8], stamps[-7:]
    few = instruments().filter(pl.col("kind") == "spot")
    held = positions().filter(pl.col("instrument_id") == "BTC-SPOT")
    money = pl.DataFrame({"account_id": ["hedged"], "asset": ["DOGE"], "amount": [1e6]})
    own = mx.read_book(instruments=few, positions=held, balances=money)
    config = parse_config({**ALL_ON, **STILL, "scenarios": {"window": 150, "least_bars": 98}}, "test")

    def prices(time: datetime) -> dict[str, pl.DataFrame]:
        given = at(time)
        listed = pl.col("instrument_id").is_in(few["instrument_id"].implode())
        return {"quotes": given["quotes"].filter(listed), "underlyings": given["underlyings"]}

    def read(time: datetime) -> mx.Market:
        return mx.read_market(**prices(time), history=rows.filter(pl.col("time") <= time))

    live = mx.follow(own, read(first), config)
    for time in rest:
        live = live.after(**prices(time))
    found, whole = live.margins(engine=DOUBLE), mx.margin_book(own, read(rest[-1]), config, engine=DOUBLE)
    assert found.margins["status"].to_list() == whole.margins["status"].to_list() == ["ok"]
    chosen = mx.load_model(config)
    with jax.enable_x64(True):
        known, wanted = live.model.known(live.state), chosen.observe(chosen.factors(read(rest[-1]), own.instruments))
    for one, other in ((known.observed.today, wanted.observed.today), (known.multiplier, wanted.multiplier)):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    if which == "business days":  # else what fills the bars before a listing is drawn for rows of the window
        for name in ("var", "initial_margin"):
            assert found.margins[name][0] == pytest.approx(whole.margins[name][0], rel=1e-8)
    again = mx.resume(live.save(tmp_path / "state.npz"), own, config).margins(engine=DOUBLE)
    assert again.margins.equals(found.margins)
