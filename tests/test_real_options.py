"""The examples on real option chains of Deribit: prices, Greeks, smiles, books margined and seen a day later.

What is expected is read from the same files, so that another copy of them, of other days or coins, is tested as it is.
A few snapshots stand for all; only the formula is held against every quote.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.chains import market_chains
from marginax.expiries import contradicted_forwards
from marginax.option_table import option_table
from marginax.smiles import calendar_violations

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
FOLDERS = [SHARED / "data" / name for name in ("options", "crypto_daily")]

pytestmark = pytest.mark.skipif(
    not all(folder.is_dir() for folder in FOLDERS) or not any(FOLDERS[0].glob("deribit_*chain_*_to_*.parquet")),
    reason=f"the shared chains are not in {SHARED}; name its folder with MARGINAX_SHARED",
)

# A product in float32 is right to 6e-8 of its terms; sixty of them, partly hedged, stay within this of their sum.
FLOAT32 = 1e-4
# Black's formula in float64, at strikes up to a few times the forward, in coins.
ROUNDING = 1e-11


@pytest.fixture(scope="module")
def examples() -> Iterator[dict[str, ModuleType]]:
    """The examples by name, which import one another from their own folder."""
    sys.path.insert(0, str(ROOT / "docs" / "examples"))
    try:
        names = ("real_accounts", "deribit_options", "volatility_moves", "option_book", "option_days")
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "docs" / "examples"))


@pytest.fixture(scope="module")
def options(examples: dict[str, ModuleType]) -> ModuleType:
    return examples["deribit_options"]


@pytest.fixture(scope="module")
def days(examples: dict[str, ModuleType]) -> ModuleType:
    return examples["option_days"]


@pytest.fixture(scope="module")
def quotes(options: ModuleType) -> pl.DataFrame:
    """Every quote of the file."""
    return options.chains(SHARED)


@pytest.fixture(scope="module")
def history(examples: dict[str, ModuleType]) -> pl.DataFrame:
    return examples["real_accounts"].closes(SHARED)


@pytest.fixture(scope="module")
def few(options: ModuleType, quotes: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """The first, the middle and the last snapshot, priced by the engine."""
    chains = list(options.snapshots(quotes))
    chosen = sorted({0, len(chains) // 2, len(chains) - 1})
    return pl.concat([options.priced(chains[k], history) for k in chosen])


@pytest.fixture(scope="module")
def pair(days: ModuleType, quotes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first two snapshots a day apart."""
    found = next(iter(days.day_pairs(quotes)), None)
    if found is None:
        pytest.skip("the file has no two snapshots a day apart")
    return found


@pytest.fixture(scope="module")
def day(
    days: ModuleType, quotes: pl.DataFrame, history: pl.DataFrame, pair: tuple[pl.DataFrame, pl.DataFrame]
) -> tuple[mx.Result, dict[str, pl.DataFrame], pl.DataFrame]:
    """A thousand accounts on the first of them: the result, the tables, and what became of the accounts."""
    return days.one_day(*pair, history, days.fixings(SHARED, quotes))


def sizes(values: pl.Series) -> tuple[float, float]:
    """Median and 99 % quantile of sizes."""
    return tuple(float(np.quantile(np.abs(values.drop_nulls().to_numpy()), q)) for q in (0.5, 0.99))


def test_a_name_says_what_its_contract_is(options: ModuleType) -> None:
    names = ["BTC-27MAR26-90000-C", "ETH-9JAN26-3800-P", "XRP_USDC-30JAN26-0d55-C"]
    read = pl.DataFrame({"name": names}).select(options.named(pl.col("name")))
    assert read["currency"].to_list() == ["BTC", "ETH", "XRP_USDC"]
    assert read["expiry"].dt.strftime("%Y-%m-%d %H:%M").to_list() == [
        "2026-03-27 08:00", "2026-01-09 08:00", "2026-01-30 08:00",
    ]  # fmt: skip
    assert read["strike"].to_list() == [90000, 3800, 0.55]
    assert read["option_type"].to_list() == ["call", "put", "call"]


