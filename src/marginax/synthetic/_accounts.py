"""The accounts of the synthetic venue: who holds which futures and spot, and what is behind it all.

Conventions: quantities are signed contracts (coins for spot), long positive; money is USD; entries are in the
quote currency. Clients are many, small and mostly long; market makers take the other side of every future and
perpetual, so that those sum to zero over the accounts (from 20 on), and hedge with spot and calendar spreads.
Options come on top: clients hold the same futures and spot with and without them.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marginax.synthetic._market import POWERS_OF_TEN, Floats, Market, significant
from marginax.synthetic._option_books import Written

Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

COUNT_EXPONENT = 1.65  # positions per account fall as n^-1.65: 70 % hold one to three, the mean is 8 of 200
SIZE_EXPONENT = 1.15  # Pareto: a few accounts carry the book
SMALLEST, LARGEST = 800.0, 2e7  # USD of gross notional: the least a position, the most an account
LEVERAGE, LEVERAGE_SIGMA = 2.0, 0.75  # gross futures over the cash behind them: median, and sigma of its log
LEVERAGE_RANGE = (0.2, 15.0)
MAKER_LEVERAGE = (3.0, 8.0)  # market makers are hedged and use it
IDLE, TROUBLED, BORROWING = 0.01, 0.02, 0.015  # shares: no positions; equity of -2 to 6 % of gross; owing USD
ASSETS = {"USD": 0.42, "USDT": 0.30, "USDC": 0.10, "BTC": 0.09, "ETH": 0.05, "SOL": 0.02, "XRP": 0.02}
ASSET_COUNT = (0.62, 0.28, 0.10)  # probabilities of one, two and three assets
ROWS = 16_384  # accounts drawn at a time, which bounds the memory


@dataclass(frozen=True, eq=False)
class Terms:
    """Arrays over instruments: `notional` in USD per contract, `index` in USD, quantities in 1 / `steps`."""

    underlying: Integers
    spot: Bools
    inverse: Bools
    multiplier: Floats
    mark: Floats
    index: Floats
    quote_usd: Floats
    notional: Floats
    steps: Floats
    popularity: Floats


@dataclass(frozen=True, eq=False)
class Holdings:
    """One entry per position, sorted by account and instrument; `quantity` in signed contracts."""

    account: Integers
    instrument: Integers
    quantity: Floats


@dataclass(frozen=True, eq=False)
class Crowd:
    """How many accounts there are, and the numbers of those that are not plain clients."""

    count: int
    makers: Integers
    idle: Integers


def contract_terms(listed: Market) -> Terms:
    """The arrays behind the tables; quantities come in whole contracts, or in a few cents' worth of spot."""
    table, terms = listed.tables["underlyings"], listed.tables["instruments"]
    names = table["underlying"].to_list()
    usd = dict(zip(names, table["index_price"], strict=True)) | {"USD": 1.0}
    underlying = np.array([names.index(name) for name in terms["underlying"]])
    spot, inverse = (terms["kind"] == "spot").to_numpy(), (terms["settlement"] == "inverse").to_numpy()
    multiplier, mark = terms["multiplier"].to_numpy(), listed.tables["quotes"]["mark_price"].to_numpy()
    quote_usd = np.array([usd[name] for name in terms["quote"]])
    index = table["index_price"].to_numpy()[underlying]
    decimals = np.where(spot, np.clip(np.ceil(np.log10(index / 0.1)), 0, 8), 0).astype(np.int64)
    return Terms(
        underlying=underlying,
        spot=spot,
        inverse=inverse,
        multiplier=multiplier,
        mark=mark,
        index=index,
        quote_usd=quote_usd,
        notional=multiplier * np.where(inverse, 1.0, mark * quote_usd),
        steps=POWERS_OF_TEN[decimals],
        popularity=listed.popularity,
    )


def draw_crowd(rng: np.random.Generator, count: int) -> Crowd:
    """Choose the market makers (15 of 10,000, as the square root) and the accounts without positions."""
    makers = int(np.clip(round(0.15 * count**0.5), 2, 64)) if count >= 20 else 0
    order = rng.permutation(count)
    return Crowd(count, np.sort(order[:makers]), np.sort(order[makers : makers + int(IDLE * count)]))


