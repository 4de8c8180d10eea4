"""What a person wants to know of a run, in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from marginax.cli.venue_summary import venue_lines
from marginax.parameter_file import described
from marginax.status import Status

if TYPE_CHECKING:
    from marginax.engine import DatasetResult, Result
    from marginax.engine.tally import Tally

NAMED = 8
MOVES = 2
# Characters a line where no terminal says how many it has: ids and labels are not cut short in a log.
PIPED = 140
TEXT = ("account", "worst scenario")
FUNDING = {
    "funding_rate_unknown": "Funding rate not known, so that the configured worst counts",
    "funding_interval_hours_unknown": "Funding interval not known, so that the shortest counts",
    "funding_time_unknown": "Next settlement of funding not known, so that the longest time since the last counts",
    "funding_time_passed": "Next settlement of funding past already, so that nothing is received of it",
    "funding_rate_capped": "Funding rate beyond the largest that is projected",
}


@contextmanager
def page() -> Iterator[Console]:
    """A console; where it is no terminal it is wide, and prints at the end, without the blanks that pad a table."""
    console = Console()
    if console.is_terminal:
        yield console
        return
    console.width = PIPED
    with console.capture() as held:
        yield console
    typer.echo("\n".join(line.rstrip() for line in held.get().split("\n")), nl=False)


def counted(count: int, word: str) -> str:
    """So many of a word, in the singular where it is one."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def print_summary(result: "Result", out: Path, asked: Sequence[str] = ()) -> None:
    """Print totals, statuses, the accounts closest to trouble and where the results lie, `asked` tables among them."""
    from marginax.engine.tally import Tally

    worst = result.manifest["uncovered_loss"].get("worst_scenario")
    moves = result.scenario(worst) if worst else pl.DataFrame()
    more = {"isolated.parquet": result.isolated.height, "options.parquet": result.options.height}
    more["breaches.parquet"] = result.breaches is not None
    more |= {f"{name}.parquet": True for name in (*(() if result.venue is None else result.venue.tables), *asked)}
    names = ["margins.parquet", *(name for name, there in more.items() if there), "manifest.json"]
    with page() as console:
        _print(console, Tally.of(result), result.manifest, moves, [out / name for name in names])


def print_dataset_summary(result: "DatasetResult") -> None:
    """The same of a dataset."""
    has_options = "options.parquet" in result.manifest["outputs"]
    more = ["options.parquet"] if has_options else []
    more += [f"{name}.parquet" for name in (() if result.venue is None else result.venue.tables)]
    names = ["partition=*/margins.parquet", *more, "manifest.json"]
    with page() as console:
        _print(console, result.tally, result.manifest, result.worst_moves, [result.path / name for name in names])


