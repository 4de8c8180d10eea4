"""Put-call parity: the forward that a strike's call and put agree on, and the discount factor behind it.

Quotes are made from Black's formula at a known forward and discount, so that what parity finds can be compared.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from marginax.parity import ParityForward, Premium, parity_forward

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
OPTIONS = SHARED / "data" / "options"
COIN_CHAINS = [path for path in sorted(OPTIONS.glob("deribit_*_chain_*.parquet")) if not path.stem.endswith("_depth")]
SHARE_CHAINS = sorted(OPTIONS.glob("spy_chain_*.parquet"))

# Products of numbers of the size of the forward, in float64, divided by a discount: a few dozen roundings.
EXACT = 1e-13

PREMIUMS: list[Premium] = ["coin", "upfront", "futures_style"]
STRIKES = np.arange(60.0, 150.0, 5.0)


def marks(
    forward: float, *, premium: Premium, discount: float = 1.0, strikes: np.ndarray = STRIKES, sigma: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Calls and puts by Black's formula, as a venue of that kind shows them."""
    high = np.log(forward / strikes) / sigma + sigma / 2
    call = forward * ndtr(high) - strikes * ndtr(high - sigma)
    scale = {"coin": 1 / forward, "upfront": discount, "futures_style": 1.0}[premium]
    return scale * call, scale * (call - forward + strikes)


def bachelier(
    forward: float, discount: float, strikes: np.ndarray, sigma: float = 20.0
) -> tuple[np.ndarray, np.ndarray]:
    """Calls and puts on an underlying that moves by differences and may be negative."""
    depth = (forward - strikes) / sigma
    density = np.exp(-(depth**2) / 2) / np.sqrt(2 * np.pi)
    call = discount * sigma * (depth * ndtr(depth) + density)
    return call, call - discount * (forward - strikes)


def found(premium: Premium, call: Any, put: Any, strikes: Any = STRIKES, **rest: Any) -> ParityForward:
    return parity_forward(strikes, call, put, premium=premium, index=rest.pop("index", 100.0), **rest)


@pytest.mark.parametrize("premium", PREMIUMS)
def test_the_forward_behind_the_quotes_comes_back_exactly(premium: Premium) -> None:
    call, put = marks(103.7, premium=premium, discount=0.96)
    answer = found(premium, call, put)
    assert answer.forward == pytest.approx(103.7, rel=EXACT)
    assert answer.strikes_used == 5
    assert answer.spread < EXACT


def test_an_upfront_chain_tells_its_discount_factor() -> None:
    assert found("upfront", *marks(103.7, premium="upfront", discount=0.96)).discount == pytest.approx(0.96, rel=1e-12)


def test_a_coin_settled_forward_and_the_index_make_the_discount_of_the_coin() -> None:
    call, put = marks(104.0, premium="coin")
    assert found("coin", call, put, index=100.0).discount == pytest.approx(100 / 104, rel=EXACT)
    assert found("coin", call, put, index=np.nan).discount == 1
    assert found("coin", call, put, discount=0.9).discount == 0.9


def test_a_futures_style_premium_is_not_discounted_whatever_is_given() -> None:
    call, put = marks(103.7, premium="futures_style")
    answer = found("futures_style", call, put, discount=0.9)
    assert (answer.forward, answer.discount) == (pytest.approx(103.7, rel=EXACT), 1.0)


def test_a_given_discount_is_used() -> None:
    call, put = marks(103.7, premium="upfront", discount=0.9, strikes=np.array([80.0]))
    answer = found("upfront", call, put, [80.0], discount=0.9)
    assert (answer.forward, answer.discount) == (pytest.approx(103.7, rel=EXACT), 0.9)


@pytest.mark.parametrize("discount", [0.25, 1.2, -0.5])
def test_a_slope_that_is_no_discount_factor_is_refused(discount: float) -> None:
    strikes = np.arange(90.0, 115.0, 5.0)
    gap = discount * (100 - strikes)
    answer = found("upfront", np.maximum(gap, 0) + 1, np.maximum(-gap, 0) + 1, strikes)
    assert answer.discount == 1
    assert answer.forward == pytest.approx(100, rel=EXACT)


