"""The judgement of a backtest from its daily table alone, so that anybody can recompute every figure.

Conventions: losses are positive where money is lost; amounts are fractions of gross notional; a breach is a loss beyond
VaR; `tail` is its nominal probability, 0.01. All that comes out is ready for JSON: None where there is no number.

| p-value | one portfolio | a kind, and all portfolios together |
|---|---|---|
| `kupiec_p` | exact binomial law of the likelihood ratio | empirical likelihood of days |
| `kupiec_one_sided_p` | exact binomial probability of so many breaches or more | its signed root |
| `independence_p` | exact law of Christoffersen's ratio, given the number of breaches | clusters, permuting days |
| `conditional_coverage_p` | exact law of the sum of both ratios | sum of both p-values' chi-square quantiles |
| `z1_p`, `z2_p` | the model's own law, convolved (`shortfall_tests.beyond`) | empirical likelihood of days |
| `dm_p` | Diebold-Mariano with 12 cosines | the same, on sums over the portfolios of a day |

`pooled.py` says why, and what happens without a breach. A pool of one portfolio is judged as that portfolio. Exact
tests of counts are coarse: at 1,000 days and a tail of 0.01 they reject 3.8 to 4.9 % of right models at 5 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax_calibration import coverage
from marginax_calibration.comparison import diebold_mariano, rejected
from marginax_calibration.daily_table import Daily, read_daily
from marginax_calibration.pooled import Pool, pooled_tests
from marginax_calibration.scores import STEPS, costs, finite, fz0, procyclicality
from marginax_calibration.shortfall_tests import beyond, mixture

TESTS = ("kupiec", "kupiec_one_sided", "independence", "conditional_coverage", "z1", "z2")
CYCLE = ("peak_to_trough", *STEPS)

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Rows:
    """What follows from the table row by row; `severity` is loss / ES of a breach and zero elsewhere."""

    breach: Bool[np.ndarray, "models rows"]
    severity: Float64[np.ndarray, "models rows"]
    score: Float64[np.ndarray, "models rows"]


def judge(daily: pl.DataFrame, *, tail: float = 0.01, seed: int = 7, rate: float = 0.05) -> dict[str, Any]:
    """Every test and figure of every model, over all portfolio-days, by kind and by portfolio.

    `daily` has one row per day, portfolio and model: `date`, `portfolio`, `kind`, `model`, `loss`, `var`, `es`,
    `charged`, of the same days and portfolios for every model. Portfolios may begin and end on different days.

    Gives `pooled` {model: figures}, `kinds` {kind: {model: figures}}, `portfolios` {name: {model: figures}}, and
    `rejections` {model: {test: portfolios that reject when at most `rate` of all rejections may be false}}. Over many
    portfolios days, breaches and means run over all portfolio-days, `max_uncovered_loss` is the greatest, figures of
    procyclicality are means over portfolios, and `design_effect` says how much more daily breaches vary than those of
    independent portfolios would. The same seed gives the same judgement.

    Cost: 3,650 days x 200 portfolios x 6 models take 5 to 10 s on one core. Raises BadInput for a table that breaks
    its rules, ValueError for a tail or a rate that is no probability.
    """
    for name, value in (("tail", tail), ("rate", rate)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}={value}` is no probability between 0 and 1. Use a small one: 0.01, not 0.99.")
    table = read_daily(daily)
    breach = table.loss > table.var
    rows = _Rows(
        breach,
        np.where(breach, table.loss / table.shortfall, 0.0),
        fz0(table.loss, table.var, table.shortfall, tail=tail),
    )
    mixtures = np.array(
        [
            [mixture(share[begin:end], tail=tail) for begin, end in _spans(table)]
            for share in table.var / table.shortfall
        ]
    )
    portfolios = _singles(table, rows, mixtures, tail)
    kinds, everyone = np.array(table.kinds), np.arange(len(table.kinds))

    def pool(members: Int64[np.ndarray, " members"]) -> dict[str, Figures]:
        return _pool(table, rows, mixtures, portfolios, members, tail, seed)

    return {
        "pooled": pool(everyone),
        "kinds": {kind: pool(everyone[kinds == kind]) for kind in dict.fromkeys(table.kinds)},
        "portfolios": portfolios,
        "rejections": _rejections(portfolios, rate),
    }


def _singles(
    table: Daily, rows: _Rows, mixtures: Float64[np.ndarray, "models portfolios shares"], tail: float
) -> dict[str, dict[str, Figures]]:
    begin = table.begin[:-1]
    days = np.broadcast_to(np.diff(table.begin), (len(table.models), len(begin)))
    breaches = np.add.reduceat(rows.breach, begin, axis=1, dtype=np.int64)
    total = np.add.reduceat(rows.severity, begin, axis=1)
    flat = mixtures.reshape(-1, mixtures.shape[-1])
    z1_p, z2_p = (
        beyond(total.ravel(), count.ravel(), flat, chance=chance, tail=tail).reshape(total.shape)
        for count, chance in ((breaches, 1.0), (days, tail))
    )
    portfolios: dict[str, dict[str, Figures]] = {}
    for number, (name, (first, last)) in enumerate(zip(table.portfolios, _spans(table), strict=True)):
        dm = _comparisons(table.models, rows.score[:, first:last])
        portfolios[name] = {}
        for model, label in enumerate(table.models):
            breach, charged = rows.breach[model, first:last], table.charged[model, first:last]
            count, length = int(breaches[model, number]), last - first
            tests = {
                "kupiec_p": coverage.kupiec(length, count, tail=tail).p,
                "kupiec_one_sided_p": coverage.kupiec_one_sided(length, count, tail=tail),
                "independence_p": coverage.independence(breach).p,
                "conditional_coverage_p": coverage.conditional_coverage(breach, tail=tail).p,
                "basel_zone": coverage.basel_zone(length, count, tail=tail),
                "z1": finite(1 - total[model, number] / count) if count else None,
                "z1_p": float(z1_p[model, number]),
                "z2": float(1 - total[model, number] / (length * tail)),
                "z2_p": float(z2_p[model, number]),
            }
            money = costs(table.loss[model, first:last], charged, rows.score[model, first:last])
            portfolios[name][label] = _figures(length, count, tail, tests, money, dm[label], procyclicality(charged))
    return portfolios


def _pool(
    table: Daily,
    rows: _Rows,
    mixtures: Float64[np.ndarray, "models portfolios shares"],
    portfolios: dict[str, dict[str, Figures]],
    members: Int64[np.ndarray, " members"],
    tail: float,
    seed: int,
) -> dict[str, Figures]:
    if len(members) == 1:
        alone = portfolios[table.portfolios[members[0]]]
        return {
            label: {
                **single,
                "design_effect": 1.0 if 0 < single["breaches"] < single["days"] else None,
                "breach_days": single["breaches"],
            }
            for label, single in alone.items()
        }
    own = np.isin(table.portfolio, members)
    pool = Pool(table.day[own], table.portfolio[own], seed)
    dm = _comparisons(table.models, np.array([pool.total(score) for score in rows.score[:, own]]))
    breach = rows.breach[:, own]
    laws = np.average(mixtures[:, members], axis=1, weights=np.diff(table.begin)[members])
    tests = pooled_tests(pool, breach, rows.severity[:, own], laws, tail=tail)
    figures = {}
    for model, label in enumerate(table.models):
        money = costs(table.loss[model, own], table.charged[model, own], rows.score[model, own])
        singles = [portfolios[table.portfolios[member]][label] for member in members]
        cycle = {name: _mean([single[name] for single in singles]) for name in CYCLE}
        count = int(breach[model].sum())
        figures[label] = _figures(breach.shape[1], count, tail, tests[model], money, dm[label], cycle)
    return figures


def _figures(
    days: int,
    breaches: int,
    tail: float,
    tests: Figures,
    money: dict[str, float],
    dm: dict[str, float | None],
    cycle: dict[str, float | None],
) -> Figures:
    return {
        "days": days,
        "breaches": breaches,
        "expected_breaches": days * tail,
        **tests,
        "dm_p": dm,
        **money,
        **cycle,
    }


def _comparisons(
    models: Sequence[str], score: Float64[np.ndarray, "models days"]
) -> dict[str, dict[str, float | None]]:
    """Two-sided Diebold-Mariano of every model against every other; None where there is one day only."""
    p: dict[str, dict[str, float | None]] = {model: {} for model in models}
    first, second = np.triu_indices(len(models), 1)
    enough = score.shape[1] > 1
    both = diebold_mariano(score[first] - score[second]).tolist() if enough else [None] * len(first)
    for one, other, value in zip(first.tolist(), second.tolist(), both, strict=True):
        p[models[one]][models[other]] = p[models[other]][models[one]] = value
    return p


def _rejections(portfolios: dict[str, dict[str, Figures]], rate: float) -> dict[str, dict[str, int]]:
    models = next(iter(portfolios.values()))
    return {
        model: {
            test: int(rejected(np.array([each[model][f"{test}_p"] for each in portfolios.values()]), rate=rate).sum())
            for test in TESTS
        }
        for model in models
    }


def _spans(table: Daily) -> list[tuple[int, int]]:
    """First and last row of every portfolio, the last exclusive."""
    return list(zip(table.begin[:-1].tolist(), table.begin[1:].tolist(), strict=True))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
