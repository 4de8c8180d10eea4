"""A thousand option accounts margined by Monte Carlo, day after day, and what they really lost by the next.

For every day with a snapshot of the chains and another a day later, a seeded book is drawn on the first and margined,
and the same positions are valued at the marks of the second. Where that outcome lies in an account's own scenarios is a
number between 0 and 1; were the scenarios right, all such numbers would be equally likely. Books: `option_book.py`.

    python docs/examples/option_days.py [--shared DIR] [--out DIR]

Conventions: money in USD; P&L is gain. An option that expires in between is paid its intrinsic value of that hour, in
coins, which are kept.
"""

import argparse
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from deribit_options import chains, snapshots
from option_book import book_of, read, venue_of, worth
from real_accounts import SHARED, closes, newest, show, volatility
from scipy import sparse

import marginax as mx
from marginax.exposures import expose

ACCOUNTS, SEED = 1_000, 7
CONFIG = '[scenarios]\nsource = "monte_carlo"\n'
DAY, NEAR = timedelta(days=1), timedelta(hours=2)
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Masses of an account's scenarios, the worst first."""


def fixings(shared: Path, quotes: pl.DataFrame) -> pl.DataFrame:
    """What every expired option settled on, by coin and expiry: the hour's last price before it, or the nearest index.

    The exchange averages its index over the last half hour. Hourly bars are of perpetuals in USDT, some basis points
    away; where there is none, an index of up to hours before or after stands in.
    """
    due = quotes.select("currency", "expiry").unique().sort("expiry")
    index = quotes.select("currency", "snapshot_time", settled="index").unique().sort("snapshot_time")
    by = {"left_on": "expiry", "right_on": "snapshot_time", "by": "currency", "strategy": "nearest"}
    nearest = due.join_asof(index, **by, check_sortedness=False)
    folder = shared / "data" / "crypto_intraday"
    if not folder.is_dir():
        return nearest.select("currency", "expiry", "settled")
    bars = newest(folder, "binance_1h_*.parquet").select(
        currency="symbol", expiry=(pl.col("time") + pl.duration(hours=1)).cast(due.schema["expiry"]), hourly="close"
    )
    both = nearest.join(bars, on=["currency", "expiry"], how="left")
    return both.select("currency", "expiry", settled=pl.coalesce("hourly", "settled"))


