"""Markets and books of odd shapes: what is empty, short, still, twin, proxied, stale or interrupted."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from markets import AS_OF, BARS, config, days, margin, row, series, tables, walk

# ---- books ----


@pytest.mark.parametrize("kind", ["frames", "csv", "parquet"])
def test_an_empty_book_has_no_margins_and_a_manifest_of_zeros(kind: str, tmp_path: Any) -> None:
    empty: dict[str, Any] = {name: getattr(markets, name)().clear() for name in ("positions", "balances")}
    if kind != "frames":
        for name, frame in empty.items():
            empty[name] = tmp_path / f"{name}.{kind}"
            getattr(frame, f"write_{kind}")(empty[name])
    result = margin(tables(**empty))
    assert result.margins.height == 0
    assert result.margins.schema == markets.clean().margins.schema
    assert result.manifest["accounts"]["total"] == 0
    assert set(result.manifest["totals"].values()) == {0.0}
    assert result.attribution().height == 0
    folder = result.write(tmp_path / "out")
    assert pl.read_parquet(folder / "margins.parquet").height == 0


def test_a_book_without_instruments_holds_collateral_only() -> None:
    result = margin(tables(instruments=markets.instruments().clear(), positions=markets.positions().clear()))
    assert result.margins["initial_margin"].to_list() == [0.0] * result.margins.height
    assert row(result, "saver")["equity"] == 30_000.0


@pytest.mark.parametrize("account", ["saver", "debtor"])
def test_an_account_without_positions_owes_nothing_and_calls_nobody(account: str) -> None:
    found = row(markets.clean(), account)
    assert (found["initial_margin"], found["maintenance_margin"], found["call"]) == (0.0, 0.0, 0.0)
    assert found["margin_ratio"] is None
    assert found["available"] == found["equity"] == 30_000.0
    assert found["expected_shortfall"] > 0
    assert found["status"] == "ok"


def test_accounts_may_stand_in_the_table_of_accounts_alone() -> None:
    accounts = pl.DataFrame({"account_id": ["idle", "long"], "group": ["one", None]})
    result = margin(tables(accounts=accounts))
    idle = row(result, "idle")
    assert (idle["equity"], idle["initial_margin"], idle["worst_scenario"], idle["status"]) == (0.0, 0.0, None, "ok")
    assert result.margins.filter(pl.col("account_id") != "idle").equals(markets.clean().margins)


def test_an_account_with_orders_alone_is_listed() -> None:
    orders = pl.DataFrame({"account_id": ["bidder"], "instrument_id": ["BTC-PERP"], "quantity": [1.0]})
    result = margin(tables(orders=orders))
    assert row(result, "bidder")["initial_margin"] == 0.0
    assert result.margins.filter(pl.col("account_id") != "bidder").equals(markets.clean().margins)


def test_positions_that_net_to_nothing_owe_nothing() -> None:
    parts = [("flat", "BTC-PERP", quantity) for quantity in (0.1, 0.2, -0.3)]
    result = margin(tables(positions=markets.book_of(*parts, ("none", "ETH-PERP", 0.0))))
    assert row(result, "none")["initial_margin"] == 0.0
    assert row(result, "flat")["initial_margin"] == pytest.approx(0.0, abs=1e-9)


def test_the_order_of_rows_and_their_splitting_change_no_bit() -> None:
    whole = tables()
    shuffled = {name: frame.sample(fraction=1, shuffle=True, seed=3) for name, frame in whole.items()}
    assert margin(shuffled).margins.equals(markets.clean().margins)
    halves = pl.concat([markets.positions().with_columns(pl.col("quantity") / 2)] * 2)
    assert margin(tables(positions=halves)).margins.equals(markets.clean().margins)


# ---- histories ----


@pytest.mark.parametrize("bars", [0, 1])
def test_a_history_without_a_return_is_refused(bars: int) -> None:
    with pytest.raises(mx.BadInput) as caught:
        margin(tables(history=markets.history(1).head(5 * bars)))
    some = {0: "0 bars", 1: "1 bar "}[bars]
    assert str(caught.value).startswith(f"<history>: holds {some}")
    assert "a return needs two. Give more history" in str(caught.value)


def test_a_history_of_other_names_is_refused_as_holding_nothing() -> None:
    other = markets.history().with_columns(pl.col("underlying") + "-USD")
    with pytest.raises(mx.BadInput, match="name its underlyings as the table `underlyings` does"):
        margin(tables(history=other))


def test_a_tail_of_less_than_one_scenario_is_refused() -> None:
    with pytest.raises(mx.BadInput) as caught:
        margin(tables(history=markets.history(80)))
    assert "`tail=0.01` of 79 scenarios is 0.79 of a scenario" in str(caught.value)
    assert "at least 101 bars" in str(caught.value)


def test_a_history_too_short_to_stand_on_is_no_history() -> None:
    result = margin(tables(history=markets.history(80)), config("risk.tail = 0.05"))
    assert row(result, "long")["status"] == "missing_history"
    assert row(result, "long")["initial_margin"] is None
    assert result.manifest["scenarios"]["without_history_or_proxy"] == list(markets.INDEX)


def test_a_horizon_longer_than_the_history_is_refused() -> None:
    with pytest.raises(mx.BadInput, match="the horizon of 50 days needs 50 returns and the history has 29"):
        margin(tables(history=markets.history(30)), config("risk = {horizon_days = 50, tail = 0.5}"))


def test_a_stress_window_outside_the_history_is_refused() -> None:
    window = {"name": "1987", "from": "1987-10-01", "to": "1987-10-31"}
    with pytest.raises(
        mx.BadInput, match=r"'1987' from 1987-10-01 to 1987-10-31 holds 0 returns.*Choose dates between"
    ):
        margin(tables(), config(stress=(window,)))


def test_two_underlyings_that_share_no_date_are_margined_on_both() -> None:
    odd, even = (days(2 * BARS)[k::2] for k in (0, 1))
    history = pl.concat(
        [series("BTC", walk("BTC", 80_000.0), even), series("ETH", walk("ETH", 3_000.0), odd),
         markets.history().filter(~pl.col("underlying").is_in(["BTC", "ETH"]))]
    )  # fmt: skip
    result = margin(tables(history=history))
    assert set(result.margins["status"]) == {"ok"}
    # A return over two days counts as one day of its size over the square root of two.
    assert row(result, "long")["expected_shortfall"] < row(markets.clean(), "long")["expected_shortfall"]
    assert row(result, "long")["expected_shortfall"] > 0.4 * row(markets.clean(), "long")["expected_shortfall"]


def test_a_price_that_never_moved_is_proxied_and_carries_a_small_risk() -> None:
    history = markets.replaced("DOGE", series("DOGE", np.full(BARS, 0.125)))
    result = margin(tables(history=history, positions=markets.book_of(("still", "DOGE-PERP", 8_000.0))))
    still = row(result, "still")
    assert still["status"] == "proxied"
    assert still["reason"] == "proxied: DOGE, which never moved"
    # The stand-in is 0.1 % a day, and the perpetual's own basis 0.2 %: 8,000 contracts are worth 100,000.
    assert 100 < still["initial_margin"] < 3_000
    assert result.manifest["scenarios"]["never_moved"] == ["DOGE"]


def test_a_pegged_coin_that_jumped_once_is_risky_and_no_bomb() -> None:
    deviation = 0.0001 * np.random.default_rng(5).standard_normal(BARS)
    deviation[200] -= 0.10
    history = markets.replaced("USDT", series("USDT", 1 + deviation - deviation[-1]))
    balances = pl.DataFrame({"account_id": ["peg"], "asset": ["USDT"], "amount": [1e6]})
    held = markets.book_of(("peg", "BTC-PERP", 1e-9))
    result = margin(tables(history=history, positions=held, balances=balances))
    shortfall = row(result, "peg")["expected_shortfall"]
    assert 1_000 < shortfall < 200_000
    # The fall and the return of the next day.
    assert result.manifest["scenarios"]["residuals_capped"]["USDT"] >= 1


def test_twins_offset_each_other_but_for_their_basis() -> None:
    history = markets.replaced("ETH", series("ETH", walk("BTC", 3_000.0)))
    holdings = markets.book_of(
        ("alone", "BTC-PERP", 1_000.0),
        ("basis", "BTC-SPOT", 1.0), ("basis", "BTC-PERP", -1_000.0),
        ("spots", "BTC-SPOT", 1.0), ("spots", "ETH-SPOT", -80_000 / 3_000),
        ("twins", "BTC-PERP", 1_000.0), ("twins", "ETH-PERP", -8_000 / 3),
    )  # fmt: skip
    result = margin(tables(history=history, positions=holdings, balances=markets.balances().clear()))
    alone, basis, spots, twins = (row(result, name)["initial_margin"] for name in ("alone", "basis", "spots", "twins"))
    # float32 products of 80,000 dollars, each rounded to 2^-24 of itself.
    assert spots < 80_000 * 2**-20
    assert 0 < basis < twins < 2.2 * basis < 0.5 * alone


# ---- proxies ----


def test_a_chain_of_proxies_is_followed_to_its_end() -> None:
    history = markets.history().filter(~pl.col("underlying").is_in(["DOGE", "OIL"]))
    proxies = pl.Series([None, None, "OIL", None, "ETH"], dtype=pl.String)
    table = markets.underlyings().with_columns(proxy=proxies)
    held = markets.book_of(("doge", "DOGE-PERP", 1_000.0), ("eth", "ETH-PERP", 100.0), ("oil", "OIL-FUT", 1.0))
    result = margin(tables(history=history, underlyings=table, positions=held))
    assert row(result, "doge")["reason"] == "proxied: DOGE by OIL"
    assert row(result, "oil")["reason"] == "proxied: OIL by ETH"
    share = {
        name: row(result, name)["initial_margin"] / value
        for name, value in (("doge", 12_500), ("eth", 3_000), ("oil", 700))
    }
    # beta 1.5 at every step, and a residual of twice that on top.
    assert share["oil"] > 2 * share["eth"]
    assert share["doge"] > 2 * share["oil"]


def test_an_underlying_without_history_follows_the_default_proxy() -> None:
    result = margin(tables(history=markets.replaced("DOGE", None)))
    assert row(result, "mixed")["status"] == "proxied"
    assert row(result, "mixed")["reason"] == "proxied: DOGE by BTC"
    assert row(result, "mixed")["initial_margin"] > 0
    others = pl.col("account_id") != "mixed"
    assert result.margins.filter(others).equals(markets.clean().margins.filter(others))


def test_a_short_history_follows_the_proxy_and_not_itself() -> None:
    result = margin(tables(history=markets.replaced("DOGE", series("DOGE", walk("DOGE", 0.125, 50)))))
    assert row(result, "mixed")["reason"] == "proxied: DOGE by BTC"


def test_without_a_default_proxy_there_is_no_margin_for_what_has_no_history() -> None:
    model = config('proxy.default = "NONE"')
    result = margin(tables(history=markets.replaced("DOGE", None)), model)
    mixed = row(result, "mixed")
    assert (mixed["status"], mixed["reason"]) == ("missing_history", "missing_history: DOGE")
    assert mixed["initial_margin"] is None
    assert mixed["equity"] == 20_000.0
    others = pl.col("account_id") != "mixed"
    assert result.margins.filter(others).equals(margin(tables(), model).margins.filter(others))
    assert (
        result.manifest["accounts"]["by_status"] | {"ok": 7, "missing_history": 1}
        == (result.manifest["accounts"]["by_status"])
    )


def test_two_proxied_coins_never_move_as_one() -> None:
    history = markets.history().filter(~pl.col("underlying").is_in(["DOGE", "ETH"]))
    pair = markets.book_of(("pair", "ETH-PERP", 100.0), ("pair", "DOGE-PERP", -240.0), ("one", "ETH-PERP", 100.0))
    result = margin(tables(history=history, positions=pair))
    assert row(result, "pair")["initial_margin"] > 0.3 * row(result, "one")["initial_margin"]


def test_a_coin_listed_last_week_changes_no_other_margin() -> None:
    """Three bars of a new coin make no calendar of three weekdays."""
    listed = pl.concat([markets.history(), series("NEW", walk("NEW", 5.0, 3))])
    table = markets.plus(markets.underlyings(), "NEW", 5.0, AS_OF)
    result = margin(tables(history=listed, underlyings=table))
    assert result.manifest["scenarios"]["count"] == BARS - 1
    assert result.margins.equals(markets.clean().margins)


def test_a_coin_that_died_years_ago_changes_no_other_margin() -> None:
    """It traded on business days only; a calendar that nobody keeps any more slows nothing."""
    past = markets.business_days(200, last=AS_OF - timedelta(days=400))
    dead = pl.concat([markets.history(800), series("DEAD", walk("DEAD", 1e-6, 200), past)])
    table = markets.plus(markets.underlyings(), "DEAD", 1e-6, AS_OF)
    result = margin(tables(history=dead, underlyings=table))
    assert result.margins.equals(margin(tables(history=markets.history(800))).margins)
    assert result.manifest["scenarios"]["proxied"] == ["DEAD"]
