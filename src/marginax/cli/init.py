"""`marginax init`: a folder to start from."""

from pathlib import Path
from typing import Annotated

import typer

from marginax.problems import BadInput, Problem

CONFIG = "marginax.toml"
NAMES = ("instruments", "positions", "balances", "quotes", "underlyings", "forwards", "history")
PORTFOLIOS = "portfolios.csv"
EXAMPLE = """portfolio,kind,underlying,weight,option,deviations,days
basis trade,,BTC,0.5,,,
basis trade,,ETH,-0.5,,,
short straddle,,BTC,-0.5,call,0,30
short straddle,,BTC,-0.5,put,0,30
"""


def command(
    directory: Annotated[Path, typer.Argument(help="folder to write into; it is made if need be", metavar="DIR")],
) -> int:
    """Write a commented configuration and small example tables (CSV) that `margin` and `backtest` run on unchanged."""
    from marginax.config import template
    from marginax.synthetic import venue

    files = {
        CONFIG: directory / CONFIG,
        PORTFOLIOS: directory / PORTFOLIOS,
        **{name: directory / f"{name}.csv" for name in NAMES},
    }
    taken = [path for path in files.values() if path.exists()]
    if taken:
        remedy = "Name another folder, or move what is there"
        raise BadInput([Problem(str(path), None, None, "is there already", remedy) for path in taken])
    directory.mkdir(parents=True, exist_ok=True)
    example = venue(seed=7, accounts=12, underlyings=4, instruments=12, bars=501, options=1, expiries=2, strikes=3)
    for name in NAMES:
        example.tables[name].write_csv(files[name], datetime_format="%Y-%m-%dT%H:%M:%SZ")
    files[CONFIG].write_text(template(), encoding="utf-8")
    files[PORTFOLIOS].write_text(EXAMPLE, encoding="utf-8")
    typer.echo(f"Wrote {CONFIG} and {len(NAMES) + 1} example tables to {directory}. Margin them with:\n")
    flags = [f"--{name} {files[name]}" for name in NAMES]
    lines = ["marginax margin", *flags, f"--config {files[CONFIG]}", f"--out {directory / 'results'}"]
    typer.echo("  " + " \\\n    ".join(lines))
    typer.echo("\nReplay models over the history, on portfolios of your own, with:\n")
    flags = [f"--history {files['history']}", f"--portfolios {files[PORTFOLIOS]}", f"--out {directory / 'backtest'}"]
    typer.echo("  " + " \\\n    ".join(["marginax backtest", *flags]))
    return 0
