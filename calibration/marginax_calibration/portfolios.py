"""Portfolios that look like a venue's accounts: constant weights in USD, rebalanced every bar, gross notional one.

A leg is a weight (share of gross notional, negative when short) in an underlying, or in an option on it: struck anew
every bar at `deviations` of the forward's own standard deviation to expiry, `days` away. The weight of an option is the
notional of its contracts, not its premium.

Kinds: `long` and `short` (each underlying, and an equal basket), `spread` (neighbours by name against each other, and a
forward against its underlying), `neutral` (random weights that sum to zero), `straddle` and `strangle` (short),
`collar` (the underlying, a put below, a short call above) and `market_maker` (many options both ways, hedged in the
underlying).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from marginax.problems import BadInput, Problem, suggestion
from marginax.tables.door import admit
from marginax.tables.read import Source

LINEAR_KINDS = ("long", "short", "spread", "neutral")
OPTION_DAYS = 30.0
# Strikes of a market maker, in standard deviations of the forward to expiry.
STRIKES = (-2.0, -1.0, 0.0, 1.0, 2.0)
MOST_NEUTRAL_LEGS = 8


@dataclass(frozen=True)
class Leg:
    """A weight in an underlying, or in an option on it (`option` is call, put or empty)."""

    underlying: str
    weight: float
    option: str = ""
    deviations: float = 0.0
    days: float = 0.0


@dataclass(frozen=True)
class Portfolio:
    """Legs whose weights are shares of gross notional: their sizes sum to one."""

    name: str
    kind: str
    legs: tuple[Leg, ...]

    @property
    def underlyings(self) -> tuple[str, ...]:
        """What it is in, each once."""
        return tuple(dict.fromkeys(leg.underlying for leg in self.legs))


def portfolio(name: str, kind: str, legs: Sequence[Leg]) -> Portfolio:
    """Legs scaled to a gross notional of one. Raises ValueError where all weights are zero."""
    gross = sum(abs(leg.weight) for leg in legs)
    if not 0 < gross < np.inf:
        raise ValueError(f"the weights of {name!r} sum to a gross notional of {gross}; give one that is not zero")
    scaled = (Leg(leg.underlying, leg.weight / gross, leg.option, leg.deviations, leg.days) for leg in legs)
    return Portfolio(name, kind, tuple(leg for leg in scaled if leg.weight))


def venue_portfolios(
    underlyings: Sequence[str],
    *,
    forwards: Mapping[str, str] | None = None,
    seed: int = 7,
    neutral: int = 8,
    makers: int | None = None,
) -> list[Portfolio]:
    """A venue's accounts over these underlyings: 2n + 2 one way, n // 2 spreads, `neutral` random ones, 3n with options
    and `makers` books (a fifth of n, two at least).

    `forwards` names those that are forwards, each with its underlying; they are held in spreads against it. The same
    names and seed give the same portfolios.
    """
    of = forwards or {}
    names = sorted(name for name in underlyings if name not in of)
    made = [portfolio(f"long {name}", "long", [Leg(name, 1.0)]) for name in names]
    made += [portfolio(f"short {name}", "short", [Leg(name, -1.0)]) for name in names]
    if len(names) > 1:
        made.append(portfolio("long basket", "long", [Leg(name, 1.0) for name in names]))
        made.append(portfolio("short basket", "short", [Leg(name, -1.0) for name in names]))
    pairs = [(names[k], names[k + 1]) for k in range(0, len(names) - 1, 2)]
    pairs += [(name, of[name]) for name in sorted(underlyings) if of.get(name) in names]
    made += [portfolio(f"spread {one} {other}", "spread", [Leg(one, 1.0), Leg(other, -1.0)]) for one, other in pairs]
    if len(names) > 1:
        made += [_neutral(k, names, seed) for k in range(neutral)]
    for name in names:
        made += _option_portfolios(name)
    count = max(2, len(names) // 5) if makers is None else makers
    return made + [_market_maker(k, names, seed) for k in range(count)]


def read_portfolios(file: Source, underlyings: Sequence[str]) -> list[Portfolio]:
    """Portfolios from a table: portfolio, kind?, underlying, weight, option?, deviations?, days?; one row a leg.

    Weights are scaled to a gross notional of one. Raises BadInput for an underlying that the history does not hold, a
    portfolio of two kinds or of no weight, and what the door refuses.
    """
    admitted = admit(file, "portfolios", on_error="raise")
    rows, name = admitted.rows, ", ".join(admitted.digests)
    problems = []
    for row, underlying in enumerate(rows["underlying"], start=1):
        if underlying not in underlyings:
            what = f"'{underlying}' is no underlying of the history"
            remedy = f"Correct the name; {suggestion(underlying, list(underlyings))}"
            problems.append(Problem(name, "underlying", row, what, remedy, table="portfolios"))
    made = []
    for key, legs in rows.partition_by("portfolio", as_dict=True, maintain_order=True).items():
        kinds = legs["kind"].fill_null("own").unique().to_list()
        if len(kinds) > 1:
            what = f"portfolio '{key[0]}' is of the kinds {', '.join(sorted(kinds))}"
            problems.append(Problem(name, "kind", None, what, "Give all its legs one", table="portfolios"))
            continue
        entries = legs.with_columns(
            pl.col("option").fill_null(""), pl.col("deviations").fill_null(0.0), pl.col("days").fill_null(OPTION_DAYS)
        )
        wanted = [
            Leg(leg["underlying"], leg["weight"], leg["option"], leg["deviations"], leg["days"])
            if leg["option"]
            else Leg(leg["underlying"], leg["weight"])
            for leg in entries.iter_rows(named=True)
        ]
        try:
            made.append(portfolio(str(key[0]), kinds[0], wanted))
        except ValueError as error:
            problems.append(Problem(name, "weight", None, str(error), "Correct the weights", table="portfolios"))
    if not made and not problems:
        problems.append(
            Problem(name, None, None, "holds no portfolio", "Give one row for each leg", table="portfolios")
        )
    if problems:
        raise BadInput(problems)
    return made


def _neutral(k: int, names: Sequence[str], seed: int) -> Portfolio:
    rng = _generator(seed, f"neutral {k}")
    most = min(len(names), MOST_NEUTRAL_LEGS)
    chosen = rng.choice(names, size=rng.integers(min(3, most), most + 1), replace=False)
    weights = rng.standard_normal(len(chosen))
    weights -= weights.mean()
    legs = [Leg(str(name), float(weight)) for name, weight in zip(chosen, weights, strict=True)]
    return portfolio(f"neutral {k + 1}", "neutral", legs)


def _option_portfolios(name: str) -> list[Portfolio]:
    def option(weight: float, kind: str, deviations: float) -> Leg:
        return Leg(name, weight, kind, deviations, OPTION_DAYS)

    return [
        portfolio(f"straddle {name}", "straddle", [option(-1.0, "call", 0.0), option(-1.0, "put", 0.0)]),
        portfolio(f"strangle {name}", "strangle", [option(-1.0, "call", 1.0), option(-1.0, "put", -1.0)]),
        portfolio(f"collar {name}", "collar", [Leg(name, 1.0), option(1.0, "put", -1.0), option(-1.0, "call", 1.0)]),
    ]


def _market_maker(k: int, names: Sequence[str], seed: int) -> Portfolio:
    """Calls and puts at every strike, bought and sold, on up to three underlyings; deltas are hedged.

    With strikes in standard deviations the delta of a call is close to N(-deviations) whatever the volatility.
    """
    rng = _generator(seed, f"market maker {k}")
    legs = []
    for name in rng.choice(names, size=min(len(names), int(rng.integers(1, 4))), replace=False):
        delta = 0.0
        for deviations in STRIKES:
            for kind in ("call", "put"):
                weight = float(rng.standard_normal())
                legs.append(Leg(str(name), weight, kind, deviations, OPTION_DAYS))
                delta += weight * float(stats.norm.sf(deviations) - (kind == "put"))
        legs.append(Leg(str(name), -delta))
    return portfolio(f"market maker {k + 1}", "market_maker", legs)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *name.encode()]))
