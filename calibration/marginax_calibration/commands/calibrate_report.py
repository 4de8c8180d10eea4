"""What `marginax calibrate` leaves behind: the parameter file, a folder, and what a person wants to know of a fit."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import jax
import typer
from rich.table import Table

from marginax.cli.summary import page
from marginax.tables.results import whole_files, write_tables
from marginax_calibration.commands.calibrate_door import DOCUMENT
from marginax_calibration.fitting.fit import Fitting
from marginax_calibration.fitting.fit_file import text_of
from marginax_calibration.fitting.result import Fit

PATH = "path"
REASONS = 5
# A start that is further from the configuration than this, relatively, was moved off an edge.
MOVED = 1e-4


def write(
    found: Fit,
    fitting: Fitting,
    digests: Mapping[str, str],
    out: Path,
    folder: Path | None,
    seconds: Mapping[str, float],
) -> None:
    """The parameter file, and the folder with the fit, its path and a manifest.

    `digests` are of the inputs, `seconds` went by before the search.
    """
    text = text_of(found)
    with whole_files({out: lambda path: path.write_text(text, encoding="utf-8")}):
        if folder is not None:
            versions = {name: version(name) for name in ("marginax", "jax", "optax", "numpy", "polars")}
            manifest = {
                "versions": versions | {"python": python_version()},
                "device": jax.local_devices()[0].device_kind,
                "inputs": digests,
                **fitting.identity,
                "seconds": {**seconds, **found.seconds},
            }
            write_tables(folder, {PATH: found.path}, manifest, {DOCUMENT: text})


def tell(found: Fit) -> None:
    """The numbers, the terms before and after, whether the starts agree, and who is left out."""
    numbers = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("number", "from", "to", "95 %"):
        numbers.add_column(title, justify="left" if title == "number" else "right")
    for k, each in enumerate(found.tunable.free):
        sure = found.intervals
        reach = "-" if sure is None or not sure.low[k] <= sure.high[k] else f"{sure.low[k]:.4g} to {sure.high[k]:.4g}"
        numbers.add_row(each.key, f"{found.tunable.start[k]:.4g}", f"{found.values[k]:.4g}", reach)
    terms = Table(box=None, padding=(0, 2, 0, 0))
    terms.add_column("term")
    for on in found.after:
        terms.add_column(f"{on}: before", justify="right")
        terms.add_column("after", justify="right")
    for term in next(iter(found.after.values())):
        cells = [f"{side[on][term]:.4f}" for on in found.after for side in (found.before, found.after)]
        terms.add_row(term, *cells)
    with page() as console:
        console.print(numbers)
        console.print(terms)
    for each, start in zip(found.tunable.free, found.tunable.start, strict=True):
        if abs(start - each.value) > MOVED * max(abs(each.value), MOVED):
            typer.echo(f"`{each.key}` is {each.value:g}, the edge of what is allowed, and started from {start:.4g}.")
    if not found.improved:
        typer.echo("Nothing better was found than the numbers it started from.")
    if found.agreed is None:
        typer.echo("No two starts began apart, so that nothing says whether another would have ended elsewhere.")
    else:
        apart = sum(not each.agrees for each in found.starts)
        said = "agree" if not apart else f"do not agree: {apart} of {len(found.starts)} ended elsewhere or worse"
        typer.echo(f"The starts {said}.")
    out = found.data["left_out"]
    if out:
        typer.echo(f"Portfolios left out ({len(out)}; `left_out` names them):")
        reasons = Counter(out.values())
        for reason, portfolios in reasons.most_common(REASONS):
            typer.echo(f"  {portfolios:>3}  {reason}")
        if len(reasons) > REASONS:
            typer.echo("  ...")
