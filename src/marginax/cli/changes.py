"""`marginax changes`: why margins moved between two runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marginax.cli.exits import Exit
from marginax.cli.margin import OnError
from marginax.problems import BadInput, Problem

if TYPE_CHECKING:
    from marginax.run_inputs import RunInputs


def command(
    before: Annotated[
        Path, typer.Option(help="folder of the earlier run's tables, or a TOML file of them", metavar="INPUTS")
    ],
    after: Annotated[Path, typer.Option(help="the same of the later run", metavar="INPUTS")],
    account: Annotated[str | None, typer.Option(help="explain this account alone", metavar="ID")] = None,
    config: Annotated[
        str | None,
        typer.Option(help="what both are run with, in place of theirs: a TOML file, a preset or a parameter file"),
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="mean of the order of causes and the opposite one")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder for the table and the sums", metavar="DIR")] = None,
    on_error: Annotated[OnError, typer.Option(help="quarantine: set bad rows aside and go on")] = OnError.RAISE,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a summary")] = False,
) -> int:
    """Split the change of margins between two runs into what caused it; the parts sum to the change."""
    check_out(out, [before, after], [config])
    given = [told_inputs(each, config, on_error) for each in (before, after)]
    if account is not None:
        _check_account(account, given)
    from marginax.changes import explain_change
    from marginax.interrupts import stop_if_interrupted

    runs = [each.margin(on_error=on_error.value) for each in given]
    found = explain_change(*runs, average=average)
    stop_if_interrupted()
    if out is not None:
        found.write(out)
    if json:
        import json as encoder

        from marginax.changes.change import account_document

        document = found.document if account is None else account_document(found, account)
        typer.echo(encoder.dumps(document if out is None else {"out": str(out), **document}, indent=2))
    else:
        from marginax.cli.change_summary import print_account, print_change

        if account is None:
            print_change(found, out)
        else:
            print_account(found, account, out)
    return Exit.EXCEPTED if found.totals["unknown"] else Exit.SUCCESS


def told_inputs(source: Path, config: str | None, on_error: OnError) -> "RunInputs":
    """A run's inputs, under another configuration if one is named; what to know of them is told."""
    from marginax.run_inputs import configuration, read_inputs

    settings, notes = (None, []) if config is None else configuration(config)
    given = read_inputs(source, config=settings, on_error=on_error.value)
    for note in (*notes, *given.notes):
        typer.echo(note, err=True)
    return given


def check_out(out: Path | None, sources: list[Path], configs: list[str | None]) -> None:
    """Refuse a folder for results that is no folder, or where inputs lie: results would replace what is there."""
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise BadInput([Problem(str(out), None, None, "is a file", "Name a folder for the results")])
    from marginax.run_inputs import input_files

    files = [file for source in sources for file in input_files(source)]
    files += [Path(name) for name in configs if name is not None]
    if out.resolve() in {place.resolve() for file in files if file.exists() for place in (file, file.parent)}:
        what = "is where inputs lie, and results would replace what is there"
        raise BadInput([Problem(str(out), None, None, what, "Name another folder")])


def _check_account(account: str, given: "list[RunInputs]") -> None:
    from marginax.changes.change import near

    known = sorted({str(name) for each in given for name in each.book.accounts})
    if account not in known:
        what = f"no account '{account}' is in either run"
        raise BadInput([Problem("--account", None, None, what, f"Name one of theirs; {near(account, known)}")])
