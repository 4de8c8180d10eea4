"""The network as a volatility filter: against loops, what gaps and horizons do, and the file of its weights."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marginax as mx
from marginax.config import parse_config
from marginax.problems import BadInput
from marginax.scenarios.network_filter import FEATURES, VERSION, NetworkFilter, network_filter, network_text
from marginax.scenarios.volatility import filter_path, filter_step
from markets import margin, tables
from reference import network as twin

HIDDEN, MEMBERS = 3, 2
BOUND = np.asarray(4.0)


def weights_table(seed: int = 5) -> dict[str, Any]:
    """A file's table with numbers at random."""
    rng = np.random.default_rng(seed)
    shapes = {"inputs": (3 * HIDDEN, len(FEATURES)), "carried": (3 * HIDDEN, HIDDEN), "bias": 3 * HIDDEN}
    members = [
        {key: rng.normal(0, 0.5, shape).tolist() for key, shape in {**shapes, "readout": HIDDEN}.items()}
        | {"offset": float(rng.normal(0, 0.2))}
        for _ in range(MEMBERS)
    ]
    head = {"version": VERSION, "features": list(FEATURES), "hidden": HIDDEN, "usual": 0.1, "fade": 0.8}
    return {**head, "fast_half_life_days": 4.0, "slow_half_life_days": 30.0, "fast_share": 0.5, "members": members}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(weights_table()))
    return path


@pytest.fixture
def model(file: Path) -> NetworkFilter:
    return network_filter(file, bound=BOUND)


def moves(rng: np.random.Generator, bars: int = 90, factors: int = 2) -> np.ndarray:
    return rng.standard_t(4, (bars, factors)) / 50


def test_a_step_is_that_of_loops_with_gaps_and_outliers(
    double: None, rng: np.random.Generator, model: NetworkFilter
) -> None:
    returns, bars = moves(rng), np.ones((90, 2))
    returns[40, 0] *= 30
    returns[50:53, 1] = np.nan
    bars[53, 1] = 4
    path = filter_path(model, jnp.asarray(returns), jnp.asarray(bars), ahead=1, bars_per_day=1.0)
    for k in range(2):
        seed = float(np.nanmean(returns[:30, k] ** 2))
        wanted, _ = twin.variances(weights_table(), returns[:, k], bars[:, k], seed=seed, bound=4.0)
        np.testing.assert_allclose(path.variance[:, k], wanted, rtol=1e-11)


def test_a_step_at_a_time_is_the_path_and_a_halt_changes_nothing(
    double: None, rng: np.random.Generator, model: NetworkFilter
) -> None:
    returns = jnp.asarray(moves(rng))
    whole = filter_path(model, returns, jnp.ones((90, 2)), ahead=1, bars_per_day=1.0).state
    part = filter_path(model, returns[:80], jnp.ones((80, 2)), ahead=1, bars_per_day=1.0).state
    step = jax.jit(lambda state, row: filter_step(model, state, row, jnp.ones(2), bars_per_day=1.0))
    for row in returns[80:]:
        part = step(part, row)
    halted = step(whole, jnp.full(2, jnp.nan))
    for one, two, three in zip(*(jax.tree.leaves(each) for each in (part, whole, halted)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(two, three)


def test_what_comes_later_and_what_others_do_changes_no_bit(
    precision: np.dtype, rng: np.random.Generator, model: NetworkFilter
) -> None:
    returns = moves(rng).astype(precision)
    other = returns.copy()
    other[70:, 0] *= 7
    bars = jnp.ones((90, 2), precision)
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, precision), model)
    one, two = (
        np.asarray(filter_path(model, jnp.asarray(each), bars, ahead=1, bars_per_day=1.0).variance)
        for each in (returns, other)
    )
    assert one.dtype == precision
    np.testing.assert_array_equal(one[:71], two[:71])
    np.testing.assert_array_equal(one[:, 1], two[:, 1])
    assert one[71, 0] != two[71, 0]


def test_a_correction_is_bounded_and_fades_to_its_mean(
    double: None, rng: np.random.Generator, model: NetworkFilter
) -> None:
    path = filter_path(model, jnp.asarray(moves(rng)), jnp.ones((90, 2)), ahead=1, bars_per_day=1.0)
    state, long_run = path.state.model, path.state.long_run.variance
    base = np.asarray(model.base.variance(state.base, long_run, bars_per_day=1.0))
    now = np.log(path.variance[-1] / base)
    assert (np.abs(now) < np.log(3)).all()
    for ahead in (1, 5, 400):
        wanted = base * np.mean([np.exp(0.1 + 0.8**k * (now - 0.1)) for k in range(ahead)], axis=0)
        found = model.forecast(state, long_run, ahead=ahead, bars_per_day=1.0)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    extreme = eqx.tree_at(lambda each: [own.offset for own in each.members], model, [np.asarray(1e6)] * MEMBERS)
    np.testing.assert_allclose(extreme.variance(state, long_run, bars_per_day=1.0), 3 * base, rtol=1e-12)


