"""Published cases, read from the folder that the environment variable MARGINAX_SHARED names (default: ../shared).

A folder that is absent is skipped with the reason; a folder that is there runs every case it holds, whatever their
number and names. Nothing of it is copied into the project: the files' licences differ.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / (os.environ.get("MARGINAX_SHARED") or "../shared") / "vectors"
PROPERTY = "vectors"
"""Name of the pytest user property that carries a case's folder into the summary."""


@dataclass(frozen=True)
class Case:
    """One published figure (or list of figures): where it stands, from what, and how it is calculated here.

    `tolerance` is absolute, in the unit of `expected`.
    """

    folder: str
    name: str
    inputs: Mapping[str, Any]
    expected: ArrayLike
    tolerance: float
    calculate: Callable[[], ArrayLike] = field(repr=False)

    def check(self) -> None:
        """Calculate and compare; a failure shows the whole case."""
        calculated = np.asarray(self.calculate(), float)
        wanted = np.asarray(self.expected, float)
        story = (
            f"\n{self.folder}: {self.name}\n  inputs: {dict(self.inputs)}\n  expected: {wanted.tolist()}"
            f"\n  calculated: {calculated.tolist()}\n  tolerance: {self.tolerance}"
        )
        assert calculated.shape == wanted.shape, story
        error = np.abs(calculated - wanted)
        assert np.all(error <= self.tolerance), f"{story}\n  largest error: {error.max()}"


def cases(folder: str, read: Callable[[Path], Iterable[Case]]) -> list[Any]:
    """The cases that `read` finds in a vector folder, as parameters of a test; one skip where it is absent."""
    path = VECTORS / folder
    if not path.is_dir():
        reason = f"there is no {path}; MARGINAX_SHARED names the folder that holds `vectors`"
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    found = [pytest.param(case, id=case.name) for case in read(path)]
    if not found:
        raise ValueError(f"{path} is there and holds no case; give its files, or remove the folder")
    return found


def unknown(key: str) -> Callable[[], ArrayLike]:
    """The calculation of a figure that nobody has written down how to calculate: it fails, and names the figure."""

    def fail() -> ArrayLike:
        raise AssertionError(f"no calculation is known for the figure {key!r}; add one to this test")

    return fail


def printed(value: float | int | list[Any]) -> float:
    """Half a unit of the last digit that is printed; of the longest number in a list, since zeros at the end are lost.

    The relative 1e-9 is for what a decimal number loses on its way into binary.
    """
    numbers = np.ravel(value).tolist()
    decimals = max(max(0, -int(Decimal(repr(number)).as_tuple().exponent)) for number in numbers)
    if all(float(number).is_integer() for number in numbers):
        decimals = 0
    return 0.5 * 10.0**-decimals * (1 + 1e-9)
