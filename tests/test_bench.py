"""`marginax bench`: the record of a run, answers against sorting, rivals refused by name, bad words told."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from marginax.bench import contenders, option_cube
from marginax.bench.race import race
from marginax.bench.workloads import EQUAL, SHAPES, TAIL, WEIGHTED, WORKLOADS, Workload, says, workload
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.problems import BadInput
from marginax_kernels import black76
from reference.book import losses
from reference.tail import expected_shortfall, value_at_risk

ACCOUNTS = 40
RATES = {"product_flops_per_second": 1e12, "copy_bytes_per_second": 1e10}
# A contender by sorting, which imports nothing of the kernel: with no tie on the edge, cumulated weights say it all.
SORTING = """
    import numpy as np

    def sorting(load, threads):
        rows = []
        for begin, end in zip(load.starts[:-1], load.starts[1:]):
            loss = -load.quantities[begin:end].astype(float) @ load.cube[load.ids[begin:end]].astype(float)
            order = np.argsort(-loss)
            mass = np.full(load.scenarios, 1 / load.scenarios) if load.weights is None else load.weights[order]
            edge = np.searchsorted(np.cumsum(mass.astype(float)), load.tail * (1 - 1e-5))
            worst, var = loss[order][: edge + 1], loss[order][edge]
            rows.append([var, var + mass[: edge + 1] @ (worst - var) / load.tail])
        return tuple(np.array(rows).T)

    def equal_only(load, threads):
        if load.weights is not None:
            raise NotImplementedError("written for equal weights")
        return sorting(load, threads)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in. Pure JAX: no test waits for a compiler."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARGINAX_NATIVE", "0")
    return tmp_path


def module(place: Path, name: str, contenders: str) -> str:
    """Write a module of rivals; its name."""
    (place / f"{name}.py").write_text(f"{dedent(SORTING)}\nCONTENDERS = {contenders}\n")
    return name


def bench(*words: str) -> int:
    return run(["bench", "--accounts", str(ACCOUNTS), "--rounds", "1", *words])


def test_a_run_writes_the_record_with_units_and_the_chart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rivals = module(place, "mine", "{'sorting': sorting, 'equal_only': equal_only}")
    words = ["--workload", "narrow_500_weighted", "narrow_500_equal", "--rivals", rivals, "--out", "there"]
    assert bench(*words) == Exit.SUCCESS
    printed = capsys.readouterr().out
    record = json.loads((place / "there" / "bench.json").read_text())
    assert list(record["workloads"]) == ["narrow_500_weighted", "narrow_500_equal"]
    assert (place / "there" / "bench.svg").is_file() == (find_spec("altair") is not None)
    assert {"marginax", "sorting"} < set(printed.split())

    context, path, cold = record["context"], record["path"], record["cold"]
    assert {"machine", "processor", "device", "python", "jax", "numpy", "commit", "load_before"} < set(context)
    assert path == {"machine_code": False, "reason": "MARGINAX_NATIVE is 0"}
    assert cold["workload"] == "narrow_500_weighted"
    assert cold["pure"]["seconds"] > cold["pure"]["import_seconds"] > 0
    for rates in record["machine"].values():
        assert rates["copy_bytes_per_second"] > 1e6
        assert rates["product_flops_per_second"] > 1e6
    for name, each in record["workloads"].items():
        assert each["accounts"] == ACCOUNTS
        assert each["scenarios"] == (WEIGHTED if name.endswith("weighted") else EQUAL)
        for at in set(record["machine"]):
            assert "sorting" in each[at]["contenders"]
            _assert_figures(each, each[at]["contenders"]["marginax"], record["machine"][at])
    left_out = record["workloads"]["narrow_500_weighted"]["all_cores"]["left_out"]
    assert left_out == {"equal_only": "written for equal weights"}
    fields = {key for each in record["workloads"].values() for key in each["all_cores"]["contenders"]["marginax"]}
    told = " ".join(record["units"])
    assert all(key in told or key.endswith("seconds") for key in fields)


