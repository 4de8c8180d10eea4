"""Does value at risk cover what it promises? Tests of how many breaches there were, and whether they cluster.

A breach is a loss beyond value at risk; `tail` is its nominal probability. P-values are exact: breaches are counts, and
at 250 days and a tail of 0.01 the chi-square law rejects 9.5 % of right models at 5 %.
"""

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special, stats

# Ties of a likelihood ratio that is the same by arithmetic and differs by rounding.
TIE = 1e-9

Zone = Literal["green", "yellow", "red"]


class Transitions(NamedTuple):
    """Days by the day before: `n01` are breaches after a day without one."""

    n00: int
    n01: int
    n10: int
    n11: int


class Coverage(NamedTuple):
    """A likelihood ratio and the probability of one as large under the null."""

    statistic: float
    p: float


def kupiec(days: int, breaches: int, *, tail: float) -> Coverage:
    """Unconditional coverage, two-sided: too many breaches or too few.

    The p-value sums the binomial probabilities of all counts at least as unlikely by the likelihood ratio. Raises
    ValueError for counts that are none. Source: Kupiec (1995).
    """
    _check(days, breaches, tail)
    count = np.arange(days + 1)
    ratio = _kupiec_ratio(days, count, tail)
    least = ratio[breaches] * (1 - TIE) - TIE
    return Coverage(float(ratio[breaches]), float(min(1.0, stats.binom.pmf(count, days, tail)[ratio >= least].sum())))


def kupiec_one_sided(days: int, breaches: int, *, tail: float) -> float:
    """Probability of so many breaches or more: small where margin is too low, and 1 where there are none."""
    _check(days, breaches, tail)
    return float(stats.binom.sf(breaches - 1, days, tail))


def basel_zone(days: int, breaches: int, *, tail: float) -> Zone:
    """The traffic light: yellow where the binomial probability of so many breaches or fewer is 95 % or more, red
    99.99 %.

    Source: Basel Committee (1996); the boundaries for other numbers of days follow from the same probabilities.
    """
    _check(days, breaches, tail)
    cumulated = stats.binom.cdf(breaches, days, tail)
    return "red" if cumulated >= 0.9999 else "yellow" if cumulated >= 0.95 else "green"


def transitions(breach: Bool[np.ndarray, " days"]) -> Transitions:
    """How often a breach, and none, followed on a breach, and on none."""
    before, after = breach[:-1], breach[1:]
    n11, n01 = int((before & after).sum()), int((~before & after).sum())
    n10 = int((before & ~after).sum())
    return Transitions(max(len(breach) - 1, 0) - n11 - n01 - n10, n01, n10, n11)


def independence_ratio(counts: Transitions) -> float:
    """Likelihood ratio of breaches that depend on the day before against breaches that do not.

    Source: Christoffersen (1998).
    """
    return float(_independence_ratio(*(np.asarray(each, float) for each in counts)))


def independence(breach: Bool[np.ndarray, " days"]) -> Coverage:
    """Whether breaches follow on breaches more, or less, than by chance.

    Given how many there are, every order is as likely as any other under the null, so the law of the likelihood ratio
    is known exactly from the number of runs. It is coarse where breaches are few: ties are broken at random, as Dufour
    (2006) does for simulated laws, with a generator that the days of the breaches seed. Where chance lets less than one
    breach follow on another and none did, the p-value is 1: nothing clustered. At a tail of 0.01 the size of a 5 % test
    is then 3 % at 500 days and 5 % from 1,000 on.
    """
    counts, days, breaches = transitions(breach), len(breach), int(breach.sum())
    ratio = independence_ratio(counts)
    if breaches == days:
        return Coverage(ratio, 1.0)
    if counts.n11 == 0 and breaches**2 < days:
        return Coverage(ratio, 1.0)
    ratios, probability = _ratios_given(days, breaches)
    above = probability[ratios > ratio + TIE].sum()
    tied = probability[np.abs(ratios - ratio) <= TIE].sum()
    uniform = np.random.default_rng(np.flatnonzero(breach)).random()
    return Coverage(ratio, float(min(1.0, above + uniform * tied)))


