"""The judgement of a daily table: every figure again in loops, laws of any table, and tables that are refused."""

import json
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from calibration._venue_days import Days, table, venue_days, weights
from marginax.problems import BadInput
from marginax_calibration import coverage
from marginax_calibration.backtests import TESTS, judge
from marginax_calibration.comparison import rejected
from marginax_calibration.shortfall_tests import acerbi_szekely
from reference import judgement

TAIL = 0.1
KINDS = ["long", "long", "long", "short"]
FIGURES = {
    "days", "breaches", "expected_breaches", "kupiec_p", "kupiec_one_sided_p", "independence_p",
    "conditional_coverage_p", "basel_zone", "z1", "z1_p", "z2", "z2_p", "mean_fz0", "dm_p", "mean_charged",
    "mean_uncovered_loss", "max_uncovered_loss", "peak_to_trough", "max_increase_1d", "max_increase_5d",
    "max_increase_20d",
}  # fmt: skip


def small(seed: int = 1) -> pl.DataFrame:
    """Two models of four portfolios over 160 days: one begins late and has no weekends, one ends early."""
    rng = np.random.default_rng(seed)
    shock = 0.8 * rng.standard_t(5, (160, 1)) + 0.6 * rng.standard_t(5, (160, 4))
    models = {}
    for name, level in (("own", 1.0), ("low", 0.75)):
        var = level * 1.4 * np.exp(0.2 * rng.standard_normal((160, 4)))
        models[name] = Days(shock, var, var * (1.2 + 0.3 * rng.random((160, 4))))
    daily = table(models, KINDS, lives=[(0, 160), (30, 160), (0, 120), (0, 160)])
    daily = daily.with_columns(charged=pl.col("charged") * (1 + 0.3 * (pl.col("loss").abs() < 0.5)))
    weekend = (pl.col("date").dt.weekday() > 5) & (pl.col("portfolio") == "portfolio 1")
    return daily.filter(~weekend)


def rows_of(daily: pl.DataFrame, model: str) -> list[judgement.Row]:
    columns = ["date", "portfolio", "loss", "var", "es", "charged"]
    own = daily.filter(model=model).with_columns(date=pl.col("date").to_physical()).select(columns)
    return sorted(judgement.Row(*each) for each in own.rows())


def close(found: Any, expected: Any) -> bool:
    return found == expected if expected is None or isinstance(expected, str) else found == pytest.approx(expected)


def means(rows: list[judgement.Row]) -> dict[str, float | None]:
    """What is the same for one portfolio and for many."""
    uncovered = [max(0.0, row.loss - row.charged) for row in rows]
    z1, z2 = judgement.shortfall(rows, TAIL)
    return {
        "days": len(rows),
        "breaches": sum(row.loss > row.var for row in rows),
        "expected_breaches": TAIL * len(rows),
        "z1": z1,
        "z2": z2,
        "mean_fz0": sum(judgement.score(row, TAIL) for row in rows) / len(rows),
        "mean_charged": sum(row.charged for row in rows) / len(rows),
        "mean_uncovered_loss": sum(uncovered) / len(rows),
        "max_uncovered_loss": max(uncovered),
    }


def cycle(rows: list[judgement.Row]) -> dict[str, float | None]:
    charged = [row.charged for row in rows]
    return {
        "peak_to_trough": max(charged) / min(charged),
        **{f"max_increase_{n}d": judgement.increase(charged, n) for n in (1, 5, 20)},
    }


