"""A small recurrent network, shared by all underlyings, that corrects a baseline's variance; trained walk-forward.

It is the unit of `marginax.scenarios.network_filter`: what it gives is exp(bounded correction) x baseline. Aimed at is
QLIKE on the next day; the last part of what is known at a refit is held out, and the weights that do best there are
kept. float32, and the same numbers for the same seed on the same machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Float64, Int64

from marginax.scenarios.network_filter import NetworkWeights
from marginax_calibration.forecasts.rivals import Forecast, spans

# Sequences that are learnt from: so many days to warm up on, and so many whose score counts.
WARM, COUNTED = 32, 96
# Sequences come in multiples of so many: each number of them is compiled for.
ROOM = 64
Members = tuple[NetworkWeights, ...]


@dataclass(frozen=True)
class Training:
    """Hidden numbers, how fast and how long it learns, the part of days that is held out, and how many are averaged."""

    hidden: int = 12
    rate: float = 5e-3
    decay: float = 1e-2
    most_steps: int = 300
    patience: int = 40
    held_out: float = 0.2
    members: int = 3
    seed: int = 7


def initial_weights(key: Array, features: int, hidden: int) -> NetworkWeights:
    """Uniform within one over the root of `hidden`; a readout of zero, so that training begins at the baseline."""
    wide = 1 / np.sqrt(hidden)
    shapes = {"inputs": (3 * hidden, features), "carried": (3 * hidden, hidden), "bias": (3 * hidden,)}
    drawn = {
        name: jax.random.uniform(each, shape, jnp.float32, minval=-wide, maxval=wide)
        for each, (name, shape) in zip(jax.random.split(key, 3), shapes.items(), strict=True)
    }
    return NetworkWeights(**drawn, readout=jnp.zeros(hidden, jnp.float32), offset=jnp.zeros((), jnp.float32))


def corrections(weights: NetworkWeights, features: Float[Array, "days series columns"]) -> Float[Array, "days series"]:
    """The logarithm of the correction after each day. Gradient: exact."""

    def step(hidden: Array, row: Array) -> tuple[Array, Array]:
        after = weights.step(hidden, row.T)
        return after, weights.correction(after)

    none = jnp.zeros((weights.readout.shape[0], features.shape[1]), features.dtype)
    return lax.scan(step, none, features)[1]


def train(
    features: Float64[np.ndarray, "days underlyings columns"],
    base: Float64[np.ndarray, "days underlyings"],
    target: Float64[np.ndarray, "days underlyings"],
    *,
    end: int,
    settings: Training,
) -> Members:
    """The members' weights from rows before `end`, whose targets are known at the close of day `end`; NumPy, float32.

    `features` without NaN; rows whose base or target is missing are not scored.
    """
    good = np.isfinite(base) & np.isfinite(target) & (base > 0)
    good[end:] = False
    ratio = np.where(good, target, 0) / np.where(good, base, 1)
    rows, counted = _sequences(len(base))
    inside = np.clip(rows, 0, len(base) - 1)
    split = round(end * (1 - settings.held_out))
    scored = good[inside] & counted[..., None]
    held = (inside >= split)[..., None]
    of, series = np.nonzero(scored.any(1))
    room = -len(of) % ROOM

    def chosen(values: np.ndarray) -> Array:
        cut = np.moveaxis(np.moveaxis(values, 1, 2)[of, series], 0, 1)
        padding = [(0, 0), (0, room), *((0, 0),) * (cut.ndim - 2)]
        return jnp.asarray(np.pad(cut, padding), jnp.float32)

    sample = (chosen(features[inside]), chosen(ratio[inside]), chosen(scored & ~held), chosen(scored & held))
    keys = jax.random.split(jax.random.key(settings.seed), settings.members)
    # Seed and number are in the keys: nothing is compiled anew for others.
    learner = replace(settings, seed=0, members=1)
    return tuple(jax.tree.map(np.asarray, _fit(key, *sample, settings=learner)) for key in keys)


def walk_forward(
    features: Sequence[Float64[np.ndarray, "days underlyings columns"]],
    base: Sequence[Forecast],
    target: Sequence[Float64[np.ndarray, "days underlyings"]],
    refits: Int64[np.ndarray, " refits"],
    settings: Training,
) -> tuple[Forecast, list[Members]]:
    """Forecasts strictly out of sample, and the members of each refit.

    `features`, `base` and `target` are those of each refit, over all days. The forecast is the base times the
    exponential of the members' mean correction.
    """
    found = np.full(base[0].shape, np.nan)
    networks = []
    for k, (begin, rows) in enumerate(spans(refits, len(found))):
        members = train(features[k], base[k], target[k], end=begin, settings=settings)
        found[rows] = (base[k] * np.exp(mean_correction(members, features[k])))[rows]
        networks.append(members)
    return found, networks


def mean_correction(
    members: Members, features: Float64[np.ndarray, "days underlyings columns"]
) -> Float64[np.ndarray, "days underlyings"]:
    """The mean over members of the logarithm of the correction after each day."""
    seen = jnp.asarray(features, jnp.float32)
    return np.mean([np.asarray(_corrections(each, seen), float) for each in members], axis=0)


def course(
    correction: Float64[np.ndarray, "days underlyings"], known: Bool[np.ndarray, "days underlyings"]
) -> tuple[float, float]:
    """The mean of a correction, and how much of what it is away from it is left a day later, by least squares.

    The second is within 0 and 1. Zero and zero where nothing is known.
    """
    both = known[1:] & known[:-1]
    usual = float(correction[known].mean()) if known.any() else 0.0
    before, after = (correction[:-1] - usual)[both], (correction[1:] - usual)[both]
    return usual, float(np.clip((before * after).sum() / max((before**2).sum(), 1e-12), 0, 1))


_corrections = jax.jit(corrections)


@partial(jax.jit, static_argnames="settings")
def _fit(
    key: Array, features: Array, ratio: Array, learnt: Array, held: Array, *, settings: Training
) -> NetworkWeights:
    """Adam on the mean score until that of what is held out has not fallen for `patience` steps; the best weights."""
    learner = optax.adamw(settings.rate, weight_decay=settings.decay)

    def scores(weights: NetworkWeights) -> tuple[Array, Array]:
        moves = corrections(weights, features)
        score = moves + ratio * jnp.exp(-moves)
        learning, holding = (jnp.sum(score * mask) / jnp.maximum(jnp.sum(mask), 1) for mask in (learnt, held))
        return learning, holding

    def going(carry: tuple[Any, ...]) -> Array:
        count, since, *_ = carry
        return (count < settings.most_steps) & (since < settings.patience)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        count, since, least, best, now, memory = carry
        (_, score), slope = jax.value_and_grad(scores, has_aux=True)(now)
        better = score < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        move, memory = learner.update(slope, memory, now)
        since = jnp.where(better, 0, since + 1)
        return count + 1, since, jnp.minimum(score, least), best, optax.apply_updates(now, move), memory

    begin = initial_weights(key, features.shape[-1], settings.hidden)
    none = jnp.asarray(0)
    start = (none, none, jnp.asarray(jnp.inf, jnp.float32), begin, begin, learner.init(begin))
    return lax.while_loop(going, step, start)[3]


def _sequences(days: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each sequence, and which of them count."""
    rows = np.arange(-WARM, days - WARM, COUNTED)[:, None] + np.arange(WARM + COUNTED)
    return rows, (np.arange(WARM + COUNTED) >= WARM) & (rows < days)
