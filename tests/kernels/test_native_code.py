"""Where machine code comes from: compiled once, kept, never needed, and never another user's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kernels._books import assert_same_bits, ragged, taking
from marginax_kernels import book_tail, native, native_path

COMPILER = """#!/bin/sh
# Says what a compiler says, and "compiles" by copying what it was told to.
if [ "$1" = "--version" ]; then echo "a compiler {version}"; exit 0; fi
echo call >> {log}
while [ "$1" != "-o" ]; do shift; done
sleep 0.05
{work}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing on the path but what a test puts there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MARGINAX_NATIVE", "1")
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cp", "sleep", "cat"):
        found = shutil.which(tool, path=os.defpath)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    native._loaded.cache_clear()
    yield tmp_path
    native._loaded.cache_clear()


def compiler(place: Path, work: str, version: str = "1.0") -> None:
    path = place / "bin" / "g++"
    path.write_text(COMPILER.format(version=version, log=place / "log", work=work))
    path.chmod(0o755)


def calls(place: Path) -> int:
    log = place / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def library() -> Path:
    return native._library(native._compiler(), "float32")


def test_without_a_compiler_the_pure_path_answers_and_says_why(place: Path, rng: np.random.Generator) -> None:
    assert native_path() == (False, "no compiler: neither g++ nor clang++ is on the path")
    book = ragged(rng, np.dtype("float32"), accounts=20, positions=2, scenarios=64)
    here = book_tail(*book[:4], tail=0.1, amounts=book.amounts)
    with taking("pure"):
        assert_same_bits(here, book_tail(*book[:4], tail=0.1, amounts=book.amounts))


def test_a_compiler_that_fails_is_quoted(place: Path) -> None:
    compiler(place, "echo 'error: no such thing' >&2; exit 1")
    assert native_path() == (False, "g++ could not compile book_tail.cc: error: no such thing")
    assert not list((place / "cache" / "marginax" / "native").iterdir())


def test_a_compiler_that_hangs_or_babbles_is_no_compiler(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PATIENCE", 0.2)
    script = place / "bin" / "g++"
    script.write_text("#!/bin/sh\nsleep 5\n")
    script.chmod(0o755)
    assert native_path() == (False, "g++ took longer than 0.2 seconds")
    monkeypatch.setattr(native, "PATIENCE", 10)
    native._loaded.cache_clear()
    compiler(place, "printf 'error: \\377 is no letter' >&2; exit 1", version="\\377")
    assert native_path() == (False, "g++ could not compile book_tail.cc: error: \ufffd is no letter")


def test_the_variable_turns_machine_code_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARGINAX_NATIVE", "0")
    assert native_path() == (False, "MARGINAX_NATIVE is 0")
    assert calls(place) == 0


def test_what_is_compiled_is_kept_until_source_compiler_or_processor_change(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(place, 'echo code > "$2"')
    first = library()
    assert library() == first
    assert calls(place) == 1
    compiler(place, 'echo code > "$2"', version="2.0")
    second = library()
    monkeypatch.setattr(native, "_processor", lambda: "another")
    third = library()
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    assert len({first, second, third, library()}) == 4
    assert calls(place) == 4
    assert all(path.read_text() == "code\n" for path in first.parent.iterdir())


def test_compiling_side_by_side_leaves_one_whole_library(place: Path) -> None:
    compiler(place, 'echo half > "$2"; sleep 0.05; echo whole >> "$2"')
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(library) for _ in range(4)]
    (path,) = {each.result() for each in found}
    assert path.read_text() == "half\nwhole\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_library_that_does_not_load_is_compiled_again_and_then_given_up(place: Path) -> None:
    compiler(place, 'echo nonsense > "$2"')
    use = native_path()
    assert not use.in_use
    assert "book_tail-" in use.reason
    assert calls(place) == 2


def test_a_folder_that_others_may_write_in_is_not_trusted(place: Path) -> None:
    compiler(place, 'echo code > "$2"')
    folder = place / "cache" / "marginax" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    use = native_path()
    assert not use.in_use
    assert use.reason == f"others may write in {folder}; make it your own with: chmod go-w {folder}"
    assert calls(place) == 0


def test_the_source_travels_with_the_package() -> None:
    folder = Path(native.__file__).with_name("machine")
    assert {path.name for path in folder.iterdir()} == set(native.SOURCES)
    assert f" {native.SYMBOL}(" in (folder / native.SOURCES[0]).read_text()


def test_a_precision_that_nobody_asked_for_is_not_compiled(place: Path) -> None:
    compiler(place, 'echo nonsense > "$2"')
    reasons = [native_path(precision).reason for precision in ("float32", "float64", "float32")]
    assert reasons[0] == reasons[2] != reasons[1]
    assert "book_tail-float64-" in reasons[1]
    assert calls(place) == 4


FORK = """
import os, sys
import numpy as np
from marginax_kernels import book_tail, native_path
assert native_path().in_use
ids, cube = np.zeros((70, 2), int), np.linspace(-1, 1, 300)[None].astype(np.float32)
for half in range(2):
    got = book_tail(ids, np.ones((70, 2)), cube, None, tail=0.01)
    assert (got.var > 1.9).all()
    child = os.fork() if not half else child
if not child:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_code_that_was_loaded_before_a_fork_works_on_both_sides() -> None:
    with taking("native"):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=False, timeout=300)
    assert done.returncode == 0
