"""Laws of the figures of a venue: quantiles, the fund, concentration, margins that follow open interest, the score."""

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import marginax as mx
from marginax.config import parse_config
from marginax.venue import risk_score
from marginax.venue.concentration import Concentration
from marginax.venue.greeks import Contracts
from marginax.venue.limits import scaled_fraction
from marginax.venue.losses import against_fund, distribution, loss_at, probability_beyond, tail_mean
from marginax.venue.positions import Positions
from marginax.venue.score import over, score_notes
from marginax.venue_sections import SCALES, Venue
from reference import tail as twin
from reference import venue as venue_twin

AMOUNTS = st.floats(0, 1e9)
LOSSES = st.lists(st.tuples(AMOUNTS, st.integers(0, 20)), min_size=1, max_size=30).filter(
    lambda rows: any(weight for _, weight in rows)
)


def sample(rows: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    losses, weights = np.array(rows, float).T
    return losses, weights / weights.sum()


@given(rows=LOSSES, tail=st.sampled_from([0.001, 0.01, 0.05, 0.5]))
def test_losses_at_a_tail_are_those_of_sorting(rows: list[tuple[float, int]], tail: float) -> None:
    losses, weights = sample(rows)
    assert loss_at(losses, weights, tail=tail) == twin.value_at_risk(losses, weights, tail=tail)
    # Both are sums of products of at most 30 terms in float64, divided by the tail.
    wanted = twin.expected_shortfall(losses, weights, tail=tail)
    assert tail_mean(losses, weights, tail=tail) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(rows=LOSSES, fund=AMOUNTS, more=AMOUNTS)
def test_a_larger_fund_is_exhausted_less_often_and_leaves_less(
    rows: list[tuple[float, int]], fund: float, more: float
) -> None:
    losses, weights = sample(rows)
    small, large = (against_fund(losses, weights, each, tail=0.01) for each in (fund, fund + more))
    assert large["exhaustion_probability"] <= small["exhaustion_probability"] <= 1
    assert small["exhaustion_probability"] == pytest.approx(twin.exceedance_probability(losses, weights, fund))
    for name in ("mean", "tail_mean", "worst"):
        assert large["beyond_fund"][name] <= small["beyond_fund"][name] * (1 + 1e-9) + 1e-9
    # What the fund pays and what it does not pay is all.
    paid = np.minimum(losses, fund) @ weights
    assert small["expected"] == pytest.approx(paid + small["beyond_fund"]["mean"], rel=1e-9, abs=1e-9)


@given(rows=LOSSES)
def test_quantiles_rise_with_their_probability_and_lie_below_the_worst(rows: list[tuple[float, int]]) -> None:
    losses, weights = sample(rows)
    labels = tuple(f"day {k}" for k in range(len(losses)))
    told = distribution(losses, weights, labels, tail=0.01, quantiles=(0.5, 0.9, 0.99))
    quantiles = list(told["quantiles"].values())
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] == told["at_tail"] <= told["tail_mean"] * (1 + 1e-12)
    assert told["worst"] == losses.max() == losses[labels.index(told["worst_scenario"])]
    assert told["probability"] == pytest.approx(weights[losses > 0].sum())


def test_what_has_no_mass_is_in_the_worst_loss_alone() -> None:
    losses, weights = np.array([1.0, 2.0, np.inf, 900.0]), np.array([0.5, 0.5, 0.0, 0.0])
    told = distribution(losses[[0, 1, 3]], weights[[0, 1, 3]], ("a", "b", "crash"), tail=0.01, quantiles=(0.99,))
    assert (told["mean"], told["at_tail"], told["tail_mean"]) == (1.5, 2.0, 2.0)
    assert (told["worst"], told["worst_scenario"]) == (900.0, "crash")
    assert against_fund(losses, weights, 0.0, tail=0.01)["expected"] == 1.5
    assert distribution(losses, weights, ("a", "b", "c", "d"), tail=0.01, quantiles=())["worst"] is None
    assert probability_beyond(losses, weights, 1.0) == 0.5


# ---- margins that follow open interest ----