def test_names_of_every_file_agree_with_its_columns(options: ModuleType) -> None:
    for file in FOLDERS[0].glob("deribit_*chain_*.parquet"):
        rows = pl.read_parquet(file)
        if not {"instrument_name", "currency", "expiry", "strike", "option_type"} <= set(rows.columns):
            continue
        read = rows.select(options.named(pl.col("instrument_name")))
        assert all(read[name].equals(rows[name]) for name in read.columns), file.name


def test_tables_hold_nothing_later_than_the_snapshot(
    options: ModuleType, quotes: pl.DataFrame, history: pl.DataFrame
) -> None:
    chain = next(options.snapshots(quotes))
    now = chain["snapshot_time"][0]
    tables = options.tables_of(chain, history)
    assert all(tables[name]["time"].max() == now for name in ("quotes", "underlyings", "forwards"))
    assert tables["history"]["time"].max() <= now.replace(tzinfo=None)
    assert set(tables["history"]["underlying"]) == set(chain["currency"])
    assert options.market_of(tables).as_of == now


def test_every_quote_reprices_from_its_volatility_and_its_expirys_forward(
    options: ModuleType, quotes: pl.DataFrame
) -> None:
    """The bounds are the ones asked for: volatilities of four digits and forwards a moment off leave no less."""
    median, most = sizes(pl.Series(options.value(quotes, "forward")) - quotes["mark"])
    assert median <= 1e-5
    assert most <= 3e-4


def test_the_engine_prices_by_that_formula_on_that_forward(options: ModuleType, few: pl.DataFrame) -> None:
    assert (few["forward_source"] == "table").all()
    np.testing.assert_allclose(few["model_price"], options.value(few, "forward"), atol=ROUNDING)


def test_the_forwards_shown_are_those_of_put_call_parity(few: pl.DataFrame) -> None:
    """A few basis points: what the future moves between the making of the marks and the reading of its price."""
    expiries = few.unique(["snapshot_time", "currency", "expiry"])
    median, most = sizes(1e4 * (expiries["forward"] / expiries["parity"] - 1))
    assert median <= 1
    assert most <= 5


def test_what_a_forward_is_off_explains_the_marks_far_from_the_model(options: ModuleType, few: pl.DataFrame) -> None:
    of_forward = sizes(few["model_price"] - few["mark"])
    of_parity = sizes(pl.Series(options.value(few, "parity")) - few["mark"])
    assert of_parity[1] <= of_forward[1]
    # Half a digit of the fourth decimal of a volatility, times the vega of an option of a year (0.4 coins), is 2e-5.
    assert of_parity[0] <= 1e-5


def test_no_row_of_the_forwards_is_refused_at_the_default_bound(
    options: ModuleType, quotes: pl.DataFrame, history: pl.DataFrame
) -> None:
    chain = next(options.snapshots(quotes))
    tables = options.tables_of(chain, history)
    book = mx.read_book(instruments=tables["instruments"], positions=nobody(chain), balances=cash())
    bound = mx.load_config().options.forward_bound
    assert contradicted_forwards(book.instruments, options.market_of(tables), bound=bound).is_empty()


def nobody(chain: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"account_id": ["a"], "instrument_id": chain["instrument_name"][:1], "quantity": [0.0]})


def cash() -> pl.DataFrame:
    return pl.DataFrame({"account_id": ["a"], "asset": ["USD"], "amount": [0.0]})


