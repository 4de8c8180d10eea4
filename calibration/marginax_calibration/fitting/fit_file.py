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
from zipfile import BadZipFile

import jax
import numpy as np

from marginax.config import Config
from marginax.parameter_file import FORMAT, settings_between
from marginax.problems import BadInput, Problem
from marginax.tables.results import whole_files
from marginax_calibration.fitting.fit import Fit, Fitting
from marginax_calibration.fitting.search import Search
from marginax_calibration.fitting.state import Row, State

DIGITS = 6
UNFINISHED = "marginax.unfinished/1"
STATE = "search.npz"


def document(found: Fit) -> dict[str, Any]:
    """What the parameter file of a fit says."""
    rounded = [_rounded(value) for value in found.values]
    try:
        config = found.tunable.config_at(rounded)
    except BadInput:  # six digits may sum to what a filter may not have
        rounded = [float(value) for value in found.values]
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
        "risk": config.risk.model_dump(mode="json"),
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


def text_of(found: Fit) -> str:
    """The document as the file has it."""
    return json.dumps(document(found), indent=1, allow_nan=False) + "\n"


def _settings(found: Fit, config: Config) -> dict[str, Any]:
    """What differs from the model's own configuration, and every fitted number whether it moved or not.

    The tails and the horizon of the fit are told beside them: whoever runs the numbers has their own.
    """
    settings = settings_between(found.base, config)
    settings.pop("risk", None)
    whole = config.model_dump(mode="json", by_alias=True)
    for each in found.tunable.free:
        table, value = settings, whole
        for step in each.path[:-1]:
            table, value = table.setdefault(step, {}), value[step]
        table[each.path[-1]] = value[each.path[-1]]
    return settings


def unfinished(fitting: Fitting, state: State) -> dict[str, Any]:
    """The best numbers of a search that did not end, in a format that no run takes for a result."""
    best = int(np.argmin(state.best_value))
    values = fitting.tunable.space.allowed(state.best[best])
    numbers = {each.key: _rounded(float(value)) for each, value in zip(fitting.tunable.free, values, strict=True)}
    return {"format": UNFINISHED, "model": fitting.name, "settings": {}, "step": state.step, "numbers": numbers}


def stamp_of(search_inputs: Mapping[str, Any]) -> str:
    """What a search is of, as one hash: a state goes on only with the same, and the same versions of what computes."""
    versions = {name: version(name) for name in ("marginax", "jax", "optax", "numpy")}
    search_inputs = {**search_inputs, "versions": versions}
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
    tree = jax.tree.structure(search.begin())
    try:
        with np.load(place) as held:
            kept, path = str(held["stamp"]), json.loads(str(held["path"]))
            state: State = jax.tree.unflatten(tree, [held[f"leaf_{k}"] for k in range(len(held.files) - 2)])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        remedy = "Start anew without `--resume`, or name the folder of the search with `--dir`"
        raise BadInput([Problem(str(place), None, None, f"holds no search ({error})", remedy)]) from None
    if kept != stamp:
        what = "is a search on other data, with other settings or of another model"
        raise BadInput([Problem(str(place), None, None, what, "Repeat the command as it was, or leave out `--resume`")])
    return state._replace(step=int(state.step)), path


def _rounded(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _finite(value: float) -> float | None:
    return _rounded(value) if np.isfinite(value) else None
