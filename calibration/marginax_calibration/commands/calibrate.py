"""`marginax calibrate`: fit a model's numbers to history by gradient, and write the file that a run takes."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.interrupts import stop_if_interrupted
from marginax.problems import BadInput, Problem
from marginax_calibration.commands.calibrate_door import check_places, config_of, in_flags, weights_in
from marginax_calibration.commands.flags import hashes, names_in

if TYPE_CHECKING:
    from marginax.config import Config
    from marginax_calibration.calendar_groups import CalendarGroup
    from marginax_calibration.fitting.fit import Fit, Fitting
    from marginax_calibration.fitting.state import Settings, State

UNFINISHED = "unfinished.json"


class By(Enum):
    """Whose numbers are free."""

    ALL = "all"
    CLASS = "class"
    UNDERLYING = "underlying"


class Method(Enum):
    """How to search."""

    ADAM = "adam"
    LBFGS = "lbfgs"


def command(
    history: Annotated[
        list[Path], typer.Option(help="past prices (time, underlying, price); several may follow", metavar="FILE")
    ],
    until: Annotated[str, typer.Option(help="last date of the data that the fit may know", metavar="DATE")],
    out: Annotated[Path, typer.Option(help="where the parameter file goes (JSON)", metavar="FILE")],
    model: Annotated[str, typer.Option(help="preset, installed model or TOML file", metavar="NAME")] = "dynamic",
    dir_: Annotated[
        Path | None,
        typer.Option("--dir", help="folder for the fit, its path, a manifest, and where it stands", metavar="DIR"),
    ] = None,
    portfolios: Annotated[
        Path | None,
        typer.Option(help="portfolios of your own; by default a venue's over all underlyings", metavar="FILE"),
    ] = None,
    signals: Annotated[
        Path | None, typer.Option(help="past signals, for a model whose `regime` reads them", metavar="FILE")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="first date of a loss", metavar="DATE")] = None,
    free: Annotated[
        str | None,
        typer.Option(help="keys to fit, with commas; default: those that matter to the model", metavar="KEYS"),
    ] = None,
    by: Annotated[By, typer.Option(help="one number for all, or one for each class or underlying")] = By.ALL,
    underlyings: Annotated[
        Path | None, typer.Option(help="underlyings with their `asset_class`, before the model's", metavar="FILE")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="weights of the objective that differ, such as cost=0.5,uncovered=0.1")
    ] = "",
    method: Annotated[Method, typer.Option(help="Adam on batches of days, or L-BFGS on all of them")] = Method.ADAM,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="most steps of the search")] = 120,
    starts: Annotated[int, typer.Option(min=1, max=64, help="starts; the first is the configuration's")] = 3,
    batch: Annotated[int, typer.Option(min=0, help="stretches of 64 bars in a batch; 0: all")] = 8,
    rate: Annotated[float, typer.Option(min=1e-4, max=1.0, help="length of a step, in the free scale")] = 0.06,
    check: Annotated[float, typer.Option(min=0.0, max=0.5, help="last share of the bars, kept to check on")] = 0.2,
    embargo: Annotated[int, typer.Option(min=0, help="bars between what is fitted and what is checked")] = 0,
    intervals: Annotated[bool, typer.Option(help="also tell how sure the numbers are: 2 gradients for each")] = False,
    tail: Annotated[float, typer.Option(min=1e-4, max=0.25, help="probability that var and es are at")] = 0.01,
    charge_tail: Annotated[float, typer.Option(min=1e-4, max=0.25, help="tail whose ES is charged")] = 0.025,
    absolute: Annotated[
        str, typer.Option(help="underlyings whose prices may be zero or below, with commas", metavar="NAMES")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="seed of portfolios, draws, starts and batches")] = 7,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search that `--dir` holds")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace approved parameters, or a search that did not end")
    ] = False,
) -> int:
    """Fit the numbers of a margin model to history by gradient."""
    inputs = [*history, portfolios, underlyings, signals, *([Path(model)] if model.endswith(".toml") else [])]
    check_places(out, dir_, inputs, resume=resume, overwrite=overwrite)
    from marginax_calibration.commands.dates import time_of

    first, last = time_of(from_, "--from", last=False), time_of(until, "--until", last=True)
    if first is not None and last < first:
        what, remedy = f"{until} is before {from_}, which `--from` says", "Give an earlier --from, or a later --until"
        raise BadInput([Problem("--until", None, None, what, remedy)])
    if free is not None and not free.strip(" ,"):
        raise BadInput([Problem("--free", None, None, "names no key", "Name some, or leave the flag out")])
    wanted, config = weights_in(weights), config_of(model)
    from marginax.config import preset_names
    from marginax_calibration.commands import calibrate_report
    from marginax_calibration.dates import utc
    from marginax_calibration.fitting.fit import Fitting
    from marginax_calibration.fitting.state import Settings
    from marginax_calibration.judgement import known_groups
    from marginax_calibration.models import settled
    from marginax_calibration.portfolios import LINEAR_KINDS

    clock = perf_counter()
    with in_flags(model, config, free=bool(free)):
        settings = Settings(method.value, steps, batch, rate, starts, seed=seed)
    groups, left_out = known_groups(
        history,
        portfolios,
        absolute=names_in(absolute),
        seed=seed,
        kinds=LINEAR_KINDS,
        until=utc(last),
        signals=signals,
    )
    groups, classes = _classed(groups, underlyings, config, needed=by is By.CLASS)
    read = perf_counter()
    horizon = 1 / groups[0].panel.grid.bars_per_day
    common = {"tail": tail, "charge_tail": charge_tail, "horizon_days": horizon}
    with in_flags(model, config, free=bool(free)):
        fitting = Fitting(
            settled(config, common),
            groups,
            name=model if model in preset_names() else "",
            weights=wanted,
            settings=settings,
            keys=free or (),
            by=by.value,
            classes=classes,
            first_time=first,
            check_share=check,
            embargo_bars=embargo,
            left_out=left_out,
        )
    seconds = {"read": round(read - clock, 3), "prepared": round(perf_counter() - read, 3)}
    digests = hashes(inputs)
    found = _search(fitting, digests, dir_, resume=resume, intervals=intervals)
    stop_if_interrupted()
    calibrate_report.write(found, fitting, digests, out, dir_, seconds)
    calibrate_report.tell(found)
    for place in (out, dir_):
        if place is not None:
            typer.echo(f"Wrote {place}")
    return 0


def _classed(
    groups: Sequence["CalendarGroup"], underlyings: Path | None, config: "Config", *, needed: bool
) -> tuple[list["CalendarGroup"], dict[str, str]]:
    """The classes that a table of underlyings states, and the groups with its hash beside those of their files.

    Raises BadInput where classes are `needed`, and neither the table nor the configuration places what is held.
    """
    held = {name for group in groups for each in group.portfolios for name in each.underlyings}
    if underlyings is None:
        if needed and not held & set(config.classes.names):
            what = f"no underlying of the history has a class: all would be `{config.classes.default}`"
            remedy = "Give their `asset_class` by `--underlyings`, or say `--by underlying`"
            raise BadInput([Problem("--by", None, None, what, remedy)])
        return list(groups), {}
    from dataclasses import replace

    from marginax.tables.door import admit

    table = admit(underlyings, "underlyings")
    pairs = table.rows.select("underlying", "asset_class").drop_nulls().iter_rows()
    classes = {str(name): str(word) for name, word in pairs}
    if needed and not held & set(classes):
        what, remedy = "states no class of what is held", "Fill the column in, or say `--by underlying`"
        raise BadInput([Problem(str(underlyings), "asset_class", None, what, remedy, table="underlyings")])
    return [replace(group, inputs={**group.inputs, **table.digests}) for group in groups], classes


def _search(fitting: "Fitting", digests: dict[str, str], dir_: Path | None, *, resume: bool, intervals: bool) -> "Fit":
    """Run the search, keeping where it stands; what stopped it is told with the last good numbers."""
    from marginax.interrupts import was_interrupted
    from marginax.tables.results import clear_results
    from marginax_calibration.commands.search_display import search_display
    from marginax_calibration.fitting import fit_file
    from marginax_calibration.fitting.state import NotFinite

    search = fit_file.search_of(fitting, digests)
    state: State | None = None
    rows: list[dict[str, Any]] = []
    if dir_ is not None:
        if resume:
            state, rows = fit_file.read_state(dir_, fitting, search)
        dir_.mkdir(parents=True, exist_ok=True)
        clear_results(dir_)
        (dir_ / UNFINISHED).unlink(missing_ok=True)
        if not resume:
            (dir_ / fit_file.STATE).unlink(missing_ok=True)
    path, stands = list(rows), state
    if state is not None and (state.step >= fitting.settings.steps or state.done.all()):
        typer.echo("The search had ended before: nothing is left to do but to judge it.", err=True)

    def told(state: "State", more: list[dict[str, Any]]) -> None:
        nonlocal stands
        stands = state
        path.extend(more)
        show(state, more)
        if dir_ is not None:
            fit_file.write_state(dir_, state, path, search)

    try:
        with search_display(fitting.settings, rows) as show:
            return fitting.run(state, rows, with_intervals=intervals, report=told)
    except NotFinite as error:
        last = stands if error.state is None else error.state
        remedy = "Free fewer keys, or take shorter steps with `--rate`"
        if dir_ is not None and last is not None:
            fit_file.write_state(dir_, last, path, search)
            fit_file.write_unfinished(dir_ / UNFINISHED, fitting, last)
            remedy = f"{remedy}; the best numbers so far are in {dir_ / UNFINISHED}"
        raise BadInput([Problem("objective", None, None, str(error), remedy)]) from None
    except (KeyboardInterrupt, Exception) as error:
        # A library may wrap what interrupted it into an error of its own.
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            typer.echo(_standing(dir_, fitting.settings), err=True)
            if dir_ is not None and not any(dir_.iterdir()):
                dir_.rmdir()
        raise


def _standing(dir_: Path | None, settings: "Settings") -> str:
    """Where a search that was interrupted stands, and how to go on."""
    from marginax_calibration.fitting.fit_file import step_of

    step = None if dir_ is None else step_of(dir_)
    if step is None:
        return "Nothing was kept of the search" + (": `--dir DIR` keeps where one stands" if dir_ is None else " yet")
    here = f"The search stands at step {step} of at most {settings.steps}"
    return f"{here}; repeat the command and go on with --resume --dir {dir_}"
