"""An equity chain against the engine: options on SPY at a close, European prices for American options.

What holds for European options on a forward is held against the quotes of options that may be exercised early: the
forwards and the rate that put-call parity gives, prices from the file's own volatilities, deltas, and what early
exercise is worth, which the engine does not price. The data is looked for in $MARGINAX_SHARED (default: `../shared`).

    python docs/examples/spy_options.py [--shared DIR] [--out DIR]

Conventions: USD per share; a mark is the middle of bid and ask; the day and the options end at 16:00 in New York.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from real_accounts import SHARED, newest, show

import marginax as mx
from marginax.chains import market_chains
from marginax.option_table import option_table

YEAR = 365 * 86_400e6
"""Microseconds."""
CLOSE_HOUR, ZONE = 16, "America/New_York"
MONEY = [-0.2, -0.05, 0.05, 0.2]
"""Edges of log moneyness, positive in the money."""


def at_close(day: str) -> pl.Expr:
    """The closing hour of a day, in UTC."""
    local = (pl.col(day) + pl.duration(hours=CLOSE_HOUR)).dt.replace_time_zone(ZONE)
    return local.dt.convert_time_zone("UTC")


def chain_of(shared: Path) -> pl.DataFrame:
    """The newest chain: what is quoted on both sides and does not expire on its own day."""
    rows = newest(shared / "data" / "options", "spy_chain_*_eod.parquet")
    day, kind = pl.col("expiry").dt.strftime("%Y%m%d"), pl.col("option_type").str.slice(0, 1).str.to_uppercase()
    two_sided = (pl.col("bid") > 0) & (pl.col("ask") >= pl.col("bid"))
    chain = rows.filter(two_sided, pl.col("expiry") > pl.col("quote_date")).select(
        "underlying",
        "strike",
        "option_type",
        "delta",
        instrument_id=pl.format("{}-{}-{}-{}", "underlying", day, "strike", kind),
        time=at_close("quote_date"),
        expiry=at_close("expiry"),
        spot="underlying_price",
        mid=(pl.col("bid") + pl.col("ask")) / 2,
        half=(pl.col("ask") - pl.col("bid")) / 2,
        # The file has volatilities of nothing where a mid is below intrinsic value.
        iv=pl.when(pl.col("iv") > 0.001).then("iv"),
    )
    return chain.with_columns(years=(pl.col("expiry") - pl.col("time")).dt.total_microseconds() / YEAR)


def rate_of(chain: pl.DataFrame) -> float:
    """The interest rate that puts and calls below the money agree on, a year: the median over expiries of a quarter on.

    A call less a put falls by the discount with every dollar of strike, if neither is worth exercising early. Below the
    money neither is, nearly; puts above it are, and would make the slope steeper and the discount greater than one.
    """
    found = []
    for expiry in chain.filter(pl.col("years") > 0.25).partition_by("expiry"):
        below = pairs(expiry).filter(pl.col("strike").is_between(0.5 * pl.col("spot"), 0.98 * pl.col("spot")))
        if below.height < 5:
            continue
        strike, gap = below["strike"].to_numpy(), (below["mid"] - below["mid_put"]).to_numpy()
        discount = -np.polyfit(strike, gap, 1)[0]
        found.append(-np.log(discount) / expiry["years"][0])
    if not found:
        raise ValueError("no expiry beyond a quarter has five pairs below the money; give the rate in `underlyings`")
    return float(np.median(found))


def pairs(chain: pl.DataFrame) -> pl.DataFrame:
    """Calls with the put of the same expiry and strike beside them."""
    calls, puts = (chain.filter(pl.col("option_type") == kind) for kind in ("call", "put"))
    return calls.join(puts, on=["expiry", "strike"], suffix="_put")


def tables_of(chain: pl.DataFrame, rate: float | None = None) -> dict[str, pl.DataFrame]:
    """The tables of instruments and market; forwards are left to put-call parity, which is what is tried here."""
    first = chain.head(1)
    return {
        "instruments": chain.select(
            "instrument_id", "underlying", "strike", "expiry",
            kind="option_type", quote=pl.lit("USD"), settlement=pl.lit("linear"), multiplier=pl.lit(100.0),
        ),
        "quotes": chain.select("instrument_id", "time", mark_price="mid", implied_vol="iv"),
        "underlyings": first.select("underlying", "time", index_price="spot", rate=pl.lit(rate, pl.Float64)),
    }  # fmt: skip


def closes(shared: Path, until: object) -> pl.DataFrame:
    """The history of SPY up to a time; a close stands at 16:00 in New York."""
    rows = newest(shared / "data" / "tradfi_daily", "etf_adjclose_*.parquet").filter(pl.col("symbol") == "SPY")
    rows = rows.select(time=at_close("date"), underlying="symbol", price="close").drop_nulls()
    return rows.filter(pl.col("time") <= until)


def priced(chain: pl.DataFrame, tables: dict[str, pl.DataFrame], history: pl.DataFrame) -> pl.DataFrame:
    """The chain with forward, discount, model price and Greeks of the engine; the file's delta is `delta_file`."""
    nobody = pl.DataFrame({"account_id": ["nobody"], "instrument_id": chain["instrument_id"][:1], "quantity": [0.0]})
    cash = pl.DataFrame({"account_id": ["nobody"], "asset": ["USD"], "amount": [0.0]})
    book = mx.read_book(instruments=tables["instruments"], positions=nobody, balances=cash)
    market = mx.read_market(quotes=tables["quotes"], underlyings=tables["underlyings"], history=history)
    found = market_chains(book.instruments, market)
    ours = option_table(book.instruments, market, found).with_columns(scatter=found.expiries.spread[found.expiry])
    ours = ours.drop("underlying", "kind", "expiry", "strike", "years")
    both = chain.rename({"delta": "delta_file"}).join(ours, on="instrument_id", maintain_order="left")
    sign = pl.when(pl.col("option_type") == "call").then(-1).otherwise(1)
    return both.join(untouched(both), on="expiry", how="left", maintain_order="left").with_columns(
        money=sign * (pl.col("strike") / pl.col("forward")).log()
    )


