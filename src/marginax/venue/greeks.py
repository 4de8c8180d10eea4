"""What one contract of everything listed is to the venue: its size in units of the underlying, its worth, its Greeks.

Conventions: by instrument number of the book. Greeks are of one contract held long, those of `options.parquet` times
its size, in account currency: `delta` in units of the underlying, `gamma` the change of delta for a rise of 1 % of the
price, `vega` per 1.00 of volatility, `theta` per year. The unit of an underlying is worth its index price, or its level
where shocks are absolute. NaN is what nobody knows.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from marginax.exposures import Exposures
from marginax.instruments import INVERSE, Instruments
from marginax.market import Market

NAMES = ("delta", "gamma", "vega", "theta")
ONE_PER_CENT = 0.01


class Contracts(NamedTuple):
    """By instrument: whether it has open interest (spot is owned, and has none), units of the underlying in one
    contract, the worth of a unit and of the quote currency in account currency, and the Greeks of one contract.

    `worst_delta` is delta, and of an option whose delta nobody knows all of its underlying (a put's is negative).
    """

    open: Bool[np.ndarray, " instruments"]
    units: Float64[np.ndarray, " instruments"]
    price: Float64[np.ndarray, " instruments"]
    quote: Float64[np.ndarray, " instruments"]
    greeks: dict[str, Float64[np.ndarray, " instruments"]]
    worst_delta: Float64[np.ndarray, " instruments"]

    @property
    def notional(self) -> Float64[np.ndarray, " instruments"]:
        """Worth of the underlying of one contract, account currency."""
        return self.units * self.price


def contracts(instruments: Instruments, market: Market, exposures: Exposures, options: pl.DataFrame) -> Contracts:
    """The contracts of a book in its market; `options` is the table of `option_table`.

    What has no quote is as large as its multiplier says; of an inverse contract without one the index stands for the
    mark. What has no index price has no worth.
    """
    table, arrays = market.underlyings, exposures.market
    worth = np.where(arrays.absolute, arrays.level, arrays.index)
    prices = dict(zip(table["underlying"], worth.tolist(), strict=True))
    money = {**dict(zip(table["underlying"], np.asarray(arrays.index).tolist(), strict=True)), market.currency: 1.0}
    price = np.array([prices.get(name, np.nan) for name in instruments.underlying], float)
    # A quote currency of a future that has no price counts as the account currency, as in the cube.
    quote = np.array([money.get(name, 1.0) for name in instruments.quote], float)
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    mark = np.array([marks.get(name, np.nan) for name in instruments.ids], float)
    mark = np.where(np.isnan(mark), price / quote, mark)
    inverse = instruments.style == INVERSE
    units = np.where(inverse, instruments.multiplier / np.where(inverse, mark, 1.0), instruments.multiplier)
    option = instruments.is_option
    said = pl.DataFrame({"instrument_id": pl.Series(instruments.ids, dtype=pl.String)}).join(
        options.select("instrument_id", *NAMES), on="instrument_id", how="left", maintain_order="left"
    )
    own = {name: said[name].to_numpy().astype(float) for name in NAMES}
    per_unit = {name: np.where(option, own[name], 1.0 if name == "delta" else 0.0) for name in NAMES}
    whole = np.where(instruments.kind == "put", -1.0, 1.0)
    return Contracts(
        open=instruments.kind != "spot",
        units=units,
        price=price,
        quote=quote,
        greeks={
            "delta": units * per_unit["delta"],
            # Options' gamma is per quote unit of the price: so much is one per cent of it.
            "gamma": units * per_unit["gamma"] * ONE_PER_CENT * price / quote,
            "vega": units * per_unit["vega"] * quote,
            "theta": units * per_unit["theta"] * quote,
        },
        worst_delta=units * np.where(np.isnan(per_unit["delta"]), whole, per_unit["delta"]),
    )
