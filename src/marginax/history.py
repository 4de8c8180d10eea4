"""The history of the risk factors on one grid: what the filters and the scenarios are made of.

Factors are the underlyings' prices, in the order of the table `underlyings`, then one basis per perpetual and future.
Returns are log returns, or differences where an underlying is shocked absolutely; a basis moves by differences.
`returns[t]` ends at `times[t]`; NaN marks a bar at which a factor has no price, and the return after a gap spans it.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.calendars import DAY, Grid, joint_grid, on_grid
from marginax.config import Basis, Proxy, Scenarios
from marginax.instruments import Instruments
from marginax.market import Market
from marginax.problems import BadInput, Problem

YEAR = 365 * DAY
NO_PROXY = -1


@dataclass(frozen=True)
class FactorHistory:
    """Returns of every factor on the joint grid, with what is needed where a factor has none.

    `own` says whether a factor has history enough to stand on; `frozen` that it has, and never moved; `proxy` and
    `beta` what it follows otherwise (beta NaN: estimated on common bars); `noise` the volatility per bar of a factor
    that knows nothing but its size; `level` turns a shock into a relative move (1 for log shocks). `gap_*` is the
    return since the last bar and the bars it spans, NaN where nothing is missing.
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


def factor_history(
    market: Market, instruments: Instruments, *, scenarios: Scenarios, proxy: Proxy, basis: Basis
) -> FactorHistory:
    """The factors of a market and of the instruments quoted in it, on the joint grid of the market's history.

    The set of factors depends on the market alone, never on who holds what. Raises BadInput when there is no bar to
    take a return from.
    """
    table = market.underlyings
    names = table["underlying"].to_list()
    history = market.history.sort("time")
    prices = history.filter((pl.col("factor") == "price") & pl.col("underlying").is_in(names))
    as_of = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    oldest = as_of - np.timedelta64(round(scenarios.unusable_after_days * 86_400_000_000), "us")
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
    series = _series(prices)
    for k, name in enumerate(names):
        if name in series:
            times, values = series[name]
            paths[:, k] = on_grid(grid, times, values)
            last_bar[k] = times[-1]
    walk = np.where(absolute, paths, _log(np.where(absolute, 1.0, paths)))
    now = np.where(absolute, index, _log(np.where(absolute, 1.0, index)))
    gap, gap_bars = _gap(grid, walk, now, as_of)
    basis_names, basis_walk, basis_noise = _basis(
        history, instruments, market, grid, paths, levels, absolute, basis, as_of
    )
    walk = np.concatenate([walk, basis_walk], axis=1)
    returns, bars = _returns(walk)
    count = np.sum(~np.isnan(returns), axis=0)
    fresh = np.concatenate([last_bar, _stamp(grid, _last_known(basis_walk))]) >= oldest
    own = (count >= scenarios.least_bars) & fresh
    frozen = own & ~np.any(np.nan_to_num(returns) != 0, axis=0)
    small = scenarios.minimum_volatility / np.sqrt(grid.bars_per_day)
    level = np.concatenate([np.where(absolute, levels, 1.0), np.ones(len(basis_names))])
    noise = np.concatenate([np.full(len(names), np.nan), basis_noise])
    noise = np.where(frozen, small * level, noise)
    followed, beta = _proxies(table, names, proxy)
    others = len(basis_names)
    return FactorHistory(
        names=(*names, *basis_names),
        underlyings=len(names),
        grid=grid,
        times=grid.times[1:],
        returns=np.where(own, returns, np.nan),
        bars=bars,
        gap_return=np.where(own, np.concatenate([gap, np.full(others, np.nan)]), np.nan),
        gap_bars=np.concatenate([gap_bars, np.ones(others)]),
        absolute=np.concatenate([absolute, np.ones(others, bool)]),
        level=level,
        own=own,
        frozen=frozen,
        proxy=np.concatenate([followed, np.full(others, NO_PROXY)]),
        beta=np.concatenate([beta, np.full(others, np.nan)]),
        noise=noise,
        last_bar=np.concatenate([last_bar, np.full(others, np.datetime64("NaT", "us"))]),
    )


def _leading(prices: pl.DataFrame, least_bars: int, oldest: np.datetime64) -> pl.Series:
    """Underlyings whose history will be used: long enough, and not ended long ago."""
    lives = prices.group_by("underlying").agg(pl.len().alias("bars"), pl.col("time").max().alias("last"))
    alive = pl.col("last").dt.replace_time_zone(None) >= pl.lit(oldest)
    return lives.filter((pl.col("bars") > least_bars) & alive)["underlying"]


