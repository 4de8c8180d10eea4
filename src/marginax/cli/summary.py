"""What a person wants to know of a run, in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from marginax.parameter_file import described
from marginax.status import Status

if TYPE_CHECKING:
    from marginax.engine import Result

CLOSEST = 5
NAMED = 8
MOVES = 2
# Characters a line where no terminal says how many it has: ids and labels are not cut short in a log.
PIPED = 140
TEXT = ("account", "worst scenario")


@contextmanager
def page() -> Iterator[Console]:
    """A console; where it is no terminal it is wide, and prints at the end, without the blanks that pad a table."""
    console = Console()
    if console.is_terminal:
        yield console
        return
    console.width = PIPED
    with console.capture() as held:
        yield console
    typer.echo("\n".join(line.rstrip() for line in held.get().split("\n")), nl=False)


def counted(count: int, word: str) -> str:
    """So many of a word, in the singular where it is one."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def print_summary(result: "Result", out: Path) -> None:
    """Print totals, statuses, the accounts closest to trouble and where the results lie."""
    with page() as console:
        _print(console, result, out)


def _print(console: Console, result: "Result", out: Path) -> None:
    margins, manifest = result.margins, result.manifest
    totals, currency = manifest["totals"], manifest["currency"]
    scenarios, seconds = manifest["scenarios"], manifest["seconds"]
    pace = counted(margins.height, "account")
    if seconds["margined"] > 0 and margins.height:
        pace += f" in {seconds['margined']:.2f} s ({margins.height / seconds['margined']:,.0f} a second)"
    if seconds["compiled"] > 1:
        pace += f", after {seconds['compiled']:.0f} s of compiling or loading programs"
    console.print(f"\n[bold]Margin as of {manifest['as_of'][:16]} UTC[/bold] by {_method(manifest)}: {pace}")
    console.print(f"{scenarios['count']:,} scenarios, the first {scenarios['first']}, the last {scenarios['last']}\n")

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    able = margins.filter(pl.col("initial_margin").is_not_null())
    called = able.filter(pl.col("call") > 0).height
    beyond = able.filter(pl.col("equity") < 0).height
    rows = [
        ("equity", totals["equity"], f"{counted(beyond, 'account')} below zero"),
        ("initial margin", totals["initial_margin"], _parts(result)),
        ("maintenance margin", totals["maintenance_margin"], ""),
        ("margin calls", totals["call"], f"{counted(called, 'account')} below maintenance"),
    ]
    uncovered = manifest["uncovered_loss"]
    if uncovered["worst"]:
        prices = result.scenario(uncovered["worst_scenario"]).filter(factor="price").drop("factor").drop_nulls()
        moves = prices.head(MOVES).iter_rows()
        shown = ", ".join(f"{name} {move:+.0%}" for name, move in moves)
        note = f"beyond all equity, mean of the worst {uncovered['tail']:.3g}; "
        note += f"{uncovered['worst']:,.0f} in {uncovered['worst_scenario']} ({shown})"
        rows.append(("loss to the venue", uncovered["tail_mean"] or 0.0, note))
    for name, amount, note in rows:
        table.add_row(name, f"{amount:,.0f} {currency}", note)
    console.print(table)

    # Who is called without owing maintenance has nothing left at all, and comes first.
    ratio = pl.col("margin_ratio")
    rank = pl.when(pl.col("call") > 0).then(ratio.fill_null(float("-inf"))).otherwise(ratio)
    close = able.with_columns(rank=rank).filter(pl.col("rank").is_not_null()).sort("rank").head(CLOSEST)
    if close.height:
        console.print(_closest(close))
    if result.excepted:
        console.print(f"\nThe sums leave out {counted(result.excepted, 'account')} without a margin.")
    by_status = manifest["accounts"]["by_status"]
    console.print()
    for status in Status:
        if by_status[status.label]:
            console.print(f"{by_status[status.label]:>9,}  {status.label:<16}[dim]{status.meaning}[/dim]")
    _print_notes(console, manifest)
    if result.quarantine.height:
        where = out / "quarantine.parquet"
        were = "row was" if result.quarantine.height == 1 else "rows were"
        console.print(f"\n{result.quarantine.height:,} {were} quarantined; {where} says why.")
    if manifest["unused_tables"]:
        names = ", ".join(manifest["unused_tables"])
        console.print(f"\nChecked, but not part of this margin: {names}.")
    if manifest.get("parameters"):
        console.print(f"\nParameters: {described(manifest['parameters'])}", markup=False, soft_wrap=True)
    tables = ("margins", "options") if result.options.height else ("margins",)
    files = [*(f"{name}.parquet" for name in tables), "manifest.json"]
    console.print(f"\nResults: {', '.join(str(out / name) for name in files)}")


