"""Instruments: what can be held, in the order that makes every grouping of an account's positions a run.

Instruments are numbered by (underlying, expiry, kind, strike), so that positions sorted by number fall into runs by
underlying, and within it by expiry.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

OWNED, LINEAR, INVERSE = 0, 1, 2
"""How a contract pays: its whole value (spot, options paid upfront), its price change (linear futures, options margined
like them), or the change of its inverse in coins."""
OPTIONS = ("call", "put")


@dataclass(frozen=True)
class Instruments:
    """The instrument table in numbering order; all arrays are of shape `instruments`.

    `underlying`, `quote` and `settle` are names; `multiplier` is coins per contract, or quote currency per contract for
    inverse contracts; `expiry` is UTC microseconds, NaT where there is none. `settle` is the asset that P&L is paid in;
    where a linear contract settles in another asset than its quote, a quote unit of P&L pays one unit of that asset.
    `strike` is in the quote currency, NaN where there is none. `margin_multiplier` raises margins by hand, one where
    nothing is said. An option of inverse settlement is quoted and paid in the coin it is on: `coin_settled`.
    """

    ids: np.ndarray
    kind: np.ndarray
    underlying: np.ndarray
    quote: np.ndarray
    settle: np.ndarray
    style: np.ndarray
    multiplier: Float64[np.ndarray, " instruments"]
    expiry: np.ndarray
    strike: Float64[np.ndarray, " instruments"]
    margin_multiplier: Float64[np.ndarray, " instruments"]
    coin_settled: Bool[np.ndarray, " instruments"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_basis(self) -> Bool[np.ndarray, " instruments"]:
        """Perpetuals and futures trade away from their index and carry a basis factor."""
        return np.isin(self.kind, ["perpetual", "future"])

    @property
    def is_option(self) -> Bool[np.ndarray, " instruments"]:
        """Calls and puts."""
        return np.isin(self.kind, OPTIONS)


def settlement_asset() -> pl.Expr:
    """The asset that P&L is paid in: as stated, else the coin of an inverse contract, else the quote currency."""
    inverse = pl.col("settlement") == "inverse"
    usual = pl.when(inverse).then(pl.col("underlying")).otherwise(pl.col("quote"))
    return pl.coalesce("settle_asset", usual).alias("settle")


def number_instruments(rows: pl.DataFrame) -> Instruments:
    """Instruments in canonical order, from admitted rows of the table `instruments`."""
    inverse = pl.col("settlement") == "inverse"
    option = pl.col("kind").is_in(list(OPTIONS))
    upfront = option & (pl.col("premium").fill_null("upfront") == "upfront")
    style = (
        pl.when((pl.col("kind") == "spot") | upfront)
        .then(OWNED)
        .when(inverse & ~option)
        .then(INVERSE)
        .otherwise(LINEAR)
        .alias("style")
    )
    frame = rows.select(
        "instrument_id",
        "kind",
        "underlying",
        "multiplier",
        "expiry",
        "strike",
        pl.col("margin_multiplier").fill_null(1.0),
        "quote",
        settlement_asset(),
        style,
        (inverse & option).alias("coin_settled"),
    ).sort("underlying", "expiry", "kind", "strike", "instrument_id", nulls_last=False)
    return Instruments(
        ids=frame["instrument_id"].to_numpy(),
        kind=frame["kind"].to_numpy(),
        underlying=frame["underlying"].to_numpy(),
        quote=frame["quote"].to_numpy(),
        settle=frame["settle"].to_numpy(),
        style=frame["style"].to_numpy().astype(np.int32),
        multiplier=frame["multiplier"].to_numpy(),
        expiry=frame["expiry"].dt.replace_time_zone(None).to_numpy(),
        strike=frame["strike"].to_numpy().astype(float),
        margin_multiplier=frame["margin_multiplier"].to_numpy(),
        coin_settled=frame["coin_settled"].to_numpy(),
    )
