"""`marginax study`: the studies of the documentation, made again from market data."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from marginax.problems import BadInput, Problem
from marginax_calibration.commands.drawing import pictures
from marginax_calibration.commands.flags import BY_DEFAULT, check_outputs, names_in

NAMES = ("baselines",)


def command(
    name: Annotated[str, typer.Argument(help="the study: baselines", metavar="STUDY")],
    out: Annotated[Path, typer.Option(help="folder for tables, pictures and daily tables", metavar="DIR")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="folder of the market data; default: $MARGINAX_SHARED/data, else ../shared/data", metavar="DIR"
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="histories, with commas between; default: all", metavar="NAMES")] = "",
    models: Annotated[str, typer.Option(help="models, with commas between", metavar="NAMES")] = BY_DEFAULT,
    seed: Annotated[int, typer.Option(min=0, help="seed of portfolios and draws")] = 7,
) -> int:
    """Run a study of the documentation on real history."""
    if name not in NAMES:
        raise BadInput([Problem("STUDY", None, None, f"'{name}' is none", f"Name one of: {', '.join(NAMES)}")])
    folder = data or Path(os.environ.get("MARGINAX_SHARED", "../shared")) / "data"
    if not folder.is_dir():
        raise BadInput([Problem(str(folder), None, None, "is no folder", "Name that of the market data with `--data`")])
    from marginax.cli.progress import progress_bar
    from marginax.tables.results import write_files
    from marginax_calibration.models import load_models
    from marginax_calibration.studies import baselines

    check_outputs([], out)
    drawn = pictures()
    wanted = names_in(only) or list(baselines.STUDIES)
    unknown = [each for each in wanted if each not in baselines.STUDIES]
    if unknown:
        remedy = f"Name some of: {', '.join(baselines.STUDIES)}"
        raise BadInput([Problem("--only", None, None, f"'{unknown[0]}' is no history of this study", remedy)])
    chosen = load_models(names_in(models))
    figures = {}
    for history in wanted:
        with progress_bar(history) as progress:
            result = baselines.run(history, chosen, folder, seed=seed, progress=_under(progress))
        stem = history.replace(" ", "_")
        text = baselines.tables(history, result, list(chosen))
        files: dict[Path, Callable[[Path], object]] = {
            out / f"{stem}.parquet": result.daily.write_parquet,
            out / f"{stem}.md": partial(Path.write_text, data=text, encoding="utf-8"),
        }
        if history == "crypto":
            files[out / "march_2020.png"] = partial(
                drawn.margin_through, result.daily, "long BTC", baselines.SPRING, list(chosen)
            )
        out.mkdir(parents=True, exist_ok=True)
        write_files(files)
        figures[history] = result.judgement["pooled"]
        typer.echo(f"Wrote {out / stem}.md: {result.manifest['seconds']}")
    write_files({out / "cost_and_loss.png": partial(drawn.cost_and_loss, figures, list(chosen))})
    return 0


def _under(bar: Callable[[int, int], None]) -> Callable[[str, int, int], None]:
    """A progress bar that does not care which model is at work."""
    return lambda _, done, total: bar(done, total)