def _print_notes(console: Console, manifest: dict[str, Any]) -> None:
    """What a person should look at in the data."""
    scenarios, data = manifest["scenarios"], manifest["data"]
    ignored = [f"{name} ({rows:,} rows)" for name, rows in data["history_of_nothing"].items()]
    cut = [f"{name} ({count})" for name, count in scenarios.get("residuals_capped", {}).items() if ":" not in name]
    notes = {
        "Moved by a proxy": scenarios.get("proxied", []),
        "Without history or proxy": scenarios.get("without_history_or_proxy", []),
        "Implied volatility moved by its price": [
            name.removeprefix("implied_vol:") for name in scenarios.get("volatilities_by_price", [])
        ],
        "Options priced by the volatility of other strikes or expiries": _found(manifest["options"]["volatilities"]),
        "Past returns cut at the residual cap": cut,
        "History of no underlying, ignored": ignored,
        "Index price far from the last bar of its history (in one unit?)": scenarios.get("index_far_from_history", []),
        "Mark less than half or more than twice the index (in one unit?)": data["marks_far_from_index"],
        "Option mark far from its volatility (in one unit?)": manifest["options"]["marks_far_from_model"],
        "Haircuts for assets that are no underlyings": scenarios.get("haircuts_of_nothing", []),
        "Forwards of no listed expiry, ignored (a date is 00:00 UTC)": data["forwards_of_nothing"],
        "Price caps for what is no underlying": scenarios.get("price_caps_of_nothing", []),
    }
    if data["prices_after_as_of"]:
        notes["Prices later than as_of, used all the same"] = [f"{data['prices_after_as_of']:,}"]
    if any(notes.values()):
        console.print()
    for note, names in notes.items():
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            console.print(f"{note}: {', '.join(names[:NAMED])}{more}.", markup=False)


def _found(volatilities: dict[str, int]) -> list[str]:
    """How many options have a volatility from their expiry's smile, from another expiry, or none."""
    words = {"smile": "its smile", "other_expiry": "another expiry", "none": "none known"}
    return [f"{volatilities[name]:,} by {word}" for name, word in words.items() if volatilities.get(name)]


def _method(manifest: dict[str, Any]) -> str:
    """The preset and the model behind it, and the tail that is charged where it is not that of the figures."""
    model, preset = manifest["model"], manifest.get("preset")
    named = model if preset in (None, model) else f"{preset} ({model})"
    risk = manifest["configuration"]["risk"]
    charge = risk.get("charge_tail")
    return named if charge in (None, risk["tail"]) else f"{named}, charged at a tail of {charge:g}"


def _parts(result: "Result") -> str:
    sums = result.margins.select(pl.col(name).sum() for name in result.parts).row(0, named=True)
    return ", ".join(f"{name} {amount:,.0f}" for name, amount in sums.items() if abs(amount) >= 0.5)


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
        ratio = "" if row["margin_ratio"] is None else f"{row['margin_ratio']:.2f}"
        score = f"{row['stress_score']:.1%}"
        table.add_row(row["account_id"], *money, ratio, f"{row['call']:,.0f}", score, row["worst_scenario"] or "")
    return table