def untouched(rows: pl.DataFrame) -> pl.DataFrame:
    """The forward of each expiry by pairs 2 to 20 % below the money, where early exercise is worth next to nothing."""
    below = pairs(rows).filter(pl.col("strike").is_between(0.8 * pl.col("spot"), 0.98 * pl.col("spot")))
    forward = pl.col("strike") + (pl.col("mid") - pl.col("mid_put")) / pl.col("discount")
    return below.group_by("expiry").agg(untouched=forward.median())


def forwards(rows: pl.DataFrame, slopes: pl.DataFrame) -> pl.DataFrame:
    """Every third expiry: parity's forward and its scatter, that of pairs below the money, and discounts."""
    first = rows.unique("expiry", maintain_order=True).sort("expiry")
    slope = slopes.unique("expiry").select("expiry", slope="discount")
    return (
        first.join(slope, on="expiry", maintain_order="left")
        .gather_every(3)
        .select(
            pl.col("expiry").dt.strftime("%Y-%m-%d"),
            "forward",
            (1e4 * pl.col("scatter")).alias("scatter, bp"),
            pl.col("untouched").alias("below the money"),
            (100 * (pl.col("forward") / pl.col("spot")).log() / pl.col("years")).alias("carry, % a year"),
            (100 * pl.col("discount")).alias("discount by rate, %"),
            (100 * pl.col("slope")).alias("by slope, %"),
        )
    )


def against_mids(rows: pl.DataFrame) -> pl.DataFrame:
    """Prices from the file's volatilities less the mids, and deltas less the file's, by kind, moneyness and time."""
    error = pl.col("model_price") - pl.col("mid")
    where = pl.when(pl.col("money") > 0).then(pl.lit("in")).otherwise(pl.lit("out"))
    life = pl.when(pl.col("years") <= 1).then(pl.lit("to a year")).otherwise(pl.lit("longer"))
    # The file's delta is by the spot, the engine's by the forward.
    delta = 1e3 * (pl.col("delta") * pl.col("forward") / pl.col("spot") - pl.col("delta_file")).abs()
    known = rows.filter(pl.col("iv").is_not_null())
    groups = known.group_by(pl.format("{}, {}, {}", "option_type", where, life).alias(""))
    return groups.agg(
        pl.len().alias("options"),
        error.abs().median().alias("price, median"),
        error.abs().quantile(0.99, "linear").alias("99 %"),
        error.median().alias("bias"),
        pl.col("half").median().alias("half-spread"),
        delta.median().alias("delta/1000, median"),
        delta.quantile(0.99, "linear").alias("99 % of it"),
    ).sort("")


def early_exercise(rows: pl.DataFrame) -> pl.DataFrame:
    """What puts cost above the European ones that parity makes of the calls, by moneyness and time.

    The forward is that of pairs below the money: at the money it would carry some of the premium itself.
    """
    both = pairs(rows).drop_nulls("untouched").with_columns(
        european=pl.col("mid") - pl.col("discount") * (pl.col("untouched") - pl.col("strike")),
        noise=pl.col("half") + pl.col("half_put"),
    )  # fmt: skip
    premium = pl.col("mid_put") - pl.col("european")
    depths = ["over 20 % out", "5 to 20 % out", "at the money", "5 to 20 % in", "over 20 % in"]
    lives = ["to a quarter", "to a year", "longer"]
    life = np.digitize(both["years"].to_numpy(), [0.25, 1])
    group = np.digitize(both["money_put"].to_numpy(), MONEY) + len(depths) * life
    table = both.group_by(group=pl.Series(group)).agg(
        pl.len().alias("puts"),
        premium.median().alias("premium, median"),
        premium.quantile(0.9, "linear").alias("90 %"),
        (100 * premium / pl.col("mid_put")).median().alias("% of the put"),
        pl.col("noise").median().alias("half-spreads"),
    )
    table = table.filter(pl.col("group") % len(depths) >= 2).sort("group")
    names = [f"{depths[k % len(depths)]}, {lives[k // len(depths)]}" for k in table["group"]]
    return table.select(pl.Series("", names), pl.exclude("group"))


def main(shared: Path, out: Path) -> None:
    """Price the chain, hold it against its quotes, and write it down."""
    chain = chain_of(shared)
    rate, history = rate_of(chain), closes(shared, chain["time"][0])
    rows = priced(chain, tables_of(chain, rate), history)
    slopes = priced(chain, tables_of(chain), history)
    print(f"{rows.height:,} options on {rows['underlying'][0]}, {rows['expiry'].n_unique()} expiries")
    print(f"as of {rows['time'][0]:%Y-%m-%d %H:%M} UTC at {rows['spot'][0]:.2f}; rate of the chain {rate:.2%} a year")
    show("Forwards", forwards(rows, slopes))
    show("Black-76 on the file's volatilities and parity's forwards, against mids, USD", against_mids(rows))
    show("What early exercise is worth: puts less European puts, USD", early_exercise(rows))
    out.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(out / "priced.parquet")
    print(f"\nthe chain with model prices and Greeks: {out}/priced.parquet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An equity chain against European prices.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder above data/")
    parser.add_argument("--out", type=Path, default=Path("out/spy_options"), help="where results go")
    main(**vars(parser.parse_args()))
