"""Real accounts as portfolios: what they held one day, in shares of their gross notional, and their equity likewise.

Carried back through history each keeps its weights and its equity over gross notional. Coins without a daily history
are left out, and accounts that held more than a fifth of their notional in such coins; so are accounts without value.
"""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.problems import BadInput, Problem
from marginax_calibration.portfolios import Leg, Portfolio, portfolio

ACCOUNTS, POSITIONS = "hyperliquid_top_accounts_[0-9]*.parquet", "hyperliquid_top_accounts_positions_[0-9]*.parquet"
BINANCE, YAHOO = ("binance_1d_[0-9]*.parquet", "binance_1d_extra_*.parquet"), "yahoo_usd_1d.parquet"
# Share of an account's gross notional that its coins with a history must make up, and bars that make a history.
KEPT, BARS = 0.8, 300


def account_history(folder: Path) -> pl.DataFrame:
    """Daily closes of all coins: Binance, and before its first day Yahoo at Binance's level of that day."""
    daily = folder / "crypto_daily"
    binance = pl.concat([_closes(_newest(daily, pattern)) for pattern in BINANCE])
    binance = binance.unique(["time", "underlying"], keep="first")
    yahoo = _closes(_newest(daily, YAHOO))
    first = binance.sort("time").group_by("underlying").first().rename({"time": "begin", "price": "level"})
    seam = yahoo.join(first, left_on=["time", "underlying"], right_on=["begin", "underlying"])
    scale = seam.select("underlying", begin="time", scale=pl.col("level") / pl.col("price"))
    before = yahoo.join(scale, on="underlying").filter(pl.col("time") < pl.col("begin"))
    before = before.select("time", "underlying", pl.col("price") * pl.col("scale"))
    long = pl.concat([before, binance]).sort("underlying", "time")
    return long.filter(pl.len().over("underlying") > BARS)


def account_portfolios(
    folder: Path, history: pl.DataFrame
) -> tuple[list[Portfolio], Float64[np.ndarray, " portfolios"]]:
    """The accounts, and the equity of each as a share of its gross notional.

    Raises BadInput where the data is not there.
    """
    where = folder / "liquidations_accounts"
    known = history["underlying"].unique().implode()
    coin = pl.col("coin")
    held = pl.read_parquet(_newest(where, POSITIONS)).select(
        "account",
        underlying=pl.when(coin.str.contains("^k[A-Z]")).then(coin.str.slice(1)).otherwise(coin),
        value=pl.when(pl.col("side") == "Long").then(1.0).otherwise(-1.0) * pl.col("position_value_usd"),
    )
    held = held.with_columns(gross=pl.col("value").abs().sum().over("account"))
    held = held.filter(pl.col("underlying").is_in(known))
    worth = pl.read_parquet(_newest(where, ACCOUNTS)).select("account", equity="account_value_usd")
    held = held.join(worth, on="account").filter(
        pl.col("value").abs().sum().over("account") >= KEPT * pl.col("gross"), pl.col("equity") > 0
    )
    made, equities = [], []
    for (account,), rows in sorted(held.partition_by("account", as_dict=True).items()):
        legs = [Leg(name, value) for name, value in rows.select("underlying", "value").sort("underlying").iter_rows()]
        made.append(portfolio(str(account), "account", legs))
        equities.append(rows["equity"][0] / rows["gross"][0])
    return made, np.array(equities)


def _closes(file: Path) -> pl.DataFrame:
    time = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.read_parquet(file).select(time=time, underlying="symbol", price=pl.col("close").cast(pl.Float64))


def _newest(folder: Path, pattern: str) -> Path:
    """The last file whose name fits: a later period has a later name."""
    files = sorted(folder.glob(pattern))
    if not files:
        what, remedy = "there is no such file", "Name the folder of the market data with `--data`"
        raise BadInput([Problem(str(folder / pattern), None, None, what, remedy)])
    return files[-1]
