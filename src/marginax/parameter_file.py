"""Parameter files: numbers of one model that were fitted or set, as JSON that says where they come from.

    {"format": "marginax.parameters/1", "model": NAME, "settings": {SECTION: {KEY: VALUE}}, ...}

`model` is the preset or installed model that the settings are put over, key by key; everything else is for people. An
approval holds for the model, the settings and the base: the configuration of that model at the time. `base` says the
same of a fit, as a hash.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from math import isclose
from pathlib import Path
from typing import Any

from marginax.config import Config, load_config, merged, parse_config, preset_names
from marginax.problems import BadInput, Problem

FORMAT = "marginax.parameters/1"
SHAPE = '{"model": NAME, "settings": {SECTION: {KEY: VALUE}}}'
# What belongs to a run, and not to the numbers of a model.
NOT_SETTINGS = ("model", "run", "engine", "price_checks", "publication")
# What else a file may hold, and of which kind.
OTHERS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("risk", "data", "objective", "search", "diagnostics"), (dict, "an object")),
    **dict.fromkeys(("base", "date"), (str, "text")),
    "numbers": (list, "a list"),
}
# Numbers suit the tails and the horizon that they were fitted with; those of a longer bar are a rounding apart.
FITTED_WITH, SAME = ("tail", "charge_tail", "horizon_days"), 1e-6
AGAIN = "`marginax params approve --again`"


def check_model(path: Path, document: Mapping[str, Any], names: Sequence[str], *, accepted: Sequence[str] = ()) -> None:
    """Raise BadInput where a file is of none of the models that are run, as whoever runs them calls them.

    `accepted` are other names of theirs.
    """
    model = document["model"]
    if model not in (*names, *accepted):
        what = f"holds parameters of `{model}`, and what is run is {', '.join(f'`{name}`' for name in names)}"
        raise _refused(path, "model", what, f"Run `{model}` (`--model`, `--models`), or leave the file out")


def read_document(path: Path, *, approval: bool = True) -> dict[str, Any]:
    """All of a file. Raises BadInput where it cannot be read, is of another format, says two things of one number, or
    (unless `approval` is not looked at) is not what was approved."""
    document = _object_in(path)
    if document.get("format", FORMAT) != FORMAT:
        raise _refused(
            path, "format", f"is of the format `{document['format']}`", f"Name a file of the format `{FORMAT}`"
        )
    for key, kind, word in (("model", str, "text"), ("settings", dict, "an object")):
        if key not in document:
            raise _refused(path, key, "is missing", f"Write the file as {SHAPE}")
        if not isinstance(document[key], kind):
            raise _refused(path, key, f"`{key}` is to be {word}", f"Write the file as {SHAPE}")
    for key, (other, word) in OTHERS.items():
        if key in document and not isinstance(document[key], other):
            raise _refused(path, key, f"`{key}` is to be {word}", "Write it as `marginax calibrate` does, or remove it")
    for name in NOT_SETTINGS:
        if name in document["settings"]:
            what = "belongs to a run and to no parameter file"
            raise _refused(path, f"settings.{name}", what, "Remove it from `settings`")
    _check_numbers(path, document)
    if approval:
        _check_approval(path, document)
    return document


def notes_on(path: Path, document: Mapping[str, Any], config: Config) -> list[str]:
    """What whoever runs a file under a configuration should know: another base or other tails than it was fitted with,
    and keys that are not those that were approved."""
    notes = []
    model, base = document["model"], document.get("base")
    others = _not_approved(document, config) if document.get("approval") else []
    if others:
        notes.append(
            f"{path}: was approved over `{model}` as it is installed, and runs with another {', '.join(others)}. "
            "The approval is not of this run."
        )
    if not document.get("approval") and base is not None and base != base_hash(model):
        notes.append(
            f"{path}: was fitted over another configuration of `{model}` than is installed. Fit again, or look at what "
            "it changes with `marginax params diff`."
        )
    fitted = document.get("risk")
    if base is not None and not fitted:
        notes.append(f"{path}: does not say with which tails it was fitted. Fit again, or write them into `risk`.")
    if fitted:
        then, now = (_tails(each) for each in (fitted, config.risk.model_dump()))
        apart = [key for key in then.keys() & now.keys() if not isclose(then[key], now[key], rel_tol=SAME)]
        notes += [
            f"{path}: was fitted with a `{key}` of {then[key]:g}, and runs with {now[key]:g}. Run it with that of "
            "the fit, or fit again."
            for key in FITTED_WITH
            if key in apart
        ]
    return notes


def record(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a file that was run."""
    return {
        "file": str(path),
        "sha256": sha256(path.read_bytes()).hexdigest(),
        "model": document["model"],
        "date": document.get("date"),
        "approval": document.get("approval"),
    }


