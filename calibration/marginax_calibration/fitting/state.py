"""How to search, and where a search stands."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

Row = dict[str, Any]
"""A row of a search's path: step, start, on (fitted or checked), softness, the terms and the objective."""

COUNTS = (("steps", 1), ("starts", 1), ("check_every", 1), ("patience", 1), ("batch", 0), ("seed", 0))


@dataclass(frozen=True)
class Settings:
    """How to search. `batch` is in stretches of bars (0: all, which L-BFGS always takes), `rate` in the free scale, as
    is `spread`, the standard deviation of random starts; `softness` is the width of a breach at first and at the end.

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
        for name, least in COUNTS:
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"`{name}` is {value!r}; give a whole number, {least} or more")
            object.__setattr__(self, name, int(value))
        if not _number(self.rate) or self.rate <= 0:
            raise ValueError(f"`rate` is {self.rate!r}; give a number above 0")
        if not _number(self.spread) or self.spread < 0:
            raise ValueError(f"`spread` is {self.spread!r}; give a number that is not negative")
        ends = self.softness if isinstance(self.softness, tuple | list) else ()
        if len(ends) != 2 or not all(map(_number, ends)) or not 0 < ends[1] <= ends[0]:
            what = "give two numbers above 0, the wide one first, such as (0.08, 0.01)"
            raise ValueError(f"`softness` is {self.softness!r}; {what}")
        object.__setattr__(self, "softness", (float(ends[0]), float(ends[1])))


def _number(value: Any) -> bool:
    return isinstance(value, Real) and isfinite(value)


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
