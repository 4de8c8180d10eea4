"""The keys of a configuration that may be free: which matter to a model, where each is, and within what bounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from marginax.config import Config
from marginax.market_sections import ClassParameters
from marginax.problems import BadInput, Problem

# What each filter has to say of itself.
FILTERS = {
    "ewma": ("scenarios.half_life_days",),
    "two_speed": ("filter.fast_half_life_days", "filter.slow_half_life_days", "filter.fast_share"),
    "garch": ("filter.alpha", "filter.beta"),
    "har": ("filter.daily", "filter.weekly", "filter.monthly"),
}
OF_FILTERS = ("scenarios.half_life_days", "scenarios.volatility_floor")
# Scenarios that are past returns as they were: no filter moves them.
UNFILTERED = ("historical", "age_weighted")
CLASSES = ("classes", "parameters")


@dataclass(frozen=True)
class Free:
    """A free number: where it is in a configuration, the value to start from, and the bounds of what is allowed.

    `pooled` is the key that numbers by class or underlying stand for: `filter.bound` of `classes.parameters.BTC.bound`.
    """

    path: tuple[str, ...]
    value: float
    low: float
    high: float
    pooled: str

    @property
    def key(self) -> str:
        """The path with dots."""
        return ".".join(self.path)


def usual_keys(config: Config) -> tuple[str, ...]:
    """The keys that matter to a model of this configuration: its filter, floor, correlations, and the parts that are
    on."""
    keys = ["scenarios.age_half_life_days"] if config.scenarios.source == "age_weighted" else []
    if config.scenarios.source not in UNFILTERED:
        keys = [*FILTERS[config.filter.kind], "scenarios.volatility_floor"]
        if config.filter.bound is not None:
            keys.append("filter.bound")
    if config.correlation.follow:
        keys += ["correlation.half_life_days", "correlation.shrinkage"]
    if config.stress_period.weight:
        keys.append("stress_period.weight")
    if config.dependence.share:
        keys.append("dependence.share")
    if config.procyclicality.buffer:
        keys.append("procyclicality.buffer")
    keys += [f"procyclicality.{name}" for name in ("rise_limit", "fall_limit") if getattr(config.procyclicality, name)]
    keys += ["regime.most"] if config.regime.most > 1 else []
    keys += ["regime.least"] if config.regime.least < 1 else []
    return tuple(keys)


def path_of(config: Config, key: str) -> tuple[str, ...]:
    """The path of a key; the name of a class may have dots of its own."""
    head = ".".join(CLASSES) + "."
    if key.startswith(head):
        word, _, name = key.removeprefix(head).rpartition(".")
        return (*CLASSES, word, name)
    return tuple(key.split("."))


def free_at(config: Config, path: tuple[str, ...], pooled: str) -> Free:
    """A number at a path as a free one; raises BadInput for what is none."""
    key, name = ".".join(path), path[-1]
    section, value = found_at(config, path)
    if isinstance(section, dict) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)  # numbers of an installed model have no schema
    if isinstance(value, BaseModel | dict):
        raise refused(key, "is a table", f"Name a key of it, such as `{next(_numbers(value, key), key)}`")
    if value is None:
        what = "is switched off, and has no number to start from"
        raise refused(key, what, "Set it in the configuration, or leave it out of the free keys")
    if not isinstance(value, float):
        kind = (
            "a choice" if isinstance(value, bool | str) else "a whole number" if isinstance(value, int) else "no number"
        )
        raise refused(key, f"is {kind}, and cannot be moved a little", "Leave it out of the free keys")
    low, high = _bounds(type(section), name) if isinstance(section, BaseModel) else (-np.inf, np.inf)
    return Free(path, value, low, high, pooled)


def _usual(config: Config, name: str) -> Any:
    """What a class without a number of its own has."""
    home = next(section for section in (config.filter, config.scenarios) if name in type(section).model_fields)
    return getattr(home, name)


def _bounds(section: type[BaseModel], name: str) -> tuple[float, float]:
    """The open interval that the schema allows."""
    low, high = -np.inf, np.inf
    for rule in section.model_fields[name].metadata:
        if isinstance(rule, Ge | Gt):
            low = float(rule.ge if isinstance(rule, Ge) else rule.gt)  # type: ignore[arg-type]
        if isinstance(rule, Le | Lt):
            high = float(rule.le if isinstance(rule, Le) else rule.lt)  # type: ignore[arg-type]
    return low, high


def found_at(config: Config, path: tuple[str, ...]) -> tuple[Any, Any]:
    """The table that a key is in, and its value; raises BadInput where there is none."""
    section: Any = config
    try:
        for step in path[:-1]:
            section = section[step] if isinstance(section, dict) else getattr(section, step)
        value = section[path[-1]] if isinstance(section, dict) else getattr(section, path[-1])
    except (AttributeError, KeyError, TypeError):
        key = ".".join(path)
        raise refused(key, "is not a key of the configuration", _nearest(config, key)) from None
    if value is None and isinstance(section, ClassParameters):
        value = _usual(config, path[-1])
    return section, value


def _nearest(config: Config, key: str) -> str:
    """The key that was meant, or where keys are told."""
    known = [each for name, table in config for each in _numbers(table, name)]
    near = [each for each in known if each.endswith(f".{key}")] or get_close_matches(key, known, n=1)
    return f"Did you mean `{near[0]}`?" if near else "See `marginax init` for the keys"


def _numbers(value: Any, key: str) -> Iterator[str]:
    """The keys from here on whose values are numbers that could be moved a little."""
    if isinstance(value, BaseModel | dict):
        for name, inside in value.items() if isinstance(value, dict) else value:
            yield from _numbers(inside, f"{key}.{name}")
    elif isinstance(value, float):
        yield key


def refused(key: str, what: str, remedy: str) -> BadInput:
    return BadInput([Problem("parameters", key, None, what, remedy)])