def test_a_mark_without_its_volatility_gives_it_back(
    options: ModuleType, quotes: pl.DataFrame, history: pl.DataFrame
) -> None:
    chain = next(options.snapshots(quotes))
    tables = options.tables_of(chain, history)
    tables["quotes"] = tables["quotes"].drop("implied_vol")
    book = mx.read_book(instruments=tables["instruments"], positions=nobody(chain), balances=cash())
    market = options.market_of(tables)
    table = option_table(book.instruments, market, market_chains(book.instruments, market))
    read = table.filter(pl.col("volatility_source") == "mark")
    assert read.height > 0.5 * table.height
    np.testing.assert_allclose(read["model_price"], read["mark_price"], atol=1e-9)
    both = read.join(chain, left_on="instrument_id", right_on="instrument_name")
    # Out of the money the forward's own error matters least; in points of 1 % a year.
    out = both.filter(pl.col("mark") < 0.05)
    assert sizes(100 * (out["implied_vol"] - out["mark_iv"]))[0] <= 0.1


def test_greeks_are_as_near_the_exchanges_as_its_own_are_to_one_another(options: ModuleType, few: pl.DataFrame) -> None:
    """Its calls and puts of one strike disagree, as their Greeks are of different moments; ours are within thrice that.

    At a moment the deltas of the two differ by one and their vegas by nothing.
    """
    table = options.greeks(few).rows_by_key("", named=True, unique=True)
    for ours, theirs, rounding in (
        ("delta", "exchange: call less put less 1", 0.01),
        ("vega", "exchange: call less put", 1e-5),
    ):
        for quantile in ("median", "99 %"):
            assert table[ours][quantile] <= 3 * table[theirs][quantile] + rounding, (ours, quantile)
    median, most = sizes(few["delta"] - few["delta_venue"])
    assert median <= 1e-3
    assert most <= 0.02


def test_a_strike_left_out_comes_back_from_its_smile(options: ModuleType, few: pl.DataFrame) -> None:
    """Bounds are two to four times what the chains at the turn of 2026 show; the last day before expiry is apart."""
    inside = options.held_out(few).filter("inside", pl.col("days") > 1)
    median, most = sizes(inside["points"])
    assert median <= 0.25
    assert most <= 10
    median, most = sizes(inside["coins"])
    assert median <= 1e-4
    assert most <= 1.5e-3


def test_smiles_of_real_chains_carry_no_arbitrage(options: ModuleType, few: pl.DataFrame) -> None:
    for chain in options.snapshots(few):
        for surface in options.smiles(chain).values():
            for smile in surface:
                assert smile.butterfly_free
                # Off the grid that the fit looked at.
                reach = np.ptp(smile.log_moneyness)
                k = np.linspace(smile.log_moneyness[0] - reach / 2, smile.log_moneyness[-1] + reach / 2, 997)
                assert smile.svi is None or (smile.svi.durrleman(k) >= 0).all()
            # The marks of a venue may hold one; a surface full of them would be a fault of the fits.
            assert len(calendar_violations(surface)) <= 1 + len(surface) // 5


def test_a_regression_finds_the_slope_it_was_made_of(examples: dict[str, ModuleType]) -> None:
    moves = np.random.default_rng(0).normal(0, 0.02, 2_000)
    own = np.random.default_rng(1).normal(0, 0.04, 2_000)
    price, volatility = (np.exp(np.cumsum(each)) for each in (moves, -1.5 * moves + own))
    row = examples["volatility_moves"].against_price("made", price, volatility)
    assert abs(row["beta"] + 1.5) <= 3 * row["std error"]
    assert row["residual, % a day"] == pytest.approx(4, rel=0.05)


def test_measured_moves_of_volatility_are_within_what_is_charged_without_a_history(
    examples: dict[str, ModuleType], options: ModuleType, few: pl.DataFrame
) -> None:
    """The moves between three snapshots, each over the root of its days, against three standard deviations of a day."""
    settings = mx.load_config()
    charged = settings.proxy.safety_factor * settings.volatility.residual
    chains = list(options.snapshots(few))
    for coin in few["currency"].unique():
        level = [examples["volatility_moves"].reference_volatility(options.smiles(chain)[coin]) for chain in chains]
        index = [chain.filter(pl.col("currency") == coin)["index"][0] for chain in chains]
        for k in range(1, len(chains)):
            passed = chains[k]["snapshot_time"][0] - chains[k - 1]["snapshot_time"][0]
            days = max(passed.total_seconds() / 86_400, 1)
            own = np.log(level[k] / level[k - 1]) - settings.volatility.beta * np.log(index[k] / index[k - 1])
            assert abs(own) <= 3 * charged * np.sqrt(days)


