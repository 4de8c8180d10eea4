"""Who answers a workload: the whole-book kernel, its pure path, and whatever a module offers beside them.

A module of rivals has a mapping `CONTENDERS` from names to callables `(workload, threads) -> (var,
expected_shortfall)`, one number an account each, of the workload's own scenarios, weights and tail. `threads` is how
many cores the process may use. One that cannot answer a workload raises NotImplementedError with the reason, and is
left out of it. Nothing is timed before `check` has found the answers equal.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

import numpy as np
from jaxtyping import Float

from marginax.bench.workloads import Workload
from marginax.problems import BadInput, Problem
from marginax_kernels import native_path, ragged_book_tail

Answers = tuple[np.ndarray, np.ndarray]
Contender = Callable[[Workload, int], Answers]

OURS, PURE = "marginax", "marginax_pure"
NAME = "CONTENDERS"
ROUNDING = 2.0**-24
# Roundings of a sum walk at random. One is a third of the largest in the mean square, and partial sums that grow to the
# gross are a third of it: of n terms the walk ends within a third of the root of n, two of them apart by 0.47 of it.
# What is allowed is four times that, and the gross is that of the worst scenario, beyond any edge.
FARTHEST = 2


def marginax(load: Workload, threads: int) -> Answers:
    """The kernel as a user calls it; on a GPU `threads` says nothing."""
    import jax

    streams = threads if jax.default_backend() == "cpu" else 0
    got = ragged_book_tail(
        load.starts, load.ids, load.quantities, load.cube, load.weights, tail=load.tail, streams=streams
    )
    return got.var, got.expected_shortfall


def marginax_pure(load: Workload, threads: int) -> Answers:
    """The same function in pure JAX."""
    with machine_code(False):
        return marginax(load, threads)


@contextmanager
def machine_code(wanted: bool) -> Iterator[None]:
    """Allow or forbid machine code for a while."""
    before = os.environ.get("MARGINAX_NATIVE")
    os.environ["MARGINAX_NATIVE"] = "1" if wanted else "0"
    try:
        yield
    finally:
        os.environ.pop("MARGINAX_NATIVE")
        if before is not None:
            os.environ["MARGINAX_NATIVE"] = before


def ours() -> dict[str, Contender]:
    """The kernel, and its pure path where that is another."""
    import jax

    native = jax.default_backend() == "cpu" and native_path().in_use
    return {OURS: marginax, PURE: marginax_pure} if native else {OURS: marginax}


def rivals(module: str) -> dict[str, Contender]:
    """The contenders that a module offers. Raises BadInput where it cannot be imported or offers none."""
    if "" not in sys.path:  # as `python -m` does
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), NAME, None)
    except ImportError as error:
        remedy = (
            "Name a module that Python finds from this folder, and install what it imports; those of "
            "`benchmarks.book_rivals` come with: pip install 'marginax[bench]'"
        )
        raise _refused(module, f"cannot be imported: {error}", remedy) from error
    remedy = f"Give it {NAME} = {{name: callable(workload, threads) -> (var, expected_shortfall)}}"
    if not isinstance(found, Mapping) or not found or not all(callable(each) for each in found.values()):
        raise _refused(module, f"offers no mapping `{NAME}` of names to callables", remedy)
    taken = {OURS, PURE} & set(found)
    if taken:
        raise _refused(module, f"calls a contender `{min(taken)}`, as the kernel itself is called", "Give it another")
    return dict(found)


def check(load: Workload, contenders: Mapping[str, Contender], threads: int) -> dict[str, str]:
    """Compare all answers with the kernel's; returns who cannot answer this workload, and why.

    Raises BadInput for answers that differ by more than `tolerance`, of another shape, or none at all.
    """
    wanted, allowed = marginax(load, threads), tolerance(load)
    left_out = {}
    for name, work in contenders.items():
        try:
            got = work(load, threads)
        except NotImplementedError as reason:
            left_out[name] = str(reason) or "not for this workload"
            continue
        except Exception as error:
            what = f"fails on `{load.name}`: {type(error).__name__}: {error}"
            raise _refused(name, what, "Raise NotImplementedError for what it does not answer") from error
        _compare(name, load, got, wanted, allowed)
    return left_out


def tolerance(load: Workload) -> Float[np.ndarray, " accounts"]:
    """By how much two float32 answers of an account may differ, in currency.

    Value at risk and expected shortfall move by no more than the losses do. A loss is a sum of as many products as
    there are positions; expected shortfall sums what is beyond value at risk over the tail's scenarios again.
    """
    largest = np.abs(load.cube).max(axis=1)
    gross = np.zeros(load.accounts)
    held = np.diff(load.starts)
    np.add.at(gross, np.repeat(np.arange(load.accounts), held), np.abs(load.quantities) * largest[load.ids])
    return FARTHEST * np.sqrt(held + tail_scenarios(load)) * ROUNDING * gross


def tail_scenarios(load: Workload) -> int:
    """The most scenarios that a tail can need: those of least weight, with the slack of value at risk."""
    mass = load.tail * (1 - 1e-5)
    if load.weights is None:
        return int(np.ceil(mass * load.scenarios))
    return 1 + int(np.searchsorted(np.cumsum(np.sort(load.weights.astype(float))), mass))


def _compare(name: str, load: Workload, got: object, wanted: Answers, allowed: np.ndarray) -> None:
    same = "Give both as (var, expected_shortfall), one number an account"
    if not isinstance(got, tuple) or len(got) != len(wanted):
        raise _refused(name, f"answers `{load.name}` with no pair of arrays", same)
    for what, one, other in zip(("value at risk", "expected shortfall"), got, wanted, strict=True):
        numbers = np.asarray(one, float)
        if numbers.shape != other.shape:
            raise _refused(name, f"answers `{load.name}` with shape {numbers.shape} for {load.accounts} accounts", same)
        apart = np.abs(numbers - other)
        wrong = ~(apart <= allowed)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            told = (
                f"is not equal on `{load.name}`: its {what} of account {first} is {numbers[first]:.9g}, the kernel's "
                f"{other[first]:.9g}, and float32 rounding explains {allowed[first]:.2g}; {wrong.sum():,} of "
                f"{load.accounts:,} accounts differ, and no clock was started"
            )
            raise _refused(name, told, "Equal answers first: the same scenarios, weights, tail and precision")


def _refused(name: str, what: str, remedy: str) -> BadInput:
    return BadInput([Problem(name, None, None, what, remedy)])
