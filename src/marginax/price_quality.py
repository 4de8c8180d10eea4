"""How old and how certain prices are. What is not known is NaN here: what it counts as, whoever charges for it says."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
import polars as pl
from jaxtyping import Float

from marginax.market import Market

DAY_MICROS = 86_400_000_000


class PriceQuality(eqx.Module):
    """Ages in days at the time of the market, and confidences (one sigma, relative), of marks and of index prices."""

    quote_age: Float[Any, " instruments"]
    quote_confidence: Float[Any, " instruments"]
    age: Float[Any, " underlyings"]
    confidence: Float[Any, " underlyings"]


def price_quality(market: Market, instruments: Sequence[str]) -> PriceQuality:
    """The quality of the marks of these instruments, in their order, and of the index price of every underlying.

    A time after that of the market is an age of zero.
    """
    listed = pl.DataFrame({"instrument_id": instruments}, schema={"instrument_id": pl.String})
    quotes = listed.join(market.quotes, on="instrument_id", how="left", maintain_order="left")
    return PriceQuality(*_columns(quotes, market), *_columns(market.underlyings, market))


def _columns(rows: pl.DataFrame, market: Market) -> tuple[np.ndarray, np.ndarray]:
    passed = (pl.lit(market.as_of) - pl.col("time")).dt.total_microseconds() / DAY_MICROS
    found = rows.select(age=passed.clip(lower_bound=0.0), confidence="confidence")
    age, confidence = (found[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("age", "confidence"))
    return age, confidence
