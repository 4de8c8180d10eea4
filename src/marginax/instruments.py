"""Instruments: what can be held, in the order that makes every grouping of an account's positions a run.

Instruments are numbered by (underlying, expiry, kind, strike), so that positions sorted by number fall into runs by
underlying, and within it by expiry.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

SPOT, LINEAR, INVERSE = 0, 1, 2
"""How a contract pays: its whole value, its price change, or the change of its inverse in coins."""


@dataclass(frozen=True)
class Instruments:
    """The instrument table in numbering order; all arrays are of shape `instruments`.

    `underlying`, `quote` and `settle` are names; `multiplier` is coins per contract, or quote currency per contract for
    inverse contracts; `expiry` is UTC microseconds, NaT where there is none. `settle` is the asset that P&L is paid in;
    where a linear contract settles in another asset than its quote, a quote unit of P&L pays one unit of that asset.
    """

    ids: np.ndarray
    kind: np.ndarray
    underlying: np.ndarray
    quote: np.ndarray
    settle: np.ndarray
    style: np.ndarray
    multiplier: Float64[np.ndarray, " instruments"]
    expiry: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_basis(self) -> Bool[np.ndarray, " instruments"]:
        """Perpetuals and futures trade away from their index and carry a basis factor."""
        return np.isin(self.kind, ["perpetual", "future"])


def settlement_asset() -> pl.Expr:
    """The asset that P&L is paid in: as stated, else the coin of an inverse contract, else the quote currency."""
    inverse = pl.col("settlement") == "inverse"
    usual = pl.when(inverse).then(pl.col("underlying")).otherwise(pl.col("quote"))
    return pl.coalesce("settle_asset", usual).alias("settle")


def number_instruments(rows: pl.DataFrame) -> Instruments:
    """Instruments in canonical order, from admitted rows of the table `instruments`."""
    inverse = pl.col("settlement") == "inverse"
    frame = rows.select(
        "instrument_id",
        "kind",
        "underlying",
        "multiplier",
        "expiry",
        "strike",
        "quote",
        settlement_asset(),
        pl.when(pl.col("kind") == "spot").then(SPOT).when(inverse).then(INVERSE).otherwise(LINEAR).alias("style"),
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
    )
