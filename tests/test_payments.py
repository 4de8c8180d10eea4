"""The parts `funding` and `liquidation_fee` of the dynamic margin: against a twin, in both requirements, in shares, in
changes between runs, in what other parameters would do, bar by bar, and beside multipliers by hand."""

from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from marginax.changes import CAUSES
from marginax.config import parse_config
from marginax.exposures import expose
from marginax.market_sections import AssetClasses
from marginax.models.addons.liquidation import NOT_STATED, LiquidationCharge
from marginax.models.protocol import Tile
from marginax.models.runs import find_runs
from marginax.options import OptionPricing
from marginax.parameter_diff import parameter_diff
from marginax.payment_sections import Liquidation
from marginax.synthetic import venue
from markets import BOOK, balances, book_of, instruments, margin, positions, row, tables, underlyings
from reference import payments as twin
from test_funding import NOTIONAL, STATED, funded

# Seven digits of float32, of parts of some ten thousand.
SINGLE: dict[str, float] = {"rel": 1e-6, "abs": 5e-3}
BASE: dict[str, Any] = {"model": "dynamic", "risk": {"tail": 0.02}, "scenarios": {"window": 200}}
FUNDING = {"projected": True, "hours": 12.0, "worst_rate": 0.02, "cap": 0.01, "least_rate": 2e-4}
FEES = {"fee": 0.002, "kinds": {"perpetual": 0.005, "spot": 0.0}, "minimum": 25.0}
CLASSES = {
    "parameters": {"majors": {}, "small": {"liquidation_fee": 0.02}},
    "names": {"DOGE": "small"},
    "default": "majors",
}
BY_KIND = {"PERP": 0.005, "INV": 0.005, "SPOT": 0.0, "FUT": None, "INV-FUT": None}
GROSS = {**NOTIONAL, "BTC-SPOT": 80_000.0, "BTC-FUT": 80.0, "BTC-INV-FUT": 100.0, "ETH-FUT": 30.0, "OIL-FUT": 700.0}
PAYMENTS = ("liquidation_fee", "funding")


def configured(**sections: Any) -> mx.Config:
    return parse_config({**BASE, **sections}, "test")


@cache
def whole() -> mx.Config:
    return configured(funding=FUNDING, liquidation=FEES, classes=CLASSES)


@cache
def run() -> mx.Result:
    return margin(tables(quotes=funded()), whole())


@cache
def plain() -> mx.Result:
    return margin(tables(quotes=funded()), configured())


def held(account: str) -> list[tuple[str, float]]:
    rows = positions().filter(account_id=account).select("instrument_id", "quantity")
    return list(rows.iter_rows())


def fee_of(account: str) -> float:
    found = [
        (abs(quantity) * GROSS[name], BY_KIND[name.split("-", 1)[1]], 0.02 if name.startswith("DOGE") else None)
        for name, quantity in held(account)
    ]
    return twin.liquidation_fee(found, 0.002, 25.0)


def funding_of(account: str) -> float:
    numbers = {"days": 0.5, "least": 2e-4, "worst": 0.02, "cap": 0.01, "worst_interval": 1.0}
    return sum(
        abs(quantity) * NOTIONAL[name] * twin.projected(quantity, *STATED[name][:2], **numbers)
        for name, quantity in held(account)
        if name in NOTIONAL
    )


def test_the_parts_are_those_of_a_loop_over_positions() -> None:
    seen = 0
    for account in run().margins["account_id"]:
        got = row(run(), account)
        assert got["liquidation_fee"] == pytest.approx(fee_of(account), **SINGLE)
        assert got["funding"] == pytest.approx(funding_of(account), **SINGLE)
        seen += got["funding"] > 0
    assert seen == 6
    assert row(run(), "saver")["liquidation_fee"] == row(run(), "debtor")["funding"] == 0


