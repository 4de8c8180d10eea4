"""The inputs of a run as one thing: a folder, or a TOML file that names tables, configuration and time.

A folder holds the tables by name (`positions.parquet`, or .csv, .arrow), as `marginax init` and `marginax demo` write
them, and `marginax.toml`; without one the configuration is that of the run whose manifest lies there, else a default.
A file says the same in words, and paths in it start at its own folder:

    folder = "monday"                       # where tables lie that are not named
    positions = "corrected/positions.csv"   # any table, by name
    history = ["2024.parquet", "2025.parquet"]
    config = "marginax.toml"                # a TOML file, a preset, or a parameter file
    as_of = 2026-01-31T08:00:00Z
    seed = 7
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from marginax.book import Book, read_book
from marginax.config import Config, parse_config, preset_names
from marginax.engine import Result, margin_book
from marginax.market import Market, read_market, utc_time
from marginax.models.load import model_config
from marginax.parameter_file import notes_on, read_document, settings_over
from marginax.problems import BadInput, Problem, suggestion
from marginax.tables.door import OnError

CONFIG, MANIFEST = "marginax.toml", "manifest.json"
ENDINGS = (".parquet", ".pq", ".csv", ".arrow", ".feather", ".ipc")
BOOK = ("instruments", "positions", "balances", "accounts", "orders")
MARKET = ("quotes", "underlyings", "history", "forwards", "signals", "tiers", "order_book")
NEEDED = ("instruments", "positions", "balances", "quotes", "underlyings", "history")
TABLES = (*BOOK, *MARKET)
KEYS = (*TABLES, "folder", "config", "as_of", "seed")


@dataclass(frozen=True)
class RunInputs:
    """A book, a market and a configuration, read and checked; `notes` is what whoever runs them should know."""

    book: Book
    market: Market
    config: Config
    notes: tuple[str, ...] = ()

    def margin(self, *, on_error: OnError = "raise") -> Result:
        """Margins of these inputs; raises as `margin_book` does."""
        return margin_book(self.book, self.market, self.config, on_error=on_error)


def read_inputs(
    source: str | Path,
    *,
    market: str | Path | None = None,
    config: Config | None = None,
    on_error: OnError = "raise",
) -> RunInputs:
    """The inputs in a folder or a TOML file; `config` comes before theirs, but for time, currency and seed.

    Where `market` names another one, the tables of the market, configuration, time and seed are those in it.

    Raises BadInput that names what is missing and where it was looked for, and what the door refuses.
    """
    path = Path(source)
    named = _named(path)
    if market is not None:
        held = {name: named[name] for name in BOOK if name in named}
        path = Path(market)
        named = {**{name: value for name, value in _named(path).items() if name not in BOOK}, **held}
    missing = [name for name in NEEDED if name not in named]
    if missing:
        what = f"names no {', '.join(f'`{name}`' for name in missing)}"
        remedy = f"Put {', '.join(f'{name}.parquet' for name in missing)} (or .csv) there, or name files in a TOML file"
        raise BadInput([Problem(str(path), None, None, what, remedy)])
    stated, notes = _stated(path, named)
    own = {"as_of": utc_time(named["as_of"])} if "as_of" in named else {}
    own |= {"seed": named["seed"]} if "seed" in named else {}
    run = stated.run.model_copy(update=own)
    settings = (stated if config is None else config).model_copy(update={"run": run})
    tables, prices = ({name: named[name] for name in group if name in named} for group in (BOOK, MARKET))
    book = read_book(**tables, on_error=on_error)
    given = read_market(**prices, as_of=run.as_of, currency=run.currency, on_error=on_error)
    return RunInputs(book, given, settings, tuple(notes))


def configuration(name: str | Path) -> tuple[Config, list[str]]:
    """What a parameter file, a preset, an installed model or a TOML file stands for, and what to know of it."""
    if not str(name).endswith(".json"):
        return model_config(name), []
    path = Path(name)
    document = read_document(path)
    config = settings_over(base_of(path, document["model"]), document["settings"], str(name))
    return config, notes_on(path, document, config)


def base_of(file: Path, model: str) -> Config:
    """The configuration of the model that a parameter file names; raises BadInput that names the file."""
    try:
        return model_config(model)
    except BadInput as error:
        what = f"`{model}` {error.problems[0].what}"
        raise BadInput([Problem(str(file), "model", None, what, error.problems[0].remedy)]) from None


def input_files(source: str | Path) -> list[Path]:
    """The files and folders that `read_inputs` reads from."""
    path = Path(source)
    found = [path, *([path / MANIFEST] if path.is_dir() else [])]
    for name, value in _named(path).items():
        if name in (*TABLES, "config"):
            found += [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, Path)]
    return found


def _named(path: Path) -> dict[str, Any]:
    """Tables by name, each a path or several, and what else a file states."""
    if path.is_dir():
        return _in_folder(path)
    if path.suffix != ".toml":
        what = "is no folder and no TOML file" if path.exists() else "there is no such folder or file"
        remedy = f"Name a folder with the tables ({', '.join(NEEDED)}), or a TOML file that names them"
        raise BadInput([Problem(str(path), None, None, what, remedy)])
    return _in_file(path)


def _in_folder(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    problems = []
    for name in TABLES:
        files = [folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            what, remedy = f"holds {names}, and either may be meant", "Name one in a TOML file, or take one away"
            problems.append(Problem(str(folder), None, None, what, remedy))
        elif files:
            found[name] = files[0]
    if problems:
        raise BadInput(problems)
    if (folder / CONFIG).is_file():
        found["config"] = folder / CONFIG
    return found


def _in_file(path: Path) -> dict[str, Any]:
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise BadInput([Problem(str(path), None, None, what, "Name a folder, or a TOML file in UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput([Problem(str(path), None, None, f"is not TOML ({error})", "Mend the line")]) from None
    problems = []
    for key, value in stated.items():
        if key not in KEYS:
            what = "is no key of a set of inputs"
            problems.append(Problem(str(path), key, None, what, f"Remove it; {suggestion(key, KEYS)}"))
        elif not _fits(key, value):
            problems.append(Problem(str(path), key, None, f"{value!r} was given", f"Give {_WANTED.get(key, 'a path')}"))
    if problems:
        raise BadInput(problems)
    home = path.parent
    found: dict[str, Any] = {}
    if "folder" in stated:
        folder = home / stated["folder"]
        if not folder.is_dir():
            what = f"there is no such folder as {folder}"
            raise BadInput([Problem(str(path), "folder", None, what, "Give it from the folder of this file")])
        found |= {"folder": folder, **_in_folder(folder)}
    for key, value in stated.items():
        if key in TABLES:
            found[key] = [home / each for each in value] if isinstance(value, list) else home / value
        elif key == "config":
            found[key] = value if value in preset_names() else home / value
        elif key != "folder":
            found[key] = value
    return found


_WANTED = {"as_of": "a UTC time, such as 2026-01-31T08:00:00Z", "seed": "a whole number, zero or above"}


def _fits(key: str, value: Any) -> bool:
    if key == "seed":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if key == "as_of":
        return isinstance(value, datetime | str) or type(value).__name__ == "date"
    if key == "history" and isinstance(value, list):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str)


def _stated(path: Path, named: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The configuration that the inputs name, else that of the run in their folder, else every default."""
    if "config" in named:
        return configuration(named["config"])
    folder = path if path.is_dir() else named.get("folder")
    record = folder / MANIFEST if folder is not None else None
    if record is None or not record.is_file():
        return Config(), []
    try:
        manifest = json.loads(record.read_text(encoding="utf-8"))
        values, run = manifest["configuration"], {name: manifest[name] for name in ("seed", "currency")}
    except (ValueError, KeyError, TypeError):
        remedy = f"Put a {CONFIG} beside it, or take it away"
        raise BadInput([Problem(str(record), None, None, "is no manifest of a margin run", remedy)]) from None
    return parse_config({**values, "run": run}, str(record)), []
