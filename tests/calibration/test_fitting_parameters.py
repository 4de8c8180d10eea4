"""Free numbers: bijectors, and keys of a configuration found again among the leaves of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from calibration._fits import config
from marginax.models.load import model_config
from marginax.problems import BadInput
from marginax_calibration.fitting.bijectors import Block, Space, blocks_of
from marginax_calibration.fitting.free_keys import usual_keys
from marginax_calibration.fitting.parameters import put, tunable

BLOCKS = (
    Block((0,), "interval", 0.0, np.inf),
    Block((1,), "interval", 0.0, 1.0),
    Block((3, 2), "ordered"),
    Block((4, 5), "shares", high=1.0),
    Block((6, 7, 8), "correlation"),
    Block((9,), "interval", -2.0, 5.0),
)
ANYWHERE = st.lists(st.floats(-4, 4), min_size=10, max_size=10)


@given(ANYWHERE)
def test_whatever_is_free_becomes_what_is_allowed_and_comes_back(double: None, free: list[float]) -> None:
    space = Space(BLOCKS)
    found = np.asarray(space.allowed(jnp.asarray(free)))
    assert found[0] > 0
    assert 0 < found[1] < 1
    assert 0 < found[3] < found[2]
    assert found[4] > 0
    assert found[5] > 0
    assert found[4] + found[5] < 1
    matrix = np.eye(3)
    matrix[np.tril_indices(3, -1)] = found[6:9]
    assert np.linalg.eigvalsh(matrix + np.tril(matrix, -1).T).min() > 0
    assert -2 < found[9] < 5
    again = np.asarray(space.allowed(jnp.asarray(space.free(found))))
    np.testing.assert_allclose(again, found, rtol=1e-6)


def test_slopes_of_the_bijectors_are_finite_differences(double: None) -> None:
    space, free = Space(BLOCKS), np.linspace(-1, 1, 10)
    for k in range(10):
        step = np.zeros(10)
        step[k] = 1e-6
        ends = [np.asarray(space.allowed(jnp.asarray(free + sign * step))) for sign in (1, -1)]
        np.testing.assert_allclose(space.slopes(free)[:, k], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-9)


def test_numbers_without_a_common_constraint_have_blocks_of_their_own() -> None:
    blocks = blocks_of([(0, np.inf), (0, 1), (0, np.inf)], [Block((0, 2), "ordered")])
    assert [block.kind for block in blocks] == ["ordered", "interval"]
    assert [block.places for block in blocks] == [(0, 2), (1,)]


def test_the_usual_keys_are_those_of_the_parts_that_are_on() -> None:
    plain = usual_keys(model_config("fhs"))
    assert plain == ("scenarios.half_life_days", "scenarios.volatility_floor")
    every = usual_keys(config())
    assert {"filter.bound", "correlation.shrinkage", "stress_period.weight", "procyclicality.rise_limit"} <= set(every)
    assert usual_keys(model_config("dynamic"))[:2] == ("filter.alpha", "filter.beta")
    assert usual_keys(config())[:3] == (
        "filter.fast_half_life_days", "filter.slow_half_life_days", "filter.fast_share",
    )  # fmt: skip


@pytest.mark.parametrize("by", ["all", "class", "underlying"])
def test_a_model_at_some_values_is_the_model_of_the_configuration_with_them(double: None, by: str) -> None:
    numbers = tunable(config(), by=by, underlyings=["BTC", "ETH", "ADA"])  # type: ignore[arg-type]
    values = numbers.start * np.linspace(0.9, 1.1, len(numbers.start))
    leaves = jax.tree.leaves(put(numbers.model, numbers.places, jnp.asarray(values)))
    wanted = jax.tree.leaves(mx.load_model(numbers.config_at(values.tolist())))
    for found, each in zip(leaves, wanted, strict=True):
        np.testing.assert_allclose(found, each, rtol=1e-12)


def test_every_class_and_every_underlying_may_have_numbers_of_its_own() -> None:
    by_class = tunable(config(), by="class", underlyings=["BTC", "ETH", "ADA"])
    keys = [each.key for each in by_class.free]
    assert "classes.parameters.majors.fast_half_life_days" in keys
    assert "classes.parameters.altcoins.bound" in keys
    assert "correlation.half_life_days" in keys  # of all together
    alone = tunable(config(), ["filter.bound"], by="underlying", underlyings=["BTC", "ADA"])
    assert [each.key for each in alone.free] == ["classes.parameters.ADA.bound", "classes.parameters.BTC.bound"]
    assert {each.pooled for each in alone.free} == {"filter.bound"}
    # What its class had, an underlying keeps.
    assert alone.config.classes.parameters["BTC"].haircut == config().classes.parameters["majors"].haircut
    classes = alone.config.classes
    placed = [classes.words[row] for row in classes.rows(["BTC", "ADA", "USDC", "XYZ"], ["majors", None, None, None])]
    # A number of its own comes before a class that is stated; what is not fitted stays where it was.
    assert placed == ["BTC", "ADA", "stablecoins", "altcoins"]
    assert classes.parameters["stablecoins"].jump_rate == config().classes.parameters["stablecoins"].jump_rate


def test_names_with_dots_and_classes_without_a_table_are_no_trouble() -> None:
    placed = config(classes={"default": "stocks", "names": {"EUR": "fx"}, "parameters": {}})
    numbers = tunable(placed, ["filter.bound"], by="underlying", underlyings=["BRK.B"])
    assert numbers.free[0].path == ("classes", "parameters", "BRK.B", "bound")
    assert numbers.config_at([5.0]).classes.parameters["BRK.B"].bound == 5.0
    by_class = tunable(placed, ["filter.bound"], by="class", underlyings=["EUR", "XYZ"])
    assert [each.key for each in by_class.free] == ["classes.parameters.fx.bound", "classes.parameters.stocks.bound"]


def test_one_key_of_a_sum_takes_what_the_others_leave() -> None:
    garch = config(filter={"kind": "garch", "alpha": 0.1, "beta": 0.87})
    numbers = tunable(garch, ["filter.alpha"])
    np.testing.assert_allclose(numbers.start, 0.1)
    ends = np.asarray(numbers.space.allowed(jnp.array([[-9.0], [9.0]])))
    assert ends[0] < 0.001
    assert 0.12 < ends[1] < 0.13
    two = tunable(config(filter={"kind": "har", "monthly": 0.6}), ["filter.daily", "filter.weekly"])
    assert np.asarray(two.space.allowed(jnp.array([9.0, 9.0]))).sum() < 0.4 + 1e-6
    with pytest.raises(BadInput, match="left nothing"):
        tunable(config(filter={"kind": "har", "weekly": 0.5, "monthly": 0.5, "daily": 0.0}), ["filter.daily"])


def test_a_class_that_takes_a_number_of_a_sum_from_all_bounds_it_too() -> None:
    classes = {"names": {"BTC": "majors"}, "parameters": {"majors": {"beta": 0.93}}}
    garch = config(filter={"kind": "garch", "alpha": 0.06, "beta": 0.9}, classes=classes)
    numbers = tunable(garch, ["filter.alpha"])
    assert np.asarray(numbers.space.allowed(jnp.array([9.0]))) < 0.07 + 1e-6
    with pytest.raises(BadInput, match="of the class `majors`'s own"):
        tunable(garch, ["filter.alpha", "filter.beta"])
    with pytest.raises(BadInput, match=r"summed with `filter.alpha`, which is free too"):
        tunable(garch, ["filter.alpha", "classes.parameters.majors.beta"])


def test_one_number_under_two_names_is_refused() -> None:
    keys = ["filter.bound", "classes.parameters.altcoins.bound"]
    with pytest.raises(BadInput, match="named twice"):
        tunable(config(), keys, by="class", underlyings=["ADA"])


def test_classes_that_a_venue_states_come_before_those_of_the_configuration() -> None:
    stated = {"BTC": "memes", "ADA": "majors"}
    numbers = tunable(config(), ["filter.bound"], by="class", underlyings=["BTC", "ADA"], classes=stated)
    assert [each.key for each in numbers.free] == ["classes.parameters.majors.bound", "classes.parameters.memes.bound"]
    alone = tunable(config(), ["filter.bound"], by="underlying", underlyings=["ADA"], classes=stated)
    assert alone.config.classes.parameters["ADA"].haircut == config().classes.parameters["majors"].haircut


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["filter.speed"], "is not a key"),
        (["filter.bound", "filter.bound"], "is named twice"),
        (["nothing.at_all"], "is not a key"),
        (["filter.kind"], "is a choice"),
        (["scenarios.window"], "is a whole number"),
        (["filter.alpha"], "changes no number of the model"),
        (["procyclicality.floor_years"], "changes no number of the model"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(keys: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        tunable(config(), keys)
    assert keys[0] in str(caught.value)


def test_scenarios_that_are_not_filtered_hang_on_no_filter() -> None:
    with pytest.raises(BadInput, match="keys: names none, and no number of `expected_shortfall` is fitted"):
        tunable(model_config("hs"))
    with pytest.raises(BadInput, match=r"scenarios.half_life_days: is of filters, and scenarios are `historical`"):
        tunable(model_config("hs"), ["scenarios.half_life_days"])


def test_a_part_that_is_off_has_no_number_to_start_from() -> None:
    with pytest.raises(BadInput, match="switched off"):
        tunable(config(filter={"bound": None}), ["filter.bound"])


def test_numbers_that_are_allowed_stay_where_they_are() -> None:
    small = config(stress_period={"weight": 4e-4}, filter={"bound": 2e-4})
    numbers = tunable(small, ["stress_period.weight", "filter.bound"])
    np.testing.assert_allclose(numbers.start, [4e-4, 2e-4], rtol=1e-9)


def test_numbers_on_the_edge_start_inside() -> None:
    numbers = tunable(config(dependence={"share": 1.0}), ["dependence.share"])
    assert 0.99 < numbers.start[0] < 1
