"""The state of a followed market as one file: arrays, names and tables, whole or not at all.

The file is a NumPy archive without objects: what no array holds is JSON, and tables are Parquet, both as bytes. It says
which configuration it belongs to; another one is refused.
"""

import json
from dataclasses import fields, replace
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np
import polars as pl

from marginax.book import Book
from marginax.calendars import Grid
from marginax.config import Config
from marginax.engine.compilation import persistent_cache
from marginax.engine.live import LiveMargin, check_factors
from marginax.history import FactorHistory
from marginax.market import NO_HISTORY, Market, read_market
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem
from marginax.signals import begun_signals
from marginax.tables.findings import PLACE
from marginax.tables.results import write_files

VERSION = 3
TABLES = ("quotes", "underlyings", "forwards", "order_book")
KINDS = "a state that `save` wrote"


def save(live: LiveMargin, path: Path) -> Path:
    """Write a state; raises OSError where it cannot be written, and what was there then stands as it was."""
    history = {field.name: getattr(live.history, field.name) for field in fields(FactorHistory)}
    arrays = {f"history.{name}": value for name, value in history.items() if isinstance(value, np.ndarray)}
    arrays |= {f"state.{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(live.state))}
    arrays |= {f"draws.{k}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(live.draws))}
    signals = live.history.signals
    if signals is not None:
        arrays["signals.last"] = signals.last
    told = {
        "version": VERSION,
        "model": live.model.name,
        "numbers": numbers_digest(live.model),
        "configuration": _configuration(live.model),
        "seed": live.seed,
        "as_of": live.market.as_of.isoformat(),
        "currency": live.market.currency,
        "names": history["names"],
        "underlyings": history["underlyings"],
        "volatilities": history["volatilities"],
        "padding": history["padding"],
        "bars_per_day": live.history.grid.bars_per_day,
        "bars_per_week": live.history.grid.bars_per_week,
        "signals": None if signals is None else signals.series,
        "begun_later": () if signals is None else signals.begun_later,
    }
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    for name in TABLES:
        buffer = BytesIO()
        live.market.tables[name].rows.drop(PLACE).write_parquet(buffer)
        arrays[f"table.{name}"] = np.frombuffer(buffer.getvalue(), np.uint8)

    def write(target: Path) -> None:
        with target.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_files({path: write})
    return path


def resume(path: str | Path, book: Book, model: str | Path | Config | MarginModel = "dynamic") -> LiveMargin:
    """The state in a file, with a book and the model that it was saved with.

    The book may be another one (see `LiveMargin.with_book`). Raises BadInput for a file that is no state, or one of
    another model, configuration or version, and for contracts that it has no factor of.
    """
    persistent_cache()
    chosen, path = load_model(model), Path(path)
    arrays = _read(path)
    told = json.loads(arrays["told"].tobytes())
    _check(chosen, told, path)
    kept: dict[str, Any] = {
        field.name: arrays[f"history.{field.name}"]
        for field in fields(FactorHistory)
        if f"history.{field.name}" in arrays
    }
    kept["grid"] = Grid(arrays["history.times"], told["bars_per_day"], told["bars_per_week"])
    counts = {key: told[key] for key in ("underlyings", "volatilities", "padding")}
    if told["signals"] is not None:
        series = [(name, of) for name, of in told["signals"]]
        begun_later = tuple((name, of) for name, of in told.get("begun_later", ()))
        signals = begun_signals(series, arrays["signals.last"], arrays["history.times"][-1])
        kept["signals"] = replace(signals, begun_later=begun_later)
    history = FactorHistory(names=tuple(told["names"]), carried=True, **counts, **kept)
    check_factors(book.instruments, history)
    market = _market(arrays, told)
    with jax.enable_x64(True):
        begun = replace(history, seen=history.returns)
        state = _filled(jax.eval_shape(lambda: chosen.carry(begun)), arrays, "state", path)
        draws = _filled(chosen.draw(told["seed"], history), arrays, "draws", path)
    return LiveMargin(book, market, chosen, history, state, draws, told["seed"])


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else "is no state of a followed market"
        raise BadInput([Problem(str(path), None, None, what, f"Name {KINDS}")]) from None
    if "told" not in arrays:
        raise BadInput([Problem(str(path), None, None, "is no state of a followed market", f"Name {KINDS}")])
    return arrays


def _check(model: MarginModel, told: dict[str, Any], path: Path) -> None:
    def refuse(key: str | None, what: str, remedy: str) -> BadInput:
        return BadInput([Problem(str(path), key, None, what, remedy)])

    if told.get("version") != VERSION:
        raise refuse(None, f"is a state of version {told.get('version')}", "Follow the market anew with its history")
    if told["model"] != model.name:
        raise refuse(None, f"is a state of `{told['model']}`, not of `{model.name}`", "Resume it with its own model")
    was, now = told["configuration"], _configuration(model)
    for section in now:
        if was.get(section) != now[section]:
            before = was.get(section, {})
            keys = [f"{section}.{key}" for key in sorted({*now[section], *before})
                    if before.get(key) != now[section].get(key)]  # fmt: skip
            what = f"was saved with other values of {', '.join(f'`{key}`' for key in keys)}"
            raise refuse(keys[0], what, "Resume with the configuration it was saved with, or follow anew")
    if told["numbers"] != numbers_digest(model):
        raise refuse(None, "was saved with other numbers in the model", "Resume it with the same model, or follow anew")


def _configuration(model: MarginModel) -> dict[str, Any]:
    """Every section of the configuration that a state hangs on."""
    values = model.settings.model_dump(
        mode="json", exclude={"run", "engine", "replay", "model", "price_checks", "publication", "calls"}
    )
    return json.loads(json.dumps(values))


def numbers_digest(model: MarginModel) -> str:
    """A hash of the model's numbers."""
    digest = sha256()
    for leaf in jax.tree.leaves(model):
        digest.update(np.ascontiguousarray(leaf, "<f8").tobytes())
    return digest.hexdigest()


def _market(arrays: dict[str, np.ndarray], told: dict[str, Any]) -> Market:
    quotes, underlyings, forwards, levels = (
        pl.read_parquet(BytesIO(arrays[f"table.{name}"].tobytes())) for name in TABLES
    )
    return read_market(
        quotes=quotes,
        underlyings=underlyings,
        forwards=forwards,
        order_book=levels if levels.height else None,
        history=NO_HISTORY,
        as_of=datetime.fromisoformat(told["as_of"]),
        currency=told["currency"],
    )


def _filled(like: Any, arrays: dict[str, np.ndarray], name: str, path: Path) -> Any:
    """A tree of the shape of another with the leaves of the file."""
    leaves, shape = jax.tree.flatten(like)
    found = [arrays.get(f"{name}.{k}") for k in range(len(leaves))]
    if any(each is None for each in found) or f"{name}.{len(leaves)}" in arrays:
        what = f"holds another number of arrays of its {name} than the model has"
        raise BadInput([Problem(str(path), None, None, what, "Follow the market anew with its history")])
    return jax.tree.unflatten(shape, found)