def test_both_requirements_hold_them_in_full() -> None:
    for account in run().margins["account_id"]:
        got, before = row(run(), account), row(plain(), account)
        added = got["liquidation_fee"] + got["funding"]
        for name in ("initial_margin", "maintenance_margin"):
            assert got[name] - before[name] == pytest.approx(added, **SINGLE)
        assert got["initial_margin"] == pytest.approx(sum(got[name] for name in run().parts), rel=1e-12)
        for name in ("equity", "var", "expected_shortfall"):
            assert got[name] == before[name]
        # The fee is part of what closing costs, and what is left of equity then may not do.
        assert got["stress_score"] >= before["stress_score"]
    assert set(run().parts) - set(plain().parts) == {*PAYMENTS}


def test_shares_sum_to_the_parts_and_belong_to_positions() -> None:
    shares = run().attribution()
    for account in ("hedged", "inverse", "mixed", "spread"):
        mine = shares.filter(account_id=account)
        for name in (*PAYMENTS, "total"):
            wanted = row(run(), account)["initial_margin" if name == "total" else name]
            assert mine[name].sum() == pytest.approx(wanted, **SINGLE)
        assert mine.filter(pl.col("asset").is_not_null())["liquidation_fee"].to_list() == [0.0] * mine["asset"].count()
    by_name = dict(
        shares.filter(account_id="mixed").select("instrument_id", "liquidation_fee").drop_nulls().iter_rows()
    )
    assert by_name["DOGE-PERP"] == pytest.approx(200 * 12.5 * 0.02)
    # What the minimum adds goes to each in proportion; hedged owes 1,000 x 80 x 0.005 and nothing for spot.
    assert shares.filter(account_id="hedged", instrument_id="BTC-SPOT")["liquidation_fee"].item() == 0


def test_the_minimum_is_owed_once_and_shared() -> None:
    tiny = book_of(("tiny", "BTC-PERP", 1.0), ("tiny", "ETH-FUT", -2.0), ("spot", "BTC-SPOT", 0.001))
    got = margin(tables(quotes=funded(), positions=tiny), whole())
    assert row(got, "tiny")["liquidation_fee"] == row(got, "spot")["liquidation_fee"] == 25.0
    mine = got.attribution(["tiny"])
    share = 80 * 0.005 / (80 * 0.005 + 60 * 0.002)
    assert mine.filter(instrument_id="BTC-PERP")["liquidation_fee"].item() == pytest.approx(25 * share)
    assert mine["liquidation_fee"].sum() == pytest.approx(25.0)
    # Spot has no fee of its own here, and still the account owes the least there is.
    assert got.attribution(["spot"]).filter(instrument_id="BTC-SPOT")["liquidation_fee"].item() == pytest.approx(25.0)


def test_isolated_positions_owe_their_own() -> None:
    alone = positions().with_columns(isolated_margin=pl.when(pl.col("instrument_id") == "DOGE-PERP").then(100.0))
    got = margin(tables(quotes=funded(), positions=alone), whole())
    (isolated,) = got.isolated.iter_rows(named=True)
    assert isolated["liquidation_fee"] == pytest.approx(200 * 12.5 * 0.02)
    assert isolated["funding"] == pytest.approx(200 * 12.5 * 0.005)
    left = row(run(), "mixed")["liquidation_fee"] - isolated["liquidation_fee"]
    assert row(got, "mixed")["liquidation_fee"] == pytest.approx(left)
    assert got.manifest["data"]["funding"] == {"funding_rate_capped": ["DOGE-PERP"]}


def test_what_is_added_by_hand_is_of_contracts_and_has_no_minimum() -> None:
    raised = instruments().with_columns(margin_multiplier=pl.when(pl.col("instrument_id") == "ETH-PERP").then(1.5))
    got = margin(tables(quotes=funded(), instruments=raised), whole())
    one = margin(tables(quotes=funded(), positions=book_of(("one", "ETH-PERP", 1_000.0)),
                        balances=balances().clear()), whole())  # fmt: skip
    assert row(one, "one")["liquidation_fee"] == pytest.approx(150.0)  # beyond the minimum
    for name in ("initial_margin", "maintenance_margin"):
        added = row(got, "spread")[name] - row(run(), "spread")[name]
        assert added == pytest.approx(0.5 * row(one, "one")[name], **SINGLE)


