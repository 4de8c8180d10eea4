"""`marginax margin`: files in, margins out."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from marginax.cli.exits import Exit
from marginax.interrupts import stop_if_interrupted
from marginax.problems import BadInput, Problem

if TYPE_CHECKING:
    from marginax.config import Config
    from marginax.engine import DatasetResult, Result

_TABLES = "Tables"
_BEFORE = "The run before"


class OnError(Enum):
    """What to do with bad rows."""

    RAISE = "raise"
    QUARANTINE = "quarantine"


def _table(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_TABLES, show_default=False, metavar="FILE")


def _before(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_BEFORE, show_default=False, metavar="FILE")


def command(
    instruments: Annotated[Path, _table("what can be held")],
    quotes: Annotated[Path, _table("mark prices")],
    underlyings: Annotated[Path, _table("index prices")],
    history: Annotated[list[Path], _table("past prices; several files may follow")],
    out: Annotated[Path, typer.Option(help="folder for the results", metavar="DIR", show_default=False)],
    positions: Annotated[Path | None, _table("who holds what, in signed contracts")] = None,
    balances: Annotated[Path | None, _table("collateral by account and asset")] = None,
    accounts: Annotated[Path | None, _table("attributes of accounts")] = None,
    orders: Annotated[Path | None, _table("open orders; margined where `[orders] cover` is on")] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="a book that `marginax partition` wrote, in place of positions, balances, accounts and orders",
            rich_help_panel=_TABLES,
            show_default=False,
            metavar="DIR",
        ),
    ] = None,
    forwards: Annotated[Path | None, _table("forward prices of the expiries of options")] = None,
    signals: Annotated[Path | None, _table("market signals, which `regime` reads")] = None,
    tiers: Annotated[Path | None, _table("leverage tiers; checked, not yet used")] = None,
    order_book: Annotated[Path | None, _table("levels of order books, which positions are closed against")] = None,
    previous_quotes: Annotated[
        Path | None, _before("the last good mark prices, which a quote that jumps or runs backwards falls back on")
    ] = None,
    previous_underlyings: Annotated[Path | None, _before("the same of index prices; both or neither")] = None,
    previous_run: Annotated[
        Path | None,
        typer.Option(
            help="results of a run whose totals these may not be too far from",
            rich_help_panel=_BEFORE,
            show_default=False,
            metavar="DIR",
        ),
    ] = None,
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="publish totals however far they moved", rich_help_panel=_BEFORE)
    ] = False,
    config: Annotated[Path | None, typer.Option(help="configuration; see `marginax init`", metavar="TOML")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="margin model, before the configuration's; or a preset, which the configuration's keys change"
        ),
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="parameter file, such as `marginax calibrate` writes", metavar="FILE")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="UTC time of the margin; default: the latest quote")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of every draw, before the configuration's")] = None,
    on_error: Annotated[OnError, typer.Option(help="quarantine: set bad rows aside and go on")] = OnError.RAISE,
    attribution: Annotated[bool, typer.Option(help="also write each position's share of the margin")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="also write stress scores, smoothed, and what is lost beyond equity")
    ] = False,
    venue: Annotated[
        bool,
        typer.Option("--venue", help="also tell what all accounts add up to: open interest, bad debt, a risk score"),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON instead of a summary")] = False,
) -> int:
    """Margin every account of a book in files of your own (Parquet, CSV or Arrow IPC)."""
    from marginax.config import load_config, preset_names
    from marginax.market import utc_time
    from marginax.parameter_file import refuse_parameter_file

    held = {"positions": positions, "balances": balances, "accounts": accounts, "orders": orders}
    _check_book(dataset, held)
    last = {"quotes": previous_quotes, "underlyings": previous_underlyings}
    _check_before(last, previous_run, acknowledge=acknowledge)
    refuse_parameter_file("--model", model)
    refuse_parameter_file("--config", config)
    preset = model if model in preset_names() else None
    settings = load_config(config, preset=preset)
    chosen = settings.model if preset or model is None else model
    run = settings.run.model_copy(
        update={
            "as_of": utc_time(as_of) if as_of else settings.run.as_of,
            "seed": settings.run.seed if seed is None else seed,
        }
    )
    settings = settings.model_copy(update={"run": run, "model": chosen})
    if venue:
        settings = settings.model_copy(update={"venue": settings.venue.model_copy(update={"report": True})})
    parameters = None
    if params is not None:
        from marginax.parameter_file import check_model, notes_on, read_document, record, settings_over

        document = read_document(params)
        check_model(params, document, [model or _model_in(config)], accepted=() if model else (chosen,))
        settings = settings_over(settings, document["settings"], str(params))
        parameters = record(params, document)
        for note in notes_on(params, document, settings):
            typer.echo(note, err=True)
    market = {
        "quotes": quotes,
        "underlyings": underlyings,
        "history": history,
        "forwards": forwards,
        "signals": signals,
        "tiers": tiers,
        "order_book": order_book,
    }
    return margin_files(
        {"instruments": instruments, **held},
        market,
        settings,
        out,
        preset=preset,
        parameters=parameters,
        on_error=on_error.value,
        attribution=attribution,
        scores=scores,
        json=json,
        dataset=dataset,
        last={name: path for name, path in last.items() if path is not None},
        previous_run=previous_run,
        acknowledge=acknowledge,
    )


def _check_before(last: dict[str, Path | None], previous_run: Path | None, *, acknowledge: bool) -> None:
    """Refuse half of the last prices, and an acknowledgement of nothing."""
    problems = []
    for name, other in (("quotes", "underlyings"), ("underlyings", "quotes")):
        if last[name] is None and last[other] is not None:
            what, remedy = (
                "is not given",
                f"Name its file too, or leave --previous-{other} out",
            )
            problems.append(Problem(f"--previous-{name}", None, None, what, remedy))
    if acknowledge and previous_run is None:
        what, remedy = "acknowledges nothing", "Name the run that totals are compared with: --previous-run DIR"
        problems.append(Problem("--acknowledge", None, None, what, remedy))
    if problems:
        raise BadInput(problems)


def _check_book(dataset: Path | None, held: dict[str, Path | None]) -> None:
    """Refuse two books, or half of one."""
    problems = []
    for name, path in held.items():
        if dataset is not None and path is not None:
            problems.append(
                Problem(f"--{name}", None, None, "is given beside a dataset, which holds it", "Leave it out")
            )
        if dataset is None and path is None and name in ("positions", "balances"):
            remedy = "Name its file, or a book that `marginax partition` wrote with --dataset"
            problems.append(Problem(f"--{name}", None, None, "is not given", remedy))
    if problems:
        raise BadInput(problems)


def margin_files(
    book: dict[str, Any],
    market: dict[str, Any],
    settings: "Config",
    out: Path,
    *,
    preset: str | None = None,
    parameters: dict[str, Any] | None = None,
    on_error: Literal["raise", "quarantine"] = "raise",
    attribution: bool = False,
    scores: bool = False,
    json: bool = False,
    dataset: Path | None = None,
    last: dict[str, Path] | None = None,
    previous_run: Path | None = None,
    acknowledge: bool = False,
) -> int:
    """Read, margin, write and tell; returns the exit code.

    `preset` is what the settings are known by, `parameters` the record of the file whose numbers are in them; a
    `dataset` stands for the tables of `book` but its instruments. `last` are tables of prices that these fall back on;
    totals that are too far from those of `previous_run` are not written unless somebody acknowledges it. Raises
    NotPublished then, and BadInput.
    """
    if out.exists() and not out.is_dir():
        raise BadInput([Problem(str(out), None, None, "is a file", "Name a folder for the results")])
    from marginax.book import read_book
    from marginax.datasets import Dataset, open_dataset
    from marginax.market import read_market
    from marginax.publication import compared, previous_manifest

    before = None if previous_run is None else previous_manifest(previous_run)
    held = read_book(**book, on_error=on_error) if dataset is None else open_dataset(dataset)
    prices = read_market(**market, as_of=settings.run.as_of, currency=settings.run.currency, on_error=on_error)
    beside: dict[str, Any] = {"preset": preset, "parameters": parameters}
    if last:
        from marginax.price_checks import check_prices, last_good

        good = last_good(prices, **last, on_error=on_error)
        prices = check_prices(prices, good, settings.price_checks, instruments=book["instruments"])
        beside["last_good_prices"] = {name: good.tables[name].digests for name in last}
    from marginax.cli.progress import progress_bar
    from marginax.engine import margin_book, margin_dataset

    def publish(manifest: Mapping[str, Any]) -> dict[str, Any]:
        if before is None:
            return {}
        return {"previous_run": compared(manifest, before, settings.publication, acknowledged=acknowledge)}

    if isinstance(held, Dataset):
        with progress_bar("accounts") as progress:
            whole = margin_dataset(
                held,
                book["instruments"],
                prices,
                settings,
                out=out,
                seed=settings.run.seed,
                on_error=on_error,
                attribution=attribution,
                scores=scores,
                record=beside,
                publish=publish,
                progress=progress,
            )
        _tell_dataset(whole, json=json)
        return Exit.EXCEPTED if whole.tally.excepted else 0
    with progress_bar("accounts") as progress:
        result = margin_book(held, prices, settings, seed=settings.run.seed, on_error=on_error, progress=progress)
    result.manifest.update(beside)
    result.manifest.update(publish(result.manifest))
    stop_if_interrupted()
    result.write(out, attribution=attribution, scores=scores)
    asked = [name for name, wanted in (("attribution", attribution), ("scores", scores)) if wanted]
    _tell(result, out, asked, json=json)
    return Exit.EXCEPTED if result.excepted else 0


def _model_in(config: Path | None) -> str:
    """The model as a configuration file names it: a preset's name is its engine's in the configuration."""
    import tomllib

    from marginax.config import DEFAULT_MODEL

    values = {} if config is None else tomllib.loads(config.read_text(encoding="utf-8-sig"))
    return str(values.get("model", DEFAULT_MODEL))


def _tell(result: "Result", out: Path, asked: list[str], *, json: bool) -> None:
    if json:
        _print_json(out, result.manifest)
        return
    from marginax.cli.summary import print_summary

    print_summary(result, out, asked)


def _tell_dataset(result: "DatasetResult", *, json: bool) -> None:
    if json:
        _print_json(result.path, result.manifest)
        return
    from marginax.cli.summary import print_dataset_summary

    print_dataset_summary(result)


def _print_json(out: Path, manifest: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps({"out": str(out), **manifest}, indent=2))
