"""Ctrl-C: exit code 130 and no traceback, whenever it comes and whoever loses it."""

import subprocess
import sys
from pathlib import Path

import pytest

from marginax.cli.app import run
from marginax.cli.exits import Exit

# A command in a process that hears of interrupts as one in a terminal does, whatever the tests were started by.
HEARS = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from marginax import interrupts
from marginax.cli.app import application, leaving, main
from marginax.interrupts import stop_if_interrupted

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def run_as(command):
    application().command("work")(leaving(command))
    main(["work"])
"""
# Interrupts while the first module of this name is looked for.
AT_IMPORT = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            interrupt()

sys.meta_path.insert(0, Finder())
main({words!r})
"""
# An interrupt inside a callback of the garbage collector, as JAX has one: Python drops what is raised there.
LOST = """
import gc

def callback(phase, _):
    if phase == "start":
        gc.callbacks.remove(callback)
        interrupt()

def command() -> int:
    gc.callbacks.append(callback)
    gc.collect()
    {then}
    print("ended")
    return 0

run_as(command)
"""
# What was dropped comes up again later than the command takes, on whatever machine.
LATE = "interrupts.AGAIN_SECONDS = 100.0"


def python(code: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", HEARS + code], capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("typer", ["--help"]),
        ("marginax.cli.margin", ["--help"]),
        ("marginax_calibration.commands.backtest", ["--help"]),
        ("marginax.synthetic", ["init", "{folder}"]),
        ("numpy", ["init", "{folder}"]),
    ],
)
def test_an_interrupt_while_modules_are_imported_leaves_no_traceback(
    tmp_path: Path, module: str, words: list[str]
) -> None:
    folder = tmp_path / "start"
    given = [word.format(folder=folder) for word in words]
    assert python(AT_IMPORT.format(module=module, words=given)) == (130, "", "marginax: interrupted\n")
    assert not folder.exists()


@pytest.mark.parametrize(
    "then",
    ["time.sleep(60)", "stop_if_interrupted()", "raise RuntimeError('a library wraps what interrupted it')"],
    ids=["raised again", "asked for at a step", "wrapped"],
)
def test_an_interrupt_that_python_drops_still_ends_the_command(then: str) -> None:
    late = "" if "sleep" in then else LATE
    assert python(late + LOST.format(then=then)) == (130, "", "marginax: interrupted\n")


def test_a_command_that_has_ended_before_the_interrupt_came_up_again_has_done_its_work() -> None:
    assert python(LATE + LOST.format(then="pass")) == (0, "ended\n", "")


def test_a_second_interrupt_ends_a_command_that_hears_nothing() -> None:
    code = """
interrupts.SAME_SECONDS = 0.0

def command() -> int:
    from threading import Timer
    Timer(0.5, interrupt).start()
    try:
        interrupt()
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(60)
    return 0

run_as(command)
"""
    assert python(code) == (130, "", "marginax: interrupted at once\n")


def test_two_interrupts_of_one_key_are_one() -> None:
    code = """
interrupts.SAME_SECONDS = 100.0

def command() -> int:
    try:
        interrupt()
    finally:
        interrupt()
        time.sleep(0.1)
    return 0

run_as(command)
"""
    assert python(code) == (130, "", "marginax: interrupted\n")


def test_a_process_that_ignores_interrupts_goes_on_doing_so() -> None:
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)

def command() -> int:
    interrupt()
    print("ended")
    return 0

run_as(command)
"""
    assert python(code) == (0, "ended\n", "")


def test_help_names_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == Exit.SUCCESS
    assert "130 interrupted" in " ".join(capsys.readouterr().out.split())


def test_help_of_all_commands_imports_nothing_heavy() -> None:
    code = "application()\nprint({'jax', 'polars', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules))"
    assert python(code) == (0, "set()\n", "")
