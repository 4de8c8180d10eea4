"""What a person wants to know of a run, in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.table import Table

from marginax.status import Status

if TYPE_CHECKING:
    from marginax.engine import Result

CLOSEST = 5
# Characters a line where no terminal says how many it has: ids and labels are not cut short in a log.
PIPED = 140
TEXT = ("account", "worst scenario")


def print_summary(result: "Result", out: Path) -> None:
    """Print totals, statuses, the accounts closest to trouble and where the results lie."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED
    margins, manifest = result.margins, result.manifest
    totals, currency = manifest["totals"], manifest["currency"]
    scenarios, seconds = manifest["scenarios"], manifest["seconds"]
    pace = f"{margins.height:,} accounts"
    if seconds["margined"] > 0 and margins.height:
        pace += f" in {seconds['margined']:.2f} s ({margins.height / seconds['margined']:,.0f} a second)"
    if seconds["compiled"] > 1:
        pace += f", after {seconds['compiled']:.0f} s of compiling"
    console.print(f"\n[bold]Margin as of {manifest['as_of'][:16]} UTC[/bold] by {manifest['model']}: {pace}")
    console.print(f"{scenarios['count']:,} scenarios on {scenarios['first_bar']} to {scenarios['last_bar']}\n")

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    called = margins.filter(pl.col("call") > 0).height
    beyond = margins.filter(pl.col("equity") < 0).height
    rows = [
        ("equity", totals["equity"], f"{beyond:,} accounts below zero"),
        ("initial margin", totals["initial_margin"], _parts(result)),
        ("maintenance margin", totals["maintenance_margin"], ""),
        ("margin calls", totals["call"], f"{called:,} accounts below maintenance"),
    ]
    uncovered = manifest["uncovered_loss"]
    if uncovered:
        note = f"loss beyond all equity, in {uncovered['worst_scenario']}"
        rows.append(("worst for the venue", uncovered["worst"], note))
    for name, amount, note in rows:
        table.add_row(name, f"{amount:,.0f} {currency}", note)
    console.print(table)

    close = margins.filter(pl.col("margin_ratio").is_not_null()).sort("margin_ratio").head(CLOSEST)
    if close.height:
        console.print(_closest(close))
    by_status = manifest["accounts"]["by_status"]
    console.print()
    for status in Status:
        if by_status[status.label]:
            console.print(f"{by_status[status.label]:>9,}  {status.label:<16}[dim]{status.meaning}[/dim]")
    if scenarios["index_far_from_history"]:
        names = ", ".join(scenarios["index_far_from_history"])
        console.print(f"\nThe index price is far from the last bar of its history, in the same unit? {names}.")
    if result.quarantine.height:
        where = out / "quarantine.parquet"
        console.print(f"\n{result.quarantine.height:,} rows were quarantined; {where} says why.")
    if manifest["unused_tables"]:
        names = ", ".join(manifest["unused_tables"])
        console.print(f"\nChecked, but not part of this margin: {names}.")
    console.print(f"\nResults: {out / 'margins.parquet'}, {out / 'manifest.json'}")


def _parts(result: "Result") -> str:
    sums = result.margins.select(pl.col(name).sum() for name in result.parts).row(0, named=True)
    return ", ".join(f"{name} {amount:,.0f}" for name, amount in sums.items() if amount)


def _closest(rows: pl.DataFrame) -> Table:
    table = Table(title="Closest to trouble", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in (
        "account",
        "equity",
        "initial",
        "maintenance",
        "ratio",
        "call",
        "stress score",
        "worst scenario",
    ):
        table.add_column(name, justify="left" if name in TEXT else "right", no_wrap=name == "account")
    for row in rows.iter_rows(named=True):
        money = (f"{row[name]:,.0f}" for name in ("equity", "initial_margin", "maintenance_margin"))
        ratio, score = f"{row['margin_ratio']:.2f}", f"{row['stress_score']:.1%}"
        table.add_row(row["account_id"], *money, ratio, f"{row['call']:,.0f}", score, row["worst_scenario"])
    return table
