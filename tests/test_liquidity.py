"""The part `liquidity` of the dynamic margin: against a loop over accounts, the laws it keeps, its shares, its door."""

from functools import cache
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.engine.margin_book import _prepare
from marginax.exposures import expose
from marginax.models.dynamic import Dynamic
from marginax.problems import BadInput
from marginax.sections import Engine
from marginax.synthetic import venue
from markets import AS_OF, INDEX, book_of, changed, margin, row, underlyings
from reference import liquidity as twin
from reference.tail import expected_shortfall
from test_dynamic import holdings

DOUBLE = Engine(precision="float64")
CLOSING: dict[str, Any] = {
    "spread": 1.0,
    "fee": 0.0005,
    "impact": 1.0,
    "vega_share": 0.003,
    "expiry_days": [7.0, 40.0],
    "participation": 0.1,
    "worst_adv": 50_000.0,
    "worst_depth": 5_000.0,
    "worst_spread_bps": 80.0,
}
"""Small markets, so that the accounts of the tiny venue are large for them."""
BOOK = [
    ("BTC-PERP", "bid", 79_990.0, 50.0), ("BTC-PERP", "bid", 79_900.0, 100.0), ("BTC-PERP", "bid", 79_000.0, 200.0),
    ("BTC-PERP", "ask", 80_010.0, 60.0), ("BTC-PERP", "ask", 80_200.0, 300.0),
    ("BTC-INV", "bid", 79_995.0, 40.0), ("BTC-INV", "bid", 79_500.0, 90.0), ("BTC-INV", "ask", 80_005.0, 10.0),
]  # fmt: skip


def configured(**liquidity: Any) -> mx.Config:
    values = {
        "model": "dynamic",
        "risk": {"tail": 0.02, "charge_tail": 0.05},
        "scenarios": {"window": 200},
        "liquidity": {**CLOSING, **liquidity},
    }
    return parse_config(values, "test")


def liquid() -> pl.DataFrame:
    """Underlyings with volumes, depths and spreads; the oil's and the tether's are not known, one depth is zero."""
    return underlyings().with_columns(
        pl.Series("adv", [200_000.0, 90_000.0, 60_000.0, None, None], pl.Float64),
        pl.Series("depth", [20_000.0, 0.0, 8_000.0, None, None], pl.Float64),
        pl.Series("spread_bps", [2.0, 5.0, None, None, 0.0], pl.Float64),
    )


def levels(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["instrument_id", "side", "price", "size"], orient="row")


def given(**more: Any) -> dict[str, Any]:
    return {**holdings(), "underlyings": liquid(), **more}


@cache
def run(booked: bool = False) -> mx.Result:
    return margin(given(**({"order_book": levels(*BOOK)} if booked else {})), configured(), engine=DOUBLE)


