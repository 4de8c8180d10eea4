"""What a scenario does to the mark of an option: full repricing, from what it is worth now.

An option is priced on the forward of its own expiry: Black-76, or Bachelier where the underlying is shocked absolutely.
The forward follows the price of its underlying, a basis factor and the quote currency; the volatility its factor,
scaled by time to expiry; time passes over the horizon. What expires inside it settles at its intrinsic value, on the
index of its own hour, and hedges nothing after it. Marks are in quote currency, in coins where options are coin-settled
(value / forward); all is undiscounted before that.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from marginax.sections import Options, Volatility
from marginax_kernels import bachelier, black76, effective_years, reprice_bachelier, reprice_black76, unfixed_share

# A basis of -99 % is a contract at a hundredth of its index: beyond it a mark would pass through zero.
LEAST_BASIS = -0.99
DAYS_A_YEAR = 365.0
MINUTES_A_YEAR = DAYS_A_YEAR * 24 * 60
# Where volatility moves along with the forward, a strike keeps at least this share of its own: a smile read far from
# its quotes must not make an option riskless.
LEAST_SHARE = 0.2
# Smiles are read at this many points, evenly spaced between the ends of what a scenario may reach.
SMILE_POINTS, SMILE_REACH = 129, 1.5


class OptionArrays(eqx.Module):
    """Options of one pricing law by number, and their expiries.

    `row` is the instrument, `expiry` the row of the arrays over expiries; `volatility` is a year's. `underlying` and
    `quote` point at assets, `basis`, `factor` (implied volatility) and `paths` at factors, one past the last for none.
    `paths` are those to the settlements of the same underlying up to that of the expiry, nearest first, `path_years`
    the years to them. `forward` is in quote currency; `coin` says that marks are in coins; `smile` (volatility at
    `SMILE_POINTS` of log-moneyness within +-`SMILE_REACH`) is there where volatility moves along with the forward.
    `normal` is Bachelier's law.
    """

    row: Int[Any, " options"]
    expiry: Int[Any, " options"]
    strike: Float[Any, " options"]
    volatility: Float[Any, " options"]
    call: Bool[Any, " options"]
    underlying: Int[Any, " expiries"]
    quote: Int[Any, " expiries"]
    basis: Int[Any, " expiries"]
    factor: Int[Any, " expiries"]
    paths: Int[Any, "expiries settlements"]
    path_years: Float[Any, "expiries settlements"]
    forward: Float[Any, " expiries"]
    discount: Float[Any, " expiries"]
    years: Float[Any, " expiries"]
    coin: Bool[Any, " expiries"]
    smile: Float[Any, "expiries points"] | None
    normal: bool = eqx.field(static=True)
    days_per_trading_day: float = eqx.field(static=True)


class OptionPricing(eqx.Module):
    """How volatility is scaled and time passes; every number is a leaf but the switch `sticky_strike`."""

    stickiness: Float[Any, ""]
    window_years: Float[Any, ""]
    reference_days: Float[Any, ""]
    shortest_days: Float[Any, ""]
    short_power: Float[Any, ""]
    long_power: Float[Any, ""]
    sticky_strike: bool = eqx.field(static=True)

    @classmethod
    def from_settings(cls, options: Options | None = None, volatility: Volatility | None = None) -> "OptionPricing":
        """The pricing that a configuration describes."""
        options, volatility = options or Options(), volatility or Volatility()
        return cls(
            stickiness=np.asarray(options.stickiness),
            window_years=np.asarray(options.settlement_window_minutes / MINUTES_A_YEAR),
            reference_days=np.asarray(volatility.reference_days),
            shortest_days=np.asarray(volatility.shortest_days),
            short_power=np.asarray(volatility.short_power),
            long_power=np.asarray(volatility.long_power),
            sticky_strike=options.stickiness == 0,
        )

    def scaling(self, years: Float[Array, " expiries"]) -> Float[Array, " expiries"]:
        """(reference / days)^p: how much more the volatility of a near expiry moves than the 30-day one."""
        ratio = self.reference_days / jnp.maximum(years * DAYS_A_YEAR, self.shortest_days)
        return jnp.where(ratio > 1, ratio**self.short_power, ratio**self.long_power)


class Prices(eqx.Module):
    """What scenarios do to prices, by asset (the account currency last): price now, its change, and the raw shocks.

    The shock of a path to a settlement is NaN where all of a move comes before it.
    """

    now: Float[Array, "assets 1"]
    change: Float[Array, "assets scenarios"]
    factors: Float[Array, "factors scenarios"]
    level: Float[Array, " underlyings"]


def mark_changes(
    options: OptionArrays,
    mark: Float[Array, " options"],
    prices: Prices,
    pricing: OptionPricing,
    *,
    horizon_days: float,
) -> Float[Array, "options scenarios"]:
    """What each scenario adds to the mark of each option, over a horizon in trading days.

    Units: marks and changes in quote currency (coins where coin-settled). Gradient: exact in shocks, volatilities and
    forwards; zero through the choice of what expires inside the horizon.
    """
    passed = horizon_days * options.days_per_trading_day / DAYS_A_YEAR
    settles = options.years <= passed
    later = jnp.maximum(options.years - passed, 0)
    multiple = _volatility_multiple(options, prices, pricing)
    deviation = options.volatility * jnp.sqrt(effective_years(later, pricing.window_years))[options.expiry]
    deviation = jnp.where(settles[options.expiry], 0, deviation)
    own = options.forward[options.expiry]
    now_deviation = options.volatility * jnp.sqrt(effective_years(options.years, pricing.window_years))[options.expiry]
    terms = {"strike": options.strike, "call": options.call}
    if options.normal:
        forward = _absolute_forward(options, prices, pricing, settles, passed)
        move = forward - options.forward[:, None]
        then = reprice_bachelier(move, multiple, options.expiry, own, deviation=deviation, **terms)
        now = bachelier(own, options.strike, now_deviation, call=options.call)
    else:
        log_move = _log_move(options, prices, pricing, settles, passed)
        if pricing.sticky_strike:
            then = reprice_black76(log_move, multiple, options.expiry, own, deviation=deviation, **terms)
        else:
            moved = _moved_volatility(options, log_move, pricing) * (deviation / options.volatility)[:, None]
            forward = options.forward[:, None] * jnp.exp(log_move)
            then = black76(
                forward[options.expiry],
                options.strike[:, None],
                moved * multiple[options.expiry],
                call=options.call[:, None],
            )
        now = black76(own, options.strike, now_deviation, call=options.call)
        # Only coins divide by the forward; a discount of one currency to another cancels there.
        unit = jnp.where(options.coin[:, None], options.forward[:, None] * jnp.exp(log_move), 1)
        then = then / unit[options.expiry]
        now = now / jnp.where(options.coin[options.expiry], own, 1)
    rate = jnp.where(options.coin, 0, jnp.log(options.discount) / jnp.where(options.years > 0, options.years, 1))
    then = then * jnp.exp(rate * later)[options.expiry][:, None]
    now = now * jnp.exp(rate * options.years)[options.expiry]
    # What settles is paid in full, whatever the mark was worth by the formula.
    return then - jnp.where(settles[options.expiry], mark, now)[:, None]


def _volatility_multiple(options: OptionArrays, prices: Prices, pricing: OptionPricing) -> Array:
    """What each scenario multiplies the volatilities of an expiry by: scaled upwards linearly, downwards by powers.

    Both have the slope of the scaling at no move; powers upwards would make a week's volatility explode, a line
    downwards would pass through zero.
    """
    moves, scaling = prices.factors[options.factor], pricing.scaling(jnp.asarray(options.years))[:, None]
    up, down = jnp.maximum(moves, 0), jnp.minimum(moves, 0)
    return jnp.where(moves > 0, 1 + jnp.expm1(up) * scaling, jnp.exp(down * scaling))


def _at_settlement(
    options: OptionArrays, prices: Prices, pricing: OptionPricing, passed: float
) -> Float[Array, "expiries scenarios"]:
    """The shock of each underlying up to the settlement of its expiry, `passed` years being the whole horizon.

    A Brownian bridge. With f the share of the horizon: f x shock, which is what the shock tells, and what it does not,
    with the covariance f (1 - g) of settlements at f <= g: the sum, over the settlements up to this one, of their paths
    times (1 - f) sqrt((g - g') / ((1 - g) (1 - g'))), g' that before g. Each path has the law of the shock and is
    independent of it and of the others. An average over the last hours has the variance of an earlier time.
    """
    shock = prices.factors[options.underlying]

    def share_at(years: Array) -> Array:
        window = jnp.minimum(pricing.window_years, years)
        return jnp.clip((years - 2 * window / 3) / passed, 0, 1) if passed > 0 else jnp.ones_like(years)

    share = share_at(jnp.asarray(options.years))
    told, before = share[:, None] * shock, jnp.zeros_like(share)
    known = jnp.ones(shock.shape, bool)
    for k in range(options.paths.shape[1]):
        path, at = prices.factors[options.paths[:, k]], share_at(jnp.asarray(options.path_years)[:, k])
        step, left = jnp.maximum(at - before, 0), (1 - at) * (1 - before)
        # Padding is at the share zero, and what settles at the end of the horizon is told by the shock alone.
        some = (step > 0) & (share < 1) & (left > 0)
        size = jnp.where(some, (1 - share) * jnp.sqrt(jnp.where(some, step, 1) / jnp.where(some, left, 1)), 0)
        has = ~jnp.isnan(path)
        told = told + size[:, None] * jnp.where(has, path, 0)
        known, before = known & has, jnp.maximum(at, before)
    return jnp.where(known, told, shock)


def _log_move(options: OptionArrays, prices: Prices, pricing: OptionPricing, settles: Array, passed: float) -> Array:
    """log(forward in the scenario / forward now), in quote currency; the index where the expiry settles."""
    shock = prices.factors[options.underlying]
    quote_move = jnp.log1p(prices.change[options.quote] / prices.now[options.quote])
    basis = jnp.log1p(jnp.maximum(prices.factors[options.basis], LEAST_BASIS))
    index = prices.now[options.underlying] / prices.now[options.quote]
    gap = jnp.log(index[:, 0] / options.forward)[:, None]
    share = unfixed_share(options.years, pricing.window_years)[:, None]
    settled = gap + jnp.log1p(share * jnp.expm1(_at_settlement(options, prices, pricing, passed) - quote_move))
    # Inside its window part of an average is fixed, and only the rest of a forward moves.
    return jnp.where(settles[:, None], settled, jnp.log1p(share * jnp.expm1(shock + basis - quote_move)))


def _absolute_forward(
    options: OptionArrays, prices: Prices, pricing: OptionPricing, settles: Array, passed: float
) -> Array:
    """The forward in the scenario, in quote currency, where the underlying moves by units of price."""
    shock = prices.factors[options.underlying]
    quote, then = prices.now[options.quote], prices.now[options.quote] + prices.change[options.quote]
    basis = jnp.maximum(prices.factors[options.basis], LEAST_BASIS) * prices.level[options.underlying][:, None]
    share = unfixed_share(options.years, pricing.window_years)[:, None]
    index = prices.now[options.underlying]
    settled = (1 - share) * index / quote + share * (index + _at_settlement(options, prices, pricing, passed)) / then
    forward = options.forward[:, None]
    moved = (1 - share) * forward + share * (forward * quote + shock + basis) / then
    return jnp.where(settles[:, None], settled, moved)


def _moved_volatility(options: OptionArrays, log_move: Array, pricing: OptionPricing) -> Array:
    """The volatility of each strike where the smile moves along with the forward, wholly or in part."""
    assert options.smile is not None
    place = jnp.log(options.strike / options.forward[options.expiry])[:, None]

    def read(moneyness: Array) -> Array:
        at = (jnp.clip(moneyness / SMILE_REACH, -1, 1) + 1) * ((SMILE_POINTS - 1) / 2)
        below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, SMILE_POINTS - 2)
        smile, expiry = jnp.asarray(options.smile), options.expiry[:, None]
        return smile[expiry, below] + (at - below) * (smile[expiry, below + 1] - smile[expiry, below])

    own = options.volatility[:, None]
    moved = own + pricing.stickiness * (read(place - log_move[options.expiry]) - read(place))
    return jnp.maximum(moved, LEAST_SHARE * own)
