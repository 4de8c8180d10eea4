"""Forecasts of variance: networks out of sample, scores against loops, and the study's verdict."""

import os
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from calibration._forecast_days import features, history, signals
from marginax.scenarios.network_filter import NetworkFilter
from marginax.scenarios.volatility import filter_path
from marginax_calibration.comparison import diebold_mariano
from marginax_calibration.forecasts import rivals
from marginax_calibration.forecasts.features import BASE, SIGNALS
from marginax_calibration.forecasts.network import Training, course, mean_correction, train, walk_forward
from marginax_calibration.forecasts.scores import by_day, difference_p, qlike, rescaled
from marginax_calibration.studies import forecasts
from reference import network as twin

SMALL = Training(hidden=4, rate=2e-2, most_steps=80, patience=40, members=2)
REFITS = np.array([300, 360])
SHARED = Path(os.environ.get("MARGINAX_SHARED") or Path(__file__).parents[3] / "shared") / "data"


def trained(seed: int = 7):
    own = np.nan_to_num(features().values[..., :4])
    settings = Training(**{**SMALL.__dict__, "seed": seed})
    return own, train(own, features().base, features().next_square, end=300, settings=settings)


@pytest.mark.long
def test_training_is_the_same_for_the_same_seed_and_sees_nothing_from_its_end_on() -> None:
    own, members = trained()
    target = features().next_square.copy()
    target[300:] *= 50
    base = features().base.copy()
    base[300:] *= 3
    spoiled = own.copy()
    spoiled[300:] += 1
    _, again = trained()
    _, other = trained(8)
    blind = train(spoiled, base, target, end=300, settings=SMALL)
    for one, two, three in zip(*(jax.tree.leaves(each) for each in (members, again, blind)), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert not np.array_equal(other[0].inputs, members[0].inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(members)} == {np.dtype("float32")}


def test_training_learns_that_a_baseline_is_too_low() -> None:
    """The base is a half of the variance: the correction comes to near log 2 and betters the score."""
    found, own = features(), np.nan_to_num(features().values[..., :4])
    members = train(own, found.base / 2, found.next_square, end=360, settings=SMALL)
    moves = mean_correction(members, own)[60:360]
    assert 0.3 < moves.mean() < 1.0
    squares = found.next_square[60:360]
    plain, better = (qlike(squares, found.base[60:360] / 2 * np.exp(each)).mean() for each in (0, moves))
    assert better < plain - 0.1


def test_a_network_walked_forward_is_the_filter_that_runs_on_its_weights() -> None:
    """The same members give the same variances in training, over a whole history, and as a filter bar by bar."""
    found = features()
    own = np.nan_to_num(found.values[..., :4])
    variance, networks = walk_forward([own], [found.base], [found.next_square], REFITS[:1], SMALL)
    usual, fade = course(mean_correction(networks[0], own[:300]), np.isfinite(found.base[:300]))
    model = NetworkFilter(BASE, networks[0], np.asarray(usual), np.asarray(fade))
    with jax.enable_x64(True):
        path = filter_path(model, jnp.asarray(found.returns), jnp.asarray(found.bars), ahead=1, bars_per_day=1.0)
    # Members are float32 in the walk and the filter runs in float64.
    np.testing.assert_allclose(path.variance[1:][300:], variance[300:], rtol=2e-5)
    assert 0 <= fade <= 1
    assert np.isnan(variance[:300]).all()


def test_the_course_of_a_correction_is_its_mean_and_its_memory() -> None:
    path = 0.3 + 0.5 ** np.arange(40.0)[:, None] * np.array([[1.0, -1.0]])
    usual, fade = course(path, np.ones(path.shape, bool))
    assert usual == pytest.approx(0.3)
    assert fade == pytest.approx(0.5)
    assert course(path, np.zeros(path.shape, bool)) == (0.0, 0.0)


def test_qlike_is_that_of_a_loop_and_least_at_the_truth(rng: np.random.Generator) -> None:
    realised, forecast = rng.chisquare(1, 50), rng.uniform(0.5, 2, 50)
    np.testing.assert_allclose(qlike(realised, forecast), twin.qlike(realised, forecast), rtol=1e-14)
    many = rng.chisquare(1, 200_000)
    scores = {level: qlike(many, np.full(many.shape, level)).mean() for level in (0.8, 1.0, 1.25)}
    assert scores[1.0] == min(scores.values())
    assert np.isnan(qlike(np.ones(2), np.array([0.0, np.nan]))).all()
    assert np.isfinite(qlike(np.zeros(1), np.ones(1))).all()


def test_a_proxy_has_the_level_of_squares_and_a_day_is_one_observation() -> None:
    squares, proxy = np.array([[2.0, 1.0], [4.0, np.nan]]), np.array([[1.0, 4.0], [1.0, 1.0]])
    where = np.array([[True, True], [True, False]])
    np.testing.assert_allclose(rescaled(proxy, squares, where), [[3.0, 1.0], [3.0, 0.25]])
    np.testing.assert_allclose(by_day(np.array([[1.0, 3.0], [5.0, 7.0]]), where), [2.0, 5.0])
    one, other = np.arange(30.0), np.arange(30.0)[::-1].copy()
    assert difference_p(one, other) == float(diebold_mariano(one - other))
    assert difference_p(one, one) == 1.0


@cache
def study():
    """Walked forward over the refits of the other tests, so that nothing is compiled twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecasts, "REFIT_DAYS", 60)
        # GARCH is fitted in the tests of rivals; here its place is what counts.
        patch.setitem(forecasts.RIVALS, "GARCH(1,1)-t", rivals.har_squares)
        return forecasts.run(history(), signals(), settings=SMALL, first=date(2021, 10, 28))


@pytest.mark.long
def test_the_study_tells_every_model_on_the_same_days_and_says_who_qualifies() -> None:
    found = study()
    text = forecasts.table(found)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(forecasts.RIVALS) + 2
    days = str(found.judged.any(1).sum())
    assert all(row.endswith(f"| {days} | 2 |") for row in rows)
    squares, _ = found.scores()
    where = found.judged
    wanted = by_day(qlike(found.features.next_square, found.variance["EWMA 0.94"]), where).mean()
    assert squares["EWMA 0.94"].mean() == wanted
    assert f"| {wanted:.4f} |" in rows[0]
    assert forecasts.by_year(found).count("from 2021-") == 2
    told = forecasts.verdict(found)
    for name in forecasts.TO_BEAT:
        assert (f"`{name}` beats" in told) == found.qualifies(name)


@pytest.mark.long
def test_a_network_is_used_only_where_it_beats_garch_and_har(monkeypatch: pytest.MonkeyPatch) -> None:
    found = study()
    monkeypatch.setattr(forecasts.Forecasts, "qualifies", lambda self, name: True)
    chosen = forecasts.margins(found, Path("weights.json"))
    assert chosen["network"] == {"filter": {"kind": "network", "network": "weights.json"}}
    monkeypatch.setattr(forecasts.Forecasts, "qualifies", lambda self, name: name != forecasts.RETURNS_ONLY)
    assert set(forecasts.margins(found, Path("weights.json"))) == {"dynamic", "HAR", "GARCH"}
    assert "no network is used" in forecasts.verdict(found)
    perfect = found.variance | {forecasts.RETURNS_ONLY: found.features.next_square + 1e-9}
    monkeypatch.undo()
    oracle = forecasts.Forecasts(found.features, found.refits, perfect, found.networks, 7)
    assert oracle.qualifies(forecasts.RETURNS_ONLY)


@pytest.mark.long
def test_the_last_networks_become_a_filter() -> None:
    model = forecasts.network_filter_of(study(), -1)
    assert len(model.members) == SMALL.members
    assert 0 <= model.fade <= 1


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"there is no {SHARED}; name its folder with MARGINAX_SHARED")
def test_the_data_of_the_study_has_every_signal_and_no_step_at_the_seam() -> None:
    prices, given = forecasts.inputs(SHARED)
    assert set(given["name"].unique()) == set(SIGNALS)
    assert prices["time"].max() <= datetime(2026, 1, 14, tzinfo=UTC)
    assert given["time"].max() < datetime(2026, 1, 15, tzinfo=UTC)
    ranges = given.filter(pl.col("name") == "range").group_by("underlying")
    seam = pl.lit(datetime(2025, 2, 20, tzinfo=UTC))
    around = partial(pl.col("time").is_between, closed="left")
    before, after = (
        pl.col("value").filter(around(seam + timedelta(days=low), seam + timedelta(days=low + 60))).median()
        for low in (-60, 0)
    )
    ratios = ranges.agg(ratio=after / before)["ratio"].to_numpy()
    assert len(ratios) == 7
    # Sixty days before and after differ by what markets do, and not by all that venues do.
    assert ((ratios > 0.5) & (ratios < 1.5)).all()
