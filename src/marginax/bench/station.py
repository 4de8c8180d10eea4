"""What runs in a process of its own: on the cores it is told, warm or cold, with nothing of another run in its memory.

The parent gives a request as JSON in the command line and reads lines of JSON: a step done, and at the end the answer,
or what was wrong. What anything else prints goes to standard error. Nothing heavy is imported before the cores are set:
libraries count them when they are imported.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any, TextIO

from marginax.problems import BadInput

# Accounts of the look at all answers before any clock starts.
LOOK = 256


def main() -> None:
    """Do what the command line asks for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    if request["cores"] is not None:
        os.sched_setaffinity(0, request["cores"])
    try:
        answer = _cold(request) if request["kind"] == "cold" else _raced(request, answers)
    except BadInput as error:
        _tell(answers, problems=[asdict(problem) for problem in error.problems])
    else:
        _tell(answers, answer=answer)


def _tell(answers: TextIO, **what: Any) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _raced(request: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    """Rates of the machine and figures of all workloads; with rivals, after a look at everyone's answers to all."""
    import jax

    from marginax.bench import contenders, machine, memory
    from marginax.bench.race import race
    from marginax.bench.workloads import workload
    from marginax_kernels import native_path

    threads, accounts = request["threads"], request["accounts"]
    racing = contenders.ours()
    if request["rivals"] is not None:
        racing |= contenders.rivals(request["rivals"])
        for name in request["workloads"]:
            contenders.check(workload(name, min(LOOK, accounts)), racing, threads)
    rates = machine.machine_rates(threads)
    figures = {}
    for name in request["workloads"]:
        load = workload(name, accounts)
        raced = race(load, racing, threads=threads, rounds=request["rounds"], rates=rates)
        added = memory.added_mib(lambda load=load: contenders.marginax(load, threads))  # type: ignore[misc]
        book = {
            "accounts": load.accounts,
            "instruments": len(load.cube),
            "scenarios": load.scenarios,
            "positions": len(load.ids),
            "input_mib": load.input_bytes / 2**20,
            "added_mib": added,
        }
        figures[name] = {"book": book, "race": raced}
        _tell(answers, done=name)
    device, use = jax.devices()[0], native_path()
    # Where the library lies is of no interest to whoever reads the record.
    reason = use.reason.split(":")[0] if use.in_use else use.reason
    path = {"machine_code": contenders.PURE in racing, "reason": reason if device.platform == "cpu" else "a GPU"}
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "path": path,
        "rates": {"threads": threads, **rates},
        "workloads": figures,
    }


def _cold(request: dict[str, Any]) -> dict[str, float]:
    """Seconds from the start of the process to the first answer, without those in which its question was made."""
    import resource

    from marginax_kernels import native_path

    imported = time.monotonic()
    native_path()
    compiled = time.monotonic()
    from marginax.bench import contenders
    from marginax.bench.workloads import workload

    load = workload(request["workloads"][0], request["accounts"])
    made = time.monotonic()
    contenders.marginax(load, request["threads"])
    answered = time.monotonic()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": answered - made + compiled - request["started"],
        "import_seconds": imported - request["started"],
        "machine_code_seconds": compiled - imported,
        "first_call_seconds": answered - made,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
