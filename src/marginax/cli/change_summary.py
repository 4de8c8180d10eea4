"""Why margins moved, in the terminal: of all accounts, or of one as a waterfall."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from marginax.changes.change import CAUSES
from marginax.cli.summary import counted, page

if TYPE_CHECKING:
    from marginax.changes import Change

WORDS = {"positions": "positions and balances", "data_quality": "data quality"}
MOST, PARTS, DRIVERS = 10, 3, 8
# Characters of the longest bar of a waterfall.
BAR = 20
# What is printed as zero is no change that anyone reads.
LEAST = 0.5


def print_change(change: "Change", out: Path | None) -> None:
    """Print sums by cause, the accounts that moved most, whose status changed, and where the results lie."""
    totals = change.totals
    with page() as console:
        console.print(f"\n[bold]{counted(totals['accounts'], 'account')}, {_times(change)}[/bold]\n")
        sums = [totals["initial_margin"], totals["maintenance_margin"]]
        table = _table("", "initial margin", "maintenance margin")
        table.add_row("before", *(_amount(each["before"]) for each in sums))
        for cause in CAUSES:
            table.add_row(_word(cause), *(_move(each[cause]) for each in sums))
        table.add_row("after", *(_amount(each["after"]) for each in sums))
        console.print(table)
        console.print(
            f"\n{counted(totals['more'], 'account')} owe more, {totals['less']:,} less, {totals['same']:,} the same; "
            f"{totals['new']:,} came and {totals['left']:,} left"
        )
        if totals["unknown"]:
            told = counted(totals["unknown"], "account")
            console.print(f"The sums leave out {told} without a margin in one of the runs.")
        _print_largest(console, change)
        _print_statuses(console, change)
        if out is not None:
            console.print(f"\nResults: {out / 'changes.parquet'}, {out / 'changes.json'}")


def print_account(change: "Change", account: str, out: Path | None) -> None:
    """Print why one account's requirement moved: a waterfall by cause, the part that moved most, its positions."""
    row = change.accounts.row(by_predicate=pl.col("account_id") == account, named=True)
    with page() as console:
        console.print(f"\n[bold]{escape(account)}, {_times(change)}[/bold]")
        for word, each in zip(("before", "after"), change.settled(account), strict=True):
            console.print(f"{word}: {escape(_stands(each))}", soft_wrap=True)
        if row["total"] is None:
            console.print("\nWithout a margin on both sides there is no change to split.")
        else:
            _print_waterfall(console, change, row)
            _print_drivers(console, change, account)
        if out is not None:
            console.print(f"\nResults: {out / 'changes.parquet'}, {out / 'changes.json'}")


def _print_waterfall(console: Console, change: "Change", row: Mapping[str, Any]) -> None:
    steps = change.steps(row["account_id"])
    parts = steps.columns[3:]
    longest = max((abs(row[cause]) for cause in CAUSES), default=0.0)
    console.print(f"\n{_sentence(row, steps)}\n")
    table = _table("", "initial margin", "maintenance margin", "", "of which", left=("", "of which"))
    table.add_row("before", *(_amount(row[f"{head}before"] or 0.0) for head in ("", "maintenance_")))
    for step in steps.iter_rows(named=True):
        size = row[step["cause"]]
        bar = ("+" if size > 0 else "-") * round(BAR * abs(size) / longest) if longest else ""
        moves = sorted(((step[part], part) for part in parts), key=lambda each: -abs(each[0]))
        told = ", ".join(f"{part} {move:+,.0f}" for move, part in moves[:PARTS] if abs(move) >= LEAST)
        maintenance = row[f"maintenance_{step['cause']}"]
        table.add_row(_word(step["cause"]), _move(size), _move(maintenance), bar, told)
    table.add_row("after", *(_amount(row[f"{head}after"] or 0.0) for head in ("", "maintenance_")))
    console.print(table)
    if row["note"]:
        console.print(f"\nNot told apart: {row['note']}.", markup=False)


