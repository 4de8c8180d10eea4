"""A small recurrent network as a volatility filter: two speeds, times a correction that is bounded.

The network sees what a filter sees, returns and no other signal: how large the last return was in volatilities, which
way it went, how fast and slow variance stand, and both against the long run. Its weights come from a file of JSON that
`marginax study forecasts` writes. They were learnt on daily bars, and are refused on others.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.problems import BadInput, Problem
from marginax.scenarios.volatility import Shared, TwoSpeed, VolatilityModel
from marginax_kernels import gated_update

VERSION = 1
# What a return says, in the order of `return_features`.
FEATURES = ("return", "square", "speed", "level")
# A correction is at most a factor of three in variance: what two speeds miss by more is not theirs to learn.
REACH = math.log(3)
# In volatilities, and in logarithms of variances: a larger one teaches nothing that this does not.
MOST_RETURN, MOST_RATIO = 4.0, 3.0
# A return of a third of a volatility is small, and a smaller one no smaller.
SMALL_SQUARE = 0.1
_BASE = ("fast_half_life_days", "slow_half_life_days", "fast_share")


class NetworkWeights(Shared):
    """A gated recurrent unit and its readout: leaves that are the same for every factor."""

    inputs: Float[Any, "gates features"]
    carried: Float[Any, "gates hidden"]
    bias: Float[Any, " gates"]
    readout: Float[Any, " hidden"]
    offset: Float[Any, ""]

    def step(self, hidden: Float[Array, "hidden *batch"], features: Float[Array, "features *batch"]) -> Array:
        """What is carried, one bar on. Gradient: exact."""
        return gated_update(
            hidden,
            features,
            inputs=jnp.asarray(self.inputs),
            carried=jnp.asarray(self.carried),
            bias=jnp.asarray(self.bias),
        )

    def correction(self, hidden: Float[Array, "hidden *batch"]) -> Float[Array, "*batch"]:
        """The logarithm of what the base's variance is multiplied with, within log 3 of zero. Gradient: exact."""
        return REACH * jnp.tanh(jnp.tensordot(self.readout, hidden, 1) + self.offset)


class NetworkState(NamedTuple):
    """What the base and each member carry from bar to bar."""

    base: Float[Array, "speeds factors"]
    hidden: tuple[Float[Array, "hidden factors"], ...]


class NetworkFilter(VolatilityModel):
    """v = exp(mean of the members' corrections) x two speeds. A step costs two small products a factor and member; a
    missing return changes nothing.

    Over a horizon the logarithm of the correction fades by `fade` a bar to its mean, `usual`. Gradient: exact in
    returns (beyond the bounds of the features theirs is zero), weights and the base's numbers.
    """

    base: TwoSpeed
    members: tuple[NetworkWeights, ...]
    usual: Float[Any, ""]
    fade: Float[Any, ""]

    def begin(self, seed: Array, *, bars_per_day: float) -> NetworkState:
        """Both speeds at the seed, nothing carried. Raises BadInput for bars that are not daily."""
        if round(bars_per_day) != 1:
            what = f"the network was trained on daily bars and the history has {bars_per_day:g} a day"
            raise BadInput([Problem("configuration", "filter.kind", None, what, "Take daily bars, or another filter")])
        hidden = tuple(jnp.zeros((len(each.readout), *seed.shape), seed.dtype) for each in self.members)
        return NetworkState(self.base.begin(seed, bars_per_day=bars_per_day), hidden)

    def step(
        self, state: NetworkState, returns: Array, bars: Array, long_run: Array, *, bars_per_day: float
    ) -> NetworkState:
        """The base takes the return in, the network what it says."""
        before = self.base.variance(state.base, long_run, bars_per_day=bars_per_day)
        base = self.base.step(state.base, returns, bars, long_run, bars_per_day=bars_per_day)
        after = self.base.variance(base, long_run, bars_per_day=bars_per_day)
        features = return_features(returns, bars, before, base, after, long_run)
        missing = jnp.isnan(returns)
        hidden = tuple(
            jnp.where(missing, old, each.step(old, features))
            for each, old in zip(self.members, state.hidden, strict=True)
        )
        return NetworkState(base, hidden)

    def variance(self, state: NetworkState, long_run: Array, *, bars_per_day: float) -> Array:
        """The base's, corrected."""
        base = self.base.variance(state.base, long_run, bars_per_day=bars_per_day)
        return base * jnp.exp(self._correction(state))

    def forecast(self, state: NetworkState, long_run: Array, *, ahead: int, bars_per_day: float) -> Array:
        """The mean of base x exp(usual + fade^k (correction - usual)), k from 0 to `ahead` - 1."""
        base = self.base.variance(state.base, long_run, bars_per_day=bars_per_day)
        away = self._correction(state) - self.usual
        total, left = jnp.zeros_like(base), jnp.ones_like(base)
        for _ in range(ahead):
            total = total + jnp.exp(self.usual + left * away)
            left = left * self.fade
        return base * total / ahead

    def _correction(self, state: NetworkState) -> Array:
        each = [own.correction(hidden) for own, hidden in zip(self.members, state.hidden, strict=True)]
        return sum(each[1:], each[0]) / len(each)


