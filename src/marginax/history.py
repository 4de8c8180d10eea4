"""The history of the risk factors on one grid: what the filters and the scenarios are made of.

Factors are the underlyings' prices, in the order of the table `underlyings`, then one basis per perpetual, future and
expiry of options, then one path to each settlement of options inside the horizon, then one
implied volatility per underlying with options. Returns are log returns, or differences where an underlying is shocked
absolutely; a basis moves by differences, an implied volatility by logs. `returns[t]` ends at `times[t]`; NaN marks a
bar at which a factor has no price, and the return after a gap spans it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.basis import basis_walks
from marginax.calendars import DAY_MICROS, Grid, joint_grid, on_grid
from marginax.instruments import Instruments
from marginax.market import Market
from marginax.market_sections import AssetClasses
from marginax.problems import BadInput, Problem
from marginax.sections import Basis, Proxy, Scenarios, Volatility
from marginax.series import by_underlying, last_known, logs, returns_of, stamps
from marginax.signals import SignalHistory

NO_PROXY = -1
# What the names of paths to a settlement begin with.
SETTLEMENT = "settlement:"
# What a path to a settlement has where the other factors have a history, beside what it takes from its price.
PATH: dict[str, Any] = {
    **dict.fromkeys(("returns", "seen", "gap_return", "beta", "noise", "stands"), np.nan),
    **dict.fromkeys(("bars", "gap_bars"), 1.0),
    **dict.fromkeys(("own", "frozen"), False),
    "last_bar": np.datetime64("NaT"),
    "listed": np.iinfo(np.int64).max,
}


@dataclass(frozen=True)
class FactorHistory:
    """Returns of every factor on the joint grid, with what is needed where a factor has none.

    `own` says whether a factor has history enough to stand on; `frozen` that it has, and never moved; `proxy` and
    `beta` what it follows otherwise (beta NaN: estimated on common bars); `noise` the volatility per bar of a factor
    that knows nothing but its size, or that leans on its proxy with a residual of that size (`leaning`); `level` turns
    a shock into a relative move (1 for log shocks). `gap_*` is the return since the last bar and the bars it spans, NaN
    where nothing is missing. `settlements` are the underlyings and times that have a path to settlement,
    `classes` are rows of parameters by asset class (what is no price has the last one, that of no class), `listed` the
    bar of each factor's first return, as it was counted when the history was read. `volatilities` counts the implied
    volatilities, which come last; the first `padding` rows are no bars. `stands` is where each factor stood at its last
    bar; `seen` are the returns of factors that do not stand on their own too; `carried` says that the rows are a window
    that is carried forward bar by bar; `signals` are those of the market, where a model reads them.
    """

    names: tuple[str, ...]
    underlyings: int
    grid: Grid
    times: np.ndarray
    returns: Float64[np.ndarray, "bars factors"]
    bars: Float64[np.ndarray, "bars factors"]
    gap_return: Float64[np.ndarray, " factors"]
    gap_bars: Float64[np.ndarray, " factors"]
    absolute: Bool[np.ndarray, " factors"]
    level: Float64[np.ndarray, " factors"]
    own: Bool[np.ndarray, " factors"]
    frozen: Bool[np.ndarray, " factors"]
    proxy: Int64[np.ndarray, " factors"]
    beta: Float64[np.ndarray, " factors"]
    noise: Float64[np.ndarray, " factors"]
    last_bar: np.ndarray
    classes: Int64[np.ndarray, " factors"]
    listed: Int64[np.ndarray, " factors"]
    volatilities: int = 0
    settlements: tuple[tuple[str, np.datetime64], ...] = ()
    padding: int = 0
    stands: Float64[np.ndarray, " factors"] | None = None
    seen: Float64[np.ndarray, "bars factors"] | None = None
    carried: bool = False
    signals: SignalHistory | None = None

    @property
    def is_volatility(self) -> Bool[np.ndarray, " factors"]:
        """The implied volatilities."""
        return np.arange(len(self.names)) >= len(self.names) - self.volatilities

    @property
    def is_settlement(self) -> Bool[np.ndarray, " factors"]:
        """The paths to settlement: moves with the law of their price's and independent of it."""
        place, end = np.arange(len(self.names)), len(self.names) - self.volatilities
        return (place < end) & (place >= end - len(self.settlements))

    @property
    def leaning(self) -> Bool[np.ndarray, " factors"]:
        """Implied volatilities without history: beta times the move of their price, and noise of their own."""
        return self.is_volatility & ~self.own

    @property
    def noisy(self) -> Bool[np.ndarray, " factors"]:
        """Factors that move by stand-in noise: a price that never moved, a basis without history."""
        return ~np.isnan(self.noise) & (self.frozen | ~self.own)

    @property
    def missing(self) -> Bool[np.ndarray, " factors"]:
        """Factors with neither history nor a proxy that leads to one."""
        bare = ~self.own & ~self.noisy
        lost = bare & (self.proxy == NO_PROXY)
        while (further := lost | (bare & (self.proxy != NO_PROXY) & lost[self.proxy])).sum() > lost.sum():
            lost = further
        return lost

    @property
    def proxied(self) -> Bool[np.ndarray, " factors"]:
        """Underlyings that do not move by a history of their own; a basis without history is no proxy."""
        is_price = np.arange(len(self.names)) < self.underlyings
        return is_price & (~self.own | self.frozen) & ~self.missing

    def volatility_of(self, underlying: str) -> int:
        """The factor of an underlying's implied volatility; the number of factors where it has none."""
        name = volatility_factor(underlying)
        return self.names.index(name) if name in self.names else len(self.names)


