"""What old and uncertain prices cost: against a loop over accounts, and never less for knowing less."""

from datetime import timedelta
from functools import cache
from typing import Any

import equinox as eqx
import jax
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from marginax.charge_sections import Oracle
from marginax.config import Config, parse_config
from marginax.engine.tiles import build, cut
from marginax.exposures import Exposures, expose
from marginax.models.addons.oracle import OracleCharge
from marginax.options import OptionPricing
from marginax.price_quality import PriceQuality
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import AS_OF, INDEX, instruments, margin, quotes, row, tables, underlyings
from reference import oracle as twin
from test_dynamic import holdings

DOUBLE = Engine(precision="float64")
SETTINGS = {"confidence_weight": 1.5, "z": 0.8, "grace_minutes": 30.0, "worst_age_days": 2.0, "worst_confidence": 0.02}
NUMBERS = twin.Numbers(weight=1.5, z=0.8, grace=30 / 1440, worst_age=2.0, worst_confidence=0.02)
# Fresh, old, older than the worst, later than the margin, and not known.
AGES = (0.0, 0.01, 0.3, 1.1, 5.0, -0.2, None)
CONFIDENCES = (0.0, 0.001, 0.01, 0.5, None)


def config(**changed: Any) -> Config:
    values = {"model": "dynamic", "scenarios": {"window": 200}, "risk": {"tail": 0.02}, "oracle": SETTINGS}
    return parse_config({**values, **changed}, "test")


def with_quality(rows: pl.DataFrame, shift: int) -> pl.DataFrame:
    """A time and a confidence for every row, from the lists above."""
    count = rows.height
    ages = [AGES[(k + shift) % len(AGES)] for k in range(count)]
    times = [None if age is None else AS_OF - timedelta(days=age) for age in ages]
    return rows.with_columns(
        pl.Series("time", times, dtype=pl.Datetime("us", "UTC")),
        pl.Series(
            "confidence", [CONFIDENCES[(2 * k + shift) % len(CONFIDENCES)] for k in range(count)], dtype=pl.Float64
        ),
    )


def venue(**changed: pl.DataFrame) -> dict[str, Any]:
    uneven = {"quotes": with_quality(quotes(), 1), "underlyings": with_quality(underlyings(), 0)}
    return {**holdings(), **uneven, **changed}


@cache
def result(precision: str = "float64") -> mx.Result:
    return margin(venue(), config(), as_of=AS_OF, engine=Engine(precision=precision))


def wanted(given: dict[str, Any], found: mx.Result) -> dict[str, float]:
    """The charge of every account by the reference."""
    marks = dict(given["quotes"].select("instrument_id", "mark_price").iter_rows())
    contracts = {
        name: twin.Contract(on, quote, "spot" if kind == "spot" else settlement, size, marks[name])
        for name, kind, on, quote, settlement, size in instruments()
        .select("instrument_id", "kind", "underlying", "quote", "settlement", "multiplier")
        .iter_rows()
    }
    known = {
        name: (None if time is None else max((AS_OF - time).total_seconds() / 86_400, 0.0), confidence)
        for table, key in (("underlyings", "underlying"), ("quotes", "instrument_id"))
        for name, time, confidence in given[table].select(key, "time", "confidence").iter_rows()
    }
    size = np.sqrt(found.scenarios.weights @ np.square(found.scenarios.shocks[:, : len(INDEX)]))
    sigma = dict(zip(INDEX, size.tolist(), strict=True))

    def held(table: str, key: str, amount: str, account: str) -> list[tuple[str, float]]:
        return list(given[table].filter(account_id=account).select(key, amount).iter_rows())

    return {
        account: twin.charge(
            held("positions", "instrument_id", "quantity", account),
            held("balances", "asset", "amount", account),
            contracts, INDEX, known, sigma, NUMBERS,
        )
        for account in found.margins["account_id"]
    }  # fmt: skip


def test_the_charge_is_what_a_loop_over_accounts_finds() -> None:
    loop = wanted(venue(), result())
    for account, charge in loop.items():
        assert row(result(), account)["oracle"] == pytest.approx(charge, rel=1e-9, abs=1e-9), account
    assert sum(charge > 1 for charge in loop.values()) > 5


def test_single_precision_says_the_same_to_its_own_rounding() -> None:
    one, other = (result(each).margins["oracle"].to_numpy() for each in ("float32", "float64"))
    # Net deltas of a million at most, each off by a few roundings; rates of a tenth at most.
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=0.02)


