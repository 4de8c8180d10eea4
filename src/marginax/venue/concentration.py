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
        at, count = held.instrument, len(accounts)
        with np.errstate(over="ignore"):  # beyond float64 an amount is infinite, and its share unknown
            money = np.nan_to_num(held.amount * per.notional[at], nan=0.0, posinf=np.inf, neginf=-np.inf)
            cash = np.nan_to_num(held.amount * per.worst_delta[at] * per.price[at])
        names, code = np.unique(underlyings.astype(str), return_inverse=True)
        coins = len(names)
        # Accounts follow each other already but for isolated positions: a stable sort has little to do.
        key = held.account * coins + code[at]
        order = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[order], prepend=-1))
        account, coin = np.divmod(key[order][first], max(coins, 1))

        def of_pairs(values: np.ndarray) -> np.ndarray:
            return np.add.reduceat(np.where(per.open[at], values, 0.0)[order], first) if len(first) else values

        long, short = of_pairs(np.maximum(money, 0)), of_pairs(np.maximum(-money, 0))
        net = np.bincount(coin, np.abs(of_pairs(cash)), minlength=coins)
        gross = np.bincount(account, long + short, minlength=count)
        # Groups by number: both sides of each underlying, and the whole venue behind them.
        group = np.concatenate([coin, coins + coin, np.full(count, 2 * coins)])
        owner, amount = np.concatenate([account, account, np.arange(count)]), np.concatenate([long, short, gross])
        some = amount > 0
        group, owner, amount = group[some], owner[some], amount[some]
        label = pl.DataFrame(
            {
                "group": np.arange(2 * coins + 1),
                "underlying": pl.Series([*names, *names, None], dtype=pl.String),
                "side": ["long"] * coins + ["short"] * coins + [GROSS],
            }
        )
        with np.errstate(over="ignore"):
            sums = {"total": amount, "squares": amount**2, "accounts": None}
        sides = label.with_columns(
            pl.Series(name, np.bincount(group, values, minlength=2 * coins + 1)) for name, values in sums.items()
        )
        sides = sides.filter(pl.col("accounts") > 0).select(*KEYS, *sums).cast(SCHEMA)  # type: ignore[arg-type]
        rows = pl.DataFrame({"group": group, "account": owner, "amount": amount})
        least = rows.group_by("group").agg(pl.col("amount").top_k(keep).min().alias("least")).join(label, on="group")
        # The rank among equals is that of the account, so that no order of rows shows.
        ids = pl.Series(accounts, dtype=pl.String)
        best = (
            rows.join(least, on="group")
            .filter(pl.col("amount") >= pl.col("least"))
            .sort("group", "amount", "account", descending=[False, True, False])
            .group_by("group", maintain_order=True)
            .head(keep)
        )
        best = best.with_columns(ids.gather(best["account"]).alias("account_id"))
        totals = pl.DataFrame({"underlying": pl.Series(names, dtype=pl.String), "net": net})
        held_of = np.bincount(coin, minlength=coins) > 0
        return cls(sides, best.select(*KEYS, "account_id", "amount"), totals.filter(pl.Series(held_of)), keep)

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