def settlement_factor(underlying: str, expiry: np.datetime64) -> str:
    """The name of the factor that tells where an underlying stands when options of an expiry settle."""
    return f"{SETTLEMENT}{underlying}:{np.datetime_as_string(expiry, unit='m')}"


def volatility_factor(underlying: str) -> str:
    """The name of the factor of an underlying's implied volatility."""
    return f"implied_vol:{underlying}"


def factor_history(
    market: Market,
    instruments: Instruments,
    *,
    scenarios: Scenarios,
    proxy: Proxy,
    basis: Basis,
    volatility: Volatility | None = None,
    horizon_days: float = 0.0,
    classes: AssetClasses | None = None,
) -> FactorHistory:
    """The factors of a market and of the instruments quoted in it, on the joint grid of the market's history.

    Options that expire within `horizon_days` (trading days) have a path to their settlement.

    The set of factors depends on the market alone, never on who holds what. Raises BadInput when there is no bar to
    take a return from.
    """
    table = market.underlyings
    names = table["underlying"].to_list()
    history = market.history.sort("time")
    prices = history.filter((pl.col("factor") == "price") & pl.col("underlying").is_in(names))
    as_of = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    oldest = as_of - np.timedelta64(round(scenarios.unusable_after_days * DAY_MICROS), "us")
    grid = joint_grid(prices, _leading(prices, scenarios.least_bars, oldest))
    if len(grid.times) < 2:
        some = f"{len(grid.times)} bar" + ("" if len(grid.times) == 1 else "s")
        what = f"holds {some} of the underlyings up to {market.as_of:%Y-%m-%d %H:%M}, and a return needs two"
        remedy = "Give more history, or name its underlyings as the table `underlyings` does"
        file = ", ".join(market.tables["history"].digests) or "history"
        raise BadInput([Problem(file, None, None, what, remedy, table="history")])
    absolute = (table["shock"] == "absolute").to_numpy()
    index = table["index_price"].to_numpy()
    levels = _levels(prices, names, index)
    paths = np.full((len(grid.times), len(names)), np.nan)
    last_bar = np.full(len(names), np.datetime64("NaT", "us"), "datetime64[us]")
    series = by_underlying(prices)
    for k, name in enumerate(names):
        if name in series:
            times, values = series[name]
            paths[:, k] = on_grid(grid, times, values)
            last_bar[k] = times[-1]
    walk = np.where(absolute, paths, logs(np.where(absolute, 1.0, paths)))
    now = np.where(absolute, index, logs(np.where(absolute, 1.0, index)))
    gap, gap_bars = _gap(grid, walk, now, as_of)
    against = basis_walks(
        history, instruments, names, grid, paths=paths, levels=levels, absolute=absolute, settings=basis, as_of=as_of
    )
    implied, implied_walk = _implied_volatilities(history, instruments, names, grid)
    within = as_of + np.timedelta64(round(horizon_days * grid.days_per_trading_day * DAY_MICROS), "us")
    settles = settling(instruments, names, within)
    no_walk = np.full((len(grid.times), len(settles)), np.nan)
    other_walks = np.concatenate([against.walks, no_walk, implied_walk], axis=1)
    walk = np.concatenate([walk, other_walks], axis=1)
    others = other_walks.shape[1]
    is_implied = np.arange(walk.shape[1]) >= walk.shape[1] - len(implied)
    returns, bars = returns_of(walk)
    count = np.sum(~np.isnan(returns), axis=0)
    fresh = np.concatenate([last_bar, stamps(grid, last_known(other_walks))]) >= oldest
    own = (count >= scenarios.least_bars) & fresh
    still = ~np.any(np.nan_to_num(returns) != 0, axis=0)
    # A volatility that never moved is a number somebody typed, and no history.
    own = own & ~(is_implied & still)
    frozen = own & still
    small = scenarios.minimum_volatility / np.sqrt(grid.bars_per_day)
    own_level = np.where(absolute, levels, 1.0)
    path = [names.index(name) for name, _ in settles]
    level = np.concatenate([own_level, np.ones(len(against.names)), own_level[path], np.ones(len(implied))])
    settings = volatility or Volatility()
    own_move = proxy.safety_factor * settings.residual / np.sqrt(grid.bars_per_day)
    none = np.full(len(settles), np.nan)
    noise = np.concatenate([np.full(len(names), np.nan), against.noise, none, np.full(len(implied), own_move)])
    noise = np.where(frozen, small * level, noise)
    followed, beta = _proxies(table, names, proxy)
    price = [names.index(name) for name in implied]
    # A price that may pass through zero has no relative move that a volatility could follow.
    leverage = np.where(absolute[price], 0.0, settings.beta)
    return FactorHistory(
        names=(
            *names,
            *against.names,
            *(settlement_factor(name, expiry) for name, expiry in settles),
            *(volatility_factor(name) for name in implied),
        ),
        underlyings=len(names),
        grid=grid,
        times=grid.times[1:],
        returns=np.where(own, returns, np.nan),
        bars=bars,
        gap_return=np.where(own, np.concatenate([gap, np.full(others, np.nan)]), np.nan),
        gap_bars=np.concatenate([gap_bars, np.ones(others)]),
        absolute=np.concatenate(
            [absolute, np.ones(len(against.names), bool), absolute[path], np.zeros(len(implied), bool)]
        ),
        level=level,
        own=own,
        frozen=frozen,
        proxy=np.concatenate([followed, np.full(len(against.names), NO_PROXY), np.array([*path, *price], np.int64)]),
        beta=np.concatenate(
            [beta, np.full(len(against.names), np.nan), none, np.where(own[is_implied], np.nan, leverage)]
        ),
        noise=noise,
        last_bar=np.concatenate([last_bar, stamps(grid, last_known(other_walks))]),
        volatilities=len(implied),
        settlements=tuple(settles),
        classes=class_rows(classes, names, table["asset_class"].to_list(), factors=walk.shape[1]),
        listed=first_returns(returns),
        stands=walk[last_known(walk), np.arange(walk.shape[1])],
        seen=returns,
    )


