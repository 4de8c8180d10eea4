"""A fit as a file that a run of the engine takes, and a search that was stopped as one that goes on.

The parameter file holds what an approver asks for: numbers with bounds, intervals and where they started; the data by
hash; what was wanted; how it was searched; what came out; and whether anybody approved of it.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
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
from marginax.parameter_file import FORMAT, base_hash, refuse_to_replace, settings_between
from marginax.problems import BadInput, Problem
from marginax.tables.results import write_files
from marginax_calibration.fitting.fit import Fitting
from marginax_calibration.fitting.result import Fit, values_of
from marginax_calibration.fitting.state import Row, State

DIGITS = 6
# What a run has its own of, whatever a fit had.
OF_A_RUN = ("tail", "charge_tail", "horizon_days")
UNFINISHED = "marginax.unfinished/1"
STATE = "search.npz"
SHOWN, LONGEST = 3, 60
# What reading a file that is damaged, or of another kind, may raise.
DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, BadZipFile, zlib.error)


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
        "base": base_hash(found.name),
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
            "improved": found.improved,
            "starts_agree": found.agreed,
            "starts": [
                {
                    "objective": each.objective,
                    "step": each.step,
                    "values": [_rounded(value) for value in each.values],
                    "distance": each.distance,
                    "began": each.began,
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


def save_fit(found: Fit, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the parameter file of a fit, whole or not at all.

    Raises BadInput where there is no such folder, or the file holds parameters that were approved and nobody says to
    `overwrite` them.
    """
    text, out = text_of(found), Path(path)
    if not out.parent.is_dir():
        raise BadInput([Problem(str(out), None, None, f"there is no folder {out.parent}", "Make it first")])
    if not overwrite:
        refuse_to_replace(out, "overwrite=True")
    write_files({out: lambda place: place.write_text(text, encoding="utf-8")})


def _settings(found: Fit, config: Config) -> dict[str, Any]:
    """What differs from the model's own configuration, and every fitted number whether it moved or not.

    The tails and the horizon of the fit are told beside them: whoever runs the numbers has their own.
    """
    settings = settings_between(found.base, config)
    risk = {key: value for key, value in settings.pop("risk", {}).items() if key not in OF_A_RUN}
    settings |= {"risk": risk} if risk else {}
    whole = config.model_dump(mode="json", by_alias=True)
    for each in found.tunable.free:
        table, value = settings, whole
        for step in each.path[:-1]:
            table, value = table.setdefault(step, {}), value[step]
        table[each.path[-1]] = value[each.path[-1]]
    return settings


def write_unfinished(path: Path, fitting: Fitting, state: State) -> None:
    """Write the best numbers of a search that did not end, in a format that no run takes for a result."""
    best = int(np.argmin(state.best_value))
    values = values_of(fitting.tunable, state.best[best])
    numbers = {each.key: _rounded(float(value)) for each, value in zip(fitting.tunable.free, values, strict=True)}
    told = {"format": UNFINISHED, "model": fitting.name, "settings": {}, "step": state.step, "numbers": numbers}
    text = json.dumps(told, indent=1) + "\n"
    write_files({path: lambda place: place.write_text(text, encoding="utf-8")})


def search_of(fitting: Fitting, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a search is of, ready for JSON: it goes on with the same alone, and the same versions of what computes.

    `inputs` are the hashes of the files; where they lie is nothing to it.
    """
    told = fitting.identity
    data = {key: value for key, value in told["data"].items() if key != "inputs"}
    versions = {name: version(name) for name in ("marginax", "jax", "optax", "numpy")}
    every = {"inputs": sorted(inputs.values()), **told, "data": data, "versions": versions}
    plain: dict[str, Any] = json.loads(json.dumps(every, default=str))
    return plain


def write_state(folder: Path, state: State, rows: Sequence[Row], search: Mapping[str, Any]) -> None:
    """Keep where a search stands, whole or not at all; `search` is what it is of."""
    leaves = jax.tree.leaves(state)
    arrays = {f"leaf_{k}": np.asarray(leaf) for k, leaf in enumerate(leaves)}
    texts = {"stamp": _stamp(search), "search": json.dumps(search), "path": json.dumps(list(rows))}

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez(file, **{name: np.array(text) for name, text in texts.items()}, **arrays)  # type: ignore[arg-type]

    write_files({folder / STATE: write})


def step_of(folder: Path) -> int | None:
    """The step at which the search of a folder stands; None where it holds none."""
    try:
        with np.load(folder / STATE) as held:
            return int(held["leaf_0"])
    except DAMAGED:
        return None


def read_state(folder: Path, fitting: Fitting, search: Mapping[str, Any]) -> tuple[State, list[Row]]:
    """Where a search stood. Raises BadInput where there is none, or it is of another search."""
    place = folder / STATE
    state = None
    try:
        with np.load(place) as held:
            kept, stamp = json.loads(str(held["search"])), str(held["stamp"])
            if stamp == _stamp(search):
                path: list[Row] = json.loads(str(held["path"]))
                leaves = [held[f"leaf_{k}"] for k in range(len(held.files) - 3)]
                state = jax.tree.unflatten(jax.tree.structure(fitting.search.begin()), leaves)
    except DAMAGED:
        what = "holds no search" if not place.is_file() else "cannot be read: it is damaged, or of another kind"
        remedy = "Begin anew with `--overwrite` and without `--resume`, or name the folder of the search with `--dir`"
        raise BadInput([Problem(str(place), None, None, what, remedy)]) from None
    if state is None:
        what = f"is of another search: {_differences(kept, search)}"
        remedy = "Repeat the command as it was, or begin anew with `--overwrite` and without `--resume`"
        raise BadInput([Problem(str(place), None, None, what, remedy)])
    return state._replace(step=int(state.step)), path


def _stamp(search: Mapping[str, Any]) -> str:
    return sha256(json.dumps(search, sort_keys=True).encode()).hexdigest()


def _differences(kept: Mapping[str, Any], search: Mapping[str, Any]) -> str:
    """The first settings that differ, with both values."""
    before, now = dict(_flat(kept)), dict(_flat(search))
    apart = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    told = [
        "the input files are others"
        if key == "inputs"
        else f"`{key}` was {_shown(before.get(key))} and is {_shown(now.get(key))}"
        for key in apart[:SHOWN]
    ]
    return "; ".join(told) + (f"; and {len(apart) - SHOWN} more" if len(apart) > SHOWN else "")


def _flat(values: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{head}{key}.")
        else:
            yield head + key, value


def _shown(value: Any) -> str:
    words = json.dumps(value)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def _rounded(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _finite(value: float) -> float | None:
    return _rounded(value) if np.isfinite(value) else None
