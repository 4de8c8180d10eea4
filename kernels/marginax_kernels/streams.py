"""Where tiles run: one stream per core on CPU, one per GPU of the host.

XLA's own threads gain little on small tiles; streams that each keep a core busy gain most of it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import jax

# Tiles handed out beyond those at work: enough that no stream waits, few enough that memory stays flat.
AHEAD = 4

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def stream_devices(streams: int) -> list[jax.Device]:
    """The device of each stream; `streams` 0 is one for each core of a CPU, or one for each GPU."""
    devices = jax.local_devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = streams or (cores if devices[0].platform == "cpu" else len(devices))
    return [devices[k % len(devices)] for k in range(count)]


def run_streams(
    work: Callable[[int, Item], Answer], items: Iterable[Item], streams: int
) -> Iterator[tuple[Item, Answer]]:
    """Run `work(stream, item)` over the items on that many threads, a bounded number ahead; answers in item order.

    An exception in one item ends the whole: work on a tile raises only for errors of the engine's own.
    """
    idle: SimpleQueue[int] = SimpleQueue()
    for stream in range(streams):
        idle.put(stream)

    def serve(item: Item) -> Answer:
        stream = idle.get()
        try:
            return work(stream, item)
        finally:
            idle.put(stream)

    pending: deque[tuple[Item, Future[Answer]]] = deque()
    with ThreadPoolExecutor(streams, thread_name_prefix="marginax") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(serve, item)))
                if len(pending) >= streams + AHEAD:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
