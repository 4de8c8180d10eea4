"""Reliability of probabilities: of accounts scored 5 % about 5 % must fail. Bins, intervals by blocks of days, Brier.

Accounts of a day fail together and bad days come together, so that rows are no independent observations. Intervals
come from a circular bootstrap of blocks of days: a day comes with all its accounts, a block with the days that
follow. Where fewer than `FEWEST` days of a bin have a failure, nothing tells how failures cluster: then all accounts of
a day count as one, the most dependent case there is, and the interval is the exact one of Clopper and Pearson.

The Brier score is the mean square of score less outcome. In bins it is exactly

    reliability - resolution + uncertainty

with the variance of scores within bins, and their covariance with outcomes there, counted to the resolution.

Source: Politis and Romano (1992) for the bootstrap; Murphy (1973) and Stephenson, Coelho and Jolliffe (2008) for the
Brier score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from scipy import stats

EDGES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
LEVEL = 0.95
BLOCK = 20
RESAMPLES = 999
# Days with a failure; as for breaches in `pooled`.
FEWEST = 10


@dataclass(frozen=True)
class Reliability:
    """`bins` has a row for each bin that holds a score: low_edge, high_edge, rows, days, failing_days, mean_score,
    failed (share), low, high (95 % interval of that share), consistent (whether mean_score lies within).

    `brier` is the mean square error, the sum of the next three with their signs; `skill` is 1 - brier / uncertainty,
    with its interval; `mean_score` and `failed` are over all rows, `failed_interval` that of the latter.
    """

    bins: pl.DataFrame
    rows: int
    days: int
    mean_score: float
    failed: float
    failed_interval: tuple[float, float]
    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    skill: float
    skill_interval: tuple[float, float]


def reliability(
    day: Int64[np.ndarray, " rows"],
    score: Float64[np.ndarray, " rows"],
    failed: Bool[np.ndarray, " rows"],
    *,
    edges: Sequence[float] = EDGES,
    block: int = BLOCK,
    resamples: int = RESAMPLES,
    seed: int = 7,
) -> Reliability:
    """How reliable scores are; a bin holds scores from its lower edge up to, not including, its upper one (1 included).

    `day` numbers the days in the order of time. Raises ValueError for scores that are no probabilities, edges that do
    not rise from 0 to 1, and a block longer than the days.
    """
    score = np.asarray(score, float)
    if not len(score) or not ((score >= 0) & (score <= 1 + 1e-6)).all():
        raise ValueError("scores must be probabilities, one at least; leave out accounts without one")
    bounds = np.asarray(edges, float)
    if bounds[0] != 0 or bounds[-1] != 1 or (np.diff(bounds) <= 0).any():
        raise ValueError(f"`edges` must rise from 0 to 1; they are {', '.join(f'{edge:g}' for edge in bounds)}")
    days, place = np.unique(day, return_inverse=True)
    if not 1 <= block <= len(days):
        raise ValueError(f"`block` of {block} days does not fit {len(days)} days; give 1 to {len(days)}")
    score, hit = np.minimum(score, 1), np.asarray(failed, float)
    number = np.minimum(np.searchsorted(bounds, score, side="right") - 1, len(bounds) - 2)
    held = np.unique(number)
    by_day = _Sums.of(place, np.searchsorted(held, number), score, hit, (len(days), len(held)))
    drawn = by_day.drawn(_draws(len(days), block, resamples, seed))
    bins = [_bin(by_day, drawn, k, (bounds[bin_], bounds[bin_ + 1])) for k, bin_ in enumerate(held)]
    brier, uncertainty = float(np.mean((score - hit) ** 2)), float(hit.mean() * (1 - hit.mean()))
    rows, mean, rate = by_day.rows.sum(0), by_day.scores.sum(0), by_day.failures.sum(0)
    unreliable = float((rows * (mean / rows - rate / rows) ** 2).sum() / len(score))
    rates = drawn.failures.sum(1) / drawn.rows.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        skills = 1 - drawn.squares / drawn.rows.sum(1) / (rates * (1 - rates))
        skill = 1 - brier / uncertainty if uncertainty else np.nan
    return Reliability(
        bins=pl.DataFrame(bins, orient="row"),
        rows=len(score),
        days=len(days),
        mean_score=float(score.mean()),
        failed=float(hit.mean()),
        failed_interval=_interval(rates),
        brier=brier,
        reliability=unreliable,
        resolution=unreliable + uncertainty - brier,
        uncertainty=uncertainty,
        skill=float(skill),
        skill_interval=_interval(skills[np.isfinite(skills)]) if np.isfinite(skills).any() else (np.nan, np.nan),
    )


@dataclass(frozen=True)
class _Sums:
    """Rows, scores and failures of each bin, and squared errors of all; by day, or by resample."""

    rows: Float64[np.ndarray, "days bins"]
    scores: Float64[np.ndarray, "days bins"]
    failures: Float64[np.ndarray, "days bins"]
    squares: Float64[np.ndarray, " days"]

    @classmethod
    def of(
        cls, day: np.ndarray, number: np.ndarray, score: np.ndarray, hit: np.ndarray, shape: tuple[int, int]
    ) -> "_Sums":
        cell = day * shape[1] + number
        rows, scores, failures = (
            np.bincount(cell, values, shape[0] * shape[1]).reshape(shape) for values in (np.ones_like(hit), score, hit)
        )
        return cls(rows, scores, failures, np.bincount(day, (score - hit) ** 2, shape[0]))

    def drawn(self, counts: Float64[np.ndarray, "resamples days"]) -> "_Sums":
        """Of so many copies of each day."""
        return _Sums(*(counts @ each for each in (self.rows, self.scores, self.failures, self.squares)))


def _draws(days: int, block: int, resamples: int, seed: int) -> Float64[np.ndarray, "resamples days"]:
    """How often each day is drawn: blocks that begin on any day, around the end to the beginning."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(days, size=(resamples, -(-days // block)))
    drawn = ((starts[:, :, None] + np.arange(block)) % days).reshape(resamples, -1)[:, :days]
    cell = drawn + days * np.arange(resamples)[:, None]
    return np.bincount(cell.ravel(), minlength=resamples * days).reshape(resamples, days).astype(float)


def _bin(by_day: _Sums, drawn: _Sums, k: int, edges: tuple[float, float]) -> dict[str, float | int | bool]:
    rows, failures = by_day.rows[:, k], by_day.failures[:, k]
    days, failing = int(np.count_nonzero(rows)), int(np.count_nonzero(failures))
    mean, rate = by_day.scores[:, k].sum() / rows.sum(), failures.sum() / rows.sum()
    if failing < FEWEST:
        low, high = _exact(rate * days, days)
    else:
        some = drawn.rows[:, k] > 0
        low, high = _interval(drawn.failures[some, k] / drawn.rows[some, k])
    return {
        "low_edge": float(edges[0]), "high_edge": float(edges[1]), "rows": int(rows.sum()), "days": days,
        "failing_days": failing, "mean_score": float(mean), "failed": float(rate), "low": low, "high": high,
        "consistent": bool(low <= mean <= high),
    }  # fmt: skip


def _interval(values: Float64[np.ndarray, " resamples"]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _exact(failures: float, days: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, of a number of failures that may be no whole number."""
    alpha = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(alpha, failures, days - failures + 1)) if failures > 0 else 0.0
    high = float(stats.beta.isf(alpha, failures + 1, days - failures)) if failures < days else 1.0
    return low, high
