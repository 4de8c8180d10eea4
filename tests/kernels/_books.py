"""What the tests of the whole-book pass share: books of many shapes, and which path they take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest

from marginax_kernels import native_path

PATHS = ("pure", "native")


@contextmanager
def taking(path: str) -> Iterator[None]:
    """Run on that path; where there is no machine code its tests are skipped with the reason."""
    before = os.environ.get("MARGINAX_NATIVE")
    os.environ["MARGINAX_NATIVE"] = "0" if path == "pure" else "1"
    try:
        if path == "native" and not native_path().in_use:
            pytest.skip(native_path().reason)
        yield
    finally:
        os.environ.pop("MARGINAX_NATIVE")
        if before is not None:
            os.environ["MARGINAX_NATIVE"] = before


class Book(NamedTuple):
    """The operands of `book_tail`."""

    instrument_ids: np.ndarray
    quantities: np.ndarray
    cube: np.ndarray
    weights: np.ndarray | None
    amounts: np.ndarray


def ragged(
    rng: np.random.Generator,
    precision: np.dtype,
    *,
    accounts: int = 150,
    positions: int = 4,
    instruments: int = 12,
    scenarios: int = 300,
    weighted: bool = False,
) -> Book:
    """Accounts of any number of positions up to the width, none included; padding and zeros anywhere between them."""
    ids = rng.integers(0, instruments, (accounts, positions))
    ids[rng.random(ids.shape) < rng.random((accounts, 1))] = -1
    quantities = rng.normal(0, 30, ids.shape)
    quantities[rng.random(ids.shape) < 0.1] = 0
    cube = rng.standard_t(4, (instruments, scenarios)) * 10.0 ** rng.uniform(-1, 2, (instruments, 1))
    weights = rng.random(scenarios) ** 2
    amounts = np.abs(quantities).sum(axis=1) * 5 * rng.random(accounts)
    return Book(
        ids,
        quantities.astype(precision),
        cube.astype(precision),
        (weights / weights.sum()).astype(precision) if weighted else None,
        amounts.astype(precision),
    )


def assert_same_bits(got: tuple[np.ndarray | None, ...], wanted: tuple[np.ndarray | None, ...], name: str = "") -> None:
    """Every figure the same, NaN where the other is NaN."""
    for one, other in zip(got, wanted, strict=True):
        if one is None or other is None:
            assert one is other, name
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)
