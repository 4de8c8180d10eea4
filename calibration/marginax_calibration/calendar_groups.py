"""Portfolios by the calendar that they keep: a coin trades on Sundays, and a portfolio of coins has Sundays.

A portfolio keeps the calendar of the slowest of its legs; what the others did in between comes with its next bar. Those
of one calendar are replayed together, on a panel of their own, so that what nobody among them holds moves no bar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from marginax.calendars import SAME, paces
from marginax_calibration.panel import Panel, panel_of
from marginax_calibration.portfolios import Portfolio
from marginax_calibration.prices import Prices


@dataclass(frozen=True)
class CalendarGroup:
    """Portfolios that keep one calendar, and the panel on it.

    `between` counts the prices, by underlying, that fall between its bars; `inputs` are the hashes of all files read.
    """

    panel: Panel
    portfolios: tuple[Portfolio, ...]
    between: dict[str, int]
    inputs: dict[str, str]


def calendar_groups(
    prices: Prices, portfolios: Sequence[Portfolio], inputs: Mapping[str, str] | None = None
) -> list[CalendarGroup]:
    """Portfolios grouped by calendar, the slowest first; `inputs` are hashes of other files than those of the prices.

    Where bars of what is held are of different lengths (hours and days, days and weeks) all keep the slowest: margins
    for horizons that differ are not judged together. Raises BadInput for a calendar of less than two bars.
    """
    held = {name for each in portfolios for name in each.underlyings}
    pace = paces(prices.rows.filter(pl.col("underlying").is_in(list(held))))
    weekly = _levels(dict(pace.select("underlying", "bars_per_week").iter_rows()))
    one_length = pace["bars_per_day"].n_unique() == 1
    members: dict[float, list[Portfolio]] = {}
    for each in portfolios:
        members.setdefault(min(weekly[name] for name in each.underlyings) if one_length else 0.0, []).append(each)
    files = prices.digests | dict(inputs or {})
    return [_group(prices, tuple(members[level]), files) for level in sorted(members)]


def _levels(weekly: dict[str, float]) -> dict[str, float]:
    """Bars a week, those that count as one calendar made equal."""
    levels, base = {}, -np.inf
    for name, bars in sorted(weekly.items(), key=lambda item: item[1]):
        base = bars if bars > base * (1 + SAME) or base < 0 else base
        levels[name] = base
    return levels


def _group(prices: Prices, portfolios: tuple[Portfolio, ...], inputs: dict[str, str]) -> CalendarGroup:
    held = sorted({name for each in portfolios for name in each.underlyings})
    panel = panel_of(prices, held)
    given = dict(prices.rows.group_by("underlying").len().iter_rows())
    kept = {name: int((~np.isnan(panel.prices[:, panel.names.index(name)])).sum()) for name in held}
    between = {name: given[name] - kept[name] for name in held if given[name] > kept[name]}
    return CalendarGroup(panel, portfolios, between, inputs)
