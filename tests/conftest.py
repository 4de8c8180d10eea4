"""What all tests share: one hypothesis profile, both precisions, a seeded generator, and the tally of vectors.

Helpers are imported by their folder below `tests/` (`from reference.tail import ...`, `from goldens._vectors import
...`): `pythonpath` of pyproject.toml names it.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from goldens._vectors import PROPERTY, Case

# The first example of a test pays for compilation, so there is no deadline; the same examples are drawn every time,
# so that no test tosses a coin; and none fails because the machine is busy, which is what `too_slow` would tell.
# `precision` and `double` hold a switch and no state, so examples may share them.
settings.register_profile(
    "marginax",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("marginax")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run where they are asked for, and are counted where they are not."""
    if "long" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with `pytest -m long`"))


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go() -> Iterator[None]:
    """Each takes a dozen memory maps, and a Linux process has 65,530: all of the suite's are more than one may keep."""
    yield
    jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def precision(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """A test that asks for this runs twice: in float32, and in float64 with jax's 64-bit types enabled."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture
def double() -> Iterator[None]:
    """64-bit types for the whole test: where a finite difference or a printed digit asks for them."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run and in every test."""
    return np.random.default_rng(20260101)


@pytest.fixture
def agree(request: pytest.FixtureRequest, double: None) -> Callable[[Case], None]:
    """Calculate a case of a vector folder and compare it; the run is counted in the summary."""

    def compare(case: Case) -> None:
        request.node.user_properties.append((PROPERTY, case.folder))
        case.check()

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases of each vector folder ran, also where workers ran them."""
    ran: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            ran.update(folder for name, folder in report.user_properties if name == PROPERTY)
    for folder, count in sorted(ran.items()):
        terminalreporter.write_line(f"vectors/{folder}: {count} cases run")
