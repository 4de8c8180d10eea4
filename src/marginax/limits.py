"""Positions that are large for their market: net deltas beyond a share of depth, volume or open interest.

Breaches are told beside the margins and change none of them. What is not known of a market counts as the configured
worst, so that no limit falls silent because data is missing.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.book import Book
from marginax.config import Config
from marginax.exposures import Exposures
from marginax.instruments import Instruments
from marginax.liquidity import DEPTH_WITHIN
from marginax.market import Market
from marginax.options import OptionPricing
from marginax.order_books import depth_within
from marginax.sensitivities import unit_sensitivities

NAMED = 20
SCHEMA = {
    "account_id": pl.String,
    "underlying": pl.String,
    "limit": pl.String,
    "position_usd": pl.Float64,
    "allowed_usd": pl.Float64,
    "allowed_share": pl.Float64,
}


def limit_breaches(
    book: Book, market: Market, exposures: Exposures, settings: Config, *, factors: int
) -> pl.DataFrame | None:
    """One row for each account, underlying and limit (depth, adv, open_interest) that is passed; None without limits.

    `position_usd` is the absolute net delta of the positions, isolated ones included, and `allowed_usd` the most that
    the limit allows, both in account currency; `allowed_share` is the part of the position that may stay. Rows are in
    the order of accounts.
    """
    limits = settings.limits.shares
    if not limits:
        return None
    size = _sizes(exposures, settings, factors)
    held = exposures.positions
    table = market.underlyings
    positions = (
        pl.DataFrame(
            {
                "account": book.holder_accounts[held.owners],
                "asset": exposures.groups[held.columns],
                "size": held.amounts * size[held.columns],
            },
            schema={"account": pl.Int64, "asset": pl.Int64, "size": pl.Float64},
        )
        .group_by("account", "asset", maintain_order=True)
        .agg(pl.col("size").sum().abs())
    )
    size_of, names = positions["size"].to_numpy(), pl.Series(book.accounts, dtype=pl.String)
    frames = [pl.DataFrame(schema=SCHEMA)]
    for limit, share in limits.items():
        allowed = share * _measure(limit, table, exposures, settings)[positions["asset"].to_numpy()]
        beyond = size_of > allowed
        frames.append(
            pl.DataFrame(
                {
                    "account_id": names[positions["account"].to_numpy()[beyond]],
                    "underlying": table["underlying"][positions["asset"].to_numpy()[beyond]],
                    "limit": pl.repeat(limit, int(beyond.sum()), eager=True),
                    "position_usd": size_of[beyond],
                    "allowed_usd": allowed[beyond],
                    "allowed_share": allowed[beyond] / size_of[beyond],
                },
                schema=SCHEMA,
            )
        )
    return pl.concat(frames).sort("account_id", "underlying", maintain_order=True)


def breach_notes(breaches: pl.DataFrame | None) -> dict[str, Any]:
    """What the manifest says of limits: how many are passed by whom, and which the furthest; nothing without limits."""
    if breaches is None:
        return {}
    largest = breaches.sort("allowed_share").head(NAMED)
    return {
        "count": breaches.height,
        "accounts": breaches["account_id"].n_unique(),
        "by_limit": dict(breaches.group_by("limit").len().sort("limit").iter_rows()),
        "by_underlying": dict(breaches.group_by("underlying").len().sort("underlying").iter_rows()),
        "furthest": largest.select("account_id", "underlying", "limit", "allowed_share").rows(named=True),
    }


def joined_notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`breach_notes` of two books without a common account."""
    if not one or not other:
        return dict(one or other)
    furthest = sorted([*one["furthest"], *other["furthest"]], key=lambda row: row["allowed_share"])
    return {
        **{name: one[name] + other[name] for name in ("count", "accounts")},
        **{name: dict(Counter(one[name]) + Counter(other[name])) for name in ("by_limit", "by_underlying")},
        "furthest": furthest[:NAMED],
    }


def unknown_liquidity(instruments: Instruments, market: Market) -> dict[str, list[str]]:
    """Underlyings of what is listed whose volume, depth or spread nobody says, so that the configured worst counts.

    An order book stands for a depth.
    """
    traded = pl.Series(np.unique(instruments.underlying.astype(str)), dtype=pl.String)
    rows = market.underlyings.filter(pl.col("underlying").is_in(traded.implode()))
    booked = pl.Series(instruments.ids, dtype=pl.String).is_in(
        market.tables["order_book"].rows["instrument_id"].unique().implode()
    )
    names = pl.Series(instruments.underlying.astype(str), dtype=pl.String).filter(booked)
    unknown = {
        name: rows.filter(pl.col(name).fill_null(0) == 0)["underlying"] for name in ("adv", "depth", "spread_bps")
    }
    unknown["depth"] = unknown["depth"].filter(~unknown["depth"].is_in(names.implode()))
    return {name: found.to_list() for name, found in unknown.items() if len(found)}


def _sizes(exposures: Exposures, settings: Config, factors: int) -> Float64[np.ndarray, " instruments"]:
    """Delta in account currency of one unit of each instrument."""
    pricing = OptionPricing.from_settings(settings.options, settings.volatility)
    with jax.enable_x64(True):
        delta = np.asarray(_slopes(exposures.instruments, exposures.market, pricing, factors=factors).delta)
    level = np.where(exposures.market.absolute, exposures.market.level, 1.0)
    return delta * level[exposures.instruments.underlying]


@partial(jax.jit, static_argnames="factors")
def _slopes(instruments: Any, market: Any, pricing: OptionPricing, *, factors: int) -> Any:
    return unit_sensitivities(instruments, market, factors, pricing)


def _measure(
    limit: str, table: pl.DataFrame, exposures: Exposures, settings: Config
) -> Float64[np.ndarray, " underlyings"]:
    """What a limit is a share of, by underlying, at least the worst; a depth that is not said is the book's."""
    known = table[limit].fill_null(0.0).to_numpy()
    liquidity = exposures.market.liquidity
    if limit == "depth" and liquidity is not None:
        within = depth_within(liquidity.levels, DEPTH_WITHIN)
        if within is not None:
            level = np.where(exposures.market.absolute, exposures.market.level, 1.0)
            known = np.where(known > 0, known, within * level)
    return np.maximum(known, getattr(settings.limits, f"worst_{limit}"))
