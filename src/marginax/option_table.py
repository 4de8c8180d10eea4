"""The options of a market as a table: what each is priced with, and its Greeks.

Greeks are per unit of the underlying, in quote currency, and hold the forward: delta by the forward, vega per 1.00 of
volatility, theta per year of calendar time, vanna by forward and volatility. Those of coin-settled options are of the
value in quote currency, as venues show them, and not of the coins.
"""

import jax
import numpy as np
import polars as pl

from marginax.chains import Chains, VolatilitySource
from marginax.expiries import ForwardSource
from marginax.instruments import Instruments
from marginax.market import Market
from marginax_kernels import effective_years, option_greeks

GREEKS = ("delta", "gamma", "vega", "theta", "vanna")

_option_greeks = jax.jit(option_greeks)
_paces = jax.jit(jax.vmap(jax.grad(effective_years), (0, None)))


def option_table(instruments: Instruments, market: Market, chains: Chains, *, window: float = 0.0) -> pl.DataFrame:
    """One row an option with a quote, in instrument order; null where there is no volatility.

    Columns: instrument_id, underlying, coin_settled, kind, expiry, strike, forward, forward_source (table, parity,
    index), discount, years, implied_vol, volatility_source (quote, mark, smile, other_expiry, none), mark_price,
    model_price (like the mark), and the Greeks. Settlement averages the last `window` years.
    """
    expiries, group, number = chains.expiries, chains.expiry, chains.instrument
    forward, discount = expiries.forward[group], expiries.discount[group]
    with jax.enable_x64(True):
        years = np.asarray(effective_years(expiries.years, window))[group]
        # Inside its window an average loses its variance faster, or slower, than time passes.
        pace = np.asarray(_paces(expiries.years, window))[group]
        greeks = _option_greeks(
            forward,
            instruments.strike[number],
            chains.volatility,
            years,
            discount,
            call=instruments.kind[number] == "call",
            normal=expiries.normal[group],
        )
        values = {name: np.asarray(getattr(greeks, name), float) for name in ("value", *GREEKS)}
        values["theta"] = values["theta"] * pace
    marks = dict(market.quotes.select("instrument_id", "mark_price").iter_rows())
    ids = instruments.ids[number]
    frame = pl.DataFrame(
        {
            "instrument_id": pl.Series(ids, dtype=pl.String),
            "underlying": pl.Series(instruments.underlying[number], dtype=pl.String),
            "coin_settled": expiries.coin_settled[group],
            "kind": pl.Series(instruments.kind[number], dtype=pl.String),
            "expiry": pl.Series(instruments.expiry[number].astype("datetime64[us]")).dt.replace_time_zone("UTC"),
            "strike": instruments.strike[number],
            "forward": forward,
            "forward_source": _words(ForwardSource, expiries.source[group]),
            "discount": discount,
            "years": expiries.years[group],
            "implied_vol": chains.volatility,
            "volatility_source": _words(VolatilitySource, chains.source),
            "mark_price": np.array([marks[name] for name in ids], float),
            "model_price": values["value"] / np.where(expiries.coin_settled[group], forward, 1.0),
            **{name: values[name] for name in GREEKS},
        }
    )
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _words(kinds: type[ForwardSource] | type[VolatilitySource], codes: np.ndarray) -> pl.Series:
    words = [kind.name.lower() for kind in kinds]
    return pl.Series([words[code] for code in codes], dtype=pl.String)
