"""What a market says of its own liquidity: volume, depth and spread by underlying, and the order books that are given.

What is missing is zero here; a charge puts its own worst in the place of it.
"""

from typing import Any

import equinox as eqx
import numpy as np
import polars as pl
from jaxtyping import Float

from marginax.instruments import Instruments
from marginax.market import Market
from marginax.order_books import book_levels

DAYS_A_YEAR = 365.0
BASIS_POINTS = 1e4
# `underlyings.depth` is what lies within so much of the mid price on one side.
DEPTH_WITHIN = 50 / BASIS_POINTS


class LiquidityArrays(eqx.Module):
    """By underlying `adv` (a day's volume) and `depth` (within `DEPTH_WITHIN`, one side) in account currency, and
    `spread`, relative; zero where it is not known. `days` to the expiry of each instrument, zero where it has none.

    `levels` are the depth and the distance of the levels of two books for each underlying, bids before asks, as
    `book_levels` has them; None where none is given.
    """

    adv: Float[Any, " underlyings"]
    depth: Float[Any, " underlyings"]
    spread: Float[Any, " underlyings"]
    days: Float[Any, " instruments"]
    levels: tuple[Float[Any, "books levels"], Float[Any, "books levels"]] | None


def market_liquidity(instruments: Instruments, market: Market, listed: np.ndarray) -> LiquidityArrays:
    """The liquidity of a market for the instruments that are `listed`, by number."""
    table = market.underlyings.with_columns(pl.col("adv", "depth", "spread_bps").fill_null(0.0))
    now = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    left = (instruments.expiry[listed].astype("datetime64[us]") - now) / np.timedelta64(1, "D")
    return LiquidityArrays(
        adv=table["adv"].to_numpy(),
        depth=table["depth"].to_numpy(),
        spread=table["spread_bps"].to_numpy() / BASIS_POINTS,
        days=np.nan_to_num(left),
        levels=book_levels(instruments, market),
    )