def test_every_figure_of_a_portfolio_again_in_loops() -> None:
    daily = small()
    judged = judge(daily, tail=TAIL)["portfolios"]
    assert sorted(judged) == [f"portfolio {k}" for k in range(4)]
    for name, models in judged.items():
        rows = {model: judgement.by_portfolio(rows_of(daily, model))[name] for model in ("own", "low")}
        gap = [judgement.score(one, TAIL) - judgement.score(two, TAIL) for one, two in zip(*rows.values(), strict=True)]
        for model, found in models.items():
            own = rows[model]
            hits = np.array([row.loss > row.var for row in own])
            two, one = judgement.kupiec(len(own), int(hits.sum()), TAIL)
            below = 1 - judgement.kupiec(len(own), int(hits.sum()) + 1, TAIL)[1]
            expected = {
                **means(own),
                **cycle(own),
                "kupiec_p": two,
                "kupiec_one_sided_p": one,
                "basel_zone": "red" if below >= 0.9999 else "yellow" if below >= 0.95 else "green",
                # Exact laws of orders, which test_coverage.py enumerates.
                "independence_p": coverage.independence(hits).p,
                "conditional_coverage_p": coverage.conditional_coverage(hits, tail=TAIL).p,
            }
            assert found.keys() == FIGURES
            assert {key: (found[key], value) for key, value in expected.items() if not close(found[key], value)} == {}
            other = "low" if model == "own" else "own"
            assert found["dm_p"] == {other: pytest.approx(judgement.diebold_mariano(gap))}
            loss, var, es = (np.array([getattr(row, each) for row in own]) for each in ("loss", "var", "es"))
            drawn = acerbi_szekely(loss, var, es, tail=TAIL, simulations=20_000)
            # A simulated p-value has a standard error below 0.0036.
            assert (found["z1_p"], found["z2_p"]) == pytest.approx((drawn.z1_p, drawn.z2_p), abs=0.014)


@pytest.mark.parametrize("kind", [None, "long"])
def test_every_figure_of_a_pool_again_in_loops(kind: str | None, rng: np.random.Generator) -> None:
    daily = small()
    judged = judge(daily, tail=TAIL)
    pool = judged["pooled"] if kind is None else judged["kinds"][kind]
    chosen = daily if kind is None else daily.filter(kind=kind)
    sums = {}
    for model in ("own", "low"):
        days = judgement.by_day(rows_of(chosen, model)).values()
        sums[model] = [sum(judgement.score(row, TAIL) for row in day) for day in days]
    dm = judgement.diebold_mariano([one - two for one, two in zip(*sums.values(), strict=True)])
    for model, found in pool.items():
        rows = rows_of(chosen, model)
        days = list(judgement.by_day(rows).values())
        expected = means(rows)
        of_each = [cycle(own) for own in judgement.by_portfolio(rows).values()]
        expected |= {name: float(np.mean([each[name] for each in of_each])) for name in of_each[0]}

        hits = [sum(row.loss > row.var for row in day) for day in days]
        severity = [sum(row.loss / row.es for row in day if row.loss > row.var) for day in days]
        count = [b - TAIL * len(day) for b, day in zip(hits, days, strict=True)]
        cost = [s - TAIL * len(day) for s, day in zip(severity, days, strict=True)]
        each = [s - b for s, b in zip(severity, hits, strict=True) if b]
        roots = [np.sign(sum(values)) * judgement.likelihood_ratio(values) ** 0.5 for values in (count, cost, each)]
        expected["kupiec_p"] = float(stats.chi2.sf(roots[0] ** 2, 1))
        expected |= dict(zip(("kupiec_one_sided_p", "z2_p", "z1_p"), stats.norm.sf(roots).tolist(), strict=True))
        zones = stats.norm.cdf(roots[0])
        expected["basel_zone"] = "red" if zones >= 0.9999 else "yellow" if zones >= 0.95 else "green"
        rate = sum(hits) / len(rows)
        spread = sum((b - rate * len(day)) ** 2 for b, day in zip(hits, days, strict=True))
        expected["breach_days"] = sum(b > 0 for b in hits)
        expected["design_effect"] = spread / (len(rows) * rate * (1 - rate))
        ratios = stats.chi2.isf([expected["kupiec_p"], found["independence_p"]], 1)
        expected["conditional_coverage_p"] = float(stats.chi2.sf(ratios.sum(), 2))
        assert found.keys() == FIGURES | {"design_effect", "breach_days"}
        assert {key: (found[key], value) for key, value in expected.items() if not close(found[key], value)} == {}
        assert list(found["dm_p"].values()) == [pytest.approx(dm)]

        drawn = [judgement.following(judgement.shuffled(rows, rng)) for _ in range(200)]
        mean = np.mean([sum(counts) for counts in drawn])
        own, *others = (
            (sum(counts) - mean) / max(1, sum(each**2 for each in counts)) ** 0.5
            for counts in (judgement.following(rows), *drawn)
        )
        # 200 and 999 orders: a share is known to 0.04.
        least = np.mean([each > own + 1e-9 for each in others]) - 0.12
        greatest = np.mean([each >= own - 1e-9 for each in others]) + 0.12
        assert least <= found["independence_p"] <= greatest


