"""A backtest's figures in loops, from rows (date, portfolio, loss, var, es, charged) of one model.

Everything that needs no drawing is here; p-values that rest on random orders come as the least and the greatest value
that breaking ties can give.
"""

from itertools import pairwise
from math import comb, cos, log, pi, sqrt
from typing import NamedTuple

import numpy as np
from scipy import stats


class Row(NamedTuple):
    """One day of one portfolio, as one model saw it."""

    date: int
    portfolio: str
    loss: float
    var: float
    es: float
    charged: float


def score(row: Row, tail: float) -> float:
    """FZ0, with gains, VaR and ES negative where money is lost, as Patton, Ziegel and Chen print it."""
    gain, var, es = -row.loss, -row.var, -row.es
    beyond = var - gain if gain <= var else 0.0
    return -beyond / (tail * es) + var / es + log(-es) - 1


def shortfall(rows: list[Row], tail: float) -> tuple[float | None, float]:
    """Z1 and Z2 as Acerbi and Szekely print them, of gains X: sum of X I / ES, over the breaches, and over T alpha."""
    hits = [row for row in rows if row.loss > row.var]
    total = sum(-row.loss / row.es for row in hits)
    return (total / len(hits) + 1 if hits else None), total / (len(rows) * tail) + 1


def kupiec_ratio(days: int, breaches: int, tail: float) -> float:
    """-2 log of the nominal over the greatest likelihood, with 0 log 0 = 0."""
    found = breaches / days
    ratio = 0.0
    for count, nominal, rate in ((breaches, tail, found), (days - breaches, 1 - tail, 1 - found)):
        ratio += 2 * count * log(rate / nominal) if count else 0.0
    return ratio


def kupiec(days: int, breaches: int, tail: float) -> tuple[float, float]:
    """Two-sided and one-sided, from every count there could be."""
    two, one = 0.0, 0.0
    for count in range(days + 1):
        mass = comb(days, count) * tail**count * (1 - tail) ** (days - count)
        if kupiec_ratio(days, count, tail) >= kupiec_ratio(days, breaches, tail) - 1e-9:
            two += mass
        if count >= breaches:
            one += mass
    return two, one


def diebold_mariano(difference: list[float]) -> float:
    """With the variance of the first twelve cosines."""
    days = len(difference)
    waves = min(12, days - 1)
    variance = 0.0
    for j in range(1, waves + 1):
        projection = sum(each * cos(pi * j * (t + 0.5) / days) for t, each in enumerate(difference))
        variance += 2 / days * projection**2 / waves
    mean = sum(difference) / days
    return float(2 * stats.t.sf(abs(mean) / sqrt(variance / days), waves))


def increase(charged: list[float], rows: int) -> float | None:
    """The greatest increase from one row to the one so many rows later."""
    changes = [later / earlier - 1 for earlier, later in zip(charged, charged[rows:], strict=False)]
    return max(changes) if changes else None


def likelihood_ratio(values: list[float]) -> float:
    """Twice the log of the greatest likelihood of any law on these values over that of laws with a mean of zero.

    The weights are 1 / (n (1 + m x)); m makes the mean zero, by bisection.
    """
    low, high = -1 / max(values) * (1 - 1e-12), -1 / min(values) * (1 - 1e-12)
    for _ in range(200):
        m = (low + high) / 2
        if sum(x / (1 + m * x) for x in values) > 0:
            low = m
        else:
            high = m
    return 2 * sum(log(1 + m * x) for x in values)


def by_day(rows: list[Row]) -> dict[int, list[Row]]:
    """Rows of each date, in the order of dates."""
    return {date: [row for row in rows if row.date == date] for date in sorted({row.date for row in rows})}


def by_portfolio(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each portfolio in the order of dates."""
    names = sorted({row.portfolio for row in rows})
    return {name: sorted(row for row in rows if row.portfolio == name) for name in names}


def following(rows: list[Row]) -> list[int]:
    """Breaches of a portfolio in the row after one of the same, by the date of the second."""
    count: dict[int, int] = {}
    for own in by_portfolio(rows).values():
        for before, after in pairwise(own):
            if before.loss > before.var and after.loss > after.var:
                count[after.date] = count.get(after.date, 0) + 1
    return list(count.values())


def shuffled(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    """The same rows on other dates: a date takes only the place of one with the same portfolios."""
    days = by_day(rows)
    alike: dict[tuple[str, ...], list[int]] = {}
    for date, own in days.items():
        alike.setdefault(tuple(sorted(row.portfolio for row in own)), []).append(date)
    moved = []
    for dates in alike.values():
        for date, place in zip(dates, rng.permutation(dates).tolist(), strict=True):
            moved += [row._replace(date=place) for row in days[date]]
    return moved
