"""Parameter files: numbers of one model that were fitted or set, as JSON that says where they come from.

    {"format": "marginax.parameters/1", "model": NAME, "settings": {SECTION: {KEY: VALUE}}, ...}

`model` is the preset or installed model that the settings are put over, key by key; everything else is for people.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marginax.config import Config, parse_config
from marginax.problems import BadInput, Problem

FORMAT = "marginax.parameters/1"


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


def read_document(path: Path) -> dict[str, Any]:
    """All of a file. Raises BadInput where it cannot be read or is of another format."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        document = {**given, "model": str(given["model"]), "settings": dict(given["settings"])}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read ({type(error).__name__}: {error})"
        remedy = 'Name a file of JSON: {"model": NAME, "settings": {SECTION: {KEY: VALUE}}}'
        raise BadInput([Problem(str(path), None, None, what, remedy)]) from None
    if document.get("format", FORMAT) != FORMAT:
        what, remedy = f"is of the format `{document['format']}`", f"Name a file of the format `{FORMAT}`"
        raise BadInput([Problem(str(path), "format", None, what, remedy)])
    return document


def settings_over(config: Config, settings: Mapping[str, Any], name: str) -> Config:
    """A configuration with the keys of some sections changed; raises BadInput for what is no key or out of range."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    for section, keys in settings.items():
        values[section] = {**values.get(section, {}), **keys} if isinstance(keys, dict) else keys
    return parse_config(values, name)


def settings_between(base: Config, config: Config) -> dict[str, Any]:
    """The keys whose values differ, whole tables of a section: what `settings_over` makes one of the other."""
    before, after = (each.model_dump(mode="json") for each in (base, config))
    changed: dict[str, Any] = {}
    for section, keys in after.items():
        if isinstance(keys, dict) and section != "parameters":
            own = {key: value for key, value in keys.items() if value != before[section][key]}
            if own:
                changed[section] = own
        elif keys != before[section]:
            changed[section] = keys
    return changed
