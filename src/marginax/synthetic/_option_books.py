"""Who holds the options of the synthetic venue.

Conventions: quantities are whole signed contracts, long positive; money is USD. One client in six writes calls on coins
it owns, insures them, writes strangles, buys spreads or lottery tickets; market makers take the other side, so that
options sum to zero over the accounts (from 20 on), and trade spreads with one another.
"""

from typing import NamedTuple

import numpy as np

from marginax.synthetic._market import Floats, significant, total
from marginax.synthetic._options import Chain, Integers

HOLDERS = 0.17  # share of the clients with options
TRADES = (0.6, 0.25, 0.15)  # probabilities of one, two and three strategies
COVERED_CALL, PROTECTIVE_PUT, STRANGLE, CALL_SPREAD, TICKET = range(5)
STRATEGIES = (0.24, 0.20, 0.16, 0.20, 0.20)  # probabilities, before those too large for the account become tickets
TICKET_SHARE = (0.005, 0.03)  # of the account's size, spent
BACKING = (0.15, 0.30)  # collateral behind short options, of their notional
QUOTED = 0.2  # share of the chain in which a maker trades with its neighbour
SPREAD_SIZE = 20_000.0  # USD of notional: the size of such a trade where clients hold none
ENTRY_SIGMA = 0.15  # of log(entry / mark) of options margined like futures


class Written(NamedTuple):
    """Positions of all accounts, and by account what their balances must allow for.

    `entry` is NaN for options paid upfront. By account, in USD: `worth` counts into equity, `gain` is unrealised,
    `short` is the notional of short options, `backing` the cash behind the options. `delta` is makers x underlyings.
    """

    account: Integers
    option: Integers
    quantity: Floats
    entry: Floats
    worth: Floats
    gain: Floats
    short: Floats
    backing: Floats
    delta: Floats


def nothing_written(accounts: int, makers: int, underlyings: int) -> Written:
    """No options at all."""
    none, zero = np.zeros(0, np.int64), np.zeros(accounts)
    return Written(none, none, zero[:0], zero[:0], zero, zero, zero, zero, np.zeros((makers, underlyings)))


def write_options(
    rng: np.random.Generator,
    chain: Chain,
    *,
    size: Floats,
    long: Floats,
    makers: Integers,
    underlyings: int,
) -> Written:
    """Positions of clients, drawn for accounts of a `size` above zero, and of the makers against them.

    `size` is the gross notional of each account, `long` its net long notional by coin (accounts x coins), both in USD
    and without options; makers have none.
    """
    listed = len(chain.mark)
    account, option, quantity = _clients(rng, chain, size, long)
    held = _makers(rng, chain, len(makers), option, quantity)
    maker, made = np.nonzero(held)
    account, option = np.concatenate([account, makers[maker]]), np.concatenate([option, made])
    quantity = np.concatenate([quantity, held[maker, made]])
    order = np.argsort(account * listed + option, kind="stable")
    account, option, quantity = account[order], option[order], quantity[order]
    noise = np.exp(ENTRY_SIGMA * rng.standard_normal(len(account)))
    entry = np.where(chain.upfront[option], np.nan, significant(chain.mark[option] * noise, 6))
    upfront, value, notional = chain.upfront[option], chain.value[option], chain.notional[option]
    gain = quantity * value * np.nan_to_num(1 - entry / chain.mark[option])
    short, accounts = np.maximum(-quantity, 0.0), len(size)
    backing = short * (notional * rng.uniform(*BACKING, len(account)) + value * upfront)
    backing += np.maximum(quantity, 0.0) * value * ~upfront  # they can lose their mark and no more
    hedge, delta = held * chain.delta, np.zeros((len(makers), underlyings))
    for coin in range(len(chain.strikes)):
        delta[:, coin] = hedge[:, chain.coin == coin].sum(1)
    return Written(
        account,
        option,
        quantity,
        entry,
        worth=total(quantity * value * upfront, account, accounts),
        gain=total(gain, account, accounts),
        short=total(short * notional, account, accounts),
        backing=total(backing, account, accounts),
        delta=delta,
    )


