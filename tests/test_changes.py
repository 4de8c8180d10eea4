"""Why margins moved: causes sum to the change of every account, and a cause that did not happen is exactly zero."""

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.changes import CAUSES
from markets import (
    AS_OF,
    balances,
    book_of,
    changed,
    config,
    days,
    history,
    instruments,
    margin,
    plus,
    positions,
    priced,
    quotes,
    row,
    series,
    tables,
    underlyings,
)

DAY = timedelta(days=1)
TOMORROW = AS_OF + DAY
HEADS = {"initial_margin": "", "maintenance_margin": "maintenance_"}
WIDER = config(half_life_days=10.0)


def given(**changed: Any) -> dict[str, Any]:
    """The tables of the tiny venue; quotes without bids and asks, which other prices would have to follow."""
    return tables(**{"quotes": quotes().drop("bid", "ask"), **changed})


@cache
def today() -> mx.Result:
    return margin(given())


def later(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("time") + DAY)


def next_day(**prices: float) -> dict[str, pl.DataFrame]:
    """Quotes, index prices and history a day on, with new prices for some."""
    moved: dict[str, pl.DataFrame] = {"quotes": quotes().drop("bid", "ask"), "underlyings": underlyings()}
    bars = [history()]
    for name, price in prices.items():
        on_it = instruments().filter(underlying=name)["instrument_id"].implode()
        new = priced(name, price)
        listed, named = pl.col("instrument_id").is_in(on_it), pl.col("underlying") == name
        moved["quotes"] = pl.concat([moved["quotes"].filter(~listed), new["quotes"].filter(listed)])
        moved["underlyings"] = pl.concat([moved["underlyings"].filter(~named), new["underlyings"].filter(named)])
    for name, price in underlyings().select("underlying", "index_price").iter_rows():
        bars.append(series(name, [prices.get(name, price)], [TOMORROW]))
    order = underlyings().select("underlying").join(moved["underlyings"], on="underlying", maintain_order="left")
    return {"quotes": later(moved["quotes"]), "underlyings": later(order), "history": pl.concat(bars)}


def of(change: mx.Change, account: str) -> dict[str, Any]:
    return change.accounts.row(by_predicate=pl.col("account_id") == account, named=True)


def moves(change: mx.Change) -> dict[str, float]:
    """The largest move by each cause over all accounts and both requirements."""
    table = change.accounts
    return {cause: max(float(table[f"{head}{cause}"].abs().max() or 0) for head in HEADS.values()) for cause in CAUSES}  # type: ignore[arg-type]


def only(change: mx.Change, cause: str) -> bool:
    found = moves(change)
    return found[cause] > 0 and all(found[other] == 0 for other in CAUSES if other != cause)


def check_sums(change: mx.Change) -> None:
    """Of every account with both margins: causes sum to what the two runs say, in both requirements."""
    for name, head in HEADS.items():
        ends = [dict(each.margins.select("account_id", name).iter_rows()) for each in (change.before, change.after)]
        for each in change.accounts.iter_rows(named=True):
            before, after = (end.get(each["account_id"], 0.0) for end in ends)
            if before is None or after is None:
                assert each[f"{head}total"] is None
                assert all(each[f"{head}{cause}"] is None for cause in CAUSES)
                continue
            assert each[f"{head}total"] == after - before
            # Differences of float64 along a path: a rounding of each of its figures, far below a cent.
            assert sum(each[f"{head}{cause}"] for cause in CAUSES) == pytest.approx(after - before, rel=1e-12, abs=1e-9)


@cache
def everything() -> mx.Change:
    """A day on which all of it happened: trades, prices, a gap in the history, another configuration."""
    moved = next_day(BTC=76_000.0, ETH=3_100.0)
    gone = (pl.col("underlying") == "DOGE") & (pl.col("time") > AS_OF - 200 * DAY)
    held = positions().filter(pl.col("account_id") != "spread")
    held = plus(plus(held, "fresh", "ETH-PERP", 10.0), "long", "ETH-PERP", -100.0)
    own = balances().filter(pl.col("account_id") != "spread")
    after = given(**{**moved, "history": moved["history"].filter(~gone)}, positions=held, balances=own)
    return mx.explain_change(today(), margin(after, WIDER))


