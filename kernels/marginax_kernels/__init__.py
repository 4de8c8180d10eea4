"""Floor 1: arrays in, arrays out. Imports jax, numpy, scipy and jaxtyping, and nothing of the floors above."""

from marginax_kernels.aggregate import accumulate
from marginax_kernels.black import Greeks, bachelier, black76, option_greeks
from marginax_kernels.book_tail import book_tail, ragged_book_tail
from marginax_kernels.correlation import check_correlation, copula_freedom, ewma_correlation, principal_root
from marginax_kernels.correlation_map import correlation_map
from marginax_kernels.cube_tail import BookTail, CubeTail
from marginax_kernels.draws import (
    copula_draws,
    copula_shocks,
    effective_sample_size,
    scrambles_for,
    sobol_uniforms,
    stretch_for,
    stretched_mixing,
)
from marginax_kernels.exceedance import mean_excess, smooth_exceedance
from marginax_kernels.garch import (
    discounted_sum,
    garch_likelihood_expansion,
    garch_log_likelihood,
    garch_update,
    garch_variance,
    student_quantile_and_shortfall,
    student_tail,
)
from marginax_kernels.har import har_push, har_ring, har_variance
from marginax_kernels.implied import implied_deviation
from marginax_kernels.liquidity import (
    Liquidation,
    OrderBooks,
    days_to_sell_scale,
    even_book,
    optimal_liquidation,
    order_books,
    square_root_impact,
    walk_books,
)
from marginax_kernels.marginals import (
    MarginalMap,
    TailMap,
    apply_map,
    empirical_map,
    marginal_map,
    t_freedom,
    tail_map,
    tail_probability,
)
from marginax_kernels.native import NativePath, native_path
from marginax_kernels.option_cube import reprice_bachelier, reprice_black76
from marginax_kernels.procyclicality import buffered, limited
from marginax_kernels.recurrent import gated_update
from marginax_kernels.reprice import inverse_pnl, linear_pnl, price_change, spot_pnl
from marginax_kernels.runs import row_sums, run_rates, run_totals
from marginax_kernels.scoring import fissler_ziegel, pinball
from marginax_kernels.settlement import effective_years, unfixed_share
from marginax_kernels.smile import svi_density_factor, svi_total_variance
from marginax_kernels.standalone import group_shortfalls, unit_shortfalls
from marginax_kernels.tail import (
    exceedance_probability,
    expected_shortfall,
    expected_shortfall_error,
    expected_shortfall_scramble_error,
    first_worst,
    shortfall_beyond,
    tail_weights,
    value_at_risk,
)
from marginax_kernels.tile_tail import (
    TileTail,
    dense_pnl,
    dense_tile_tail,
    exact_value_at_risk,
    losses_tail,
    tile_tail,
)
from marginax_kernels.volatility import (
    ewma_update,
    ewma_variance,
    faded,
    filtered_residuals,
    initial_variance,
    long_run_volatility,
    overlapping_sums,
    squared_move,
    volatility,
)

__all__ = [
    "BookTail",
    "CubeTail",
    "Greeks",
    "Liquidation",
    "MarginalMap",
    "NativePath",
    "OrderBooks",
    "TailMap",
    "TileTail",
    "accumulate",
    "apply_map",
    "bachelier",
    "black76",
    "book_tail",
    "buffered",
    "check_correlation",
    "copula_draws",
    "copula_freedom",
    "copula_shocks",
    "correlation_map",
    "days_to_sell_scale",
    "dense_pnl",
    "dense_tile_tail",
    "discounted_sum",
    "effective_sample_size",
    "effective_years",
    "empirical_map",
    "even_book",
    "ewma_correlation",
    "ewma_update",
    "ewma_variance",
    "exact_value_at_risk",
    "exceedance_probability",
    "expected_shortfall",
    "expected_shortfall_error",
    "expected_shortfall_scramble_error",
    "faded",
    "filtered_residuals",
    "first_worst",
    "fissler_ziegel",
    "garch_likelihood_expansion",
    "garch_log_likelihood",
    "garch_update",
    "garch_variance",
    "gated_update",
    "group_shortfalls",
    "har_push",
    "har_ring",
    "har_variance",
    "implied_deviation",
    "initial_variance",
    "inverse_pnl",
    "limited",
    "linear_pnl",
    "long_run_volatility",
    "losses_tail",
    "marginal_map",
    "mean_excess",
    "native_path",
    "optimal_liquidation",
    "option_greeks",
    "order_books",
    "overlapping_sums",
    "pinball",
    "price_change",
    "principal_root",
    "ragged_book_tail",
    "reprice_bachelier",
    "reprice_black76",
    "row_sums",
    "run_rates",
    "run_totals",
    "scrambles_for",
    "shortfall_beyond",
    "smooth_exceedance",
    "sobol_uniforms",
    "spot_pnl",
    "square_root_impact",
    "squared_move",
    "stretch_for",
    "stretched_mixing",
    "student_quantile_and_shortfall",
    "student_tail",
    "svi_density_factor",
    "svi_total_variance",
    "t_freedom",
    "tail_map",
    "tail_probability",
    "tail_weights",
    "tile_tail",
    "unfixed_share",
    "unit_shortfalls",
    "value_at_risk",
    "volatility",
    "walk_books",
]
