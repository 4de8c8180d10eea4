"""What `marginax calibrate` refuses before it reads a history, and what is refused later in the words of its flags."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from marginax.problems import BadInput, Problem
from marginax_calibration.commands.flags import check_outputs

if TYPE_CHECKING:
    from marginax.config import Config
    from marginax_calibration.fitting.objective import Weights

DOCUMENT = "fit.json"
# The flags of what a fit in Python calls otherwise.
FLAGS = {
    "check_share": "--check",
    "embargo_bars": "--embargo",
    "first_time": "--from",
    "keys": "--free",
    "last_time": "--until",
    "rate": "--rate",
}


def check_places(
    out: Path, folder: Path | None, inputs: Sequence[Path | None], *, resume: bool, overwrite: bool
) -> None:
    """Refuse places that cannot be written to, or hold what nobody said to replace."""
    check_outputs([out], folder, inputs)
    if folder is not None and out.resolve().parent == folder.resolve():
        raise _refused(str(out), "is in the folder of `--dir`, which has files of its own", "Name a file outside of it")
    if resume and folder is None:
        raise _refused("--resume", "needs a folder", "Name that of the search with `--dir`")
    from marginax.parameter_file import refuse_to_replace
    from marginax.tables.results import MANIFEST
    from marginax_calibration.fitting.fit_file import STATE

    if resume and folder is not None and not (folder / STATE).is_file():
        raise _refused(str(folder), "holds no search to go on with", "Leave out `--resume`, or name another `--dir`")
    if overwrite:
        return
    for place in (out, *([folder / DOCUMENT] if folder is not None else [])):
        refuse_to_replace(place, "--overwrite")
    if folder is not None and not resume and (folder / STATE).is_file() and not (folder / MANIFEST).is_file():
        what = "holds a search that did not end, and would be replaced"
        raise _refused(str(folder), what, "Go on with it by `--resume`, or begin anew with `--overwrite`")


def weights_in(words: str) -> "Weights":
    """The weights that `--weights` says. Raises BadInput."""
    from marginax_calibration.fitting.objective import Weights

    try:
        return Weights().of(words)
    except ValueError as error:
        raise _refused("--weights", str(error), "Say such as cost=0.5,uncovered=0.1") from None


def config_of(model: str) -> "Config":
    """The configuration that `--model` names. Raises BadInput."""
    if model.endswith(".json"):
        what = f"`{model}` is JSON, as parameter files are, and a fit starts from a model"
        remedy = "Name a preset, an installed model or a TOML file; `margin` and `backtest` take the file by `--params`"
        raise _refused("--model", what, remedy)
    if model.endswith(".toml") and not Path(model).is_file():
        remedy = "Name a TOML file that is there, a preset or an installed model"
        raise _refused("--model", f"there is no file {model}", remedy)
    from marginax.models.load import model_config

    return model_config(model)


@contextmanager
def in_flags(model: str, config: "Config", *, free: bool) -> Iterator[None]:
    """Whatever a fit refuses, said of the flags; `free` tells whether keys were named."""
    try:
        yield
    except BadInput as error:
        raise BadInput([_in_flags(each, model, config, free) for each in error.problems], error.total) from None
    except ValueError as error:
        name = (str(error).split("`")[1:] or [""])[0]
        raise _refused(FLAGS.get(name, "calibrate"), str(error), "See `marginax calibrate --help`") from None


def _in_flags(problem: Problem, model: str, config: "Config", free: bool) -> Problem:
    what = problem.what.replace(f"`{config.model}`", f"`{model}`")
    remedy = problem.remedy
    for name, flag in FLAGS.items():
        what, remedy = (words.replace(f"`{name}`", f"`{flag}`") for words in (what, remedy))
    if problem.file in FLAGS:
        return replace(problem, file=FLAGS[problem.file], what=what, remedy=remedy)
    if problem.file == "parameters" and problem.column is not None:
        key = problem.column
        if not free:
            return Problem("--free", None, None, f"`{key}`, free by default, {what}", "Name the keys to fit")
        return Problem("--free", None, None, f"`{key}` {what}", remedy)
    remedy = remedy.replace("a later date", "a later `--until`")
    return replace(problem, what=what, remedy=remedy)


def _refused(place: str, what: str, remedy: str) -> BadInput:
    return BadInput([Problem(place, None, None, what, remedy)])
