"""Open interest by instrument, and by underlying, expiry and kind, with the Greeks of its long side.

Conventions: open interest is the long side, in contracts and in account currency (units times the worth of the
underlying); the short side stands beside it. Over a closed venue both are equal and every net Greek is zero: what is
told net is of the accounts at risk alone. Spot has no open interest. Amounts that need a price nobody knows are left
out of a sum, and the contracts they leave out are counted in `unvalued`.
"""

import numpy as np
import polars as pl

from marginax.instruments import Instruments
from marginax.venue.greeks import NAMES, Contracts
from marginax.venue.positions import Positions

KEYS = ("underlying", "expiry", "kind")
# What is summed over holders, in contracts.
SIDES = ("long", "short")
SUMS = tuple(f"{side}{suffix}" for suffix in ("", "_at_risk", "_without_margin") for side in SIDES)
COUNTS = ("positions_long", "positions_short")


def interest_by_instrument(instruments: Instruments, held: Positions, per: Contracts) -> pl.DataFrame:
    """One row an instrument that is no spot: what it is, what one contract of it is, and contracts of both sides: of
    all holders, of those at risk, of those without a margin; and how many positions there are."""
    count = len(instruments)
    sides = {"long": held.amount > 0, "short": held.amount < 0}
    size = np.abs(held.amount)
    groups = {"": np.ones(len(size), bool), "_at_risk": held.at_risk, "_without_margin": held.without_margin}
    sums = {
        f"{side}{suffix}": np.bincount(held.instrument, size * (chosen & group), minlength=count)
        for suffix, group in groups.items()
        for side, chosen in sides.items()
    }
    number = {
        f"positions_{side}": np.bincount(held.instrument[chosen], minlength=count) for side, chosen in sides.items()
    }
    is_future = ~instruments.is_option
    frame = pl.DataFrame(
        {
            "instrument_id": pl.Series(instruments.ids, dtype=pl.String),
            "underlying": pl.Series(instruments.underlying, dtype=pl.String),
            "expiry": pl.Series(instruments.expiry.astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "kind": pl.Series(np.where(is_future, instruments.kind, "option"), dtype=pl.String),
            "units": per.units,
            "price": per.price,
            "notional": per.notional,
            **{name: per.greeks[name] for name in NAMES},
            **sums,
            **number,
        }
    )
    return frame.filter(pl.Series(per.open))


def joined_interest(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The same of two books without a common account in one market."""
    fixed = [name for name in one.columns if name not in (*SUMS, *COUNTS, "instrument_id")]
    both = pl.concat([one, other]).group_by("instrument_id", maintain_order=True)
    return both.agg(pl.col(*fixed).first(), pl.col(*SUMS, *COUNTS).sum()).select(one.columns)


def interest_by_expiry(interest: pl.DataFrame) -> pl.DataFrame:
    """`open_interest.parquet`: one row for each underlying, expiry and kind (perpetual, future, option) that is held.

    Columns: `instruments` (that are held), `price` (worth of a unit of the underlying), `long_contracts`,
    `short_contracts`, `long_units`, `short_units` (of the underlying); `open_interest`, `short_interest`, `imbalance`
    (sum over instruments of the difference of the sides) in account currency; `at_risk`, `without_margin` (account
    currency, both sides) and `at_risk_share`; `positions_long`, `positions_short`; Greeks of the long side, and with
    `net_` in front those of the accounts at risk, net; `unvalued` and `without_greeks`, the contracts of both sides
    that have no price, and no Greeks.
    """
    long, short = pl.col("long"), pl.col("short")
    held = interest.filter((long > 0) | (short > 0)).with_columns(
        pl.when(pl.col("notional").is_finite()).then("notional").alias("notional")
    )
    money, units = pl.col("notional"), pl.col("units").fill_nan(None)
    net = pl.col("long_at_risk") - pl.col("short_at_risk")
    greeks = {name: pl.col(name).fill_nan(None) for name in NAMES}
    gross_at_risk = pl.col("long_at_risk") + pl.col("short_at_risk")
    frame = held.group_by(*KEYS, maintain_order=True).agg(
        pl.len().alias("instruments"),
        pl.col("price").first().fill_nan(None),
        long.sum().alias("long_contracts"),
        short.sum().alias("short_contracts"),
        (long * units).sum().alias("long_units"),
        (short * units).sum().alias("short_units"),
        (long * money).sum().alias("open_interest"),
        (short * money).sum().alias("short_interest"),
        ((long - short).abs() * money).sum().alias("imbalance"),
        (gross_at_risk * money).sum().alias("at_risk"),
        ((pl.col("long_without_margin") + pl.col("short_without_margin")) * money).sum().alias("without_margin"),
        pl.col(*COUNTS).sum(),
        *((long * greek).sum().alias(name) for name, greek in greeks.items()),
        *((net * greek).sum().alias(f"net_{name}") for name, greek in greeks.items()),
        (long + short).filter(money.is_null()).sum().alias("unvalued"),
        (long + short).filter(greeks["delta"].is_null()).sum().alias("without_greeks"),
    )
    gross = pl.col("open_interest") + pl.col("short_interest")
    share = pl.when(gross > 0).then(pl.col("at_risk") / gross).alias("at_risk_share")
    order = [*frame.columns[: frame.columns.index("at_risk") + 1], "at_risk_share"]
    rest = [name for name in frame.columns if name not in order]
    return frame.with_columns(share).select(*order, *rest).sort(*KEYS, nulls_last=False)