def conditional_coverage(breach: Bool[np.ndarray, " days"], *, tail: float) -> Coverage:
    """The right number of breaches, and no clustering, at once: the sum of both likelihood ratios.

    The p-value is exact over all counts and orders. Source: Christoffersen (1998).
    """
    days, breaches = len(breach), int(breach.sum())
    _check(days, breaches, tail)
    ratio = _kupiec_ratio(days, np.array([breaches]), tail)[0] + independence_ratio(transitions(breach))
    ratios, probability = _conditional_law(days, tail)
    as_large = probability[ratios >= ratio * (1 - TIE) - TIE].sum()
    # Counts outside the law's reach have a probability below 1e-9 together.
    return Coverage(float(ratio), float(min(1.0, as_large)))


def _check(days: int, breaches: int, tail: float) -> None:
    if not 0 <= breaches <= days or days < 1:
        raise ValueError(f"{breaches} breaches on {days} days are none. Count breaches among the days that are tested.")
    if not 0 < tail < 1:
        raise ValueError(f"`tail={tail}` is no probability between 0 and 1. Use the small one: 0.01, not 0.99.")


def _kupiec_ratio(days: int, breaches: Int64[np.ndarray, " counts"], tail: float) -> Float64[np.ndarray, " counts"]:
    rate = breaches / days
    rest = days - breaches
    nominal = special.xlogy(breaches, tail) + special.xlog1py(rest, -tail)
    found = special.xlogy(breaches, rate) + special.xlog1py(rest, -rate)
    return np.maximum(0, 2 * (found - nominal))


def _independence_ratio(n00: np.ndarray, n01: np.ndarray, n10: np.ndarray, n11: np.ndarray) -> np.ndarray:
    calm, after = n00 + n01, n10 + n11
    found = _likelihood(n01, calm) + _likelihood(n11, after)
    return np.maximum(0, 2 * (found - _likelihood(n01 + n11, calm + after)))


def _likelihood(successes: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Greatest log-likelihood of so many successes; 0 of no trials."""
    rate = successes / np.maximum(trials, 1)
    return special.xlogy(successes, rate) + special.xlog1py(trials - successes, -rate)


@cache
def _ratios_given(days: int, breaches: int) -> tuple[np.ndarray, np.ndarray]:
    """The independence ratio of every arrangement of so many breaches, by its runs and ends, and its probability.

    A sequence has r runs of breaches and z of other days, z - r being -1, 0 or 1 by what it begins and ends with;
    C(breaches - 1, r - 1) C(others - 1, z - 1) sequences do.
    """
    others = days - breaches
    run, first, last = (each.ravel() for each in np.meshgrid(np.arange(1, breaches + 1), [0, 1], [0, 1], indexing="ij"))
    gaps = run + 1 - first - last
    log = _log_choose(breaches - 1, run - 1) + _log_choose(others - 1, gaps - 1) - _log_choose(days, breaches)
    n11, n01, n10 = breaches - run, run - first, run - last
    return _independence_ratio(days - 1 - n11 - n01 - n10, n01, n10, n11), np.exp(log)


@cache
def _conditional_law(days: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """The sum of both ratios over every count that is not absurd and every arrangement of it, with probabilities."""
    low, high = (int(stats.binom.ppf(q, days, tail)) for q in (1e-10, 1 - 1e-10))
    ratios, masses = [], []
    for count in range(low, min(high + 1, days) + 1):
        unconditional = _kupiec_ratio(days, np.array([count]), tail)[0]
        mass = stats.binom.pmf(count, days, tail)
        if count in (0, days):
            ratios.append(np.array([unconditional]))
            masses.append(np.array([mass]))
            continue
        given, probability = _ratios_given(days, count)
        ratios.append(unconditional + given)
        masses.append(mass * probability)
    return np.concatenate(ratios), np.concatenate(masses)


def _log_choose(n: int | np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """log C(n, k); minus infinity where there is no such choice."""
    top, part = np.broadcast_arrays(np.asarray(n, float), np.asarray(k, float))
    possible = (part >= 0) & (part <= top)
    top, part = np.where(possible, top, 0), np.where(possible, part, 0)
    log = special.gammaln(top + 1) - special.gammaln(part + 1) - special.gammaln(top - part + 1)
    return np.where(possible, log, -np.inf)
