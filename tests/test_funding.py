"""Funding of perpetuals: what has accrued against a twin and in equity, what is charged for the horizon, its
laws and its door."""

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from marginax.changes import CAUSES
from marginax.changes.between import Side, as_time_alone
from marginax.config import parse_config
from marginax.cube import InstrumentArrays, MarketArrays
from marginax.funding import FundingArrays, accrued_funding, market_funding
from marginax.instruments import INVERSE, LINEAR, Instruments, number_instruments
from marginax.market import NO_HISTORY
from marginax.models.addons.funding import FundingCharge
from marginax.payment_sections import Funding
from marginax.tables.door import admit
from markets import (
    AS_OF,
    BOOK,
    INDEX,
    balances,
    book_of,
    changed,
    clean,
    config,
    instruments,
    margin,
    positions,
    quotes,
    row,
    tables,
    underlyings,
)
from reference import payments as twin

ACCRUED = "[funding]\naccrued = true\nworst_rate = 0.02\nworst_elapsed_hours = 12.0\n"
WORST = {"worst_rate": 0.02, "worst_elapsed": 12.0, "worst_interval": 1.0}
# Rate of an interval, hours of it, hours until the next settlement: known; late; a rate, a time, an interval missing;
# nothing known; a settlement further away than an interval.
STATED: dict[str, tuple[float | None, float | None, float | None]] = {
    "BTC-PERP": (1e-4, 8.0, 3.0),
    "BTC-INV": (-3e-4, 8.0, 6.5),
    "ETH-PERP": (2e-4, 4.0, 1.0),
    "DOGE-PERP": (-5e-3, 1.0, 0.25),
}
ODD: list[dict[str, tuple[float | None, float | None, float | None]]] = [
    {
        "BTC-PERP": (1e-4, 8.0, -2.0),
        "BTC-INV": (-3e-4, 8.0, -100.0),
        "ETH-PERP": (None, 4.0, 1.0),
        "DOGE-PERP": (2e-3, 1.0, None),
    },
    {
        "BTC-PERP": (-1e-4, None, 3.0),
        "BTC-INV": (3e-4, 8.0, 9.0),
        "ETH-PERP": (None, None, None),
        "DOGE-PERP": (1e-3, 1.0, 0.0),
    },
]
NOTIONAL = {"BTC-PERP": 80.0, "BTC-INV": 100.0, "ETH-PERP": 30.0, "DOGE-PERP": 12.5}


def funded(stated: dict[str, Any] | None = None) -> pl.DataFrame:
    """Quotes with the funding of their perpetuals."""
    said = STATED if stated is None else stated
    rows = [said.get(name, (None, None, None)) for name in quotes()["instrument_id"]]
    times = [None if left is None else AS_OF + timedelta(hours=left) for _, _, left in rows]
    return quotes().with_columns(
        pl.Series("funding_rate", [rate for rate, _, _ in rows], pl.Float64),
        pl.Series("funding_interval_hours", [hours for _, hours, _ in rows], pl.Float64),
        pl.Series("funding_time", times, pl.Datetime("us", "UTC")),
    )


@cache
def run() -> mx.Result:
    return margin(tables(quotes=funded()), config(ACCRUED))


def owed(account: str, stated: dict[str, Any]) -> float:
    """What an account has accrued, in account currency, by the twin."""
    held = positions().filter(account_id=account).select("instrument_id", "quantity")
    largest = max(abs(rate) * 24 / (hours or 1.0) for rate, hours, _ in stated.values() if rate is not None)
    worst = {**WORST, "worst_rate": max(WORST["worst_rate"], largest)}
    return sum(
        (
            abs(quantity) * NOTIONAL[name] * twin.accrued(quantity, *stated[name], **worst)
            for name, quantity in held.iter_rows()
            if name in NOTIONAL
        ),
        0.0,
    )


@pytest.mark.parametrize("stated", [STATED, *ODD])
def test_what_has_accrued_is_that_of_a_loop_over_positions_and_part_of_equity(stated: dict[str, Any]) -> None:
    got = run() if stated is STATED else margin(tables(quotes=funded(stated)), config(ACCRUED))
    seen = 0
    for account in got.margins["account_id"]:
        wanted = owed(account, stated)
        assert row(got, account)["accrued_funding"] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        assert row(got, account)["equity"] - row(clean(), account)["equity"] == pytest.approx(
            wanted, rel=1e-6, abs=1e-9
        )
        seen += wanted != 0
    assert seen >= 3
    assert got.manifest["totals"]["accrued_funding"] == pytest.approx(got.margins["accrued_funding"].sum())


