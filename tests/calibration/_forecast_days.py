"""Two underlyings over 420 days whose volatility clusters, and every signal of them."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl

from marginax_calibration.forecasts.features import DailyFeatures, daily_features

DAYS = 420
START = datetime(2021, 1, 1, tzinfo=UTC)
NAMES = ("AAA", "BBB")


@cache
def paths() -> tuple[np.ndarray, np.ndarray]:
    """Log closes and log ranges of two underlyings whose volatility clusters."""
    rng = np.random.default_rng(3)
    volatility = 0.03 * np.exp(0.5 * np.cumsum(rng.normal(0, 0.15, (DAYS, 2)), axis=0).clip(-2, 2))
    inside = volatility[..., None] * rng.standard_normal((DAYS, 2, 24)) / np.sqrt(24)
    walk = np.concatenate([np.zeros((DAYS, 2, 1)), np.cumsum(inside, -1)], -1)
    return np.cumsum(walk[..., -1], axis=0), walk.max(-1) - walk.min(-1)


def times(count: int = DAYS) -> list[datetime]:
    return [START + timedelta(days=k) for k in range(count)]


def history() -> pl.DataFrame:
    closes, _ = paths()
    wide = pl.DataFrame({"time": times(), **{name: np.exp(closes[:, k]) for k, name in enumerate(NAMES)}})
    return wide.unpivot(index="time", variable_name="underlying", value_name="price")


def signal(name: str, values: np.ndarray, underlying: str | None = None) -> pl.DataFrame:
    schema = {"time": pl.Datetime("us", "UTC"), "name": pl.String, "underlying": pl.String, "value": pl.Float64}
    count = len(values)
    rows = {"time": times(count), "name": [name] * count, "underlying": [underlying] * count, "value": values}
    return pl.DataFrame(rows, schema=schema)


def signals() -> pl.DataFrame:
    rng = np.random.default_rng(4)
    _, ranges = paths()
    own = [signal("range", ranges[:, k], name) for k, name in enumerate(NAMES)]
    volume = [signal("volume", np.exp(rng.normal(3, 1, DAYS)), name) for name in NAMES]
    common = [signal("funding", rng.normal(1e-4, 1e-4, DAYS)), signal("sentiment", rng.uniform(0, 100, DAYS))]
    return pl.concat([*own, *volume, *common])


@cache
def features() -> DailyFeatures:
    return daily_features(history(), signals())
