"""`marginax whatif`: what other parameters would ask of a book, before anyone runs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.cli.changes import check_out, told_inputs
from marginax.cli.exits import Exit
from marginax.cli.margin import OnError

if TYPE_CHECKING:
    from rich.table import Table

    from marginax.config import Config
    from marginax.parameter_diff import ParameterDiff

NAMED = 10
LEAST = 0.5
SUMS = {"initial margin": "initial_margin", "maintenance margin": "maintenance_margin", "margin calls": "call"}


def command(
    inputs: Annotated[Path, typer.Argument(help="folder of a run's tables, or a TOML file of them", metavar="INPUTS")],
    config: Annotated[
        str, typer.Option(help="what may be run: a TOML file, a preset or a parameter file", metavar="NEW")
    ],
    now: Annotated[
        str | None, typer.Option(help="what is run now, in place of the inputs' own configuration", metavar="OLD")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the table and the sums", metavar="DIR")] = None,
    on_error: Annotated[OnError, typer.Option(help="quarantine: set bad rows aside and go on")] = OnError.RAISE,
    json: Annotated[bool, typer.Option("--json", help="print the sums as JSON instead of a summary")] = False,
) -> int:
    """Tell what other parameters would ask of every account of one book in one market."""
    from marginax.interrupts import stop_if_interrupted
    from marginax.parameter_diff import key_changes, parameter_diff

    check_out(out, [inputs], [config, now])
    new = _configuration(config)
    given = told_inputs(inputs, now, on_error)
    found = parameter_diff(given.book, given.market, given.config, new, seed=given.config.run.seed)
    stop_if_interrupted()
    document = {
        "as_of": found.before.manifest["as_of"],
        "currency": found.before.manifest["currency"],
        "keys": [dict(zip(("key", "before", "after"), each, strict=True)) for each in key_changes(given.config, new)],
        "totals": found.totals,
        "parts": found.parts.to_dicts(),
    }
    if out is not None:
        _write(out, found, document)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(document if out is None else {"out": str(out), **document}, indent=2))
    else:
        _print(found, given.config, new, out)
    return Exit.EXCEPTED if found.totals["compared"] < found.totals["accounts"] else Exit.SUCCESS


def _configuration(name: str) -> "Config":
    from marginax.run_inputs import configuration

    settings, notes = configuration(name)
    for note in notes:
        typer.echo(note, err=True)
    return settings


def _write(out: Path, found: "ParameterDiff", document: dict[str, Any]) -> None:
    import json

    from marginax.tables.results import write_tables

    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    inputs = found.before.manifest["inputs"]
    write_tables(out, {"whatif": found.accounts}, {"kind": "whatif", "inputs": inputs}, {"whatif.json": text})


def _print(found: "ParameterDiff", before: "Config", after: "Config", out: Path | None) -> None:
    import polars as pl

    from marginax.cli.params import account_table, print_keys, print_most_changed
    from marginax.cli.summary import counted, page

    totals, currency = found.totals, found.before.manifest["currency"]
    when = found.before.manifest["as_of"][:16].replace("T", " ")
    newly = found.accounts.filter((pl.col("call_after") > 0) & ~(pl.col("call") > 0))
    with page() as console:
        print_keys(console, before, after)
        console.print(f"\n[bold]{counted(totals['compared'], 'account')} as of {when} UTC[/bold], in {currency}\n")
        console.print(_sums(found))
        console.print(
            f"\n{counted(totals['more'], 'account')} would owe {totals['asked']:,.0f} more, "
            f"{totals['less']:,} would owe {totals['freed']:,.0f} less, {totals['same']:,} the same"
        )
        console.print(
            f"{counted(totals['newly_called'], 'account')} would be called, for {totals['newly_called_for']:,.0f}; "
            f"{totals['no_longer_called']:,} no longer, for {totals['no_longer_called_for']:,.0f}\n"
        )
        if newly.height:
            console.print("Who would be called, the largest call first:")
            console.print(account_table(newly.sort(-pl.col("call_after"), "account_id").head(NAMED)))
            console.print()
        print_most_changed(console, found)
        unknown = totals["accounts"] - totals["compared"]
        if unknown:
            console.print(f"\nThe sums leave out {counted(unknown, 'account')} without a margin.")
        if out is not None:
            console.print(f"\nResults: {out / 'whatif.parquet'}, {out / 'whatif.json'}")


def _sums(found: "ParameterDiff") -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "now", "then", "change", " "):
        table.add_column(title, justify="right" if title else "left")

    def add(title: str, before: float, after: float, *, share: bool) -> None:
        relative = f"{after / before - 1:+.1%}" if share and before else ""
        table.add_row(title, f"{before:,.0f}", f"{after:,.0f}", f"{after - before:+,.0f}", relative)

    for title, name in SUMS.items():
        add(title, found.totals[name], found.totals[f"{name}_after"], share=True)
        for part, before, after, _ in found.parts.iter_rows() if name == "initial_margin" else ():
            if max(abs(before), abs(after)) >= LEAST:
                add(f"  {part}", before, after, share=False)
    return table