def test_longs_pay_a_positive_rate_and_shorts_receive_as_much() -> None:
    long, short = (row(run(), account)["accrued_funding"] for account in ("long", "short"))
    # 80,000 of notional for five of eight hours at a basis point.
    assert long == pytest.approx(-80_000 * 1e-4 * 5 / 8, rel=1e-12)
    assert short == -long


def test_inverse_contracts_pay_in_the_coin() -> None:
    held = book_of(("coins", "BTC-INV", 400.0))
    owned = pl.DataFrame({"account_id": ["coins"], "asset": ["USD"], "amount": [5_000.0]})
    given = tables(quotes=funded(), positions=held, balances=owned)
    coins = 400 * 100 / 80_000 * 3e-4 * 1.5 / 8
    assert row(margin(given, config(ACCRUED)), "coins")["accrued_funding"] == pytest.approx(coins * 80_000, rel=1e-12)
    # The coins are there as a balance of as much would be, and move with the price.
    booked = pl.concat([owned, pl.DataFrame({"account_id": ["coins"], "asset": ["BTC"], "amount": [coins]})])
    wanted = row(margin({**given, "balances": booked}), "coins")
    got = row(margin(given, config(ACCRUED)), "coins")
    for name in ("equity", "initial_margin", "maintenance_margin", "expected_shortfall", "collateral"):
        assert got[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-9)


def test_positions_that_cancel_owe_nothing_even_at_an_unknown_rate() -> None:
    both = book_of(("flat", "BTC-PERP", 500.0), ("flat", "BTC-PERP", -500.0), ("flat", "ETH-PERP", 1.0))
    known = {**STATED, "BTC-PERP": (None, None, None)}
    got = margin(tables(quotes=funded(known), positions=both), config(ACCRUED))
    assert row(got, "flat")["accrued_funding"] == pytest.approx(-30 * 2e-4 * 3 / 4)


def test_isolated_positions_and_attribution_have_their_own() -> None:
    alone = positions().with_columns(isolated_margin=pl.when(pl.col("account_id") == "long").then(9_000.0))
    got = margin(tables(quotes=funded(), positions=alone), config(ACCRUED))
    (isolated,) = got.isolated.iter_rows(named=True)
    assert isolated["accrued_funding"] == pytest.approx(-80_000 * 1e-4 * 5 / 8, rel=1e-12)
    assert isolated["equity"] == pytest.approx(9_000 + isolated["accrued_funding"])
    assert row(got, "long")["accrued_funding"] == 0
    shares = run().attribution().group_by("account_id").agg(pl.col("accrued_funding").sum(), pl.col("total").sum())
    both = run().margins.join(shares, on="account_id", suffix="_shares")
    assert both["accrued_funding_shares"].to_numpy() == pytest.approx(both["accrued_funding"].to_numpy(), abs=1e-9)
    assert both["total"].to_numpy() == pytest.approx(both["initial_margin"].to_numpy(), rel=1e-5, abs=0.01)


def test_what_is_owed_brings_a_call_nearer() -> None:
    costly = {**STATED, "BTC-PERP": (0.4, 8.0, 0.5)}
    got = margin(tables(quotes=funded(costly)), config(ACCRUED))
    assert row(got, "long")["call"] > 0 == row(clean(), "long")["call"]
    # What is owed is owed in USDT, which hardly moves.
    assert row(got, "long")["initial_margin"] == pytest.approx(row(clean(), "long")["initial_margin"], rel=1e-3)


def test_columns_that_nobody_counts_change_no_bit() -> None:
    got = margin(tables(quotes=funded()))
    assert got.margins.equals(clean().margins)
    assert got.attribution().equals(clean().attribution())
    assert "accrued_funding" not in got.manifest["totals"]
    assert "funding" not in got.manifest["data"]


def test_a_settlement_that_is_past_makes_its_holders_stale_and_is_told() -> None:
    got = margin(tables(quotes=funded(ODD[0])), config(ACCRUED))
    assert row(got, "long")["status"] == "stale"
    assert "funding of BTC-PERP, whose next settlement is past" in row(got, "long")["reason"]
    assert row(got, "spread")["status"] == "ok"
    assert got.manifest["data"]["funding"] == {
        "funding_rate_unknown": ["ETH-PERP"],
        "funding_time_unknown": ["DOGE-PERP"],
        "funding_time_passed": ["BTC-INV", "BTC-PERP"],
    }


