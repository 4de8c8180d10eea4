"""The whole benchmark: what is asked for, checked, and one process after the other that measures it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from marginax.bench.machine import context, cores
from marginax.problems import BadInput, Problem, suggestion

# Accounts: a venue in the morning, a middling one, and one that makes memory and streams show.
SIZES = {"S": 1_024, "M": 16_384, "L": 131_072}
# A small run is a look, and to be over soon; medians of five bear a disturbed round or two.
FEW_ROUNDS, ROUNDS = 3, 5
# A process that hears Ctrl-C dies of it, without a word: the command speaks for all.
PROGRAM = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); from marginax.bench.station import main; main()"
# However quick a program was to compile, and however small it is.
KEPT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
UNITS = {
    "seconds": "median of the rounds, wall clock, warm; least_ and greatest_ are those of single rounds",
    "cpu_seconds": "median; of all threads of the measuring process, not of processes that a contender keeps",
    "microseconds_per_account": "seconds / accounts x 1,000,000",
    "accounts_per_second": "accounts / seconds",
    "scenario_positions_per_second": "positions x scenarios / seconds",
    "share_of_product_rate": "2 x positions x scenarios / seconds / product_flops_per_second",
    "share_of_copy_bandwidth": "(inputs read once + answers written once) / seconds / copy_bytes_per_second",
    "times_as_long_as_marginax": "median over rounds of seconds / seconds of marginax in the same round",
    "copy_bytes_per_second": "bytes read and written by a large copy on all threads, best of five",
    "product_flops_per_second": "float32 operations of a large matrix product on all threads, best of five",
    "input_mib": "MiB of positions, cube and weights",
    "added_mib": "MiB resident at the peak of a warm call of marginax beyond those before it (Linux: VmHWM, reset)",
    "cold": "seconds of a fresh process with empty caches, from its start to the first answer of the first workload; "
    "import_, machine_code_ and first_call_ are parts of them",
    "peak_mib": "MiB, ru_maxrss of that fresh process, the making of its workload included",
}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What is measured: how many accounts, which workloads, against whom, on how many cores, in how many rounds."""

    size: str
    accounts: int
    workloads: tuple[str, ...]
    rivals: str | None
    threads: int
    rounds: int


def planned(
    *,
    size: str = "S",
    accounts: int | None = None,
    workloads: Sequence[str] = (),
    rivals: str | None = None,
    threads: int | None = None,
    rounds: int | None = None,
) -> Plan:
    """A plan with all that is not said filled in. Raises BadInput for what there is not."""
    from marginax.bench.workloads import WORKLOADS

    if size.upper() not in SIZES:
        remedy = "Sizes are " + ", ".join(f"{name} ({count:,} accounts)" for name, count in SIZES.items())
        raise BadInput([Problem("--size", None, None, f"'{size}' is none", remedy)])
    unknown = [name for name in workloads if name not in WORKLOADS]
    if unknown:
        remedy = suggestion(unknown[0], list(WORKLOADS))
        raise BadInput(
            [Problem("--workload", None, None, f"'{unknown[0]}' is none", f"{remedy[0].upper()}{remedy[1:]}")]
        )
    allowed = len(cores())
    if threads is not None and not 1 <= threads <= allowed:
        what, remedy = f"{threads} is given, and this process may use {allowed}", "Name as many or fewer, from 1 on"
        raise BadInput([Problem("--threads", None, None, what, remedy)])
    return Plan(
        size=size.upper() if accounts is None else f"{accounts:,} accounts",
        accounts=SIZES[size.upper()] if accounts is None else accounts,
        workloads=tuple(dict.fromkeys(workloads)) or tuple(WORKLOADS),
        rivals=rivals,
        threads=threads or allowed,
        rounds=rounds or (FEW_ROUNDS if size.upper() == "S" else ROUNDS),
    )


def measure(plan: Plan, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """The record of a run: everything measured, with its units and its context.

    `progress` hears how many steps are done, and how many there are. Raises BadInput for a rival that cannot be had or
    whose answers are not equal: before any clock starts.
    """
    from marginax.bench.workloads import TAIL, says

    pinned = plan.threads > 1 and hasattr(os, "sched_setaffinity")
    steps, total = 0, (1 + pinned) * len(plan.workloads) + 2

    def done() -> None:
        nonlocal steps
        steps += 1
        progress(steps, total)

    around = context()
    progress(0, total)
    raced: dict[str, dict[str, Any]] = {}
    # What one process compiles the next one loads: warm figures are none the better, and the run is shorter.
    with tempfile.TemporaryDirectory(prefix="marginax-bench-") as programs:
        for place, threads in (("all_cores", plan.threads), ("one_core", 1)):
            if place == "all_cores" or (pinned and raced["all_cores"]["device"].startswith("cpu")):
                request = {"kind": "race", **asdict(plan), **_place(threads)}
                raced[place] = _measured(request, done, {**KEPT, "JAX_COMPILATION_CACHE_DIR": programs})
    path = raced["all_cores"]["path"]
    figures = {}
    for name in plan.workloads:
        places = {place: found["workloads"][name] for place, found in raced.items()}
        book = places["all_cores"]["book"]
        figures[name] = {"says": says(name), **book, **{place: each["race"] for place, each in places.items()}}
    return {
        "benchmark": "book_tail",
        "size": plan.size,
        "dtype": "float32",
        "tail": TAIL,
        "rounds": plan.rounds,
        "rivals": plan.rivals,
        "context": {**around, "device": raced["all_cores"]["device"]},
        "path": path,
        "machine": {place: found["rates"] for place, found in raced.items()},
        "cold": _cold(plan, path["machine_code"], done),
        "workloads": figures,
        "units": UNITS,
    }


def _place(threads: int) -> dict[str, Any]:
    """The cores of a process, and as many threads."""
    return {"cores": cores()[:threads] if hasattr(os, "sched_setaffinity") else None, "threads": threads}


def _cold(plan: Plan, native: bool, done: Callable[[], None]) -> dict[str, Any]:
    found = {}
    for name, allowed in (("machine_code", "1"), ("pure", "0")):
        if allowed == "0" or native:
            with tempfile.TemporaryDirectory(prefix="marginax-bench-") as cache:
                request = {"kind": "cold", "workloads": plan.workloads[:1], "accounts": plan.accounts}
                found[name] = _measured(
                    {**request, "started": time.monotonic(), **_place(plan.threads)},
                    done,
                    {"XDG_CACHE_HOME": cache, "MARGINAX_NATIVE": allowed},
                )
        done()
    return {"workload": plan.workloads[0], **found}


def _measured(request: Mapping[str, Any], done: Callable[[], None], environment: Mapping[str, str]) -> dict[str, Any]:
    """The answer of a process of its own. Raises the BadInput that it met, RuntimeError where it fell over."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(request)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            for told in _told(process):
                if "answer" in told:
                    return dict(told["answer"])
                if "problems" in told:
                    raise BadInput([Problem(**each) for each in told["problems"]])
                done()
            status = process.wait()
        finally:
            process.kill()
        errors.seek(0)
        tail = errors.read().decode(errors="replace")[-4000:]
    raise RuntimeError(f"the process that measures left with status {status}:\n{tail}")


def _told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
