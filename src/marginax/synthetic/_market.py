"""The market of the synthetic venue: simulated history, listed instruments, quotes and underlyings.

Conventions: index prices in USD; marks in the instrument's quote currency; returns are daily logs; a bar
carries the date of its day, at midnight UTC. Underlyings stand in one order: coins by rank, then USDT, USDC.
Numbers are published with few significant digits, which hides the last bit of a platform's exp and log.
The tickers are real so that the tables read easily; nothing else about them is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Window = tuple[str, date, date]

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
LAST_BAR = date(2025, 12, 31)
UTC_TIME = pl.Datetime("us", "UTC")
STABLECOINS = ("USDT", "USDC")
MAJORS = 6  # coins, from the top, that also list inverse and USD-quoted contracts
COINS = {  # USD, round, before the seed moves them
    "BTC": 88_000.0, "ETH": 3_000.0, "SOL": 125.0, "XRP": 1.9, "BNB": 860.0, "DOGE": 0.125,
    "ADA": 0.36, "LINK": 12.5, "AVAX": 12.6, "LTC": 78.0, "DOT": 1.8, "BCH": 600.0,
    "UNI": 5.9, "NEAR": 1.55, "ATOM": 2.0, "AAVE": 150.0, "SUI": 1.45, "TIA": 0.48,
}  # fmt: skip
LATE = (400, 150)  # bars of the last two coins, which list late

NEWS, MEMORY = 0.10, 0.88  # GARCH(1,1); half-life of a volatility shock 34 days
FREEDOM = 4.0  # degrees of freedom of the innovations: the usual finding for daily coin returns
MARKET_SIGMA = 0.028  # long-run volatility of one day of the common factor
ORDINARY = 0.11  # largest market log return outside the crashes, which stay the only ones of their kind
CRASH = (0.17, 0.30)  # the factor's fall on a crash day; with betas above 1 the average coin falls 20 to 40 %
PULL = 0.0015  # daily pull of log prices to their start, and the wall behind it: no coin vanishes or explodes
WALL = float(np.log(45.0))

POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(23)])  # exact everywhere, as 10.0**k is not


class Contract(NamedTuple):
    """The terms of one instrument; `coin` is a rank from 0, `popularity` a relative weight without unit."""

    instrument_id: str
    kind: str
    coin: int
    quote: str
    settlement: str
    expiry: date | None
    popularity: float


class Paths(NamedTuple):
    """Bars x underlyings: `price` in USD, relative `basis`, NaN before the listing; the crashes are bars.

    `stress` is the volatility of the market factor over its long run, as each bar begins.
    """

    price: Floats
    basis: Floats
    beta: Floats
    crashes: list[int]
    stress: Floats


@dataclass(frozen=True, eq=False)
class Market:
    """Four tables, the crashes with their first and last day, how popular each instrument is, and the paths."""

    tables: dict[str, pl.DataFrame]
    stress_windows: list[Window]
    popularity: Floats
    paths: Paths


def market(seed: np.random.SeedSequence, *, underlyings: int, instruments: int, bars: int) -> Market:
    """History, listings and quotes of `underlyings` names, two of them stablecoins, over `bars` daily closes.

    Prices in USD, basis relative, rates a year, confidence relative (one sigma), adv and depth in USD. Open
    interest is missing here, because it belongs to the book.
    """
    past, present = (np.random.default_rng(s) for s in seed.spawn(2))
    coins = list(islice(chain(COINS, (f"ALT{k}" for k in count(len(COINS) + 1))), underlyings - 2))
    paths = _paths(past, coins, bars)
    table = _underlyings(present, coins, paths)
    contracts = list(islice(_contracts(coins), instruments))
    days = [LAST_BAR - timedelta(days=bars - 1 - bar) for bar in range(bars)]
    names, listed = [*coins, *STABLECOINS], _instruments(contracts, table)
    return Market(
        tables={
            "instruments": listed,
            "quotes": _quotes(present, contracts, table, paths.basis[-1]),
            "underlyings": table,
            "history": pl.concat(
                [history_rows(names, "price", paths.price), history_rows(names, "basis", paths.basis)]
            ),
        },
        stress_windows=[
            (f"crash of {days[bar]:%Y-%m}", days[bar - 2], days[min(bar + 25, bars - 1)]) for bar in paths.crashes
        ],
        popularity=np.array([contract.popularity for contract in contracts]),
        paths=paths,
    )


def significant(values: Floats, digits: int) -> Floats:
    """`values`, of any unit and sign, rounded to `digits` significant decimal digits; NaN stays NaN."""
    size = np.abs(np.where(np.isfinite(values) & (values != 0), values, 1.0))
    shift = digits - 1 - np.floor(np.log10(size)).astype(np.int64)
    up, down = POWERS_OF_TEN[np.clip(shift, 0, 22)], POWERS_OF_TEN[np.clip(-shift, 0, 22)]
    return np.asarray(np.round(values * up / down) * down / up, np.float64)


def total(values: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """Sums of `values` by the number of their group, in their unit."""
    return np.asarray(np.bincount(group, values, minlength=groups), np.float64)


def _paths(rng: np.random.Generator, coins: list[str], bars: int) -> Paths:
    """A market factor with crashes and coins on it by beta; GARCH(1,1) variances and Student-t shocks."""
    crash_count = 0 if bars < 20 else min(4, max(1, bars // 400))
    position = (np.arange(crash_count) + rng.uniform(0.25, 0.75, crash_count)) / max(crash_count, 1)
    crashes = [int(bar) for bar in position * bars]  # in the middle half of each part: windows never touch
    falls = dict(zip(crashes, np.log1p(-rng.uniform(*CRASH, crash_count)), strict=True))
    beta = np.append(1.0, rng.uniform(1.0, 1.6, len(coins) - 1))
    own_sigma = np.append(0.009, rng.uniform(0.018, 0.035, len(coins) - 1))
    long_run = np.append(MARKET_SIGMA, own_sigma) ** 2
    shocks = rng.standard_t(FREEDOM, (bars, len(coins) + 1)) / np.sqrt(FREEDOM / (FREEDOM - 2))
    shocks = np.clip(shocks, -7, 7)
    drift = -sum(falls.values()) / bars
    variance, level = long_run.copy(), np.zeros(len(coins))
    levels, stress = np.empty((bars, len(coins))), np.empty(bars)
    for bar in range(bars):
        stress[bar] = np.sqrt(variance[0] / long_run[0])
        moves = np.sqrt(variance) * shocks[bar]
        moves[0] = falls.get(bar, np.clip(moves[0], -ORDINARY, ORDINARY))
        if bar:
            level = np.clip(level * (1 - PULL) + beta * (moves[0] + drift) + moves[1:], -WALL, WALL)
        levels[bar] = level
        news = np.minimum(moves**2, 50 * long_run)  # at most 2.4 times the volatility after a crash
        variance = (1 - NEWS - MEMORY) * long_run + NEWS * news + MEMORY * variance
    today = np.exp(0.15 * rng.standard_normal(len(coins))) * [COINS.get(coin, 1.0) for coin in coins]
    price = np.full((bars, len(coins) + 2), np.nan)
    price[:, :-2] = today * np.exp(levels - levels[-1])
    price[:, -2:] = _pegs(rng, stress, crashes)
    basis = np.full_like(price, np.nan)
    with_basis = (len(coins) + 2) // 2  # half of the underlyings, the liquid half
    wide = 2e-4 * stress[:, None] * np.clip(rng.standard_t(FREEDOM, (bars, with_basis)), -8, 8)
    wide[crashes] -= rng.uniform(0.003, 0.010, (len(crashes), with_basis))
    basis[:, :with_basis] = 1e-4 + mean_reverting(wide, 0.7)
    if len(coins) > 3:
        for coin, length in zip((-4, -3), LATE, strict=True):  # before the two stablecoins
            listing = bars - min(length, bars // 2)
            price[:listing, coin] = basis[:listing, coin] = np.nan
    return Paths(significant(price, 8), significant(basis, 5), beta, crashes, stress)


def _pegs(rng: np.random.Generator, stress: Floats, crashes: list[int]) -> Floats:
    """USDT and USDC in USD: a basis point or two of noise, wobbles of USDT in crashes, one de-peg of USDC."""
    bars = len(stress)
    wobble = 1.2e-4 * stress[:, None] * np.clip(rng.standard_t(FREEDOM, (bars, 2)), -8, 8)
    wobble[crashes, 0] -= rng.uniform(0.002, 0.008, len(crashes))
    deviation = mean_reverting(wobble, 0.6)
    if crashes:  # between the first crash and the second
        first = int(bars * rng.uniform(0.90, 0.98) / len(crashes))
        depth = rng.uniform(0.04, 0.10)
        for bar, share in zip(range(first, min(first + 3, bars - 1)), (1.0, 0.3, 0.05), strict=False):
            deviation[bar, 1] -= depth * share
    return 1.0 + deviation


def mean_reverting(shocks: Floats, keep: float) -> Floats:
    """The recursion x[t] = keep x[t-1] + shocks[t] down axis 0, in the unit of the shocks."""
    out = shocks.copy()
    for bar in range(1, len(out)):
        out[bar] += keep * out[bar - 1]
    return out


def history_rows(names: list[str], factor: str, values: Floats) -> pl.DataFrame:
    """Rows of the long table from bars x names: `price` is filled by prices, `value` by all else; NaN has no row."""
    bars = len(values)
    days = [LAST_BAR - timedelta(days=bars - 1 - bar) for bar in range(bars)]
    stamps = pl.Series(days, dtype=pl.Date).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    bar, name = np.nonzero(np.isfinite(values.T))[::-1]
    numbers = pl.Series(values[bar, name], dtype=pl.Float64)
    nothing = pl.Series([None] * len(bar), dtype=pl.Float64)
    return pl.DataFrame(
        {
            "time": stamps.gather(bar),
            "underlying": pl.Series(names, dtype=pl.String).gather(name),
            "price": numbers if factor == "price" else nothing,
            "value": nothing if factor == "price" else numbers,
            "factor": pl.Series([factor], dtype=pl.String).new_from_index(0, len(bar)),
        }
    )


def _underlyings(rng: np.random.Generator, coins: list[str], paths: Paths) -> pl.DataFrame:
    """Index prices at as_of; liquidity by rank, from 25 billion USD a day down to 1 % of it for the last."""
    names = [*coins, *STABLECOINS]
    rank = np.append(np.arange(1.0, len(coins) + 1), [1.0, 2.0])
    noise = np.exp(0.2 * rng.standard_normal((2, len(names))))
    spread = significant(0.8 * rank**0.9, 3)
    beta = np.round(paths.beta[1:], 2).tolist()
    return pl.DataFrame(
        {
            "underlying": names,
            "index_price": paths.price[-1],
            "shock": ["log"] * len(names),
            "time": pl.Series([AS_OF] * len(names), dtype=UTC_TIME),
            "confidence": significant(spread * 0.5e-4, 3),
            "rate": np.append(np.round(rng.uniform(0.03, 0.08, len(coins)), 4), [0.04, 0.04]),
            "adv": significant(2.5e10 * rank**-1.6 * noise[0], 4),
            "depth": significant(3e7 * rank**-1.4 * noise[1], 4),
            "spread_bps": spread,
            "proxy": pl.Series([None, *coins[:1] * (len(coins) - 1), None, None], dtype=pl.String),
            "proxy_beta": pl.Series([None, *beta, None, None], dtype=pl.Float64),
            "asset_class": ["majors" if k < 2 else "altcoins" for k in range(len(coins))] + ["stablecoins"] * 2,
        }
    )


def _contracts(coins: list[str]) -> Iterator[Contract]:
    """Instruments without end, the most traded kinds first; dated ones fall due on Fridays after as_of."""
    ranked = [(rank, coin, (rank + 1.0) ** -1.2) for rank, coin in enumerate(coins)]
    for rank, coin, weight in ranked:
        yield Contract(f"{coin}-USDT-PERP", "perpetual", rank, "USDT", "linear", None, weight)
    for rank, coin, weight in ranked:
        yield Contract(f"{coin}-USD", "spot", rank, "USD", "linear", None, 0.4 * weight)
    for rank, coin, weight in ranked[:MAJORS]:
        yield Contract(f"{coin}-INVERSE-PERP", "perpetual", rank, "USD", "inverse", None, 0.35 * weight)
        yield Contract(f"{coin}-USD-PERP", "perpetual", rank, "USD", "linear", None, 0.2 * weight)
    for rank, coin, weight in ranked:
        yield Contract(f"{coin}-USDC-PERP", "perpetual", rank, "USDC", "linear", None, 0.25 * weight)
        yield Contract(f"{coin}-USDT", "spot", rank, "USDT", "linear", None, 0.3 * weight)
    first = [date(2026, 3, 27), date(2026, 6, 26), date(2026, 1, 9), date(2026, 1, 30), date(2026, 9, 25)]
    fridays = (date(2026, 1, 16) + timedelta(weeks=week) for week in count())
    for order, expiry in enumerate(chain(first, (friday for friday in fridays if friday not in first))):
        for rank, coin, weight in ranked:
            share, day = 0.15 * weight / (order + 1), f"{expiry:%y%m%d}"
            yield Contract(f"{coin}-USDT-{day}", "future", rank, "USDT", "linear", expiry, share)
            if rank < MAJORS:
                yield Contract(f"{coin}-INVERSE-{day}", "future", rank, "USD", "inverse", expiry, share / 2)


def _instruments(contracts: list[Contract], table: pl.DataFrame) -> pl.DataFrame:
    """Linear contracts hold a power of ten of coins, worth 1 to 1,000 USD; inverse ones 100 or 10 USD."""
    coins, price = table["underlying"].to_list(), table["index_price"].to_numpy()
    power = np.clip(np.floor(np.log10(100.0 / price)), -3, 3).astype(int).tolist()
    size = {"linear": [float(f"1e{k}") for k in power], "inverse": [100.0] + [10.0] * len(coins)}
    due = [c.expiry and datetime.combine(c.expiry, time(8), UTC) for c in contracts]
    return pl.DataFrame(
        {
            "instrument_id": [c.instrument_id for c in contracts],
            "kind": [c.kind for c in contracts],
            "underlying": [coins[c.coin] for c in contracts],
            "quote": [c.quote for c in contracts],
            "settlement": [c.settlement for c in contracts],
            "settle_asset": [coins[c.coin] if c.settlement == "inverse" else c.quote for c in contracts],
            "multiplier": [1.0 if c.kind == "spot" else size[c.settlement][c.coin] for c in contracts],
            "expiry": pl.Series(due, dtype=UTC_TIME),
        }
    )


def _quotes(rng: np.random.Generator, contracts: list[Contract], table: pl.DataFrame, basis: Floats) -> pl.DataFrame:
    """Marks are index times 1 + basis or carry, over the quote currency's own price; spreads by liquidity."""
    usd = dict(zip(table["underlying"], table["index_price"], strict=True)) | {"USD": 1.0}
    coin = np.array([c.coin for c in contracts])
    years = np.array([(c.expiry - LAST_BAR).days - 1 + 1 / 3 if c.expiry else 0.0 for c in contracts]) / 365
    noise = rng.standard_normal((3, len(contracts)))
    premium = np.expm1(table["rate"].to_numpy()[coin] * years) + 0.3e-4 * noise[0]
    own = np.where(np.isfinite(basis[coin]), basis[coin], 3e-4 * noise[1])
    premium += np.where([c.kind == "perpetual" for c in contracts], own, 0.0)
    index = table["index_price"].to_numpy()[coin]
    mark = significant(index * (1 + premium) / np.array([usd[c.quote] for c in contracts]), 8)
    wider = np.where(years > 0, 2.0, 1.0) * np.exp(0.2 * noise[2])
    half = table["spread_bps"].to_numpy()[coin] * 0.5e-4 * wider
    milliseconds = rng.integers(0, 60_000, len(contracts)) * (rng.random(len(contracts)) > 0.3)
    milliseconds[0] = 0  # so that the latest quote is as_of
    times = [AS_OF - timedelta(milliseconds=age) for age in milliseconds.tolist()]
    return pl.DataFrame(
        {
            "instrument_id": [c.instrument_id for c in contracts],
            "mark_price": mark,
            "bid": significant(mark * (1 - half), 8),
            "ask": significant(mark * (1 + half), 8),
            "time": pl.Series(times, dtype=UTC_TIME),
            "confidence": significant(half, 3),
        }
    )
