"""The calibration benchmark frees what the preset has."""

from benchmarks.calibration import KEYS
from benchmarks.ten_years import NAMES

from marginax.models.load import model_config
from marginax_calibration.fitting.parameters import tunable


def test_thirty_numbers_are_free_and_each_is_a_leaf() -> None:
    assert len(tunable(model_config("dynamic"), KEYS, by="underlying", underlyings=NAMES).free) == 30
