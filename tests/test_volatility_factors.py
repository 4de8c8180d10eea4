"""How implied volatility moves: by its own history, or by its price and noise, and never not at all.

An option never gets zero risk because something about it is unknown: a book of straddles, whatever is not known of
them, owes about as much as where all is known.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

import marginax as mx
from laws._books import NOW, Tables, contract
from laws._options import frame, holding, option, result, rows, venue
from marginax.config import parse_config
from reference import options as twin

BARS, INDEX = 161, 50_000.0
DAYS = [NOW - timedelta(days=k) for k in range(BARS - 1, -1, -1)]
STYLE = {"premium": "futures_style"}
NEAR, FAR = 30.0, 120.0
CHAIN = tuple(
    option(f"{days:g}-{strike:g}-{kind[0].upper()}", kind, "BTC", strike, days, **STYLE)
    for days in (NEAR, FAR)
    for strike in (45_000.0, 50_000.0, 55_000.0)
    for kind in ("call", "put")
)
FUTURES = tuple(contract(f"FUT-{days:g}", "future", "BTC", expiry=NOW + timedelta(days=days)) for days in (NEAR, FAR))


@cache
def walks() -> tuple[np.ndarray, np.ndarray]:
    """Daily log returns of the price, 3 % a day, and of its implied volatility, 4 % a day: no two alike."""
    rng = np.random.default_rng(17)
    return 0.03 * rng.standard_normal(BARS - 1), 0.04 * rng.standard_normal(BARS - 1)


def path(moves: np.ndarray, last: float) -> np.ndarray:
    walk = np.concatenate([[0.0], np.cumsum(moves)])
    return last * np.exp(walk - walk[-1])


def series(values: np.ndarray, name: str = "BTC", factor: str = "price", days: Any = DAYS) -> list[dict[str, Any]]:
    return [
        {"time": day, "underlying": name, "factor": factor, "value": float(value)}
        for day, value in zip(days, values, strict=True)
    ]


def prices() -> list[dict[str, Any]]:
    return series(path(walks()[0], INDEX))


def implied() -> list[dict[str, Any]]:
    return series(path(walks()[1], 0.7), factor="implied_vol")


def long_ago() -> list[dict[str, Any]]:
    return series(
        np.exp(walks()[1][:100]), factor="implied_vol", days=[day - timedelta(days=300) for day in DAYS[:100]]
    )


@cache
def known() -> Tables:
    """Everything is known: forwards, volatilities, and the history of both."""
    marks: dict[str, Any] = {"FUT-30": INDEX, "FUT-120": INDEX}
    conventions = twin.Conventions(as_of=NOW, days=0.0)
    for row in CHAIN:
        mark = twin.model_price(row, twin.Priced(INDEX, 1.0, 0.7), conventions, normal=False)
        marks[row["instrument_id"]] = (mark, 0.7)
    forwards = [
        {"underlying": "BTC", "expiry": NOW + timedelta(days=days), "forward": INDEX, "discount": 1.0}
        for days in (NEAR, FAR)
    ]
    return venue((*CHAIN, *FUTURES), marks, {"BTC": INDEX}, forwards=forwards, history=[*prices(), *implied()])


def with_history(history: list[dict[str, Any]]) -> Callable[[], Tables]:
    return lambda: {**known(), "history": frame("history", history)}


def quoted(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[], Tables]:
    return lambda: {**known(), "quotes": change(known()["quotes"])}


def unquoted(tables: Tables, days: float) -> Tables:
    """Neither marks nor volatilities of one expiry."""
    of = pl.col("instrument_id").str.starts_with(f"{days:g}-")
    quotes = tables["quotes"].with_columns(
        mark_price=pl.when(of).then(0.0).otherwise("mark_price"), implied_vol=pl.when(~of).then("implied_vol")
    )
    return {**tables, "quotes": quotes}


def by_proxy() -> Tables:
    """Options on a coin without any history, which follows one that has some."""
    one = {"underlying": "OLD", "index_price": 10.0}
    table = known()["underlyings"].with_columns(proxy=pl.lit("OLD"), proxy_beta=pl.lit(1.0))
    return {
        **known(),
        "underlyings": pl.concat([table, frame("underlyings", [one])]),
        "history": frame("history", series(path(walks()[0], 10.0), "OLD")),
    }


def no_volatility(quotes: pl.DataFrame) -> pl.DataFrame:
    return quotes.with_columns(implied_vol=pl.lit(None, pl.Float64))


flat = series(np.full(BARS, 0.7), factor="implied_vol")
UNKNOWN: dict[str, Callable[[], Tables]] = {
    "no history of volatility": with_history(prices()),
    "a volatility that somebody typed": with_history([*prices(), *flat]),
    "a volatility of a few days": with_history([*prices(), *implied()[-20:]]),
    "a volatility of long ago": with_history([*prices(), *long_ago()]),
    "a volatility that misses days": with_history([*prices(), *(row for k, row in enumerate(implied()) if k % 3)]),
    "a price that never moved": with_history([*series(np.full(BARS, INDEX)), *implied()]),
    "nothing that ever moved": with_history([*series(np.full(BARS, INDEX)), *flat]),
    "a coin without history": by_proxy,
    "no forwards": lambda: {**known(), "forwards": known()["forwards"].clear()},
    "no volatilities": quoted(no_volatility),
    "no volatilities and no forwards": lambda: {**quoted(no_volatility)(), "forwards": known()["forwards"].clear()},
    "no quotes of the near expiry": lambda: unquoted(known(), NEAR),
    "no quotes of the far expiry": lambda: unquoted(known(), FAR),
    "one strike is quoted": quoted(
        lambda quotes: quotes.with_columns(implied_vol=pl.when(instrument_id="30-50000-C").then("implied_vol"))
    ),
    "marks of nothing": quoted(
        lambda quotes: quotes.with_columns(
            mark_price=pl.when(pl.col("instrument_id").str.starts_with("FUT")).then("mark_price").otherwise(0.0)
        )
    ),
}  # fmt: skip

# Straddles are hedged against the price by construction: at the money the deltas of call and put all but cancel, and a
# future takes what is left (N(d1) - N(-d1) of one coin, d1 = 0.1003 and 0.2007).
HEDGE = {days: 2 * stats.norm.cdf(0.35 * np.sqrt(days / 365)) - 1 for days in (NEAR, FAR)}


def straddle(days: float, size: float) -> dict[str, float]:
    return {f"{days:g}-50000-C": size, f"{days:g}-50000-P": size, f"FUT-{days:g}": -size * HEDGE[days]}


BOOKS: Mapping[str, Mapping[str, float]] = {
    "short straddle": straddle(NEAR, -1.0),
    "long far straddle": straddle(FAR, 1.0),
    "short far straddle": straddle(FAR, -1.0),
    # Vegas of 5,700 and 11,300, whose volatilities move by 1 and 0.84 of the factor: 3,800 are left.
    "calendar": {**straddle(NEAR, -1.0), **straddle(FAR, 1.0)},
    "calendar, short far": {**straddle(NEAR, 1.0), **straddle(FAR, -1.0)},
}


def configured(source: str = "filtered_historical") -> mx.Config:
    # Draws enough for the worst twentieth to hold a dozen or two.
    return parse_config(
        {"risk": {"tail": 0.05}, "scenarios": {"source": source}, "monte_carlo": {"draws": 512, "scrambles": 16}},
        "test",
    )


@cache
def margined(how: str, source: str = "filtered_historical") -> mx.Result:
    tables = known() if how == "all is known" else UNKNOWN[how]()
    return result(holding(tables, BOOKS), configured(source))


# Draws see the same factors: the ways in which those differ are tried with them too.
DRAWN = (
    "no history of volatility",
    "a price that never moved",
    "nothing that ever moved",
    "a volatility that misses days",
)
WAYS = [
    *((how, "filtered_historical") for how in UNKNOWN),
    *(pytest.param(how, "monte_carlo", marks=pytest.mark.long) for how in DRAWN),
]


@pytest.mark.parametrize(("how", "source"), WAYS)
def test_an_option_never_gets_zero_risk_because_something_about_it_is_unknown(how: str, source: str) -> None:
    full, found = rows(margined("all is known", source)), rows(margined(how, source))
    for name, row in found.items():
        assert row["status"] in (("stale",) if how == "marks of nothing" else ("ok", "proxied")), row["reason"]
        assert full[name]["initial_margin"] > 0
        # Half: where the price never moved only volatility does, and a book of straddles has gamma to lose too.
        share = row["initial_margin"] / full[name]["initial_margin"]
        assert share > 1 / 2, f"{name} owes {share:.2f} of what it owes where all is known"


def test_a_volatility_with_history_moves_by_it() -> None:
    answer = result(
        holding(known(), BOOKS), parse_config({"risk": {"tail": 0.05}, "scenarios": {"source": "historical"}}, "t")
    )
    factors, shocks = answer.scenarios.factors, answer.scenarios.shocks
    np.testing.assert_allclose(shocks[:, factors.index("implied_vol:BTC")], walks()[1], rtol=1e-9, atol=1e-14)
    assert set(answer.margins["status"]) == {"ok"}
    assert answer.manifest["scenarios"]["volatilities_by_price"] == []


@pytest.mark.parametrize(("beta", "residual", "safety"), [(-1.0, 0.06, 1.5), (-2.5, 0.02, 1.0), (0.0, 0.1, 3.0)])
def test_a_volatility_without_history_moves_by_its_price_and_by_noise(
    beta: float, residual: float, safety: float
) -> None:
    """Less beta times the price it is noise of the stated size: quantiles of a t law of 4 degrees of freedom."""
    config = parse_config(
        {
            "risk": {"tail": 0.05},
            "scenarios": {"source": "historical"},
            "volatility": {"beta": beta, "residual": residual},
            "proxy": {"safety_factor": safety},
        },
        "test",
    )
    answer = result(holding(with_history(prices())(), BOOKS), config)
    factors, shocks = answer.scenarios.factors, answer.scenarios.shocks
    price, volatility = (shocks[:, factors.index(name)] for name in ("BTC", "implied_vol:BTC"))
    strata = stats.t.ppf((np.arange(BARS - 1) + 0.5) / (BARS - 1), 4)
    wanted = safety * residual * strata / np.sqrt(np.mean(strata**2))
    np.testing.assert_allclose(np.sort(volatility - beta * price), wanted, rtol=1e-9, atol=1e-12)
    assert set(answer.margins["status"]) == {"proxied"}
    assert set(answer.margins["reason"]) == {"proxied: volatility of BTC by its price"}
    assert answer.manifest["scenarios"]["volatilities_by_price"] == ["implied_vol:BTC"]


def test_who_holds_no_option_is_not_proxied_by_a_volatility() -> None:
    books = {"option": {"30-50000-C": 1.0}, "future": {"FUT-30": 1.0}}
    bare, full = (result(holding(at, books), configured()) for at in (with_history(prices())(), known()))
    assert rows(bare)["option"]["status"] == "proxied"
    future = pl.col("account_id") == "future"
    assert bare.margins.filter(future)["status"].item() == "ok"
    # The same scenarios of its own, beside another factor: the program is another, the arithmetic is not.
    for column in ("initial_margin", "var"):
        assert bare.margins.filter(future)[column].item() == pytest.approx(
            full.margins.filter(future)[column].item(), rel=1e-12
        )


@pytest.mark.parametrize(
    ("how", "book", "reason"),
    [
        ("no history of volatility", "calendar", "volatility of BTC by its price"),
        ("a volatility that somebody typed", "calendar", "volatility of BTC by its price"),
        ("a volatility of a few days", "short straddle", "volatility of BTC by its price"),
        ("a volatility of long ago", "short straddle", "volatility of BTC by its price"),
        ("no quotes of the near expiry", "short straddle", "by another expiry"),
        ("a coin without history", "short straddle", "BTC by OLD"),
        ("a price that never moved", "short straddle", "BTC, which never moved"),
    ],
)
def test_what_is_not_known_is_said(how: str, book: str, reason: str) -> None:
    row = rows(margined(how))[book]
    assert row["status"] == "proxied"
    assert reason in row["reason"]


@pytest.mark.parametrize("how", ["a volatility that misses days", "no forwards", "one strike is quoted"])
def test_what_is_found_elsewhere_in_the_same_chain_is_no_proxy(how: str) -> None:
    found = rows(margined(how))
    assert found["short straddle"]["status"] == "ok"


@pytest.mark.parametrize(("days", "status"), [(1, "ok"), (20, "stale")])
def test_a_volatility_whose_history_ended_is_stale(days: int, status: str) -> None:
    history = [row for row in implied() if row["time"] <= NOW - timedelta(days=days)]
    found = rows(
        result(holding({**known(), "history": frame("history", [*prices(), *history])}, BOOKS), "expected_shortfall")
    )
    assert {row["status"] for row in found.values()} == {status}
    if status == "stale":
        assert all(row["reason"] == "stale: volatility history of BTC" for row in found.values())


def test_the_volatility_of_what_may_pass_through_zero_does_not_follow_its_price() -> None:
    """Moves over a level near zero would be any number; it moves by noise of its own alone."""
    contracts = (option("OIL-C", "call", "OIL", 1.0, NEAR, **STYLE), option("OIL-P", "put", "OIL", 1.0, NEAR, **STYLE))
    oil = series(1.0 + np.concatenate([[0.0], np.cumsum(0.3 * walks()[0] / 0.03)]), "OIL")
    at = venue(contracts, {"OIL-C": 3.0, "OIL-P": 3.0}, {"OIL": {"index_price": 1.0, "shock": "absolute"}}, history=oil)
    told = result(holding(at, {"a": {"OIL-C": -1.0}}), "expected_shortfall").scenarios
    price, mood = (told.shocks[:, told.factors.index(name)] for name in ("OIL", "implied_vol:OIL"))
    assert abs(np.corrcoef(price, mood)[0, 1]) < 3 / np.sqrt(len(price))
    assert mood.std() == pytest.approx(1.5 * 0.06, rel=0.05)
