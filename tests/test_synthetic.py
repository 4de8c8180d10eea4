"""The synthetic venue without options: the same for a seed, clean at the door, and shaped like a real one."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from marginax.synthetic import Venue, venue
from synthetic_chain import dollars, positions_with_terms

S, F, T = pl.String(), pl.Float64(), pl.Datetime("us", "UTC")
SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    "instruments": {
        **dict.fromkeys(("instrument_id", "kind", "underlying", "quote", "settlement", "settle_asset"), S),
        **{"multiplier": F, "expiry": T},
    },
    "positions": {"account_id": S, "instrument_id": S, "quantity": F, "entry_price": F},
    "balances": {"account_id": S, "asset": S, "amount": F},
    "quotes": {"instrument_id": S, "mark_price": F, "bid": F, "ask": F, "time": T, "confidence": F},
    "underlyings": {
        **{"underlying": S, "index_price": F, "shock": S, "time": T},
        **dict.fromkeys(("confidence", "rate", "adv", "depth", "spread_bps"), F),
        **{"proxy": S, "proxy_beta": F, "asset_class": S, "open_interest": F},
    },
    "history": {"time": T, "underlying": S, "price": F, "value": F, "factor": S},
}
KEYS = {
    "instruments": ["instrument_id"],
    "positions": ["account_id", "instrument_id"],
    "balances": ["account_id", "asset"],
    "quotes": ["instrument_id"],
    "underlyings": ["underlying"],
    "history": ["time", "underlying", "factor"],
}
SMALL = [
    {"accounts": 1},
    {"accounts": 50},
    {"accounts": 50, "underlyings": 3, "instruments": 1, "bars": 2},
    {"accounts": 200, "underlyings": 5, "instruments": 12, "bars": 60},
    {"accounts": 200, "underlyings": 24, "instruments": 500, "bars": 300},
]


@pytest.fixture(scope="module")
def made() -> Venue:
    return venue(accounts=4_000, options=0)


@pytest.fixture(scope="module")
def usd(made: Venue) -> dict[str, float]:
    return dollars(made)


@pytest.fixture(scope="module")
def book(made: Venue, usd: dict[str, float]) -> pl.DataFrame:
    """Positions with their terms, signed `notional` and `gain` since entry, both in USD."""
    joined = positions_with_terms(made, usd)
    inverse = pl.col("settlement") == "inverse"
    coins = pl.col("size") * (1 / pl.col("entry") - 1 / pl.col("mark_price"))
    return joined.with_columns(
        notional=pl.when(inverse)
        .then(pl.col("size"))
        .otherwise(pl.col("size") * pl.col("mark_price") * pl.col("quote_usd")),
        gain=pl.when(inverse)
        .then(coins * pl.col("coin_usd"))
        .otherwise(pl.col("size") * (pl.col("mark_price") - pl.col("entry")) * pl.col("quote_usd")),
    )


@pytest.fixture(scope="module")
def accounts(made: Venue, usd: dict[str, float], book: pl.DataFrame) -> pl.DataFrame:
    """One row per account with positions: `count`, `gross` and `net` notional, `equity`, all in USD."""
    spot = pl.col("kind") == "spot"
    held = book.group_by("account_id").agg(
        count=pl.len(),
        gross=pl.col("notional").abs().sum(),
        net=pl.col("notional").sum(),
        worth=pl.when(spot).then(pl.col("notional")).otherwise(pl.col("gain")).sum(),
    )
    price = pl.col("asset").replace_strict(usd, return_dtype=pl.Float64)
    cash = made.tables["balances"].group_by("account_id").agg(cash=(pl.col("amount") * price).sum())
    return held.join(cash, on="account_id").with_columns(equity=pl.col("cash") + pl.col("worth"))


@pytest.fixture(scope="module")
def prices(made: Venue) -> pl.DataFrame:
    """Daily closes, one column per underlying, null before its listing."""
    rows = made.tables["history"].filter(pl.col("factor") == "price")
    return rows.pivot("underlying", index="time", values="price").sort("time")


def test_one_seed_gives_one_venue_to_the_last_byte(tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = (tmp_path_factory.mktemp("venue") for _ in range(2))
    for folder in (first, second):
        venue(seed=3, accounts=300, bars=400, options=0).write(folder)
    assert sorted(path.name for path in first.iterdir()) == sorted(f"{name}.parquet" for name in SCHEMAS)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_another_seed_gives_another_history_and_another_book() -> None:
    one, other = (venue(seed=seed, accounts=300, bars=400).tables for seed in (1, 2))
    for name in ("history", "quotes", "positions", "balances"):
        assert not one[name].equals(other[name]), name


def test_the_market_does_not_depend_on_the_number_of_accounts(made: Venue) -> None:
    fewer = venue(accounts=50, options=0)
    for name in ("instruments", "quotes", "history"):
        assert fewer.tables[name].equals(made.tables[name]), name
    without = pl.all().exclude("open_interest")
    assert fewer.tables["underlyings"].select(without).equals(made.tables["underlyings"].select(without))
    assert fewer.stress_windows == made.stress_windows


def test_written_tables_read_back_and_leave_no_partial_files(
    made: Venue, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("new") / "made" / "here"
    made.write(folder)
    made.write(str(folder))  # a second time over the first
    assert len(list(folder.iterdir())) == len(made.tables)
    for name, table in made.tables.items():
        assert pl.read_parquet(folder / f"{name}.parquet").equals(table), name


@pytest.mark.parametrize("sizes", SMALL, ids=str)
def test_small_venues_pass_every_check_at_the_door(sizes: dict[str, int]) -> None:
    check_tables(venue(**sizes, options=0), **sizes)


def test_the_default_venue_passes_every_check_at_the_door(made: Venue) -> None:
    check_tables(made, accounts=4_000)


def check_tables(
    made: Venue, *, accounts: int, underlyings: int = 20, instruments: int = 200, bars: int = 2_001
) -> None:
    """Columns, types, keys, references, finite numbers and signs, as DESIGN section 3 asks for."""
    tables = made.tables
    assert {name: dict(table.schema) for name, table in tables.items()} == SCHEMAS
    for name, key in KEYS.items():
        assert not tables[name].select(key).is_duplicated().any(), name
        for column in tables[name].select(pl.col(pl.Float64)):
            assert column.drop_nulls().is_finite().all(), (name, column.name)
    assert tables["underlyings"].height == underlyings
    assert tables["instruments"].height == tables["quotes"].height == instruments
    assert tables["balances"]["account_id"].n_unique() == accounts
    assert (tables["instruments"]["multiplier"] > 0).all()
    names = [*tables["underlyings"]["underlying"], "USD"]
    for column in ("underlying", "quote", "settle_asset"):
        assert tables["instruments"][column].is_in(names).all()
    assert tables["balances"]["asset"].is_in(names).all()
    assert tables["positions"]["instrument_id"].is_in(tables["instruments"]["instrument_id"].to_list()).all()
    assert tables["positions"]["account_id"].is_in(tables["balances"]["account_id"].to_list()).all()
    assert (tables["positions"]["quantity"] != 0).all()
    assert (tables["positions"]["entry_price"].drop_nulls() > 0).all()
    as_of = datetime(2026, 1, 1, tzinfo=UTC)
    assert tables["quotes"]["time"].max() == as_of
    assert (as_of - tables["quotes"]["time"].min()).total_seconds() <= 60
    dated = tables["instruments"].filter(pl.col("kind") == "future")
    assert dated["expiry"].is_not_null().all()
    assert dated.filter(pl.col("expiry") <= as_of).is_empty()
    assert tables["instruments"]["expiry"].is_not_null().sum() == dated.height
    assert tables["quotes"].filter(~((pl.col("bid") > 0) & (pl.col("bid") < pl.col("ask")))).is_empty()
    between = pl.col("mark_price").is_between("bid", "ask")
    assert tables["quotes"].filter(~between).is_empty()
    history = tables["history"]
    closes = history.filter(pl.col("factor") == "price")
    assert (closes["price"] > 0).all()
    assert closes["value"].null_count() == closes.height
    rest = history.filter(pl.col("factor") == "basis")
    assert closes.height + rest.height == history.height
    assert rest["price"].null_count() == rest.height
    assert rest["value"].null_count() == 0
    assert closes["time"].n_unique() == bars
    assert closes["time"].max() == datetime(2025, 12, 31, tzinfo=UTC)
    last = closes.filter(pl.col("time") == pl.col("time").max())
    joined = tables["underlyings"].join(last, on="underlying")
    assert joined.height == underlyings
    assert (joined["index_price"] == joined["price"]).all()


@pytest.mark.parametrize(("name", "given"), [("accounts", 0), ("underlyings", 2), ("instruments", 0), ("bars", 1)])
def test_a_venue_of_nothing_is_refused_with_what_to_do(name: str, given: int) -> None:
    with pytest.raises(ValueError, match=rf"`{name}={given}`.*Use at least {given + 1}"):
        venue(**{name: given})


def test_every_contract_is_worth_one_to_a_thousand_dollars(book: pl.DataFrame) -> None:
    worth = book.filter(pl.col("kind") != "spot").select(pl.col("notional") / pl.col("quantity")).to_series()
    assert worth.min() >= 1
    assert worth.max() <= 1_000


def test_perpetuals_and_futures_trade_in_whole_contracts_and_sum_to_zero(book: pl.DataFrame) -> None:
    contracts = book.filter(pl.col("kind") != "spot")
    assert (contracts["quantity"] % 1 == 0).all()
    net = contracts.group_by("instrument_id").agg(pl.col("quantity").sum())["quantity"]
    assert (net == 0).all()  # exactly: whole numbers below 2^53


def test_open_interest_is_one_side_of_the_book_in_dollars(made: Venue, book: pl.DataFrame) -> None:
    longs = book.filter((pl.col("kind") != "spot") & (pl.col("quantity") > 0))
    wanted = longs.group_by("underlying").agg(pl.col("notional").sum())
    both = wanted.join(made.tables["underlyings"], on="underlying")
    assert both.height == wanted.height
    np.testing.assert_allclose(both["open_interest"], both["notional"], rtol=1e-7)  # written with 8 digits


def test_inverse_contracts_settle_in_their_coin_and_linear_ones_in_their_quote(made: Venue) -> None:
    terms = made.tables["instruments"]
    inverse = terms.filter(pl.col("settlement") == "inverse")
    assert set(inverse["kind"]) == {"perpetual", "future"}
    assert (inverse["settle_asset"] == inverse["underlying"]).all()
    assert (inverse["quote"] == "USD").all()
    linear = terms.filter(pl.col("settlement") == "linear")
    assert set(linear["kind"]) == {"spot", "perpetual", "future"}
    assert (linear["settle_asset"] == linear["quote"]).all()


def test_marks_stand_near_the_index_and_dated_ones_above_it(made: Venue, usd: dict[str, float]) -> None:
    quoted = made.tables["instruments"].join(made.tables["quotes"], on="instrument_id")
    index, quote = (quoted[c].replace_strict(usd, return_dtype=pl.Float64) for c in ("underlying", "quote"))
    relative = quoted["mark_price"] * quote / index - 1
    dated = quoted["kind"] == "future"
    assert relative.filter(~dated).abs().max() < 0.02
    assert relative.filter(dated).is_between(-0.001, 0.08).all()  # at most 8 % a year, nine months ahead
    assert relative.filter(dated).mean() > 0.005


def test_the_mark_of_a_perpetual_carries_the_last_basis_of_the_history(made: Venue, usd: dict[str, float]) -> None:
    last = made.tables["history"].filter((pl.col("factor") == "basis") & (pl.col("time") == pl.col("time").max()))
    assert last.height == 10  # half of the underlyings
    perpetuals = made.tables["instruments"].filter(pl.col("kind") == "perpetual")
    joined = perpetuals.join(made.tables["quotes"], on="instrument_id").join(last, on="underlying")
    index, quote = (joined[c].replace_strict(usd, return_dtype=pl.Float64) for c in ("underlying", "quote"))
    assert (joined["mark_price"] * quote / index - 1 - joined["value"]).abs().max() < 2e-4  # own noise: 0.3 bp


def test_most_accounts_hold_one_to_three_positions_and_a_few_hold_150(accounts: pl.DataFrame) -> None:
    count = accounts["count"]
    assert 0.6 < (count <= 3).mean() < 0.8
    assert 6 < count.mean() < 10
    assert 5 <= (count >= 150).sum() <= 80
    assert count.max() <= 200


def test_sizes_follow_a_power_law(accounts: pl.DataFrame) -> None:
    gross = accounts["gross"].sort(descending=True)
    assert gross.median() < 10_000
    assert gross.head(len(gross) // 100).sum() > 0.4 * gross.sum()


def test_leverage_runs_from_a_fifth_to_fifteen_with_a_few_accounts_in_trouble(accounts: pl.DataFrame) -> None:
    sound = accounts.filter(pl.col("equity") > pl.col("gross") / 15.01)
    leverage = sound["gross"] / sound["equity"]
    assert 0.01 < 1 - sound.height / accounts.height < 0.05
    assert leverage.min() > 0.15
    assert 1 < leverage.median() < 3
    assert leverage.quantile(0.95) > 4
    assert 0.001 < (accounts["equity"] <= 0).mean() < 0.02


def test_market_makers_carry_the_largest_books_and_almost_no_delta(accounts: pl.DataFrame) -> None:
    makers = accounts.sort("gross", descending=True).head(9)  # 0.15 sqrt(4,000)
    assert (makers["count"] >= 150).all()
    assert (makers["net"].abs() < 0.02 * makers["gross"]).all()
    assert (makers["equity"] > 0).all()


def test_only_market_makers_are_short_of_spot(accounts: pl.DataFrame, book: pl.DataFrame) -> None:
    shorts = book.filter((pl.col("kind") == "spot") & (pl.col("quantity") < 0))
    assert not shorts.is_empty()
    owners = accounts.filter(pl.col("account_id").is_in(shorts["account_id"].to_list()))
    assert (owners["net"].abs() < 0.02 * owners["gross"]).all()


def test_majors_are_the_most_held(book: pl.DataFrame) -> None:
    held = book.group_by("underlying").len().sort("len", descending=True)["underlying"].to_list()
    assert held[:2] == ["BTC", "ETH"]


def test_entries_are_given_for_most_futures_and_never_for_spot(book: pl.DataFrame) -> None:
    spot = pl.col("kind") == "spot"
    assert book.filter(spot)["entry_price"].null_count() == book.filter(spot).height
    futures = book.filter(~spot)
    assert 0.1 < futures["entry_price"].is_null().mean() < 0.2
    assert (futures["entry_price"] / futures["mark_price"] - 1).abs().mean() > 0.01


def test_one_account_in_a_hundred_has_balances_and_no_position(made: Venue, accounts: pl.DataFrame) -> None:
    assert made.tables["balances"]["account_id"].n_unique() - accounts.height == 40


def test_collateral_is_mixed_and_debts_are_in_dollars(made: Venue) -> None:
    balances = made.tables["balances"]
    per_account = balances.group_by("account_id").agg(
        assets=pl.len(), dollars=pl.col("asset").is_in(["USD", "USDT", "USDC"]).all()
    )
    assert per_account["assets"].max() <= 4
    assert 0.4 < per_account["dollars"].mean() < 0.8
    assert {"USD", "USDT", "USDC", "BTC", "ETH"} <= set(balances["asset"])
    debts = balances.filter(pl.col("amount") <= 0)
    assert set(debts["asset"]) == {"USD"}
    assert 0.01 < debts.height / per_account.height < 0.06


def coin_returns(prices: pl.DataFrame) -> np.ndarray:
    """Log returns of the eighteen coins, bars x coins, NaN before the listing."""
    levels = prices.drop("time", "USDT", "USDC").to_numpy()
    return np.diff(np.log(levels), axis=0)


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_the_history_has_four_crashes_and_each_lies_in_its_window(seed: int) -> None:
    made = venue(seed=seed, accounts=1)
    rows = made.tables["history"].filter(pl.col("factor") == "price")
    table = rows.pivot("underlying", index="time", values="price").sort("time")
    market = np.expm1(np.nanmean(coin_returns(table), axis=1))
    days = [time.date() for time in table["time"][1:]]
    crashes = [day for day, move in zip(days, market, strict=True) if move <= -0.16]
    assert market.min() > -0.42
    assert len(crashes) == len(made.stress_windows) == 4
    for day, (name, first, last) in zip(crashes, made.stress_windows, strict=True):
        assert first < day < last
        assert name == f"crash of {day:%Y-%m}"
    after = np.array([any(crash < day <= crash + timedelta(days=20) for crash in crashes) for day in days])
    assert np.std(market[after]) > 1.2 * np.std(market[~after & (market > -0.16)])


def test_returns_have_heavy_tails_clusters_and_a_common_factor(prices: pl.DataFrame) -> None:
    returns = coin_returns(prices)[:, :16]  # those listed from the start
    centred = returns - returns.mean(axis=0)
    kurtosis = (centred**4).mean(axis=0) / centred.var(axis=0) ** 2
    assert (kurtosis > 4.5).all()  # normal returns have 3, give or take 0.1 over 2,000 bars
    size = np.abs(centred[:, 0])
    assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.05  # independent: 0 +- 0.022
    assert np.corrcoef(returns.T)[0, 1:].min() > 0.4
    daily = returns.std(axis=0)
    assert 0.02 < daily.min() < daily.max() < 0.09


def test_no_coin_vanishes_or_explodes(prices: pl.DataFrame) -> None:
    for coin in prices.drop("time"):
        listed = coin.drop_nulls()
        assert (listed / listed[0]).is_between(1 / 50, 50).all(), coin.name


def test_two_coins_list_late_and_every_later_listing_has_a_proxy(made: Venue, prices: pl.DataFrame) -> None:
    bars = {coin.name: prices.height - coin.null_count() for coin in prices.drop("time")}
    assert sorted(bars.values())[:3] == [150, 400, 2_001]
    table = made.tables["underlyings"]
    late = table.filter(pl.col("underlying").is_in([name for name, n in bars.items() if n < 2_001]))
    assert (late["proxy"] == "BTC").all()
    assert late["proxy_beta"].is_between(1.0, 1.6).all()


def test_stablecoins_stay_near_one_and_one_breaks_its_peg_once(prices: pl.DataFrame) -> None:
    for name in ("USDT", "USDC"):
        assert prices[name].is_between(0.85, 1.02).all()
        assert abs(prices[name].median() - 1) < 1e-4
    broken = (prices["USDC"] < 0.97).arg_true()
    assert 1 <= len(broken) <= 3
    assert prices["USDT"].min() > 0.97


def test_the_basis_is_a_few_points_and_widens_in_crashes(made: Venue) -> None:
    basis = made.tables["history"].filter(pl.col("factor") == "basis")
    assert basis["value"].abs().median() < 5e-4
    day = pl.col("time").dt.date()
    windows = [day.is_between(first, first + timedelta(days=4)) for _, first, _ in made.stress_windows]
    crashes = basis.filter(pl.any_horizontal(windows))
    assert crashes["value"].min() < -0.003
    assert crashes["value"].std() > 2 * basis["value"].std()


def test_history_is_daily_without_gaps(prices: pl.DataFrame) -> None:
    assert prices["time"].diff().drop_nulls().dt.total_days().unique().to_list() == [1]
    assert prices["time"][0].date() == date(2020, 7, 10)