def _clients(rng: np.random.Generator, chain: Chain, size: Floats, long: Floats) -> tuple[Integers, Integers, Floats]:
    """Strategies of up to three a client, in coins it owns or popular ones; no two positions in one option."""
    coins, listed = len(chain.strikes), len(chain.mark)
    clients = np.flatnonzero(size > 0)
    holders = rng.permutation(clients)[: int(np.ceil(HOLDERS * len(clients)))]
    account = np.repeat(holders, rng.choice([1, 2, 3], len(holders), p=TRADES))
    trades, size, long = len(account), size[account], long[account]
    popular, nearer = np.arange(1.0, coins + 1) ** -0.8, np.arange(1.0, chain.expiries + 1) ** -0.7
    coin = rng.choice(coins, trades, p=popular / popular.sum())
    expiry = rng.choice(chain.expiries, trades, p=nearer / nearer.sum())
    strategy = rng.choice(len(STRATEGIES), trades, p=STRATEGIES)
    on_coins, owned = np.isin(strategy, [COVERED_CALL, PROTECTIVE_PUT]), long.max(1)
    coin = np.where(on_coins & (owned > 0), long.argmax(1), coin)
    budget = np.where(on_coins, owned * rng.uniform(0.4, 1.0, trades), size * rng.uniform(0.1, 0.6, trades))
    first = chain.first[coin] + 2 * chain.strikes[coin] * expiry  # the lowest strike of the expiry
    contracts = np.floor(budget / chain.notional[first])
    strategy[contracts < 1] = TICKET
    legs = _legs(rng, strategy, chain.strikes[coin])
    bought, sold_call, sold_put = (np.where(leg < 0, -1, first + leg) for leg in legs)
    spent = size * rng.uniform(*TICKET_SHARE, trades) / chain.value[bought.clip(0)]
    most = np.maximum(np.floor(size / chain.notional[first]), 1.0)
    contracts = np.where(strategy == TICKET, np.clip(np.round(spent), 1.0, most), contracts)
    option = np.concatenate([bought, sold_call, sold_put])
    quantity = np.concatenate([contracts, -contracts, -contracts])[option >= 0]
    key, place = np.unique((np.tile(account, 3) * listed + option)[option >= 0], return_inverse=True)
    net = total(quantity, place, len(key))
    key, net = key[net != 0], net[net != 0]
    return key // listed, key % listed, net


def _legs(rng: np.random.Generator, strategy: Integers, strikes: Integers) -> tuple[Integers, Integers, Integers]:
    """The option bought, the call sold and the put sold, counted from the first of the expiry; -1 for none."""
    last, middle = strikes - 1, (strikes - 1) // 2
    near, far = (rng.integers(*steps, len(strategy)) for steps in ((-1, 1), (1, 4)))
    above, below = np.minimum(middle + far, last), np.maximum(middle - far, 0)
    put = rng.random(len(strategy)) < 0.35
    ticket = np.where(put, 2 * np.maximum(below - 1, 0) + 1, 2 * np.minimum(above + 1, last))
    bought = np.select(
        [strategy == CALL_SPREAD, strategy == PROTECTIVE_PUT, strategy == TICKET],
        [2 * np.maximum(middle + near, 0), 2 * below + 1, ticket],
        default=-1,
    )
    sells_call = np.isin(strategy, [COVERED_CALL, STRANGLE, CALL_SPREAD])
    return bought, np.where(sells_call, 2 * above, -1), np.where(strategy == STRANGLE, 2 * below + 1, -1)


def _makers(rng: np.random.Generator, chain: Chain, makers: int, option: Integers, quantity: Floats) -> Floats:
    """Makers x options: the other side of the clients, then one strike against another among the makers."""
    listed = len(chain.mark)
    held = np.zeros((makers, listed))
    if not makers:
        return held
    net = np.bincount(option, quantity, minlength=listed)
    gross = np.bincount(option, np.abs(quantity), minlength=listed) * chain.notional
    share = rng.standard_exponential((makers, listed))
    held -= np.round(net * share / share.sum(0))
    held[-1] -= net + held.sum(0)  # the last one takes the rounding: contracts are whole and sum to zero
    quoted = rng.random((makers, listed)) < QUOTED
    spread = rng.standard_normal((makers, listed)) * quoted * (gross + SPREAD_SIZE) / makers**0.5
    for coin in range(len(chain.strikes)):
        inside = chain.coin == coin
        mean = spread[:, inside].sum(1) / np.maximum(quoted[:, inside].sum(1), 1)
        spread[:, inside] -= quoted[:, inside] * mean[:, None]
    lots = np.round(spread / chain.notional)
    return held + lots - np.roll(lots, 1, axis=0)  # what one maker buys the next one sells
