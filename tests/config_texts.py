"""For the tests of the configuration: TOML in a file, and what is said of it."""

from pathlib import Path

import pytest

from marginax.config import Config, load_config
from marginax.problems import BadInput

WINDOW = '[[scenarios.stress]]\nname = "crash"\nfrom = 2020-03-08\nto = 2020-03-19\n'


def load(text: str, folder: Path) -> Config:
    """The configuration that this text says."""
    path = folder / "marginax.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def refused(text: str, folder: Path) -> BadInput:
    """The error that this text leads to."""
    with pytest.raises(BadInput) as caught:
        load(text, folder)
    return caught.value


def names(error: BadInput, folder: Path, key: str | None, *words: str) -> None:
    """The one problem names the file, the key, and says these words."""
    assert error.total == 1, str(error)
    place = f"{folder / 'marginax.toml'}" + ("" if key is None else f", key {key}") + ": "
    assert str(error).startswith(place), str(error)
    for word in words:
        assert word in str(error), str(error)
