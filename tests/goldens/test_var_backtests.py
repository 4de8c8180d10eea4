"""Backtests of VaR and ES: published likelihood ratios, p-values, zones and multipliers, from the counts they state.

A case is told by what it states. P-values that are printed are those of the chi-square law; ours are exact, and tested
elsewhere. Times between failures, quantile and minimum-bias statistics are not part of this project.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from goldens._vectors import Case, cases, printed, unknown
from marginax_calibration.coverage import Transitions, basel_zone, independence_ratio, kupiec, kupiec_one_sided
from marginax_calibration.shortfall_tests import statistics

FOLDER = "var_backtests"
STATED = {"N", "x", "p", "n00", "n01", "n10", "n11", "level", "expected_severity", "observed_severity", "tol", "note",
          "source", "name"}  # fmt: skip
# Of tests that are none of ours, or simulated by their authors from data that is not public.
FOREIGN = ("tbf", "quantile_test", "min_bias", "p_value", "critical_value")


def read(folder: Path) -> Iterator[Case]:
    """Every printed figure that is one of ours."""
    for name, given in json.loads((folder / "cases.json").read_text()).items():
        for k, case in enumerate(given if isinstance(given, list) else [given]):
            yield from figures(f"{name} {k}" if isinstance(given, list) else name, case)


def figures(name: str, case: Mapping[str, Any]) -> Iterator[Case]:
    for key, value in case.items():
        if key in STATED or key.startswith(FOREIGN) or "multipl" in name:
            continue
        figure = partial(KINDS[key], case) if key in KINDS else by_words(name, key)
        # A whole unit of the last digit: some authors cut where others round. Severities are printed to four digits.
        tolerance = max(case.get("tol", 0), 1e-4 if key.startswith("z") else 0, 2 * printed(value))
        yield Case(FOLDER, f"{name} {key}", case, value, tolerance, figure)


def unconditional(case: Mapping[str, Any]) -> float:
    return kupiec(case["N"], case["x"], tail=case["p"]).statistic


def dependent(case: Mapping[str, Any]) -> float:
    return independence_ratio(Transitions(*(case[name] for name in Transitions._fields)))


def both(case: Mapping[str, Any]) -> float:
    return unconditional(case) + dependent(case)


def deviation(case: Mapping[str, Any]) -> float:
    """The normal deviation of the count; not a test of ours, and what its printed tail rests on."""
    days, tail = case["N"], case["p"]
    return float((case["x"] - days * tail) / np.sqrt(days * tail * (1 - tail)))


def severities(case: Mapping[str, Any], which: int) -> float:
    """Z1 or Z2 of days of which so many lose the observed severity, where VaR is one and ES the expected one."""
    days = np.arange(case["N"])
    loss = np.where(days < case["x"], case["observed_severity"], 0.0)
    shortfall = np.full(len(days), case["expected_severity"])
    return statistics(loss, shortfall, loss > 1, tail=1 - case["level"])[which]


def by_words(name: str, key: str) -> Callable[[], ArrayLike]:
    """Figures whose key or name says what they are of: binomial probabilities, and where zones begin."""
    numbers = [float(word) for word in name.replace("_N", "_").replace("_p", "_").split("_") if is_number(word)]
    if "cumulative" in name and len(numbers) >= 2:
        days, tail = int(numbers[0]), numbers[1]
        return lambda: round(100 * (1 - kupiec_one_sided(days, int(key) + 1, tail=tail)), 2)
    if key in ("yellow_starts", "red_starts") and len(numbers) == 2:
        zone = key.removesuffix("_starts")
        days, tail = int(numbers[0]), numbers[1]
        return lambda: next(k for k in range(days) if basel_zone(days, k, tail=tail) == zone)
    if key.startswith("P(x"):
        sign, bound, days, tail = split(key)
        above = kupiec_one_sided(days, bound + 1, tail=tail)
        return lambda: above if sign == ">" else 1 - above
    return unknown(f"{name} {key}")


def split(key: str) -> tuple[str, int, int, float]:
    """P(x>4|N=250,p=.01)."""
    event, given = key.removeprefix("P(x").removesuffix(")").split("|")
    days, tail = (part.split("=")[1] for part in given.split(","))
    sign = "<=" if event.startswith("<=") else ">"
    return sign, int(event.removeprefix(sign)), int(days), float(tail)


def is_number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


def chi_square(statistic: Callable[[Mapping[str, Any]], float], freedom: int) -> Callable[[Mapping[str, Any]], float]:
    return lambda case: float(stats.chi2.sf(statistic(case), freedom))


KINDS: dict[str, Callable[[Mapping[str, Any]], ArrayLike]] = {
    **dict.fromkeys(("pof_lr", "lr_uc", "lr"), unconditional),
    **dict.fromkeys(("pof_p", "pvalue"), chi_square(unconditional, 1)),
    **dict.fromkeys(("cci_lr", "lr_ind"), dependent),
    "cci_p": chi_square(dependent, 1),
    "cc_lr": both,
    "cc_p": chi_square(both, 2),
    "bin_z": deviation,
    "bin_tail_p": lambda case: float(stats.norm.sf(deviation(case))),
    "z1_conditional": partial(severities, which=0),
    "z2_unconditional": partial(severities, which=1),
    "pof_pvalue": lambda case: chi_square(unconditional, 1)({**case, "p": 1 - case["level"]}),
}


@pytest.mark.parametrize("case", cases(FOLDER, read))
def test_backtests_are_those_that_others_print(case: Case, agree: Callable[[Case], None]) -> None:
    agree(case)
