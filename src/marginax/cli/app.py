"""The command `marginax`: its subcommands, its exit codes, and how trouble is told.

Nothing heavy is imported here: each command imports what it needs when it runs, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from importlib.metadata import entry_points, version
from typing import Any

import typer

from marginax.cli import demo, init, margin, params
from marginax.problems import BadInput

# Flags that take several files: a shell expands `--history data/*.parquet` into words that click would refuse.
SEVERAL = ("--history",)


class Exit(IntEnum):
    """Exit codes: everything has a margin; an error of marginax's own; bad input; some accounts have none."""

    SUCCESS = 0
    INTERNAL = 1
    BAD_INPUT = 2
    EXCEPTED = 3
    INTERRUPTED = 130


app = typer.Typer(
    name="marginax",
    help="The margin of every account of a derivatives venue, in one batched pass.",
    epilog="Exit codes: 0 success, 1 internal error, 2 bad input, 3 some accounts have no margin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def leaving(command: Callable[..., int]) -> Callable[..., None]:
    """A command that leaves with its exit code and tells whatever goes wrong on standard error."""

    @wraps(command)
    def run_command(*words: Any, **options: Any) -> None:
        raise typer.Exit(_code(command, *words, **options))

    return run_command


def _code(command: Callable[..., int], *words: Any, **options: Any) -> int:
    try:
        return command(*words, **options)
    except BadInput as error:
        typer.echo(f"marginax: bad input, nothing was written\n{error}", err=True)
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        typer.echo("marginax: interrupted", err=True)
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever reads the output has seen enough; the results are written by then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.SUCCESS
    except OSError as error:
        typer.echo(f"marginax: {error}. Nothing was written: check the path, and that it may be written to", err=True)
        return Exit.INTERNAL
    except Exception:
        import traceback

        traceback.print_exc()
        typer.echo("marginax: internal error; the traceback above says where", err=True)
        return Exit.INTERNAL


app.command("margin", help="Margin every account of a book in files of your own.")(leaving(margin.command))
app.command("init", help="Write a commented configuration and example tables to start from.")(leaving(init.command))
app.command("demo", help="Build a synthetic venue and margin it.")(leaving(demo.command))
_params = typer.Typer(help="What a parameter file changes for a book, and who approved of it.", no_args_is_help=True)
_params.command("diff")(leaving(params.diff))
_params.command("approve")(leaving(params.approve))
app.add_typer(_params, name="params")
for _extra in entry_points(group="marginax.commands"):
    app.command(_extra.name)(leaving(_extra.load()))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"marginax {version('marginax')}")
        raise typer.Exit


@app.callback()
def _top(
    _: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """The margin of every account of a derivatives venue, in one batched pass."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns its exit code."""
    try:
        app(several_files(arguments))
    except SystemExit as leave:
        return Exit.SUCCESS if leave.code is None else int(leave.code)
    return Exit.SUCCESS


def several_files(arguments: list[str]) -> list[str]:
    """The words of a command line with `--history a b` spelled `--history a --history b`."""
    words: list[str] = []
    flag = None
    for word in arguments:
        if word.startswith("-"):
            flag = word if word in SEVERAL else None
            words.append(word)
        elif flag is not None and words[-1] != flag:
            words += [flag, word]
        else:
            words.append(word)
    return words