def client_positions(rng: np.random.Generator, terms: Terms, crowd: Crowd) -> Holdings:
    """Power laws in number and size of positions; instruments by popularity, no two alike; no short spot."""
    listed = len(terms.popularity)
    law = np.cumsum(np.arange(1.0, listed + 1) ** -COUNT_EXPONENT)
    held = 1 + np.searchsorted(law / law[-1], rng.random(crowd.count), side="right").clip(max=listed - 1)
    held[crowd.makers] = held[crowd.idle] = 0
    chosen = []
    for start in range(0, crowd.count, ROWS):  # the shortest waiting times: draws without replacement
        rows = held[start : start + ROWS]
        waiting = rng.standard_exponential((len(rows), listed)) / terms.popularity
        chosen.append(np.argsort(waiting, axis=1)[np.arange(listed) < rows[:, None]])
    account, instrument = np.repeat(np.arange(crowd.count), held), np.concatenate(chosen)
    size = np.minimum(held * _pareto(rng, crowd.count), LARGEST)
    share = 0.05 + rng.standard_exponential(len(account))
    share *= (size / np.maximum(np.bincount(account, share, minlength=crowd.count), 0.05))[account]
    bullish = rng.choice([0.92, 0.5, 0.15], crowd.count, p=[0.45, 0.35, 0.20])[account]
    long = terms.spot[instrument] | (rng.random(len(account)) < bullish)
    steps = terms.steps[instrument]
    units = np.maximum(np.round(share / terms.notional[instrument] * steps), 1.0)
    return Holdings(account, instrument, np.where(long, units, -units) / steps)


def _pareto(rng: np.random.Generator, count: int) -> Floats:
    """USD, at least `SMALLEST`, with a power-law tail."""
    return np.asarray(SMALLEST * (1 - rng.random(count)) ** (-1 / SIZE_EXPONENT), np.float64)


def add_market_makers(
    rng: np.random.Generator, terms: Terms, crowd: Crowd, clients: Holdings, delta_of_options: Floats
) -> Holdings:
    """Add the other side of every future, in whole contracts, then spreads among makers and hedges.

    `delta_of_options` is USD, makers x underlyings. Perpetuals even it out among the makers, since what one of them
    sells another has to buy; spot hedges what they have in common.
    """
    makers, listed = len(crowd.makers), len(terms.popularity)
    held = np.zeros((makers, listed))
    if makers:
        net, gross = (
            np.bincount(clients.instrument, quantity, minlength=listed) * ~terms.spot
            for quantity in (clients.quantity, np.abs(clients.quantity))
        )
        share = rng.standard_exponential((makers, listed))
        held -= np.round(net * share / share.sum(0))
        held[-1] -= net + held.sum(0)  # the last one takes the rounding: contracts are whole and sum to zero
        spread = rng.standard_normal((makers, listed)) * (gross * terms.notional + 5_000.0) / makers**0.5
        for coin in np.unique(terms.underlying):
            inside = (terms.underlying == coin) & ~terms.spot
            if inside.any():  # no delta: one expiry against another
                spread[:, inside] -= spread[:, inside].mean(1, keepdims=True)
        lots = np.round(spread / terms.notional) * ~terms.spot
        held += lots - np.roll(lots, 1, axis=0)  # what one maker buys the next one sells
        for coin in np.flatnonzero(delta_of_options.any(0)):
            for perpetual in np.flatnonzero(~terms.spot & (terms.underlying == coin))[:1]:  # the most traded contract
                apart = delta_of_options[:, coin] - delta_of_options[:, coin].mean()
                lots_sold = np.round(apart / terms.notional[perpetual])
                lots_sold[-1] -= lots_sold.sum()
                held[:, perpetual] -= lots_sold
        for coin in np.unique(terms.underlying[terms.spot]):
            hedge = np.flatnonzero(terms.spot & (terms.underlying == coin))[0]
            delta = (held * terms.notional)[:, terms.underlying == coin].sum(1) + delta_of_options[:, coin]
            target = -delta * rng.uniform(0.95, 1.02, makers) / terms.notional[hedge]
            held[:, hedge] = np.round(target * terms.steps[hedge]) / terms.steps[hedge]
    maker, instrument = np.nonzero(held)
    account = np.concatenate([clients.account, crowd.makers[maker]])
    instrument = np.concatenate([clients.instrument, instrument])
    order = np.argsort(account * listed + instrument, kind="stable")
    quantity = np.concatenate([clients.quantity, held[held != 0]])
    return Holdings(account[order], instrument[order], quantity[order])


