"""Options in a scenario as a specification: one option, one scenario at a time, by the printed formulas.

Conventions: a forward is in the option's quote currency; `volatility` is a year's, and a year is 365 days; marks are in
quote currency, in coins where an option is settled in its coin. A scenario moves the price of the underlying and of
the quote currency, the basis of the expiry, and the 30-day volatility; time passes on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import exp, log, sqrt
from typing import Any

from reference.black import bachelier, black76

YEAR = timedelta(days=365)
LEAST_BASIS = -0.99


@dataclass(frozen=True)
class Moves:
    """What one scenario does: shocks of the price, the basis and the volatility; prices before and after.

    `price` is a logarithm, or units of price where `absolute`; then `level` is what a relative basis moves. `index` and
    the quote currency's price before (`quote`) and after (`quote_then`) are in account currency.
    """

    price: float
    basis: float
    volatility: float
    index: float
    quote: float
    quote_then: float
    absolute: bool
    level: float


@dataclass(frozen=True)
class Conventions:
    """How time passes and volatility scales; days are calendar days."""

    as_of: datetime
    days: float
    window_minutes: float = 0.0
    reference_days: float = 30.0
    shortest_days: float = 1.0
    short_power: float = 0.3
    long_power: float = 0.13


@dataclass(frozen=True)
class Priced:
    """What an option is priced with: the forward in quote currency, the discount to today, and the volatility."""

    forward: float
    discount: float
    volatility: float


def in_coins(terms: Mapping[str, Any]) -> bool:
    """Whether marks are in coins: inverse settlement."""
    return bool(terms["settlement"] == "inverse")


def years_left(terms: Mapping[str, Any], conventions: Conventions) -> float:
    """Years to expiry at the time of the margin."""
    return float((terms["expiry"] - conventions.as_of) / YEAR)


def variance_years(years: float, window_minutes: float) -> float:
    """Years of variance in a settlement price that is the mean over a window before expiry."""
    window = window_minutes / (365 * 24 * 60)
    if window == 0:
        return years
    return years - window * 2 / 3 if years >= window else years**3 / (3 * window**2)


def value(terms: Mapping[str, Any], forward: float, discount: float, deviation: float, *, normal: bool) -> float:
    """The mark of an option by the formula: discounted, undiscounted like a future, or in coins."""
    formula = bachelier if normal else black76
    undiscounted = formula(forward, terms["strike"], deviation, terms["kind"] == "call")
    if in_coins(terms):
        return undiscounted / forward
    return undiscounted if terms.get("premium") == "futures_style" else discount * undiscounted


def model_price(terms: Mapping[str, Any], priced: Priced, conventions: Conventions, *, normal: bool) -> float:
    """The mark by the formula today."""
    years = years_left(terms, conventions)
    deviation = priced.volatility * sqrt(variance_years(years, conventions.window_minutes))
    return value(terms, priced.forward, priced.discount, deviation, normal=normal)


def scaling(years: float, conventions: Conventions) -> float:
    """How much more a near expiry's volatility moves than the 30-day one, a far one's less."""
    ratio = conventions.reference_days / max(365 * years, conventions.shortest_days)
    return float(ratio ** (conventions.short_power if ratio > 1 else conventions.long_power))


def volatility_multiple(move: float, years: float, conventions: Conventions) -> float:
    """A rise is scaled as a relative move, a fall as a power."""
    scale = scaling(years, conventions)
    return 1 + (exp(move) - 1) * scale if move > 0 else exp(move) ** scale


def forward_then(forward: float, moves: Moves) -> float:
    """The forward in the scenario: with the price, the basis, and against the quote currency."""
    basis = max(moves.basis, LEAST_BASIS)
    if moves.absolute:
        return (forward * moves.quote + moves.price + basis * moves.level) / moves.quote_then
    return forward * exp(moves.price) * (1 + basis) * moves.quote / moves.quote_then


def settlement_price(years: float, moves: Moves, window_minutes: float) -> float:
    """The index that an option settles on: what is fixed of the average stays, the rest moves with the scenario."""
    then = moves.index + moves.price if moves.absolute else moves.index * exp(moves.price)
    window = window_minutes / (365 * 24 * 60)
    to_come = min(years / window, 1.0) if window > 0 else 1.0
    return (1 - to_come) * moves.index / moves.quote + to_come * then / moves.quote_then


def mark_then(terms: Mapping[str, Any], mark: float, priced: Priced, moves: Moves, conventions: Conventions) -> float:
    """The mark at the end of the horizon: today's plus the change of the formula, or what it settles at.

    What expires within the horizon pays its intrinsic value on the index, in full.
    """
    years = years_left(terms, conventions)
    later = years - conventions.days / 365
    normal = moves.absolute
    if later <= 0:
        settled = settlement_price(years, moves, conventions.window_minutes)
        return value(terms, settled, 1.0, 0.0, normal=normal)
    deviation = priced.volatility * sqrt(variance_years(later, conventions.window_minutes))
    deviation *= volatility_multiple(moves.volatility, years, conventions)
    discount = exp(log(priced.discount) * later / years)
    then = value(terms, forward_then(priced.forward, moves), discount, deviation, normal=normal)
    return mark + then - model_price(terms, priced, conventions, normal=normal)
