"""The objective against a loop in NumPy, its slopes against finite differences, and what each term asks for."""

import jax.numpy as jnp
import numpy as np
import pytest

from marginax_calibration.fitting.objective import (
    RISE_BARS,
    TERMS,
    Prior,
    Reference,
    Rows,
    Weights,
    prior_slopes,
    prior_terms,
    table_slopes,
    terms,
)
from marginax_calibration.scores import fz0

TAIL, SOFT = 0.05, 0.1
REFERENCE = Reference(0.1, 0.001)


def batch(seed: int, bars: int = 40, portfolios: int = 3) -> tuple[np.ndarray, Rows]:
    """Margins and losses with holes; the second half follows on a gap."""
    rng = np.random.default_rng(seed)
    var = rng.uniform(0.02, 0.1, (bars, portfolios))
    shortfall = var * rng.uniform(1.05, 1.5, var.shape)
    charged = shortfall * rng.uniform(0.9, 1.4, var.shape)
    alive = rng.random(var.shape) < 0.9
    follows = np.ones(bars, bool)
    follows[:RISE_BARS] = follows[bars // 2 : bars // 2 + RISE_BARS] = False
    table = np.where(alive[..., None], np.stack([var, shortfall, charged], axis=2), np.nan)
    return table, Rows(0.05 * rng.standard_t(4, var.shape), alive, follows)


def loop(table: np.ndarray, rows: Rows, softness: float) -> dict[str, float]:
    scores, breaches, charges, beyond, rises = [], [], [], [], []
    for t in range(len(table)):
        for p in range(table.shape[1]):
            if not rows.alive[t, p]:
                continue
            (var, shortfall, charged), loss = table[t, p], rows.loss[t, p]
            scores.append(float(fz0(loss, var, shortfall, tail=TAIL)))
            soft = 1 / (1 + np.exp(-(loss - var) / (softness * shortfall))) if softness else float(loss > var)
            breaches.append(soft)
            charges.append(charged)
            beyond.append(max(loss - charged, 0))
            if t >= RISE_BARS and rows.alive[t - RISE_BARS, p] and rows.follows[t]:
                rises.append(max(charged / table[t - RISE_BARS, p, 2] - 1, 0) ** 4)
    return {
        "fz0": np.mean(scores),
        "coverage": (np.mean(breaches) / TAIL - 1) ** 2,
        "cost": np.mean(charges) / REFERENCE.cost,
        "uncovered": np.mean(beyond) / REFERENCE.uncovered,
        "procyclicality": (np.mean(rises) + 1e-12) ** 0.25,
    }


@pytest.mark.parametrize("softness", [0.0, SOFT])
def test_terms_are_those_of_a_loop(double: None, softness: float) -> None:
    table, rows = batch(1)
    found = terms([jnp.asarray(table)], [rows], REFERENCE, softness, tail=TAIL)
    for name, wanted in loop(table, rows, softness).items():
        assert float(found[name]) == pytest.approx(wanted, rel=1e-9), name


def test_two_calendars_are_one_mean(double: None) -> None:
    tables, rows = zip(*(batch(seed, bars, 2 + seed) for seed, bars in ((1, 40), (2, 24))), strict=True)
    both = terms([jnp.asarray(table) for table in tables], rows, REFERENCE, SOFT, tail=TAIL)
    counts = [each.alive.sum() for each in rows]
    alone = [loop(table, each, SOFT) for table, each in zip(tables, rows, strict=True)]
    for name in ("fz0", "cost", "uncovered"):
        wanted = np.average([each[name] for each in alone], weights=counts)
        assert float(both[name]) == pytest.approx(wanted, rel=1e-9), name


def test_slopes_are_finite_differences_and_nothing_flows_to_holes(double: None) -> None:
    table, rows = batch(3)
    weights = Weights(coverage=0.7, procyclicality=0.3)
    found, (slopes,) = table_slopes([table], [rows], REFERENCE, SOFT, weights=weights, tail=TAIL)
    assert set(found) == set(TERMS) - {"anchor", "pooling"}
    assert not np.asarray(slopes)[~rows.alive].any()

    def value(moved: np.ndarray) -> float:
        told, _ = table_slopes([moved], [rows], REFERENCE, SOFT, weights=weights, tail=TAIL)
        return sum(getattr(weights, name) * float(each) for name, each in told.items())

    for t, p, k in [(3, 0, 0), (8, 1, 1), (20, 2, 2), (30, 0, 2), (39, 1, 2)]:
        if rows.alive[t, p]:
            ends = []
            for sign in (1, -1):
                moved = table.copy()
                moved[t, p, k] *= 1 + sign * 1e-6
                ends.append(value(moved))
            difference = (ends[0] - ends[1]) / (2e-6 * table[t, p, k])
            assert float(slopes[t, p, k]) == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_the_prior_draws_to_the_configuration_and_numbers_of_one_key_together(double: None) -> None:
    prior, start = Prior((0, 0, -1), 2_000), np.array([0.0, 0.0, 1.0])
    found = prior_terms(jnp.array([1.0, -1.0, 3.0]), start, prior)
    # A thousand rows of evidence against two thousand: a half.
    assert float(found["anchor"]) == pytest.approx(0.5 * (1 + 1 + 4) / 3)
    assert float(found["pooling"]) == pytest.approx(0.5 * 2 / 3)
    told, slopes = prior_slopes(np.array([1.0, -1.0, 3.0]), start, prior=prior, weights=Weights(anchor=1, pooling=0))
    assert set(told) == {"anchor", "pooling"}
    np.testing.assert_allclose(slopes, 0.5 * 2 / 3 * np.array([1.0, -1.0, 2.0]))


def test_a_nan_where_a_margin_should_be_reaches_its_terms_alone(double: None) -> None:
    table, rows = batch(4)
    alive = rows.alive.copy()
    alive[10, 0] = True
    table[10, 0] = (0.1, 0.12, np.nan)
    told, _ = table_slopes([table], [rows._replace(alive=alive)], REFERENCE, SOFT, weights=Weights(), tail=TAIL)
    bad = {name for name, value in told.items() if not np.isfinite(value)}
    assert bad == {"cost", "uncovered", "procyclicality"}


@pytest.mark.parametrize("words", ["speed=1", "cost", "cost=-1", "cost=nan", "cost=x"])
def test_weights_that_are_none_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"term|weight|could not convert"):
        Weights().of(words)


def test_weights_are_read_from_words() -> None:
    assert Weights().of("cost=0.5, uncovered=0") == Weights(cost=0.5, uncovered=0.0)
