"""What the options of a market are priced with: the volatility of each, and the forward of its expiry.

A volatility is the quote's (the mark's where the two disagree and it is greater), else the one that the mark implies,
else the expiry's smile at the strike, else that of the nearest expiry; where none of these is known there is none,
never zero.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64, Int64

from marginax.expiries import Expiries, market_expiries, quoted_options
from marginax.instruments import Instruments
from marginax.market import LARGEST_VOLATILITY, Market
from marginax.smiles import Smile, fit_smile
from marginax_kernels import bachelier, black76, effective_years, implied_deviation

# A mark tells a volatility only where its time value is worth reading: 1e-4 of the forward is one tick of a
# coin-settled option. Below it the mark's own rounding decides, and a shock that brings the strike near would magnify
# it.
LEAST_TIME_VALUE = 2e-4
# A mark and a quoted volatility contradict each other where they differ by more than these shares of the forward and of
# the larger time value: five times the largest difference among 42,168 quotes of a real chain, whose forward and marks
# are moments apart (docs/examples/deribit_options.md).
LEAST_GAP, GAP_OF_TIME_VALUE = 0.005, 0.25


class VolatilitySource(IntEnum):
    """Where the volatility of an option comes from."""

    QUOTE, MARK, SMILE, OTHER_EXPIRY, NONE = range(5)


@dataclass(frozen=True)
class Chains:
    """The options with a quote, and what each is priced with.

    `instrument` is its number, `expiry` its row of `expiries`, `moneyness` log(strike / forward) (strike - forward
    where the underlying is shocked absolutely), `volatility` NaN where none is known; `contradicted` says that the
    mark is far from what a quoted volatility makes it, and the greater volatility of the two is used.
    """

    instrument: Int64[np.ndarray, " options"]
    expiry: Int64[np.ndarray, " options"]
    moneyness: Float64[np.ndarray, " options"]
    volatility: Float64[np.ndarray, " options"]
    source: Int64[np.ndarray, " options"]
    contradicted: Bool[np.ndarray, " options"]
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
    forward, strike, normal = expiries.forward[group], instruments.strike[chosen], expiries.normal[group]
    worth = np.where(expiries.coin_settled[group], mark * forward, mark / expiries.discount[group])
    with jax.enable_x64(True):
        years = np.asarray(effective_years(expiries.years, window))[group]
        told = _Marks(worth, forward, strike, instruments.kind[chosen] == "call", normal, years)
        contradicted = told.contradict(quoted)
        implied = told.volatilities(np.isnan(quoted) | contradicted)
    # Where the two disagree, the greater volatility: an option must not have less risk because one of them is wrong.
    own = np.isfinite(quoted) & ~(contradicted & (implied > quoted))
    volatility = np.where(own, quoted, implied)
    source = np.where(own, VolatilitySource.QUOTE, VolatilitySource.MARK)
    source = np.where(np.isfinite(volatility), source, VolatilitySource.NONE).astype(np.int64)
    return _filled(
        Chains(chosen, group, _moneyness(strike, forward, normal), volatility, source, contradicted, expiries)
    )


@dataclass(frozen=True)
class _Marks:
    """What options are worth at expiry by their marks, in quote currency, and what they are; arrays over options."""

    worth: np.ndarray
    forward: np.ndarray
    strike: np.ndarray
    call: np.ndarray
    normal: np.ndarray
    years: np.ndarray

    @property
    def intrinsic(self) -> np.ndarray:
        return np.maximum(np.where(self.call, self.forward - self.strike, self.strike - self.forward), 0)

    def volatilities(self, wanted: np.ndarray) -> np.ndarray:
        """What each wanted mark implies; NaN where its time value is too small to read, or breaks its bounds."""
        readable = wanted & (self.worth - self.intrinsic > LEAST_TIME_VALUE * np.abs(self.forward)) & (self.years > 0)
        found = np.full(len(self.worth), np.nan)
        if readable.any():
            deviation = np.asarray(_deviations(self.worth, self.forward, self.strike, self.call, self.normal))
            found[readable] = deviation[readable] / np.sqrt(self.years[readable])
        usable = (found > 0) & (self.normal | (found <= LARGEST_VOLATILITY))
        return np.where(usable, found, np.nan)

    def contradict(self, volatility: np.ndarray) -> np.ndarray:
        """Whether a mark is far from what a quoted volatility makes it; False where none is quoted.

        One of the two is in another unit, or of another day.
        """
        known = np.isfinite(volatility)
        deviation = np.where(known, volatility, 0) * np.sqrt(np.maximum(self.years, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            value = np.where(self.normal, *_values(self.forward, self.strike, deviation, self.call, self.normal))
        time_value = np.maximum(value, self.worth) - self.intrinsic
        gap = np.abs(value - self.worth)
        return known & (gap > LEAST_GAP * np.abs(self.forward)) & (gap > GAP_OF_TIME_VALUE * time_value)


@jax.jit
def _values(forward: Array, strike: Array, deviation: Array, call: Array, normal: Array) -> tuple[Array, Array]:
    """Bachelier's value and Black's, of every option; the one that is not its own means nothing."""
    positive = jnp.where(normal, 1.0, forward), jnp.where(normal, 1.0, strike)
    return bachelier(forward, strike, deviation, call=call), black76(*positive, deviation, call=call)


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
    told = np.unique(group[known])
    able_of = {name: told[chains.expiries.underlying[told] == name] for name in set(chains.expiries.underlying)}
    for k in np.flatnonzero(~known & np.isfinite(place)):
        mine = int(group[k])
        able = able_of[chains.expiries.underlying[mine]]
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
