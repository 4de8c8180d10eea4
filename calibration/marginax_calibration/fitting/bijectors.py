"""From numbers that an optimiser may move anywhere to numbers that a configuration allows.

Every map is smooth, one to one and onto the open set of what is allowed. The transforms are those of `numpyro`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from numpyro.distributions import biject_to, constraints

Kind = Literal["interval", "ordered", "shares", "correlation"]
# A start on the edge of what is allowed is moved inside by this share of the range: the edge is infinitely far away.
INSIDE = 1e-3
# On the edge is what is no further from it than this share of the range.
EDGE = 1e-9


@dataclass(frozen=True)
class Block:
    """Numbers that share a constraint, by their places.

    `interval`: each between `low` and `high` (either may be infinite). `ordered`: positive and rising. `shares`:
    positive, with a sum below `high`. `correlation`: the entries below a correlation matrix's diagonal, row by row.
    """

    places: tuple[int, ...]
    kind: Kind = "interval"
    low: float = -np.inf
    high: float = np.inf

    @cached_property
    def _map(self) -> Any:
        if self.kind == "ordered":
            return biject_to(constraints.positive_ordered_vector)
        if self.kind == "shares":
            return biject_to(constraints.simplex)
        if self.kind == "correlation":
            return biject_to(constraints.corr_matrix)
        return biject_to(_interval(self.low, self.high))

    def allowed(self, free: Float[Array, "*batch block"]) -> Float[Array, "*batch block"]:
        """What is allowed, of anything."""
        found = self._map(free)
        if self.kind == "shares":
            return self.high * found[..., :-1]
        if self.kind == "correlation":
            rows, columns = np.tril_indices(_size(len(self.places)), -1)
            return found[..., rows, columns]
        return found

    def free(self, allowed: Float[Array, " block"]) -> Float[Array, " block"]:
        """The way back. An edge is taken for a point near it."""
        if self.kind == "shares":
            least = jnp.where(allowed > EDGE * self.high, allowed, INSIDE * self.high) / self.high
            most = jnp.where(jnp.sum(least) < 1 - EDGE, least, least * (1 - INSIDE) / jnp.sum(least))
            return self._map.inv(jnp.append(most, 1 - jnp.sum(most)))
        if self.kind == "correlation":
            size = _size(len(self.places))
            rows, columns = np.tril_indices(size, -1)
            lower = jnp.eye(size).at[rows, columns].set(allowed)
            return self._map.inv(lower + jnp.tril(lower, -1).T)
        if self.kind == "ordered":
            least = jnp.where(allowed > 0, allowed, INSIDE)
            rising = jnp.where(least[1:] > least[:-1] * (1 + EDGE), least[1:], (1 + INSIDE) * least[:-1])
            return self._map.inv(jnp.append(least[:1], rising))
        return self._map.inv(self.inside(allowed))

    def inside(self, allowed: Float[Array, " block"]) -> Float[Array, " block"]:
        """The same, moved off the edges of an interval."""
        bounded = np.isfinite(self.low) and np.isfinite(self.high)
        size = self.high - self.low if bounded else 1.0
        up = jnp.where(allowed > self.low + EDGE * size, allowed, self.low + INSIDE * size)
        return jnp.where(up < self.high - EDGE * size, up, self.high - INSIDE * size)


@dataclass(frozen=True)
class Space:
    """All free numbers, each in one block."""

    blocks: tuple[Block, ...]

    def allowed(self, free: Float[Array, "*batch numbers"]) -> Float[Array, "*batch numbers"]:
        """What is allowed, of anything. Gradient: exact."""
        return self._each(lambda block, numbers: block.allowed(numbers), free)

    def free(self, allowed: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
        """The way back, in float64."""
        with jax.enable_x64(True):
            return np.asarray(self._each(lambda block, numbers: block.free(numbers), jnp.asarray(allowed)))

    def inside(self, allowed: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, " numbers"]:
        """The same, moved off the edges of what is allowed."""
        with jax.enable_x64(True):
            return np.asarray(self.allowed(jnp.asarray(self.free(allowed))))

    def slopes(self, free: Float64[np.ndarray, " numbers"]) -> Float64[np.ndarray, "numbers numbers"]:
        """What is allowed by what is free: row i, column j is the slope of i in j."""
        with jax.enable_x64(True):
            return np.asarray(jax.jacobian(self.allowed)(jnp.asarray(free, float)))

    def _each(self, way: Callable[[Block, Array], Array], numbers: Array) -> Array:
        order = np.argsort(np.concatenate([np.array(block.places, int) for block in self.blocks]))
        parts = [way(block, numbers[..., np.array(block.places)]) for block in self.blocks]
        return jnp.concatenate(parts, axis=-1)[..., order]


def blocks_of(bounds: Sequence[tuple[float, float]], joint: Sequence[Block] = ()) -> tuple[Block, ...]:
    """Blocks of numbers with these bounds, of which some have a constraint in common."""
    taken = {place for block in joint for place in block.places}
    return (*joint, *(Block((k,), "interval", *bounds[k]) for k in range(len(bounds)) if k not in taken))


def _interval(low: float, high: float) -> Any:
    if np.isfinite(low) and np.isfinite(high):
        return constraints.interval(low, high)
    if np.isfinite(low):
        return constraints.greater_than(low)
    return constraints.less_than(high) if np.isfinite(high) else constraints.real


def _size(entries: int) -> int:
    """Rows of a correlation matrix with so many entries below its diagonal."""
    return round((1 + np.sqrt(1 + 8 * entries)) / 2)
