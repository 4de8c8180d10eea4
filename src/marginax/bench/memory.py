"""How much memory a call adds at its peak to a process that already holds what the call is given."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): the peak becomes what is resident now


def added_mib(work: Callable[[], object]) -> float | None:
    """MiB that are resident at the peak of `work` beyond what was before it; None where Linux does not tell.

    What earlier work has freed is given back to the system first, or it would hide what this one needs.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text(RESET_PEAK)
        before = _status("VmRSS")
        work()
        return max(0.0, _status("VmHWM") - before)
    except (OSError, AttributeError, KeyError):  # not Linux, or not glibc
        return None


def _status(key: str) -> float:
    """A figure of this process in MiB."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines[key].split()[0]) / 1024