def refuse_to_replace(path: Path, unless: str) -> None:
    """Raise BadInput where a file holds an approval, of whatever; `unless` is what would replace it all the same."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(document, dict) and document.get("approval") is not None:
        what = "holds parameters that were approved, and would be replaced"
        raise _refused(path, None, what, f"Name another place, or say `{unless}`")


def described(recorded: Mapping[str, Any]) -> str:
    """A record as half a sentence: the file, its date, and who approved of it."""
    dated = f" of {recorded['date']}" if recorded["date"] else ""
    given = recorded["approval"]
    return f"{Path(recorded['file']).name}{dated}, {'not approved' if given is None else approval_words(given)}"


def approval_words(approval: Mapping[str, Any]) -> str:
    """Who approved, and when."""
    return f"approved by {approval.get('by', 'nobody named')} on {approval.get('date', 'no date')}"


def approved(document: Mapping[str, Any], note: str, by: str) -> dict[str, Any]:
    """The document with an approval of its model and settings as they are, over the base as it is."""
    base = base_hash(document["model"])
    approval = {"note": note.strip(), "by": by.strip(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "base": base}
    return {**document, "approval": {**approval, "of": contents(document, base)}}


def contents(document: Mapping[str, Any], base: str | None) -> str:
    """What an approval is of, as a hash."""
    return _hash({"model": document["model"], "settings": document["settings"], "base": base})


def base_hash(model: str) -> str:
    """The configuration that settings of a model are put over, as a hash; without what belongs to a run.

    The model behind a preset counts. What is neither preset nor installed has the defaults.
    """
    config = load_config(model) if model in preset_names() else Config(model=model)
    return _hash(config.model_dump(mode="json", by_alias=True, exclude=set(NOT_SETTINGS) - {"model"}))


def refuse_parameter_file(flag: str, name: str | Path | None) -> None:
    """Raise BadInput where a flag that takes a model or a configuration is given JSON."""
    if name is not None and str(name).endswith(".json"):
        what = "is JSON, as parameter files are, and no model or configuration"
        raise BadInput([Problem(f"{flag} {name}", None, None, what, "Give it to `--params`, and name its model here")])


def settings_over(config: Config, settings: Mapping[str, Any], name: str) -> Config:
    """A configuration with some keys changed; raises BadInput for what is no key or out of range."""
    return parse_config(merged(tables(config), settings), name)


def settings_between(base: Config, config: Config) -> dict[str, Any]:
    """The keys whose values differ: what `settings_over` makes one of the other, but for what a run says."""
    before, after = (each.model_dump(mode="json", by_alias=True) for each in (base, config))
    found = _differences(before, after)
    return {name: keys for name, keys in found.items() if name not in NOT_SETTINGS}


def tables(config: Config) -> dict[str, Any]:
    """The keys of a configuration that differ from their defaults, as a file would say them."""
    return config.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            inside = _differences(old, value)
            if inside:
                found[key] = inside
        elif isinstance(value, dict):
            found[key] = {name: each for name, each in value.items() if each is not None}
        elif value != old:
            found[key] = value
    return found


def _object_in(path: Path) -> dict[str, Any]:
    """The object of a file of JSON, or why there is none in plain words."""
    if path.suffix == ".toml":
        what = "is a configuration (TOML), and parameter files are JSON"
        remedy = "Give it to `--config` of `marginax margin`, or to `--models` of `marginax backtest`"
        raise _refused(path, None, what, remedy)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _refused(path, None, "there is no such file", "Name one that `marginax calibrate` wrote") from None
    except IsADirectoryError:
        raise _refused(path, None, "is a folder", "Name a parameter file in it") from None
    except UnicodeDecodeError:
        raise _refused(path, None, "cannot be read: it is no text in UTF-8", "Name a file of JSON") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise _refused(path, None, what, "Check the path, and that it may be read") from None
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except _NoConstant as error:
        what = f"cannot be read: {error} is no number of JSON"
        raise _refused(path, None, what, "Write the number that is meant") from None
    except json.JSONDecodeError as error:
        what = f"cannot be read: line {error.lineno}, column {error.colno} is not JSON ({error.msg})"
        raise _refused(path, None, what, f"Mend the line; a file is {SHAPE}") from None
    except (ValueError, RecursionError):
        what = "cannot be read: a number is too long, or tables are too deep in one another"
        raise _refused(path, None, what, f"Write the file as {SHAPE}") from None
    if not isinstance(document, dict):
        raise _refused(path, None, "is JSON, but no object", f"Write the file as {SHAPE}")
    return document


class _NoConstant(Exception):
    """NaN or an infinity, which Python would read."""


def _no_constant(word: str) -> None:
    raise _NoConstant(word)


def _check_numbers(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse numbers for people that are not those that run."""
    for place, each in enumerate(document.get("numbers", [])):
        if not isinstance(each, dict) or "value" not in each or not isinstance(each.get("key"), str):
            what, remedy = f"number {place} says no key with a value", "Write it as `marginax calibrate` does"
            raise _refused(path, "numbers", what, remedy)
        key, value, runs = each["key"], each["value"], _at(document["settings"], each["key"])
        if runs != value:
            said = "nothing of it" if runs is None else f"{runs}"
            what = f"says {value} in `numbers`, and `settings`, which is what runs, says {said}"
            raise _refused(path, key, what, "Write the number that is meant in both places")


