"""Five underlyings over 541 daily bars, eight portfolios of them, and replays of both.

Returns cluster as a GARCH's do and share a common part. Four underlyings are there from the first bar; the fifth lists
at bar 200. Every history here has the same shape, so that each model is compiled once for the whole suite.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import marginax as mx
from marginax.config import parse_config
from marginax.models.load import model_config
from marginax_calibration.models import BASELINES, load_models
from marginax_calibration.panel import Panel, read_panel
from marginax_calibration.portfolios import Leg, Portfolio, portfolio
from marginax_calibration.replay import Replay, replay

NAMES = ("AAA", "BTC", "CCC", "DDD", "NEW")
BARS, LISTED, LEAST = 541, 200, 250
START = datetime(2021, 1, 1, tzinfo=UTC)
DAYS = tuple(START + timedelta(days=k) for k in range(BARS))
FIGURES = ("var", "es", "charged")
TIME = pl.Datetime("us", "UTC")


@cache
def prices() -> np.ndarray:
    """Closes by bar and underlying; NaN before NEW lists."""
    rng = np.random.default_rng(11)
    draws = 0.7 * rng.standard_t(5, (BARS - 1, 1)) + 0.7 * rng.standard_t(5, (BARS - 1, len(NAMES)))
    variance, moves = np.full(len(NAMES), 0.02**2), []
    for draw in draws:
        moves.append(np.sqrt(variance) * draw * np.sqrt(3 / 5))
        variance = 0.02**2 * 0.04 + 0.08 * moves[-1] ** 2 + 0.88 * variance
    walk = np.cumsum(np.vstack([np.zeros(len(NAMES)), moves]), axis=0)
    closes = np.array([100.0, 40_000.0, 2.5, 0.125, 7.0]) * np.exp(walk)
    closes[:LISTED, 4] = np.nan
    return closes


def table(closes: np.ndarray, names: Sequence[str] = NAMES, days: Sequence[datetime] = DAYS) -> pl.DataFrame:
    """The table `history` of these closes; a bar without a price is no row."""
    wide = pl.DataFrame({"time": pl.Series(days[: len(closes)], dtype=TIME), **dict(zip(names, closes.T, strict=True))})
    rows = wide.unpivot(index="time", variable_name="underlying", value_name="price")
    return rows.filter(pl.col("price").is_not_nan())


@cache
def usual_panel() -> Panel:
    """The panel of `prices`."""
    return panel(prices())


def panel(closes: np.ndarray, names: Sequence[str] = NAMES, absolute: Sequence[str] = ()) -> Panel:
    """A panel of closes."""
    return read_panel(table(closes, names), absolute=absolute)


def held(*, last: str = "NEW") -> dict[str, Portfolio]:
    """Eight linear portfolios; the last three hold the fifth underlying."""
    weights = {
        "long AAA": {"AAA": 1.0},
        "short BTC": {"BTC": -1.0},
        "basket": {"AAA": 1.0, "BTC": 1.0, "CCC": 1.0, "DDD": 1.0},
        "spread": {"CCC": 1.0, "DDD": -1.0},
        "neutral": {"AAA": 0.5, "BTC": -0.8, "DDD": 0.3},
        "long last": {last: 1.0},
        "last and BTC": {"BTC": 0.4, last: -0.6},
        "all but one": {"AAA": 0.1, "BTC": 0.2, "CCC": -0.3, last: 0.4},
    }
    return {
        name: portfolio(name, "own", [Leg(leg, weight) for leg, weight in legs.items()])
        for name, legs in weights.items()
    }


def configured(preset: str, **sections: Mapping[str, Any]) -> mx.MarginModel:
    """A preset with some keys changed."""
    values = model_config(preset).model_dump(mode="json", exclude_defaults=True)
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys}
    return mx.load_model(parse_config(values, "test"))


@cache
def baselines() -> dict[str, mx.MarginModel]:
    """The six baselines as they come."""
    return load_models(BASELINES)


def played(history: Panel, models: Mapping[str, mx.MarginModel] | None = None, **options: Any) -> Replay:
    """The six baselines, or other models, on the eight portfolios of a history, in one stream unless said otherwise."""
    chosen = list(held(last=history.names[-1]).values())
    return replay(models or baselines(), history, chosen, **{"streams": 1, **options})


@cache
def usual() -> Replay:
    """The replay of the history as it is."""
    return played(usual_panel())


def between(first: int, last: int) -> dict[str, np.datetime64]:
    """The rows whose margins are set at these bars, for `replay`."""
    begin, end = (np.datetime64(DAYS[bar + 1].replace(tzinfo=None), "us") for bar in (first, last))
    return {"first_time": begin, "last_time": end}


def at_bar(daily: pl.DataFrame, bar: int) -> dict[tuple[str, str], dict[str, Any]]:
    """By model and portfolio, the row whose margin was set at the close of a bar: that of the next bar's date."""
    rows = daily.filter(pl.col("date") == DAYS[bar + 1].date())
    return {(row["model"], row["portfolio"]): row for row in rows.iter_rows(named=True)}


def known_at(daily: pl.DataFrame, bar: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Everything that was known at the close of a bar: the margins set up to it, and the losses up to it."""
    margins = daily.filter(pl.col("date") <= DAYS[bar + 1].date()).drop("loss")
    return margins, daily.filter(pl.col("date") <= DAYS[bar].date()).drop(*FIGURES)


def write_inputs(folder: Path) -> None:
    """The usual history and the eight portfolios, as files."""
    table(prices()).write_csv(folder / "history.csv")
    legs = [(each.name, each.kind, leg.underlying, leg.weight) for each in held().values() for leg in each.legs]
    rows = pl.DataFrame(legs, schema=["portfolio", "kind", "underlying", "weight"], orient="row")
    rows.write_csv(folder / "portfolios.csv")


def columns(each: Portfolio) -> dict[int, float]:
    """A linear portfolio as the twins take it: weight by column of `prices`."""
    return {NAMES.index(leg.underlying): leg.weight for leg in each.legs}


def optioned(closes: np.ndarray | None = None, **options: Any) -> tuple[Panel, pl.DataFrame]:
    """The panel of AAA and BTC, and the daily table of filtered history on a short straddle and a collar there.

    Spot, forward and index are one price in a replay, so the basis that a margin run knows is set to nothing.
    """
    history = panel(prices()[:, :2] if closes is None else closes, ("AAA", "BTC"))
    chosen = list(with_options().values())
    return history, replay({"fhs": narrow_basis()}, history, chosen, **{"streams": 1, **options}).daily


@cache
def narrow_basis() -> mx.MarginModel:
    """Filtered history without a basis worth the name."""
    return configured("fhs", basis={"volatility": 1e-9, "annualised_volatility": 0.0})


def with_options() -> dict[str, Portfolio]:
    """A short straddle on BTC, and AAA between a put and a call."""
    straddle = [Leg("BTC", -1.0, kind, 0.0, 30.0) for kind in ("call", "put")]
    collar = [Leg("AAA", 1.0), Leg("AAA", 1.0, "put", -1.0, 30.0), Leg("AAA", -1.0, "call", 1.0, 30.0)]
    return {"straddle": portfolio("straddle", "own", straddle), "collar": portfolio("collar", "own", collar)}