def _print(console: Console, tally: "Tally", manifest: dict[str, Any], moves: pl.DataFrame, files: list[Path]) -> None:
    """`moves` are those of the worst scenario, `files` the results, margins first."""
    totals, currency = manifest["totals"], manifest["currency"]
    scenarios, seconds = manifest["scenarios"], manifest["seconds"]
    pace, took = _holders(tally), seconds.get("margined", seconds.get("total", 0))
    if took > 0 and tally.accounts:
        pace += f" in {took:.2f} s ({tally.accounts / took:,.0f} a second)"
    if seconds.get("compiled", 0) > 1:
        pace += f", after {seconds['compiled']:.0f} s of compiling or loading programs"
    console.print(f"\n[bold]Margin as of {manifest['as_of'][:16]} UTC[/bold] by {_method(manifest)}: {pace}")
    console.print(f"{scenarios['count']:,} scenarios, the first {scenarios['first']}, the last {scenarios['last']}\n")

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("equity", totals["equity"], f"{counted(tally.below_zero, 'account')} below zero"),
        ("initial margin", totals["initial_margin"], _parts(tally)),
        ("maintenance margin", totals["maintenance_margin"], ""),
        *_calls(tally, totals),
    ]
    if "accrued_funding" in totals:
        rows.insert(1, ("accrued funding", totals["accrued_funding"], "in equity, not paid yet"))
    uncovered = manifest["uncovered_loss"]
    if uncovered["worst"]:
        largest = moves.filter(factor="price").drop("factor").drop_nulls().head(MOVES)
        shown = ", ".join(f"{name} {move:+.0%}" for name, move in largest.iter_rows())
        note = f"beyond all equity, mean of the worst {100 * uncovered['tail']:g} %; "
        note += f"{uncovered['worst']:,.0f} in {uncovered['worst_scenario']} ({shown})"
        rows.append(("loss to the venue", uncovered["tail_mean"] or 0.0, note))
    for name, amount, note in rows:
        table.add_row(name, f"{amount:,.0f} {currency}", note)
    console.print(table)

    if tally.closest.height:
        console.print(_closest(tally.closest))
    if tally.excepted:
        console.print(f"\nThe sums leave out {counted(tally.excepted, 'account')} without a margin.")
    by_status = manifest["accounts"]["by_status"]
    console.print()
    for status in Status:
        if by_status[status.label]:
            console.print(f"{by_status[status.label]:>9,}  {status.label:<16}[dim]{status.meaning}[/dim]")
    bands = [f"{counts:,} {band}" for band, counts in manifest["accounts"]["by_band"].items() if counts]
    console.print(f"\nBy stress score: {', '.join(bands)}.")
    _print_notes(console, manifest)
    if tally.quarantined:
        were = "row was" if tally.quarantined == 1 else "rows were"
        console.print(
            f"\n{tally.quarantined:,} {were} quarantined; {files[0].with_name('quarantine.parquet')} says why."
        )
    if by_hand := _by_hand(tally.manual):
        console.print(f"\nMultiplied by hand: {by_hand}.", markup=False)
    if limits := manifest["limits"]:
        console.print(f"\n{_limits(limits)}", markup=False)
    if lines := venue_lines(manifest["venue"], currency):
        console.print()
    for line in lines:
        console.print(line, markup=False)
    if manifest["unused_tables"]:
        names = ", ".join(manifest["unused_tables"])
        console.print(f"\nChecked, but not part of this margin: {names}.")
    if manifest.get("parameters"):
        console.print(f"\nParameters: {described(manifest['parameters'])}", markup=False, soft_wrap=True)
    console.print(f"\nResults: {', '.join(map(str, files))}")


def _print_notes(console: Console, manifest: dict[str, Any]) -> None:
    """What a person should look at in the data."""
    scenarios, data = manifest["scenarios"], manifest["data"]
    ignored = [f"{name} ({rows:,} rows)" for name, rows in data["history_of_nothing"].items()]
    cut = [f"{name} ({count})" for name, count in scenarios.get("residuals_capped", {}).items() if ":" not in name]
    notes = {
        "Moved by a proxy": scenarios.get("proxied", []),
        "Without history or proxy": scenarios.get("without_history_or_proxy", []),
        "Implied volatility moved by its price": [
            name.removeprefix("implied_vol:") for name in scenarios.get("volatilities_by_price", [])
        ],
        "Options priced by the volatility of other strikes or expiries": _found(manifest["options"]["volatilities"]),
        "Past returns cut at the residual cap": cut,
        "History of no underlying, ignored": ignored,
        "Index price far from the last bar of its history (in one unit?)": scenarios.get("index_far_from_history", []),
        "Mark less than half or more than twice the index (in one unit?)": data["marks_far_from_index"],
        "Mark apart from its index": [
            f"{name} ({apart:+.1%})" for name, apart in data["marks_apart_from_index"].items()
        ],
        "Prices refused for the last good ones": data["prices_refused"],
        "Charged as old or uncertain as can be": _unknown(data.get("price_quality", {})),
        "Option mark far from its volatility (in one unit?)": manifest["options"]["marks_far_from_model"],
        "Haircuts for assets that are no underlyings": scenarios.get("haircuts_of_nothing", []),
        "Balances of the same asset and amount twice, summed": data["balances_given_twice"],
        "Forwards of no listed expiry, ignored (a date is 00:00 UTC)": data["forwards_of_nothing"],
        "Price caps for what is no underlying": scenarios.get("price_caps_of_nothing", []),
        "Caps of open interest for what is no underlying": manifest["venue"].get("caps_of_nothing", []),
    }
    for word, names in data.get("funding", {}).items():
        notes[FUNDING[word]] = names
    regime = scenarios.get("regime", {})
    notes["Signals not known, so that the worst counts"] = regime.get("not_known", [])
    notes["Signals that are old, which count for worse with every day"] = regime.get("stale", [])
    notes["Signals of no underlying, ignored"] = regime.get("of_nothing", [])
    later = "Signals begun since the market is followed, which count as the worst until it is followed anew"
    notes[later] = regime.get("begun_later", [])
    unknown = data.get("liquidity_unknown", {})
    for column, names in unknown.items():
        notes[f"`{column}` not known, so that the configured worst counts"] = names
    if data["prices_after_as_of"]:
        notes["Prices later than as_of, used all the same"] = [f"{data['prices_after_as_of']:,}"]
    if any(notes.values()):
        console.print()
    for note, names in notes.items():
        if names:
            more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            console.print(f"{note}: {', '.join(names[:NAMED])}{more}.", markup=False)


