"""Draws of a Student t copula: scrambled Sobol points, a mixing variable drawn where the tail is, and its weights.

Conventions: draws are rows and come scramble after scramble; the first Sobol dimension drives the mixing variable that
all factors share, the others drive normals, principal components first. Everything on the host is NumPy in float64,
made once per key, and depends on nothing but the seed and its own arguments; `copula_shocks` and
`effective_sample_size` are traceable.
"""

import math

import jax.numpy as jnp
import numpy as np
import scipy
from jax import lax
from jaxtyping import Array, Float, Float64
from scipy import special

# Points are multiples of 2^-30 and are moved to the middle of their cells, so that none is zero.
SOBOL_BITS = 30
# No draw weighs more than two plain ones, so no book is worse off than with half as many plain draws, which is an error
# 1.41 times as large: books that are long gamma lose in calm draws, where a stretched law draws least. A greater weight
# makes the mean error smaller and these books worse. `python -m benchmarks.monte_carlo` measures both.
GREATEST_WEIGHT = 2.0
# At least so many scrambles within a set tell its error. Fewer would leave larger blocks, and an error that is known so
# poorly that Student's factor, 1.09 for 16, is 1.21 for 8.
LEAST_SCRAMBLES = 16
LEAST_POINTS = 32


def sobol_uniforms(
    dimensions: int, *, draws: int, scrambles: int, seed: int
) -> Float64[np.ndarray, "draws dimensions"]:
    """Points strictly inside the unit cube: `scrambles` independent scramblings of draws / scrambles Sobol points.

    `draws / scrambles` is a power of two: only then are the points balanced. Means over one scrambling are independent
    of the others', which is what tells their error. Raises ValueError where the draws cannot be cut so, or where there
    are more dimensions than Sobol's direction numbers.

    Source: Sobol (1967); Joe and Kuo (2008) for the directions; Matousek (1998) for the scrambling; Owen (1997).
    """
    points = draws // scrambles if scrambles > 0 else 0
    if points < 1 or points * scrambles != draws or points & (points - 1):
        raise ValueError(
            f"`draws={draws}` cannot be cut into `scrambles={scrambles}` blocks of a power of two points, and Sobol "
            "points are balanced only then. Use for instance 16 blocks of 128, which is 2048."
        )
    most = scipy.stats.qmc.Sobol.MAXDIM
    if not 1 <= dimensions <= most:
        raise ValueError(
            f"{dimensions} dimensions are outside the {most} that Sobol points exist for. Draw fewer "
            "factors, or keep the principal components that matter."
        )
    blocks = []
    for scramble in range(scrambles):
        stream = np.random.default_rng(np.random.SeedSequence([seed, scramble]))
        block = scipy.stats.qmc.Sobol(dimensions, scramble=True, bits=SOBOL_BITS, seed=stream)
        blocks.append(block.random_base2(points.bit_length() - 1))
    return np.concatenate(blocks) + 0.5 ** (SOBOL_BITS + 1)


def scrambles_for(draws: int) -> int:
    """The least number of scrambles, 16 or more, that cuts `draws` into powers of two: 16 of 2,048, 20 of 10,240.

    Raises ValueError where blocks would have less than 32 points: 512, 1,024, 2,048, 10,240 can be cut, 1,000 cannot.
    """
    scrambles = draws
    while scrambles % 2 == 0 and scrambles // 2 >= LEAST_SCRAMBLES:
        scrambles //= 2
    if scrambles < LEAST_SCRAMBLES or draws < LEAST_POINTS * scrambles:
        raise ValueError(
            f"`draws={draws}` cannot be cut into {LEAST_SCRAMBLES} or more blocks of a power of two points, at least "
            f"{LEAST_POINTS}. Use a multiple of a large power of two, such as 2048 or 10240."
        )
    return scrambles