def _sentence(row: Mapping[str, Any], steps: pl.DataFrame) -> str:
    """In words: by how much, mostly for what cause, and mostly in what part."""
    total = row["total"]
    if all(abs(row[cause]) < LEAST for cause in CAUSES):
        return "Nothing moved it."
    relative = f" ({total / row['before']:+.1%})" if row["before"] else ""
    cause = max(CAUSES, key=lambda each: abs(row[each]))
    sums = {part: float(steps[part].sum()) for part in steps.columns[3:]}
    part = max(sums, key=lambda each: abs(sums[each]))
    came = "" if row["status_before"] else "It is new. "
    came = came if row["status_after"] else "It left. "
    rose = "rose" if total > 0 else "fell" if total < 0 else "moved"
    return (
        f"{came}The initial margin {rose} by {abs(total):,.0f}{relative}: most of all by {_word(cause)} "
        f"({row[cause]:+,.0f}), and in the part `{part}` ({sums[part]:+,.0f})."
    )


def _print_drivers(console: Console, change: "Change", account: str) -> None:
    rows = change.drivers(account).filter(pl.col("change").abs() >= LEAST)
    if rows.is_empty():
        return
    table = _table("position or collateral", "held before", "after", "share before", "after", "change")
    for row in rows.head(DRIVERS).iter_rows(named=True):
        held = (f"{row[name]:,.6g}" for name in ("amount_before", "amount_after"))
        shares = (_amount(row[name]) for name in ("before", "after"))
        table.add_row(escape(row["instrument_id"] or row["asset"]), *held, *shares, _move(row["change"]))
    console.print("\nWhat drove it, by share of the initial margin:")
    console.print(table)
    if rows.height > DRIVERS:
        rest = rows[DRIVERS:]
        console.print(f"and {rest.height:,} more, {_move(float(rest['change'].sum()))} together")


def _print_largest(console: Console, change: "Change") -> None:
    rows = change.largest(MOST)
    if rows.is_empty():
        console.print("\nNobody's initial margin moved.")
        return
    table = _table("account", "before", "after", "change", *map(_word, CAUSES), "status", left=("account", "status"))
    for row in rows.iter_rows(named=True):
        ends = (_amount(row[name] or 0.0) for name in ("before", "after"))
        moves = (_move(row[name]) for name in ("total", *CAUSES))
        table.add_row(escape(row["account_id"]), *ends, *moves, _statuses(row))
    console.print("\nWhose initial margin moved most:")
    console.print(table)


def _print_statuses(console: Console, change: "Change") -> None:
    moved = change.statuses().filter(pl.col("status_before").ne_missing(pl.col("status_after")))
    if moved.is_empty():
        return
    console.print("\nStatuses that changed:")
    for row in moved.iter_rows(named=True):
        console.print(f"{row['accounts']:>9,}  {_statuses(row)}")


def _statuses(row: Mapping[str, Any]) -> str:
    before, after = row["status_before"] or "new", row["status_after"] or "left"
    return before if before == after else f"{before} > {after}"


def _stands(each: Mapping[str, Any] | None) -> str:
    """How an account stands in one run."""
    if each is None:
        return "not in the book"
    if each["initial_margin"] is None:
        return f"no margin, {each['reason']}"
    called = f"called for {each['call']:,.0f}" if each["call"] else "not called"
    status = each["status"] if each["reason"] is None else f"{each['status']} ({each['reason']})"
    owed = f"initial margin {each['initial_margin']:,.0f}, maintenance {each['maintenance_margin']:,.0f}"
    return f"{owed}, equity {each['equity']:,.0f}, {called}, {status}"


def _times(change: "Change") -> str:
    one, other = (each.manifest["as_of"][:16].replace("T", " ") for each in (change.before, change.after))
    when = f"as of {one} UTC" if one == other else f"from {one} to {other} UTC"
    return f"{when}, in {change.after.manifest['currency']}"


def _word(cause: str) -> str:
    return WORDS.get(cause, cause)


def _amount(amount: float) -> str:
    return f"{amount:,.0f}"


def _move(amount: float) -> str:
    return f"{amount:+,.0f}" if abs(amount) >= LEAST else "0"


def _table(*titles: str, left: tuple[str, ...] = ()) -> Table:
    """Columns of numbers, but for the first and those named."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if not place or title in left else "right")
    return table