def test_a_seed_makes_one_book(examples: dict[str, ModuleType], pair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    make = examples["option_book"].book_of
    one, other, another = make(pair[0], 50, 7), make(pair[0], 50, 7), make(pair[0], 50, 8)
    assert all(one[name].equals(other[name]) for name in one)
    assert not one["positions"].equals(another["positions"])


def test_every_account_of_the_book_has_a_margin(days: ModuleType, day: tuple) -> None:
    result, tables, _ = day
    margins = result.margins
    assert margins.height == days.ACCOUNTS
    assert margins["initial_margin"].is_finite().all()
    assert result.excepted == 0
    assert set(margins["status"]) <= {"ok", "stale", "proxied"}
    # A volatility without a history of its own is said of everyone who holds options.
    holding = tables["positions"].filter(pl.col("quantity") != 0).group_by("account_id").len()
    owing = margins.join(holding, on="account_id")
    assert (owing["status"] != "ok").all()
    assert (owing["initial_margin"] > 0).all()
    assert (owing["maintenance_margin"] <= owing["initial_margin"]).all()
    assert result.manifest["scenarios"]["source"] == "monte_carlo"


def test_the_table_of_the_result_is_the_one_the_chains_were_priced_with(
    options: ModuleType, pair: tuple[pl.DataFrame, pl.DataFrame], history: pl.DataFrame, day: tuple
) -> None:
    ours = options.priced(pair[0], history).select("instrument_name", "model_price", "delta", "gamma", "vega")
    both = day[0].options.join(ours, left_on="instrument_id", right_on="instrument_name")
    assert both.height == pair[0].height
    for name in ("model_price", "delta", "gamma", "vega"):
        np.testing.assert_allclose(both[name], both[f"{name}_right"], rtol=1e-12)


def test_equity_is_what_marks_and_index_say(day: tuple) -> None:
    rows = day[2]
    np.testing.assert_allclose(rows["equity"], rows["worth"], rtol=1e-9, atol=1e-6)


def test_the_scenarios_looked_at_are_those_the_margin_is_of(
    days: ModuleType, examples: dict[str, ModuleType], day: tuple
) -> None:
    result, tables, _ = day
    pnl, weights = days.scenario_pnl(*examples["option_book"].read(tables), days.monte_carlo())
    np.testing.assert_allclose(weights, result.scenarios.weights, rtol=1e-6)
    losses, tail = -pnl, days.monte_carlo().risk.tail
    order = np.argsort(-losses, axis=1)
    mass = np.cumsum(weights[order], axis=1)
    edge = np.argmax(mass >= tail * (1 - 1e-5), axis=1)
    var = np.take_along_axis(losses, order[np.arange(len(order)), edge][:, None], axis=1)[:, 0]
    size = np.abs(losses).max(axis=1)
    assert (np.abs(result.margins["var"].to_numpy() - var) <= FLOAT32 * size).all()


def test_an_option_that_expired_is_paid_its_intrinsic_value_in_coins(
    examples: dict[str, ModuleType], days: ModuleType, pair: tuple[pl.DataFrame, pl.DataFrame], quotes: pl.DataFrame
) -> None:
    chain, later = pair
    settled = days.fixings(SHARED, quotes)
    due = chain.filter(pl.col("expiry") <= later["snapshot_time"][0]).sort("mark", descending=True)
    if due.is_empty():
        pytest.skip("no option expires between the two snapshots")
    row = due.row(0, named=True)
    book = examples["option_book"].book_of(chain, 1, 7)
    book["positions"] = pl.DataFrame(
        {"account_id": ["a"], "instrument_id": [row["instrument_name"]], "quantity": [2.0], "entry_price": [None]},
        schema_overrides={"entry_price": pl.Float64},
    )
    book["balances"] = cash()
    paid = settled.filter(pl.col("currency") == row["currency"], pl.col("expiry") == row["expiry"])["settled"][0]
    side = 1 if row["option_type"] == "call" else -1
    then = later.filter(pl.col("currency") == row["currency"])["index"][0]
    coins = max(side * (1 - row["strike"] / paid), 0)
    expected = 2 * (coins * then - row["mark"] * row["index"])
    found = days.realised(book, chain, later, settled)
    assert found["pnl"][0] == pytest.approx(expected, rel=1e-12)
    # The fixing is a price of that morning: within a tenth of the index of the evening before.
    assert abs(np.log(paid / row["index"])) <= 0.1


def test_losses_of_a_day_lie_within_what_the_scenarios_allow(day: tuple) -> None:
    """Loosely: all accounts share two coins, so this is a sample of one day. One in a hundred puts many beyond.

    A fifth of the accounts beyond VaR 99 % on one day, or a book that loses more than all its expected shortfalls
    together, would be a fault of the model on any day that is not a crash; and no account may lie nowhere.
    """
    rows = day[2]
    assert rows["pnl"].null_count() <= 0.05 * rows.height
    known = rows.drop_nulls("pnl")
    assert known["place"].is_between(0, 1 + 1e-12).all()  # masses sum to one but for rounding
    assert known["beyond_var"].mean() <= 0.2
    assert -known["pnl"].sum() <= known["expected_shortfall"].sum()
    # Places that were all the same would tell of P&L in another unit than the scenarios'.
    assert known["place"].std() >= 0.02


def test_days_are_drawn_whole(days: ModuleType) -> None:
    rows = pl.DataFrame({"day": [1] * 100 + [2] * 100, "beyond_var": [0.0] * 100 + [1.0] * 100})
    mean, low, high = days.over_days(rows, pl.col("beyond_var"))
    assert (mean, low, high) == (0.5, 0.0, 1.0)


def test_an_outcome_in_the_middle_of_its_scenarios_is_at_a_half(days: ModuleType) -> None:
    pnl, weights = np.array([[-2.0, 0.0, 1.0, 3.0]]), np.array([0.1, 0.4, 0.3, 0.2])
    assert days.places(pnl, weights, np.array([0.5])) == pytest.approx(0.5)
    assert days.places(pnl, weights, np.array([0.0])) == pytest.approx(0.3)
    assert days.places(pnl, weights, np.array([-9.0])) == 0


def test_the_example_of_chains_says_what_it_counts(
    options: ModuleType, few: pl.DataFrame, quotes: pl.DataFrame, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    some = quotes.filter(pl.col("snapshot_time").is_in(few["snapshot_time"].unique().implode()))
    monkeypatch.setattr(options, "chains", lambda shared: some)
    options.main(SHARED, tmp_path)
    said = capsys.readouterr().out
    assert f"{some.height:,} quotes of {some['instrument_name'].n_unique():,} options" in said
    assert f"{some['snapshot_time'].n_unique()} snapshots" in said
    assert pl.read_parquet(tmp_path / "priced.parquet").height == some.height


def test_the_example_of_days_leaves_files_for_the_command_line(
    days: ModuleType, day: tuple, pair: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(days, "day_pairs", lambda quotes: iter([pair]))
    days.main(SHARED, tmp_path)
    said = capsys.readouterr().out
    assert f"1 day of {days.ACCOUNTS:,} accounts" in said
    margins = pl.read_parquet(tmp_path / "margins.parquet")
    np.testing.assert_allclose(margins["initial_margin"], day[0].margins["initial_margin"], rtol=FLOAT32)
    assert mx.load_config(tmp_path / "marginax.toml").scenarios.source == "monte_carlo"
    for name in day[1]:
        assert f"--{name} {tmp_path}/tables/{name}.parquet" in said
        assert (tmp_path / "tables" / f"{name}.parquet").is_file()
