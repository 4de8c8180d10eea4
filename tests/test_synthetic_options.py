"""The options of the synthetic venue: a chain without arbitrage, and who holds it."""

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

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
OPTION = pl.col("kind").is_in(["call", "put"])
INVERSE = pl.col("settlement") == "inverse"
UPFRONT = pl.col("premium") == "upfront"
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


@pytest.fixture(scope="module")
def book(made: Venue, usd: dict[str, float]) -> pl.DataFrame:
    """Positions with their terms: `notional`, signed, and `counts`, what equity counts, both in USD."""
    joined = (
        made.tables["positions"]
        .join(made.tables["instruments"], on="instrument_id")
        .join(made.tables["quotes"], on="instrument_id")
        .with_columns(
            quote_usd=pl.col("quote").replace_strict(usd, return_dtype=pl.Float64),
            coin_usd=pl.col("underlying").replace_strict(usd, return_dtype=pl.Float64),
            entry=pl.col("entry_price").fill_null(pl.col("mark_price")),
            size=pl.col("quantity") * pl.col("multiplier"),
        )
    )
    mark, entry, size = pl.col("mark_price"), pl.col("entry"), pl.col("size")
    owned = (pl.col("kind") == "spot") | (OPTION & UPFRONT)
    money = pl.when(INVERSE).then(pl.col("coin_usd")).otherwise(pl.col("quote_usd"))
    gain = pl.when(INVERSE).then(1 / entry - 1 / mark).otherwise(mark - entry)
    worth = pl.when(INVERSE & ~OPTION).then(1.0).otherwise(mark * pl.col("quote_usd"))
    return joined.with_columns(
        notional=size * pl.when(OPTION).then(pl.col("coin_usd")).otherwise(worth),
        counts=size * money * pl.when(owned).then(mark).otherwise(gain),
    )


@pytest.fixture(scope="module")
def accounts(made: Venue, usd: dict[str, float], book: pl.DataFrame) -> pl.DataFrame:
    """One row per account with positions; money in USD, `options` counts them."""
    short = OPTION & (pl.col("quantity") < 0)
    held = book.group_by("account_id").agg(
        options=OPTION.sum(),
        gross=pl.col("notional").filter(~OPTION).abs().sum(),
        short=pl.col("notional").filter(short).abs().sum(),
        counts=pl.col("counts").sum(),
    )
    price = pl.col("asset").replace_strict(usd, return_dtype=pl.Float64)
    cash = made.tables["balances"].group_by("account_id").agg(cash=(pl.col("amount") * price).sum())
    return held.join(cash, on="account_id").with_columns(equity=pl.col("cash") + pl.col("counts"))


def dollars(made: Venue) -> dict[str, float]:
    return dict(made.tables["underlyings"].select("underlying", "index_price").iter_rows()) | {"USD": 1.0}


def chain_of(made: Venue) -> pl.DataFrame:
    """The options with their quotes; `years`, and forward and discount as carried at the underlying's rate."""
    usd, rate = dollars(made), pl.col("rate") * pl.col("years")
    terms = made.tables["instruments"].filter(OPTION).join(made.tables["quotes"], on="instrument_id")
    return (
        terms.join(made.tables["underlyings"].select("underlying", "index_price", "rate"), on="underlying")
        .with_columns(years=(pl.col("expiry") - AS_OF).dt.total_seconds() / (365 * 86_400))
        .with_columns(
            forward=pl.col("index_price") * rate.exp() / pl.col("quote").replace_strict(usd, return_dtype=pl.Float64),
            discount=(-rate).exp(),
        )
        .with_columns(
            per_value=pl.when(INVERSE).then(1 / pl.col("forward")).when(UPFRONT).then("discount").otherwise(1)
        )
    )


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


def test_clients_hold_the_same_futures_and_spot_with_and_without_options(
    made: Venue, without: Venue, accounts: pl.DataFrame
) -> None:
    makers = accounts.filter(pl.col("options") > 99)
    old, new = (
        given.tables["positions"]
        .join(makers, on="account_id", how="anti")
        .join(without.tables["instruments"], on="instrument_id", how="semi", maintain_order="left")
        .select("account_id", "instrument_id", "quantity")
        for given in (without, made)
    )
    assert old.equals(new)


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


def test_options_trade_in_whole_contracts_and_sum_to_zero(book: pl.DataFrame) -> None:
    held = book.filter(pl.col("kind") != "spot")
    assert (held["quantity"] % 1 == 0).all()
    assert (held.group_by("instrument_id").agg(pl.col("quantity").sum())["quantity"] == 0).all()
    assert book.filter(OPTION)["instrument_id"].n_unique() > 1_000


