"""`marginax backtest`: replay models over a history, and say which margins were good."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.interrupts import stop_if_interrupted
from marginax.problems import BadInput, Problem
from marginax_calibration.commands.dates import time_of
from marginax_calibration.commands.flags import BY_DEFAULT, check_outputs, hashes, names_in, toml_files

if TYPE_CHECKING:
    import polars as pl

DAILY, JUDGEMENT = "daily", "judgement.json"


def command(
    history: Annotated[
        list[Path], typer.Option(help="past prices (time, underlying, price); several may follow", metavar="FILE")
    ],
    models: Annotated[
        str, typer.Option(help="presets, installed models or TOML files, with commas between", metavar="NAMES")
    ] = BY_DEFAULT,
    portfolios: Annotated[
        Path | None,
        typer.Option(help="portfolios of your own; by default a venue's over all underlyings", metavar="FILE"),
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="JSON file with settings of one model; see docs/backtesting.md", metavar="FILE")
    ] = None,
    signals: Annotated[
        Path | None, typer.Option(help="past signals, for models whose `regime` reads them", metavar="FILE")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", help="first date of a loss", metavar="DATE")] = None,
    to: Annotated[str | None, typer.Option("--to", help="last date of a loss", metavar="DATE")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="where the judgement goes", metavar="FILE")] = None,
    daily: Annotated[Path | None, typer.Option(help="where the daily table goes (Parquet)", metavar="FILE")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for both, with a manifest", metavar="DIR")] = None,
    tail: Annotated[float, typer.Option(min=1e-4, max=0.25, help="probability that var and es are at")] = 0.01,
    charge_tail: Annotated[float, typer.Option(min=1e-4, max=0.25, help="tail whose ES every model charges")] = 0.025,
    absolute: Annotated[
        str, typer.Option(help="underlyings whose prices may be zero or below, with commas", metavar="NAMES")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="seed of portfolios, draws and simulated p-values")] = 7,
) -> int:
    """Replay models over history, and judge their margins."""
    from marginax.parameter_file import described, notes_on, read_document, record, refuse_parameter_file

    for name in names_in(models):
        refuse_parameter_file("--models", name)
    wanted = [path for path in (json, daily) if path is not None]
    check_outputs(wanted, out, [*history, portfolios, params, signals, *toml_files(models)])
    from marginax.cli.progress import progress_bar
    from marginax_calibration.judgement import backtest, read_groups
    from marginax_calibration.models import load_models

    load = partial(load_models, names_in(models), tail=tail, charge_tail=charge_tail, params=params)
    load()  # a wrong name is told before a long history is read
    groups = read_groups(history, portfolios, absolute=names_in(absolute), seed=seed, signals=signals)
    chosen = load(horizon_days=1 / groups[0].panel.grid.bars_per_day)
    parameters = None
    if params is not None:
        document = read_document(params)
        parameters = record(params, document)
        for note in notes_on(params, document, chosen[document["model"]].settings):
            typer.echo(note, err=True)
    begin, end = time_of(from_, "--from", last=False), time_of(to, "--to", last=True)
    if begin is not None and end is not None and end < begin:
        raise BadInput([Problem("--to", None, None, f"{to} is before {from_}", "Swap --from and --to")])
    with progress_bar("portfolio-bars") as progress:
        result = backtest(
            chosen,
            groups,
            first_time=begin,
            last_time=end,
            tail=tail,
            seed=seed,
            progress=lambda _, done, total: progress(done, total),
        )
    result.manifest["inputs"] |= hashes([params, *toml_files(models)])
    result.manifest["parameters"] = parameters
    stop_if_interrupted()
    _write(result.judgement, result.daily, result.manifest, json, daily, out)
    from marginax_calibration.commands.verdict import print_verdict

    print_verdict(result.judgement, tail=tail)
    if parameters is not None:
        typer.echo(f"\nParameters: {described(parameters)}")
    written = [*wanted, *([out] if out is not None else [])]
    for path in written:
        typer.echo(f"Wrote {path}")
    if not written:
        typer.echo("Nothing was kept: --out DIR writes the daily table, the judgement and a manifest")
    return 0


def _write(
    judgement: dict[str, Any],
    table: "pl.DataFrame",
    manifest: dict[str, Any],
    json: Path | None,
    daily: Path | None,
    out: Path | None,
) -> None:
    import json as encoder

    from marginax.tables.results import whole_files, write_tables

    text = encoder.dumps(judgement, indent=1, allow_nan=False) + "\n"
    files: dict[Path, Callable[[Path], object]] = {}
    if daily is not None:
        files[daily] = table.write_parquet
    if json is not None:
        files[json] = lambda path: path.write_text(text, encoding="utf-8")
    with whole_files(files):
        if out is not None:
            write_tables(out, {DAILY: table}, manifest, {JUDGEMENT: text})