def test_a_judgement_is_ready_for_json_and_counts_false_discoveries() -> None:
    judged = judge(small(), tail=TAIL, rate=0.2)
    json.dumps(judged, allow_nan=False)
    assert list(judged) == ["pooled", "kinds", "portfolios", "rejections"]
    assert list(judged["kinds"]) == ["long", "short"]
    for model, counts in judged["rejections"].items():
        for test in TESTS:
            p = np.array([each[model][f"{test}_p"] for each in judged["portfolios"].values()])
            assert counts[test] == rejected(p, rate=0.2).sum()
    assert judged["rejections"]["low"]["kupiec_one_sided"] > 0


def test_a_kind_of_one_portfolio_is_that_portfolio() -> None:
    judged = judge(small(), tail=TAIL)
    for model, figures in judged["kinds"]["short"].items():
        alone = judged["portfolios"]["portfolio 3"][model]
        assert figures == {**alone, "design_effect": 1.0, "breach_days": alone["breaches"]}


def test_no_order_of_rows_no_clock_and_no_other_model_changes_a_figure() -> None:
    daily = small()
    judged = judge(daily, tail=TAIL)
    mixed = daily.sample(fraction=1, shuffle=True, seed=3).with_columns(pl.col("date").cast(pl.Datetime("us", "UTC")))
    assert flat(judge(mixed, tail=TAIL)) == pytest.approx(flat(judged), rel=1e-9)
    alone = judge(daily.filter(model="own"), tail=TAIL)["pooled"]["own"]
    assert alone["dm_p"] == {}
    assert flat(alone) == pytest.approx(flat({**judged["pooled"]["own"], "dm_p": {}}))


@settings(max_examples=8)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(1, 5))
def test_no_test_knows_a_currency(scale: float, seed: int) -> None:
    daily = small(seed)
    scaled = judge(daily.with_columns(pl.col("loss", "var", "es", "charged") * scale), tail=TAIL)
    own, other = flat(judge(daily, tail=TAIL)), flat(scaled)
    amounts = ("mean_charged", "mean_uncovered_loss", "max_uncovered_loss")
    for key, value in own.items():
        name = key.split("/")[-1]
        expected = value * scale if name in amounts else value + np.log(scale) if name == "mean_fz0" else value
        assert other[key] == pytest.approx(expected, rel=1e-7, abs=1e-9), key


def test_a_second_copy_of_every_portfolio_tells_nothing_new() -> None:
    daily = small()
    copied = pl.concat([daily, daily.with_columns(pl.col("portfolio") + " again")])
    once, twice = judge(daily, tail=TAIL)["pooled"], judge(copied, tail=TAIL)["pooled"]
    for model in ("own", "low"):
        assert twice[model]["design_effect"] == pytest.approx(2 * once[model]["design_effect"])
        for test in ("kupiec_p", "kupiec_one_sided_p", "z1_p", "z2_p", "dm_p", "mean_fz0", "basel_zone"):
            assert close(twice[model][test], once[model][test]), test


def test_one_day_is_a_table() -> None:
    judged = judge(small().filter(pl.col("date") == date(2020, 3, 2)), tail=TAIL)
    figures = judged["pooled"]["own"]
    assert (figures["days"], figures["independence_p"], figures["dm_p"]) == (4, 1.0, {"low": None})
    assert (figures["peak_to_trough"], figures["max_increase_1d"]) == (1.0, None)
    json.dumps(judged, allow_nan=False)


