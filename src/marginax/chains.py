"""What the options of a market are priced with: the volatility of each, and the forward of its expiry.

A volatility is the quote's, else the one that the mark implies, else the expiry's smile at the strike, else that of the
nearest expiry; where none of these is known there is none, never zero.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache

import jax
import numpy as np
from jaxtyping import Array, Float64, Int64

from marginax.expiries import Expiries, market_expiries, quoted_options
from marginax.instruments import Instruments
from marginax.market import LARGEST_VOLATILITY, Market
from marginax.smiles import Smile, fit_smile
from marginax_kernels import effective_years, implied_deviation

# A mark tells a volatility only where its time value is worth reading: 1e-4 of the forward is one tick of a
# coin-settled option. Below it the mark's own rounding decides, and a shock that brings the strike near would magnify
# it.
LEAST_TIME_VALUE = 2e-4


class VolatilitySource(IntEnum):
    """Where the volatility of an option comes from."""

    QUOTE, MARK, SMILE, OTHER_EXPIRY, NONE = range(5)


@dataclass(frozen=True)
class Chains:
    """The options with a quote, and what each is priced with.

    `instrument` is its number, `expiry` its row of `expiries`, `moneyness` log(strike / forward) (strike - forward
    where the underlying is shocked absolutely), `volatility` NaN where none is known.
    """

    instrument: Int64[np.ndarray, " options"]
    expiry: Int64[np.ndarray, " options"]
    moneyness: Float64[np.ndarray, " options"]
    volatility: Float64[np.ndarray, " options"]
    source: Int64[np.ndarray, " options"]
    expiries: Expiries

    def smile(self, expiry: int) -> Smile | None:
        """The smile through the known volatilities of an expiry; None without any, or for a normal underlying."""
        mine = (self.expiry == expiry) & np.isfinite(self.volatility) & np.isfinite(self.moneyness)
        mine &= self.source <= VolatilitySource.MARK
        years = float(self.expiries.years[expiry])
        if not mine.any() or self.expiries.normal[expiry] or years <= 0:
            return None
        return fit_smile(self.moneyness[mine], self.volatility[mine], years)


def market_chains(instruments: Instruments, market: Market, *, window: float = 0.0) -> Chains:
    """The chains of all options that have a quote and an underlying; settlement averages the last `window` years."""
    stated = dict(market.quotes.select("instrument_id", "implied_vol").iter_rows())
    chosen, mark = quoted_options(instruments, market)
    quoted = np.array([stated[instruments.ids[k]] for k in chosen], float)
    expiries, group = market_expiries(instruments, market, chosen, mark)
    with jax.enable_x64(True):
        years = np.asarray(effective_years(expiries.years, window))[group]
    volatility, source = quoted.copy(), np.full(len(chosen), int(VolatilitySource.QUOTE))
    missing = np.flatnonzero(np.isnan(quoted))
    if len(missing):
        volatility[missing], source[missing] = _from_marks(
            instruments, chosen[missing], expiries, group[missing], mark[missing], years[missing]
        )
    strike = instruments.strike[chosen]
    moneyness = _moneyness(strike, expiries.forward[group], expiries.normal[group])
    return _filled(Chains(chosen, group, moneyness, volatility, source, expiries))


def _from_marks(
    instruments: Instruments,
    chosen: np.ndarray,
    expiries: Expiries,
    group: np.ndarray,
    mark: np.ndarray,
    years: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The volatility that each mark implies; NaN where its time value is too small to read, or breaks its bounds."""
    forward, strike = expiries.forward[group], instruments.strike[chosen]
    call = instruments.kind[chosen] == "call"
    normal = expiries.normal[group]
    coin = expiries.coin_settled[group]
    value = np.where(coin, mark * forward, mark / expiries.discount[group])
    intrinsic = np.maximum(np.where(call, forward - strike, strike - forward), 0)
    readable = (value - intrinsic > LEAST_TIME_VALUE * np.abs(forward)) & (years > 0)
    found = np.full(len(chosen), np.nan)
    if readable.any():
        with jax.enable_x64(True):
            deviation = np.asarray(_deviations(value, forward, strike, call, normal))
        found[readable] = deviation[readable] / np.sqrt(years[readable])
    usable = (found > 0) & (normal | (found <= LARGEST_VOLATILITY))
    return np.where(usable, found, np.nan), np.where(usable, VolatilitySource.MARK, VolatilitySource.NONE)


@jax.jit
def _deviations(value: Array, forward: Array, strike: Array, call: Array, normal: Array) -> Array:
    """One program for every option of a market: run loose, its loop would be lowered anew in every run."""
    return implied_deviation(value, forward, strike, call=call, normal=normal)


def _moneyness(strike: np.ndarray, forward: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """log(K / F); K - F for normal underlyings."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(normal, strike - forward, np.log(np.where(normal, 1.0, strike / forward)))


def _filled(chains: Chains) -> Chains:
    """Missing volatilities from the smile of the expiry, else from the expiry of the same underlying nearest in time.

    Between expiries the moneyness is counted in square roots of time; a normal underlying takes the volatility of the
    nearest strike of the nearest expiry.
    """
    volatility, source, place, group = chains.volatility.copy(), chains.source.copy(), chains.moneyness, chains.expiry
    known = np.isfinite(volatility)
    years, smile = np.maximum(chains.expiries.years, 1e-9), cache(chains.smile)
    for k in np.flatnonzero(~known & np.isfinite(place)):
        mine = int(group[k])
        able = np.unique(group[known & (chains.expiries.underlying[group] == chains.expiries.underlying[mine])])
        if not len(able):
            continue
        far = np.where(able == mine, -1.0, np.abs(np.log(years[able] / years[mine])))
        nearest = int(able[np.argmin(far)])
        fitted = smile(nearest)
        if fitted is not None:
            volatility[k] = fitted.at(np.array([place[k] * np.sqrt(years[nearest] / years[mine])]))[0]
        else:
            there = np.flatnonzero(known & (group == nearest))
            volatility[k] = volatility[there[np.argmin(np.abs(place[there] - place[k]))]]
        source[k] = VolatilitySource.SMILE if nearest == mine else VolatilitySource.OTHER_EXPIRY
    return replace(chains, volatility=volatility, source=source)
