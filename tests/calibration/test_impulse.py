"""The impulse response of models to a step in volatility: figures of a response, and responses that can be derived."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from calibration._histories import baselines, configured
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax_calibration.impulse import Impulse, impulse, response

STEP = 2.0
EWMA_HALF_LIFE, FHS_HALF_LIFE = 11.2024, 22.7566


def climb(half_life: float, bars: np.ndarray | int, step: float = STEP) -> Any:
    """Volatility that an EWMA knows after some returns of the new size, over the old one, on average over the square.

    Of n returns the variance has 1 - d^n of the new size's square, d = 2^(-1 / half_life).
    """
    return np.sqrt(1 + (step**2 - 1) * (1 - 0.5 ** (bars / half_life)))


def half_way(half_life: float, step: float = STEP) -> float:
    """Returns until the volatility above has made half of its way: sooner than the variance, whose half-life it is."""
    return -half_life * np.log2((step**2 - ((1 + step) / 2) ** 2) / (step**2 - 1))


# --- Figures of a response -------------------------------------------------------------------------------------------


def path(*, before: int = 300, after: int = 600, step: float = STEP) -> np.ndarray:
    """Four seeds that agree, of an EWMA without noise."""
    known = climb(EWMA_HALF_LIFE, np.arange(1, after + 1), step)
    return np.tile(np.append(np.ones(before), known)[:, None], 4)


def test_figures_of_a_response_without_noise_are_those_of_the_formula() -> None:
    found = response(path(), 300)
    assert found["before"] == 1
    assert found["steady"] == pytest.approx(STEP, rel=1e-6)
    assert found["multiple"] == pytest.approx(STEP, rel=1e-6)
    assert found["half_life"] == np.ceil(half_way(EWMA_HALF_LIFE)) == 9
    # It rises to the end, within rounding.
    assert found["peak"] > 400
    assert found["overshoot"] == pytest.approx(0, abs=1e-6)
    assert found["overshoot_error"] == 0


def test_after_a_step_down_the_lowest_point_counts() -> None:
    fall = path(step=0.5)
    fall[300 + 40] = 0.3
    found = response(fall, 300)
    assert found["multiple"] == pytest.approx(0.5, rel=1e-2)
    assert found["half_life"] == np.ceil(half_way(EWMA_HALF_LIFE, 0.5))
    assert found["peak"] == 41
    assert found["overshoot"] == pytest.approx(0.3 / 0.5 - 1, rel=1e-2)


def test_an_overshoot_is_the_highest_point_of_the_mean_over_the_steady_state() -> None:
    jump = np.ones((900, 4))
    jump[300:] = 2.0
    jump[310] = [2.5, 3.0, 3.5, 3.0]
    found = response(jump, 300)
    assert (found["peak"], found["half_life"], found["overshoot"]) == (11, 1, 0.5)
    assert found["overshoot_error"] == pytest.approx(np.std([2.5, 3.0, 3.5, 3.0], ddof=1) / 2 / 2)


def test_where_nothing_was_charged_there_is_no_multiple() -> None:
    found = response(np.zeros((900, 2)), 300)
    assert found["multiple"] is found["overshoot"] is found["overshoot_error"] is None


# --- Responses of models ---------------------------------------------------------------------------------------------


@cache
def answers() -> Impulse:
    """An EWMA, and historical simulation over 250 bars, plain and filtered, on 64 paths with a step of two."""
    window = {"window": 250}
    models = {"ewma": baselines()["ewma"], **{name: configured(name, scenarios=window) for name in ("hs", "fhs")}}
    return impulse(models, steps=[STEP], seeds=64, before=300, after=520)


def test_an_ewma_answers_with_the_half_life_of_its_filter() -> None:
    """Returns of a t of 5 degrees have a kurtosis of 9, so an EWMA's variance varies by sqrt(8 (1 - d) / (1 + d)) = 0.5
    of itself, its volatility by a quarter, and the mean over 64 paths by 0.031 of a level of 1.5. Where the climb is
    half done it makes 0.036 of the level before in a bar: that is 1.3 bars of error, and twice as many are allowed.
    """
    found = answers().figures["ewma"][f"{STEP:g}"]
    assert found["half_life"] == pytest.approx(half_way(EWMA_HALF_LIFE), abs=2.6)
    drawn = answers().paths.filter(model="ewma")
    errors = drawn.filter(pl.col("bar") >= 0)["std_error"].to_numpy() / found["before"]
    # The whole climb, within four of the errors that the paths tell themselves; they do tell of a quarter in 64.
    climbed = drawn.filter(pl.col("bar").is_between(0, 59))["charged"].to_numpy() / found["before"]
    assert np.abs(climbed - climb(EWMA_HALF_LIFE, np.arange(1, 61))).max() < 4 * errors[:60].max()
    assert np.median(errors) == pytest.approx(STEP * 0.25 / np.sqrt(64), rel=0.4)


def test_the_steady_margin_is_as_many_times_greater_as_the_volatility() -> None:
    """Half a year of an EWMA is 8 times its memory of 32 bars, and that of 51 bars before the step nearly twice:
    0.25 / sqrt(64 x 8) and 0.25 / sqrt(64 x 1.6) make 0.027 of the quotient, of which three are allowed.
    """
    assert answers().figures["ewma"][f"{STEP:g}"]["multiple"] == pytest.approx(STEP, rel=0.081)


def test_filtered_history_answers_as_fast_as_its_filter_and_plain_history_much_later() -> None:
    """Until the filter has caught up the new returns are large residuals too, so filtered history is no slower than its
    filter, within the error above; half of plain history's tail has to be of the new size.
    """
    plain, filtered = (answers().figures[name][f"{STEP:g}"]["half_life"] for name in ("hs", "fhs"))
    assert plain is not None
    assert filtered is not None
    assert filtered <= half_way(FHS_HALF_LIFE) + 2.6
    assert plain > 3 * filtered


@cache
def small(seed: int = 7, first: float = 1.0) -> Impulse:
    return impulse({"ewma": baselines()["ewma"]}, steps=[first, STEP], seeds=2, before=251, after=251, seed=seed)


def test_the_same_draws_serve_every_step_and_the_first_bar_is_the_first_to_know() -> None:
    one, two = (small().paths.filter(step=step).sort("bar") for step in (1.0, STEP))
    early = pl.col("bar") < 0
    assert one.filter(early)["charged"].equals(two.filter(early)["charged"])
    assert not one.filter(bar=0)["charged"].equals(two.filter(bar=0)["charged"])
    assert one.columns == ["model", "step", "bar", "charged", "std_error"]
    assert one["bar"].to_list() == list(range(-2, 250))


def test_the_same_seed_gives_the_same_bits() -> None:
    again = impulse({"ewma": baselines()["ewma"]}, steps=[1.0, STEP], seeds=2, before=251, after=251, seed=7)
    assert again.figures == small().figures
    assert again.paths.filter(step=2.0).equals(small().paths.filter(step=2.0))
    assert not small(8).paths.filter(step=2.0).equals(small().paths.filter(step=2.0))


@pytest.mark.parametrize(
    "counts", [{"seeds": 1}, {"before": 250}, {"after": 250}, {"steps": ()}, {"steps": (2.0, 0.0)}, {"steps": (-1.0,)}]
)
def test_counts_that_tell_no_response_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="tell no response"):
        impulse({}, **{"seeds": 2, "before": 251, "after": 251, **counts})


# --- The command -----------------------------------------------------------------------------------------------------

WORDS = ["impulse", "--models", "ewma", "--steps", "1.5,2", "--seeds", "2", "--before", "251", "--after", "251"]


def test_the_command_writes_figures_paths_and_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*WORDS, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "i.json")]) == Exit.SUCCESS
    written = json.loads((tmp_path / "i.json").read_text())
    answer = small(first=1.5)
    assert written["models"] == answer.figures
    assert written["settings"]["seeds"] == 2
    names = ["impulse.json", "manifest.json", "responses.parquet"]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == names
    assert json.loads((tmp_path / "out" / "impulse.json").read_text()) == written
    assert pl.read_parquet(tmp_path / "out" / "responses.parquet").equals(answer.paths)
    assert "half-life" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "2,2"], "--steps"),
        (["--steps", "0"], "--steps"),
        (["--steps", "1"], "other than 1"),
        (["--steps", "two"], "--steps"),
        (["--seeds", "1"], "--seeds"),
        (["--before", "250"], "--before"),
        (["--after", "10"], "--after"),
        (["--sigma-day", "0"], "--sigma-day"),
        (["--models", "no_such_model"], "no_such_model"),
        (["--json", "no_such_folder/i.json"], "no_such_folder"),
        (["--out", __file__], "test_impulse.py"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_bad_flags_are_told(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert run([*WORDS, *words]) == Exit.BAD_INPUT
    assert told in capsys.readouterr().err