def test_four_strikes_tell_the_forward_and_no_discount() -> None:
    strikes = np.array([90.0, 95.0, 100.0, 105.0])
    answer = found("upfront", *marks(100.0, premium="upfront", discount=0.95, strikes=strikes), strikes)
    assert (answer.discount, answer.strikes_used) == (1, 4)
    assert answer.forward == pytest.approx(100, rel=EXACT)  # the nearest strike stands on the forward


@pytest.mark.parametrize("premium", PREMIUMS)
def test_one_pair_is_enough_and_tells_no_spread(premium: Premium) -> None:
    strikes = np.array([90.0])
    answer = found(premium, *marks(103.7, premium=premium, strikes=strikes), strikes)
    assert answer.forward == pytest.approx(103.7, rel=EXACT)
    assert answer.strikes_used == 1
    assert np.isnan(answer.spread)


@pytest.mark.parametrize("premium", PREMIUMS)
def test_a_call_without_a_put_is_no_pair(premium: Premium) -> None:
    call, put = marks(103.7, premium=premium)
    whole = found(premium, call, put)
    put[::2], call[0] = np.nan, np.inf
    halved = found(premium, call, put)
    assert halved.forward == pytest.approx(whole.forward, rel=EXACT)
    assert halved.strikes_used == 5


@pytest.mark.parametrize("premium", PREMIUMS)
def test_nothing_usable_is_a_forward_of_nan(premium: Premium) -> None:
    none = np.full(len(STRIKES), np.nan)
    for call, put, strikes in [([], [], []), (none, none, STRIKES), ([0.0], [0.0], [100.0]), ([-1.0], [2.0], [100.0])]:
        answer = found(premium, call, put, strikes)
        assert np.isnan(answer.forward)
        assert np.isnan(answer.spread)
        assert (answer.strikes_used, answer.discount) == (0, 1)


def test_a_coin_call_worth_its_coin_puts_the_forward_nowhere() -> None:
    answer = found("coin", [1.0], [0.0], [100.0])
    assert np.isnan(answer.forward)
    assert answer.strikes_used == 0


@pytest.mark.parametrize("premium", PREMIUMS)
@pytest.mark.parametrize("wrong", [0, 7, 8, 9, 17])
def test_one_wrong_mark_moves_nothing(premium: Premium, wrong: int) -> None:
    call, put = marks(103.7, premium=premium, discount=0.96)
    put[wrong] = call[wrong]  # which says that the forward is the strike
    answer = found(premium, call, put)
    # One wrong pair of five stands in four slopes of ten, and in one forward of five.
    assert answer.forward == pytest.approx(103.7, rel=1e-12)


