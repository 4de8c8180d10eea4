"""The free numbers of a margin model: keys of its configuration, found again among the leaves of the built model.

A key is free where changing it changes leaves of the model, each from the key's value to its new one; so any installed
model can be fitted whose numbers are leaves, and what is static is refused by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from marginax.config import Config
from marginax.market_sections import ClassParameters
from marginax.models import MarginModel, load_model
from marginax.parameter_file import settings_over
from marginax.problems import BadInput, Problem
from marginax_calibration.fitting.bijectors import INSIDE, Block, Space, blocks_of
from marginax_calibration.fitting.free_keys import (
    CLASSES,
    OF_FILTERS,
    UNFILTERED,
    Free,
    found_at,
    free_at,
    path_of,
    refused,
    usual_keys,
)

By = Literal["all", "class", "underlying"]
# Keys of one table that rise together where both are free, and those whose sum is to stay below one, free or not.
ORDERED = ("fast_half_life_days", "slow_half_life_days")
SHARES = (("alpha", "beta"), ("daily", "weekly", "monthly"))
# A leaf of an installed model may be in single precision.
SAME = 1e-6


class Place(eqx.Module):
    """Where free numbers enter a leaf of a model: entries of the flat leaf, and the numbers that are put there."""

    leaf: int = eqx.field(static=True)
    entries: Int[Any, " entries"]
    numbers: Int[Any, " entries"]


def put(model: MarginModel, places: Sequence[Place], values: Float[Array, " numbers"]) -> MarginModel:
    """A model with free numbers in their places; traceable."""
    leaves, tree = jax.tree.flatten(model)
    for place in places:
        leaf = jnp.asarray(leaves[place.leaf])
        own = values[place.numbers].astype(leaf.dtype)
        leaves[place.leaf] = leaf.ravel().at[place.entries].set(own).reshape(leaf.shape)
    return jax.tree.unflatten(tree, leaves)


@dataclass(frozen=True)
class Tunable:
    """A model whose free numbers can be set while it is traced."""

    config: Config
    model: MarginModel
    free: tuple[Free, ...]
    places: tuple[Place, ...]
    space: Space

    @property
    def start(self) -> Float64[np.ndarray, " numbers"]:
        """The values that the configuration has, moved inside what is allowed."""
        return self.space.inside(np.array([each.value for each in self.free]))

    def config_at(self, values: Sequence[float]) -> Config:
        """The configuration at these values."""
        return with_values(self.config, {each.path: float(v) for each, v in zip(self.free, values, strict=True)})


def tunable(
    config: Config,
    keys: Sequence[str] = (),
    *,
    by: By = "all",
    underlyings: Sequence[str] = (),
    classes: Mapping[str, str] | None = None,
) -> Tunable:
    """The model of a configuration with these keys free (none: `usual_keys`).

    `by` gives keys that a class may have a number for each class, or each of the `underlyings`, that has one: `all` is
    one for all. `classes` are asset classes that a venue states, which come before those of the configuration. Raises
    BadInput for a key that is none, is no number, or that no leaf depends on, and for a model that no gradient flows
    through.
    """
    _check_slopes(load_model(config))
    wanted = tuple(keys) or usual_keys(config)
    if not wanted:
        what = f"names none, and no number of `{config.model}` is fitted by default"
        raise BadInput([Problem("keys", None, None, what, "Name the keys to fit")])
    for key in wanted:
        if config.scenarios.source in UNFILTERED and (key.startswith("filter.") or key in OF_FILTERS):
            what = f"is of filters, and scenarios are `{config.scenarios.source}`: no margin hangs on it"
            raise refused(key, what, "Leave it out of the free keys")
    if classes:
        config = _stated(config, classes)
    if by != "all":
        config = _by_class(config, underlyings, alone=by == "underlying")
    words = sorted({config.classes.names.get(name, config.classes.default) for name in underlyings})
    if by == "underlying":
        words = sorted(underlyings)
    free: list[Free] = []
    for key in wanted:
        table, _, name = key.rpartition(".")
        split = by != "all" and table in ("filter", "scenarios") and name in ClassParameters.model_fields
        paths = [(*CLASSES, word, name) for word in words] if split else [path_of(config, key)]
        free += [free_at(config, each, key) for each in paths]
    paths = [each.path for each in free]
    for each in free:
        if paths.count(each.path) > 1:
            raise refused(each.key, "is named twice", "Name each number once")
    space = Space(blocks_of([(each.low, each.high) for each in free], _together(config, paths)))
    inside = space.inside(np.array([each.value for each in free]))
    settled = with_values(config, dict(zip(paths, inside.tolist(), strict=True)))
    model = load_model(settled)
    return Tunable(settled, model, tuple(free), _places(settled, model, free, inside), space)


def _check_slopes(model: MarginModel) -> None:
    """Refuse models whose margins are looked up or fitted apart: no gradient flows there."""
    what = None
    if model.settings.replay.keeps == "everything" and (
        model.settings.replay.refit_bars or model.settings.replay.refit_years
    ):
        what = "keeps its margins between refits"
    elif type(model).estimate is not MarginModel.estimate:
        what = "is fitted to each portfolio by a likelihood of its own"
    if what is not None:
        remedy = "Name a model whose margins follow from its leaves, such as `dynamic` or `fhs`"
        raise BadInput([Problem("--model", None, None, f"`{model.name}` {what}: no gradient flows through it", remedy)])


def with_values(config: Config, values: Mapping[tuple[str, ...], float]) -> Config:
    """A configuration with the numbers at some paths changed."""
    settings: dict[str, Any] = {}
    for (*path, name), value in values.items():
        table = settings
        for step in path:
            table = table.setdefault(step, {})
        table[name] = value
    return settings_over(config, settings, "parameters")


def _together(config: Config, paths: Sequence[tuple[str, ...]]) -> list[Block]:
    """Keys of one table that are constrained together, with what those that are not free leave over."""
    place = {path: k for k, path in enumerate(paths)}
    found: list[Block] = []
    for table in dict.fromkeys(path[:-1] for path in paths):
        rising = tuple(place[*table, key] for key in ORDERED if (*table, key) in place)
        if len(rising) == len(ORDERED):
            found.append(Block(rising, "ordered"))
        for keys in SHARES:
            mine = tuple(place[*table, key] for key in keys if (*table, key) in place)
            if mine:
                found.append(Block(mine, "shares", high=_left(config, place, table, keys)))
    return found


def _left(config: Config, place: Mapping[tuple[str, ...], int], table: tuple[str, ...], keys: Sequence[str]) -> float:
    """What the fixed keys of a sum leave to the free ones, in their own table and in every class that takes them from
    there. Raises BadInput where nothing is left, or a class mixes numbers of its own with free ones."""
    free = {key for key in keys if (*table, key) in place}
    left = 1 - sum(found_at(config, (*table, key))[1] for key in keys if key not in free)
    name = ".".join((*table, min(free)))
    if table[: len(CLASSES)] == CLASSES:
        stated = config.classes.parameters[table[-1]]
        taken = {key for key in keys if getattr(stated, key) is None and ("filter", key) in place} - free
        if taken:
            raise refused(name, f"is summed with `filter.{min(taken)}`, which is free too", "Free both in the class")
    else:
        for word, each in config.classes.parameters.items():
            own = {key: getattr(each, key) for key in keys if getattr(each, key) is not None}
            if not own or free <= own.keys():
                continue
            if free & own.keys():
                what = f"is summed with `{min(free & own.keys())}` of the class `{word}`'s own"
                raise refused(name, what, "Give the class both, or neither")
            left = min(left, 1 - sum(own.get(key, getattr(config.filter, key)) for key in keys if key not in free))
    if left <= 0:
        raise refused(name, "is left nothing by the others of its sum", "Free them too")
    return left


def _stated(config: Config, classes: Mapping[str, str]) -> Config:
    """The same configuration with underlyings in these classes; a class without a table gets an empty one."""
    words = {*classes.values(), *config.classes.names.values()} - set(config.classes.parameters)
    tables: dict[str, Any] = {word: {} for word in words}
    return settings_over(config, {"classes": {"names": dict(classes), "parameters": tables}}, "classes")


def _by_class(config: Config, underlyings: Sequence[str], *, alone: bool) -> Config:
    """The same configuration with a table for each class that the underlyings are in, or for each underlying.

    A table of its own has what the class had; all other classes stay as they are.
    """
    classes = config.classes
    own = {name: classes.names.get(name, classes.default) for name in underlyings}
    kept = {word: table.model_dump(exclude_none=True) for word, table in classes.parameters.items()}
    every: dict[str, Any] = {word: {} for word in {*own.values(), *classes.names.values()} - set(kept)}
    if alone:
        every |= {name: kept.get(word, {}) for name, word in own.items()}
    return settings_over(config, {"classes": {"parameters": every}}, "classes")


def _places(config: Config, model: MarginModel, free: Sequence[Free], values: np.ndarray) -> tuple[Place, ...]:
    """Where each free number is found among the leaves of the model: the entries that move with it and equal it."""
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
    found: dict[int, list[tuple[int, int]]] = {}
    for number, (each, value) in enumerate(zip(free, values.tolist(), strict=True)):
        moved = _moved(each, value)
        changed = jax.tree.leaves(load_model(with_values(config, {each.path: moved})))
        hits = 0
        for leaf, (old, new) in enumerate(zip(before, map(np.asarray, changed), strict=True)):
            for entry in np.flatnonzero(old.ravel() != new.ravel()).tolist():
                if not np.allclose([old.ravel()[entry], new.ravel()[entry]], [value, moved], rtol=SAME, atol=0):
                    raise refused(each.key, "enters the model otherwise than as it is", "Leave it out")
                found.setdefault(leaf, []).append((entry, number))
                hits += 1
        if not hits:
            what = "changes no number of the model that a gradient could follow"
            if each.path[0] == "filter":
                what = f"{what} (`filter.kind` is `{config.filter.kind}`)"
            raise refused(each.key, what, "Leave it out of the free keys")
    return tuple(
        Place(leaf, np.array([entry for entry, _ in pairs]), np.array([number for _, number in pairs]))
        for leaf, pairs in sorted(found.items())
    )


def _moved(each: Free, value: float) -> float:
    """A value near by that is allowed too, whatever is constrained with it."""
    step = INSIDE / 4 * max(abs(value), INSIDE)
    return value - step if value - step > each.low else value + step
