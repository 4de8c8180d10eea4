"""What the property tests draw: losses and weights of one fixed shape, so that a kernel compiles once per precision.

Losses are float32 numbers, so that both precisions see the same ones. Weights are whole numbers over their sum, at
most 360: a cumulated weight that differs from a tail of 1/100, 1/10 or 1 differs from it by at least 1/360 of
it, far beyond the slack of 1e-5 and every rounding, so that exact arithmetic alone decides which scenario stands on
the edge.
"""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SCENARIOS = 40
TAILS = (0.01, 0.1, 1.0)


def losses() -> st.SearchStrategy[np.ndarray]:
    """A row of losses: small whole numbers that tie, or any size up to a million."""
    whole = arrays(np.float64, SCENARIOS, elements=st.integers(-20, 20).map(float))
    sizes = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    return st.one_of(whole, arrays(np.float64, SCENARIOS, elements=sizes))


def distinct_losses() -> st.SearchStrategy[np.ndarray]:
    """A row of losses of which no two are closer than 1/2: away from every kink of the tail."""
    return st.tuples(orders(), st.integers(-60, 20)).map(lambda pair: (pair[0] + pair[1]) / 2)


def orders() -> st.SearchStrategy[np.ndarray]:
    """The scenarios in some order."""
    return st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).permutation(SCENARIOS))


def weights(*, least: int = 0) -> st.SearchStrategy[np.ndarray]:
    """Weights that sum to one; `least=1` keeps every scenario alive."""
    counts = arrays(np.int64, SCENARIOS, elements=st.integers(least, 9))
    return counts.filter(lambda row: bool(row.sum() > 0)).map(lambda row: row / row.sum())


def tails() -> st.SearchStrategy[float]:
    """One of a few tails: each is compiled once."""
    return st.sampled_from(TAILS)


def rounding(dtype: np.dtype, terms: int, size: float) -> float:
    """What a sum of `terms` products, each of them and their sum at most `size`, may lose to rounding.

    A term is rounded when its factors are cast, when they are multiplied, and once in each addition it takes part
    in: at most terms + 8 relative roundings of `eps`, which is itself twice the largest rounding.
    """
    return (terms + 8) * float(np.finfo(dtype).eps) * size
