"""The example of the real accounts: every account gets a margin, and a status that says what the margin rests on.

What is expected is read from the same files, so that another copy of them, of a later day or other accounts, is tested
as it is. The margins are computed once.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

import marginax as mx

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
FOLDERS = [SHARED / "data" / name for name in ("liquidations_accounts", "crypto_daily")]

pytestmark = pytest.mark.skipif(
    not all(folder.is_dir() for folder in FOLDERS),
    reason=f"the shared data is not in {SHARED}; name its folder with MARGINAX_SHARED",
)

# A product in float32 is right to 6e-8 of its terms; two hundred of them, partly hedged, stay within this of their sum.
FLOAT32 = 1e-5


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_accounts", ROOT / "docs" / "examples" / "real_accounts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Margined:
    """The files, the tables the example makes of them, and what the engine answers."""

    accounts: pl.DataFrame
    positions: pl.DataFrame
    coins: pl.DataFrame
    tables: dict[str, pl.DataFrame]
    book: mx.Book
    market: mx.Market
    result: mx.Result

    @property
    def margins(self) -> pl.DataFrame:
        """The rows of the venue's own accounts."""
        return self.result.margins.join(self.accounts, left_on="account_id", right_on="account", how="semi")

    @property
    def owing(self) -> pl.DataFrame:
        """The rows of the accounts with positions, with their gross notional and whether they are long only."""
        held = self.positions.group_by(account_id="account").agg(
            gross=pl.col("position_value_usd").sum(), long_only=(pl.col("side") == "Long").all()
        )
        return self.margins.join(held, on="account_id")


@pytest.fixture(scope="session")
def example() -> ModuleType:
    return _load()


@pytest.fixture(scope="session")
def margined(example: ModuleType) -> Margined:
    """One run over the venue's accounts and, beside them, those that hold BTC in place of coins without history."""
    accounts, positions = example.holdings(SHARED)
    tables = {**example.book_and_prices(accounts, positions), "history": example.closes(SHARED)}
    market = mx.read_market(quotes=tables["quotes"], underlyings=tables["underlyings"], history=tables["history"])
    coins = _coins(positions, tables["history"], market.as_of)
    held = pl.concat([tables["positions"], _in_btc(positions, coins, tables)], how="diagonal")
    book = mx.read_book(instruments=tables["instruments"], positions=held, balances=tables["balances"])
    return Margined(accounts, positions, coins, tables, book, market, mx.margin_book(book, market, seed=7))


