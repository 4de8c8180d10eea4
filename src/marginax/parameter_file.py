"""Parameter files: numbers of one model that were fitted or set, as JSON that says where they come from.

    {"format": "marginax.parameters/1", "model": NAME, "settings": {SECTION: {KEY: VALUE}}, ...}

`model` is the preset or installed model that the settings are put over, key by key; everything else is for people. An
approval holds for the model and the settings that it was given for.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from marginax.config import Config, merged, parse_config
from marginax.problems import BadInput, Problem

FORMAT = "marginax.parameters/1"
# What belongs to a run, and not to the numbers of a model.
NOT_SETTINGS = ("model", "run", "engine")


def read_parameters(path: Path, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The model and the settings of a file. Raises BadInput where it is none, or of a model that is not among `names`.

    A file without a format is read too: model and settings are all that is needed.
    """
    document = read_document(path)
    model, settings = document["model"], document["settings"]
    if model not in names:
        what = f"holds parameters of `{model}`, and what is run is {', '.join(f'`{name}`' for name in names)}"
        raise BadInput([Problem(str(path), "model", None, what, "Name its model, or leave the file out")])
    return model, settings


def read_document(path: Path, *, approval: bool = True) -> dict[str, Any]:
    """All of a file. Raises BadInput where it cannot be read, is of another format, or (unless `approval` is not looked
    at) was changed since its approval."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(document["model"], str) or not isinstance(document["settings"], dict):
            raise TypeError("`model` is to be text, and `settings` an object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"cannot be read ({type(error).__name__}: {error})"
        remedy = 'Name a file of JSON: {"model": NAME, "settings": {SECTION: {KEY: VALUE}}}'
        raise BadInput([Problem(str(path), None, None, what, remedy)]) from None
    if document.get("format", FORMAT) != FORMAT:
        what, remedy = f"is of the format `{document['format']}`", f"Name a file of the format `{FORMAT}`"
        raise BadInput([Problem(str(path), "format", None, what, remedy)])
    for name in NOT_SETTINGS:
        if name in document["settings"]:
            what, remedy = "belongs to a run and to no parameter file", "Remove it from `settings`"
            raise BadInput([Problem(str(path), f"settings.{name}", None, what, remedy)])
    given = document.get("approval")
    if approval and isinstance(given, dict) and given.get("of") not in (None, contents(document)):
        what, remedy = (
            "is of other numbers than the file has now",
            "Approve of it again, with `marginax params approve`",
        )
        raise BadInput([Problem(str(path), "approval", None, what, remedy)])
    return document


def approved(document: Mapping[str, Any], note: str, by: str) -> dict[str, Any]:
    """The document with an approval of its model and settings as they are."""
    approval = {"note": note.strip(), "by": by.strip(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    return {**document, "approval": {**approval, "of": contents(document)}}


def contents(document: Mapping[str, Any]) -> str:
    """What an approval is of, as a hash."""
    numbers = {"model": document["model"], "settings": document["settings"]}
    return sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


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
