"""The histories that the studies stand on, put together from a folder of market data.

The folder is `$MARGINAX_SHARED/data` of a development checkout; its files are other people's and are not part of the
package. Every function gives a table `history`: time, underlying, price.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from marginax.problems import BadInput, Problem

# The coins of the panel that trade since 2017.
SEVEN = ("ADA", "BCH", "BNB", "BTC", "DOGE", "ETH", "XRP")
# Money market rates move by differences: 0.05 % doubled is no crash.
RATES = ("USD-FED-FUND", "USD-LIBOR-3M", "USD-LIBOR-6M", "GBP-LIBOR-3M")


def seven_coins(folder: Path) -> pl.DataFrame:
    """Seven coins since November 2017."""
    return _panel(folder).filter(pl.col("underlying").is_in(SEVEN))


def crypto(folder: Path) -> pl.DataFrame:
    """The ten coins of the panel, and LUNA to its end."""
    luna = _long(folder, "crypto_daily/yahoo_usd_1d").filter(pl.col("underlying") == "LUNA")
    return pl.concat([_panel(folder), luna])


def wide_crypto(folder: Path) -> pl.DataFrame:
    """Every coin with a year of daily closes up to 2025, pegged ones too, and the panel's to 2026."""
    ten = _panel(folder)
    yahoo = _long(folder, "crypto_daily/yahoo_usd_1d")
    alts = _long(folder, "crypto_daily/yahoo_usd_1d_alts_to_2022_02")
    others = yahoo.filter(~pl.col("underlying").is_in(ten["underlying"].unique().implode()))
    known = pl.concat([ten, others])
    return pl.concat([known, alts.filter(~pl.col("underlying").is_in(known["underlying"].unique().implode()))])


def multi_asset(folder: Path) -> pl.DataFrame:
    """Stocks, the S&P 500, ETFs, currencies, oil and short rates, from 1990 on."""
    parts = [
        _long(folder, "tradfi_daily/sp500_20stocks_adjclose_1990_2022", "adj_close"),
        _long(folder, "tradfi_daily/spx_index_1927_2026"),
        _long(folder, "tradfi_daily/etf_adjclose_1993_2026"),
        _long(folder, "tradfi_daily/fx_close_1996_2025"),
        _long(folder, "tradfi_daily/brent_spot_1987_2026", "price"),
        _long(folder, "tradfi_daily/short_rates_fixings_1962_2015", "rate", "series"),
    ]
    # A rate fixed on Friday and printed again on Sunday was not fixed on Sunday.
    return pl.concat(parts).filter(pl.col("time").dt.year() >= 1990, pl.col("time").dt.weekday() <= 5)


HISTORIES: dict[str, Callable[[Path], pl.DataFrame]] = {
    "seven coins": seven_coins,
    "crypto": crypto,
    "wide crypto": wide_crypto,
    "multi-asset": multi_asset,
}


def _panel(folder: Path) -> pl.DataFrame:
    wide = read(folder, "crypto_daily/panel_close_stitched")
    return _tidy(wide.unpivot(index="date", variable_name="underlying", value_name="price"))


def _long(folder: Path, name: str, price: str = "close", symbol: str = "symbol") -> pl.DataFrame:
    return _tidy(read(folder, name).rename({symbol: "underlying", price: "price"}))


def _tidy(rows: pl.DataFrame) -> pl.DataFrame:
    time = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("time")
    return rows.select(time, "underlying", pl.col("price").cast(pl.Float64)).drop_nulls().sort("time", "underlying")


def read(folder: Path, name: str) -> pl.DataFrame:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        what, remedy = "there is no such file", "Name the folder of the market data with `--data`"
        raise BadInput([Problem(str(path), None, None, what, remedy)])
    return pl.read_parquet(path)
