"""The rivals of a network: each forecasts from what is known, and HAR on ranges is least squares by hand."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from calibration._forecast_days import START, features, history, signals
from marginax_calibration.forecasts import rivals
from marginax_calibration.forecasts.features import daily_features

REFITS = np.array([300, 360])


@pytest.mark.parametrize("rival", [rivals.ewma, rivals.garch, rivals.har_squares, rivals.har_ranges])
def test_a_rival_forecasts_from_what_is_known(rival) -> None:
    """What comes after the row of a forecast changes none of its bits; before the first refit there is none."""
    found = rival(features(), REFITS)
    assert np.isnan(found[:300]).all()
    assert (found[300:] > 0).all()
    last = 380
    later = pl.col("time") > START + timedelta(days=last)
    moved = history().with_columns(pl.when(later).then(pl.col("price") ** 3).otherwise("price").alias("price"))
    wild = signals().with_columns(pl.when(later).then(pl.col("value") * 3).otherwise("value").alias("value"))
    other = rival(daily_features(moved, wild), REFITS)
    np.testing.assert_allclose(other[: last + 1], found[: last + 1], rtol=1e-13)
    assert not np.allclose(other[last + 1 :], found[last + 1 :])


def test_har_on_ranges_is_least_squares_of_logarithms() -> None:
    found = rivals.har_ranges(features(), REFITS[:1])
    variance, squares = features().range_variance[:, 0], features().returns[:, 0] ** 2
    rows = []
    for t in range(300):
        parts = [variance[t], np.mean(variance[max(t - 4, 0) : t + 1]), np.mean(variance[max(t - 21, 0) : t + 1])]
        rows.append([1.0, *np.log(parts)])
    slopes = np.linalg.lstsq(np.array(rows), np.log(variance[1:301]), rcond=None)[0]
    fitted = np.exp(np.array(rows) @ slopes)
    level = np.mean(squares[22:301] / fitted[21:300])
    today = [1.0, *np.log([variance[350], variance[346:351].mean(), variance[329:351].mean()])]
    assert found[350, 0] == pytest.approx(level * np.exp(today @ slopes), rel=1e-9)
