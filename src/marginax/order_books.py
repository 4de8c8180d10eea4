"""Order books as one book for each underlying and side: levels of all its instruments, the cheapest first.

A level closes delta: so much of the account currency where prices move by logarithms, so many units where they move by
units. Its distance is what one of that loses against the touch of its own instrument; half of the spread, which lies
before the touch, is charged by itself.
"""

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.instruments import INVERSE, Instruments
from marginax.market import Market

SIDES = ("bid", "ask")
Levels = tuple[Float64[np.ndarray, "books levels"], Float64[np.ndarray, "books levels"]]


def book_levels(instruments: Instruments, market: Market) -> Levels | None:
    """Cumulated depth and distance by underlying and side (bids before asks), padded with the last level.

    None where there is none. Levels of instruments that are not known, or have no price, are left out: `match` names
    them.
    """
    rows = market.tables["order_book"].rows
    if not rows.height:
        return None
    levels = _levels(rows, _units(instruments, market)).sort("book", "distance", maintain_order=True)
    levels = levels.with_columns(
        pl.col("size").cum_sum().over("book").alias("depth"), pl.int_range(pl.len()).over("book").alias("level")
    )
    books, width = 2 * market.underlyings.height, int(levels["level"].to_numpy().max(initial=-1)) + 1
    if not width:
        return None
    depth, distance = np.zeros((books, width)), np.zeros((books, width))
    for (book,), own in levels.group_by("book"):
        for table, column in ((depth, "depth"), (distance, "distance")):
            values = own[column].to_numpy()
            table[int(str(book))] = np.pad(values, (0, width - own.height), mode="edge")
    return depth, distance


def depth_within(levels: Levels | None, within: float) -> Float64[np.ndarray, " underlyings"] | None:
    """What lies within a distance of the touch on the thinner side, by underlying; zero without a book."""
    if levels is None:
        return None
    depth, distance = levels
    inside = np.max(np.where(distance <= within, depth, 0), axis=1).reshape(-1, 2)
    return inside.min(axis=1)


def _units(instruments: Instruments, market: Market) -> pl.DataFrame:
    """By instrument: its underlying by number, the delta of one contract, and how its distances are to be read."""
    table = market.underlyings
    place = {name: k for k, name in enumerate(table["underlying"])}
    price = {**dict(table.select("underlying", "index_price").iter_rows()), market.currency: 1.0}
    absolute = dict(table.select("underlying", pl.col("shock") == "absolute").iter_rows())
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    rows = []
    for k in np.flatnonzero(~instruments.is_option):
        name, of = str(instruments.ids[k]), str(instruments.underlying[k])
        quote, settle = price.get(str(instruments.quote[k])), price.get(str(instruments.settle[k]))
        if of not in place or name not in marks or settle is None:
            continue
        # A currency that nothing prices is worth what the contract settles in, as in the cube.
        rate = settle if quote is None else quote
        inverse = bool(instruments.style[k] == INVERSE)
        worth = settle / marks[name] if inverse else settle * marks[name]
        unit = float(instruments.multiplier[k]) * (settle / rate if absolute[of] else worth)
        rows.append((name, place[of], unit, inverse, absolute[of], rate))
    schema = {"instrument_id": pl.String, "asset": pl.Int64, "unit": pl.Float64, "inverse": pl.Boolean,
              "absolute": pl.Boolean, "rate": pl.Float64}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _levels(rows: pl.DataFrame, units: pl.DataFrame) -> pl.DataFrame:
    """Levels with the number of their book, their size in delta and their distance from the touch."""
    price, bid = pl.col("price"), pl.col("side") == "bid"
    touch = pl.when(bid).then(price.max()).otherwise(price.min()).over("instrument_id", "side")
    relative = pl.when("inverse").then(touch / price - 1).otherwise(price / touch - 1)
    away = pl.when("absolute").then((price - touch) * pl.col("rate")).otherwise(relative).abs()
    joined = rows.join(units, on="instrument_id", how="inner", maintain_order="left")
    return joined.select(
        book=2 * pl.col("asset") + (~bid).cast(pl.Int64), size=pl.col("size") * pl.col("unit"), distance=away
    )