def _last_known(walk: np.ndarray) -> np.ndarray:
    """The row at which each factor last had a value; -1 for one that never had."""
    known = ~np.isnan(walk)
    return np.where(known.any(axis=0), len(walk) - 1 - np.argmax(known[::-1], axis=0), -1)


def _stamp(grid: Grid, rows: np.ndarray) -> np.ndarray:
    return np.where(rows >= 0, grid.times[rows], np.datetime64("NaT", "us"))


def _gap(grid: Grid, walk: np.ndarray, now: np.ndarray, as_of: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """The return from each underlying's last bar of the grid to now, NaN where nothing is missing, and its bars.

    The bar is the grid's: what a coin did on the weekend after Friday's bar of an equity is not in the grid yet.
    """
    last = _last_known(walk)
    then = walk[last, np.arange(walk.shape[1])]
    bars = np.maximum(np.nan_to_num(grid.bars_between(_stamp(grid, last), as_of), nan=0.0), 1)
    return np.where((bars > 1) | (now != then), now - then, np.nan), bars


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(values)


def _series(rows: pl.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times (UTC microseconds, rising) and values of each name."""
    return {
        str(key[0]): (
            part["time"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]"),
            part["value"].to_numpy(),
        )
        for key, part in rows.partition_by("underlying", as_dict=True, maintain_order=True).items()
    }


def _levels(prices: pl.DataFrame, names: list[str], index: np.ndarray) -> np.ndarray:
    """A price level that is never near zero: the larger of today's and the median of the history, in size."""
    medians = dict(prices.group_by("underlying").agg(pl.col("value").abs().median()).iter_rows())
    typical = np.array([medians.get(name) or 0.0 for name in names])
    level = np.maximum(np.abs(index), typical)
    return np.where(level > 0, level, 1.0)


def _returns(walk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences between each bar and the last known one before it, and how many bars lie between."""
    count, factors = walk.shape
    known = np.where(np.isnan(walk), -1, np.arange(count)[:, None])
    before = np.maximum.accumulate(known, axis=0)[:-1]
    previous = walk[np.maximum(before, 0), np.arange(factors)]
    returns = np.where(before >= 0, walk[1:] - previous, np.nan)
    bars = np.where(before >= 0, np.arange(1, count)[:, None] - before, 1).astype(float)
    return returns, bars


def _basis(
    history: pl.DataFrame,
    instruments: Instruments,
    market: Market,
    grid: Grid,
    paths: np.ndarray,
    levels: np.ndarray,
    absolute: np.ndarray,
    settings: Basis,
    as_of: np.datetime64,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, walks and stand-in volatilities of the basis factors, one per perpetual and future."""
    place = {name: k for k, name in enumerate(market.underlyings["underlying"])}
    which = [k for k in np.flatnonzero(instruments.has_basis) if instruments.underlying[k] in place]
    stated = _series(history.filter(pl.col("factor") == "basis"))
    forwards = {
        str(key[0]): _series(part)
        for key, part in history.filter(pl.col("factor").str.starts_with("forward:"))
        .partition_by("factor", as_dict=True, maintain_order=True)
        .items()
    }
    walks, noise = [], []
    for k in which:
        name, underlying = instruments.ids[k], instruments.underlying[k]
        column = place[underlying]
        perpetual = instruments.kind[k] == "perpetual"
        years = 0.0 if perpetual else float(max((instruments.expiry[k] - as_of) / YEAR, 0.0))
        walk = np.full(len(grid.times), np.nan)
        source = stated.get(name) or (stated.get(underlying) if perpetual else None)
        if source is not None:
            walk = on_grid(grid, *source)
        elif not perpetual:
            near = _nearest_tenor(forwards, underlying, years)
            if near is not None:
                tenor, series = near
                forward = on_grid(grid, *series)
                spot, level = paths[:, column], levels[column]
                yearly = (forward - spot) / level if absolute[column] else _log(forward / spot)
                walk = yearly / tenor * years
        walks.append(walk)
        daily = np.hypot(settings.volatility, settings.annualised_volatility * years)
        noise.append(daily / np.sqrt(grid.bars_per_day))
    names = [f"basis:{instruments.ids[k]}" for k in which]
    return names, np.array(walks).reshape(len(which), len(grid.times)).T, np.array(noise, float)


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
