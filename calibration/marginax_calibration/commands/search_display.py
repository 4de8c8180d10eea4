"""A search as it runs, on standard error: on a terminal step, time left and the terms of each start; elsewhere a line
for each check."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from marginax_calibration.fitting.objective import TERMS
from marginax_calibration.fitting.state import Row, Settings, State

SHOWN = TERMS[:5]

Show = Callable[[State, list[Row]], None]


@contextmanager
def search_display(settings: Settings, before: Sequence[Row] = ()) -> Iterator[Show]:
    """Yields the function that a search calls after each step with its state and the new rows of its path.

    `before` are the rows of a search that goes on.
    """
    console = Console(stderr=True)
    head = _Head(settings)
    if not console.is_terminal:
        yield _lines(head, before)
        return
    latest = {(row["start"], row["on"]): row for row in before}
    with Live(console=console, transient=True, refresh_per_second=2, auto_refresh=False) as live:

        def show(state: State, rows: list[Row]) -> None:
            latest.update({(row["start"], row["on"]): row for row in rows})
            live.update(_drawn(latest, state, head.of(state)), refresh=True)

        yield show


class _Head:
    """Step and time left, from the steps that this run has seen."""

    def __init__(self, settings: Settings) -> None:
        self._steps, self._began, self._first = settings.steps, monotonic(), -1

    def of(self, state: State) -> str:
        self._first = state.step if self._first < 0 else self._first
        spent, done = monotonic() - self._began, state.step - self._first
        left = f", about {spent / done * (self._steps - state.step):,.0f} s left" if done else ""
        return f"step {state.step} of at most {self._steps}, {spent:,.0f} s{left}"


def _lines(head: _Head, before: Sequence[Row]) -> Show:
    checked = [row for row in before if row["on"] == "checked"]

    def show(state: State, rows: list[Row]) -> None:
        told, new = head.of(state), [row for row in rows if row["on"] == "checked"]
        checked.extend(new)
        if new:
            best = min(checked, key=lambda row: row["objective"])
            terms = ", ".join(f"{name} {best[name]:.4g}" for name in SHOWN)
            typer.echo(f"{told}: best objective {best['objective']:.4f} (start {best['start'] + 1}: {terms})", err=True)

    return show


def _drawn(latest: dict[tuple[int, str], Row], state: State, head: str) -> Any:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("start", "on", "objective", *SHOWN):
        table.add_column(title, justify="left" if title == "on" else "right")
    for (start, on), row in sorted(latest.items()):
        stopped = " (stopped)" if state.done[start] else ""
        numbers = [f"{row[name]:.4f}" for name in ("objective", *SHOWN)]
        table.add_row(f"{start + 1}{stopped}", on, *numbers)
    return Group(Text(head), table)