def without_settlements(history: FactorHistory) -> FactorHistory:
    """The same without paths to settlement: what a state keeps, for settlements come and go."""
    kept = ~history.is_settlement
    if kept.all():
        return history
    names = tuple(name for name, keep in zip(history.names, kept, strict=True) if keep)
    arrays: dict[str, Any] = {name: values[..., kept] for name, values in _by_factor(history).items()}
    return replace(history, names=names, settlements=(), **arrays)


def with_settlements(history: FactorHistory, settles: Sequence[tuple[str, np.datetime64]]) -> FactorHistory:
    """The same with paths to these settlements, for a history that has none."""
    at = len(history.names) - history.volatilities
    path = [history.names.index(name) for name, _ in settles]
    like_price = {name: getattr(history, name)[path] for name in ("absolute", "level")}
    own = {**PATH, **like_price, "proxy": path, "classes": history.classes[at - 1]}
    arrays: dict[str, Any] = {
        name: np.insert(values, [at] * len(settles), own[name], axis=-1) for name, values in _by_factor(history).items()
    }
    labels = (settlement_factor(*each) for each in settles)
    names = (*history.names[:at], *labels, *history.names[at:])
    return replace(history, names=names, settlements=tuple(settles), **arrays)


def _by_factor(history: FactorHistory) -> dict[str, Any]:
    """Every array of a history whose last axis is the factors."""
    arrays = {each.name: getattr(history, each.name) for each in fields(history)}
    count = len(history.names)
    return {
        name: values
        for name, values in arrays.items()
        if isinstance(values, np.ndarray) and name != "times" and values.shape[-1] == count
    }


