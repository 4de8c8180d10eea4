"""A fit as a file that a run of the engine takes, and a search that was stopped as one that goes on.

The parameter file holds what an approver asks for: numbers with bounds, intervals and where they started; the data by
hash; what was wanted; how it was searched; what came out; and whether anybody approved of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marginax.config import Config
from marginax.parameter_file import FORMAT, settings_between
from marginax.problems import BadInput, Problem
from marginax.tables.results import whole_files
from marginax_calibration.fitting.fit import Fit
from marginax_calibration.fitting.search import Row, Search, State

DIGITS = 6
STATE = "search.npz"


def document(found: Fit) -> dict[str, Any]:
    """What the parameter file of a fit says."""
    rounded = [_rounded(value) for value in found.values]
    config = found.tunable.config_at(rounded)
    sure = found.intervals
    numbers = []
    for k, each in enumerate(found.tunable.free):
        numbers.append(
            {
                "key": each.key,
                "value": rounded[k],
                "start": _rounded(each.value),
                "bounds": [_finite(each.low), _finite(each.high)],
                "interval_95": None if sure is None else [_finite(sure.low[k]), _finite(sure.high[k])],
            }
        )
    return {
        "format": FORMAT,
        "model": found.name,
        "settings": _settings(found, config),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "approval": None,
        "numbers": numbers,
        "data": found.data,
        "objective": {
            "weights": asdict(found.weights),
            "reference": {name: _rounded(value) for name, value in found.reference.items()},
            "before": found.before,
            "after": found.after,
        },
        "search": asdict(found.settings),
        "diagnostics": {
            "starts_agree": found.agreed,
            "starts": [
                {
                    "objective": each.objective,
                    "step": each.step,
                    "values": [_rounded(value) for value in each.values],
                    "distance": each.distance,
                    "agrees": each.agrees,
                }
                for each in found.starts
            ],
            "versions": {name: version(name) for name in ("marginax", "jax", "optax", "numpy")},
        },
    }


def _settings(found: Fit, config: Config) -> dict[str, Any]:
    """What differs from the model's own configuration, and every fitted number whether it moved or not."""
    settings, tables = settings_between(found.base, config), config.model_dump(mode="json")
    for each in found.tunable.free:
        section, key = each.key.split(".")[:2]
        settings.setdefault(section, {})[key] = tables[section][key]
    return settings


def stamp_of(search_inputs: Mapping[str, Any]) -> str:
    """What a search is of, as one hash: a state goes on only with the same."""
    return sha256(json.dumps(search_inputs, sort_keys=True, default=str).encode()).hexdigest()


def write_state(folder: Path, state: State, rows: Sequence[Row], stamp: str) -> None:
    """Keep where a search stands, whole or not at all."""
    leaves = jax.tree.leaves(state)
    arrays = {f"leaf_{k}": np.asarray(leaf) for k, leaf in enumerate(leaves)}
    path = json.dumps(list(rows))

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez(file, stamp=np.array(stamp), path=np.array(path), **arrays)  # type: ignore[arg-type]

    with whole_files({folder / STATE: write}):
        return


def read_state(folder: Path, search: Search, stamp: str) -> tuple[State, list[Row]]:
    """Where a search stood. Raises BadInput where there is none, or it is of another search."""
    place = folder / STATE
    try:
        with np.load(place) as held:
            kept, path = str(held["stamp"]), json.loads(str(held["path"]))
            leaves = [held[f"leaf_{k}"] for k in range(len(held.files) - 2)]
    except (OSError, ValueError, KeyError) as error:
        remedy = "Start anew without `--resume`, or name the folder of the search with `--dir`"
        raise BadInput([Problem(str(place), None, None, f"holds no search ({error})", remedy)]) from None
    if kept != stamp:
        what = "is a search on other data, with other settings or of another model"
        raise BadInput([Problem(str(place), None, None, what, "Repeat the command as it was, or leave out `--resume`")])
    tree = jax.tree.structure(search.begin())
    state = jax.tree.unflatten(tree, leaves)
    return state._replace(step=int(state.step)), path


def _rounded(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _finite(value: float) -> float | None:
    return _rounded(value) if np.isfinite(value) else None
