"""Machine code for this processor: compiled once a precision from the sources in `machine/`, kept in the user's cache.

Nothing depends on it: where there is no compiler, or MARGINAX_NATIVE is 0, `book_tail` runs the same function in pure
JAX. The library lies in `$XDG_CACHE_HOME/marginax/native` (`~/.cache` where that is not set) under a name made of the
source, the compiler and its flags, and the processor: whatever changes, it is compiled again. It is written under
another name and renamed when whole, so that processes may compile side by side.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32

SOURCES = ("book_tail.cc", "sweep.h", "product.h", "slices.h", "answer.h", "selection.h", "scratch.h", "vectors.h")
COMPILERS = ("g++", "clang++")
# Products are fused with sums, as XLA fuses them; no flag that would let NaN or infinity be something else.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-DNDEBUG", "-fPIC", "-shared")
# The functions that a library holds, and what its source calls the numbers of a precision.
SYMBOL, FILL = "marginax_book_tail", "marginax_fill_slices"
PRECISIONS = {"float32": "-DMARGINAX_REAL=float", "float64": "-DMARGINAX_REAL=double"}
# Compiling takes ten seconds on a slow machine; a compiler that hangs must not hang a venue.
PATIENCE = 300


class NativePath(NamedTuple):
    """Whether `book_tail` runs machine code on this CPU, and why or why not."""

    in_use: bool
    reason: str


class _Unavailable(Exception):
    """There is no machine code to be had; the message says why."""


def native_path(precision: str = "float32") -> NativePath:
    """Which path `book_tail` of a cube of that precision takes on CPU: machine code, or pure JAX; compiles if need be.

    The environment variable MARGINAX_NATIVE is read at every call; 0 means pure JAX.
    """
    if os.environ.get("MARGINAX_NATIVE", "1") == "0":
        return NativePath(False, "MARGINAX_NATIVE is 0")
    return _loaded(precision)[0]


def fill(
    cube: Float[np.ndarray, "rows scenarios"],
    slices: Float[np.ndarray, "slices rows lane"],
    firsts: Int32[np.ndarray, " blocks"],
    share: range,
) -> None:
    """Copy a share of the cube's rows into slices, as `slices.h` says; all in one piece, of one precision."""
    code = _loaded(cube.dtype.name)[1]
    assert code is not None
    pointers = (ctypes.c_void_p(each.ctypes.data) for each in (cube, slices, firsts))
    numbers = (*cube.shape, slices.shape[2], share.start, share.stop)
    getattr(code, FILL)(*pointers, *map(ctypes.c_int64, numbers))


def sweep(precision: str, tile: ctypes.Structure, asked: "ctypes.Array[Any]") -> None:
    """Answer a tile (`native_tail.Tile`) as `book_tail.cc` says; other threads go on meanwhile. Raises MemoryError."""
    code = _loaded(precision)[1]
    assert code is not None
    if not getattr(code, SYMBOL)(ctypes.byref(tile), asked):
        raise MemoryError("no memory for the candidates of a tile; give fewer streams")


@cache
def _loaded(precision: str) -> tuple[NativePath, ctypes.CDLL | None]:
    try:
        compiler = _compiler()
        library = _library(compiler, precision)
        try:
            code = ctypes.CDLL(str(library))
        except OSError:  # a file that some other program broke
            library.unlink(missing_ok=True)
            code = ctypes.CDLL(str(_library(compiler, precision)))
    except (_Unavailable, OSError) as error:
        return NativePath(False, str(error)), None
    return NativePath(True, f"compiled by {compiler.name}: {library}"), code


class _Compiler(NamedTuple):
    name: str
    path: str
    version: str


def _compiler() -> _Compiler:
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return _Compiler(name, path, _run([path, "--version"], name).stdout)
    raise _Unavailable(f"no compiler: neither {' nor '.join(COMPILERS)} is on the path")


def _library(compiler: _Compiler, precision: str) -> Path:
    """The compiled library, from the cache if it is there."""
    folder = files("marginax_kernels").joinpath("machine")
    sources = {name: folder.joinpath(name).read_bytes() for name in SOURCES}
    flags = (*FLAGS, PRECISIONS[precision])
    facts = (compiler.version, " ".join(flags), _processor())
    key = hashlib.sha256(b"\0".join([*sources.values(), *(fact.encode() for fact in facts)])).hexdigest()
    library = _folder() / f"book_tail-{precision}-{key[:24]}.so"
    if not library.exists():
        _compile(compiler, flags, sources, library)
    return library


def _folder() -> Path:
    """The user's own folder for compiled code: code that another user may have written is never loaded."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "marginax" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
    except (OSError, RuntimeError) as error:
        raise _Unavailable(f"no cache folder: {error}") from error
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        raise _Unavailable(f"others may write in {folder}; make it your own with: chmod go-w {folder}")
    return folder


def _compile(compiler: _Compiler, flags: tuple[str, ...], sources: dict[str, bytes], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="compiling-") as place:
        out = Path(place) / library.name
        for name, source in sources.items():
            (Path(place) / name).write_bytes(source)
        done = _run([compiler.path, *flags, str(Path(place) / SOURCES[0]), "-o", str(out)], compiler.name)
        if done.returncode or not out.exists():
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            told = next((line for line in lines if "error" in line), lines[-1])
            raise _Unavailable(f"{compiler.name} could not compile {SOURCES[0]}: {told}")
        os.replace(out, library)


def _run(words: list[str], name: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            words, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        raise _Unavailable(f"{name} took longer than {PATIENCE} seconds") from error


def _processor() -> str:
    """What -march=native looks at: the name and the flags of this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(kept)])