def class_rows(
    classes: AssetClasses | None, names: Sequence[str], stated: Sequence[str | None], *, factors: int
) -> Int64[np.ndarray, " factors"]:
    """The row of each factor among parameters by asset class; the last one for what is no price."""
    settings = classes or AssetClasses()
    rows = np.full(factors, len(settings.words), np.int64)
    rows[: len(names)] = settings.rows(names, stated)
    return rows


def first_returns(returns: Float64[np.ndarray, "bars factors"]) -> Int64[np.ndarray, " factors"]:
    """The bar of each factor's first return; the number of bars where there is none."""
    known = ~np.isnan(returns)
    return np.where(known.any(axis=0), known.argmax(axis=0), len(known))


def settling(instruments: Instruments, names: list[str], within: np.datetime64) -> list[tuple[str, np.datetime64]]:
    """Underlyings, in their own order, and the expiries of their options up to a time, the nearest first."""
    soon = instruments.is_option & (instruments.expiry <= within)
    due = {(name, expiry) for name, expiry in zip(instruments.underlying[soon], instruments.expiry[soon], strict=True)}
    return sorted((each for each in due if each[0] in names), key=lambda each: (names.index(each[0]), each[1]))


def _implied_volatilities(
    history: pl.DataFrame, instruments: Instruments, names: list[str], grid: Grid
) -> tuple[list[str], np.ndarray]:
    """Underlyings with options, in their own order, and the logarithm of their implied volatility on the grid."""
    optioned = set(instruments.underlying[instruments.is_option])
    chosen = [name for name in names if name in optioned]
    given = by_underlying(history.filter(pl.col("factor") == "implied_vol"))
    walks = np.full((len(grid.times), len(chosen)), np.nan)
    for k, name in enumerate(chosen):
        if name in given:
            walks[:, k] = logs(on_grid(grid, *given[name]))
    return chosen, walks


def _leading(prices: pl.DataFrame, least_bars: int, oldest: np.datetime64) -> pl.Series:
    """Underlyings whose history will be used: long enough, and not ended long ago."""
    lives = prices.group_by("underlying").agg(pl.len().alias("bars"), pl.col("time").max().alias("last"))
    alive = pl.col("last").dt.replace_time_zone(None) >= pl.lit(oldest)
    return lives.filter((pl.col("bars") > least_bars) & alive)["underlying"]


def _gap(grid: Grid, walk: np.ndarray, now: np.ndarray, as_of: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """The return from each underlying's last bar of the grid to now, NaN where nothing is missing, and its bars.

    The bar is the grid's: what a coin did on the weekend after Friday's bar of an equity is not in the grid yet.
    """
    last = last_known(walk)
    then = walk[last, np.arange(walk.shape[1])]
    bars = np.maximum(np.nan_to_num(grid.bars_between(stamps(grid, last), as_of), nan=0.0), 1)
    return np.where((bars > 1) | (now != then), now - then, np.nan), bars


def _levels(prices: pl.DataFrame, names: list[str], index: np.ndarray) -> np.ndarray:
    """A price level that is never near zero: the larger of today's and the median of the history, in size."""
    medians = dict(prices.group_by("underlying").agg(pl.col("value").abs().median()).iter_rows())
    typical = np.array([medians.get(name) or 0.0 for name in names])
    level = np.maximum(np.abs(index), typical)
    return np.where(level > 0, level, 1.0)


def _proxies(table: pl.DataFrame, names: list[str], settings: Proxy) -> tuple[np.ndarray, np.ndarray]:
    """The proxy of each underlying (NO_PROXY for none) and its beta.

    The market's door has seen that proxies are underlyings and go in no circle. One whose proxy was quarantined there
    has none: the default is no stand-in for a proxy that was chosen.
    """
    place = {name: k for k, name in enumerate(names)}
    default = place.get(settings.default, NO_PROXY)
    named = table["proxy"].to_list()
    follows = np.array([NO_PROXY if proxy is None else place.get(proxy, NO_PROXY) for proxy in named], np.int64)
    above, step = set(), default
    while step != NO_PROXY:
        above.add(step)
        step = int(follows[step])
    for k, proxy in enumerate(named):
        if proxy is None and k not in above:
            follows[k] = default
    beta = table["proxy_beta"].to_numpy().astype(float)
    usual = np.array([settings.betas.get(name, np.nan) for name in names], float)
    return follows, np.where(np.isnan(beta), usual, beta)
