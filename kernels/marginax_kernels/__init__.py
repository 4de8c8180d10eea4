"""Floor 1: arrays in, arrays out. Imports jax, numpy, scipy and jaxtyping, and nothing of the floors above."""

from marginax_kernels.aggregate import accumulate
from marginax_kernels.reprice import inverse_pnl, linear_pnl, price_change, spot_pnl
from marginax_kernels.tail import (
    exceedance_probability,
    expected_shortfall,
    expected_shortfall_error,
    first_worst,
    shortfall_beyond,
    tail_weights,
    value_at_risk,
)
from marginax_kernels.volatility import (
    ewma_update,
    ewma_variance,
    filtered_residuals,
    initial_variance,
    long_run_volatility,
    overlapping_sums,
    volatility,
)

__all__ = [
    "accumulate",
    "ewma_update",
    "ewma_variance",
    "exceedance_probability",
    "expected_shortfall",
    "expected_shortfall_error",
    "filtered_residuals",
    "first_worst",
    "initial_variance",
    "inverse_pnl",
    "linear_pnl",
    "long_run_volatility",
    "overlapping_sums",
    "price_change",
    "shortfall_beyond",
    "spot_pnl",
    "tail_weights",
    "value_at_risk",
    "volatility",
]
