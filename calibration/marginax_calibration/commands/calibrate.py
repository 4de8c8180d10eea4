"""`marginax calibrate`: fit a model's numbers to history by gradient, and write the file that a run takes."""

from collections.abc import Sequence
from datetime import UTC
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.problems import BadInput, Problem
from marginax_calibration.commands.flags import check_outputs, hashes, names_in, toml_files

if TYPE_CHECKING:
    from marginax_calibration.fitting.fit import Fit, Fitting

PATH, DOCUMENT, UNFINISHED = "path", "fit.json", "unfinished.json"


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
    from_: Annotated[str | None, typer.Option("--from", help="first date of a loss", metavar="DATE")] = None,
    free: Annotated[
        str, typer.Option(help="keys to fit, with commas; default: those that matter to the model", metavar="KEYS")
    ] = "",
    by: Annotated[By, typer.Option(help="one number for all, or one for each class or underlying")] = By.ALL,
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
) -> int:
    """Fit the numbers of a margin model to history by gradient."""
    inputs = [*history, portfolios, *toml_files(model)]
    check_outputs([out], dir_, inputs)
    if dir_ is not None and out.resolve().parent == dir_.resolve():
        what, remedy = "is in the folder of `--dir`, which has files of its own", "Name a file outside of it"
        raise BadInput([Problem(str(out), None, None, what, remedy)])
    if resume and dir_ is None:
        raise BadInput([Problem("--resume", None, None, "needs a folder", "Name that of the search with `--dir`")])
    from marginax_calibration.commands.dates import time_of
    from marginax_calibration.fitting.objective import Weights
    from marginax_calibration.fitting.state import Settings

    first, last = time_of(from_, "--from", last=False), time_of(until, "--until", last=True)
    settings = Settings(method.value, steps, batch, rate, starts, seed=seed)
    try:
        wanted = Weights().of(weights) if weights else Weights()
    except ValueError as error:
        raise BadInput([Problem("--weights", None, None, str(error), "Say such as cost=0.5,uncovered=0.1")]) from None
    from marginax.config import preset_names
    from marginax.models.load import model_config
    from marginax_calibration.fitting.fit import Fitting
    from marginax_calibration.judgement import read_groups
    from marginax_calibration.models import settled
    from marginax_calibration.portfolios import LINEAR_KINDS

    config = model_config(model)
    if first is not None and last < first:
        raise BadInput([Problem("--until", None, None, f"{until} is before {from_}", "Swap --from and --until")])
    end = last.astype(object)
    groups = read_groups(
        history, portfolios, absolute=names_in(absolute), seed=seed, kinds=LINEAR_KINDS, until=end.replace(tzinfo=UTC)
    )
    horizon = 1 / groups[0].panel.grid.bars_per_day
    common = {"tail": tail, "charge_tail": charge_tail, "horizon_days": horizon}
    fitting = Fitting(
        settled(config, common),
        groups,
        name=model if model in preset_names() else "",
        weights=wanted,
        settings=settings,
        keys=names_in(free),
        by=by.value,
        first_time=first,
        check_share=check,
        embargo_bars=embargo,
    )
    found = _search(fitting, inputs, dir_, resume=resume, intervals=intervals)
    _write(found, fitting, inputs, out, dir_)
    _tell(found)
    for place in (out, dir_):
        if place is not None:
            typer.echo(f"Wrote {place}")
    return 0


def _search(
    fitting: "Fitting", inputs: Sequence[Path | None], dir_: Path | None, *, resume: bool, intervals: bool
) -> "Fit":
    """Run the search, keeping where it stands; what stopped it is told with the last good numbers."""
    import json

    from marginax.tables.results import clear_results, write_files
    from marginax_calibration.commands.search_display import search_display
    from marginax_calibration.fitting import fit_file
    from marginax_calibration.fitting.state import NotFinite

    stamp = fit_file.stamp_of({"inputs": sorted(hashes(inputs).values()), **fitting.identity})
    state: Any = None
    rows: list[dict[str, Any]] = []
    if dir_ is not None:
        dir_.mkdir(parents=True, exist_ok=True)
        if resume:
            state, rows = fit_file.read_state(dir_, fitting.search, stamp)
        clear_results(dir_)
        (dir_ / UNFINISHED).unlink(missing_ok=True)
    path = list(rows)
    with search_display(fitting.settings) as show:

        def told(state: Any, more: list[dict[str, Any]]) -> None:
            path.extend(more)
            show(state, more)
            if dir_ is not None:
                fit_file.write_state(dir_, state, path, stamp)

        try:
            return fitting.run(state, rows, with_intervals=intervals, report=told)
        except NotFinite as error:
            kept = "" if dir_ is None else f"; the best numbers so far are in {dir_ / UNFINISHED}"
            remedy = f"Free fewer keys, or take shorter steps with `--rate`{kept}"
            if dir_ is not None and error.state is not None:
                fit_file.write_state(dir_, error.state, path, stamp)
                text = json.dumps(fit_file.unfinished(fitting, error.state), indent=1) + "\n"
                write_files({dir_ / UNFINISHED: lambda place: place.write_text(text, encoding="utf-8")})
            raise BadInput([Problem("objective", None, None, str(error), remedy)]) from None


def _write(found: "Fit", fitting: "Fitting", inputs: Sequence[Path | None], out: Path, dir_: Path | None) -> None:
    """The parameter file, and the folder with the fit, its path and a manifest."""
    from importlib.metadata import version

    from marginax.tables.results import whole_files, write_tables
    from marginax_calibration.fitting.fit_file import text_of

    text = text_of(found)
    with whole_files({out: lambda path: path.write_text(text, encoding="utf-8")}):
        if dir_ is not None:
            manifest = {
                "versions": {name: version(name) for name in ("marginax", "jax", "optax", "numpy", "polars")},
                "inputs": hashes(inputs),
                **fitting.identity,
            }
            write_tables(dir_, {PATH: found.path}, manifest, {DOCUMENT: text})


def _tell(found: "Fit") -> None:
    """The numbers, the terms before and after, and whether the starts agree."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 140)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("number", "from", "to", "95 %"):
        table.add_column(title, justify="left" if title == "number" else "right")
    for k, each in enumerate(found.tunable.free):
        sure = found.intervals
        reach = "-" if sure is None or not sure.low[k] <= sure.high[k] else f"{sure.low[k]:.4g} to {sure.high[k]:.4g}"
        table.add_row(each.key, f"{each.value:.4g}", f"{found.values[k]:.4g}", reach)
    console.print(table)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("term")
    for on in found.after:
        table.add_column(f"{on}: before", justify="right")
        table.add_column("after", justify="right")
    for term in next(iter(found.after.values())):
        cells = [f"{side[on][term]:.4f}" for on in found.after for side in (found.before, found.after)]
        table.add_row(term, *cells)
    console.print(table)
    if len(found.starts) > 1:
        apart = sum(not each.agrees for each in found.starts)
        said = "agree" if not apart else f"do not agree: {apart} of {len(found.starts)} ended elsewhere or worse"
        console.print(f"The starts {said}.")