def test_the_variance_has_the_slope_of_its_finite_difference_in_every_number(
    double: None, rng: np.random.Generator, model: NetworkFilter
) -> None:
    returns = jnp.asarray(np.where(rng.random((60, 2)) < 0.1, np.nan, moves(rng, 60)))

    def total(each: NetworkFilter) -> jax.Array:
        return 1e4 * jnp.sum(filter_path(each, returns, jnp.ones((60, 2)), ahead=3, bars_per_day=1.0).ahead[-1])

    model = jax.tree.map(jnp.asarray, model)
    slopes = jax.jit(jax.grad(total))(model)
    total = jax.jit(total)
    leaves, shape = jax.tree.flatten(model)
    for k, slope in enumerate(jax.tree.leaves(slopes)):
        at = (0,) * slope.ndim
        up, down = (
            shape.unflatten([each.at[at].add(by) if j == k else each for j, each in enumerate(leaves)])
            for by in (1e-6, -1e-6)
        )
        difference = (float(total(up)) - float(total(down))) / 2e-6
        assert float(slope[at]) == pytest.approx(difference, rel=1e-5, abs=1e-6)


def test_a_file_that_was_written_is_read_to_the_same_numbers(tmp_path: Path, model: NetworkFilter) -> None:
    path = tmp_path / "again.json"
    path.write_text(network_text(model))
    again = network_filter(path, bound=BOUND)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 99}, "of version 99"),
        ({"features": ["mood"]}, "with features ['mood']"),
        ({"hidden": 0}, "hidden: 0 was given"),
        ({"hidden": 4}, "members.0.inputs: has the shape (9, 4)"),
        ({"members": []}, "is no list of weights"),
        ({"members": [{"inputs": "text"}]}, "members.0.inputs"),
        ({"fade": 1.5}, "fade: 1.5 was given. Give a number from 0 to 1"),
        ({"fast_half_life_days": 0.0}, "Give a number above zero"),
        ({"usual": float("nan")}, "key usual"),
        ({"slow_half_life_days": None}, "key slow_half_life_days: is missing"),
    ],
)
def test_a_file_that_cannot_be_used_says_which_key(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({**weights_table(), **change}))
    with pytest.raises(BadInput) as caught:
        network_filter(path, bound=BOUND)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        network_filter(tmp_path / "absent.json", bound=BOUND)
    path = tmp_path / "weights.json"
    for text, told in (("{", "cannot be read"), ("[1]", "is no table of weights")):
        path.write_text(text)
        with pytest.raises(BadInput, match=told):
            network_filter(path, bound=BOUND)


@pytest.mark.parametrize("section", [{"kind": "network"}, {"kind": "har", "network": "weights.json"}])
def test_a_network_and_its_file_come_together(section: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="names the file of weights"):
        parse_config({"filter": section}, "test")


def test_bars_within_the_day_are_refused(model: NetworkFilter) -> None:
    with pytest.raises(BadInput, match="trained on daily bars and the history has 24 a day"):
        model.begin(jnp.ones(2), bars_per_day=24.0)


def test_the_dynamic_margin_runs_on_a_network_with_classes_of_their_own(file: Path) -> None:
    """The preset's classes have bounds by class: weights are no leaves by class, whatever their shape."""
    classes = {"names": {"BTC": "majors"}, "parameters": {"majors": {"bound": 3.0}, "altcoins": {}}}
    common = {"model": "dynamic", "scenarios": {"window": 200}, "classes": classes}
    margins = {}
    for kind in ("network", "two_speed"):
        extra = {"network": str(file)} if kind == "network" else {}
        settings = parse_config({**common, "filter": {"kind": kind, "bound": 4.0, **extra}}, "test")
        margins[kind] = margin(tables(), mx.load_model(settings)).margins["initial_margin"].drop_nulls().to_numpy()
    owed = margins["two_speed"] > 0
    ratio = margins["network"][owed] / margins["two_speed"][owed]
    assert np.isfinite(ratio).all()
    assert (ratio != 1).any()