@given(base=st.floats(0.001, 1), lower=AMOUNTS, width=st.floats(1, 1e9), interest=AMOUNTS, more=AMOUNTS)
def test_the_fraction_rises_with_open_interest_between_its_caps(
    base: float, lower: float, width: float, interest: float, more: float
) -> None:
    at = [0.0, interest, interest + more, lower, lower + width / 2, lower + width, lower + 2 * width]
    caps = np.full(len(at), lower), np.full(len(at), lower + width)
    found = scaled_fraction(np.array(at), *caps, base=base)
    wanted = [venue_twin.scaled_fraction(each, lower, lower + width, base) for each in at]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert base == found[0] <= found[1] <= found[2] <= 1
    assert found[3] == base
    # Half way up it is half way to one: 60 % from 20 %.
    assert found[4] == pytest.approx((1 + base) / 2, rel=1e-6)
    assert found[5] == found[6] == pytest.approx(1, rel=1e-12)


def test_an_upper_cap_of_zero_switches_the_rise_off() -> None:
    off = np.zeros(2)
    assert scaled_fraction(np.array([0.0, 1e12]), off, off, base=0.05).tolist() == [0.05, 0.05]


# ---- the score ----

COMPONENTS = st.fixed_dictionaries({name: st.floats(0, 1e6) for name in SCALES})


@given(components=COMPONENTS, name=st.sampled_from(list(SCALES)), more=st.floats(0.01, 1e3))
def test_the_score_rises_when_any_component_does(components: Mapping[str, float], name: str, more: float) -> None:
    before, after = (risk_score(each, Venue()) for each in (components, {**components, name: components[name] + more}))
    assert 0 <= before < 1
    assert before <= after < 1
    # x / (1 + x) is strictly greater unless both round to one number: their distance is dx / (1 + x)^2.
    x = sum(components[each] / SCALES[each] for each in SCALES)
    if more / SCALES[name] / (1 + x) ** 2 > 1e-12:
        assert before < after
    assert before == pytest.approx(venue_twin.score(components, SCALES), rel=1e-12)


@given(components=COMPONENTS, name=st.sampled_from(list(SCALES)))
def test_a_component_at_its_scale_alone_makes_a_half_and_one_without_weight_counts_nothing(
    components: Mapping[str, float], name: str
) -> None:
    nothing = dict.fromkeys(SCALES, 0.0)
    assert risk_score(nothing, Venue()) == 0
    assert risk_score({**nothing, name: SCALES[name]}, Venue()) == 0.5
    assert risk_score({**nothing, name: 3.0}, Venue(scales={name: 3.0})) == 0.5
    left_out = Venue(weights={name: 0.0})
    assert risk_score({**components, name: np.inf}, left_out) == risk_score({**components, name: 0.0}, left_out)
    assert risk_score({**components, name: np.inf}, Venue()) == np.nextafter(1, 0)


def test_shares_of_the_components_sum_to_all_of_it() -> None:
    components = {name: scale * k for k, (name, scale) in enumerate(SCALES.items())}
    told = score_notes(components, Venue())
    assert sum(each["share"] for each in told["components"].values()) == pytest.approx(1)
    assert told["components"]["open_interest"]["share"] == 0
    unknown = score_notes({**components, "exhaustion": np.inf}, Venue())
    assert unknown["components"]["exhaustion"]["value"] is None


def test_what_nobody_knows_or_nothing_covers_is_infinitely_much() -> None:
    assert over(2.0, 4.0) == 0.5
    assert over(0.0, 0.0) == 0.0
    assert over(1.0, 0.0) == over(np.nan, 4.0) == np.inf


# ---- concentration ----


def concentration(rows: list[tuple[int, int, float]], *, keep: int = 2) -> Concentration:
    """Of (account, instrument, contracts): two instruments of one underlying and one of another, a unit worth 2."""
    account, instrument, amount = (np.array(each) for each in zip(*rows, strict=True))
    flags = np.zeros(len(rows), bool)
    ones = np.ones(3)
    per = Contracts(np.ones(3, bool), ones, 2 * ones, ones, {}, ones)
    held = Positions(account, account, instrument, amount.astype(float), flags, flags, ones, 0, 0)
    ids = np.array([f"account {k}" for k in range(9)], object)
    return Concentration.of(ids, np.array(["BTC", "BTC", "ETH"], object), held, per, keep=keep)


ROWS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 2), st.integers(-50, 50).filter(bool)), min_size=1, max_size=25
)