def test_the_causes_sum_to_the_change_of_every_account() -> None:
    change = everything()
    check_sums(change)
    assert all(size > 0 for size in moves(change).values())
    assert change.passes <= len(CAUSES)


def test_parts_move_by_what_the_two_runs_say() -> None:
    change = everything()
    for account in ("long", "mixed", "hedged"):
        steps = change.steps(account)
        for part in ("core", "collateral", "floor"):
            moved = row(change.after, account)[part] - row(change.before, account)[part]
            assert float(steps[part].sum()) == pytest.approx(moved, abs=1e-6)


def test_who_came_and_who_left_moved_by_positions_alone() -> None:
    change = everything()
    fresh, left = of(change, "fresh"), of(change, "spread")
    assert (fresh["before"], fresh["status_before"]) == (None, None)
    assert fresh["positions"] == fresh["total"] == row(change.after, "fresh")["initial_margin"] > 0
    assert (left["after"], left["status_after"]) == (None, None)
    assert left["positions"] == left["total"] == -row(change.before, "spread")["initial_margin"] < 0
    for each in (fresh, left):
        assert all(each[cause] == 0 for cause in CAUSES if cause != "positions")
    assert (change.totals["new"], change.totals["left"]) == (1, 1)


def test_the_same_run_twice_moves_nothing_and_computes_nothing() -> None:
    change = mx.explain_change(today(), margin(given()))
    assert all(size == 0 for size in moves(change).values())
    assert change.passes == 0
    assert change.totals["same"] == change.accounts.height


def test_other_positions_alone_move_positions_alone_and_only_those_who_traded() -> None:
    change = mx.explain_change(today(), margin(given(positions=plus(positions(), "long", "ETH-PERP", 50.0))))
    check_sums(change)
    assert only(change, "positions")
    moved = change.accounts.filter(pl.col("total") != 0)
    assert moved["account_id"].to_list() == ["long"]
    assert change.passes == 0


def test_other_balances_are_positions_too() -> None:
    change = mx.explain_change(today(), margin(given(balances=changed(balances(), "amount", 5.0, row=4))))
    check_sums(change)
    assert only(change, "positions")


def test_another_configuration_alone_moves_parameters_alone() -> None:
    change = mx.explain_change(today(), margin(given(), WIDER))
    check_sums(change)
    assert only(change, "parameters")
    assert change.passes == 0


def test_another_model_moves_its_own_parts() -> None:
    change = mx.explain_change(today(), margin(given(), "dynamic"))
    check_sums(change)
    assert only(change, "parameters")
    steps = change.steps("long").filter(cause="parameters")
    assert "stress" in steps.columns
    assert steps["stress"][0] == row(change.after, "long")["stress"]


def test_new_prices_at_the_same_time_move_the_market_alone() -> None:
    before = today()
    change = mx.explain_change(before, margin(given(**priced("BTC", 70_000.0))))
    check_sums(change)
    assert only(change, "market")
    assert change.passes == 0


def test_the_clock_alone_is_time_and_options_decay_by_it(tmp_path: Any) -> None:
    from marginax.synthetic import venue

    made = venue(seed=7, accounts=12, underlyings=4, instruments=12, bars=501, options=1, expiries=2, strikes=3).tables
    now = margin(made)
    change = mx.explain_change(now, margin(made, as_of=AS_OF + timedelta(hours=12)))
    check_sums(change)
    assert only(change, "time")
    held = made["positions"].join(made["instruments"], on="instrument_id").filter(pl.col("kind") == "call")
    holders = change.accounts.filter(pl.col("account_id").is_in(held["account_id"].implode()))
    assert (holders["time"] != 0).any()


