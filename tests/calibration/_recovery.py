"""Markets whose law is known: GARCH(1,1) with Student t innovations, held one way and the other."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from calibration._histories import START, configured
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.fit import Fit, fit
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.state import Settings
from marginax_calibration.panel import read_panel
from marginax_calibration.portfolios import Leg, portfolio

KEYS = ("filter.alpha", "filter.beta")
TRUTH = {"filter.alpha": 0.1, "filter.beta": 0.85}
BARS, UNDERLYINGS, FREEDOM, SIGMA = 1400, 4, 6.0, 0.02
SCORE = Weights(fz0=1.0, coverage=0.0, cost=0.0, uncovered=0.0, procyclicality=0.0, anchor=0.0, pooling=0.0)


def market(seed: int) -> CalendarGroup:
    """Independent underlyings of one law, each held long and short."""
    rng = np.random.default_rng([seed, 77])
    alpha, beta = TRUTH.values()
    innovations = rng.standard_t(FREEDOM, (BARS + 300, UNDERLYINGS)) * np.sqrt((FREEDOM - 2) / FREEDOM)
    variance, returns = np.full(UNDERLYINGS, SIGMA**2), []
    for each in innovations:
        returns.append(np.sqrt(variance) * each)
        variance = (1 - alpha - beta) * SIGMA**2 + alpha * returns[-1] ** 2 + beta * variance
    walk = np.cumsum(returns[300:], axis=0)
    names = [f"U{k}" for k in range(UNDERLYINGS)]
    days = pl.Series([START + timedelta(days=k) for k in range(BARS)], dtype=pl.Datetime("us", "UTC"))
    wide = pl.DataFrame({"time": days, **dict(zip(names, 100 * np.exp(walk.T), strict=True))})
    panel = read_panel(wide.unpivot(index="time", variable_name="underlying", value_name="price"))
    held = [portfolio(f"{sign:+d} {name}", "own", [Leg(name, float(sign))]) for name in names for sign in (1, -1)]
    return CalendarGroup(panel, tuple(held), {}, {"market": str(seed)})


def fitted(seed: int, *, alpha: float, beta: float, others: Any = (), steps: int = 12, **options: Any) -> Fit:
    """A fit by the score alone on one market, from a start of one's own."""
    config = configured(
        "fhs",
        risk={"tail": 0.05, "charge_tail": 0.05},
        scenarios={"window": 400, "least_bars": 100, "volatility_floor": 0.0, "denominator_floor": 0.0},
        filter={"kind": "garch", "alpha": alpha, "beta": beta},
    ).settings
    starts = 1 + len(others)
    search = Settings("lbfgs", steps, starts=starts, check_every=4, softness=(0.02, 0.02), seed=seed)
    return fit(
        config, [market(seed)], objective=SCORE, settings=search, keys=KEYS, check_share=0.0, others=others,
        streams=1, **options,
    )  # fmt: skip