def test_maintenance_takes_all_of_it_and_var_knows_nothing_of_it() -> None:
    off = margin(venue(), config(oracle={}), as_of=AS_OF, engine=DOUBLE).margins
    on = result().margins
    assert "oracle" not in off.columns
    for name in ("initial_margin", "maintenance_margin"):
        np.testing.assert_allclose(on[name] - off[name], on["oracle"], rtol=1e-9, atol=1e-7)
    for name in ("var", "expected_shortfall", "equity", "core", "stress_score"):
        assert on[name].to_list() == off[name].to_list()


def test_shares_sum_to_it_and_neighbours_change_no_bit() -> None:
    shares = result().attribution().group_by("account_id").agg(pl.col("oracle").sum()).sort("account_id")
    margins = result().margins.filter(pl.col("account_id").is_in(shares["account_id"].implode())).sort("account_id")
    np.testing.assert_allclose(shares["oracle"], margins["oracle"], rtol=1e-9, atol=1e-7)
    few = ["coin", "maker"]
    given = venue()
    alone = {name: given[name].filter(pl.col("account_id").is_in(few)) for name in ("positions", "balances")}
    one = margin({**given, **alone}, config(), as_of=AS_OF, engine=Engine(tile_rows=64, streams=1)).margins
    many = result("float32").margins.filter(pl.col("account_id").is_in(few))
    assert one["oracle"].to_list() == many["oracle"].to_list()


def test_a_hedged_account_owes_nothing_and_a_coin_as_collateral_hedges_too() -> None:
    fresh = {
        "underlyings": underlyings().with_columns(confidence=pl.lit(0.01)),
        "quotes": quotes().with_columns(confidence=pl.lit(0.01)),
    }
    found = margin({**tables(), **fresh}, config(), engine=DOUBLE)
    # A coin beside a perpetual of its size: only the dollar of the perpetual is left, 80,000 USDT owed.
    assert row(found, "hedged")["oracle"] == pytest.approx(1.5 * 0.01 * 80_000)
    # 400 - 300 inverse contracts of 100 dollars, and a coin of collateral.
    assert row(found, "inverse")["oracle"] == pytest.approx(1.5 * 0.01 * (10_000 + 80_000))
    assert row(found, "saver")["oracle"] == 0


def test_where_an_underlying_moves_by_differences_units_times_its_own_volatility_are_charged() -> None:
    old = underlyings().with_columns(
        shock=pl.when(pl.col("underlying") == "OIL").then(pl.lit("absolute")).otherwise(pl.lit("log")),
        time=pl.when(pl.col("underlying") == "OIL").then(AS_OF - timedelta(hours=12)).otherwise("time"),
        confidence=pl.lit(0.0),
    )
    marks = quotes().with_columns(confidence=pl.lit(0.0))
    positions = pl.DataFrame(
        [("oil", "OIL-FUT", 3.0)], schema=["account_id", "instrument_id", "quantity"], orient="row"
    )
    found = margin(tables(underlyings=old, quotes=marks, positions=positions), config(), as_of=AS_OF, engine=DOUBLE)
    sigma = np.sqrt(found.scenarios.weights @ np.square(found.scenarios.shocks[:, list(INDEX).index("OIL")]))
    charge = 3 * 10 * 0.8 * sigma * np.sqrt(0.5 - 30 / 1440)
    assert row(found, "oil")["oracle"] == pytest.approx(charge)
    assert charge > 10


def test_a_time_after_the_margin_is_an_age_of_zero_and_is_counted() -> None:
    late = {
        "underlyings": underlyings().with_columns(time=pl.lit(AS_OF + timedelta(days=1)), confidence=pl.lit(0.001)),
        "quotes": quotes().with_columns(confidence=pl.lit(0.001)),
    }
    found = margin({**tables(), **late}, config(), as_of=AS_OF, engine=DOUBLE)
    assert row(found, "long")["oracle"] == pytest.approx(1.5 * 0.001 * (80_000 + 80_000))
    assert found.manifest["data"]["prices_after_as_of"] == len(INDEX)


def test_the_manifest_says_how_many_prices_are_of_unknown_quality() -> None:
    plain = margin(tables(), config(), engine=DOUBLE).manifest["data"]["price_quality"]
    prices = len(INDEX) + instruments().height
    assert plain == {"without_time": 0, "without_confidence": prices, "older_than_the_worst": 0,
                     "less_certain_than_the_worst": 0}  # fmt: skip
    told = result().manifest["data"]["price_quality"]
    assert all(count > 0 for count in told.values())


