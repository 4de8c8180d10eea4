"""Portfolios like a venue's accounts: which there are, that they are what they are called, and tables of one's own."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import marginax as mx
from marginax_calibration.portfolios import (
    LINEAR_KINDS,
    OPTION_DAYS,
    Leg,
    Portfolio,
    portfolio,
    read_portfolios,
    venue_portfolios,
)

SEVEN = ("ADA", "BTC", "DOGE", "ETH", "LTC", "SOL", "XRP")


def by_kind(portfolios: list[Portfolio], kind: str) -> list[Portfolio]:
    return [each for each in portfolios if each.kind == kind]


def linear(portfolios: list[Portfolio]) -> list[Portfolio]:
    return [each for each in portfolios if each.kind in LINEAR_KINDS]


# --- A venue's own ---------------------------------------------------------------------------------------------------


def test_seven_underlyings_make_27_linear_portfolios() -> None:
    """Each one way, an equal basket each way, three pairs of neighbours, and eight that sum to zero."""
    found = linear(venue_portfolios(SEVEN))
    assert Counter(each.kind for each in found) == {"long": 8, "short": 8, "spread": 3, "neutral": 8}
    assert [each.name for each in by_kind(found, "spread")] == ["spread ADA BTC", "spread DOGE ETH", "spread LTC SOL"]
    longs = {each.name: each for each in by_kind(found, "long")}
    assert set(longs) == {*(f"long {name}" for name in SEVEN), "long basket"}
    assert longs["long ETH"].legs == (Leg("ETH", 1.0),)
    assert {leg.weight for leg in longs["long basket"].legs} == {1 / 7}
    shorts = {each.name: each for each in by_kind(found, "short")}
    for name, each in shorts.items():
        mirror = longs[name.replace("short", "long")]
        assert each.legs == tuple(Leg(leg.underlying, -leg.weight) for leg in mirror.legs)
    assert not any(leg.option for each in found for leg in each.legs)


def test_and_three_with_options_for_each_underlying_and_two_market_makers() -> None:
    found = venue_portfolios(SEVEN)
    kinds = Counter(each.kind for each in found)
    assert kinds - Counter(each.kind for each in linear(found)) == {
        "straddle": 7, "strangle": 7, "collar": 7, "market_maker": 2,
    }  # fmt: skip
    assert all(any(leg.option for leg in each.legs) for each in found if each.kind not in LINEAR_KINDS)
    assert len({each.name for each in found}) == len(found)
    assert len(by_kind(venue_portfolios([f"U{k:02d}" for k in range(15)]), "market_maker")) == 3


def test_options_are_what_their_names_say() -> None:
    found = {each.name: each for each in venue_portfolios(["BTC"])}
    straddle, strangle, collar = (found[f"{kind} BTC"].legs for kind in ("straddle", "strangle", "collar"))
    assert straddle == tuple(Leg("BTC", -0.5, kind, 0.0, OPTION_DAYS) for kind in ("call", "put"))
    assert strangle == (Leg("BTC", -0.5, "call", 1.0, OPTION_DAYS), Leg("BTC", -0.5, "put", -1.0, OPTION_DAYS))
    assert [(leg.option, leg.deviations) for leg in collar] == [("", 0.0), ("put", -1.0), ("call", 1.0)]
    assert [leg.weight for leg in collar] == pytest.approx([1 / 3, 1 / 3, -1 / 3])


NAMES = st.lists(st.sampled_from([*SEVEN, "AVAX", "BNB", "DOT", "NEAR"]), min_size=1, max_size=11, unique=True)


@given(NAMES, st.integers(0, 2**31))
def test_gross_notional_is_one_and_neutral_portfolios_sum_to_zero(names: list[str], seed: int) -> None:
    # Up to 34 weights of at most one: a rounding of 2e-16 in each and in each of their sums.
    for each in venue_portfolios(names, seed=seed):
        assert sum(abs(leg.weight) for leg in each.legs) == pytest.approx(1, abs=1e-14)
        assert all(leg.weight for leg in each.legs)
        if each.kind in ("neutral", "spread"):
            assert sum(leg.weight for leg in each.legs) == pytest.approx(0, abs=1e-14)
            assert len(set(each.underlyings)) == len(each.legs) > 1


@given(NAMES, st.integers(0, 2**31), st.randoms())
def test_the_same_names_and_seed_give_the_same_portfolios_in_any_order(
    names: list[str], seed: int, order: object
) -> None:
    shuffled = sorted(names, key=lambda _: order.random())  # type: ignore[attr-defined]
    assert venue_portfolios(shuffled, seed=seed) == venue_portfolios(names, seed=seed)


def test_another_seed_changes_what_is_random_and_nothing_else() -> None:
    one, other = venue_portfolios(SEVEN, seed=1), venue_portfolios(SEVEN, seed=2)
    for mine, theirs in zip(one, other, strict=True):
        assert (mine == theirs) == (mine.kind not in ("neutral", "market_maker"))


def test_listing_one_more_name_leaves_one_way_and_option_portfolios_of_the_others_alone() -> None:
    before = {each.name: each for each in venue_portfolios(SEVEN)}
    after = {each.name: each for each in venue_portfolios([*SEVEN, "ZEC"])}
    for name, each in before.items():
        if each.kind in ("straddle", "strangle", "collar") or (each.kind in ("long", "short") and "basket" not in name):
            assert after[name] == each


def test_asking_for_more_neutral_portfolios_changes_no_other() -> None:
    few, many = ({each.name: each for each in venue_portfolios(SEVEN, neutral=count)} for count in (3, 12))
    assert few.items() <= many.items()
    assert len(by_kind(list(many.values()), "neutral")) == 12


def test_neutral_portfolios_hold_no_more_than_eight_legs() -> None:
    found = by_kind(venue_portfolios([f"U{k:02d}" for k in range(40)], neutral=100), "neutral")
    legs = {len(each.legs) for each in found}
    assert (min(legs), max(legs)) == (3, 8)


def test_a_forward_is_a_spread_against_its_underlying_and_nothing_more() -> None:
    found = venue_portfolios(["BRENT", "WTI", "WTI:3M", "GOLD:1M"], forwards={"WTI:3M": "WTI", "GOLD:1M": "GOLD"})
    assert not by_kind(found, "long")[0].name.endswith("3M")
    assert [each.name for each in by_kind(found, "spread")] == ["spread BRENT WTI", "spread WTI:3M WTI"]
    assert not any("GOLD" in name for each in found for name in each.underlyings)


@pytest.mark.parametrize("volatility", [0.2, 0.8, 1.5])
def test_market_makers_are_close_to_delta_neutral(volatility: float) -> None:
    """Hedged by N(-deviations); the delta of a call is N(-deviations + s / 2) with s the deviation to expiry.

    The two differ by at most s / 2 times the greatest density of the normal law, 0.4, on all of gross notional.
    """
    deviation = volatility * np.sqrt(OPTION_DAYS / 365)
    for each in by_kind(venue_portfolios(SEVEN, makers=20), "market_maker"):
        delta = unhedged = 0.0
        for leg in each.legs:
            d1 = -leg.deviations + deviation / 2
            own = stats.norm.cdf(d1) - (leg.option == "put") if leg.option else 1.0
            delta += leg.weight * own
            unhedged += leg.weight * own * bool(leg.option)
        assert abs(delta) < deviation / 2 * stats.norm.pdf(0)
        assert 1 <= len(each.underlyings) <= 3
        assert len(each.legs) == 11 * len(each.underlyings)


def test_weights_of_zero_are_no_portfolio() -> None:
    with pytest.raises(ValueError, match="give one that is not zero"):
        portfolio("nothing", "own", [Leg("BTC", 0.0)])
    assert portfolio("one", "own", [Leg("BTC", 4.0), Leg("ETH", 0.0)]).legs == (Leg("BTC", 1.0),)


# --- Tables of one's own ---------------------------------------------------------------------------------------------


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_has_one_row_a_leg_and_weights_of_any_size(tmp_path: Path) -> None:
    file = written(
        tmp_path / "portfolios.csv",
        "portfolio,kind,underlying,weight,option,deviations,days",
        "pair,hedge,BTC,300,,,",
        "covered,income,ETH,2,,,",
        "pair,hedge,ETH,-100,,,",
        "covered,income,ETH,-2,call,0.5,14",
        "plain,income,ETH,1,put,,",
    )
    pair, covered, plain = read_portfolios(file, ["BTC", "ETH"])
    assert pair == Portfolio("pair", "hedge", (Leg("BTC", 0.75), Leg("ETH", -0.25)))
    assert covered == Portfolio("covered", "income", (Leg("ETH", 0.5), Leg("ETH", -0.5, "call", 0.5, 14.0)))
    assert plain == Portfolio("plain", "income", (Leg("ETH", 1.0, "put", 0.0, OPTION_DAYS),))


def test_the_kind_may_be_left_out_and_a_parquet_file_or_a_frame_will_do(tmp_path: Path) -> None:
    rows = pl.DataFrame({"portfolio": ["a", "a"], "underlying": ["BTC", "ETH"], "weight": [1.0, 1.0]})
    rows.write_parquet(tmp_path / "portfolios.parquet")
    wanted = [Portfolio("a", "own", (Leg("BTC", 0.5), Leg("ETH", 0.5)))]
    assert read_portfolios(rows, ["BTC", "ETH"]) == wanted
    assert read_portfolios(tmp_path / "portfolios.parquet", ["BTC", "ETH"]) == wanted


HEADER = "portfolio,kind,underlying,weight"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((HEADER, "a,own,BTC,1", "a,own,XRP,1"), ("row 2", "underlying", "'XRP' is no underlying of the history")),
        ((HEADER, "a,own,BTC,0", "a,own,ETH,0"), ("weight", "gross notional of 0", "not zero")),
        ((HEADER, "a,own,BTC,1", "a,other,ETH,1"), ("kind", "of the kinds other, own", "Give all its legs one")),
        ((HEADER + ",size", "a,own,BTC,1,3"), ("size", "is not a column of the table `portfolios`")),
        (("portfolio,underlying", "a,BTC"), ("weight", "is missing")),
        ((HEADER, "a,own,BTC,much"), ("row 1", "weight", "'much'")),
        ((HEADER, "a,own,BTC,1", "a,own,BTC,2"), ("row 2", "is there already")),
        ((HEADER + ",option", "a,own,BTC,1,swap"), ("option", "'swap'", "call")),
        ((HEADER + ",option,days", "a,own,BTC,1,call,0"), ("days", "above zero")),
        ((HEADER,), ("holds no portfolio",)),
    ],
    ids=["underlying", "weights", "kinds", "column", "missing", "number", "twice", "option", "days", "empty"],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path: Path, lines: tuple[str, ...], told: tuple[str, ...]) -> None:
    with pytest.raises(mx.BadInput) as caught:
        read_portfolios(written(tmp_path / "portfolios.csv", *lines), ["BTC", "ETH"])
    for word in ("portfolios.csv", *told):
        assert word in str(caught.value)


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "p.csv", HEADER, "a,own,XRP,1", "b,own,BTC,0", "c,one,BTC,1", "c,two,ETH,1")
    with pytest.raises(mx.BadInput) as caught:
        read_portfolios(file, ["BTC", "ETH"])
    assert len(caught.value.problems) == 3