def day_pairs(quotes: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The last snapshot of each day, with the snapshot nearest to a day later where there is one."""
    by_time = {chain["snapshot_time"][0]: chain for chain in snapshots(quotes)}
    for time in {each.date(): each for each in by_time}.values():
        later = min(by_time, key=lambda other, time=time: abs(other - time - DAY))
        if abs(later - time - DAY) <= NEAR:
            yield by_time[time], by_time[later]


def monte_carlo() -> mx.Config:
    """The default model on Monte Carlo scenarios, one day ahead."""
    return mx.Config.model_validate({"scenarios": {"source": "monte_carlo"}})


def realised(
    book: dict[str, pl.DataFrame], chain: pl.DataFrame, later: pl.DataFrame, settled: pl.DataFrame
) -> pl.DataFrame:
    """The P&L of every account from one snapshot to a later one; null where an option held has no mark there."""
    due = chain.filter(pl.col("expiry") <= later["snapshot_time"][0]).join(settled, on=["currency", "expiry"])
    side = pl.when(pl.col("option_type") == "call").then(1.0).otherwise(-1.0)
    paid = due.select("instrument_name", "currency", mark=(side * (1 - pl.col("strike") / pl.col("settled"))).clip(0))
    columns = ["instrument_name", "currency", "mark"]
    one, other = (dict(each.select("currency", "index").unique().iter_rows()) for each in (chain, later))
    before = worth(book, chain.select(columns), one)
    after = worth(book, pl.concat([later.select(columns), paid]), other)
    both = before.join(after, on="account_id", suffix="_later", maintain_order="left")
    return both.select("account_id", "worth", pnl=pl.col("worth_later") - pl.col("worth"))


def scenario_pnl(book: mx.Book, market: mx.Market, config: mx.Config) -> tuple[np.ndarray, np.ndarray]:
    """P&L of every account (in the order of the book's accounts) in every scenario of a run, and the weights.

    A run streams these and keeps none; here they are few enough to look at.
    """
    model = mx.load_model(config)
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        held = expose(book, market, history, config.options)
        draws = model.draw(config.run.seed, history)
        prepared, _ = _prepare(model, held.instruments, held.market, model.observe(history), draws)
    cube = np.asarray(prepared.cube, float)
    parts = [
        sparse.csr_matrix((part.amounts, part.columns, part.starts), shape=(len(held.equity), len(cube)))
        for part in (held.positions, held.collateral)
    ]
    return sum(part @ cube for part in parts), np.asarray(prepared.weights)


@jax.jit
def _prepare(model: Any, *given: Any) -> Any:
    return model.prepare(*given)


def places(pnl: np.ndarray, weights: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Where an outcome lies in its own distribution: the mass of worse scenarios, and half of equal ones."""
    below, equal = pnl < happened[:, None], pnl == happened[:, None]
    return below @ weights + equal @ weights / 2


def one_day(
    chain: pl.DataFrame,
    later: pl.DataFrame,
    history: pl.DataFrame,
    settled: pl.DataFrame,
    *,
    seed: int = SEED,
    accounts: int = ACCOUNTS,
) -> tuple[mx.Result, dict[str, pl.DataFrame], pl.DataFrame]:
    """Margin a book on a snapshot and see it a day later: the result, its tables, and a row an account."""
    book = book_of(chain, accounts, seed)
    tables, config = venue_of(chain, history, book), monte_carlo()
    admitted, market = read(tables)
    result = mx.margin_book(admitted, market, config)
    pnl, weights = scenario_pnl(admitted, market, config)
    due = chain.filter(pl.col("expiry") <= later["snapshot_time"][0])["instrument_name"]
    expires = pl.col("instrument_id").is_in(due.implode()).any()
    rows = (
        result.margins.join(realised(book, chain, later, settled), on="account_id", maintain_order="left")
        .join(book["strategies"], on="account_id", maintain_order="left")
        .join(book["positions"].group_by("account_id").agg(expires=expires), on="account_id", maintain_order="left")
    )
    happened = rows["pnl"].fill_null(np.nan).to_numpy()
    place = np.where(np.isnan(happened), np.nan, places(pnl, weights, happened))
    loss = -pl.col("pnl")
    return (
        result,
        tables,
        rows.with_columns(
            day=pl.lit(chain["snapshot_time"][0]),
            place=pl.Series(place).fill_nan(None),
            beyond_var=(loss > pl.col("var")).cast(pl.Float64),
            beyond_es=(loss > pl.col("expected_shortfall")).cast(pl.Float64),
        ),
    )


def over_days(rows: pl.DataFrame, what: pl.Expr) -> tuple[float, float, float]:
    """A mean over days, and the bounds of nine of ten means of as many days drawn with replacement, each one whole."""
    daily = rows.group_by("day").agg(what.mean().alias("mean")).sort("day")["mean"].to_numpy()
    drawn = np.random.default_rng(SEED).choice(daily, (10_000, len(daily))).mean(axis=1)
    low, high = np.quantile(drawn, (0.05, 0.95))
    return float(daily.mean()), float(low), float(high)


def tails(rows: pl.DataFrame) -> pl.DataFrame:
    """How often outcomes lie below a level of their own distribution, which says how often they should."""
    found = []
    for level in LEVELS:
        share, low, high = (100 * each for each in over_days(rows, pl.col("place") < level))
        found.append({"scenarios say, %": 100 * level, "happened, %": share, "days drawn, 5 %": low, "95 %": high})
    return pl.DataFrame(found)


def by(rows: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Margins and outcomes of groups of accounts."""
    return rows.group_by(keys).agg(
        pl.len().alias("accounts"),
        (100 * pl.col("initial_margin") / pl.col("notional")).median().alias("margin, % of notional"),
        (100 * pl.col("beyond_var").mean()).alias("beyond VaR 99 %, %"),
        (100 * pl.col("beyond_es").mean()).alias("beyond ES 99 %, %"),
        (-pl.col("pnl") / pl.col("var")).max().alias("worst loss / VaR"),
        pl.col("place").mean().alias("mean place"),
    ).sort(keys)  # fmt: skip


def by_day(rows: pl.DataFrame, moves: pl.DataFrame) -> pl.DataFrame:
    """Each day: what the coins did, what the book lost, and where the outcomes lie."""
    million = pl.col("pnl", "expected_shortfall").sum() / 1e6
    daily = rows.group_by("day").agg(
        million, (100 * pl.col("beyond_var").mean()).alias("beyond VaR, %"), pl.col("place").mean().alias("mean place")
    )
    return moves.join(daily, on="day").sort("day").with_columns(pl.col("day").dt.strftime("%Y-%m-%d %H:%M"))


def main(shared: Path, out: Path) -> None:
    """Margin a book each day, see what became of it, and write the last one down."""
    quotes, history = chains(shared), closes(shared)
    settled, found, moves = fixings(shared, quotes), [], []
    for day, (chain, later) in enumerate(day_pairs(quotes)):
        result, tables, rows = one_day(chain, later, history, settled, seed=SEED + day)
        found.append(rows)
        one, other = (dict(each.select("currency", "index").unique().iter_rows()) for each in (chain, later))
        moved = {"day": chain["snapshot_time"][0]}
        for coin in sorted(one.keys() & other.keys()):
            moved[f"{coin}, %"] = 100 * (other[coin] / one[coin] - 1)
            moved[f"{coin} filter, %"] = 100 * volatility(*read(tables), coin)
        moves.append(moved)
    rows = pl.concat(found)
    lost = rows["pnl"].null_count()
    counted = "1 day" if len(found) == 1 else f"{len(found)} days"
    print(f"{counted} of {ACCOUNTS:,} accounts, each margined on a snapshot and valued a day later")
    print(f"the last book: {tables['positions'].height:,} positions, as of {result.manifest['as_of']}")
    print(f"{rows['initial_margin'].null_count()} without a margin, {lost} with an option that has no later mark")
    off = float((rows["equity"] - rows["worth"]).abs().max() or 0.0)
    print(f"equity by the engine and by the marks: {off:.0e} USD apart at most")
    show("By strategy, all days", by(rows, "strategy"))
    show("By whether an option held expires within the day", by(rows, "expires"))
    show("By day; P&L and expected shortfall of all accounts in USD million", by_day(rows, pl.DataFrame(moves)))
    show("Where outcomes lie in the accounts' own scenarios", tails(rows))
    print(f"accounts share the two coins' day: this is a sample of {counted}, not of {rows.height:,} accounts")

    result.write(out)
    (out / "tables").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(out / "tables" / f"{name}.parquet")
    (out / "marginax.toml").write_text(CONFIG, encoding="utf-8")
    rows.write_parquet(out / "outcomes.parquet")
    print("\nThe last day from the command line\nmarginax margin \\")
    print("".join(f"  --{name} {out}/tables/{name}.parquet \\\n" for name in tables), end="")
    print(f"  --config {out}/marginax.toml --out {out}/cli")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Margins of option books, against what they lost by the next day.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder above data/")
    parser.add_argument("--out", type=Path, default=Path("out/option_days"), help="where results go")
    main(**vars(parser.parse_args()))
