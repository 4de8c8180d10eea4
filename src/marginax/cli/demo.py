"""`marginax demo`: a synthetic venue, margined as a user's own files would be."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="folder for tables and results", metavar="DIR")] = Path("out/demo"),
    accounts: Annotated[int, typer.Option(min=1, help="accounts of the venue")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the venue and of every draw")] = 7,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON instead of a summary")] = False,
) -> int:
    """Build a synthetic venue with a simulated history, write its tables, and margin every account by Monte Carlo."""
    from marginax.cli.margin import margin_files
    from marginax.config import load_config
    from marginax.sections import Run, StressWindow
    from marginax.synthetic import venue
    from marginax.tables.results import clear_results

    made = venue(seed=seed, accounts=accounts)
    clear_results(out)  # they are not of the tables that are written now
    made.write(out)
    windows = tuple(
        StressWindow.model_validate({"name": name, "from": first, "to": last})
        for name, first, last in made.stress_windows
    )
    plain = load_config("monte_carlo")
    scenarios = plain.scenarios.model_copy(update={"stress": windows})
    settings = plain.model_copy(update={"run": Run(seed=seed), "scenarios": scenarios})
    file = {name: out / f"{name}.parquet" for name in made.tables}
    book = {name: file[name] for name in ("instruments", "positions", "balances")}
    market = {name: file[name] for name in ("quotes", "underlyings", "history", "forwards")}
    return margin_files(book, market, settings, out, json=json)
