"""`marginax impulse`: how margins answer a step in volatility."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from marginax.problems import BadInput, Problem
from marginax_calibration.commands.drawing import pictures
from marginax_calibration.commands.flags import BY_DEFAULT, check_outputs, hashes, names_in, toml_files

DOCUMENT, PATHS = "impulse.json", "responses"


def command(
    models: Annotated[
        str, typer.Option(help="presets, installed models or TOML files, with commas between", metavar="NAMES")
    ] = BY_DEFAULT,
    steps: Annotated[str, typer.Option(help="multiples of volatility, with commas between")] = "1.5,2,3",
    seeds: Annotated[int, typer.Option(min=2, max=10_000, help="paths for each step")] = 64,
    before: Annotated[int, typer.Option(min=251, help="bars before the step")] = 1250,
    after: Annotated[int, typer.Option(min=251, help="bars from the step on")] = 1500,
    sigma_day: Annotated[float, typer.Option(min=1e-5, max=1.0, help="daily volatility before the step")] = 0.02,
    charge_tail: Annotated[float, typer.Option(min=1e-4, max=0.25, help="tail whose ES every model charges")] = 0.025,
    json: Annotated[Path | None, typer.Option("--json", help="where the figures go", metavar="FILE")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="where paths are drawn, as PNG or SVG (extra `report`)", metavar="FILE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for figures, paths and manifest", metavar="DIR")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the returns")] = 7,
) -> int:
    """Tell how margins answer a step in volatility."""
    multiples = _steps(steps)
    check_outputs([json, picture], out, toml_files(models))
    drawn = None if picture is None else pictures()
    from importlib.metadata import version
    from json import dumps

    from marginax.cli.progress import progress_bar
    from marginax.tables.results import whole_files, write_tables
    from marginax_calibration.impulse import as_json, impulse
    from marginax_calibration.models import load_models

    chosen = load_models(names_in(models), charge_tail=charge_tail)
    with progress_bar("portfolio-bars") as progress:
        answer = impulse(
            chosen,
            steps=multiples,
            seeds=seeds,
            before=before,
            after=after,
            sigma_day=sigma_day,
            seed=seed,
            progress=lambda _, done, total: progress(done, total),
        )
    settings = {"steps": list(multiples), "seeds": seeds, "before": before, "after": after, "sigma_day": sigma_day,
                "charge_tail": charge_tail, "seed": seed}  # fmt: skip
    text = dumps(as_json(answer.figures, **settings), indent=1, allow_nan=False) + "\n"
    files: dict[Path, Callable[[Path], object]] = {}
    if json is not None:
        files[json] = lambda path: path.write_text(text, encoding="utf-8")
    if picture is not None and drawn is not None:
        files[picture] = partial(drawn.impulse_responses, answer.paths, list(chosen))
    with whole_files(files):
        if out is not None:
            manifest = {
                "versions": {name: version(name) for name in ("marginax", "jax", "numpy", "polars")},
                "inputs": hashes(toml_files(models)),
                "settings": settings,
                "configuration": {name: model.settings.model_dump(mode="json") for name, model in chosen.items()},
            }
            write_tables(out, {PATHS: answer.paths}, manifest, {DOCUMENT: text})
    _print(answer.figures)
    for path in (json, picture, out):
        if path is not None:
            typer.echo(f"Wrote {path}")
    return 0


def _steps(words: str) -> tuple[float, ...]:
    try:
        steps = tuple(float(word) for word in words.split(",") if word.strip())
    except ValueError:
        steps = ()
    if not steps or not all(0 < step < 1e3 and step != 1 for step in steps) or len(set(steps)) < len(steps):
        what = f"'{words}' was given"
        remedy = "Give different multiples of volatility, above zero and other than 1, such as 1.5,2,3"
        raise BadInput([Problem("--steps", None, None, what, remedy)])
    return steps


def _print(figures: dict[str, dict[str, dict[str, float | None]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("model", "step", "margin before", "steady", "multiple", "overshoot", "half-life"):
        table.add_column(title, justify="left" if title == "model" else "right")
    for model, by_step in figures.items():
        for step, each in by_step.items():
            shown = [f"{each[key]:.2%}" for key in ("before", "steady")]
            shown.append("-" if each["multiple"] is None else f"{each['multiple']:.2f}")
            over, error = each["overshoot"], each["overshoot_error"]
            shown.append("-" if over is None else f"{over:+.1%} ± {error:.1%}")
            half = each["half_life"]
            shown.append("never" if half is None else f"{half:,.0f} bars")
            table.add_row(model, f"{step} x", *shown)
    Console(width=None if Console().is_terminal else 140).print(table)
