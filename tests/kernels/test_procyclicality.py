"""Buffers and speed limits, bar by bar: what they promise of a level that rises, stands still and falls."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginax_kernels import buffered, limited

levels = st.floats(0.001, 10.0)


@given(level=levels, reference=levels, buffer=st.floats(0.0, 1.0))
def test_a_buffer_never_lowers_a_level_and_never_adds_more_than_its_share(
    double: None, level: float, reference: float, buffer: float
) -> None:
    found = float(buffered(jnp.asarray(level), jnp.asarray(reference), buffer=buffer))
    assert level <= found <= (1 + buffer) * level * (1 + 1e-12)


def test_a_buffer_is_full_in_calm_stands_still_while_it_is_used_up_and_is_empty_above(double: None) -> None:
    found = buffered(jnp.asarray([0.5, 1.0, 1.1, 1.2, 1.25, 2.0]), jnp.full(6, 1.25), buffer=0.25)
    np.testing.assert_allclose(found, [0.625, 1.25, 1.25, 1.25, 1.25, 2.0])


@given(level=levels, before=levels, rise=st.floats(0.01, 2.0), fall=st.floats(0.01, 0.9))
def test_a_limited_level_is_as_near_as_it_may_be(
    double: None, level: float, before: float, rise: float, fall: float
) -> None:
    found = float(limited(jnp.asarray(level), jnp.asarray(before), rise=rise, fall=fall))
    assert found == pytest.approx(np.clip(level, before * (1 - fall), before * (1 + rise)), rel=1e-14)


def test_without_a_level_before_or_without_limits_nothing_is_limited(double: None) -> None:
    level = jnp.asarray([3.0, 3.0])
    np.testing.assert_array_equal(limited(level, jnp.zeros(2), rise=0.1, fall=0.1), level)
    np.testing.assert_array_equal(limited(level, jnp.ones(2)), level)
