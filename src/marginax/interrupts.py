"""Ctrl-C, heard even where Python or a library would lose it.

The first interrupt raises KeyboardInterrupt in the main thread, as always. Raised inside a callback of the garbage
collector (JAX has one) Python drops it: it is then raised again, a moment later. Long loops ask at their steps, and
commands before they write, whether there was one. A second interrupt ends the process at once, even inside a compiler.
Nothing heavy is imported here.
"""

import os
import signal
import sys
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Any

INTERRUPTED = 130
TOLD = "marginax: interrupted"
# Long enough for a callback to end, too short to be noticed.
AGAIN_SECONDS = 0.05
# What starts a command may pass on the interrupt that the command has from the terminal: the two are one.
SAME_SECONDS = 0.3

_interrupted = False
_lost = False


def watch() -> None:
    """Take over Ctrl-C for a process that is a command; one that ignores it goes on doing so."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    try:
        signal.signal(signal.SIGINT, _interrupt)
    except ValueError:  # not the main thread, which alone hears signals
        return
    from threading import Thread

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _raise_again)
        sys.unraisablehook = _unraisable
    if os.name == "posix":
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        Thread(target=_end_at_the_second, args=(read,), daemon=True).start()


def leave_alone() -> None:
    """Hear no more of it: the command has ended, and only the process is to be taken down."""
    global _lost
    _lost = False
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, _ignore)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def was_interrupted() -> bool:
    """Whether there was an interrupt since `watch`."""
    return _interrupted


def stop_if_interrupted() -> None:
    """Raise KeyboardInterrupt where there was an interrupt that the work went on in spite of."""
    global _lost
    if _interrupted:
        _lost = False
        raise KeyboardInterrupt


def _interrupt(_: int, __: FrameType | None) -> None:
    global _interrupted
    if not _interrupted:
        _interrupted = True
        raise KeyboardInterrupt


def _raise_again(_: int, __: FrameType | None) -> None:
    global _lost
    if _lost:
        _lost = False
        raise KeyboardInterrupt


def _ignore(_: int, __: FrameType | None) -> None:
    return


def _unraisable(dropped: Any) -> None:
    """What Python calls with an exception that it drops."""
    global _lost
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
    elif signal.getsignal(signal.SIGINT) is _interrupt:
        _lost = True
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def _end_at_the_second(pipe: int) -> None:
    """A thread of its own reads of signals as they arrive, whatever the main thread is busy with."""
    first = None
    while True:
        for number in os.read(pipe, 64):
            if number != signal.SIGINT:
                continue
            first = monotonic() if first is None else first
            if monotonic() - first > SAME_SECONDS:
                cursor = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides it
                with suppress(OSError):
                    os.write(2, f"{cursor}{TOLD} at once\n".encode())
                os._exit(INTERRUPTED)
