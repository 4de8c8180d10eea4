"""A search as it runs: step, time left and the terms of each start, on a terminal; nothing where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from marginax_calibration.fitting.objective import TERMS
from marginax_calibration.fitting.state import Row, Settings, State


@contextmanager
def search_display(settings: Settings) -> Iterator[Callable[[State, list[Row]], None]]:
    """Yields the function that a search calls after each step with its state and the new rows of its path."""
    console = Console(stderr=True)
    latest: dict[tuple[int, str], Row] = {}
    began, first = monotonic(), None
    with Live(console=console, transient=True, refresh_per_second=2, auto_refresh=False) as live:

        def show(state: State, rows: list[Row]) -> None:
            nonlocal first
            first = state.step if first is None else first
            latest.update({(row["start"], row["on"]): row for row in rows})
            if console.is_terminal:
                live.update(_drawn(latest, state, settings, monotonic() - began, state.step - first), refresh=True)

        yield show


def _drawn(latest: dict[tuple[int, str], Row], state: State, settings: Settings, spent: float, done: int) -> Any:
    left = f", about {spent / done * (settings.steps - state.step):,.0f} s left" if done else ""
    head = Text(f"step {state.step} of at most {settings.steps}, {spent:,.0f} s{left}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("start", "on", "objective", *TERMS[:5]):
        table.add_column(title, justify="left" if title == "on" else "right")
    for (start, on), row in sorted(latest.items()):
        stopped = " (stopped)" if state.done[start] else ""
        numbers = [f"{row[name]:.4f}" for name in ("objective", *TERMS[:5])]
        table.add_row(f"{start + 1}{stopped}", on, *numbers)
    return Group(head, table)
