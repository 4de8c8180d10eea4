"""Ten years of daily bars of twenty underlyings that move together, and how many portfolios hold them."""

import numpy as np
import polars as pl

from marginax_calibration.panel import Panel, read_panel

BARS, UNDERLYINGS, PORTFOLIOS = 3_650, 20, 200
NAMES = [f"U{k:02d}" for k in range(UNDERLYINGS)]


def market(seed: int = 7) -> Panel:
    """Correlated GARCH-like returns: a common t(4) volatility factor and one of each underlying's own."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(BARS)
    moves = np.empty((BARS, UNDERLYINGS))
    variance = np.ones(UNDERLYINGS)
    for t in range(BARS):
        shock = 0.7 * common[t] + 0.7 * rng.standard_t(5, UNDERLYINGS) * np.sqrt(3 / 5)
        moves[t] = np.sqrt(variance) * shock
        variance = 0.03 + 0.09 * moves[t] ** 2 + 0.88 * variance
    prices = np.exp(np.cumsum(0.03 * moves, axis=0))
    times = np.datetime64("2015-01-01") + np.arange(BARS) * np.timedelta64(1, "D")
    wide = pl.DataFrame(prices, schema=NAMES).with_columns(time=pl.Series(times))
    return read_panel(wide.unpivot(index="time", variable_name="underlying", value_name="price"))
