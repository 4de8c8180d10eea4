"""The frontier of collateral, score and rises: walks that weigh their terms otherwise, each out of sample.

A walk says what one price of collateral, of uncovered loss and of rises comes to; several say what excludes what. Fits
are two years apart and twenty steps long here, all the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import polars as pl

from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.walk import FITTED
from marginax_calibration.studies import calibration
from marginax_calibration.studies.calibration import Plan
from marginax_calibration.studies.calibration_targets import HAND, excluded, target_table, targets, verdict

# What differs from the weights that a fit has.
POINTS: dict[str, str] = {
    "defaults": "",
    "dear collateral": "cost=1.8",
    "cheap collateral": "cost=0.4",
    "dear rises": "procyclicality=0.2",
    "score alone": "coverage=0,cost=0,uncovered=0,procyclicality=0",
}
YEARS, STEPS = 2, 20
COMPARED = ("static", "fhs", "garch", HAND)


def walks(
    plan: Plan, folder: Path, *, report: Callable[[Any, Any, Any], None] | None = None
) -> dict[str, pl.DataFrame]:
    """The daily table of each point."""
    rarer, found = replace(plan, years=YEARS, settings=replace(plan.settings, steps=STEPS)), {}
    for label, words in POINTS.items():
        weights = Weights().of(words) if words else Weights()
        found[label] = calibration.walk(rarer, folder, weights=weights, report=report).daily
        jax.clear_caches()
    return found


def judged(found: Mapping[str, pl.DataFrame], rivals: pl.DataFrame) -> dict[str, Any]:
    """The judgement of each point beside the rivals."""
    return {label: verdict(rivals, daily) for label, daily in found.items()}


def points(judgements: Mapping[str, Any]) -> pl.DataFrame:
    """Charged, uncovered, FZ0 and the greatest five-day rise of each point and of those it is compared with."""
    first = next(iter(judgements.values()))["pooled"]
    every = {label: each["pooled"][FITTED] for label, each in judgements.items()}
    every |= {name: first[name] for name in COMPARED}
    return pl.DataFrame(
        [
            {
                "name": name,
                "fitted": name in judgements,
                "charged": each["mean_charged"],
                "uncovered": 1e4 * each["mean_uncovered_loss"],
                "fz0": each["mean_fz0"],
                "rise": each["max_increase_5d"],
            }
            for name, each in every.items()
        ]
    )


def report_of(judgements: Mapping[str, Any], plan: Plan) -> str:
    """The frontier as Markdown: figures, targets by point, and which exclude each other."""
    rows = points(judgements)
    lines = ["| weights | | charged | uncovered | FZ0 | +5 bars |", "|---|---|---:|---:|---:|---:|"]
    for row in rows.iter_rows(named=True):
        name = row["name"] if row["fitted"] else f"`{row['name']}`"
        words = f"`{POINTS[row['name']]}`" if row["fitted"] and POINTS[row["name"]] else ""
        cells = f"{row['charged']:.2%} | {row['uncovered']:.2f} bp | {row['fz0']:.3f} | {row['rise']:+.0%}"
        lines.append(f"| {name} | {words} | {cells} |")
    reached = {label: targets(each, plan.aims) for label, each in judgements.items()}
    return "\n".join([*lines, "", target_table(reached), "", excluded(reached)])