@given(rows=ROWS)
def test_concentration_is_that_of_loops(rows: list[tuple[int, int, int]]) -> None:
    shares = concentration([(*row[:2], float(row[2])) for row in rows]).shares()
    names = ["BTC", "BTC", "ETH"]
    instruments = {
        str(k): {"underlying": name, "kind": "future", "units": 1, "price": 2} for k, name in enumerate(names)
    }
    positions = [(account, f"account {account}", str(at), amount) for account, at, amount in rows]
    for row in shares.iter_rows(named=True):
        amounts = venue_twin.by_account(positions, instruments, row["underlying"], row["side"])
        wanted = venue_twin.shares(amounts)
        assert row["herfindahl"] == pytest.approx(wanted["herfindahl"], rel=1e-12)
        assert row["largest_share"] == pytest.approx(wanted["largest_share"], rel=1e-12)
        assert amounts[row["largest"]] == max(amounts.values())
        assert row["accounts"] == len(amounts)
        two = sum(sorted(amounts.values())[-2:])
        assert row["few_share"] == pytest.approx(two / sum(amounts.values()), rel=1e-12)
        assert 1 / row["accounts"] <= row["herfindahl"] * (1 + 1e-12)
        assert row["herfindahl"] <= row["largest_share"] * (1 + 1e-12)
    assert shares.height == len({(row["underlying"], row["side"]) for row in shares.iter_rows(named=True)})


@given(rows=ROWS, cut=st.integers(1, 8))
def test_books_without_a_common_account_add_up(rows: list[tuple[int, int, int]], cut: int) -> None:
    low, high = ([row for row in rows if (row[0] < cut) == below] for below in (True, False))
    assume(low and high)
    # Whole amounts: their sums are exact in any order.
    both, whole = concentration(low) + concentration(high), concentration(rows)
    order = ["underlying", "side"]
    assert both.shares().sort(order).equals(whole.shares().sort(order))
    assert both.net.equals(whole.net)


@pytest.mark.parametrize("amount", [1e200, 1e305, 1e308])
def test_an_amount_whose_square_is_beyond_float64_counts_as_all(amount: float) -> None:
    shares = concentration([(0, 0, amount), (1, 0, amount), (2, 1, -3.0)]).shares()
    row = {side: shares.row(by_predicate=pl.col("side") == side, named=True) for side in ("long", "short")}
    assert row["long"]["herfindahl"] == 1.0
    assert row["short"]["herfindahl"] == 1.0
    assert row["long"]["largest_share"] == (1.0 if amount == 1e308 else 0.5)


def test_equal_accounts_have_the_least_herfindahl_and_one_alone_the_most() -> None:
    shares = concentration([(k, 0, 3.0) for k in range(4)] + [(8, 0, -12.0)]).shares()
    row = {side: shares.row(by_predicate=pl.col("side") == side, named=True) for side in ("long", "short", "gross")}
    assert (row["long"]["herfindahl"], row["long"]["largest"], row["long"]["few_share"]) == (0.25, "account 0", 0.5)
    assert (row["short"]["herfindahl"], row["short"]["largest_share"]) == (1.0, 1.0)
    assert row["gross"]["underlying"] is None
    assert row["gross"]["herfindahl"] == pytest.approx(0.25 + 4 / 64)


# ---- the section ----


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"insurance_fund": -1.0}, r"venue\.insurance_fund"),
        ({"tail": 1.0}, r"venue\.tail"),
        ({"quantiles": [0.9, 0.5]}, "`quantiles` does not rise"),
        ({"quantiles": [0.0, 0.5]}, "between 0 and 1"),
        ({"ratio_bands": [1.0, 1.0]}, "`ratio_bands` does not rise"),
        ({"lower": 2.0, "upper": 1.0}, "`lower` 2 is not below `upper` 1"),
        ({"lower": 2.0}, "0 and 0 switch the rise off"),
        ({"caps": {"BTC": [3.0, 2.0]}}, "of BTC is not below"),
        ({"weights": {"exhaution": 1.0}}, "did you mean `exhaustion`"),
        ({"scales": {"exhaustion": 0.0}}, "give a number above zero"),
        ({"weights": {"exhaustion": -1.0}}, "give a number above zero"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_with_what_to_do(values: dict[str, object], said: str) -> None:
    with pytest.raises(mx.BadInput, match=said):
        parse_config({"venue": values}, "test")


def test_caps_of_an_underlying_come_before_those_of_all() -> None:
    found = parse_config({"venue": {"lower": 1.0, "upper": 2.0, "caps": {"BTC": [5.0, 7.0]}}}, "test").venue
    assert found.caps_of("BTC") == (5.0, 7.0)
    assert found.caps_of("ETH") == (1.0, 2.0)
