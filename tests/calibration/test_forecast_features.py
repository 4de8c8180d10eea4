"""What is known at the close of a day: against loops, with nothing of tomorrow, and with signals that are missing."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from calibration._forecast_days import DAYS, START, features, history, paths, signal, signals
from marginax.problems import BadInput
from marginax_calibration.forecasts.features import COLUMNS, Scaling, daily_features, trailing_mean


def test_what_is_known_at_a_close_is_that_of_loops() -> None:
    found, (closes, ranges) = features(), paths()
    day, k = 200, 1
    parkinson = ranges**2 / (4 * np.log(2))
    values = dict(zip(COLUMNS, found.values[day, k], strict=True))
    assert found.returns[day, k] == pytest.approx(closes[day, k] - closes[day - 1, k], rel=1e-12)
    base = found.base[day, k]
    assert values["range"] == pytest.approx(np.log(parkinson[day, k] / base), rel=1e-12)
    assert values["range_week"] == pytest.approx(np.log(parkinson[day - 4 : day + 1, k].mean() / base), rel=1e-12)
    assert values["range_month"] == pytest.approx(np.log(parkinson[day - 21 : day + 1, k].mean() / base), rel=1e-12)
    market = np.log(parkinson[day] / found.base[day]).mean()
    assert values["market_range"] == pytest.approx(market, rel=1e-12)
    mood = signals().filter(name="sentiment")["value"].to_numpy()
    assert values["sentiment"] == pytest.approx(mood[day - 4 : day + 1].mean(), rel=1e-12)
    assert values["mood"] == pytest.approx(mood[day - 4 : day + 1].mean() - mood[day - 21 : day + 1].mean(), rel=1e-12)
    assert found.next_square[day, k] == found.returns[day + 1, k] ** 2
    assert found.next_range[day, k] == pytest.approx(parkinson[day + 1, k], rel=1e-12)


def test_nothing_later_than_the_close_enters_a_feature() -> None:
    """Every row after the day is spoiled, in the history and in each signal: what was before is the same to the bit."""
    last = 250
    later = pl.col("time") > START + timedelta(days=last)
    spoiled = daily_features(
        history().with_columns(pl.when(later).then(pl.col("price") ** 2 * 7).otherwise("price").alias("price")),
        signals().with_columns(pl.when(later).then(pl.col("value") * 9 + 1).otherwise("value").alias("value")),
    )
    for name in ("returns", "bars", "range_variance", "base", "values"):
        one, other = getattr(features(), name), getattr(spoiled, name)
        np.testing.assert_array_equal(one[: last + 1], other[: last + 1])
        assert name == "bars" or not np.array_equal(one[last + 1 :], other[last + 1 :], equal_nan=True)


def test_a_signal_that_is_missing_is_a_zero_with_a_mark() -> None:
    without = daily_features(history(), signals().filter(pl.col("name") == "volume"))
    scaled = Scaling.of(without.values[:300])(without.values)
    columns, marks = scaled[..., : len(COLUMNS)], scaled[..., len(COLUMNS) :]
    for name in ("range", "market_range", "funding", "sentiment", "mood"):
        k = COLUMNS.index(name)
        assert (columns[..., k] == 0).all()
        assert (marks[..., k] == 0).all()
    assert (marks[30:, :, COLUMNS.index("volume")] == 1).all()
    assert np.isfinite(scaled).all()
    none = daily_features(history(), signals().clear())
    assert np.isfinite(Scaling.of(none.values)(none.values)).all()


def test_standardisation_knows_its_window_only() -> None:
    values = features().values
    scaled = Scaling.of(values[:300])(values)[1:300, :, : len(COLUMNS)]
    np.testing.assert_allclose(np.abs(scaled.mean((0, 1))), 0, atol=0.05)
    other = values.copy()
    other[300:] *= 100
    np.testing.assert_array_equal(Scaling.of(other[:300])(other)[:300], Scaling.of(values[:300])(values)[:300])


def test_an_own_signal_comes_before_that_of_the_market_and_several_of_a_day_are_averaged() -> None:
    own = signal("funding", np.full(DAYS, 5.0), "AAA")
    twice = own.with_columns(time=pl.col("time") + timedelta(hours=8), value=pl.lit(7.0))
    found = daily_features(history(), pl.concat([signals(), own, twice]))
    k = COLUMNS.index("funding")
    np.testing.assert_allclose(found.values[:, 0, k], 6.0)
    np.testing.assert_array_equal(found.values[:, 1, k], features().values[:, 1, k])


def test_a_day_without_a_price_leaves_its_return_to_the_next() -> None:
    gone = START + timedelta(days=100)
    found = daily_features(history().filter(~((pl.col("time") == gone) & (pl.col("underlying") == "AAA"))), signals())
    closes, _ = paths()
    assert np.isnan(found.returns[100, 0])
    assert found.bars[101, 0] == 2
    assert found.returns[101, 0] == pytest.approx(closes[101, 0] - closes[99, 0], rel=1e-12)
    assert np.isnan(found.next_square[99:101, 0]).all()
    np.testing.assert_array_equal(found.returns[:, 1], features().returns[:, 1])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda h, s: (h.with_columns(price=pl.lit(0.0)), s), "not above zero"),
        (lambda h, s: (pl.concat([h, h.head(1)]), s), "two prices of a day"),
        (lambda h, s: (h.clear(), s), "has no rows"),
        (lambda h, s: (h.drop("price"), s), "key price: is missing"),
        (lambda h, s: (h, s.drop("value")), "key value: is missing"),
        (lambda h, s: (h, s.with_columns(name=pl.lit("moon"))), "`moon` is no signal"),
    ],
)
def test_bad_tables_are_refused(spoil, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        daily_features(*spoil(history(), signals()))


def test_a_trailing_mean_is_of_what_is_known() -> None:
    values = np.array([[1.0], [np.nan], [3.0], [np.nan], [np.nan]])
    np.testing.assert_allclose(trailing_mean(values, 2)[:, 0], [1, 1, 3, 3, np.nan])
