"""What a fit found, and what it rests on."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.config import Config
from marginax.models import MarginModel, load_model
from marginax_calibration.fitting.intervals import Intervals
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.parameters import Tunable
from marginax_calibration.fitting.state import Settings, State

# Starts that end within so much of the best objective, and all numbers within so much of its in the free scale, agree.
SAME_OBJECTIVE, SAME_PLACE = 0.01, 0.5
# Numbers that a fit tells when it is printed.
SHOWN = 4


@dataclass(frozen=True)
class Ended:
    """How one start ended: its best objective where it is checked, when, its numbers, how far they are from the
    winner's, and how far the two were apart when they began."""

    objective: float
    step: int
    values: Float64[np.ndarray, " numbers"]
    distance: float
    began: float
    agrees: bool


@dataclass(frozen=True)
class Fit:
    """Fitted numbers of a model, and what they rest on.

    `base` is the configuration of the preset or installed model `name`. `path` has the terms of the objective, a row
    for each step, start and `on`: those on `fitted` stretches (a batch of them, breaches softened) are at the numbers
    before the step, whose gradient it follows, and those on `checked` ones (all, breaches as they are) at the numbers
    after it; step 0 is checked alone. `before` and `after` are the terms on all stretches, at the numbers of the
    configuration (moved off the edges of what is allowed) and at the fitted ones. `seconds` is what it took.
    """

    name: str
    base: Config
    tunable: Tunable
    values: Float64[np.ndarray, " numbers"]
    intervals: Intervals | None
    starts: tuple[Ended, ...]
    path: pl.DataFrame
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    weights: Weights
    settings: Settings
    reference: dict[str, float]
    data: dict[str, Any]
    seconds: dict[str, float]

    def __repr__(self) -> str:
        pairs = zip(self.tunable.free, self.values, strict=True)
        shown = [f"{each.key}={value:.4g}" for each, value in pairs]
        more = [f"{len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
        on = list(self.after)[-1]
        terms = f"objective on what was {on} {self.before[on]['objective']:.4g}, now {self.after[on]['objective']:.4g}"
        return f"Fit({self.name}: {', '.join(shown[:SHOWN] + more)}; {terms})"

    @property
    def config(self) -> Config:
        """The configuration with the fitted numbers."""
        return self.tunable.config_at(self.values.tolist())

    @property
    def model(self) -> MarginModel:
        """The model with the fitted numbers."""
        return load_model(self.config)

    @property
    def agreed(self) -> bool | None:
        """Whether all starts that began apart ended at one optimum; None where none did."""
        apart = [each.agrees for each in self.starts if each.began > SAME_PLACE]
        return all(apart) if apart else None

    @property
    def improved(self) -> bool:
        """Whether anything better was found than the numbers of the configuration."""
        best = int(np.argmin([each.objective for each in self.starts]))
        return best > 0 or self.starts[0].step > 0


def values_of(numbers: Tunable, free: np.ndarray) -> Float64[np.ndarray, " numbers"]:
    """The numbers themselves, of those in the free scale."""
    with jax.enable_x64(True):
        return np.asarray(numbers.space.allowed(jnp.asarray(free)))


def ended(numbers: Tunable, begin: np.ndarray, end: State, k: int, best: int) -> Ended:
    """How start `k` ended, where start `best` was best and they began at `begin` in the free scale."""
    distance, began = (float(np.abs(each[k] - each[best]).max()) for each in (end.best, begin))
    close = end.best_value[k] - end.best_value[best] <= SAME_OBJECTIVE and distance <= SAME_PLACE
    return Ended(
        float(end.best_value[k]), int(end.best_step[k]), values_of(numbers, end.best[k]), distance, began, bool(close)
    )
