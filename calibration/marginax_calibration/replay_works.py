"""How a replay is cut into compiled calls: stretches of bars, and the portfolios whose windows begin together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from marginax.known import KnownHistory
from marginax.models import MarginModel
from marginax_calibration.lives import Life
from marginax_calibration.walk_forward import Schedule

# Bars of one compiled call: enough that a call costs little beside its work, few enough that padding the last does too.
CHUNK = 64


@dataclass(frozen=True)
class Work:
    """One compiled call: portfolios on some bars of a history that begins at `first`.

    `number` is that of the refit, or of the draws that hold.
    """

    members: tuple[int, ...]
    bars: np.ndarray
    first: int
    number: int = 0


@dataclass(frozen=True)
class Works:
    """The calls of a replay, given the life of each portfolio; `redraw` is how many bars a draw holds (0: all)."""

    lives: tuple[Life, ...]
    schedule: Schedule
    lookback: int
    redraw: int

    @property
    def origin(self) -> int:
        """The bar at which the first portfolio has its least window; draws are counted from it."""
        return min(life.anchor for life in self.lives if life.rows)

    def drawn_at(self, number: int, last: int) -> int:
        """The bar of a draw: the last one unless laws are fitted."""
        return self.origin + number * self.redraw - self.schedule.gap if self.redraw else last

    def refits(self, *, most: int = 1) -> list[Work]:
        """Calls for the refits of each group of portfolios that begin together, `most` of them in each."""
        groups: dict[tuple[int, int], list[int]] = {}
        for k, life in enumerate(self.lives):
            if life.rows:
                groups.setdefault((life.start, life.anchor), []).append(k)
        works = []
        for (start, anchor), members in groups.items():
            bars = self.schedule.refits(anchor, max(self.lives[k].end for k in members)) - self.schedule.gap
            pieces = [bars[k : k + most] for k in range(0, len(bars), most)]
            works += [Work(tuple(members), piece, start, number) for number, piece in enumerate(pieces)]
        return works

    def daily(self) -> list[Work]:
        """Calls of CHUNK bars; portfolios whose windows are full share them, younger ones go by when they began."""
        begins = [life.begin for life in self.lives if life.rows]
        ends = [life.end for life in self.lives if life.rows]
        edges = set(range(min(begins), max(ends), CHUNK)) | {max(ends)}
        if self.redraw:
            edges |= {bar for bar in range(self.origin, max(ends), self.redraw) if bar > min(begins)}
        works = []
        for low, high in pairwise(sorted(edges)):
            groups: dict[int, list[int]] = {}
            for k, life in enumerate(self.lives):
                if life.rows and life.begin < high and life.end > low:
                    full = life.start <= low - self.lookback
                    groups.setdefault(0 if full else life.start, []).append(k)
            draws = (low - self.origin) // self.redraw if self.redraw else 0
            for first, members in groups.items():
                works.append(Work(tuple(members), np.arange(low, high), first, draws))
        return works


def works_of(model: MarginModel, known: KnownHistory, lives: Sequence[Life]) -> Works:
    """The calls of a model; one whose laws are fitted draws anew at its refits, or once a year."""
    grid = known.history.grid
    schedule = Schedule.of(model.settings, grid)
    redraw = (schedule.every or max(1, round(grid.bars_per_year))) if model.draws_from_history else 0
    return Works(tuple(lives), schedule, model.lookback(known), redraw)
