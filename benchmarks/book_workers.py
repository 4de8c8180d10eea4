"""Processes instead of threads: one pinned to each core, running the pure path of the kernel on its share of the book.

They are started, and given their shares, by the first call on a workload, which is never timed: a timed call sends a
word to each and collects the answers. Nothing heavy is imported before a process is pinned: XLA counts its cores then.
"""

import os
import signal
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from marginax.bench.contenders import Answers
    from marginax.bench.workloads import Workload


def workers(load: "Workload", threads: int) -> "Answers":
    """The pure path, one process a core."""
    return _crew(threads).answer(load)


class _Crew:
    def __init__(self, threads: int) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise NotImplementedError("processes cannot be pinned on this system")
        spawn = get_context("spawn")
        self._pipes = []
        self._load: Workload | None = None
        for core in sorted(os.sched_getaffinity(0))[:threads]:
            mine, other = spawn.Pipe()
            spawn.Process(target=_serve, args=(other, core), daemon=True).start()
            other.close()  # so that a process whose parent is gone reads to the end, and ends
            self._pipes.append(mine)

    def answer(self, load: "Workload") -> "Answers":
        if load is not self._load:
            shares = np.linspace(0, load.starts[-1], len(self._pipes) + 1)
            bounds = np.searchsorted(load.starts, shares)
            for pipe, first, last in zip(self._pipes, bounds[:-1], bounds[1:], strict=True):
                pipe.send(_share(load, first, last))
            self._load = load
        for pipe in self._pipes:
            pipe.send(None)
        found = [pipe.recv() for pipe in self._pipes]
        var, shortfall = (np.concatenate(each) for each in zip(*found, strict=True))
        return var, shortfall


@cache
def _crew(threads: int) -> _Crew:
    return _Crew(threads)


def _share(load: "Workload", first: int, last: int) -> "Workload":
    begin, end = load.starts[first], load.starts[last]
    return load._replace(
        starts=load.starts[first : last + 1] - begin, ids=load.ids[begin:end], quantities=load.quantities[begin:end]
    )


def _serve(pipe: Connection, core: int) -> None:
    """Keep the share that is sent, and answer it whenever asked."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.sched_setaffinity(0, [core])
    os.environ["NPROC"] = "1"
    from marginax.bench.contenders import marginax_pure

    share = None
    while True:
        try:
            sent = pipe.recv()
        except EOFError:
            return
        if sent is not None:
            share = sent
        elif share is not None:
            pipe.send(marginax_pure(share, 1))