def test_a_history_that_went_missing_is_data_quality_alone() -> None:
    lost = history().filter(pl.col("underlying") != "DOGE")
    change = mx.explain_change(today(), margin(given(history=lost)))
    check_sums(change)
    assert only(change, "data_quality")
    mixed = of(change, "mixed")
    assert (mixed["status_before"], mixed["status_after"]) == ("ok", "proxied")
    back = mx.explain_change(change.after, today())
    assert only(back, "data_quality")
    assert of(back, "mixed")["data_quality"] == -mixed["data_quality"]


def test_bars_that_are_lost_in_between_are_quality_and_a_window_that_rolls_on_is_market() -> None:
    hole = history().filter(pl.col("time").is_in(days()[100:130]).not_() | (pl.col("underlying") != "BTC"))
    assert only(mx.explain_change(today(), margin(given(history=hole))), "data_quality")
    shorter = history().filter(pl.col("time") > days()[20])
    assert only(mx.explain_change(today(), margin(given(history=shorter))), "market")


def test_a_new_day_in_the_old_quality_has_no_quality_of_its_own() -> None:
    change = mx.explain_change(today(), margin(given(**next_day(BTC=78_000.0))))
    check_sums(change)
    found = moves(change)
    assert found["time"] > 0
    assert found["market"] > 0
    assert found["positions"] == found["data_quality"] == found["parameters"] == 0
    assert change.passes == 1


def test_a_row_that_falls_behind_its_table_is_quality_and_a_table_that_ages_is_time() -> None:
    from marginax.changes.between import Side, as_time_alone, in_old_quality

    def side(result: mx.Result) -> Side:
        return Side(result.matched.market, result.matched.book.tables["instruments"])

    late = changed(later(quotes()), "time", AS_OF, row=2)
    old, new = side(today()), side(margin(given(**{**next_day(), "quotes": late})))
    stamps = in_old_quality(old, new).quotes["time"]
    assert stamps.to_list() == [TOMORROW] * stamps.len()
    aged = side(margin(given(), as_of=TOMORROW))
    assert as_time_alone(old, aged).quotes["time"].to_list() == [AS_OF] * stamps.len()


def test_cells_that_are_lost_or_mended_are_quality() -> None:
    from marginax.changes.between import Side, in_old_quality

    def side(quoted: pl.DataFrame) -> Side:
        result = margin(given(quotes=quoted))
        return Side(result.matched.market, result.matched.book.tables["instruments"])

    full = quotes().with_columns(confidence=pl.lit(0.01))
    bare = full.with_columns(bid=pl.lit(None, pl.Float64), confidence=pl.lit(0.02), mark_price=pl.col("mark_price") * 2)
    lost = in_old_quality(side(full), side(bare)).quotes
    assert lost["bid"].to_list() == full["bid"].to_list()
    assert lost["confidence"].to_list() == full["confidence"].to_list()
    assert lost["mark_price"].to_list() == bare["mark_price"].to_list()
    mended = in_old_quality(side(bare), side(full)).quotes
    assert mended["bid"].null_count() == full.height


def test_what_was_listed_since_is_entered_last_and_is_positions() -> None:
    listed = plus(instruments(), "SOL-PERP", "perpetual", "ETH", "USDT", "linear", 0.01, None)
    moved = next_day(BTC=70_000.0)
    quoted = pl.concat(
        [
            moved["quotes"],
            moved["quotes"].filter(instrument_id="ETH-PERP").with_columns(instrument_id=pl.lit("SOL-PERP")),
        ]
    )
    held = plus(positions(), "long", "SOL-PERP", 500.0)
    change = mx.explain_change(
        today(), margin(given(**{**moved, "quotes": quoted}, instruments=listed, positions=held))
    )
    check_sums(change)
    without = margin(given(**{**moved, "quotes": quoted}, instruments=listed))
    traded = row(change.after, "long")["initial_margin"] - row(without, "long")["initial_margin"]
    assert of(change, "long")["positions"] == pytest.approx(traded, rel=1e-6)
    assert of(change, "short")["positions"] == 0


