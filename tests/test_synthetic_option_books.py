"""Who holds the options of the synthetic venue: clients a few, market makers hundreds, hedged."""

import polars as pl
import pytest
from scipy.special import ndtr

from marginax.synthetic import Venue, venue
from synthetic_chain import INVERSE, OPTION, UPFRONT, chain_of, dollars, positions_with_terms


@pytest.fixture(scope="module")
def made() -> Venue:
    return venue(accounts=4_000)


@pytest.fixture(scope="module")
def usd(made: Venue) -> dict[str, float]:
    return dollars(made)


@pytest.fixture(scope="module")
def listed(made: Venue) -> pl.DataFrame:
    return chain_of(made)


@pytest.fixture(scope="module")
def book(made: Venue, usd: dict[str, float]) -> pl.DataFrame:
    """Positions with their terms: `notional`, signed, and `counts`, what equity counts, both in USD."""
    joined = positions_with_terms(made, usd)
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


def test_clients_hold_the_same_futures_and_spot_with_and_without_options(made: Venue, accounts: pl.DataFrame) -> None:
    without = venue(accounts=4_000, options=0)
    makers = accounts.filter(pl.col("options") > 99)
    old, new = (
        given.tables["positions"]
        .join(makers, on="account_id", how="anti")
        .join(without.tables["instruments"], on="instrument_id", how="semi", maintain_order="left")
        .select("account_id", "instrument_id", "quantity")
        for given in (without, made)
    )
    assert old.equals(new)


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
