"""A whole history with what was known of every factor at the close of each bar: what a replay must not look beyond.

Row t of the arrays knows the bars up to t of the grid, and the returns before t: `history.returns[t - 1]` ends at bar
t. Nothing here looks ahead but the grid of bars itself, which is a property of the data and not of its prices.
"""

from bisect import insort
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from marginax.calendars import DAY_MICROS, Grid
from marginax.history import NO_PROXY, FactorHistory, class_rows, first_returns, volatility_factor
from marginax.market_sections import AssetClasses
from marginax.sections import Proxy, Scenarios
from marginax.series import logs, returns_of


@dataclass(frozen=True)
class KnownHistory:
    """A `FactorHistory` as of its end whose `own`, `frozen`, `level` and stand-in noise are given bar by bar.

    `returns` of `history` are as they were, of factors that ended too. `noise` is NaN where a factor stands on none.
    """

    history: FactorHistory
    own: Bool[np.ndarray, "bars factors"]
    frozen: Bool[np.ndarray, "bars factors"]
    level: Float64[np.ndarray, "bars factors"]
    noise: Float64[np.ndarray, "bars factors"]

    def until(self, bar: int, first: int, bars: int) -> FactorHistory:
        """The last `bars` returns at the close of bar `bar`; those before `first` are padding, and NaN."""
        whole = self.history
        rows = np.arange(bar - bars, bar)
        live, inside = rows >= first, rows >= 0
        own = self.own[bar]
        returns = np.where(live[:, None] & own, whole.returns[np.where(inside, rows, 0)], np.nan)
        return replace(
            whole,
            times=whole.times[np.where(inside, rows, 0)],
            returns=returns,
            bars=np.where(inside[:, None], whole.bars[np.where(inside, rows, 0)], 1.0),
            own=own,
            frozen=self.frozen[bar],
            level=self.level[bar],
            noise=self.noise[bar],
            padding=int((~live).sum()),
        )


def known_history(
    grid: Grid,
    names: tuple[str, ...],
    prices: Float64[np.ndarray, "bars underlyings"],
    volatilities: dict[str, Float64[np.ndarray, " bars"]],
    *,
    absolute: Bool[np.ndarray, " underlyings"],
    scenarios: Scenarios,
    proxy: Proxy,
    classes: AssetClasses | None = None,
) -> KnownHistory:
    """The history of prices (NaN where there is none) and implied volatilities on a grid, as it became known.

    Every underlying follows the default proxy of the configuration where it has no price, if the history holds that
    one; a volatility is never missing while its price is not.
    """
    optioned = tuple(volatilities)
    walk = np.where(absolute, prices, logs(np.where(absolute, 1.0, prices)))
    implied = np.array([logs(volatilities[name]) for name in optioned]).reshape(len(optioned), len(prices)).T
    walks = np.concatenate([walk, implied], axis=1)
    returns, bars = returns_of(walks)
    count = _before(np.cumsum(~np.isnan(returns), axis=0))
    moved = _before(np.cumsum(np.nan_to_num(returns) != 0, axis=0)) > 0
    known = np.where(np.isnan(walks), -1, np.arange(len(walks))[:, None])
    last = np.maximum.accumulate(known, axis=0)
    age = grid.times[:, None] - grid.times[np.maximum(last, 0)]
    place = {name: k for k, name in enumerate(names)}
    leader = place.get(proxy.default, NO_PROXY)
    follows = [NO_PROXY if k == leader else leader for k in range(len(names))]
    # Where nothing stands in for a price, an old history is better than none: a move of zero would be free.
    alone = np.array([*(each == NO_PROXY for each in follows), *(False for _ in optioned)], bool)
    recent = age <= np.timedelta64(round(scenarios.unusable_after_days * DAY_MICROS), "us")
    fresh = (last >= 0) & (recent | alone)
    is_volatility = np.arange(walks.shape[1]) >= len(names)
    own = (count >= scenarios.least_bars) & fresh & (moved | ~is_volatility)
    frozen = own & ~moved
    level = np.concatenate([_levels(prices, absolute), np.ones(implied.shape)], axis=1)
    small = scenarios.minimum_volatility / np.sqrt(grid.bars_per_day)
    usual = [proxy.betas.get(name, np.nan) for name in names]
    none = np.full(len(optioned), np.nan)
    history = FactorHistory(
        names=(*names, *(volatility_factor(name) for name in optioned)),
        underlyings=len(names),
        grid=grid,
        times=grid.times[1:],
        returns=returns,
        bars=bars,
        gap_return=np.full(walks.shape[1], np.nan),
        gap_bars=np.ones(walks.shape[1]),
        absolute=np.concatenate([absolute, np.zeros(len(optioned), bool)]),
        level=level[-1],
        own=own[-1],
        frozen=frozen[-1],
        proxy=np.array([*follows, *(place[name] for name in optioned)], np.int64),
        beta=np.concatenate([usual, none]),
        noise=np.where(frozen[-1], small * level[-1], np.nan),
        last_bar=np.where(last[-1] >= 0, grid.times[last[-1]], np.datetime64("NaT", "us")),
        volatilities=len(optioned),
        classes=class_rows(classes, names, [None] * len(names), factors=walks.shape[1]),
        listed=first_returns(returns),
    )
    return KnownHistory(history, own, frozen, level, np.where(frozen, small * level, np.nan))


def _before(cumulated: np.ndarray) -> np.ndarray:
    """Sums over the returns up to each bar: none at the first."""
    return np.concatenate([np.zeros((1, cumulated.shape[1]), cumulated.dtype), cumulated])


def _levels(prices: np.ndarray, absolute: np.ndarray) -> np.ndarray:
    """The larger of the last price and the median so far, in size, where shocks are absolute; 1 where they are logs."""
    level = np.ones(prices.shape)
    for k in np.flatnonzero(absolute):
        seen: list[float] = []
        last = 0.0
        for t, price in enumerate(np.abs(prices[:, k])):
            if not np.isnan(price):
                insort(seen, price)
                last = price
            middle = 0.5 * (seen[(len(seen) - 1) // 2] + seen[len(seen) // 2]) if seen else 0.0
            level[t, k] = max(last, middle) or 1.0
    return level
