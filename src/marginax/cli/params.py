"""`marginax params`: what a parameter file changes for a book, and who approved of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marginax.cli.exits import Exit
from marginax.problems import BadInput, Problem

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.table import Table

    from marginax.config import Config
    from marginax.parameter_diff import ParameterDiff

MOST_CHANGED = 10
SHOWN = ("equity", "initial_margin", "initial_margin_after", "initial_change", "call", "call_after")


def diff(
    before: Annotated[str, typer.Argument(help="parameter file, preset or TOML file that is run now", metavar="A")],
    after: Annotated[str, typer.Argument(help="the same that may be run", metavar="B")],
    instruments: Annotated[Path, typer.Option(help="what can be held", metavar="FILE")],
    positions: Annotated[Path, typer.Option(help="who holds what, in signed contracts", metavar="FILE")],
    balances: Annotated[Path, typer.Option(help="collateral by account and asset", metavar="FILE")],
    quotes: Annotated[Path, typer.Option(help="mark prices", metavar="FILE")],
    underlyings: Annotated[Path, typer.Option(help="index prices", metavar="FILE")],
    history: Annotated[list[Path], typer.Option(help="past prices; several files may follow", metavar="FILE")],
    forwards: Annotated[Path | None, typer.Option(help="forward prices of expiries of options", metavar="FILE")] = None,
    as_of: Annotated[str | None, typer.Option(help="UTC time of the margin; default: the latest quote")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of every draw")] = None,
    out: Annotated[Path | None, typer.Option(help="where the table by account goes (Parquet)", metavar="FILE")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the totals as JSON")] = False,
) -> int:
    """Tell what another set of parameters would change for a book."""
    from marginax.book import read_book
    from marginax.interrupts import stop_if_interrupted
    from marginax.market import read_market, utc_time
    from marginax.parameter_diff import parameter_diff
    from marginax.tables.results import write_files

    inputs = [instruments, positions, balances, quotes, underlyings, *history, *([forwards] if forwards else [])]
    if out is not None and out.resolve() in {path.resolve() for path in (*inputs, Path(before), Path(after))}:
        what, remedy = "is an input, which the result would replace", "Name another file"
        raise BadInput([Problem(str(out), None, None, what, remedy)])
    first, second = (_configuration(each) for each in (before, after))
    held = read_book(instruments=instruments, positions=positions, balances=balances)
    time = utc_time(as_of) if as_of else first.run.as_of
    prices = read_market(
        quotes=quotes,
        underlyings=underlyings,
        history=history,
        forwards=forwards,
        as_of=time,
        currency=first.run.currency,
    )
    found = parameter_diff(held, prices, first, second, seed=seed)
    stop_if_interrupted()
    if out is not None:
        write_files({out: found.accounts.write_parquet})
    if json:
        import json as encoder

        typer.echo(encoder.dumps(found.totals, indent=2))
    else:
        _print(found, first, second)
    if out is not None:
        typer.echo(f"Wrote {out}", err=json)
    return Exit.EXCEPTED if found.totals["compared"] < found.totals["accounts"] else 0


def approve(
    file: Annotated[Path, typer.Argument(help="parameter file", metavar="FILE")],
    note: Annotated[str, typer.Option(help="what was looked at, and why it is good enough")],
    by: Annotated[str, typer.Option(help="who approves")],
    again: Annotated[bool, typer.Option("--again", help="replace the approval that the file has")] = False,
) -> int:
    """Write an approval into a parameter file."""
    import json

    from marginax.parameter_file import approval_words, approved, notes_on, read_document, settings_over
    from marginax.run_inputs import base_of
    from marginax.tables.results import write_files

    for flag, words in (("--note", note), ("--by", by)):
        if not words.strip():
            raise BadInput([Problem(flag, None, None, "is empty", "Say who approves, and of what")])
    document = read_document(file, approval=False)
    config = settings_over(base_of(file, document["model"]), document["settings"], str(file))
    for word in notes_on(file, {**document, "approval": None}, config):
        typer.echo(word, err=True)
    given = document.get("approval")
    was = approval_words(given) if isinstance(given, dict) else None
    if was is not None and not again:
        raise BadInput([Problem(str(file), "approval", None, f"is {was} already", "Replace that with `--again`")])
    text = json.dumps(approved(document, note, by), indent=1) + "\n"
    write_files({file: lambda path: path.write_text(text, encoding="utf-8")})
    typer.echo(f"Wrote {file}: approved by {by.strip()}" + (f"; it was {was}" if was else ""))
    return 0


def _configuration(name: str) -> "Config":
    """What a parameter file, a preset or a TOML file stands for; what to know of it is told."""
    from marginax.run_inputs import configuration

    config, notes = configuration(name)
    for note in notes:
        typer.echo(note, err=True)
    return config


def _print(found: "ParameterDiff", before: "Config", after: "Config") -> None:
    from marginax.cli.summary import counted, page

    totals = found.totals
    relative = totals["initial_margin_after"] / totals["initial_margin"] - 1 if totals["initial_margin"] else 0.0
    sums = f"{totals['initial_margin']:,.0f} becomes {totals['initial_margin_after']:,.0f} ({relative:+.1%})"
    more = f"{counted(totals['more'], 'account')} would owe {totals['asked']:,.0f} more in all"
    called = f"{counted(totals['newly_called'], 'account')} would be called, {totals['no_longer_called']:,} no longer"
    with page() as console:
        print_keys(console, before, after)
        console.print(f"\nInitial margin {sums}: {more}, {totals['less']:,} owe {totals['freed']:,.0f} less")
        console.print(f"{called}\n")
        print_most_changed(console, found)


def print_keys(console: "Console", before: "Config", after: "Config") -> None:
    """Print the keys of two configurations that differ, with both values."""
    from rich.markup import escape
    from rich.table import Table

    from marginax.parameter_diff import key_changes

    numbers = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("key", "before", "after"):
        numbers.add_column(title)
    for words in key_changes(before, after):
        numbers.add_row(*(escape(word) for word in words))
    console.print(numbers if numbers.row_count else "No key differs.")


def print_most_changed(console: "Console", found: "ParameterDiff") -> None:
    """Print the accounts that would owe most more, and those that would owe most less."""
    changed = found.accounts.drop_nulls("initial_change").sort("initial_change", "account_id")
    for word, rows in (
        ("more", changed.filter(changed["initial_change"] > 0).reverse()),
        ("less", changed.filter(changed["initial_change"] < 0)),
    ):
        if rows.is_empty():
            console.print(f"Nobody would owe {word}.")
        else:
            console.print(f"Who would owe most {word}:")
            console.print(account_table(rows.head(MOST_CHANGED)))


def account_table(rows: "pl.DataFrame") -> "Table":
    """Accounts with equity, initial margins, their change and calls."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("account", "equity", "initial before", "after", "change", "call before", "after"):
        table.add_column(title, justify="left" if title == "account" else "right")
    for row in rows.iter_rows(named=True):
        table.add_row(escape(row["account_id"]), *(f"{row[name]:,.0f}" for name in SHOWN))
    return table
