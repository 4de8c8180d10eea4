"""What another set of parameters would change for a book, before anyone adopts it.

The same book and market are margined twice; differences are by account, in account currency, positive where the second
asks for more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from marginax.book import Book
from marginax.config import Config
from marginax.engine import Result, margin_book
from marginax.market import Market

KEY = "account_id"
# What belongs to a run is no change of parameters; the model behind a preset is.
NOT_COMPARED = ("run", "engine")
OFF, ABSENT = "off", "-"


@dataclass(frozen=True)
class ParameterDiff:
    """`accounts` has a row for each account; `totals` what it comes to; the two results for all else.

    Columns: account_id, then of each run (the second `_after`) status, equity, initial_margin, maintenance_margin and
    call, and the changes of both margins. `totals`: how many accounts owe more, less and the same, who is newly called
    and who no longer and for how much, the sums of margins and calls, and what is asked for and freed.
    """

    accounts: pl.DataFrame
    totals: dict[str, Any]
    before: Result
    after: Result

    @property
    def parts(self) -> pl.DataFrame:
        """Each part of the initial margin, summed over accounts that have one under both: part, before, after, change.

        A part that one of the models does not know is zero there.
        """
        known = self.accounts.filter(pl.col("initial_change").is_not_null()).select(KEY)
        sums = [
            known.join(each.margins, on=KEY).select(pl.col(name).sum() for name in each.parts).row(0, named=True)
            for each in (self.before, self.after)
        ]
        names = dict.fromkeys((*self.before.parts, *self.after.parts))
        rows = [(name, *(each.get(name, 0.0) for each in sums)) for name in names]
        table = pl.DataFrame(rows, schema={"part": pl.String, "before": pl.Float64, "after": pl.Float64}, orient="row")
        return table.with_columns(change=pl.col("after") - pl.col("before"))


def parameter_diff(
    book: Book, market: Market, before: Config, after: Config, *, seed: int | None = None
) -> ParameterDiff:
    """Margin a book under two configurations, and tell the difference. Raises BadInput as `margin_book` does.

    Accounts without a margin under either have nulls, and count in neither total.
    """
    first, second = (margin_book(book, market, each, seed=seed, on_error="quarantine") for each in (before, after))
    wanted = ["status", "equity", "initial_margin", "maintenance_margin", "call"]
    one = first.margins.select(KEY, *wanted)
    other = second.margins.select(KEY, *(pl.col(name).alias(f"{name}_after") for name in wanted))
    accounts = (
        one.join(other, on=KEY, how="full", coalesce=True)
        .sort(KEY)
        .with_columns(
            initial_change=pl.col("initial_margin_after") - pl.col("initial_margin"),
            maintenance_change=pl.col("maintenance_margin_after") - pl.col("maintenance_margin"),
        )
    )
    return ParameterDiff(accounts, _totals(accounts), first, second)


def key_changes(before: Config, after: Config) -> list[tuple[str, str, str]]:
    """The keys whose values differ, dotted, with both values in words; `-` where one side has no such table."""
    one, other = (
        _leaves(each.model_dump(mode="json", by_alias=True, exclude=set(NOT_COMPARED))) for each in (before, after)
    )
    return [(key, _words(one, key), _words(other, key)) for key in {**one, **other} if one.get(key) != other.get(key)]


def _leaves(table: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """The values of nested tables by dotted key."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _leaves(value, f"{head}{key}.") if isinstance(value, dict) else {head + key: value}
    return found


def _words(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, ABSENT)
    if value is None:
        return OFF
    return value if isinstance(value, str) else json.dumps(value)


def _totals(accounts: pl.DataFrame) -> dict[str, Any]:
    known = accounts.filter(pl.col("initial_margin").is_not_null() & pl.col("initial_margin_after").is_not_null())
    change = known["initial_change"]
    called, before = known["call_after"] > 0, known["call"] > 0
    return {
        "accounts": accounts.height,
        "compared": known.height,
        "more": int((change > 0).sum()),
        "less": int((change < 0).sum()),
        "same": int((change == 0).sum()),
        "newly_called": int((called & ~before).sum()),
        "no_longer_called": int((before & ~called).sum()),
        "newly_called_for": float(known["call_after"].filter(called & ~before).sum()),
        "no_longer_called_for": float(known["call"].filter(before & ~called).sum()),
        **{
            f"{name}{after}": float(known[f"{name}{after}"].sum())
            for name in ("initial_margin", "maintenance_margin", "call")
            for after in ("", "_after")
        },
        "asked": float(change.filter(change > 0).sum()),
        "freed": abs(float(change.filter(change < 0).sum())),
    }
