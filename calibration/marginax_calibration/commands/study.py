"""`marginax study`: the studies of the documentation, made again from market data."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from marginax.problems import BadInput, Problem
from marginax_calibration.commands.drawing import pictures
from marginax_calibration.commands.flags import BY_DEFAULT, check_outputs, names_in

NAMES = ("baselines", "dynamic", "forecasts", "calibration", "scores", "regime", "epochs")


def command(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(NAMES)}", metavar="STUDY")],
    out: Annotated[Path, typer.Option(help="folder for tables, pictures and daily tables", metavar="DIR")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="folder of the market data; default: $MARGINAX_SHARED/data, else ../shared/data", metavar="DIR"
        ),
    ] = None,
    only: Annotated[
        str, typer.Option(help="histories, or accounts of `scores`, with commas between; default: all", metavar="NAMES")
    ] = "",
    models: Annotated[
        str, typer.Option(help="models of `baselines`, with commas between", metavar="NAMES")
    ] = BY_DEFAULT,
    seed: Annotated[int, typer.Option(min=0, help="seed of `baselines`, `forecasts` and `regime`")] = 7,
) -> int:
    """Run a study of the documentation on real history."""
    if name not in NAMES:
        raise BadInput([Problem("STUDY", None, None, f"'{name}' is none", f"Name one of: {', '.join(NAMES)}")])
    folder = data or Path(os.environ.get("MARGINAX_SHARED", "../shared")) / "data"
    if not folder.is_dir():
        raise BadInput([Problem(str(folder), None, None, "is no folder", "Name that of the market data with `--data`")])
    from marginax_calibration.studies import baselines, calibration, regime, score_reliability

    check_outputs([], out)
    own: dict[str, Sequence[str]] = {
        "calibration": list(calibration.PLANS),
        "scores": score_reliability.NAMES,
        "regime": list(regime.COINS),
    }
    there = list(own.get(name, list(baselines.STUDIES)))
    wanted = names_in(only) or there
    unknown = [each for each in wanted if each not in there]
    if unknown:
        remedy = f"Name some of: {', '.join(there)}"
        raise BadInput([Problem("--only", None, None, f"'{unknown[0]}' is no history of this study", remedy)])
    out.mkdir(parents=True, exist_ok=True)
    if name == "forecasts":
        _forecasts(folder, out, seed)
    elif name == "calibration":
        _calibration(folder, out, wanted)
    elif name == "dynamic":
        _dynamic(folder, out, wanted)
    elif name == "scores":
        _scores(folder, out, wanted)
    elif name == "regime":
        _regime(folder, out, wanted, seed)
    elif name == "epochs":
        _epochs(folder, out)
    else:
        _baselines(folder, out, wanted, names_in(models), seed)
    return 0


def _baselines(folder: Path, out: Path, histories: Sequence[str], names: Sequence[str], seed: int) -> None:
    from marginax.tables.results import write_files
    from marginax_calibration.models import load_models
    from marginax_calibration.studies import baselines

    drawn, chosen = pictures(), load_models(names)
    figures = {}
    for history in histories:
        result = _with_bar(history, partial(baselines.run, history, chosen, folder, seed=seed))
        stem = history.replace(" ", "_")
        files: dict[Path, Callable[[Path], object]] = {
            out / f"{stem}.parquet": result.daily.write_parquet,
            out / f"{stem}.md": _text(baselines.tables(history, result, list(chosen))),
        }
        if history == "crypto":
            files[out / "march_2020.png"] = partial(
                drawn.margin_through, result.daily, "long BTC", baselines.SPRING, list(chosen)
            )
        write_files(files)
        figures[history] = result.judgement["pooled"]
        typer.echo(f"Wrote {out / stem}.md: {result.manifest['seconds']}")
    write_files({out / "cost_and_loss.png": partial(drawn.cost_and_loss, figures, list(chosen))})


def _dynamic(folder: Path, out: Path, histories: Sequence[str]) -> None:
    from marginax.tables.results import write_files
    from marginax_calibration.impulse import impulse
    from marginax_calibration.models import load_models
    from marginax_calibration.studies import baselines, dynamic, estimates

    drawn, rivals = pictures(), load_models(dynamic.RIVALS)
    for history in histories:
        result, text = _with_bar(history, partial(dynamic.run, history, rivals, folder))
        stem = f"dynamic_{history.replace(' ', '_')}"
        write_files({out / f"{stem}.md": _text(text)})
        typer.echo(f"Wrote {out / stem}.md: {result.manifest['seconds']}")
    pair = load_models(dynamic.IN_CRISIS)
    daily = _with_bar("crises", partial(baselines.run, "seven coins", pair, folder, options=True)).daily
    files: dict[Path, Callable[[Path], object]] = {out / "dynamic_crises.md": _text(dynamic.through(daily, pair))}
    for crisis, dates in dynamic.CRISES.items():
        picture = out / f"dynamic_{crisis.lower().replace(' ', '_')}.png"
        files[picture] = partial(drawn.through_crisis, daily, dynamic.ACCOUNTS, dates, list(pair))
    write_files(files)
    typer.echo(f"Wrote {out / 'dynamic_crises.md'}")
    text = f"{estimates.filters(folder)}\n\n{estimates.pegs(folder)}\n"
    write_files({out / "dynamic_parameters.md": _text(text)})
    typer.echo(f"Wrote {out / 'dynamic_parameters.md'}")
    for title, table in (("parts", dynamic.PARTS), ("choices", dynamic.CHOICES), ("tools", dynamic.TOOLS)):
        chosen = dynamic.variants(table)
        _, text = _with_bar(title, partial(dynamic.run, "seven coins", chosen, folder))
        write_files({out / f"dynamic_{title}.md": _text(text)})
        typer.echo(f"Wrote {out / f'dynamic_{title}.md'}")
    found = _with_bar("impulse", partial(impulse, dynamic.variants(dynamic.TOOLS), steps=(2.0,), seeds=32))
    write_files({out / "dynamic_impulse.md": _text(dynamic.responses(found.figures, "2"))})
    typer.echo(f"Wrote {out / 'dynamic_impulse.md'}")


def _forecasts(folder: Path, out: Path, seed: int) -> None:
    from marginax.scenarios.network_filter import network_text
    from marginax.tables.results import write_files
    from marginax_calibration.forecasts.network import Training
    from marginax_calibration.studies import dynamic, forecasts

    found = _with_bar("forecasts", partial(forecasts.run, *forecasts.inputs(folder), settings=Training(seed=seed)))
    weights = {refit: network_text(forecasts.network_filter_of(found, refit)) for refit in (0, -1)}
    first, last = out / "forecasts_network_first.json", out / "forecasts_network.json"
    parts = [forecasts.table(found), forecasts.by_year(found), forecasts.verdict(found)]
    text = "\n\n".join(parts) + "\n"
    write_files({out / "forecasts.md": _text(text), first: _text(weights[0]), last: _text(weights[-1])})
    typer.echo(f"Wrote {out / 'forecasts.md'}")
    chosen = dynamic.variants(forecasts.margins(found, first))
    _, text = _with_bar("dynamic", partial(dynamic.run, "seven coins", chosen, folder))
    write_files({out / "forecasts_dynamic.md": _text(text)})
    typer.echo(f"Wrote {out / 'forecasts_dynamic.md'}")


def _regime(folder: Path, out: Path, histories: Sequence[str], seed: int) -> None:
    from marginax.cli.progress import progress_bar
    from marginax.tables.results import write_files
    from marginax_calibration.studies import regime

    for history in histories:
        result = _with_bar(history, partial(regime.run, history, folder))
        with progress_bar("placebos") as bar:
            found = regime.ablation(result.daily, regime.market_signals(folder), seed=seed, tell=bar)
        stem = f"regime_{history.replace(' ', '_')}"
        write_files({out / f"{stem}.md": _text(regime.report(history, result, found) + "\n")})
        typer.echo(f"Wrote {out / stem}.md: {result.manifest['seconds']}")


def _epochs(folder: Path, out: Path) -> None:
    """What is there of an earlier run that was interrupted is gone on from."""
    from marginax.tables.results import write_files
    from marginax_calibration.studies import epochs

    drawn = pictures()
    given, found = _with_bar("epochs", lambda progress: epochs.run(folder, out, told=progress))
    files: dict[Path, Callable[[Path], object]] = {out / "epochs.md": _text(epochs.report(given, found))}
    for side, each in found.items():
        picture = partial(drawn.through_epochs, epochs.through(each), list(epochs.MODELS))
        files[out / f"epochs_{side}.png"] = picture
    write_files(files)
    typer.echo(f"Wrote {out / 'epochs.md'}")


def _calibration(folder: Path, out: Path, plans: Sequence[str]) -> None:
    import jax

    from marginax.tables.results import write_files
    from marginax_calibration.fitting.fit_file import text_of
    from marginax_calibration.studies import calibration, calibration_frontier
    from marginax_calibration.studies.calibration_targets import table, target_table, targets, verdict

    drawn = pictures()
    for name in plans:
        plan = calibration.PLANS[name]
        if plan.history == calibration.HOME:
            fitted = _with_search("defaults", partial(calibration.defaults, folder))
            write_files({out / "dynamic.json": _text(text_of(fitted))})
            typer.echo(f"Wrote {out / 'dynamic.json'}")
            jax.clear_caches()
        walk = _with_search(name, partial(calibration.walk, plan, folder))
        stem = f"calibration_{name.replace(' ', '_')}"
        write_files(
            {
                out / f"{stem}.parquet": walk.daily.write_parquet,
                out / f"{stem}_numbers.md": _text(calibration.numbers(walk) + "\n"),
                out / f"{stem}_numbers.png": partial(drawn.numbers_through_time, calibration.through_time(walk)),
            }
        )
        typer.echo(f"Wrote {out / stem}.parquet")
        rivals = _with_bar(plan.history, partial(calibration.rivals, plan.history, folder))
        found = {plan.history: verdict(rivals, walk.daily)}
        for history in plan.others:
            rest = _with_bar(history, partial(calibration.rivals, history, folder))
            mine = calibration.elsewhere(walk, history, folder)
            unseen = calibration.apart(history, folder, plan.history)
            found[history] = verdict(rest, mine)
            found[f"{history}, unseen"] = verdict(rest, mine, unseen)
            jax.clear_caches()
        tables = [f"{history}:\n\n{table(each)}" for history, each in found.items()]
        reached = {history: targets(each, plan.aims) for history, each in found.items()}
        text = "\n\n".join([*tables, target_table(reached)]) + "\n"
        write_files({out / f"{stem}.md": _text(text)})
        typer.echo(f"Wrote {out / stem}.md")
        if plan.history == calibration.HOME:
            walks = _with_search("frontier", partial(calibration_frontier.walks, plan, folder))
            judged = calibration_frontier.judged(walks, rivals)
            picture = partial(drawn.frontier, calibration_frontier.points(judged))
            text = calibration_frontier.report_of(judged, plan) + "\n"
            write_files({out / "calibration_frontier.png": picture, out / "calibration_frontier.md": _text(text)})
            typer.echo(f"Wrote {out / 'calibration_frontier.md'}")


def _scores(folder: Path, out: Path, wanted: Sequence[str]) -> None:
    from marginax.tables.results import write_files
    from marginax_calibration.models import load_models
    from marginax_calibration.studies import score_reliability

    models = load_models(score_reliability.MODELS)
    for name in wanted:
        daily, accounts = _with_bar(name, partial(score_reliability.run, name, models, folder))
        stem = f"scores_{name.replace(' ', '_')}"
        text = score_reliability.report(name, daily, accounts)
        write_files({out / f"{stem}.parquet": daily.write_parquet, out / f"{stem}.md": _text(text)})
        typer.echo(f"Wrote {out / stem}.md")


def _with_search(title: str, work: Callable[..., Any]) -> Any:
    """Work that tells the step of each search, under a progress bar."""
    from marginax.cli.progress import progress_bar

    with progress_bar(title) as bar:
        return work(report=lambda date, state, rows: bar(state.step, 0))


def _with_bar(title: str, work: Callable[..., Any]) -> Any:
    """Work under a progress bar that does not care which model is at it."""
    from marginax.cli.progress import progress_bar

    with progress_bar(title) as bar:
        return work(progress=lambda _, done, total: bar(done, total))


def _text(text: str) -> Callable[[Path], object]:
    return partial(Path.write_text, data=text, encoding="utf-8")
