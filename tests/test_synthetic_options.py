"""The options of the synthetic venue: a chain without arbitrage."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from marginax.synthetic import Venue, venue
from marginax.synthetic._market import LAST_BAR, Paths
from marginax.synthetic._options import option_expiries, strike_ladder
from marginax.synthetic._surface import black76, surface_and_history
from marginax.tables.schemas import TABLES
from synthetic_chain import AS_OF, INVERSE, OPTION, UPFRONT, chain_of, dollars

KEY = ["underlying", "expiry", "strike"]
SIZES = [
    {"accounts": 1},
    {"accounts": 20, "underlyings": 3, "instruments": 1, "bars": 2},
    {"accounts": 12, "underlyings": 4, "instruments": 12, "bars": 501, "options": 1, "expiries": 2, "strikes": 3},
    {"accounts": 200, "underlyings": 24, "instruments": 500, "bars": 300, "options": 22, "expiries": 13, "strikes": 11},
    {"accounts": 50, "underlyings": 5, "options": 3, "expiries": 1, "strikes": 1},
]


@pytest.fixture(scope="module")
def made() -> Venue:
    return venue(accounts=4_000)


@pytest.fixture(scope="module")
def without() -> Venue:
    return venue(accounts=4_000, options=0)


@pytest.fixture(scope="module")
def usd(made: Venue) -> dict[str, float]:
    return dollars(made)


@pytest.fixture(scope="module")
def listed(made: Venue) -> pl.DataFrame:
    return chain_of(made)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_small_venues_have_the_columns_of_the_schemas_and_whole_tables(sizes: dict[str, int]) -> None:
    check_tables(venue(**sizes))


def test_the_default_venue_has_the_columns_of_the_schemas_and_whole_tables(made: Venue) -> None:
    check_tables(made)


def check_tables(made: Venue) -> None:
    for name, table in made.tables.items():
        wanted = TABLES[name]
        assert dict(table.schema).items() <= wanted.schema.items(), name
        needed = [column.name for column in wanted.columns if column.required]
        assert sum(table.select(needed).null_count().row(0)) == 0, name
        if wanted.key:
            assert not table.select(wanted.key).is_duplicated().any(), name
        for column in table.select(pl.col(pl.Float64)):
            assert column.drop_nulls().is_finite().all(), (name, column.name)
    chain = chain_of(made)
    assert (chain["mark_price"] > 0).all()
    assert (chain["strike"] > 0).all()
    assert chain["premium"].is_in(["upfront", "futures_style"]).all()
    assert (chain["expiry"] > AS_OF).all()
    settles = chain.select(pl.when(INVERSE).then("underlying").otherwise("quote")).to_series()
    assert (chain["settle_asset"] == settles).all()
    assert (chain["bid"] < chain["ask"]).drop_nulls().all()
    assert (chain["bid"] > 0).drop_nulls().all()
    assert (chain["bid"] <= chain["mark_price"]).drop_nulls().all()
    assert (chain["mark_price"] <= chain["ask"]).all()
    others = made.tables["instruments"].filter(~OPTION)
    assert others.select("strike", "premium").null_count().row(0) == (others.height, others.height)
    names = made.tables["instruments"]["instrument_id"].to_list()
    assert made.tables["quotes"]["instrument_id"].to_list() == names
    positions = made.tables["positions"]
    assert positions["instrument_id"].is_in(names).all()
    assert not positions.select("account_id", "instrument_id").is_duplicated().any()
    assert (positions["quantity"] != 0).all()


def test_one_seed_gives_one_venue_to_the_last_byte(tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = (tmp_path_factory.mktemp("venue") for _ in range(2))
    for folder in (first, second):
        venue(seed=3, accounts=300, bars=400).write(folder)
    assert (first / "forwards.parquet").exists()
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_options_come_on_top_and_move_nothing_else_of_the_market(made: Venue, without: Venue) -> None:
    assert "forwards" not in without.tables
    assert made.stress_windows == without.stress_windows
    for name in ("instruments", "quotes"):
        old = without.tables[name]
        assert made.tables[name].head(old.height).select(old.columns).equals(old), name
    history = made.tables["history"]
    assert history.filter(pl.col("factor") != "implied_vol").equals(without.tables["history"])
    market = pl.all().exclude("open_interest")
    assert made.tables["underlyings"].select(market).equals(without.tables["underlyings"].select(market))


def test_the_market_does_not_depend_on_the_number_of_accounts(made: Venue) -> None:
    fewer = venue(accounts=50)
    for name in ("instruments", "quotes", "forwards", "history"):
        assert fewer.tables[name].equals(made.tables[name]), name


def test_half_of_the_underlyings_have_ten_expiries_of_five_to_nine_strikes(made: Venue, listed: pl.DataFrame) -> None:
    liquid = made.tables["underlyings"]["underlying"].head(10).to_list()
    assert listed["underlying"].unique(maintain_order=True).to_list() == liquid
    assert 1_200 <= listed.height <= 1_800
    ladder = listed.group_by("underlying", "expiry").agg(strikes=pl.col("strike").n_unique(), options=pl.len())
    assert ladder.height == 100
    assert ladder["strikes"].is_between(5, 9).all()
    assert (ladder["options"] == 2 * ladder["strikes"]).all()
    due = listed["expiry"].unique().sort()
    assert due[0] == datetime(2026, 1, 2, 8, tzinfo=UTC)
    assert (due.dt.weekday() == 5).all()
    assert (due.dt.hour() == 8).all()
    dated = made.tables["instruments"].filter(pl.col("kind") == "future")["expiry"].unique()
    assert due.is_in(dated.to_list()).sum() >= 5


def test_strikes_are_round_and_the_ladder_widens_with_the_root_of_time(listed: pl.DataFrame) -> None:
    digits = listed["strike"].map_elements(lambda strike: len(f"{strike:.12g}".replace(".", "").strip("0")), pl.Int64)
    assert digits.max() <= 3
    low, high, forward = pl.col("strike").min(), pl.col("strike").max(), pl.col("forward").first()
    later = listed.filter(pl.col("years") > 10 / 365).group_by("underlying", "years")
    width = later.agg(
        width=(high / low).log() / pl.col("years").first() ** 0.5, around=(low < forward) & (forward < high)
    )
    assert width["around"].all()
    spread = width.group_by("underlying").agg(ratio=pl.col("width").max() / pl.col("width").min())
    assert spread["ratio"].max() < 1.5  # rounded strikes and a term structure within a fifth of its mean


def test_a_ladder_has_as_many_different_strikes_as_asked_for() -> None:
    for forward in (0.00123, 1.7, 97_650.0):
        for deviation in (0.005, 0.1, 1.2):
            for number in (1, 2, 5, 12):
                ladder = strike_ladder(forward, deviation, number, 1.5)
                assert len(ladder) == number
                assert ladder[0] > 0
                assert (np.diff(ladder) > 0).all()


def test_expiries_are_sorted_and_the_nearest_is_always_listed() -> None:
    for number in (1, 2, 10, 30):
        due = option_expiries(number)
        assert len(set(due)) == number
        assert due == sorted(due)
        assert due[0] == datetime(2026, 1, 2).date()


def test_coins_settle_some_options_and_two_underlyings_are_margined_like_futures(listed: pl.DataFrame) -> None:
    inverse = listed.filter(INVERSE)
    assert inverse["underlying"].unique(maintain_order=True).to_list() == ["BTC", "ETH"]
    assert (inverse["settle_asset"] == inverse["underlying"]).all()
    assert (inverse["quote"] == "USD").all()
    assert (inverse["premium"] == "upfront").all()
    linear = listed.filter(~INVERSE)
    assert set(linear["quote"]) == {"USDT", "USDC"}
    assert listed.filter(~UPFRONT)["underlying"].n_unique() == 2


def test_marks_are_black_76_at_the_volatility_shown(listed: pl.DataFrame) -> None:
    shown = listed.filter(pl.col("implied_vol").is_not_null())
    forward, strike, sigma, years = (shown[c].to_numpy() for c in ("forward", "strike", "implied_vol", "years"))
    root = sigma * np.sqrt(years)
    d1 = np.log(forward / strike) / root + root / 2
    sign = np.where(shown["kind"] == "call", 1.0, -1.0)
    value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - root)))
    # Forwards and marks are published with 8 digits, each off by 5e-8 of itself at most, and discounts by 5e-9.
    error = np.abs(shown["mark_price"].to_numpy() - shown["per_value"].to_numpy() * value)
    assert (error < 1.1e-7 * shown["per_value"].to_numpy() * np.maximum(forward, value)).all()
    assert (np.round(sigma, 4) == sigma).all()


def test_calls_and_puts_of_one_strike_agree_on_the_forward(listed: pl.DataFrame) -> None:
    calls, puts = (listed.filter(pl.col("kind") == kind) for kind in ("call", "put"))
    pairs = calls.join(puts.select(*KEY, put="mark_price"), on=KEY)
    assert pairs.height * 2 == listed.height
    parity = pairs["per_value"] * (pairs["forward"] - pairs["strike"])
    size = pairs["per_value"] * (pairs["forward"] + pairs["strike"])
    # Forwards and both marks are published with 8 digits, each off by 5e-8 of itself at most.
    assert ((pairs["mark_price"] - pairs["put"] - parity).abs() < 1.1e-7 * size).all()


def test_forwards_are_those_of_the_dated_futures(made: Venue, usd: dict[str, float]) -> None:
    forwards = made.tables["forwards"]
    assert (forwards["time"] == AS_OF).all()
    assert forwards["underlying"].n_unique() == 8  # two are left to parity
    futures = (
        made.tables["instruments"].filter(pl.col("kind") == "future").join(made.tables["quotes"], on="instrument_id")
    )
    joined = futures.join(forwards, on=["underlying", "expiry"])
    assert joined.height > 40
    mark = joined["mark_price"] * joined["quote"].replace_strict(usd, return_dtype=pl.Float64)
    assert (mark / joined["forward"] - 1).abs().max() < 2e-4  # own noise: 0.3 bp
    index = joined["underlying"].replace_strict(usd, return_dtype=pl.Float64)
    assert (joined["forward"] * joined["discount"] / index - 1).abs().max() < 6e-8  # of 8 digits


def test_a_few_pairs_have_no_volatility_and_worthless_options_no_bid(listed: pl.DataFrame) -> None:
    assert 1 / 100 < listed["implied_vol"].is_null().mean() < 1 / 20
    unbid = listed.filter(pl.col("bid").is_null())
    assert 0 < unbid.height < 50
    assert (unbid["mark_price"] < unbid["ask"]).all()
    assert (unbid["mark_price"] * unbid["per_value"].pow(-1) < 1e-3 * unbid["forward"]).all()


def test_volatility_levels_rise_from_the_major_to_the_small_coins(listed: pl.DataFrame) -> None:
    nearest = listed.filter(pl.col("expiry").dt.date() == datetime(2026, 1, 30).date())
    level = (
        nearest.sort((pl.col("strike") / pl.col("forward")).log().abs())
        .group_by("underlying", maintain_order=True)
        .agg(pl.col("implied_vol").drop_nulls().first())
    )
    at_the_money = dict(level.iter_rows())
    assert 0.38 < at_the_money["BTC"] < 0.55
    assert at_the_money["BTC"] < at_the_money["ETH"] < at_the_money["SOL"] < 1.0
    assert 0.9 < at_the_money["LTC"] < 1.3


def test_marks_admit_no_butterfly(listed: pl.DataFrame) -> None:
    """Calls fall in the strike, by no more than it rises, and are convex; up to the rounding of the volatility."""
    for _, calls in listed.filter(pl.col("kind") == "call").sort("strike").group_by("underlying", "expiry"):
        value, strike = (calls["mark_price"] / calls["per_value"]).to_numpy(), calls["strike"].to_numpy()
        slope = np.diff(value) / np.diff(strike)
        # Volatilities are rounded by 0.00005 at most; vega is at most 0.4 F sqrt(T).
        rounding = 2 * 0.00005 * 0.4 * calls["forward"][0] * calls["years"][0] ** 0.5 / np.diff(strike).min()
        assert (slope < rounding).all()
        assert (slope > -1 - rounding).all()
        assert (np.diff(slope) > -2 * rounding).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_surface_admits_no_butterfly_and_no_calendar_spread(seed: int) -> None:
    """The exact surface: densities are positive, and total variance at a given moneyness never falls with time."""
    flat = np.ones((30, 12))
    paths = Paths(flat, flat, flat[0], [10], flat[:, 0])
    surface, _ = surface_and_history(np.random.default_rng(seed), paths, 10)
    for coin in range(10):
        spread = np.linspace(-1.0, 1.0, 201)
        variances = []
        for years in (1.33 / 365, 8 / 365, 0.08, 0.25, 1.0):
            moneyness = 4 * surface.level[coin] * years**0.5 * spread
            deviation = np.sqrt(surface.total_variance(coin, moneyness, years))
            strike = np.exp(moneyness)
            calls = black76(np.ones(201), strike, deviation, np.ones(201, bool))
            slope = np.diff(calls) / np.diff(strike)
            assert (np.diff(slope) > -1e-9).all()
            assert ((slope < 0) & (slope > -1)).all()
            variances.append(surface.total_variance(coin, spread, years))
        assert (np.diff(variances, axis=0) > 0).all()


def test_the_volatility_history_ends_today_jumps_in_crashes_and_falls_when_prices_rise(made: Venue) -> None:
    rows = made.tables["history"].filter(pl.col("factor") == "implied_vol")
    assert rows["price"].null_count() == rows.height
    assert rows["underlying"].n_unique() == 8  # two have none
    assert rows["value"].is_between(0.1, 4.0).all()
    wide = rows.pivot("underlying", index="time", values="value").sort("time")
    assert wide.height == 2_001
    assert wide["time"][-1].date() == LAST_BAR
    closes = (
        made.tables["history"].filter(pl.col("factor") == "price").pivot("underlying", index="time", values="price")
    )
    crash_days = [first for _, first, _ in made.stress_windows]
    for name in wide.columns[1:]:
        moves, returns = (np.diff(np.log(table[name].to_numpy())) for table in (wide, closes.sort("time")))
        assert -0.8 < np.corrcoef(moves, returns)[0, 1] < -0.2, name
        assert 0.02 < moves.std() < 0.10, name
        for first in crash_days:  # windows open two days before the fall
            day = (wide["time"].dt.date() == first).arg_true()[0]
            assert wide[name][day + 2] > 1.2 * wide[name][day + 1], name
        assert wide[name][-1] > 0.3 * wide[name].mean()


@pytest.mark.parametrize(("name", "given", "least"), [("options", -1, 0), ("expiries", 0, 1), ("strikes", 0, 1)])
def test_a_chain_of_nothing_is_refused_with_what_to_do(name: str, given: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"`{name}={given}`.*Use at least {least}"):
        venue(**{name: given})


def test_options_on_more_coins_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`options=19` is more than the 18 coins.*Use at most 18"):
        venue(options=19)
