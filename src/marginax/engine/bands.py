"""Bands: what the stress score of an account asks for, from `healthy` to `liquidate`; thresholds are configured.

An account without a score has no band: its status says why, and it is in no better band for it.
"""

import numpy as np
import polars as pl
from jaxtyping import Float64

from marginax.score_sections import Score

BANDS = ("healthy", "watch", "reduce", "liquidate")
# Weights of k scenarios must reach k / S in float32 too, as those of a tail do: rounding puts nobody in a better band.
SLACK = 1e-5


def bands(scores: Float64[np.ndarray, " accounts"], settings: Score) -> pl.Series:
    """The band of each score, that of the greatest threshold that it reaches; null where there is no score."""
    thresholds = np.array(list(settings.thresholds.values())) * (1 - SLACK)
    places = pl.Series(np.searchsorted(thresholds, scores, side="right"), dtype=pl.UInt32)
    known = pl.Series(~np.isnan(scores))
    chosen = pl.select(pl.when(known).then(places)).to_series()
    return pl.Series("band", BANDS, dtype=pl.String).gather(chosen)


def counts_by_band(table: pl.DataFrame) -> dict[str, int]:
    """How many rows are in each band, and how many in none."""
    found = dict(table.group_by("band").len().iter_rows())
    return {**{band: found.get(band, 0) for band in BANDS}, "none": found.get(None, 0)}