@cache
def charges() -> tuple[Exposures, Any]:
    """The charge of every account of the tiny venue as a function of the quality of its prices."""
    given = tables()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})
    model = mx.load_model(config())
    charge = OracleCharge.from_settings(Oracle(**SETTINGS))
    assert charge is not None
    with jax.enable_x64(True):
        exposures = expose(book, market, model.factors(market, book.instruments))
        tiles = [
            build(exposures, part, np.float64)
            for part in cut(exposures, np.arange(len(book)), tile_rows=64, scenarios=200)
        ]
        shocks = 0.03 * np.random.default_rng(1).standard_normal((200, len(exposures.market.index) + 8))

        @eqx.filter_jit
        def of(quality: PriceQuality) -> list[Any]:
            terms = charge.terms(
                exposures.instruments, exposures.market, quality, shocks, np.full(200, 1 / 200), horizon_days=1.0,
                pricing=OptionPricing.from_settings(),
            )  # fmt: skip
            return [charge.charge(terms, tile) for tile in tiles]

    def total(quality: PriceQuality) -> np.ndarray:
        with jax.enable_x64(True):
            return np.concatenate([np.asarray(each) for each in of(quality)])

    return exposures, total


MARKS, PRICES = instruments().height, len(INDEX)
ages = st.one_of(st.just(np.nan), st.floats(0, 40))
confidences = st.one_of(st.just(np.nan), st.floats(0, 1))
qualities = st.builds(
    lambda *columns: [np.array(column) for column in columns],
    st.lists(ages, min_size=MARKS, max_size=MARKS), st.lists(confidences, min_size=MARKS, max_size=MARKS),
    st.lists(ages, min_size=PRICES, max_size=PRICES), st.lists(confidences, min_size=PRICES, max_size=PRICES),
)  # fmt: skip


@given(
    known=qualities,
    column=st.integers(0, 3),
    place=st.integers(0, MARKS - 1),
    worse=st.floats(0, 3),
    lost=st.booleans(),
)
def test_nobody_pays_less_for_a_price_that_is_older_less_certain_or_less_known(
    known: list[np.ndarray], column: int, place: int, worse: float, lost: bool
) -> None:
    _, charge = charges()
    then = [each.copy() for each in known]
    place %= len(then[column])
    then[column][place] = np.nan if lost or np.isnan(then[column][place]) else then[column][place] + worse
    before, after = (charge(PriceQuality(*each)) for each in (known, then))
    assert np.isfinite(before).all()
    # Sums of a few products in the same order: nothing but the rate of one price differs.
    assert (after >= before * (1 - 1e-14)).all()


@given(known=qualities)
def test_knowing_nothing_is_the_dearest(known: list[np.ndarray]) -> None:
    _, charge = charges()
    nothing = charge(PriceQuality(*(np.full(len(each), np.nan) for each in known)))
    assert (charge(PriceQuality(*known)) <= nothing * (1 + 1e-14)).all()


def test_an_older_price_is_dearer_from_the_end_of_the_grace_period_to_the_worst_age() -> None:
    def charged(age: float) -> float:
        old = underlyings().with_columns(time=pl.lit(AS_OF - timedelta(days=age)), confidence=pl.lit(0.0))
        fresh = quotes().with_columns(confidence=pl.lit(0.0))
        found = margin(tables(underlyings=old, quotes=fresh), config(), as_of=AS_OF, engine=DOUBLE)
        return float(row(found, "long")["oracle"])

    at = [charged(days) for days in (0.0, 0.02, 0.1, 1.0, 2.0, 4.0)]
    assert at[0] == at[1] == 0
    assert at[1] < at[2] < at[3] < at[4]
    assert at[4] == at[5]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"oracle": {"z": 1.0}}, "oracle: is set, and `expected_shortfall` does not read it"),
        ({"model": "dynamic", "oracle": {"z": -1.0}}, r"oracle\.z"),
        ({"model": "dynamic", "oracle": {"worst_confidence": 1.5}}, r"oracle\.worst_confidence"),
        ({"model": "dynamic", "oracle": {"grace_minutes": 2_000.0}}, "no age would cost anything; shorten it"),
    ],
)
def test_numbers_outside_their_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        mx.load_model(parse_config(values, "test"))