def test_what_expired_in_between_left_with_the_positions() -> None:
    due = instruments().with_columns(
        expiry=pl.when(instrument_id="ETH-FUT").then(pl.lit(AS_OF + timedelta(hours=8))).otherwise("expiry")
    )
    before = margin(given(instruments=due))
    gone = due.filter(pl.col("instrument_id") != "ETH-FUT")
    held = positions().filter(pl.col("instrument_id") != "ETH-FUT")
    after = margin(given(**next_day(ETH=3_100.0), instruments=gone, positions=held))
    for average in (False, True):
        change = mx.explain_change(before, after, average=average)
        check_sums(change)
        assert of(change, "spread")["positions"] > 0


def test_an_account_without_a_margin_is_told_and_not_dropped() -> None:
    unpriced = quotes().filter(pl.col("instrument_id") != "OIL-FUT")
    after = margin(given(quotes=unpriced), on_error="quarantine")
    for change in (mx.explain_change(today(), after), mx.explain_change(after, today())):
        check_sums(change)
        mixed = of(change, "mixed")
        assert mixed["total"] is None
        assert {mixed["status_before"], mixed["status_after"]} == {"ok", "missing_price"}
        assert change.totals["unknown"] == 1
        with pytest.raises(ValueError, match=r"mixed has no margin (before|after): missing_price"):
            change.steps("mixed")
        assert change.accounts.filter(pl.col("total").is_not_null()).height == change.accounts.height - 1


def test_the_average_is_the_mean_of_both_orders_and_sums_to_the_same() -> None:
    before, after = today(), margin(given(**priced("BTC", 60_000.0)), WIDER)
    forth, back = mx.explain_change(before, after), mx.explain_change(after, before)
    both = mx.explain_change(before, after, average=True)
    check_sums(both)
    for cause in CAUSES:
        mean = (forth.accounts[cause] - back.accounts[cause]) / 2
        np.testing.assert_array_equal(both.accounts[cause].to_numpy(), mean.to_numpy())
    assert of(forth, "long")["market"] != of(both, "long")["market"]
    assert both.passes == forth.passes + back.passes == 2


def test_drivers_are_the_attributions_of_both_runs() -> None:
    change = mx.explain_change(today(), margin(given(positions=plus(positions(), "long", "ETH-PERP", 50.0))))
    drivers = change.drivers("long")
    bought = drivers.row(by_predicate=pl.col("instrument_id") == "ETH-PERP", named=True)
    assert (bought["amount_before"], bought["amount_after"], bought["before"]) == (0.0, 50.0, 0.0)
    # Shares are float32: a rounding of 6e-8 of a requirement for each of a few positions.
    assert float(drivers["change"].sum()) == pytest.approx(
        of(change, "long")["total"], abs=1e-6 * drivers["after"].sum()
    )


def test_inputs_stand_for_the_runs_that_they_make() -> None:
    from marginax.run_inputs import RunInputs

    def inputs(given: dict[str, Any]) -> RunInputs:
        book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
        market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})
        return RunInputs(book, market, config())

    moved = given(positions=book_of(("long", "BTC-PERP", 500.0)))
    change = mx.explain_change(inputs(given()), inputs(moved))
    assert change.accounts.equals(mx.explain_change(today(), margin(moved)).accounts)


def test_runs_in_two_currencies_and_unknown_accounts_are_refused() -> None:
    other = replace(today(), manifest={**today().manifest, "currency": "EUR"})
    with pytest.raises(mx.BadInput, match=r"run before is in USD and the run after in EUR. Margin both in one"):
        mx.explain_change(today(), other)
    with pytest.raises(KeyError, match="no account 'nobody' in either run"):
        mx.explain_change(today(), today()).steps("nobody")


def test_a_market_that_was_carried_forward_has_no_history_to_go_back_to() -> None:
    ready = today().ready
    known = replace(ready.known, history=replace(ready.known.history, carried=True))
    with pytest.raises(mx.BadInput, match="run after was carried forward bar by bar"):
        mx.explain_change(today(), replace(today(), ready=replace(ready, known=known)))
