"""How contracts move against their index: one basis factor per perpetual, dated future and expiry of options.

The forward of an expiry moves by the factor of the future that expires with it, where one is listed, so that options
and futures of one expiry hedge one another and those of different expiries do not. A walk is the basis relative to the
index; NaN where nothing of it is known, and then `noise`, a volatility per bar, stands in.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from marginax.calendars import Grid, on_grid
from marginax.instruments import Instruments
from marginax.sections import Basis
from marginax.series import by_underlying, logs

YEAR = np.timedelta64(365, "D")


@dataclass(frozen=True)
class Dated:
    """What a basis factor is of: its name, the column of its underlying, and years to expiry (0 for a perpetual)."""

    name: str
    underlying: str
    column: int
    years: float
    perpetual: bool


@dataclass(frozen=True)
class BasisWalks:
    """Factor names, walks (bars x factors) and stand-in volatilities per bar."""

    names: list[str]
    walks: np.ndarray
    noise: np.ndarray


def forward_factors(instruments: Instruments) -> np.ndarray:
    """The basis factor that the forward of each option moves by (empty for what is none).

    It is that of a future of its expiry: of several the first in the option's own quote currency, else the first; and
    without any the expiry's own.
    """
    keys = list(zip(instruments.underlying, instruments.expiry.astype(np.int64), instruments.quote, strict=True))
    first: dict[tuple[object, ...], str] = {}
    for k in np.flatnonzero(instruments.kind == "future"):
        for key in (keys[k], keys[k][:2]):
            first.setdefault(key, f"basis:{instruments.ids[k]}")
    names = np.full(len(instruments), "", object)
    stamps = np.datetime_as_string(instruments.expiry, unit="m")
    for k in np.flatnonzero(instruments.is_option):
        own = f"basis:{instruments.underlying[k]}:{stamps[k]}"
        names[k] = first.get(keys[k], first.get(keys[k][:2], own))
    return names


def basis_walks(
    history: pl.DataFrame,
    instruments: Instruments,
    underlyings: list[str],
    grid: Grid,
    *,
    paths: np.ndarray,
    levels: np.ndarray,
    absolute: np.ndarray,
    settings: Basis,
    as_of: np.datetime64,
) -> BasisWalks:
    """The basis factors of the instruments listed on these underlyings, from the history's basis and forward rows."""
    stated = by_underlying(history.filter(pl.col("factor") == "basis"))
    tenors = history.filter(pl.col("factor").str.starts_with("forward:"))
    forwards = {
        str(key[0]): by_underlying(part)
        for key, part in tenors.partition_by("factor", as_dict=True, maintain_order=True).items()
    }
    walks, noise = [], []
    dated = _dated(instruments, underlyings, as_of)
    for each in dated:
        walk = np.full(len(grid.times), np.nan)
        source = stated.get(each.name.removeprefix("basis:"))
        source = source or (stated.get(each.underlying) if each.perpetual else None)
        if source is not None:
            walk = on_grid(grid, *source)
        elif not each.perpetual:
            near = _nearest_tenor(forwards, each.underlying, each.years)
            if near is not None:
                tenor, series = near
                forward, spot = on_grid(grid, *series), paths[:, each.column]
                yearly = (forward - spot) / levels[each.column] if absolute[each.column] else logs(forward / spot)
                walk = yearly / tenor * each.years
        walks.append(walk)
        daily = np.hypot(settings.volatility, settings.annualised_volatility * each.years)
        noise.append(daily / np.sqrt(grid.bars_per_day))
    shape = (len(dated), len(grid.times))
    return BasisWalks([each.name for each in dated], np.array(walks).reshape(shape).T, np.array(noise, float))


def _dated(instruments: Instruments, underlyings: list[str], as_of: np.datetime64) -> list[Dated]:
    """Perpetuals and futures in instrument order, then the expiries of options that no future shares."""
    place = {name: k for k, name in enumerate(underlyings)}
    known = np.array([name in place for name in instruments.underlying], bool)
    found: dict[str, Dated] = {}
    forwards = forward_factors(instruments)
    for which in (instruments.has_basis, instruments.is_option):
        for k in np.flatnonzero(which & known):
            name = forwards[k] or f"basis:{instruments.ids[k]}"
            perpetual = instruments.kind[k] == "perpetual"
            years = 0.0 if perpetual else float(max((instruments.expiry[k] - as_of) / YEAR, 0.0))
            underlying = str(instruments.underlying[k])
            found.setdefault(name, Dated(name, underlying, place[underlying], years, perpetual))
    return list(found.values())


def _nearest_tenor(
    forwards: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], underlying: str, years: float
) -> tuple[float, tuple[np.ndarray, np.ndarray]] | None:
    tenors = [(_tenor_years(name), rows[underlying]) for name, rows in forwards.items() if underlying in rows]
    if not tenors:
        return None
    return min(tenors, key=lambda pair: abs(np.log(pair[0] / max(years, 1 / 365))))


def _tenor_years(factor: str) -> float:
    tenor = factor.removeprefix("forward:")
    return float(tenor[:-1]) * {"d": 1 / 365, "w": 7 / 365, "m": 1 / 12, "y": 1.0}[tenor[-1].lower()]