def stretch_for(tail: float) -> float:
    """How strongly to stretch the mixing variable for expected shortfall at `tail`: 1 + log(1 / tail) / 3.

    Chosen by benchmarks/monte_carlo.py, where the least errors lie near 2.0, 2.5 and 3.0 at tails of 0.05, 0.01 and
    0.0025 and are flat around them: a stretch of 2.5 is within a tenth of the best at all three.
    """
    if not 0 < tail <= 1:
        raise ValueError(f"`tail={tail}` is no probability. Give the small one: 0.01 for 99 % expected shortfall.")
    return 1 - math.log(tail) / 3


def stretched_mixing(
    uniform: Float64[np.ndarray, " draws"], *, freedom: float, stretch: float
) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
    """Scale sqrt(freedom / W) of each draw, W chi-square from a law stretched towards wild draws, and their weights.

    W = F^-1(v) with F chi-square of `freedom` degrees, and v the plain uniform whose law here is the mixture
    G(v) = d v + (1 - d) v^(1 / stretch), the least d with which no weight 1 / G'(v) exceeds `GREATEST_WEIGHT`. A
    stretch of 1, and a normal copula (`freedom=inf`: scale one), are plain draws with equal weights. Weights sum to
    one and stay valid under any map of the marginals, because they belong to the draw.

    Source: Hesterberg (1995) for defensive mixtures; u -> u^stretch is importance sampling of the chi-square.
    """
    if not stretch >= 1:
        raise ValueError(f"`stretch={stretch}` would draw calm days instead of wild ones. Use at least 1.")
    if math.isinf(freedom) or stretch == 1:
        plain, weights = uniform, np.ones_like(uniform)
    else:
        share = max(0.0, (1 / GREATEST_WEIGHT - 1 / stretch) / (1 - 1 / stretch))
        root = uniform
        # Newton's method for share y^stretch + (1 - share) y = uniform: convex, so one step leads above the root and
        # the others fall towards it, quadratically.
        for _ in range(12):
            excess = share * root**stretch + (1 - share) * root - uniform
            root = root - excess / (share * stretch * root ** (stretch - 1) + 1 - share)
        plain = root**stretch
        weights = 1 / (share + (1 - share) / stretch * root ** (1 - stretch))
    scale = np.ones_like(uniform) if math.isinf(freedom) else np.sqrt(freedom / scipy.stats.chi2.ppf(plain, freedom))
    return scale, weights / weights.sum()


def copula_draws(
    factors: int, *, draws: int, scrambles: int, seed: int, freedom: float, stretch: float
) -> tuple[Float64[np.ndarray, "draws factors"], Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
    """Independent normals, the scale that all factors of a draw share, and the draws' weights, which sum to one.

    What `copula_shocks` takes; see `sobol_uniforms` and `stretched_mixing` for the arguments.
    """
    uniforms = sobol_uniforms(1 + factors, draws=draws, scrambles=scrambles, seed=seed)
    scale, weights = stretched_mixing(uniforms[:, 0], freedom=freedom, stretch=stretch)
    return special.ndtri(uniforms[:, 1:]), scale, weights


def copula_shocks(
    normals: Float[Array, "draws factors"],
    root: Float[Array, "factors factors"],
    scale: Float[Array, " draws"],
) -> Float[Array, "draws factors"]:
    """Correlated Student t shocks: each column is t with the copula's degrees of freedom, not scaled to variance one.

    `root` turns independent normals into correlated ones (`principal_root`). Products keep full precision: TF32 would
    put an error of a thousandth into every shock, and a hedged book has nothing but that. Gradient: exact.
    """
    return jnp.matmul(normals, root.T, precision=lax.Precision.HIGHEST) * scale[:, None]


def effective_sample_size(weights: Float[Array, "*batch scenarios"]) -> Float[Array, "*batch"]:
    """How many equally weighted draws these are worth: (sum w)^2 / sum w^2.

    Of a whole set, give its weights; of what stands behind an expected shortfall, give its `tail_weights`. Gradient:
    exact. Source: Kong (1992).
    """
    return jnp.sum(weights, axis=-1) ** 2 / jnp.sum(weights**2, axis=-1)
