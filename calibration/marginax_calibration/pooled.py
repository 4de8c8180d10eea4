"""Backtests of many portfolios at once, where a day is one observation.

Portfolios share their days: a crash is a breach of many of them, so that Kupiec's exact test over 27 portfolios of 7
coins and 1,000 days rejects 13 % (normal losses) to 25 % (Student's, of 5 degrees) of right models at 5 %. Days of a
right model are independent, so every test here is one of days.

**Kupiec, one-sided, Z1, Z2.** Under the null the mean over days of b_t - n_t x tail is zero (b_t breaches of n_t
portfolios); for Z2 that of their severities, loss / ES, instead of b_t; for Z1 that of the sum of severity - 1 over the
days with breaches. Owen's empirical likelihood ratio of a mean of zero is held against the chi-square law, its signed
root against the normal one. Of a single portfolio the ratio is Kupiec's own, and it needs no model of how portfolios
depend on each other. It was chosen by simulation: with ratios divided by a design effect from the same breaches (Rao
and Scott), 8 % of right models are too prudent and 2 % too careless at 5 %, because a sample of few breaches also looks
less clustered; the t-statistic of days finds 0 to 3 % of right models too careless by Z1. Empirical likelihood bends
with the skewness of the days: 3 to 7 %.

**Where fewer than ten days have a breach, or all days lie on one side of the mean,** nothing tells how breaches
cluster. Then all portfolios count as one, the most dependent case there is: their mean number of breaches, rounded
towards the null, and their mean severity, by the law of a single portfolio; for Z1 as many breaches as days of equal
weight. So no breach at all rejects as it does for one portfolio, and too little rather than too much.

**Independence** puts the days in random orders, among those on which the same portfolios live: under the null every
order is as likely as any other, whatever the portfolios have in common on a day. It counts the breaches that follow on
one of the same portfolio, c_t on day t, and asks whether their sum less its mean over the orders, divided by the root
of the sum of c_t^2, is too great; ties are broken at random. The root makes up for dependence between portfolios that
comes and goes with the weeks: without it, as in Christoffersen's ratio of all transitions, 7 to 9 % of right models are
rejected where correlations jump or volatilities drift apart. **Conditional coverage** adds the chi-square quantiles of
both p-values, which are independent, and has two degrees of freedom.

Source: Owen (1988), Kish (1965).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt64
from scipy import optimize, stats

from marginax_calibration.coverage import Zone, basel_zone, kupiec, kupiec_one_sided
from marginax_calibration.shortfall_tests import beyond

ORDERS = 999
# Days of all orders that are held at once.
CELLS = 1 << 22
# Days with a breach; over 4 (two portfolios, 250 days) the chi-square law rejects 7 % of right models at 5 %.
FEWEST = 10
# Basel's boundaries, as deviations of a normal variable.
YELLOW, RED = stats.norm.ppf([0.95, 0.9999])
TIE = 1e-9


@dataclass(frozen=True)
class Pool:
    """Portfolios and their days; rows are those of `Daily`, all days of one portfolio before those of the next."""

    day: Int64[np.ndarray, " rows"]
    portfolio: Int64[np.ndarray, " rows"]
    seed: int

    @cached_property
    def days(self) -> Int64[np.ndarray, " rows"]:
        """The day of each row, counting those on which any portfolio of the pool lives."""
        return np.unique(self.day, return_inverse=True)[1]

    @cached_property
    def members(self) -> Int64[np.ndarray, " rows"]:
        """The portfolio of each row, counting those of the pool."""
        return np.unique(self.portfolio, return_inverse=True)[1]

    @cached_property
    def alive(self) -> Bool[np.ndarray, "days members"]:
        alive = np.zeros((self.days.max() + 1, self.members.max() + 1), bool)
        alive[self.days, self.members] = True
        return alive

    @cached_property
    def living(self) -> Int64[np.ndarray, " days"]:
        """How many portfolios each day has."""
        return self.alive.sum(1)

    def total(self, values: Float64[np.ndarray, " rows"] | Bool[np.ndarray, " rows"]) -> Float64[np.ndarray, " days"]:
        """Sums over the portfolios of each day."""
        return np.bincount(self.days, values, len(self.living))

    def orders(self) -> Iterator[Int32[np.ndarray, "orders days"]]:
        """The days as they were, and bundles of random orders, in which a day takes only places of days alike.

        Days are alike where the same portfolios live.
        """
        days = len(self.living)
        yield np.arange(days, dtype=np.int32)[None]
        _, first, alike = np.unique(np.packbits(self.alive, axis=1), axis=0, return_index=True, return_inverse=True)
        rng = np.random.default_rng(self.seed)
        # From the first day on, so that the names of portfolios and their order change nothing.
        groups = [np.flatnonzero(alike.ravel() == each).astype(np.int32) for each in np.argsort(first)]
        bundle = max(1, CELLS // days)
        for begin in range(0, ORDERS, bundle):
            orders = np.empty((min(bundle, ORDERS - begin), days), np.int32)
            for same in groups:
                orders[:, same] = rng.permuted(np.broadcast_to(same, (len(orders), len(same))), axis=1)
            yield orders

    def following(self, breach: Bool[np.ndarray, "models rows"]) -> Int64[np.ndarray, "2 models orders+1"]:
        """Breaches that follow on one of the same portfolio, in its next row: their sum and sum of squares over days.

        First in the order of time, then in each random order. Portfolios are bits of a word, so that a day costs the
        same however many of them breach. What a portfolio did last is kept over days on which it does not live.
        """
        marks = np.zeros((len(breach), *self.alive.shape), bool)
        marks[:, self.days, self.members] = breach
        bits, alive = _words(marks).swapaxes(0, 1), _words(self.alive)[:, None]
        counts = []
        for orders in self.orders():
            sums = np.zeros((2, len(breach), len(orders)), np.int64)
            last = np.zeros((len(orders), *bits.shape[1:]), bits.dtype)
            for lives, order in zip(alive, orders.T, strict=True):
                now = bits[order]
                count = np.bitwise_count(now & last).sum(-1, dtype=np.int64).T
                sums[0] += count
                sums[1] += count * count
                last &= ~lives
                last |= now
            counts.append(sums)
        return np.concatenate(counts, axis=2)


def pooled_tests(
    pool: Pool,
    breach: Bool[np.ndarray, "models rows"],
    severity: Float64[np.ndarray, "models rows"],
    mixtures: Float64[np.ndarray, "models shares"],
    *,
    tail: float,
) -> list[dict[str, Any]]:
    """Every test of each model over a pool, by the names of the judgement.

    `severity` is loss / ES where breached and zero elsewhere, `mixtures` are those of `shortfall_tests.mixture`.
    """
    days, rows = len(pool.living), breach.shape[1]
    answers = []
    following = pool.following(breach).swapaxes(0, 1)
    for hit, cost, law, followed in zip(breach, severity, mixtures, following, strict=True):
        by_day = pool.total(hit)
        root = likelihood_root(by_day - pool.living * tail)
        known = np.isfinite(root) and np.count_nonzero(by_day) >= FEWEST
        coverage = _by_root(root) if known else _as_one(days, by_day.sum() * days / rows, tail)
        independence = _independence(pool, by_day, *followed)
        both = stats.chi2.isf(coverage["kupiec_p"], 1) + stats.chi2.isf(independence, 1)
        answers.append(
            {
                "kupiec_p": coverage["kupiec_p"],
                "kupiec_one_sided_p": coverage["kupiec_one_sided_p"],
                "independence_p": independence,
                "conditional_coverage_p": float(stats.chi2.sf(both, 2)),
                "basel_zone": coverage["basel_zone"],
                **_shortfall(pool, hit, cost, law, tail),
                "design_effect": _design_effect(pool, by_day),
                "breach_days": int(np.count_nonzero(by_day)),
            }
        )
    return answers


def likelihood_root(deviation: Float64[np.ndarray, " days"]) -> float:
    """Signed root of the empirical likelihood ratio of a mean of zero; positive where the mean is above.

    Infinite where no day lies on the other side of zero. Source: Owen (1988).
    """
    high, low = deviation.max(), deviation.min()
    if high == low == 0:
        return 0.0
    if high <= 0 or low >= 0:
        return float("inf") if low >= 0 else float("-inf")
    scaled = deviation / max(high, -low)
    # Weights 1 / (days x (1 + multiplier x deviation)) lie between zero and one.
    bounds = [(1 / len(scaled) - 1) / each for each in (scaled.max(), scaled.min())]
    multiplier = optimize.brentq(
        lambda at: (scaled / (1 + at * scaled)).sum(), *bounds, xtol=1e-14, rtol=1e-14, maxiter=1_000
    )
    ratio = 2 * np.log1p(multiplier * scaled).sum()
    return float(np.sign(deviation.sum()) * np.sqrt(max(0.0, ratio)))


def _by_root(root: float) -> dict[str, Any]:
    zone: Zone = "red" if root >= RED else "yellow" if root >= YELLOW else "green"
    return {
        "kupiec_p": float(stats.chi2.sf(root**2, 1)),
        "kupiec_one_sided_p": float(stats.norm.sf(root)),
        "basel_zone": zone,
    }


def _as_one(days: int, breaches: float, tail: float) -> dict[str, Any]:
    """All portfolios as one with their mean number of breaches, rounded towards the expected one."""
    expected = days * tail
    count = min(np.ceil(breaches), np.floor(expected)) if breaches < expected else np.floor(breaches)
    count = int(max(count, 0))
    return {
        "kupiec_p": kupiec(days, count, tail=tail).p,
        "kupiec_one_sided_p": kupiec_one_sided(days, count, tail=tail) if breaches > expected else 1.0,
        "basel_zone": basel_zone(days, count, tail=tail),
    }


def _independence(
    pool: Pool,
    by_day: Float64[np.ndarray, " days"],
    total: Int64[np.ndarray, " orders+1"],
    squares: Int64[np.ndarray, " orders+1"],
) -> float:
    """Of one model, from sums in the order of time and then in random ones; 1 where no breach follows on another."""
    if not total[0] or (total == total[0]).all():
        return 1.0
    statistic = (total - total[1:].mean()) / np.sqrt(np.maximum(squares, 1))
    found, others = statistic[0], statistic[1:]
    above = np.count_nonzero(others > found + TIE)
    tied = 1 + np.count_nonzero(np.abs(others - found) <= TIE)
    uniform = np.random.default_rng([pool.seed, *by_day.astype(int).tolist()]).random()
    return float((above + uniform * tied) / (ORDERS + 1))


def _shortfall(
    pool: Pool,
    breach: Bool[np.ndarray, " rows"],
    severity: Float64[np.ndarray, " rows"],
    mixture: Float64[np.ndarray, " shares"],
    tail: float,
) -> dict[str, float | None]:
    days, rows, breaches, total = len(pool.living), len(breach), int(breach.sum()), float(severity.sum())
    if not breaches:
        return {"z1": None, "z1_p": 1.0, "z2": 1.0, "z2_p": 1.0}
    by_day = pool.total(breach)
    few = np.count_nonzero(by_day) < FEWEST

    def one_sided(deviation: Float64[np.ndarray, " days"], total: float, count: int, chance: float) -> float:
        root = likelihood_root(deviation)
        if few or root == np.inf:
            return float(beyond(np.array([total]), np.array([count]), mixture[None], chance=chance, tail=tail)[0])
        return float(stats.norm.sf(root))

    above = pool.total(np.where(breach, severity - 1, 0))[by_day > 0]
    # So many days of equal weight tell as much (Kish), with one breach each.
    weight = max(1, int(breaches**2 / (by_day**2).sum()))
    return {
        "z1": 1 - total / breaches,
        "z1_p": one_sided(above, weight * total / breaches, weight, 1.0),
        "z2": 1 - total / (rows * tail),
        "z2_p": one_sided(pool.total(severity) - pool.living * tail, total * days / rows, days, tail),
    }


def _design_effect(pool: Pool, by_day: Float64[np.ndarray, " days"]) -> float | None:
    """How much more the breaches of a day vary than they would if portfolios were independent, at their own rate."""
    rows = pool.living.sum()
    rate = by_day.sum() / rows
    if not 0 < rate < 1:
        return None
    return float(((by_day - pool.living * rate) ** 2).sum() / (rows * rate * (1 - rate)))


def _words(marks: Bool[np.ndarray, "*shape members"]) -> UInt64[np.ndarray, "*shape words"]:
    """The last axis as bits of 64-bit words."""
    packed = np.packbits(marks, axis=-1)
    short = -packed.shape[-1] % 8
    return np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, short)]).view(np.uint64)