def entry_prices(rng: np.random.Generator, terms: Terms, crowd: Crowd, holdings: Holdings) -> Floats:
    """Entries a few per cent off the mark, nearer for makers; NaN for spot and for one position in seven."""
    mark = terms.mark[holdings.instrument]
    distance = np.where(np.isin(holdings.account, crowd.makers), 0.01, 0.04)
    entry = significant(mark * np.exp(distance * rng.standard_normal(len(mark))), 6)
    entry[terms.spot[holdings.instrument] | (rng.random(len(mark)) < 1 / 7)] = np.nan
    return entry


def balances(
    rng: np.random.Generator,
    terms: Terms,
    crowd: Crowd,
    held: Holdings,
    entry: Floats,
    written: Written,
    underlyings: pl.DataFrame,
) -> tuple[Integers, pl.Series, Floats]:
    """Accounts, assets and amounts, so sized that gross over equity is the leverage wanted; debts in USD."""
    at, count = held.instrument, crowd.count
    notional = held.quantity * terms.notional[at]
    linear = (terms.mark[at] - entry) * terms.quote_usd[at]
    coins = (1 / entry - 1 / terms.mark[at]) * terms.index[at]
    gain = np.nan_to_num(held.quantity * terms.multiplier[at] * np.where(terms.inverse[at], coins, linear))
    parts = np.abs(notional), np.abs(notional) * ~terms.spot[at], notional * terms.spot[at], gain
    gross, futures, spot, unrealised = (np.bincount(held.account, part, minlength=count) for part in parts)
    worth = written.worth + written.gain
    leverage = np.clip(LEVERAGE * np.exp(LEVERAGE_SIGMA * rng.standard_normal(count)), *LEVERAGE_RANGE)
    cash = futures / leverage + spot * rng.uniform(0.02, 0.6, count) - unrealised
    cash = np.maximum(cash, 0.01 * gross + 1.0) + written.backing - written.gain
    troubled = rng.random(count) < TROUBLED
    cash = np.where(troubled, gross * rng.uniform(-0.02, 0.06, count) - spot - unrealised - worth, cash)
    makers = crowd.makers
    cash[makers] = ((gross + written.short) / rng.uniform(*MAKER_LEVERAGE, count) - spot - unrealised - worth)[makers]
    cash[crowd.idle] = np.minimum(_pareto(rng, len(crowd.idle)), LARGEST)
    borrowed = np.where(rng.random(count) < BORROWING, np.abs(cash) * rng.uniform(0.1, 0.6, count), 0.0)
    debt = np.where(cash > 0, borrowed, 0.02 * gross - cash)
    prices = {"USD": 1.0} | dict(zip(underlyings["underlying"], underlyings["index_price"], strict=True))
    assets = [asset for asset in ASSETS if asset in prices]
    waiting = rng.standard_exponential((count, len(assets))) / np.array([ASSETS[asset] for asset in assets])
    waiting[debt > 0, 0] = np.inf  # who owes USD has none
    used = rng.choice([1, 2, 3], count, p=ASSET_COUNT)
    place = np.argsort(np.argsort(waiting, axis=1), axis=1)
    weight = (0.1 + rng.standard_exponential(waiting.shape)) * (place < used[:, None])
    amount = ((cash + debt) / weight.sum(1))[:, None] * weight / np.array([prices[asset] for asset in assets])
    amount[:, 0] -= debt
    amount = significant(amount, 8)
    owner, asset = np.nonzero(amount)
    return owner, pl.Series(assets).gather(asset), amount[owner, asset]
