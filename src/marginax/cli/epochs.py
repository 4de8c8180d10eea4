"""`marginax epochs`: a book through a sequence of markets, margins at each of them."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marginax.cli.exits import Exit
from marginax.cli.margin import OnError

if TYPE_CHECKING:
    from marginax.epochs import Replayed

SHOWN = 12


class Calls(Enum):
    """What becomes of an account that is called."""

    STAND = "stand"
    PAID = "paid"
    CLOSED = "closed"


def command(
    book: Annotated[
        Path, typer.Option(help="folder of the book's tables, or a TOML file that names them", metavar="INPUTS")
    ],
    bars: Annotated[list[Path], typer.Option(help="prices by time; several files may follow", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="folder for the results", metavar="DIR", show_default=False)],
    market: Annotated[
        Path | None,
        typer.Option(
            help="the same of the market that the bars begin after, with its history; default: where the book is",
            metavar="INPUTS",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="a preset, a TOML file or a parameter file; default: the configuration of the market's inputs",
            show_default=False,
        ),
    ] = None,
    calls: Annotated[
        Calls,
        typer.Option(help="stand: nobody pays; paid: calls are paid; closed: positions are closed an epoch later"),
    ] = Calls.STAND,
    every: Annotated[int, typer.Option(min=1, help="epochs between checkpoints")] = 24,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a replay into this folder stopped")] = False,
    on_error: Annotated[OnError, typer.Option(help="quarantine: set bad rows aside and go on")] = OnError.RAISE,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON instead of a summary")] = False,
) -> int:
    """Margin every account at each time of a file of bars, carrying the state of the filters forward."""
    from marginax.cli.changes import check_out
    from marginax.run_inputs import configuration, read_inputs

    sources = [book, *([] if market is None else [market])]
    check_out(out, sources, [model, *map(str, bars)])
    settings, notes = (None, []) if model is None else configuration(model)
    given = read_inputs(book, market=market, config=settings, on_error=on_error.value)
    for note in (*notes, *given.notes):
        typer.echo(note, err=True)
    from marginax.cli.progress import progress_bar
    from marginax.epochs import replay

    try:
        with progress_bar("epochs") as progress:
            found = replay(
                given.book,
                given.market,
                bars[0] if len(bars) == 1 else bars,
                given.config,
                out=out,
                calls=calls.value,
                every=every,
                go_on=resume,
                on_error=on_error.value,
                progress=progress,
            )
    except KeyboardInterrupt:
        if (out / "unfinished" / "run.json").is_file():
            typer.echo(f"{out / 'unfinished'} keeps what was done; the same command with --resume goes on", err=True)
        raise
    if json:
        import json as encoder

        typer.echo(encoder.dumps({"out": str(out), **found.manifest}, indent=2))
    else:
        _tell(found, out)
    return Exit.EXCEPTED if found.manifest["accounts_without_margin"] else Exit.SUCCESS


def _tell(found: "Replayed", out: Path) -> None:
    """Print the epochs that matter: the first, the last, and those with the largest steps of the requirement."""
    from rich.table import Table

    from marginax.cli.summary import counted, page

    rows, manifest = found.epochs, found.manifest
    step = rows["initial_margin"].diff().abs().fill_null(0.0)
    chosen = sorted({0, rows.height - 1, *step.arg_sort(descending=True).head(SHOWN - 2).to_list()})
    table = Table(box=None, padding=(0, 2, 0, 0))
    titles = (
        "time",
        "equity",
        "initial",
        "maintenance",
        "new calls",
        "called",
        "below zero",
        "shortfall",
        "expected bad debt",
    )
    for title in titles:
        table.add_column(title, justify="left" if title == "time" else "right")
    for k in chosen:
        row = rows.row(k, named=True)
        money = (f"{row[name] or 0.0:,.0f}" for name in ("equity", "initial_margin", "maintenance_margin"))
        more = (f"{row['new_calls']:,}", f"{row['new_call']:,.0f}", f"{row['below_zero']:,}")
        due = (f"{row[name] or 0.0:,.0f}" for name in ("shortfall", "expected_bad_debt"))
        table.add_row(f"{row['time']:%Y-%m-%d %H:%M}", *money, *more, *due)
    spent, totals = manifest["seconds"], manifest["totals"]
    with page() as console:
        head = f"{counted(rows.height, 'epoch')} by {manifest['model']}, calls: {manifest['calls']}"
        pace = "" if spent["an_epoch"] is None else f", {spent['an_epoch']:.2f} s an epoch"
        console.print(f"\n[bold]{head}[/bold], {rows['accounts'][-1]:,} accounts, {manifest['currency']}{pace}\n")
        console.print(table)
        if rows.height > len(chosen):
            console.print(f"\nThe first, the last, and the {len(chosen) - 2} largest changes of initial margin.")
        console.print(
            f"\n{totals['new_calls']:,} calls of {totals['new_call'] or 0.0:,.0f} in all; written off "
            f"{totals['written_off'] or 0.0:,.0f}; largest shortfall {totals['largest_shortfall'] or 0.0:,.0f}."
        )
        without = manifest["epochs"]["underlyings_without_bars"]
        if without:
            names = ", ".join(without[:8]) + (f" and {len(without) - 8:,} more" if len(without) > 8 else "")
            console.print(f"\nWithout a bar, so that their prices stand still and grow old: {names}.", markup=False)
        if left := manifest["epochs"]["rows_not_later_than_the_market"]:
            console.print(f"\n{counted(left, 'row')} of the bars no later than the market, left out.")
        if excepted := manifest["accounts_without_margin"]:
            console.print(f"\nThe sums leave out up to {counted(excepted, 'account')} without a margin.")
        files = ", ".join(str(out / name) for name in (*manifest["outputs"], "manifest.json"))
        console.print(f"\nResults: {files}")