def test_without_the_sections_no_bit_is_another() -> None:
    before = margin(tables(), configured())
    assert plain().margins.equals(before.margins)
    assert not {*PAYMENTS, "accrued_funding"} & {*plain().margins.columns}
    assert plain().scenarios.digest == before.scenarios.digest == run().scenarios.digest


def test_a_rate_that_moves_is_the_market_and_one_that_is_lost_is_quality() -> None:
    given = tables(quotes=funded())
    first = margin(given, whole())
    dearer = margin(tables(quotes=funded({**STATED, "BTC-PERP": (3e-4, 8.0, 3.0)})), whole())
    lost = margin(tables(quotes=funded({**STATED, "BTC-PERP": (None, 8.0, 3.0)})), whole())
    for after, cause in ((dearer, "market"), (lost, "data_quality")):
        change = mx.explain_change(first, after)
        mine = change.accounts.row(by_predicate=pl.col("account_id") == "long", named=True)
        wanted = row(after, "long")["funding"] - row(first, "long")["funding"]
        assert wanted > 0
        assert mine["total"] == pytest.approx(
            row(after, "long")["initial_margin"] - row(first, "long")["initial_margin"]
        )
        assert sum(mine[each] for each in CAUSES) == pytest.approx(mine["total"], **SINGLE)
        assert mine[cause] == pytest.approx(mine["total"], **SINGLE)
        steps = change.steps("long")
        assert steps.filter(cause=cause)["funding"].item() == pytest.approx(wanted)


def test_time_alone_and_the_section_itself_are_told_apart() -> None:
    later = {name: each.with_columns(pl.col("time") + timedelta(hours=5))
             for name, each in (("quotes", funded()), ("underlyings", underlyings()))}  # fmt: skip
    later["quotes"] = later["quotes"].with_columns(pl.col("funding_time") + timedelta(hours=5))
    change = mx.explain_change(plain(), margin(tables(**later), whole()))
    table = change.accounts
    assert (table.select(pl.sum_horizontal(*CAUSES) - pl.col("total")).to_series().abs() < 1e-6).all()
    steps = change.steps("mixed")
    for name in PAYMENTS:
        assert steps.filter(cause="parameters")[name].item() == pytest.approx(row(run(), "mixed")[name])
        assert steps.filter(pl.col("cause") != "parameters")[name].to_list() == [0.0] * 4


def test_whatif_has_a_row_for_each_part() -> None:
    given = tables(quotes=funded())
    book = mx.read_book(**{name: each for name, each in given.items() if name in BOOK})
    market = mx.read_market(**{name: each for name, each in given.items() if name not in BOOK})
    found = parameter_diff(book, market, configured(), whole())
    rows = {name: (before, after) for name, before, after, _ in found.parts.iter_rows()}
    for name in PAYMENTS:
        assert rows[name] == (0.0, pytest.approx(run().margins[name].sum(), rel=1e-5))


def test_a_market_that_is_followed_pays_alike_and_keeps_it_in_its_state(tmp_path: Path) -> None:
    given = tables(quotes=funded())
    book = mx.read_book(**{name: each for name, each in given.items() if name in BOOK})
    market = mx.read_market(**{name: each for name, each in given.items() if name not in BOOK})
    live = mx.follow(book, market, whole())
    found = live.margins()
    for name in PAYMENTS:
        assert found.margins[name].to_numpy() == pytest.approx(run().margins[name].to_numpy(), rel=1e-5, abs=1e-6)
    again = mx.resume(live.save(tmp_path / "state.npz"), book, whole()).margins()
    assert again.margins.equals(found.margins)


@partial(jax.jit, static_argnames="factors")
def rates_of(charge: LiquidationCharge, *terms: Any, factors: int) -> jax.Array:
    return charge.rates(*terms, factors=factors)


