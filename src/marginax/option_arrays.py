"""The options of a market as arrays to trace: one block for each pricing law, numbered by the rows of the cube."""

import numpy as np

from marginax.basis import YEAR, forward_factors
from marginax.chains import Chains
from marginax.history import FactorHistory
from marginax.instruments import Instruments
from marginax.market import Market
from marginax.options import SMILE_POINTS, SMILE_REACH, OptionArrays


def option_arrays(
    instruments: Instruments,
    market: Market,
    history: FactorHistory,
    chains: Chains,
    row_of: np.ndarray,
    *,
    sticky_strike: bool,
) -> tuple[OptionArrays, ...]:
    """The blocks of the options that have a row in the cube (`row_of` by instrument, -1 for none); none without any.

    The smile of every expiry is fitted only where volatility moves along with the forward.
    """
    expiries = chains.expiries
    assets = {name: k for k, name in enumerate(market.underlyings["underlying"])} | {
        market.currency: market.underlyings.height
    }
    factors = {name: k for k, name in enumerate(history.names)}
    first = np.array([chains.instrument[np.argmax(chains.expiry == k)] for k in range(len(expiries))], np.int64)
    forwards = forward_factors(instruments)
    basis = np.array([factors.get(forwards[k], len(factors)) for k in first], np.int32)
    volatility_factors = np.array([history.volatility_of(name) for name in expiries.underlying], np.int32)
    smile = None if sticky_strike else _smile_table(chains)
    paths, path_years = _paths(chains, history, np.datetime64(market.as_of.replace(tzinfo=None), "us"))
    blocks = []
    for normal in (False, True):
        chosen = np.flatnonzero((row_of[chains.instrument] >= 0) & (expiries.normal[chains.expiry] == normal))
        if not len(chosen):
            continue
        number = chains.instrument[chosen]
        blocks.append(
            OptionArrays(
                row=row_of[number].astype(np.int32),
                expiry=chains.expiry[chosen].astype(np.int32),
                strike=instruments.strike[number],
                volatility=chains.volatility[chosen],
                call=instruments.kind[number] == "call",
                underlying=np.array([assets[name] for name in expiries.underlying], np.int32),
                quote=np.array([assets[name] for name in expiries.quote], np.int32),
                basis=basis,
                factor=volatility_factors,
                forward=expiries.forward,
                discount=expiries.discount,
                years=expiries.years,
                coin=expiries.coin_settled,
                smile=smile,
                normal=normal,
                paths=paths,
                path_years=path_years,
                days_per_trading_day=history.grid.days_per_trading_day,
            )
        )
    return tuple(blocks)


def _paths(chains: Chains, history: FactorHistory, as_of: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the settlements of the same underlying up to that of each expiry, nearest first, and their years.

    What does not settle inside the horizon has none: the place past the last factor, and zero years.
    """
    expiries, factors = chains.expiries, np.flatnonzero(history.is_settlement)
    inside = set(history.settlements)
    rows: list[list[tuple[int, float]]] = []
    for name, expiry in zip(expiries.underlying, expiries.expiry, strict=True):
        rows.append(
            [
                (int(factor), float((due - as_of) / YEAR))
                for factor, (underlying, due) in zip(factors, history.settlements, strict=True)
                if underlying == name and due <= expiry and (name, expiry) in inside
            ]
        )
    depth = max((len(row) for row in rows), default=0)
    padded = [row + [(len(history.names), 0.0)] * (depth - len(row)) for row in rows]
    table = np.reshape(np.array(padded, float), (len(rows), depth, 2))
    return table[..., 0].astype(np.int32), table[..., 1]


def _smile_table(chains: Chains) -> np.ndarray:
    """The smile of each expiry on the grid of log-moneyness; flat where there is none."""
    grid = np.linspace(-SMILE_REACH, SMILE_REACH, SMILE_POINTS)
    rows = []
    for k in range(len(chains.expiries)):
        fitted = chains.smile(k)
        known = chains.volatility[(chains.expiry == k) & np.isfinite(chains.volatility)]
        flat = np.full(SMILE_POINTS, known.mean() if len(known) else 1.0)
        rows.append(flat if fitted is None else fitted.volatility(grid))
    return np.array(rows)