def _assert_figures(load: dict[str, Any], figures: dict[str, float], rates: dict[str, float]) -> None:
    """The figures of one contender follow from its seconds."""
    seconds, work = figures["seconds"], load["positions"] * load["scenarios"]
    assert 0 < figures["least_seconds"] <= seconds <= figures["greatest_seconds"]
    assert figures["accounts_per_second"] == pytest.approx(load["accounts"] / seconds)
    assert figures["scenario_positions_per_second"] == pytest.approx(work / seconds)
    assert figures["share_of_product_rate"] == pytest.approx(2 * work / seconds / rates["product_flops_per_second"])
    assert figures["times_as_long_as_marginax"] == 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_a_book_that_the_kernel_answers_as_sorting_does(name: str) -> None:
    load = workload(name, 16)
    counts = np.diff(load.starts)
    for account in range(load.accounts):
        assert (np.diff(load.ids[load.starts[account] : load.starts[account + 1]]) > 0).all()
    assert load.ids.max() < len(load.cube)
    assert np.isfinite(load.cube).all()
    assert load.weights is None or load.weights.sum(dtype=float) == pytest.approx(1, abs=1e-6)
    ids, held = (np.zeros((load.accounts, counts.max()), each.dtype) for each in (load.ids, load.quantities))
    for account, count in enumerate(counts):
        entries = slice(load.starts[account], load.starts[account] + count)
        ids[account, :count], held[account, :count] = load.ids[entries], load.quantities[entries]
    mass = np.full(load.scenarios, 1 / load.scenarios) if load.weights is None else load.weights
    book = losses(ids, held, load.cube)
    allowed = contenders.tolerance(load)
    for got, twin in zip(contenders.marginax(load, 1), (value_at_risk, expected_shortfall), strict=True):
        wanted = np.array([twin(row, mass, tail=TAIL) for row in book])
        assert (np.abs(got - wanted) <= allowed).all()


def test_a_workload_is_the_same_in_every_run_and_named_by_its_shape() -> None:
    for shape in SHAPES:
        first, again = (workload(f"{shape}_weighted", 8) for _ in range(2))
        assert all(np.array_equal(one, other) for one, other in zip(first[1:6], again[1:6], strict=True))
        assert first.scenarios == WEIGHTED
        assert "2,048 weighted" in says(first.name)


def test_losses_rise_where_they_are_sorted_and_tie_where_they_tie() -> None:
    rising, ties = workload("sorted_equal", 4), workload("ties_equal", 4)
    for load in (rising, ties):
        book = load.quantities.reshape(4, -1), load.ids.reshape(4, -1)
        loss = -np.einsum("ap,aps->as", book[0], load.cube[book[1]])
        if load is rising:
            halves = np.split(loss, 2, axis=1)
            assert (halves[0].mean(axis=1) < halves[1].mean(axis=1)).all()
        else:
            assert (loss == np.round(loss)).all()
            assert max(len(np.unique(row)) for row in loss) < load.scenarios / 10


def test_the_option_cube_is_black_76_of_what_moved_less_what_was() -> None:
    prices, volatilities = np.full((4, 1), 0.5, np.float32), np.zeros((4, 1), np.float32)
    cube = option_cube.option_cube(prices, volatilities)
    assert cube.shape == (option_cube.INSTRUMENTS, 1)
    sigma, years = option_cube.VOLATILITY[1], option_cube.YEARS[2]
    moved = 100 * np.exp(0.5 * sigma * option_cube.DAY**0.5)
    strike = 100 * np.exp(sigma * years**0.5 * option_cube.DEVIATIONS[20])
    row = option_cube.FUTURES + ((1 * option_cube.EXPIRIES + 2) * option_cube.STRIKES + 20) * 2
    for call, got in ((True, cube[row, 0]), (False, cube[row + 1, 0])):
        then = black76(moved, strike, sigma * (years - option_cube.DAY) ** 0.5, call=call)
        now = black76(100.0, strike, sigma * years**0.5, call=call)
        # Two values of up to 100 in float32, a few roundings of forward and strike each.
        assert got == pytest.approx(float(then - now), abs=1e-4)
    assert cube[1, 0] == pytest.approx(moved - 100, rel=1e-5)