def test_the_clock_alone_accrues_nothing_and_causes_sum_to_the_change() -> None:
    hour = timedelta(hours=1)
    given = tables(
        quotes=funded().with_columns(pl.col("time") + hour),
        underlyings=underlyings().with_columns(pl.col("time") + hour),
    )
    after = margin(given, config(ACCRUED))
    # An hour later an hour more is owed.
    assert row(after, "long")["accrued_funding"] == pytest.approx(-80_000 * 1e-4 * 6 / 8, rel=1e-9)
    table = mx.explain_change(run(), after).accounts
    assert (table.select(pl.sum_horizontal(*CAUSES) - pl.col("total")).to_series().abs() < 1e-9).all()
    alone = as_time_alone(
        *(Side(each.matched.market, each.matched.book.tables["instruments"]) for each in (run(), after))
    )
    was, then = run().matched.market, alone
    assert (then.quotes["funding_time"] - then.as_of).equals(was.quotes["funding_time"] - was.as_of)


unknown = st.sampled_from([(), ("rate",), ("interval",), ("left",), ("rate", "left"), ("rate", "interval", "left")])
rates = st.floats(-0.02, 0.02)


@cache
def known_instruments() -> Instruments:
    return number_instruments(admit(instruments(), "instruments", on_error="raise").rows)


@cache
def unfunded() -> mx.Market:
    return mx.read_market(quotes=quotes(), underlyings=underlyings(), history=NO_HISTORY)


def listed(rows: dict[str, Any]) -> tuple[Instruments, mx.Market, np.ndarray]:
    table = unfunded().tables["quotes"]
    said = funded(rows).select("funding_rate", "funding_interval_hours", "funding_time")
    market = replace(unfunded(), tables={**unfunded().tables, "quotes": table.of(table.rows.with_columns(said))})
    return known_instruments(), market, np.arange(len(known_instruments()))


@given(a_day=rates, interval=st.floats(1, 24), minutes=st.integers(-1_800, 1_800), lost=unknown)
def test_nobody_is_richer_for_what_is_not_known(
    a_day: float, interval: float, minutes: int, lost: tuple[str, ...]
) -> None:
    settings = Funding(accrued=True, worst_rate=0.02)
    stated = {"rate": a_day * interval / 24, "interval": interval, "left": minutes / 60}
    whole, less = dict(stated), {name: None if name in lost else value for name, value in stated.items()}
    found = [accrued_funding(*listed({"BTC-PERP": tuple(each.values())}), settings) for each in (whole, less)]
    assert (found[1] <= found[0] * (1 + 1e-9 * np.sign(found[0])) + 1e-12).all()
    numbers = {"worst_rate": 0.02, "worst_elapsed": 24.0, "worst_interval": 1.0}
    place = list(known_instruments().ids).index("BTC-PERP")
    for side, quantity in enumerate((1.0, -1.0)):
        for each, got in zip((whole, less), found, strict=True):
            wanted = 80.0 * twin.accrued(quantity, *each.values(), **numbers)  # type: ignore[arg-type]
            # A settlement is a whole number of microseconds away.
            assert got[place, side] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    if not lost and 0 < minutes / 60 <= interval:
        assert found[0].sum(axis=1) == pytest.approx(
            np.where(np.arange(len(found[0])) == place, 0, found[0].sum(axis=1))
        )


def test_nobody_is_richer_for_a_rate_beyond_the_worst_that_is_lost() -> None:
    """Two per cent an hour of two contracts, four times the worst: who loses one of them owes the other's."""
    settings = Funding(accrued=True)
    whole = {"BTC-PERP": (0.02, 1.0, 0.5), "ETH-PERP": (-0.02, 1.0, 0.5)}
    place = list(known_instruments().ids).index("BTC-PERP")
    known = accrued_funding(*listed(whole), settings)[place]
    lost = accrued_funding(*listed({**whole, "BTC-PERP": (None, 1.0, 0.5)}), settings)[place]
    assert known == pytest.approx([-0.8, 0.8])
    assert lost == pytest.approx([-0.8, -0.8])
    # It is the market that says so, whatever is asked for.
    instruments_, market, _ = listed({**whole, "BTC-PERP": (None, 1.0, 0.5)})
    assert accrued_funding(instruments_, market, np.array([place]), settings)[0] == pytest.approx(lost)


PERPETUALS = InstrumentArrays(
    underlying=np.array([0, 0, 0]),
    quote=np.array([2, 2, 2]),
    settle=np.array([1, 0, 1]),
    basis=np.zeros(3, int),
    style=np.array([LINEAR, INVERSE, LINEAR]),
    multiplier=np.array([0.5, 100.0, 0.5]),
)


def paid(rate: float, settings: Funding, *, days: float = 2.0) -> np.ndarray:
    """What a contract pays: a linear and an inverse perpetual, and a future, at one rate a day."""
    known = FundingArrays(np.array([True, True, False]), np.full(3, rate), np.zeros(3, bool))
    market = MarketArrays(
        mark=np.array([400.0, 400.0, np.nan]), index=np.array([390.0, 0.99]), absolute=np.zeros(2, bool),
        level=np.array([390.0, 0.99]), funding=known,
    )  # fmt: skip
    charge = FundingCharge.from_settings(settings, horizon_days=days)
    assert charge is not None
    with jax.enable_x64(True):
        return np.asarray(charge.rates(PERPETUALS, market))


