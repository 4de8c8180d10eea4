"""Series of the table `history` on the joint grid, and the walks that returns are taken from."""

import numpy as np
import polars as pl

from marginax.calendars import Grid


def by_underlying(rows: pl.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times (UTC microseconds, rising) and values of each name."""
    return {
        str(key[0]): (
            part["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]"),
            part["value"].to_numpy(),
        )
        for key, part in rows.partition_by("underlying", as_dict=True, maintain_order=True).items()
    }


def logs(values: np.ndarray) -> np.ndarray:
    """Logarithms; NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(values)


def returns_of(walk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences between each bar and the last known one before it, and how many bars lie between."""
    count, factors = walk.shape
    known = np.where(np.isnan(walk), -1, np.arange(count)[:, None])
    before = np.maximum.accumulate(known, axis=0)[:-1]
    previous = walk[np.maximum(before, 0), np.arange(factors)]
    returns = np.where(before >= 0, walk[1:] - previous, np.nan)
    bars = np.where(before >= 0, np.arange(1, count)[:, None] - before, 1).astype(float)
    return returns, bars


def last_known(walk: np.ndarray) -> np.ndarray:
    """The row at which each factor last had a value; -1 for one that never had."""
    known = ~np.isnan(walk)
    return np.where(known.any(axis=0), len(walk) - 1 - np.argmax(known[::-1], axis=0), -1)


def stamps(grid: Grid, rows: np.ndarray) -> np.ndarray:
    """The time of each row of the grid; NaT where it is -1."""
    return np.where(rows >= 0, grid.times[rows], np.datetime64("NaT", "us"))
