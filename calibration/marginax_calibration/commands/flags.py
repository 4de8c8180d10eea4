"""What the commands of this floor do alike with their flags; imports nothing heavy."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from marginax.problems import BadInput, Problem
from marginax_calibration.baselines import BASELINES

BY_DEFAULT = ",".join(BASELINES)


def names_in(words: str) -> list[str]:
    """The names between commas."""
    return [word.strip() for word in words.split(",") if word.strip()]


def toml_files(models: str) -> list[Path]:
    """The configuration files among the models named."""
    return [Path(name) for name in names_in(models) if name.endswith(".toml")]


def hashes(files: Sequence[Path | None]) -> dict[str, str]:
    """SHA-256 of each file that there is."""
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files if path is not None}


def check_outputs(files: Sequence[Path | None], out: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Refuse what cannot be written before the work is done: no file, an input, or two results under one name."""
    read = {path.resolve() for path in inputs if path is not None}
    seen: set[Path] = set()
    for path in files:
        if path is None:
            continue
        place = path.resolve()
        wrong = None
        if str(path) == "-" or (place.exists() and not place.is_file()):
            wrong = "is no file", "Name a file"
        elif not place.parent.is_dir() or not os.access(place.parent, os.W_OK):
            wrong = "cannot be written", "Name a file in a folder that exists and may be written to"
        elif place in read:
            wrong = "is an input, which the result would replace", "Name another file"
        elif place in seen:
            wrong = "is named for two results", "Give each its own file"
        if wrong is not None:
            raise BadInput([Problem(str(path), None, None, *wrong)])
        seen.add(place)
    if out is not None:
        nearest = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise BadInput([Problem(str(out), None, None, "cannot be a folder", "Name another for the results")])
        from marginax.tables.results import result_names

        for path in sorted(read):
            if path.parent == out.resolve() and path.name in result_names():
                what = f"holds the input {path.name}, and results go by that name"
                raise BadInput([Problem(str(out), None, None, what, "Name another folder for the results")])
