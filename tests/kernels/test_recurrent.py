"""The gated recurrent unit against a loop, in both precisions, with any number of axes behind its numbers."""

import jax.numpy as jnp
import jax.test_util
import numpy as np

from marginax_kernels import gated_update
from reference import network as twin

HIDDEN, FEATURES = 3, 2


def weights(rng: np.random.Generator, dtype: np.dtype) -> dict[str, np.ndarray]:
    shapes = {"inputs": (3 * HIDDEN, FEATURES), "carried": (3 * HIDDEN, HIDDEN), "bias": (3 * HIDDEN,)}
    return {key: rng.normal(0, 1, shape).astype(dtype) for key, shape in shapes.items()}


def test_a_step_is_that_of_a_loop_whatever_stands_behind(precision: np.dtype, rng: np.random.Generator) -> None:
    own = weights(rng, precision)
    hidden = rng.uniform(-1, 1, (HIDDEN, 4, 2)).astype(precision)
    features = rng.normal(0, 1, (FEATURES, 4, 2)).astype(precision)
    found = gated_update(jnp.asarray(hidden), jnp.asarray(features), **{k: jnp.asarray(v) for k, v in own.items()})
    assert found.dtype == precision
    for place in np.ndindex(4, 2):
        wanted = twin.gated(own, hidden[:, *place], features[:, *place])
        # A handful of products of numbers near one.
        np.testing.assert_allclose(found[:, *place], wanted, atol=20 * np.finfo(precision).eps)


def test_hidden_numbers_stay_within_one_and_have_exact_slopes(double: None, rng: np.random.Generator) -> None:
    own = {key: jnp.asarray(10 * value) for key, value in weights(rng, np.dtype(float)).items()}
    hidden = jnp.asarray(rng.uniform(-1, 1, (HIDDEN, 5)))
    features = jnp.asarray(100 * rng.normal(0, 1, (FEATURES, 5)))
    assert (jnp.abs(gated_update(hidden, features, **own)) <= 1).all()
    mild = {key: value / 10 for key, value in own.items()}
    jax.test_util.check_grads(
        lambda h, x, w: gated_update(h, x, **w), (hidden, features / 100, mild), order=1, modes=("rev",), rtol=1e-5
    )