def _calls(tally: "Tally", totals: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """What is called, and where calls have a minimum or a step what is missing and what may be given back."""
    called = counted(tally.called, "account")
    if "shortfall" not in totals:
        return [("margin calls", totals["call"], f"{called} below maintenance")]
    return [
        ("margin calls", totals["call"], f"{called} called"),
        ("shortfall", totals["shortfall"], "of all that are below maintenance, called or not"),
        ("returnable", totals["returnable"], ""),
    ]


def _limits(limits: dict[str, Any]) -> str:
    """How many accounts are beyond a limit, and which is furthest."""
    if not limits["count"]:
        return "No account is beyond a limit."
    by_limit = ", ".join(f"{count:,} of {name}" for name, count in limits["by_limit"].items())
    worst = limits["furthest"][0]
    far = f"{worst['account_id']} in {worst['underlying']}, of whose position {worst['allowed_share']:.0%} is allowed"
    return f"Beyond a limit: {counted(limits['accounts'], 'account')} ({by_limit}); furthest {far}."


def _found(volatilities: dict[str, int]) -> list[str]:
    """How many options have a volatility from their expiry's smile, from another expiry, or none."""
    words = {"smile": "its smile", "other_expiry": "another expiry", "none": "none known"}
    return [f"{volatilities[name]:,} by {word}" for name, word in words.items() if volatilities.get(name)]


def _unknown(quality: dict[str, int]) -> list[str]:
    """How many prices came without a time, and how many without a confidence."""
    words = {"without_time": "without a time", "without_confidence": "without a confidence"}
    return [f"{counted(quality[name], 'price')} {word}" for name, word in words.items() if quality.get(name)]


def _method(manifest: dict[str, Any]) -> str:
    """The preset and the model behind it, and the tail that is charged where it is not that of the figures."""
    model, preset = manifest["model"], manifest.get("preset")
    named = model if preset in (None, model) else f"{preset} ({model})"
    risk = manifest["configuration"]["risk"]
    charge = risk.get("charge_tail")
    return named if charge in (None, risk["tail"]) else f"{named}, charged at a tail of {100 * charge:g} %"


def _holders(tally: "Tally") -> str:
    accounts = counted(tally.accounts, "account")
    return f"{accounts} and {counted(tally.isolated, 'isolated position')}" if tally.isolated else accounts


def _by_hand(manual: Mapping[str, Any]) -> str:
    """Which multipliers were set by hand."""
    found = {**manual.get("accounts", {}), **manual.get("instruments", {})}
    named = ", ".join(f"{name} x {number:g}" for name, number in list(found.items())[:NAMED])
    return named + (f" and {len(found) - NAMED:,} more" if len(found) > NAMED else "")


def _parts(tally: "Tally") -> str:
    return ", ".join(f"{name} {amount:,.0f}" for name, amount in tally.parts.items() if abs(amount) >= 0.5)


def _closest(rows: pl.DataFrame) -> Table:
    table = Table(title="Closest to trouble", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in (
        "account",
        "equity",
        "initial",
        "maintenance",
        "ratio",
        "call",
        "stress score",
        "worst scenario",
    ):
        table.add_column(name, justify="left" if name in TEXT else "right", no_wrap=name == "account")
    for row in rows.iter_rows(named=True):
        money = (f"{row[name]:,.0f}" for name in ("equity", "initial_margin", "maintenance_margin"))
        ratio = "" if row["margin_ratio"] is None else f"{row['margin_ratio']:.2f}"
        score = f"{row['stress_score']:.1%}"
        own = row["instrument_id"]
        name = row["account_id"] if own is None else f"{row['account_id']}, {own} alone"
        table.add_row(name, *money, ratio, f"{row['call']:,.0f}", score, row["worst_scenario"] or "")
    return table
