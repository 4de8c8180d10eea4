"""How concentrated open interest is: Herfindahl's index of the accounts' shares, and the largest of them.

Conventions: an account is all of its positions, isolated ones too. By underlying each side is a market of its own: an
account's share is of all that is long, or of all that is short. Over the whole venue a share is of the gross. An index
of 1 is one account alone, 1 / n is n equal ones. Amounts are in account currency; contracts without a price are left
out.
Source: Herfindahl (1950); the sum of squared shares as in the Horizontal Merger Guidelines of the U.S. (2010), 5.3.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from marginax.venue.greeks import Contracts
from marginax.venue.positions import Positions

GROSS = "gross"
# The venue as a whole has no underlying.
KEYS = ("underlying", "side")
SCHEMA = {"underlying": pl.String, "side": pl.String, "total": pl.Float64, "squares": pl.Float64, "accounts": pl.UInt32}


@dataclass(frozen=True)
class Concentration:
    """What shares are made of, so that it adds up over books without a common account: by underlying (null for the
    venue) and side (long, short, gross) the sum over accounts, that of squares, and the largest accounts.

    `net` has the sum over accounts of their absolute net delta, by underlying, in account currency.
    """

    sides: pl.DataFrame
    largest: pl.DataFrame
    net: pl.DataFrame
    keep: int

    @classmethod
    def of(
        cls, accounts: np.ndarray, underlyings: np.ndarray, held: Positions, per: Contracts, *, keep: int
    ) -> "Concentration":
        """Of the positions of a book; `underlyings` by instrument, `keep` the largest accounts that are kept."""
        at = held.instrument
        money = np.nan_to_num(held.amount * per.notional[at], nan=0.0, posinf=np.inf, neginf=-np.inf)
        money = np.where(per.open[at], money, 0.0)
        names, code = np.unique(underlyings.astype(str), return_inverse=True)
        rows = pl.DataFrame(
            {
                "account": held.account,
                "code": code[at],
                "long": np.maximum(money, 0),
                "short": np.maximum(-money, 0),
                "net": np.where(per.open[at], np.nan_to_num(held.amount * per.worst_delta[at] * per.price[at]), 0.0),
            }
        )
        each = rows.group_by("account", "code", maintain_order=True).agg(pl.col("long", "short", "net").sum())
        label = pl.DataFrame({"code": np.arange(len(names)), "underlying": pl.Series(names, dtype=pl.String)})
        each = each.join(label, on="code", maintain_order="left")
        net = each.group_by("underlying").agg(pl.col("net").abs().sum()).sort("underlying")
        whole = each.group_by("account", maintain_order=True).agg(
            amount=pl.col("long").sum() + pl.col("short").sum(),
            underlying=pl.lit(None, pl.String),
            side=pl.lit(GROSS),
        )
        parts = [
            each.select("account", amount=side, underlying="underlying", side=pl.lit(side))
            for side in ("long", "short")
        ]
        ids = pl.Series(accounts, dtype=pl.String)
        shares = pl.concat([*parts, whole]).filter(pl.col("amount") > 0)
        sides = shares.group_by(*KEYS, maintain_order=True).agg(
            total=pl.col("amount").sum(), squares=(pl.col("amount") ** 2).sum(), accounts=pl.len()
        )
        # The rank among equals is that of the account, so that no order of rows shows.
        best = (
            shares.sort("amount", "account", descending=[True, False]).group_by(*KEYS, maintain_order=True).head(keep)
        )
        best = best.with_columns(ids.gather(best["account"]).alias("account_id"))
        return cls(sides.cast(SCHEMA), best.select(*KEYS, "account_id", "amount"), net, keep)  # type: ignore[arg-type]

    def __add__(self, other: "Concentration") -> "Concentration":
        sides = pl.concat([self.sides, other.sides]).group_by(*KEYS, maintain_order=True)
        largest = pl.concat([self.largest, other.largest]).sort("amount", "account_id", descending=[True, False])
        net = pl.concat([self.net, other.net]).group_by("underlying").agg(pl.col("net").sum()).sort("underlying")
        return Concentration(
            sides.agg(pl.col("total", "squares", "accounts").sum()).select(list(SCHEMA)),
            largest.group_by(*KEYS, maintain_order=True).head(self.keep).select(self.largest.columns),
            net,
            self.keep,
        )

    def shares(self) -> pl.DataFrame:
        """By underlying and side: accounts, `herfindahl`, `largest` (account) with its share, and that of the largest
        few together."""
        top = self.largest.group_by(*KEYS, maintain_order=True).agg(
            largest=pl.col("account_id").first(), first=pl.col("amount").first(), few=pl.col("amount").sum()
        )
        found = self.sides.join(top, on=list(KEYS), how="left", nulls_equal=True)
        total = pl.col("total")
        # Beyond float64 a share is unknown, and counts as all.
        herfindahl = (pl.col("squares") / total**2).fill_nan(1.0).clip(0, 1)
        return found.select(
            *KEYS,
            "accounts",
            "total",
            herfindahl.alias("herfindahl"),
            "largest",
            (pl.col("first") / total).fill_nan(1.0).alias("largest_share"),
            (pl.col("few") / total).fill_nan(1.0).clip(0, 1).alias("few_share"),
        ).sort(*KEYS, nulls_last=False)
