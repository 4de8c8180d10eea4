"""`marginax partition`: a book of any size, partitioned by account."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marginax.cli.exits import Exit
from marginax.cli.margin import OnError

if TYPE_CHECKING:
    from marginax.datasets import Dataset

_TABLES = "Tables"


def _table(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_TABLES, show_default=False, metavar="FILE")


def command(
    positions: Annotated[list[Path], _table("who holds what, in signed contracts; several files may follow")],
    balances: Annotated[list[Path], _table("collateral by account and asset; several files may follow")],
    out: Annotated[Path, typer.Option(help="folder for the dataset", metavar="DIR", show_default=False)],
    accounts: Annotated[list[Path] | None, _table("attributes of accounts; several files may follow")] = None,
    orders: Annotated[list[Path] | None, _table("open orders; several files may follow")] = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="number of partitions; default: as --rows makes them")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="positions of a partition, more or less; default: 500,000")
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="quarantine: set bad rows aside and go on")] = OnError.RAISE,
    json: Annotated[bool, typer.Option("--json", help="print dataset.json instead of a summary")] = False,
) -> int:
    """Partition the tables of a book by account (Parquet, CSV or Arrow IPC), in memory that does not grow with them."""
    from marginax.cli.progress import progress_bar
    from marginax.datasets import partition_book

    with progress_bar("rows read and written") as progress:
        dataset = partition_book(
            positions=positions,
            balances=balances,
            accounts=accounts or None,
            orders=orders or None,
            out=out,
            partitions=partitions,
            rows=rows,
            on_error=on_error.value,
            progress=progress,
        )
    if json:
        typer.echo(dataset.record.model_dump_json(indent=2))
    else:
        _tell(dataset)
    return Exit.EXCEPTED if dataset.quarantine else Exit.SUCCESS


def _tell(dataset: "Dataset") -> None:
    """Print what is in the dataset, and where it lies."""
    from rich.table import Table

    from marginax.cli.summary import counted, page

    record = dataset.record
    sizes = [part.accounts for part in dataset.partitions]
    each = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, told in record.tables.items():
        table.add_row(name, counted(told.rows, "row"), f"of {counted(told.accounts, 'account')}")
    with page() as console:
        console.print(f"\n{counted(record.accounts, 'account')} in {counted(len(dataset), 'partition')} of {each}\n")
        console.print(table)
        if record.quarantine:
            were = "row was" if record.quarantine.rows == 1 else "rows were"
            console.print(f"\n{record.quarantine.rows:,} {were} quarantined; {dataset.quarantine} says why.")
        console.print(f"\nDataset: {dataset.path / 'dataset.json'}")