def test_an_unequal_rival_is_refused_by_name_before_any_clock_starts(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "{'sorting': sorting, 'too_low': lambda load, threads: tuple(0.999 * each for each in sorting(load, 1))}"
    words = ["--workload", "narrow_500_weighted", "--threads", "1", "--rivals", module(place, "low", wrong)]
    assert bench(*words) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    for words in ("too_low", "not equal on `narrow_500_weighted`", "value at risk of account 0", "no clock"):
        assert words in told
    assert not (place / "out").exists()


def test_no_contender_runs_between_the_check_and_a_refusal() -> None:
    load, calls = workload("narrow_500_weighted", 8), []

    def counting(name: str, factor: float) -> contenders.Contender:
        def work(load: Workload, threads: int) -> contenders.Answers:
            calls.append(name)
            var, shortfall = contenders.marginax_pure(load, threads)
            return var, factor * shortfall

        return work

    racing = {"good": counting("good", 1.0), "bad": counting("bad", 1.001)}
    with pytest.raises(ValueError, match="expected shortfall of account 0"):
        race(load, racing, threads=1, rounds=3, rates=RATES)
    assert calls == ["good", "bad"]


def test_rounds_are_interleaved_and_the_first_call_is_not_timed() -> None:
    load, calls = workload("narrow_500_weighted", 8), []

    def counting(name: str) -> contenders.Contender:
        def work(load: Workload, threads: int) -> contenders.Answers:
            calls.append(name)
            return contenders.marginax_pure(load, threads)

        return work

    found = race(load, {name: counting(name) for name in ("marginax", "other")}, threads=1, rounds=2, rates=RATES)
    assert calls == ["marginax", "other"] * 3
    assert set(found["contenders"]) == {"marginax", "other"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda load, threads: (np.zeros(3), np.zeros(3)), ("shape (3,)", "8 accounts")),
        (lambda load, threads: None, ("no pair of arrays",)),
        (lambda load, threads: 1 / 0, ("ZeroDivisionError", "NotImplementedError")),
        (lambda load, threads: (np.full(8, np.nan),) * 2, ("8 of 8 accounts",)),
    ],
)
def test_what_is_no_answer_is_told_with_the_remedy(answer: contenders.Contender, words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as refused:
        contenders.check(workload("narrow_500_weighted", 8), {"odd": answer}, 1)
    assert all(word in str(refused.value) for word in ("odd", *words))


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        ("{'marginax': sorting}", ("calls a contender `marginax`", "Give it another")),
        ("{}", ("offers no mapping `CONTENDERS`", "callable(workload, threads)")),
        ("{'sorting': 3}", ("offers no mapping `CONTENDERS`",)),
    ],
)
def test_what_is_no_module_of_contenders_is_told_with_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch, offered: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = module(place, f"odd_{len(offered)}", offered)
    with pytest.raises(BadInput) as refused:
        contenders.rivals(name)
    assert all(word in str(refused.value) for word in (name, *words))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workload", "narow_500_equal"], ("'narow_500_equal' is none", "Did you mean `narrow_500_equal`?")),
        (["--size", "XL"], ("'XL' is none", "S (1,024 accounts)")),
        (["--threads", "4096"], ("4096 is given", "this process may use")),
        (["--rivals", "no_such_module"], ("no_such_module", "cannot be imported", "pip install 'marginax[bench]'")),
        (["--out", "file"], ("file", "is no folder", "--out")),
    ],
)
def test_unknown_words_are_told_with_the_remedy(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: tuple[str, ...]
) -> None:
    (place / "file").touch()
    assert run(["bench", *words]) == Exit.BAD_INPUT
    said = capsys.readouterr().err
    assert all(word in said for word in told), said
    assert not (place / "out").exists()


def test_the_kernel_of_the_documentation_answers_as_ours_does() -> None:
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert contenders.check(workload("ragged_equal", 16), names["CONTENDERS"], 1) == {}
    left_out = contenders.check(workload("narrow_500_weighted", 16), names["CONTENDERS"], 1)
    assert left_out == {"by_sorting": "equal weights only"}
