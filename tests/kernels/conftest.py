"""What the tests of the tail share: all its figures from one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import pytest

from marginax_kernels import expected_shortfall, expected_shortfall_error, first_worst, tail_weights, value_at_risk


class Figures(NamedTuple):
    """The kernels' answers for the same losses, weights and tail."""

    var: jax.Array
    shortfall: jax.Array
    shares: jax.Array
    error: jax.Array
    worst: jax.Array


@pytest.fixture(scope="session")
def measure() -> Callable[..., Figures]:
    """measure(losses, weights, tail=...): compiled once for each shape, precision and tail."""

    @partial(jax.jit, static_argnames="tail")
    def figures(losses: jax.Array, weights: jax.Array, *, tail: float) -> Figures:
        return Figures(
            var=value_at_risk(losses, weights, tail=tail),
            shortfall=expected_shortfall(losses, weights, tail=tail),
            shares=tail_weights(losses, weights, tail=tail),
            error=expected_shortfall_error(losses, weights, tail=tail),
            worst=first_worst(losses),
        )

    return figures