@pytest.mark.parametrize("premium", PREMIUMS)
def test_noise_in_the_marks_moves_the_forward_by_no_more_than_the_noise(premium: Premium) -> None:
    noise = 0.02 * (1 / 103.7 if premium == "coin" else 1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clean = marks(103.7, premium=premium)
        call, put = (np.maximum(mark + noise * rng.uniform(-1, 1, len(mark)), 0) for mark in clean)
        answer = found(premium, call, put)
        # Two marks wrong by at most 0.02 each; a slope over 20 wrong by 0.04 shifts strikes within 15 by 0.03.
        assert abs(answer.forward - 103.7) < 0.07
        assert 0 < answer.spread < 1.5 * 0.07 / 100


@pytest.mark.parametrize("order", [slice(None, None, -1), np.random.default_rng(3).permutation(len(STRIKES))])
def test_the_order_of_the_strikes_does_not_matter(order: Any) -> None:
    call, put = marks(103.7, premium="upfront", discount=0.96)
    call[3], put[11] = 44.0, np.nan
    assert found("upfront", call[order], put[order], STRIKES[order]) == found("upfront", call, put)


def test_quotes_of_the_same_strike_twice_are_no_slope() -> None:
    strikes = np.full(6, 100.0)
    answer = found("upfront", *marks(101.0, premium="upfront", strikes=strikes), strikes)
    assert (answer.forward, answer.discount) == (pytest.approx(101, rel=EXACT), 1)


def test_the_early_exercise_premium_of_deep_options_leaves_the_forward_alone() -> None:
    call, put = marks(103.7, premium="upfront", discount=0.9)
    put = np.maximum(put, STRIKES - 93.0)  # spot 93: what exercising at once pays
    assert found("upfront", call, put, discount=0.9).forward == pytest.approx(103.7, rel=EXACT)


@pytest.mark.parametrize("forward", [-37.6, 0.0, 12.5])
@pytest.mark.parametrize("premium", ["upfront", "futures_style"])
def test_an_absolute_underlying_may_have_a_forward_below_zero(premium: Premium, forward: float) -> None:
    strikes = np.arange(-60.0, 45.0, 5.0)
    call, put = bachelier(forward, 1.0, strikes)
    answer = found(premium, call, put, strikes, index=forward)
    assert answer.forward == pytest.approx(forward, abs=1e-11)
    assert answer.strikes_used == 5


def test_what_parity_cannot_read_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"names no way to pay for an option\. Use one of coin, upfront, futures_style"
    ):
        parity_forward([1.0], [1.0], [1.0], premium="later", index=1.0)
    with pytest.raises(ValueError, match="Give one mark of each per strike"):
        parity_forward([1.0, 2.0], [1.0], [1.0], premium="coin", index=1.0)
    with pytest.raises(ValueError, match="Give a positive number, or None"):
        parity_forward([1.0], [1.0], [1.0], premium="upfront", index=1.0, discount=0.0)


@pytest.mark.skipif(
    not COIN_CHAINS, reason=f"no coin-settled chains in {OPTIONS}; name the folder with MARGINAX_SHARED"
)
@pytest.mark.parametrize("path", COIN_CHAINS, ids=lambda path: path.stem)
def test_the_marks_of_a_coin_settled_chain_agree_with_the_venues_own_forward(path: Path) -> None:
    chain = pl.read_parquet(path)
    keys = [key for key in ("snapshot_time", "currency", "expiry") if key in chain.columns]
    calls, puts = (chain.filter(option_type=side) for side in ("call", "put"))
    errors = []
    for _, pairs in calls.join(puts, on=[*keys, "strike"], suffix="_put").group_by(keys):
        forward = np.median(pairs["underlying_price"])
        answer = parity_forward(pairs["strike"], pairs["mark"], pairs["mark_put"], premium="coin", index=forward)
        errors.append(abs(answer.forward / forward - 1))
    # Marks are rounded to 1e-4 coin at worst, and quotes of one chain may be minutes and 0.1 % of the price apart.
    assert np.median(errors) < 2e-4
    assert np.max(errors) < 1e-2


@pytest.mark.skipif(not SHARE_CHAINS, reason=f"no chains on shares in {OPTIONS}; name the folder with MARGINAX_SHARED")
@pytest.mark.parametrize("path", SHARE_CHAINS, ids=lambda path: path.stem)
def test_the_forwards_of_an_american_chain_lie_near_the_spot_and_run_smoothly(path: Path) -> None:
    chain = pl.read_parquet(path).with_columns(mid=(pl.col("bid") + pl.col("ask")) / 2).filter(pl.col("bid") > 0)
    calls, puts = (chain.filter(option_type=side) for side in ("call", "put"))
    pairs = calls.join(puts, on=["quote_date", "expiry", "strike"], suffix="_put").filter(pl.col("dte") > 0)
    for (_, expiry), one in pairs.sort("expiry").group_by("quote_date", "expiry"):
        index, years = one["underlying_price"][0], one["dte"][0] / 365
        answer = parity_forward(one["strike"], one["mid"], one["mid_put"], premium="upfront", index=index)
        # Rates and dividends between -10 and 15 % a year, and quotes of half a per cent about their mids.
        assert -0.1 * years - 0.005 < np.log(answer.forward / index) < 0.15 * years + 0.005, expiry
        assert answer.spread < 0.01, expiry
