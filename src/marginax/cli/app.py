"""The command line `marginax`: its subcommands, its exit codes, and how trouble is told.

Nothing heavy is imported here: each command imports what it needs when it runs, so that `--help` answers at once, and
the commands themselves are imported when Ctrl-C is already watched for.
"""

import os
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from marginax.cli.exits import EXIT_CODES, Exit
from marginax.interrupts import TOLD, leave_alone, was_interrupted, watch

if TYPE_CHECKING:
    from typer import Typer

# Flags that take several words: a shell expands `--history data/*.parquet` into some that click would refuse.
SEVERAL = ("--history", "--workload")
# The same of single commands: elsewhere these flags take one file, and a second is refused.
SEVERAL_OF = {"partition": ("--positions", "--balances", "--accounts", "--orders"), "epochs": ("--bars",)}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    code: int = Exit.INTERRUPTED
    try:
        watch()
        code = run(sys.argv[1:] if arguments is None else arguments)
        leave_alone()
    except KeyboardInterrupt:
        leave_alone()
        sys.stderr.write(f"{TOLD}\n")
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line; returns its exit code."""
    try:
        application()(several_files(arguments))
    except SystemExit as leave:
        code = Exit.SUCCESS if leave.code is None else int(leave.code)
        if code == Exit.INTERRUPTED:
            sys.stderr.write(f"{TOLD}\n")
        return code
    return Exit.SUCCESS


@cache
def application() -> "Typer":
    """The command line with all its commands, those of other packages too."""
    from importlib.metadata import entry_points

    import typer

    from marginax.cli import bench, changes, demo, epochs, init, margin, params, partition, whatif

    app = typer.Typer(
        name="marginax",
        help="The margin of every account of a derivatives venue, in one batched pass.",
        epilog=f"Exit codes: {EXIT_CODES}.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command("margin", help="Margin every account of a book in files of your own.")(leaving(margin.command))
    app.command("changes", help="Tell why margins moved between two runs.")(leaving(changes.command))
    app.command("whatif", help="Tell what other parameters would ask of every account.")(leaving(whatif.command))
    app.command("epochs", help="Margin a book at each time of a file of prices, interrupted and resumed at will.")(
        leaving(epochs.command)
    )
    app.command("init", help="Write a commented configuration and example tables to start from.")(leaving(init.command))
    app.command("partition", help="Partition a book of any size by account, for what memory cannot hold.")(
        leaving(partition.command)
    )
    app.command("demo", help="Build a synthetic venue and margin it.")(leaving(demo.command))
    app.command("bench", help=bench.HELP, short_help="Time the whole-book kernel on this machine.")(
        leaving(bench.command)
    )
    files = typer.Typer(help="What a parameter file changes for a book, and who approved of it.", no_args_is_help=True)
    files.command("diff")(leaving(params.diff))
    files.command("approve")(leaving(params.approve))
    app.add_typer(files, name="params")
    for extra in entry_points(group="marginax.commands"):
        app.command(extra.name)(leaving(extra.load()))

    @app.callback()
    def top(
        _: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ) -> None:
        """The margin of every account of a derivatives venue, in one batched pass."""

    return app


def leaving(command: Callable[..., int]) -> Callable[..., None]:
    """A command that leaves with its exit code and tells whatever goes wrong on standard error."""

    @wraps(command)
    def run_command(*words: Any, **options: Any) -> None:
        import typer

        raise typer.Exit(_code(command, *words, **options))

    return run_command


def _code(command: Callable[..., int], *words: Any, **options: Any) -> int:
    try:
        return command(*words, **options)
    except KeyboardInterrupt:
        return _stopped()
    except Exception as error:
        # A library may wrap what interrupted it into an error of its own.
        return _stopped() if was_interrupted() else _trouble(error)


def _stopped() -> int:
    leave_alone()
    return Exit.INTERRUPTED


def _trouble(error: Exception) -> int:
    from marginax.problems import BadInput
    from marginax.publication import NotPublished

    match error:
        case BadInput():
            return _told(f"marginax: bad input, nothing was written\n{error}", Exit.BAD_INPUT)
        case NotPublished():
            return _told(f"marginax: not published, nothing was written\n{error}", Exit.NOT_PUBLISHED)
        case BrokenPipeError():  # whoever reads the output has seen enough; the results are written by then
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.SUCCESS
        case OSError():
            remedy = "Nothing was written: check the path, and that it may be written to"
            return _told(f"marginax: {error}. {remedy}", Exit.INTERNAL)
    import traceback

    traceback.print_exception(error)
    return _told("marginax: internal error; the traceback above says where", Exit.INTERNAL)


def _told(words: str, code: Exit) -> Exit:
    import typer

    typer.echo(words, err=True)
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        import typer

        typer.echo(f"marginax {version('marginax')}")
        raise typer.Exit


def several_files(arguments: list[str]) -> list[str]:
    """The words of a command line with `--history a b` spelled `--history a --history b`."""
    several = (*SEVERAL, *SEVERAL_OF.get(arguments[0], ())) if arguments else SEVERAL
    words: list[str] = []
    flag = None
    for word in arguments:
        if word.startswith("-"):
            flag = word if word in several else None
            words.append(word)
        elif flag is not None and words[-1] != flag:
            words += [flag, word]
        else:
            words.append(word)
    return words
