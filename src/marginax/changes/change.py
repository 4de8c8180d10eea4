"""The change of every account's requirements between two runs, cause by cause, part by part, position by position."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.changes.states import KEY, REQUIREMENTS
from marginax.engine.figures import finite
from marginax.engine.result import Result
from marginax.problems import suggestion
from marginax.tables.results import write_tables

CAUSES = ("positions", "time", "market", "data_quality", "parameters")
"""In the order in which a path makes them."""
COLUMNS = ("positions", "market", "parameters", "time", "data_quality")
SETTLED = ("initial_margin", "maintenance_margin", "equity", "call", "status", "reason")
NEAREST = 5


@dataclass(frozen=True)
class Change:
    """`accounts` has one row for each account of either run; `before` and `after` are the runs.

    Columns: account_id, before, after (initial margins; null for who is not there or has none), what each cause adds
    (positions, market, parameters, time, data_quality), total (their sum, after - before, zero for who is not there),
    the same with `maintenance_` in front, status_before, status_after (null for who is not there), and `note`, which
    says what could not be told apart. An account without a margin in a run that it is in has no total and no causes.
    `passes` counts the books that were margined beside the two runs.
    """

    accounts: pl.DataFrame
    before: Result
    after: Result
    seconds: Mapping[str, float]
    passes: int
    _moved: Mapping[str, Float64[np.ndarray, "accounts figures"]]
    _figures: tuple[str, ...]

    @classmethod
    def assemble(
        cls,
        before: Result,
        after: Result,
        accounts: np.ndarray,
        figures: tuple[str, ...],
        moved: Mapping[str, Float64[np.ndarray, "accounts figures"]],
        notes: Mapping[str, str],
        *,
        seconds: Mapping[str, float],
        passes: int,
    ) -> "Change":
        """The table from what moved: by cause, `figures` (requirements, then parts) of each account."""
        table = pl.DataFrame({KEY: pl.Series(accounts, dtype=pl.String)})
        for word, each in (("before", before), ("after", after)):
            ends = (pl.col(name).alias(f"{name} {word}") for name in (*REQUIREMENTS, "status"))
            table = table.join(each.margins.select(KEY, *ends), on=KEY, how="left", maintain_order="left")
        columns: list[pl.Expr | pl.Series] = [pl.col(KEY)]
        for k, (name, head) in enumerate(zip(REQUIREMENTS, ("", "maintenance_"), strict=True)):
            columns += [pl.col(f"{name} {word}").alias(f"{head}{word}") for word in ("before", "after")]
            columns += [pl.Series(f"{head}{cause}", moved[cause][:, k]).fill_nan(None) for cause in COLUMNS]
            there = (_present(f"{name} {word}", f"status {word}") for word in ("after", "before"))
            columns.append((next(there) - next(there)).alias(f"{head}total"))
        columns += [pl.col(f"status {word}").alias(f"status_{word}") for word in ("before", "after")]
        told = [notes.get(account) for account in accounts]
        table = table.select(columns).with_columns(pl.Series("note", told, dtype=pl.String))
        split = [f"{head}{cause}" for head in ("", "maintenance_") for cause in COLUMNS]
        known = pl.col("total").is_not_null()
        table = table.with_columns(pl.when(known).then(pl.col(name)).alias(name) for name in (*split, "note"))
        return cls(table, before, after, seconds, passes, moved, figures)

    def __repr__(self) -> str:
        return f"Change({self.accounts.height:,} accounts, {self.totals['unknown']:,} without a total)"

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over accounts with a total, by requirement, and how many moved, came, left, or have no total."""
        table = self.accounts
        known = table.filter(pl.col("total").is_not_null())
        change = known["total"]
        sums = {
            name: {
                column: finite(float(known[f"{head}{column}"].sum()))
                for column in ("before", "after", *COLUMNS, "total")
            }
            for name, head in zip(REQUIREMENTS, ("", "maintenance_"), strict=True)
        }
        return {
            "accounts": table.height,
            "more": int((change > 0).sum()),
            "less": int((change < 0).sum()),
            "same": int((change == 0).sum()),
            "new": int(table["status_before"].null_count()),
            "left": int(table["status_after"].null_count()),
            "unknown": int(table["total"].null_count()),
            **sums,
        }

    @property
    def document(self) -> dict[str, Any]:
        """What is said of the change as a whole: both runs, their inputs, sums, statuses that changed."""
        runs = {}
        for word, each in (("before", self.before), ("after", self.after)):
            names = ("as_of", "currency", "model", "seed", "configuration", "inputs", "accounts")
            runs[word] = {name: each.manifest[name] for name in names}
        return {
            "order": list(CAUSES),
            "totals": self.totals,
            "statuses": self.statuses().to_dicts(),
            "passes": self.passes,
            "seconds": dict(self.seconds),
            **runs,
        }

    def statuses(self) -> pl.DataFrame:
        """How many accounts went from which status to which: status_before, status_after, accounts."""
        names = ["status_before", "status_after"]
        return self.accounts.group_by(names).agg(pl.len().alias("accounts")).sort(names, nulls_last=True)

    def largest(self, count: int) -> pl.DataFrame:
        """The rows of the accounts whose initial margin moved most."""
        known = self.accounts.filter(pl.col("total").is_not_null() & (pl.col("total") != 0))
        return known.sort(-pl.col("total").abs(), KEY).head(count)

    def steps(self, account: str) -> pl.DataFrame:
        """What each cause adds to one account: cause, both requirements, and each part of the initial margin.

        Raises KeyError for an account of neither run, ValueError with the reason for one without a total.
        """
        place = self._row(account)
        rows = [(cause, *self._moved[cause][place].tolist()) for cause in CAUSES]
        return pl.DataFrame(rows, schema=["cause", *self._figures], orient="row")

    def drivers(self, account: str) -> pl.DataFrame:
        """Shares of one account's initial margin by position and asset: the amount before and after, the share before
        and after, and its change, the largest first. Raises as `steps` does."""
        self._row(account)
        key = ["instrument_id", "asset"]
        shares = []
        for word, each in (("before", self.before), ("after", self.after)):
            there = account in each.matched.book.accounts
            rows = each.attribution([account] if there else [])
            names = (pl.col("amount").alias(f"amount_{word}"), pl.col("total").alias(word))
            shares.append(rows.select(*key, *names))
        both = shares[0].join(shares[1], on=key, how="full", coalesce=True, nulls_equal=True).fill_null(0.0)
        both = both.with_columns(change=pl.col("after") - pl.col("before"))
        return both.select(*key, "amount_before", "amount_after", "before", "after", "change").sort(
            -pl.col("change").abs(), *key, nulls_last=True
        )

    def settled(self, account: str) -> list[dict[str, Any] | None]:
        """Requirements, equity, call, status and reason of an account before and after; None where it is not there."""
        rows = (each.margins.filter(pl.col(KEY) == account) for each in (self.before, self.after))
        return [each.select(SETTLED).row(0, named=True) if each.height else None for each in rows]

    def write(self, directory: str | Path) -> Path:
        """Write changes.parquet, changes.json and manifest.json, whole or not at all; returns the folder."""
        documents = {"changes.json": json.dumps(self.document, indent=2, allow_nan=False) + "\n"}
        return write_tables(directory, {"changes": self.accounts}, {"kind": "changes"}, documents)

    def _row(self, account: str) -> int:
        found = np.flatnonzero(self.accounts[KEY].to_numpy() == account)
        if not len(found):
            raise KeyError(f"no account {account!r} in either run")
        if self.accounts["total"][int(found[0])] is None:
            for word, each in zip(("before", "after"), self.settled(account), strict=True):
                if each is not None and each["initial_margin"] is None:
                    raise ValueError(f"{account} has no margin {word}: {each['reason']}")
        return int(found[0])


def account_document(change: Change, account: str) -> dict[str, Any]:
    """What is said of one account: both runs, causes, and what drove it; `reason` instead where it has no total."""
    before, after = change.settled(account)
    document: dict[str, Any] = {"account_id": account, "before": before, "after": after}
    try:
        steps, drivers = change.steps(account), change.drivers(account)
    except ValueError as error:
        return document | {"reason": str(error)}
    row = change.accounts.row(by_predicate=pl.col(KEY) == account, named=True)
    return document | {
        "total": row["total"],
        "maintenance_total": row["maintenance_total"],
        "note": row["note"],
        "causes": steps.to_dicts(),
        "positions": drivers.to_dicts(),
    }


def near(account: str, known: list[str]) -> str:
    """Half a sentence that names an account like one that is not there."""
    same = [name for name in known if name.lower().startswith(account.lower())][:NEAREST]
    return suggestion(account, same or known[:NEAREST])


def _present(requirement: str, status: str) -> pl.Expr:
    """A requirement; zero for an account that is not in the run, null for one without a margin."""
    return pl.when(pl.col(status).is_null()).then(0.0).otherwise(pl.col(requirement))