def test_no_breach_at_all_is_too_few_and_nothing_else() -> None:
    days = venue_days(np.random.default_rng(2), 700)
    careful = Days(days.loss, days.var * 100, days.shortfall * 100)
    judged = judge(table({"careful": careful}, weights()[1]))
    for figures in (judged["pooled"]["careful"], judged["portfolios"]["portfolio 0"]["careful"]):
        # 27 portfolios may all be one: no breach in 700 days.
        assert figures["kupiec_p"] == pytest.approx(coverage.kupiec(700, 0, tail=0.01).p)
        assert figures["kupiec_p"] < 0.001
        assert [figures[f"{test}_p"] for test in ("kupiec_one_sided", "independence", "z1", "z2")] == [1.0] * 4
        assert (figures["z1"], figures["z2"], figures["basel_zone"]) == (None, 1.0, "green")
    assert judged["rejections"]["careful"] == {
        "kupiec": 27, "kupiec_one_sided": 0, "independence": 0, "conditional_coverage": 27, "z1": 0, "z2": 0,
    }  # fmt: skip


def test_a_breach_on_every_day_is_too_many_at_any_length() -> None:
    days = venue_days(np.random.default_rng(3), 60)
    nothing = Days(np.abs(days.loss) + 1, days.var * 0.01, days.shortfall * 0.01)
    judged = judge(table({"nothing": nothing}, weights()[1]))["pooled"]["nothing"]
    assert (judged["breaches"], judged["basel_zone"], judged["independence_p"]) == (27 * 60, "red", 1.0)
    assert max(judged[f"{test}_p"] for test in ("kupiec", "kupiec_one_sided", "z1", "z2")) < 1e-6


Change = Callable[[pl.DataFrame], pl.DataFrame]
SPOILT: Mapping[str, tuple[Change, str]] = {
    "a day twice": (lambda daily: pl.concat([daily, daily[5:6]]), r"row 1065, column date: this day.*Keep one"),
    "a null": (lambda daily: put(daily, "var", None), r"row 8, column var: is null"),
    "no number": (lambda daily: put(daily, "loss", float("nan")), r"row 8, column loss: is no finite number"),
    "endless": (lambda daily: put(daily, "charged", float("inf")), r"row 8, column charged: is no finite number"),
    "ES of nothing": (lambda daily: put(daily, "es", 0.0), r"row 8, column es: is not positive"),
    "ES below VaR": (lambda daily: put(daily, "es", 0.1), r"row 8, column es: is below value at risk"),
    "a model without a day": (lambda daily: daily[:-1], r"column model: `low` has no row of this day"),
    "a first model without a day": (lambda daily: daily[1:], r"column model: `own` has no row of this day"),
    "two kinds": (lambda daily: put(daily, "kind", "neutral"), r"column kind: this portfolio is of another kind"),
    "no column": (lambda daily: daily.drop("charged"), r"column charged: is missing"),
    "words for amounts": (lambda daily: daily.with_columns(loss=pl.lit("1")), r"column loss: holds String"),
    "numbers for dates": (lambda daily: daily.with_columns(date=pl.lit(1)), r"column date: holds Int32"),
    "nothing": (lambda daily: daily[:0], r"has no rows"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_table_that_breaks_a_rule_is_refused_by_row_and_column(name: str) -> None:
    change, message = SPOILT[name]
    with pytest.raises(BadInput, match=message):
        judge(change(small()))


def test_a_confidence_is_no_tail() -> None:
    with pytest.raises(ValueError, match="Use a small one"):
        judge(small(), tail=1.0)
    with pytest.raises(ValueError, match="`rate=0`"):
        judge(small(), rate=0)


def put(daily: pl.DataFrame, column: str, value: float | str | None) -> pl.DataFrame:
    """The table with another value in its eighth row."""
    changed = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value, dtype=daily.schema[column])).otherwise(column)
    return daily.with_columns(changed.alias(column))


def flat(judged: Any, path: str = "") -> dict[str, float]:
    """Every number of a judgement by its path."""
    if isinstance(judged, dict):
        return {key: value for name, each in judged.items() for key, value in flat(each, f"{path}/{name}").items()}
    return {path: float(judged)} if isinstance(judged, int | float) else {}