def _coins(positions: pl.DataFrame, history: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Of each underlying held: when its closes end, whether they are enough to stand on, whether they are old."""
    rules = mx.load_config().scenarios
    closes = history.group_by("underlying").agg(pl.len().alias("closes"), last=pl.col("time").max())
    known = positions.select(pl.col("underlying").unique()).join(closes, on="underlying", how="left")
    age = pl.lit(as_of.replace(tzinfo=None)) - pl.col("last")
    fresh = age <= timedelta(days=rules.unusable_after_days)
    return known.with_columns(
        # n closes make n - 1 returns.
        own=(fresh & (pl.col("closes") > rules.least_bars)).fill_null(False),
        old=(age > timedelta(days=rules.stale_after_days)).fill_null(False),
    )


def _in_btc(positions: pl.DataFrame, coins: pl.DataFrame, tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Accounts on one side of the market, their coins without history exchanged for BTC of the same value."""
    rows = positions.join(coins, on="underlying").filter(
        pl.col("side").n_unique().over("account") == 1, (~pl.col("own")).any().over("account")
    )
    btc = tables["quotes"].filter(instrument_id="BTC-PERP")["mark_price"].item()
    return rows.select(
        instrument_id=pl.when("own").then("instrument_id").otherwise(pl.lit("BTC-PERP")),
        account_id=pl.format("{} in BTC", "account"),
        quantity=pl.col("sign") * pl.when("own").then("size").otherwise(pl.col("position_value_usd") / btc),
    )


def test_every_account_of_the_venue_has_one_row_and_a_margin(margined: Margined) -> None:
    margins = margined.margins
    assert margins["account_id"].sort().equals(margined.accounts["account"].sort().alias("account_id"))
    assert margins["initial_margin"].is_finite().all()
    assert margins["as_of"].unique().to_list() == [margined.positions["time"].max()]
    assert margined.result.quarantine.is_empty()


def test_an_account_with_positions_owes_and_maintenance_lies_below_initial_margin(margined: Margined) -> None:
    owing = margined.owing
    assert owing.height == margined.positions["account"].n_unique()
    assert (owing["initial_margin"] > 0).all()
    assert owing["maintenance_margin"].is_between(0, owing["initial_margin"]).all()
    assert owing["margin_ratio"].is_finite().all()


def test_an_account_without_positions_owes_nothing_and_keeps_its_value(margined: Margined) -> None:
    idle = margined.margins.join(margined.positions, left_on="account_id", right_on="account", how="anti").join(
        margined.accounts, left_on="account_id", right_on="account"
    )
    assert (idle["n_positions"] == 0).all()
    assert (idle["initial_margin"] == 0).all()
    assert (idle["status"] == "ok").all()
    assert idle["equity"].equals(idle["account_value_usd"].alias("equity"))


def test_the_status_is_the_gravest_thing_to_say_of_the_coins_held(margined: Margined) -> None:
    proxy_is_old = margined.coins.filter(underlying="BTC")["old"].any()
    rows = margined.positions.join(margined.coins, on="underlying")
    old = pl.when("own").then("old").otherwise(pl.lit(proxy_is_old))
    expected = rows.group_by(account_id="account").agg(
        status=pl.when((~pl.col("own")).any())
        .then(pl.lit("proxied"))
        .when(old.any())
        .then(pl.lit("stale"))
        .otherwise(pl.lit("ok")),
        stale=old.any(),
        proxied=(~pl.col("own")).any(),
    )
    told = margined.margins.join(expected, on="account_id", suffix="_expected", validate="1:1")
    assert told["status"].to_list() == told["status_expected"].to_list()
    for status in ("stale", "proxied"):
        assert told[status].to_list() == told["reason"].fill_null("").str.contains(f"{status}: ").to_list()


def test_a_stale_account_is_told_on_what_day_the_history_ends(margined: Margined) -> None:
    last = margined.coins.filter(pl.col("old") & pl.col("own"))["last"].dt.strftime("%Y-%m-%d").unique()
    stale = margined.margins.filter(pl.col("reason").str.contains("stale: "))
    assert (stale["reason"].str.extract(r"history of \w+ ends (\S+\d)").is_in(last.implode())).all()


def test_a_reason_that_names_some_coins_counts_the_others(margined: Margined) -> None:
    held = margined.positions.group_by(account_id="account").agg(pl.col("underlying").n_unique().alias("coins"))
    for row in margined.margins.join(held, on="account_id").iter_rows(named=True):
        for part in (row["reason"] or "").split("; "):
            more = re.search(r"and (\d+) more$", part)
            # A proxy's history is named beside the coins held.
            assert part.count(", ") + 1 + int(more.group(1) if more else 0) <= row["coins"] + 1, part


def test_equity_is_the_venues_account_value_but_for_its_differing_marks(margined: Margined) -> None:
    """The account's own marks against their median, and the venue's rounding of entry prices: nothing else differs."""
    marks = margined.tables["quotes"].join(margined.tables["instruments"], on="instrument_id")
    rows = margined.positions.join(marks.select("instrument_id", "mark_price"), on="instrument_id")
    median = pl.col("mark_price") * pl.col("multiplier")
    venue = pl.col("sign") * pl.col("size") * (pl.col("mark_px") - pl.col("entry_px"))
    slack = rows.group_by(account_id="account").agg(
        marks=(pl.col("size") * (median - pl.col("mark_px")).abs()).sum(),
        rounding=(venue - pl.col("unrealized_pnl_usd")).abs().sum(),
    )
    told = margined.owing.join(slack, on="account_id").join(margined.accounts, left_on="account_id", right_on="account")
    off = (told["equity"] - told["account_value_usd"]).abs()
    # float64 keeps sixteen figures of the largest term, which is the gross notional or the value.
    assert (off <= told["marks"] + told["rounding"] + 1e-12 * (told["gross"] + told["account_value_usd"].abs())).all()
    assert (off <= 0.002 * told["gross"]).all()


def test_a_contract_of_a_thousand_coins_is_worth_what_the_venue_says(margined: Margined) -> None:
    tables = margined.tables
    worth = (
        tables["positions"]
        .with_columns(margined.positions.select("coin", "mark_px", "position_value_usd", "multiplier"))
        .join(tables["quotes"], on="instrument_id", maintain_order="left")
        .with_columns(value=pl.col("quantity").abs() * pl.col("multiplier") * pl.col("mark_price"))
    )
    share = worth["mark_price"] * worth["multiplier"] / worth["mark_px"]
    np.testing.assert_allclose(worth["value"], worth["position_value_usd"] * share, rtol=1e-12)
    np.testing.assert_allclose(worth["value"], worth["position_value_usd"], rtol=0.005)
    thousands = worth.filter(pl.col("coin").str.contains("^k[A-Z]"))
    assert (thousands["multiplier"] == 1000).all()
    assert thousands["coin"].str.slice(1).is_in(tables["underlyings"]["underlying"].implode()).all()


def test_an_index_stands_within_a_power_of_ten_of_the_last_close(margined: Margined) -> None:
    """A coin counted in thousands on one side only, or another coin of the same name, would be further off."""
    last = margined.coins.filter(pl.col("own")).select("underlying")
    close = margined.tables["history"].group_by("underlying").agg(pl.col("price").last())
    both = last.join(close, on="underlying").join(margined.tables["underlyings"], on="underlying")
    assert (np.abs(np.log10(both["index_price"] / both["price"])) < 1).all()


def test_a_change_of_source_is_no_return(margined: Margined) -> None:
    daily = SHARED / "data" / "crypto_daily"
    column = [pl.col("date").cast(pl.Datetime("us")), pl.col("symbol").alias("underlying"), "close"]
    yahoo = pl.read_parquet(daily / "yahoo_usd_1d.parquet").select(column)
    binance = pl.concat([pl.read_parquet(file).select(column) for file in daily.glob("binance_1d_*.parquet")])
    begin = binance.group_by("underlying").agg(date=pl.col("date").min())

    def returns(series: pl.DataFrame, price: str) -> pl.DataFrame:
        series = series.sort("underlying", "date")
        return series.select("underlying", "date", move=pl.col(price).log().diff().over("underlying")).drop_nulls()

    ours = returns(margined.tables["history"].with_columns(date=pl.col("time").dt.truncate("1d")), "price")
    seam = ours.join(begin, on=["underlying", "date"]).join(returns(yahoo, "close"), on=["underlying", "date"])
    np.testing.assert_allclose(seam["move"], seam["move_right"], atol=1e-12)


def test_shares_of_positions_add_up_to_the_initial_margin(margined: Margined) -> None:
    shares = margined.result.attribution().group_by("account_id").agg(pl.col("total").sum(), pl.len())
    both = margined.owing.join(shares, on="account_id")
    np.testing.assert_allclose(both["total"], both["initial_margin"], rtol=FLOAT32)
    held = margined.positions.group_by(account_id="account").agg(pl.len().alias("positions"))
    assert both.join(held, on="account_id").select((pl.col("len") == pl.col("positions")).all()).item()


def test_a_coin_without_history_costs_no_less_than_btc_would(margined: Margined) -> None:
    twins = margined.result.margins.filter(pl.col("account_id").str.ends_with(" in BTC")).select(
        pl.col("account_id").str.strip_suffix(" in BTC"), in_btc="initial_margin"
    )
    both = margined.margins.join(twins, on="account_id")
    assert both.height == twins.height
    assert (both["status"] == "proxied").all()
    assert (both["initial_margin"] >= both["in_btc"]).all()


def test_accounts_with_one_coin_on_one_side_owe_the_same_share_of_their_notional(margined: Margined) -> None:
    alone = margined.positions.filter(pl.len().over("account") == 1)
    marks = margined.tables["quotes"].select("instrument_id", "mark_price")
    both = alone.join(margined.margins, left_on="account", right_on="account_id").join(marks, on="instrument_id")
    notional = pl.col("size") * pl.col("multiplier") * pl.col("mark_price")
    share = pl.col("initial_margin") / notional
    spread = both.group_by("coin", "side").agg(spread=share.max() / share.min() - 1)
    assert (spread["spread"] <= FLOAT32).all()


def test_an_account_that_is_only_long_owes_less_than_it_holds(margined: Margined) -> None:
    long_only = margined.owing.filter("long_only")
    assert (long_only["initial_margin"] < long_only["gross"]).all()


def test_the_move_since_the_last_close_never_lowers_the_volatility(example: ModuleType, margined: Margined) -> None:
    blind = example.at_the_last_close(margined.tables)
    for coin in margined.coins.filter("own")["underlying"].sort()[:5]:
        before, now = (example.volatility(margined.book, market, coin) for market in (blind, margined.market))
        assert 0 < before <= now


def test_the_example_says_what_it_counts_and_leaves_files_for_the_command_line(
    example: ModuleType, margined: Margined, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main(SHARED, tmp_path)
    said = capsys.readouterr().out
    counts = (margined.accounts.height, margined.owing.height, f"{margined.positions.height:,}")
    assert "{} accounts; {} hold {} positions".format(*counts) in said
    written = pl.read_parquet(tmp_path / "margins.parquet")
    assert written["account_id"].equals(margined.margins["account_id"])
    np.testing.assert_allclose(written["initial_margin"], margined.margins["initial_margin"], rtol=FLOAT32)
    for name in margined.tables:
        assert f"--{name} {tmp_path}/tables/{name}.parquet" in said
        assert (tmp_path / "tables" / f"{name}.parquet").is_file()