def test_an_option_is_closed_at_the_notional_of_its_underlying() -> None:
    made = dict(venue(accounts=20).tables)
    options = made["instruments"].filter(pl.col("kind").is_in(["call", "put"]), pl.col("underlying") == "BTC")
    two = options.sort("expiry", "strike", "instrument_id").group_by("kind", maintain_order=True).first().sort("kind")
    ids = two["instrument_id"].to_list()
    market = {name: made[name] for name in ("quotes", "underlyings", "history", "forwards")}
    charge = LiquidationCharge.from_settings(Liquidation(kinds={"call": 0.01, "put": 0.03}), AssetClasses())
    assert charge is not None
    book = mx.read_book(instruments=two, positions=book_of(("a", ids[0], 3.0)), balances=balances().clear())
    known = mx.read_market(**market)
    model = mx.load_model("expected_shortfall")
    with jax.enable_x64(True):
        past = model.factors(known, book.instruments)
        listed = expose(book, known, past)
        none = np.full(past.underlyings, NOT_STATED)
        pricing = OptionPricing.from_settings()
        rates = rates_of(charge, listed.instruments, listed.market, none, pricing, factors=len(past.names))
    index = made["underlyings"].filter(underlying="BTC")["index_price"].item()
    wanted = dict(zip(ids, index * two["multiplier"].to_numpy() * np.array([0.01, 0.03]), strict=True))
    found = dict(zip(book.instruments.ids[listed.listed], np.asarray(rates).tolist(), strict=False))
    assert found == pytest.approx(wanted, rel=1e-9)


@jax.jit
def charged(charge: LiquidationCharge, rates: np.ndarray, tile: Tile) -> tuple[jax.Array, jax.Array]:
    return charge.charge(rates, tile), charge.shares(rates, tile)


sizes = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4)


@given(quantities=sizes, minimum=st.floats(0, 1e4), times=st.floats(1, 10))
def test_fees_rise_with_size_and_are_never_below_the_minimum(
    quantities: list[float], minimum: float, times: float
) -> None:
    charge = LiquidationCharge.from_settings(Liquidation(fee=0.01, minimum=minimum), whole().classes)
    assert charge is not None
    rates = np.array([1.0, 0.0, 3.0, 0.5, 0.0])

    def tile(scale: float) -> Tile:
        rows = np.array([[0, 1, 2, 3]], np.int32)
        none = np.zeros((1, 0))
        runs = find_runs(rows, none.astype(np.int32), np.array([0, 1, 2, 3, -1]))
        return Tile(rows, scale * np.array([quantities]), none.astype(np.int32), none, np.zeros(1), runs)

    with jax.enable_x64(True):
        (one, shares), (more, _) = (
            jax.tree.map(np.asarray, charged(charge, rates, tile(scale))) for scale in (1.0, times)
        )
    fees = float(np.abs(quantities) @ rates[:4])
    assert one[0] == pytest.approx(max(fees, minimum) if any(quantities) else 0, rel=1e-12)
    assert more >= one * (1 - 1e-12)
    assert shares.sum() == pytest.approx(one[0], rel=1e-9, abs=1e-9)
    assert (shares >= 0).all()


def test_an_account_whose_equity_covers_no_fee_is_called() -> None:
    rich = row(plain(), "long")
    just = rich["maintenance_margin"] + 1
    own = balances().with_columns(
        pl.when(pl.col("account_id") == "long").then(just).otherwise("amount").alias("amount")
    )
    given = tables(quotes=funded(), balances=own)
    assert row(margin(given, configured()), "long")["call"] == 0
    assert row(margin(given, whole()), "long")["call"] > 0


def test_fees_of_a_model_that_reads_none_are_refused() -> None:
    for sections, key in (
        ({"liquidation": {"fee": 0.01}}, "liquidation"),
        ({"classes": CLASSES}, "classes.parameters.small.liquidation_fee"),
    ):
        with pytest.raises(mx.BadInput, match=f"{key}.*is set, and `expected_shortfall` does not read it"):
            margin(tables(), parse_config(sections, "test"))
    with pytest.raises(mx.BadInput, match="liquidation"):
        parse_config({"liquidation": {"kinds": {"swap": 0.01}}}, "test")