@cache
def prepared() -> tuple[Any, list[str]]:
    held = given()
    book = mx.read_book(**{name: held[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: held[name] for name in ("quotes", "underlyings", "history")})
    model = mx.load_model(configured())
    assert isinstance(model, Dynamic)
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        exposures = expose(book, market, history)
        made, _ = _prepare(
            model, exposures.instruments, exposures.market, model.observe(history), model.draw(7, history)
        )
        return jax.tree.map(np.asarray, made), book.instruments.ids[exposures.listed].tolist()


MARKET = {  # adv, depth and spread that count, worst where they are not known
    "BTC": (200_000.0, 20_000.0, 2e-4),
    "ETH": (90_000.0, 5_000.0, 5e-4),
    "DOGE": (60_000.0, 8_000.0, 80e-4),
    "OIL": (50_000.0, 5_000.0, 80e-4),
}
NOTIONAL = {  # account currency in one contract
    "BTC-SPOT": 80_000.0, "BTC-PERP": 80.0, "BTC-INV": 100.0, "BTC-FUT": 80.0, "BTC-INV-FUT": 100.0, "ETH-PERP": 30.0,
    "ETH-FUT": 30.0, "DOGE-PERP": 12.5, "OIL-FUT": 700.0,
}  # fmt: skip
PLACE = {name: k for k, name in enumerate(INDEX)}


def wanted(account: str, books: dict[str, list[tuple[float, float]]] | None = None) -> float:
    """The charge of one account by the specification; expected shortfalls and volatilities by the scenarios."""
    made, ids = prepared()
    weights, main = made.weights[: made.main], made.main
    rows = holdings()["positions"].filter(account_id=account).group_by("instrument_id").agg(pl.col("quantity").sum())
    money = holdings()["balances"].filter(account_id=account).select("asset", "amount")
    quantity, owned = dict(rows.iter_rows()), dict(money.iter_rows())
    cost = 0.0
    for name, held in quantity.items():
        _, _, spread = MARKET[name.split("-")[0]]
        cost += abs(held) * NOTIONAL[name] * (spread / 2 + 0.0005)
    for coin, (adv, depth, _) in MARKET.items():
        mine = {name: held for name, held in quantity.items() if name.startswith(coin)}
        net = sum(held * NOTIONAL[name] for name, held in mine.items())
        size, shocks = abs(net), np.log1p(made.cube[len(ids) + PLACE[coin], :main] / INDEX[coin])
        deviation = float(np.sqrt(weights @ shocks**2))
        root = twin.square_root_impact(size, deviation, adv, 1.0)
        known = (books or {}).get(f"{coin} {'bid' if net > 0 else 'ask'}")
        cost += max(root, twin.walk(size, known) if known else even(size, depth))
        losses = -sum((held * made.cube[ids.index(name), :main] for name, held in mine.items()), np.zeros(main))
        losses = losses - owned.get(coin, 0.0) * made.cube[len(ids) + PLACE[coin], :main]
        if mine:
            cost += twin.days_to_sell(expected_shortfall(losses, weights, tail=0.05), size, 0.1 * adv)
    return cost


def even(size: float, depth: float) -> float:
    inside = min(size, depth)
    beyond = 2 / 3 * (size**1.5 / depth**0.5 - depth) if size > depth else 0.0
    return 0.005 * (inside**2 / (2 * depth) + beyond)


def test_the_charge_is_what_a_loop_over_accounts_and_underlyings_finds() -> None:
    seen = 0
    for account in run().margins["account_id"]:
        if row(run(), account)["initial_margin"]:
            found, should = row(run(), account)["liquidity"], wanted(account)
            assert found == pytest.approx(should, rel=1e-9, abs=1e-6), account
            seen += found > 0
    assert seen == 8


def test_an_order_book_is_walked_where_one_is_given() -> None:
    """Perpetuals of 80 and inverse ones of 100 dollars stand in one book, by their distance from their own touch."""
    bids = [(50 * 80.0, 0.0), (40 * 100.0, 0.0), (100 * 80.0, 90 / 79_990), (90 * 100.0, 79_995 / 79_500 - 1)]
    bids += [(200 * 80.0, 990 / 79_990)]
    asks = [(60 * 80.0, 0.0), (10 * 100.0, 0.0), (300 * 80.0, 190 / 80_010)]
    books = {"BTC bid": bids, "BTC ask": asks}
    for account in ("long", "short", "hedged", "coin", "mixed"):
        found = row(run(booked=True), account)["liquidity"]
        assert found == pytest.approx(wanted(account, books), rel=1e-7, abs=1e-6), account
    assert run(booked=True).manifest["unused_tables"] == []


def test_maintenance_holds_it_in_full_and_no_figure_of_risk_knows_it() -> None:
    off = dict.fromkeys(("spread", "fee", "impact", "vega_share", "participation"), 0.0)
    plain = margin(given(), configured(**off), engine=DOUBLE)
    assert "liquidity" not in plain.margins.columns
    for account in ("long", "mixed", "maker"):
        before, after = row(plain, account), row(run(), account)
        for name in ("initial_margin", "maintenance_margin"):
            assert after[name] == pytest.approx(before[name] + after["liquidity"], rel=1e-9)
        for name in ("var", "expected_shortfall", "core"):
            assert after[name] == pytest.approx(before[name], rel=1e-12)
        assert after["stress_score"] >= before["stress_score"]


def test_shares_sum_to_the_charge_and_what_offsets_has_a_negative_one() -> None:
    shares = run().attribution()
    summed = shares.group_by("account_id").agg(pl.col("liquidity").sum())
    for account, total in summed.iter_rows():
        assert total == pytest.approx(row(run(), account)["liquidity"], rel=1e-9, abs=1e-7)
    maker = dict(shares.filter(account_id="maker").select("instrument_id", "liquidity").drop_nulls().iter_rows())
    # 1,500 futures of 80 dollars are long, two coins short: the net is short, and the futures take away from its cost.
    assert maker["BTC-SPOT"] > 0 > maker["BTC-FUT"]
    assert shares.filter(pl.col("asset").is_not_null())["liquidity"].abs().max() == 0


@pytest.mark.parametrize("column", ["adv", "depth", "spread_bps"])
def test_a_market_that_is_worse_or_not_known_never_lowers_a_charge(column: str) -> None:
    """Down to nothing, and to an empty cell, which counts as the configured worst; no worse than that either."""
    names, before = ("long", "hedged", "coin"), dict.fromkeys(("long", "hedged", "coin"), 0.0)
    steps = [10.0, 70.0, 90.0, None] if column == "spread_bps" else [1e6, 60_000.0, 1_000.0, 0.0, None]
    for number in steps:
        found = margin(given(underlyings=changed(liquid(), column, number, row=1)), configured(), engine=DOUBLE)
        for account in names:
            charge = row(found, account)["liquidity"]
            assert charge >= before[account] - 1e-9, (account, number)
            before[account] = charge
    assert all(before.values())


def test_two_positions_cost_what_each_does_alone_and_two_halves_of_one_never_more_than_it() -> None:
    """Underlyings do not offset; within one, a net delta can only be cheaper than its parts, and a whole dearer."""
    entries = book_of(
        ("btc", "BTC-PERP", 900.0), ("eth", "ETH-PERP", -800.0), ("both", "BTC-PERP", 900.0),
        ("both", "ETH-PERP", -800.0), ("half", "BTC-PERP", 450.0), ("less", "BTC-PERP", 900.0),
        ("less", "BTC-INV", -300.0),
    )  # fmt: skip
    found = margin(given(positions=entries), configured(), engine=DOUBLE)
    charge = {name: row(found, name)["liquidity"] for name in ("btc", "eth", "both", "half", "less")}
    assert charge["both"] == pytest.approx(charge["btc"] + charge["eth"], rel=1e-12)
    assert 2 * charge["half"] < charge["btc"]
    spread_of_the_hedge = 300 * 100.0 * (1e-4 + 0.0005)
    assert charge["less"] < charge["btc"] + spread_of_the_hedge


def test_float32_and_neighbours_change_nothing_but_rounding() -> None:
    many = margin(given(), configured())
    for account in run().margins["account_id"]:
        assert row(many, account)["liquidity"] == pytest.approx(row(run(), account)["liquidity"], rel=2e-5, abs=0.05)
    few = ["coin", "maker"]
    alone = {
        **given(),
        **{name: holdings()[name].filter(pl.col("account_id").is_in(few)) for name in ("positions", "balances")},
    }
    one = margin(alone, configured(), engine=Engine(tile_rows=64, streams=1))
    for account in few:
        assert row(one, account)["liquidity"] == row(many, account)["liquidity"]


@pytest.mark.parametrize(
    ("rows", "column", "number", "said"),
    [
        ([("BTC-PERP", "bid", 79_000.0, 1.0)], "side", 1, "one side only"),
        ([("BTC-PERP", "bid", 9.0, 1.0), ("BTC-PERP", "ask", 8.0, 1.0)], "price", 1, "is not below the best ask"),
        ([("BTC-PERP", "bid", 1.0, 1.0), ("BTC-PERP", "ask", 9.0, 1.0)], "price", 1, "wider than the price"),
        (
            [("BTC-PERP", "bid", 8.0, 1.0), ("BTC-PERP", "bid", 8.5, 1.0), ("BTC-PERP", "ask", 9.0, 1.0)],
            "price", 2, "the bid 8.5 follows 8.0",
        ),
        (
            [("BTC-PERP", "bid", 8.0, 1.0), ("BTC-PERP", "ask", 9.0, 1.0), ("BTC-PERP", "ask", 9.0, 1.0)],
            "price", 3, "List each price once",
        ),
        ([("BTC-PERP", "bid", 8.0, 0.0), ("BTC-PERP", "ask", 9.0, 1.0)], "size", 1, "above zero"),
        ([("BTC-PREP", "bid", 8.0, 1.0), ("BTC-PREP", "ask", 9.0, 1.0)], "instrument_id", 1, "is unknown"),
        ([("BTC-PERP", "bid", -9.0, 1.0), ("BTC-PERP", "ask", -8.0, 1.0)], "price", 1, "takes log shocks"),
    ],
)  # fmt: skip
def test_a_book_that_is_none_is_refused(
    rows: list[tuple[str, str, float, float]], column: str, number: int, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        margin(given(order_book=levels(*rows)), configured())
    problem = caught.value.problems[0]
    assert (problem.table, problem.column, problem.row) == ("order_book", column, number)
    assert said in str(problem)


def test_a_spread_wider_than_the_price_and_books_of_two_moments_are_refused() -> None:
    with pytest.raises(BadInput, match=r"row 2.*spread_bps: a spread of 10001.* wider than the price"):
        margin(given(underlyings=changed(liquid(), "spread_bps", 10_001.0, row=2)), configured())
    times = levels(*BOOK).with_columns(time=pl.Series([AS_OF] * 7 + [AS_OF.replace(year=2025)]))
    with pytest.raises(BadInput, match=r"'BTC-INV' holds levels of 2 moments.*Keep the latest"):
        margin(given(order_book=times), configured())


def test_what_is_not_known_is_said_once_for_the_run() -> None:
    unknown = run().manifest["data"]["liquidity_unknown"]
    assert unknown == {"adv": ["OIL"], "depth": ["ETH", "OIL"], "spread_bps": ["DOGE", "OIL"]}


@pytest.mark.parametrize(
    ("liquidity", "said"),
    [
        ({"expiry_days": [30.0, 7.0]}, "not above zero and rising"),
        ({"impact": 0.0}, "`vega_share` is set and `impact` is 0"),
        ({"worst_adv": 0.0}, r"liquidity\.worst_adv"),
        ({"fee": -0.1}, r"liquidity\.fee"),
    ],
)
def test_numbers_that_make_no_charge_are_refused(liquidity: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        configured(**liquidity)


def test_a_model_that_charges_no_liquidity_refuses_the_section() -> None:
    with pytest.raises(BadInput, match="liquidity: is set, and `expected_shortfall` does not read it"):
        mx.load_model(parse_config({"liquidity": {"fee": 0.001}}, "test"))


def test_vega_is_closed_by_underlying_and_bucket_of_expiries() -> None:
    """Options of the synthetic venue: the square root of net vega, and a spread across buckets that is no hedge."""
    made = dict(venue(accounts=20).tables)
    options = made["instruments"].filter((pl.col("kind") == "call") & (pl.col("underlying") == "BTC"))
    near, far = (
        options.filter(pl.col("expiry") == each).sort("strike", "instrument_id")["instrument_id"].to_list()
        for each in (options["expiry"].min(), options["expiry"].max())
    )
    held = book_of(
        ("near", near[4], 300.0), ("far", far[4], -300.0), ("both", near[4], 300.0), ("both", far[4], -300.0),
        ("twice", near[4], 300.0), ("twice", near[5], 300.0), ("other", near[5], 300.0),
    )  # fmt: skip
    market = {name: made[name] for name in ("instruments", "quotes", "underlyings", "history", "forwards")}
    money = pl.DataFrame({"account_id": ["near"], "asset": ["USD"], "amount": [1.0]})

    def charges(**liquidity: Any) -> dict[str, float]:
        found = margin({**market, "positions": held, "balances": money}, configured(**liquidity), engine=DOUBLE)
        return dict(found.margins.select("account_id", "liquidity").iter_rows())

    whole, without = charges(), charges(vega_share=0.0)
    vega = {name: whole[name] - without[name] for name in whole}
    assert vega["both"] == pytest.approx(vega["near"] + vega["far"], rel=1e-9)
    # V^(3/2) of a sum is more than the sum of V^(3/2).
    assert vega["twice"] > vega["near"] + vega["other"] > 0
    assert vega["twice"] == pytest.approx((vega["near"] ** (2 / 3) + vega["other"] ** (2 / 3)) ** 1.5, rel=1e-6)
