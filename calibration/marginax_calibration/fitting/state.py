"""How to search, and where a search stands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

Row = dict[str, Any]
"""A row of a search's path: step, start, on (fitted or checked), softness, the terms and the objective."""


@dataclass(frozen=True)
class Settings:
    """How to search. `batch` is in stretches of bars (0: all, which L-BFGS always takes), `rate` in the free scale.

    Raises ValueError for what is out of range.
    """

    method: str = "adam"
    steps: int = 120
    batch: int = 8
    rate: float = 0.06
    starts: int = 3
    spread: float = 0.7
    check_every: int = 10
    patience: int = 4
    softness: tuple[float, float] = (0.08, 0.01)
    seed: int = 7

    def __post_init__(self) -> None:
        if self.method not in ("adam", "lbfgs"):
            raise ValueError(f"`{self.method}` is no method of search; say adam or lbfgs")
        for name, least in (("steps", 1), ("starts", 1), ("check_every", 1), ("patience", 1), ("batch", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give {least} or more")


class State(NamedTuple):
    """Where a search stands after `step` steps; leaves by start."""

    step: int
    free: Float64[np.ndarray, "starts numbers"]
    optimiser: Any
    best: Float64[np.ndarray, "starts numbers"]
    best_value: Float64[np.ndarray, " starts"]
    best_step: Float64[np.ndarray, " starts"]
    done: Bool[np.ndarray, " starts"]


class NotFinite(Exception):
    """The objective went to no number; `state` is that before."""

    def __init__(self, message: str, state: State | None = None) -> None:
        super().__init__(message)
        self.state = state


Report = Callable[[State, list[Row]], None]
"""Called after each step with the state and the new rows of the path."""