def return_features(
    returns: Float[Array, "*batch"],
    bars: Float[Array, "*batch"],
    before: Float[Array, "*batch"],
    speeds: Float[Array, "speeds *batch"],
    after: Float[Array, "*batch"],
    long_run: Float[Array, "*batch"],
) -> Float[Array, "features *batch"]:
    """What a return over so many `bars` says, given the base's variance before and after it, the variances of both
    speeds after it, and the long run known before.

    Units: variances per bar; the features have none. A missing return counts as zero. Gradient: exact within the
    bounds of each feature, zero beyond.
    """
    known = ~jnp.isnan(returns) & (before > 0)
    scaled = jnp.where(known, returns, 0) / jnp.sqrt(jnp.where(known, bars * before, 1))
    scaled = jnp.clip(scaled, -MOST_RETURN, MOST_RETURN)
    level = _log_ratio(after, long_run)
    return jnp.stack([scaled, jnp.log(SMALL_SQUARE + scaled**2), _log_ratio(speeds[0], speeds[1]), level])


def network_filter(path: Path, *, bound: Any) -> NetworkFilter:
    """The network in a file, over its own two speeds; `bound` is that of the configuration.

    Raises BadInput that names the file and the key: no such file, no JSON, another version, arrays of another shape or
    with numbers that are none.
    """
    values = _read(path)
    if values.get("version") != VERSION or values.get("features") != list(FEATURES):
        what = f"is of version {values.get('version')} with features {values.get('features')}"
        remedy = f"Train it anew: version {VERSION} with features {list(FEATURES)} is read"
        raise BadInput([Problem(str(path), "version", None, what, remedy)])
    hidden, members = values.get("hidden"), values.get("members")
    if type(hidden) is not int or hidden < 1:
        raise BadInput([Problem(str(path), "hidden", None, f"{hidden} was given", "Give a whole number above zero")])
    if not isinstance(members, list) or not members or not all(isinstance(each, dict) for each in members):
        raise BadInput([Problem(str(path), "members", None, "is no list of weights", "Give a table for each member")])
    shapes = {
        "inputs": (3 * hidden, len(FEATURES)),
        "carried": (3 * hidden, hidden),
        "bias": (3 * hidden,),
        "readout": (hidden,),
        "offset": (),
    }
    weights = tuple(
        NetworkWeights(**{key: _array(path, f"members.{k}.{key}", each.get(key), shapes[key]) for key in shapes})
        for k, each in enumerate(members)
    )
    numbers = {key: _array(path, key, values.get(key), ()) for key in (*_BASE, "usual", "fade")}
    legal = {
        "fast_half_life_days": numbers["fast_half_life_days"] > 0,
        "slow_half_life_days": numbers["slow_half_life_days"] > 0,
        "fast_share": 0 <= numbers["fast_share"] <= 1,
        "fade": 0 <= numbers["fade"] <= 1,
    }
    for key in (key for key, good in legal.items() if not good):
        remedy = "Give a number above zero" if key in _BASE[:2] else "Give a number from 0 to 1"
        raise BadInput([Problem(str(path), key, None, f"{numbers[key]:g} was given", remedy)])
    base = TwoSpeed(**{key: numbers.pop(key) for key in _BASE}, bound=bound)
    return NetworkFilter(base, weights, **numbers)


def network_text(model: NetworkFilter) -> str:
    """The JSON that `network_filter` reads: every number in full."""

    def numbers(holder: Any, keys: Iterable[str]) -> dict[str, Any]:
        return {key: np.asarray(getattr(holder, key), float).tolist() for key in keys}

    values = {
        "version": VERSION,
        "features": list(FEATURES),
        "hidden": len(model.members[0].readout),
        **numbers(model.base, _BASE),
        **numbers(model, ("usual", "fade")),
        "members": [numbers(each, (field.name for field in fields(each))) for each in model.members],
    }
    return json.dumps(values, indent=1) + "\n"


def _log_ratio(one: Array, other: Array) -> Array:
    both = (one > 0) & (other > 0)
    ratio = jnp.log(jnp.where(both, one, 1)) - jnp.log(jnp.where(both, other, 1))
    return jnp.clip(ratio, -MOST_RATIO, MOST_RATIO)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        remedy = "Name the weights that `marginax study forecasts` wrote in `filter.network`"
        raise BadInput([Problem(str(path), None, None, what, remedy)]) from None
    if not isinstance(values, dict):
        raise BadInput([Problem(str(path), None, None, "is no table of weights", "Name a JSON object of arrays")])
    return values


def _array(path: Path, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        array = np.full(0, np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        what = "is missing" if value is None else f"has the shape {array.shape} or numbers that are none"
        raise BadInput([Problem(str(path), key, None, what, f"Give finite numbers in the shape {shape}")])
    return array
