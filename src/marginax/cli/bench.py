"""`marginax bench`: the whole-book kernel on this machine, and anyone else's kernel beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.problems import BadInput, Problem

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

RECORD, CHART = "bench.json", "bench.svg"
HELP = """Time the whole-book kernel (value at risk and expected shortfall of every account) on standard workloads.

Writes bench.json and, with the extra `report`, bench.svg. Size S (1,024 accounts, 3 rounds) takes about two minutes on
two cores, most of them compiling; M (16,384) and L (131,072) take longer in proportion, and rivals as long as they are.
Workloads are a shape (narrow_500, narrow_2000, ragged, wide, options, sorted, ties) with _equal (10,240 scenarios) or
_weighted (2,048).

To time a kernel of your own: put CONTENDERS = {name: callable(workload, threads) -> (var, expected_shortfall)} into a
module and name it with --rivals. `workload` has starts, ids, quantities, cube, weights (None for equal ones) and tail.
Answers are compared first; a kernel raises NotImplementedError for what it does not answer. See docs/benchmarks.md.
"""


def command(
    size: Annotated[str, typer.Option(help="S, M or L: 1,024, 16,384 or 131,072 accounts", metavar="SIZE")] = "S",
    workload: Annotated[list[str] | None, typer.Option(help="workloads; default: all", metavar="NAME ...")] = None,
    rivals: Annotated[str | None, typer.Option(help="module with CONTENDERS to race", metavar="MODULE")] = None,
    out: Annotated[Path, typer.Option(help="folder for record and chart", metavar="DIR")] = Path("out/bench"),
    threads: Annotated[int | None, typer.Option(help="cores to use; default: all")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds; default: 3 for S, else 5")] = None,
    accounts: Annotated[int | None, typer.Option(min=1, help="accounts, instead of a size")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the record as JSON instead of a summary")] = False,
) -> int:
    """See `HELP`."""
    from functools import partial
    from json import dumps

    from marginax.bench.run import measure, planned
    from marginax.cli.progress import progress_bar
    from marginax.tables.results import whole_files

    plan = planned(
        size=size, accounts=accounts, workloads=workload or (), rivals=rivals, threads=threads, rounds=rounds
    )
    if out.exists() and not out.is_dir():
        raise BadInput([Problem(str(out), None, None, "is no folder", "Name another with `--out`")])
    with progress_bar("measurements") as progress:
        record = measure(plan, progress)
    text = dumps(record, indent=1, allow_nan=False) + "\n"
    files: dict[Path, Any] = {out / RECORD: lambda path: path.write_text(text, encoding="utf-8")}
    draw = _draw()
    if draw is not None:
        files[out / CHART] = partial(draw, record)
    out.mkdir(parents=True, exist_ok=True)
    with whole_files(files):
        (out / CHART).unlink(missing_ok=True)  # one of an earlier run is not of this record
    if json:
        typer.echo(text, nl=False)
    else:
        _print(record)
        typer.echo(f"Wrote {' and '.join(str(path) for path in files)}")
    if draw is None:
        typer.echo("No chart was drawn: pip install 'marginax[report]'", err=True)
    return 0


def _draw() -> Any:
    """What draws a record; None where the extra `report` is not installed."""
    from importlib.util import find_spec

    if find_spec("altair") is None or find_spec("vl_convert") is None:
        return None
    from marginax.bench.chart import draw

    return draw


def _print(record: dict[str, Any]) -> None:
    from marginax.cli.summary import page

    with page() as console:
        _print_machine(console, record)
        console.print(_figures(record))
        raced = [name for name in _contenders(record) if name != "marginax"]
        if raced:
            console.print("\nTimes as long as marginax takes, all cores / one core:")
            console.print(_ratios(record, raced))


def _print_machine(console: "Console", record: dict[str, Any]) -> None:
    around, path, cold = record["context"], record["path"], record["cold"]
    console.print(f"\n[bold]{around['processor']}[/bold], {around['machine']}, load before {around['load_before']}")
    code = "machine code" if path["machine_code"] else "pure JAX"
    console.print(f"{around['device']}; {code} ({path['reason']}); jax {around['jax']}, numpy {around['numpy']}")
    for place, rates in record["machine"].items():
        copied, product = rates["copy_bytes_per_second"] / 1e9, rates["product_flops_per_second"] / 1e9
        console.print(
            f"{place.replace('_', ' ')}: copies {copied:.1f} GB/s, multiplies {product:.0f} Gflop/s (float32)"
        )
    for name, each in cold.items():
        if name != "workload":
            parts = f"{each['import_seconds']:.1f} import, {each['machine_code_seconds']:.1f} machine code"
            console.print(f"cold, {name.replace('_', ' ')}: {each['seconds']:.1f} s to the first answer ({parts})")
    console.print()


def _figures(record: dict[str, Any]) -> "Table":
    table = _table("workload", "accounts", "accounts/s", "scenario-positions/s", "us/account", "one core",
                   "of product rate", "of bandwidth", "adds MiB")  # fmt: skip
    for name, each in record["workloads"].items():
        ours = each["all_cores"]["contenders"]["marginax"]
        alone = each.get("one_core", each["all_cores"])["contenders"]["marginax"]
        table.add_row(
            name,
            f"{each['accounts']:,}",
            f"{ours['accounts_per_second']:,.0f}",
            f"{ours['scenario_positions_per_second']:.2e}",
            f"{ours['microseconds_per_account']:,.1f}",
            f"{alone['microseconds_per_account']:,.1f}",
            f"{ours['share_of_product_rate']:.1%}",
            f"{ours['share_of_copy_bandwidth']:.1%}",
            "-" if each["added_mib"] is None else f"{each['added_mib']:,.0f}",
        )
    return table


def _ratios(record: dict[str, Any], raced: list[str]) -> "Table":
    table = _table("workload", *raced)
    for name, each in record["workloads"].items():
        places = [each[place]["contenders"] for place in record["machine"]]
        cells = [
            " / ".join(f"{found[rival]['times_as_long_as_marginax']:.2f}" for found in places if rival in found)
            for rival in raced
        ]
        table.add_row(name, *(cell or "-" for cell in cells))
    return table


def _contenders(record: dict[str, Any]) -> list[str]:
    found = [name for each in record["workloads"].values() for name in each["all_cores"]["contenders"]]
    return list(dict.fromkeys(found))


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right")
    return table