def _at(table: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted path, whose steps may hold dots themselves; None where there is none."""
    if key in table:
        return table[key]
    for name, inside in table.items():
        if isinstance(inside, dict) and key.startswith(f"{name}."):
            found = _at(inside, key.removeprefix(f"{name}."))
            if found is not None:
                return found
    return None


def _check_approval(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse what is not what was approved, and say which of numbers and base has changed."""
    given, model = document.get("approval"), document["model"]
    if given is None:
        return
    if not isinstance(given, dict) or not isinstance(given.get("of"), str):
        what = "does not say what it is of"
        raise _refused(path, "approval", what, "Remove it, and approve with `marginax params approve`")
    base = base_hash(model)
    if given["of"] == contents(document, base):
        return
    if given.get("base") == base:
        what = f"is of other numbers than the file has now; the configuration of `{model}` under them is as it was"
    elif given["of"] == contents(document, given.get("base")):
        what = f"is of the numbers of the file, but the configuration of `{model}` under them has changed since"
    else:
        what = f"is of other numbers than the file has now, and of another configuration of `{model}` under them"
    raise _refused(path, "approval", what, f"Look at the change, and approve of it with {AGAIN}")


def _not_approved(document: Mapping[str, Any], config: Config) -> list[str]:
    """The sections of a run that differ from what was approved, but for tails and horizon, which are told apart."""
    model = document["model"]
    base = load_config(model) if model in preset_names() else Config(model=model)
    between = settings_between(settings_over(base, document["settings"], model), config)
    risk = {key: value for key, value in between.pop("risk", {}).items() if key not in FITTED_WITH}
    between |= {"risk": risk} if risk else {}
    return [f"`{name}`" for name in sorted(between)]


def _tails(risk: Mapping[str, Any]) -> dict[str, float]:
    """Tails and horizon of a risk section; what is charged is at `tail` where it says no other."""
    charged = risk.get("tail") if risk.get("charge_tail") is None else risk["charge_tail"]
    stated = {**risk, "charge_tail": charged}
    return {key: float(stated[key]) for key in FITTED_WITH if isinstance(stated.get(key), int | float)}


def _hash(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _refused(path: Path, key: str | None, what: str, remedy: str) -> BadInput:
    return BadInput([Problem(str(path), key, None, what, remedy)])
