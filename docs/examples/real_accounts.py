"""The margin of 157 real accounts, on the real daily history of the coins they held.

What some of Hyperliquid's most profitable traders held on 4 February 2026 becomes tables, the tables become margins in
one call, and the result is read back: who is close to trouble, and why. The data is looked for in $MARGINAX_SHARED
(default: `../shared`).

    python docs/examples/real_accounts.py [--shared DIR] [--out DIR]

Conventions: one linear perpetual per coin, quoted and settled in USD. A contract is one coin, or a thousand coins where
the venue quotes thousands (kSHIB); prices are per coin. A close stands at the end of its day, UTC.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import polars as pl

import marginax as mx

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
GROSS = pl.col("position_value_usd").sum()
PERCENT = 100 * pl.col("initial_margin") / pl.col("gross")
USD = pl.Int64()


def newest(folder: Path, pattern: str) -> pl.DataFrame:
    """The last file whose name fits the pattern: a later period has a later name."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"there is no {pattern} in {folder}; name the folder above data/ with --shared")
    return pl.read_parquet(files[-1])


def holdings(shared: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Accounts and positions as the venue showed them; each position gains its contract's terms and a sign."""
    folder = shared / "data" / "liquidations_accounts"
    positions = newest(folder, "hyperliquid_top_accounts_positions_[0-9]*.parquet")
    thousands = pl.col("coin").str.contains("^k[A-Z]")
    return newest(folder, "hyperliquid_top_accounts_[0-9]*.parquet"), positions.with_columns(
        instrument_id=pl.format("{}-PERP", "coin"),
        underlying=pl.when(thousands).then(pl.col("coin").str.slice(1)).otherwise("coin"),
        multiplier=pl.when(thousands).then(1000.0).otherwise(1.0),
        sign=pl.when(pl.col("side") == "Long").then(1.0).otherwise(-1.0),
    )


def book_and_prices(accounts: pl.DataFrame, positions: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables of the book, and of prices now.

    The venue was asked for one account after the other, so marks differ by a few basis points: all get the median.
    """
    listed = positions.group_by("instrument_id", maintain_order=True).agg(
        pl.col("underlying", "multiplier").first(),
        pl.col("time").max(),
        mark_price=(pl.col("mark_px") / pl.col("multiplier")).median(),
    )
    unrealised = positions.group_by("account").agg(pl.col("unrealized_pnl_usd").sum())
    # An account's value holds its unrealised P&L. The engine adds that itself, from the entry price: take it out here.
    cash = pl.col("account_value_usd") - pl.col("unrealized_pnl_usd").fill_null(0)
    terms = {"kind": "perpetual", "quote": "USD", "settlement": "linear"}
    return {
        "instruments": listed.select(
            "instrument_id", "underlying", "multiplier", **{name: pl.lit(word) for name, word in terms.items()}
        ),
        "positions": positions.select(
            "instrument_id",
            account_id="account",
            quantity=pl.col("sign") * pl.col("size"),
            entry_price=pl.col("entry_px") / pl.col("multiplier"),
        ),
        "balances": accounts.join(unrealised, on="account", how="left").select(
            account_id="account", asset=pl.lit("USD"), amount=cash
        ),
        "quotes": listed.select("instrument_id", "mark_price", "time"),
        "underlyings": listed.group_by("underlying", maintain_order=True).agg(
            pl.col("time").max(), index_price=pl.col("mark_price").first()
        ),
    }


def closes(shared: Path) -> pl.DataFrame:
    """The table of history: every daily close, each coin from the longest clean series.

    Binance, with Yahoo before Binance's first day, else Yahoo alone. Yahoo is scaled to Binance's level on that day, so
    that a change of source is no return; a series of Yahoo's that ends before it is left out.
    """

    def read(*patterns: str) -> pl.DataFrame:
        files = [newest(shared / "data" / "crypto_daily", pattern) for pattern in patterns]
        parts = [file.select(pl.col("date").cast(pl.Datetime("us")), "symbol", "close") for file in files]
        return pl.concat(parts).unique(["date", "symbol"], keep="first")

    binance = read("binance_1d_[0-9]*.parquet", "binance_1d_extra_*.parquet")
    yahoo = read("yahoo_usd_1d.parquet", "yahoo_usd_1d_alts_*.parquet")
    begin = binance.group_by("symbol").agg(pl.col("date").min().alias("begin"))
    both = binance.join(yahoo, on=["date", "symbol"], suffix="_yahoo").join(begin, on="symbol")
    first = both.filter(pl.col("date") == pl.col("begin"))
    level = first.select("symbol", scale=pl.col("close") / pl.col("close_yahoo"))
    before = yahoo.join(begin, on="symbol").filter(pl.col("date") < pl.col("begin")).join(level, on="symbol")
    scaled = before.select("date", "symbol", pl.col("close") * pl.col("scale"))
    alone = yahoo.join(begin, on="symbol", how="anti")
    end_of_day = pl.col("date") + pl.duration(days=1) - pl.duration(microseconds=1)
    series = pl.concat([scaled, binance, alone]).select(time=end_of_day, underlying="symbol", price="close")
    return series.sort("underlying", "time")


def at_the_last_close(tables: dict[str, pl.DataFrame]) -> mx.Market:
    """The market as the history leaves it: its end is now, and last closes are the index prices."""
    history = tables["history"]
    last = history.group_by("underlying").agg(index_price=pl.col("price").last())
    underlyings = tables["underlyings"].update(last, on="underlying")
    end = history.select(pl.col("time").max()).item()
    return mx.read_market(quotes=tables["quotes"], underlyings=underlyings, history=history, as_of=end)


def volatility(book: mx.Book, market: mx.Market, underlying: str) -> float:
    """The volatility of one day, as the model's filter sees it at the market's `as_of`."""
    model = mx.load_model("expected_shortfall")
    history = model.factors(market, book.instruments)
    variance = model.observe(history).today[history.names.index(underlying)]
    return float(np.sqrt(variance * history.grid.bars_per_day))


def show(title: str, rows: pl.DataFrame) -> None:
    """Print a table: whole, without frames."""
    print(f"\n{title}")
    with pl.Config(
        tbl_formatting="NOTHING",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_cols=-1,
        tbl_rows=-1,
        tbl_width_chars=200,
        float_precision=2,
        thousands_separator=True,
    ):
        print(rows)


def main(shared: Path, out: Path) -> None:
    """Margin the book, say what came out, and write it down."""
    accounts, positions = holdings(shared)
    tables = {**book_and_prices(accounts, positions), "history": closes(shared)}
    book = mx.read_book(instruments=tables["instruments"], positions=tables["positions"], balances=tables["balances"])
    market = mx.read_market(quotes=tables["quotes"], underlyings=tables["underlyings"], history=tables["history"])
    result = mx.margin_book(book, market, "expected_shortfall", seed=7)

    # What the venue itself says: how far, in %, the nearest price is at which it would liquidate a position.
    to_liquidation = 100 * (pl.col("liquidation_px").fill_nan(None) / pl.col("mark_px") - 1).abs().min()
    held = positions.group_by("account").agg(positions=pl.len(), gross=GROSS, to_liquidation=to_liquidation)
    margins = (
        result.margins.join(held, left_on="account_id", right_on="account", how="left")
        .join(accounts.select(account_id="account", value="account_value_usd"), on="account_id", how="left")
        .with_columns(percent=PERCENT)
    )
    million = margins.select(pl.col("gross", "equity", "initial_margin").sum() / 1e6).row(0, named=True)
    off = margins.select(1e4 * ((pl.col("equity") - pl.col("value")).abs() / pl.col("gross")).max()).item()
    coins = len(book.instruments)
    print(f"{margins.height} accounts; {held.height} hold {positions.height:,} positions in {coins} coins")
    print(f"as of {market.as_of:%Y-%m-%d %H:%M:%S} UTC, history to {result.manifest['scenarios']['last']}")
    print("USD million:", ", ".join(f"{name} {value:,.1f}" for name, value in million.items()))
    print(f"equity is the venue's account value within {off:.1f} bp of gross notional")
    by_status = margins.group_by("status").agg(pl.len().alias("accounts"), pl.col("gross", "initial_margin").sum())
    show("Accounts by status", by_status.cast({pl.Float64: USD}).sort("status"))
    spread = {f"{q:.0%}": [margins["percent"].quantile(q, "linear")] for q in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)}
    show("Initial margin in % of gross notional, quantiles over the accounts", pl.DataFrame(spread))
    money = pl.col("gross", "equity", "initial_margin", "call").cast(USD)
    near = margins.select("account_id", "positions", money, "percent", "margin_ratio", "to_liquidation")
    show("The ten closest to trouble", near.sort("margin_ratio", nulls_last=True).head(10))

    largest = margins.sort("gross", nulls_last=True, descending=True).row(0, named=True)
    worth = positions.filter(account=largest["account_id"]).select("instrument_id", "position_value_usd")
    why = result.explain(largest["account_id"]).join(worth, on="instrument_id", maintain_order="left")
    money = pl.col("position_value_usd", "core", "total").cast(USD)
    show(f"Why {largest['account_id']}, the largest, owes that", why.select("instrument_id", "amount", money))
    print(largest["reason"])

    proxied = pl.col("underlying").is_in(result.manifest["scenarios"]["proxied"]).alias("proxied")
    owed = result.attribution().join(tables["instruments"], on="instrument_id").group_by(proxied)
    by_source = positions.group_by(proxied).agg(pl.col("coin").n_unique().alias("coins"), gross=GROSS)
    by_source = by_source.join(owed.agg(initial_margin=pl.col("total").sum()), on="proxied").sort("proxied")
    by_source = by_source.with_columns(pl.col("gross", "initial_margin").cast(USD), percent=PERCENT)
    show("Coins on their own history, and coins that follow a proxy", by_source)
    unused = sorted({*tables["history"]["underlying"]} & {*result.manifest["scenarios"]["proxied"]})
    print(f"{len(unused)} of the latter have closes, too old or too few to count: {', '.join(unused)}")

    # The same book at the same marks, seen by a filter that knows nothing of what happened after the history ended.
    blind = at_the_last_close(tables)
    unaware = mx.margin_book(book, blind, "expected_shortfall", seed=7).margins.select("initial_margin").sum().item()
    print("\nWhat the time since the last close adds, as one return over its length")
    print(f"BTC, volatility of a day: {volatility(book, blind, 'BTC'):.2%}, {volatility(book, market, 'BTC'):.2%}")
    print(f"initial margin, USD million: {unaware / 1e6:,.1f}, {million['initial_margin']:,.1f}")

    result.write(out, attribution=True)
    (out / "tables").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(out / "tables" / f"{name}.parquet")
    print("\nThe same from the command line\nmarginax margin \\")
    print("".join(f"  --{name} {out}/tables/{name}.parquet \\\n" for name in tables) + f"  --out {out}/cli")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The margin of real accounts, on real history.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder above data/")
    parser.add_argument("--out", type=Path, default=Path("out/real_accounts"), help="where results go")
    main(**vars(parser.parse_args()))