@given(rate=rates, least=st.floats(0, 0.01), cap=st.floats(0.01, 0.02), lost=st.booleans())
def test_the_projected_charge_is_that_of_the_twin_and_never_a_credit(
    rate: float, least: float, cap: float, lost: bool
) -> None:
    settings = Funding(projected=True, least_rate=least, worst_rate=0.02, cap=cap)
    got = paid(np.nan if lost else rate, settings)
    numbers = {"days": 2.0, "least": least, "worst": 0.02, "cap": cap, "worst_interval": 1.0}
    for side, quantity in enumerate((1.0, -1.0)):
        share = twin.projected(quantity, None if lost else rate / 3, None if lost else 8.0, **numbers)
        # A quote unit of the first is paid in an asset at 0.99; the second pays a quarter of a coin's notional.
        assert got[:, side] == pytest.approx([0.5 * 400 * 0.99 * share, 100 / 400 * 390 * share, 0, 0, 0, 0], rel=1e-12)
    assert (got >= 0).all()
    assert (paid(np.nan, settings) >= got).all()


def test_hours_and_the_default_horizon() -> None:
    a_day = paid(0.001, Funding(projected=True), days=1.0)
    assert paid(0.001, Funding(projected=True), days=2.0) == pytest.approx(2 * a_day)
    assert paid(0.001, Funding(projected=True, hours=6.0), days=2.0) == pytest.approx(a_day / 4)


def test_rates_a_day_follow_the_interval() -> None:
    known = market_funding(*listed(STATED), Funding(projected=True))
    ids = list(known_instruments().ids)
    found = {name: float(known.rate[ids.index(name)]) for name in STATED}
    assert found == pytest.approx({"BTC-PERP": 3e-4, "BTC-INV": -9e-4, "ETH-PERP": 12e-4, "DOGE-PERP": -0.12})
    assert [name for name, flag in zip(ids, known.perpetual, strict=True) if flag] == sorted(STATED, key=ids.index)


def test_a_market_in_another_currency_than_the_settlement_pays_at_its_price() -> None:
    dear = changed(underlyings(), "index_price", 1.25, row=list(INDEX).index("USDT") + 1)
    got = margin(tables(quotes=funded(), underlyings=dear), config(ACCRUED))
    assert row(got, "long")["accrued_funding"] == pytest.approx(-80_000 * 1.25 * 1e-4 * 5 / 8, rel=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("funding_rate", 0.75, "0.75 of the notional was given. Give the share for one interval"),
        ("funding_interval_hours", 28_800.0, "28800.0 hours were given. Give hours"),
        ("funding_interval_hours", 0.0, "funding_interval_hours"),
        ("funding_rate", float("nan"), "funding_rate"),
    ],
)
def test_the_door_refuses_other_units(column: str, value: float, words: str) -> None:
    bad = changed(funded(), column, value, row=2)
    with pytest.raises(mx.BadInput, match=words):
        margin(tables(quotes=bad))


def test_what_is_no_perpetual_has_no_rate() -> None:
    ids = quotes()["instrument_id"].to_list()
    bad = changed(funded(), "funding_rate", 1e-4, row=ids.index("BTC-FUT") + 1)
    with pytest.raises(mx.BadInput, match=r"0.0001 was given for 'BTC-FUT', which is no perpetual"):
        margin(tables(quotes=bad))
    none = changed(funded(), "funding_rate", 0.0, row=ids.index("BTC-FUT") + 1)
    assert margin(tables(quotes=none)).margins.equals(clean().margins)
    held = {name: table for name, table in tables(quotes=bad).items() if name in BOOK}
    known = {name: table for name, table in tables(quotes=bad).items() if name not in BOOK}
    aside = mx.margin_book(mx.read_book(**held), mx.read_market(**known), config(ACCRUED), on_error="quarantine")
    assert aside.quarantine["table"].to_list() == ["quotes"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cap": 0.05, "worst_rate": 0.01}, "a rate would be cheaper for not being known"),
        ({"least_rate": 0.15}, "`least_rate` 0.15 is above the largest, 0.12"),
        ({"hours": 0.0}, "greater than 0"),
    ],
)
def test_a_section_that_is_wrong_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(mx.BadInput, match=words):
        parse_config({"funding": given}, "test")


def test_a_model_that_projects_no_funding_refuses_to_be_asked() -> None:
    with pytest.raises(mx.BadInput, match=r"funding.projected.*is set, and `expected_shortfall` does not read it"):
        margin(tables(quotes=funded(), balances=balances()), config("[funding]\nprojected = true\n"))