def test_a_sixth_of_the_clients_hold_a_few_options_and_the_makers_hundreds(accounts: pl.DataFrame) -> None:
    makers, clients = (accounts.filter(pl.col("options").is_between(*bounds)) for bounds in ((100, 2_000), (0, 99)))
    assert makers.height == 9  # 0.15 sqrt(4,000)
    assert (makers["options"] > 200).all()
    holders = clients.filter(pl.col("options") > 0)
    assert 0.15 < holders.height / clients.height < 0.20
    assert holders["options"].max() <= 6
    assert 0.3 < (holders["short"] > 0).mean() < 0.7


def test_clients_buy_and_write_calls_and_puts(book: pl.DataFrame, accounts: pl.DataFrame) -> None:
    clients = accounts.filter(pl.col("options").is_between(1, 99))
    held = book.filter(OPTION).join(clients, on="account_id", how="semi")
    for kind in ("call", "put"):
        for side in (1, -1):
            of_kind = held.filter((pl.col("kind") == kind) & (pl.col("quantity").sign() == side))
            assert of_kind.height > 50, (kind, side)
    assert held["underlying"].n_unique() == 10


def test_accounts_with_options_are_as_sound_as_the_others(accounts: pl.DataFrame) -> None:
    holders, others = (accounts.filter(has) for has in (pl.col("options") > 0, pl.col("options") == 0))
    assert (holders["equity"] <= 0).mean() < 0.02
    assert (others["equity"] <= 0).mean() < 0.02
    sound = holders.filter(pl.col("equity") > (pl.col("gross") + pl.col("short")) / 15.01)
    assert 1 - sound.height / holders.height < 0.05
    leverage = (sound["gross"] + sound["short"]) / sound["equity"]
    assert 1 < leverage.median() < 3


def test_market_makers_hedge_the_delta_of_their_options(
    book: pl.DataFrame, accounts: pl.DataFrame, listed: pl.DataFrame
) -> None:
    sigma = listed.select(pl.col("implied_vol").fill_null(pl.col("implied_vol").mean().over("underlying"))).to_series()
    root = sigma * listed["years"].sqrt()
    d1 = (listed["forward"] / listed["strike"]).log() / root + root / 2
    probability = pl.Series("delta", ndtr(d1.to_numpy()))
    delta = listed.select("instrument_id", probability - (pl.col("kind") == "put").cast(pl.Float64))
    makers = book.join(accounts.filter(pl.col("options") > 99), on="account_id", how="semi")
    exposed = makers.join(delta, on="instrument_id", how="left").with_columns(
        exposure=pl.col("notional") * pl.col("delta").fill_null(1.0)
    )
    by_maker = exposed.group_by("account_id").agg(
        net=pl.col("exposure").sum(),
        options=pl.col("exposure").filter(OPTION).sum(),
        gross=pl.col("exposure").abs().sum(),
    )
    assert (by_maker["net"].abs() < 0.02 * by_maker["gross"]).all()


def test_premiums_paid_have_no_entry_and_options_like_futures_have_one(book: pl.DataFrame) -> None:
    options = book.filter(OPTION)
    assert options.filter(UPFRONT)["entry_price"].null_count() == options.filter(UPFRONT).height
    like_futures = options.filter(~UPFRONT)
    assert like_futures.height > 100
    assert like_futures["entry_price"].null_count() == 0
    assert 0.05 < (like_futures["entry_price"] / like_futures["mark_price"]).log().std() < 0.3


def test_an_example_of_a_few_options_has_somebody_holding_them() -> None:
    small = venue(seed=7, accounts=12, underlyings=4, instruments=12, bars=501, options=1, expiries=2, strikes=3)
    options = small.tables["instruments"].filter(OPTION)
    assert options.height == 12
    assert small.tables["forwards"].height == 2
    held = small.tables["positions"].join(options, on="instrument_id", how="semi")
    assert 1 <= held["account_id"].n_unique() <= 4


@pytest.mark.parametrize(("name", "given", "least"), [("options", -1, 0), ("expiries", 0, 1), ("strikes", 0, 1)])
def test_a_chain_of_nothing_is_refused_with_what_to_do(name: str, given: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"`{name}={given}`.*Use at least {least}"):
        venue(**{name: given})


def test_options_on_more_coins_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`options=19` is more than the 18 coins.*Use at most 18"):
        venue(options=19)
