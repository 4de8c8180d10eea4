"""Error of Monte Carlo expected shortfall over 200 random books: plain draws, scrambled Sobol, and the stretched law.

The market has 20 factors with one market and four sectors (correlations of 0.2 to 0.8), a t copula with 5 degrees of
freedom, volatilities of 2 to 6 % a day, and marginals that are t(5), normal, or the filtered residuals of a simulated
GARCH history of 2,000 days. Prices move by exp(shock), the shock held within log 4. Books, 50 of each kind, hold

- directional: long and short amounts of 1 to 20 coins;
- hedged: as much long as short in 2 to 20 coins, and 2 % of it too much of one;
- short gamma: short 30-day straddles, puts and calls on 1 to 8 coins, hedged but for up to 20 % of their amount;
- long gamma: the same, bought.

Options are repriced with Black's formula one day on, at the day's volatility x sqrt(365), which stays.

The error of a book is the root mean square, over repeats with different seeds, of (ES - reference) / reference; a
figure is its mean over the books. The reference is 64 scrambles of 32,768 points of the stretched law (2.1 million
draws), whose own error is told by the differences between them. Plain Sobol is one scramble (five of 2,048 points for
10,240), plain Monte Carlo NumPy's generator.

Coverage counts the runs with the reference inside two standard errors. Over 100 repeats a book at 95 % shows 88 % or
less once in 250, and over 40 repeats 85 % or less once in 70, so the worst of 200 books is there by chance alone. The
ratio of two errors over 100 repeats is known to 10 %, over 40 to 16 %, so the worst ratio of 200 books is 1.3 or 1.4
times too high where all are equal. It is given of all books, and of those whose error is not below 0.05 % of ES (a
bought option cannot lose more than it costs). The five worst are also found in every other repeat and measured anew in
the rest, which takes chance out.

The kernels' constants were chosen on market and books of seed 11; `--market SEED` makes others, to see that they hold.

`python -m benchmarks.monte_carlo` prints the record as JSON and a summary on standard error; `--quick` takes 20
repeats and leaves out the largest set.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from scipy import special

from benchmarks.context import context, seconds
from marginax_kernels import (
    apply_map,
    copula_draws,
    copula_shocks,
    empirical_map,
    ewma_variance,
    expected_shortfall,
    expected_shortfall_scramble_error,
    marginal_map,
    principal_root,
    scrambles_for,
    stretch_for,
    stretched_mixing,
    t_freedom,
    tail_map,
)

FACTORS = 20
BOOKS_A_KIND = 50
KINDS = ("directional", "hedged", "short gamma", "long gamma")
FREEDOM = 5.0
TAILS = (0.05, 0.01, 0.0025)
# Draws of a set, and how often it is drawn anew.
REPEATS = {1_024: 100, 2_048: 100, 10_240: 40}
REFERENCE = (64, 32_768)
# Seed of the market and the books.
MARKET_SEED = 11
# Below this share of expected shortfall an error is of no account, and a ratio of two of them says nothing.
NEGLIGIBLE = 5e-4
CAP = float(np.log(4))


class Market(NamedTuple):
    """What the books are revalued in."""

    root: np.ndarray
    volatility: np.ndarray
    residuals: np.ndarray


def market(rng: np.random.Generator) -> Market:
    """Correlation, volatilities, and a history of residuals."""
    loadings = np.zeros((FACTORS, 5))
    loadings[:, 0] = rng.uniform(0.45, 0.8, FACTORS)
    loadings[np.arange(FACTORS), 1 + np.arange(FACTORS) % 4] = rng.uniform(0.2, 0.45, FACTORS)
    correlation = loadings @ loadings.T
    np.fill_diagonal(correlation, 1)
    root = np.asarray(principal_root(jnp.asarray(correlation)))
    # A GARCH(1,1) history with t(4) innovations and fatter losses than gains, filtered as the engine filters.
    days = 2_300
    noise = rng.standard_t(4, (days, FACTORS)) / np.sqrt(2)
    noise = np.where(noise < 0, 1.1, 0.9) * (np.asarray(root) @ noise.T).T
    variance, returns = np.ones(FACTORS), np.empty((days, FACTORS))
    for day in range(days):
        returns[day] = np.sqrt(variance) * noise[day]
        variance = 0.04 + 0.08 * returns[day] ** 2 + 0.88 * variance
    given = jnp.asarray(returns)
    path, _ = ewma_variance(given, jnp.ones_like(given), given[:30].var(axis=0), half_life=23.0)
    residuals = (returns / np.sqrt(np.asarray(path)))[300:]
    return Market(root, rng.uniform(0.02, 0.06, FACTORS), residuals)


def books(rng: np.random.Generator, volatility: np.ndarray) -> np.ndarray:
    """Amounts by (spot, straddle, put, call) x factors, USD of notional, one row a book."""
    deviation = volatility * np.sqrt(30)
    at, below, above = (special.ndtr(-np.log(strike) / deviation + deviation / 2) for strike in (1.0, 0.9, 1.1))
    slopes = (2 * at - 1, below - 1, above)
    rows = []
    for kind in KINDS:
        for _ in range(BOOKS_A_KIND):
            row = np.zeros((4, FACTORS))
            if kind == "directional":
                held = rng.choice(FACTORS, rng.integers(1, FACTORS + 1), replace=False)
                row[0, held] = rng.normal(rng.normal(), 1, len(held))
            elif kind == "hedged":
                held = rng.choice(FACTORS, rng.integers(2, FACTORS + 1), replace=False)
                long = held[: len(held) // 2]
                short = held[len(held) // 2 :]
                row[0, long] = rng.dirichlet(np.ones(len(long)))
                row[0, short] = -rng.dirichlet(np.ones(len(short)))
                row[0, held[0]] += 0.02
            else:
                held = rng.choice(FACTORS, rng.integers(1, 9), replace=False)
                amounts = rng.exponential(1, (3, len(held))) * (rng.random((3, len(held))) < 0.6)
                amounts[0, 0] += 0.2
                row[1:, held] = amounts if kind == "long gamma" else -amounts
                delta = row[1] * slopes[0] + row[2] * slopes[1] + row[3] * slopes[2]
                row[0] = -delta + 0.2 * rng.uniform(-1, 1, FACTORS) * np.abs(row[1:]).sum(axis=0)
            rows.append(row.ravel())
    return np.array(rows)


def _black(spot: jax.Array, strike: float, deviation: jax.Array, sign: float) -> jax.Array:
    ratio = jnp.log(spot / strike) / deviation
    first, second = ratio + deviation / 2, ratio - deviation / 2
    return sign * (spot * ndtr(sign * first) - strike * ndtr(sign * second))


def _legs(spot: jax.Array, deviation: jax.Array) -> list[jax.Array]:
    straddle = _black(spot, 1.0, deviation, 1) + _black(spot, 1.0, deviation, -1)
    return [spot, straddle, _black(spot, 0.9, deviation, -1), _black(spot, 1.1, deviation, 1)]


def losses(amounts: jax.Array, volatility: jax.Array, unit: jax.Array) -> jax.Array:
    """Loss of each book in each draw, from shocks in units of the day's volatility."""
    spot = jnp.exp(jnp.clip(volatility * unit, -CAP, CAP))
    now = _legs(jnp.ones_like(volatility), volatility * jnp.sqrt(30.0))
    then = _legs(spot, volatility * jnp.sqrt(29.0))
    cube = jnp.concatenate([after - before for after, before in zip(then, now, strict=True)], axis=1)
    return -jnp.matmul(amounts, cube.T, precision="highest")


class Study(NamedTuple):
    """The books' losses in given draws: normals and scale."""

    books: int
    losses: Callable[[Any, Any], jax.Array]


def study(marginals: str, seed: int) -> Study:
    """The books in the market with the marginals of that name."""
    rng = np.random.default_rng(seed)
    held = market(rng)
    amounts = books(rng, held.volatility).astype(np.float32)
    root, volatility = held.root.astype(np.float32), held.volatility.astype(np.float32)
    ranked = np.sort(held.residuals, axis=0).astype(np.float32)
    freedom = t_freedom(held.residuals).astype(np.float32)
    table, tail = marginal_map(FREEDOM, np.full(FACTORS, FREEDOM if marginals == "t" else np.inf)), tail_map(FREEDOM)

    def of(normals: jax.Array, scale: jax.Array) -> jax.Array:
        x = copula_shocks(normals, jnp.asarray(root), scale)
        if marginals == "empirical":
            unit = empirical_map(jnp.asarray(ranked), x, table=tail, freedom=freedom)
        else:
            unit = apply_map(table, x)
        return losses(jnp.asarray(amounts), jnp.asarray(volatility), unit)

    return Study(len(amounts), of)


def reference(each: Study) -> tuple[np.ndarray, np.ndarray]:
    """Expected shortfall of each book at each tail, and its standard error over it, from 2.1 million draws."""
    scrambles, points = REFERENCE
    revalue = jax.jit(each.losses)
    rows, masses = [], []
    for scramble in range(scrambles):
        normals, scale, weights = _stretched(points, 900_000 + scramble, scrambles=1, stretch=stretch_for(0.01))
        rows.append(np.asarray(revalue(normals, scale)))
        masses.append(weights.astype(float) / scrambles)
    together, mass = np.concatenate(rows, axis=1), np.concatenate(masses)
    values, errors = np.empty((2, len(TAILS), each.books))
    for book, row in enumerate(together):
        # The worst three tenths of the draws hold more than the worst 5 % of the mass; were it not so, the search below
        # would run off their end and fail.
        beyond = np.flatnonzero(row > np.quantile(row[::64], 0.7))
        beyond = beyond[np.argsort(-row[beyond])]
        cumulated = np.cumsum(mass[beyond])
        for k, tail in enumerate(TAILS):
            edge = float(row[beyond[np.searchsorted(cumulated, tail)]])
            excess = np.maximum(row[beyond] - edge, 0) * mass[beyond] / tail
            blocks = np.bincount(beyond // points, excess, minlength=scrambles)
            values[k, book] = edge + excess.sum()
            errors[k, book] = np.sqrt(scrambles) * blocks.std(ddof=1) / abs(values[k, book])
    return values, errors


@cache
def _stretched(draws: int, seed: int, *, scrambles: int, stretch: float) -> tuple[np.ndarray, ...]:
    made = copula_draws(FACTORS, draws=draws, scrambles=scrambles, seed=seed, freedom=FREEDOM, stretch=stretch)
    return tuple(array.astype(np.float32) for array in made)


@cache
def _plain(draws: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    scale, weights = stretched_mixing(rng.random(draws), freedom=FREEDOM, stretch=1)
    return tuple(array.astype(np.float32) for array in (rng.standard_normal((draws, FACTORS)), scale, weights))


def _errors(each: Study, truth: np.ndarray, draws: int, repeats: int) -> dict[str, Any]:
    """Errors of the three methods at one number of draws, and how honest ours is about its own."""
    scrambles = scrambles_for(draws)

    @partial(jax.jit, static_argnames="tails")
    def measure(normals: jax.Array, scale: jax.Array, weights: jax.Array, tails: tuple[float, ...]) -> jax.Array:
        loss = each.losses(normals, scale)
        error = partial(expected_shortfall_scramble_error, loss, weights, scrambles=scrambles, draws=draws)
        return jnp.array([(expected_shortfall(loss, weights, tail=tail), error(tail=tail)) for tail in tails])

    def repeat(draw: Callable[[int], tuple[np.ndarray, ...]], tails: tuple[float, ...]) -> np.ndarray:
        runs = np.array([np.asarray(measure(*draw(seed), tails)) for seed in range(1, repeats + 1)], float)
        wanted = truth[[TAILS.index(tail) for tail in tails]]
        runs[:, :, 0] -= wanted
        return runs / np.abs(wanted)[:, None]

    # Plain Sobol gets the best it can: one scramble where the number of draws allows it.
    blocks = 1 if draws & (draws - 1) == 0 else scrambles // 4
    plain = _size(repeat(lambda seed: _plain(draws, seed), TAILS))
    plainly = repeat(lambda seed: _stretched(draws, seed, scrambles=blocks, stretch=1), TAILS)
    sobol = _size(plainly)
    figures: dict[str, Any] = {"scrambles": scrambles, "repeats": repeats}
    for k, tail in enumerate(TAILS):
        runs = repeat(partial(_stretched, draws, scrambles=scrambles, stretch=stretch_for(tail)), (tail,))
        ours = _size(runs)[0]
        inside = np.mean(np.abs(runs[:, 0, 0]) <= 2 * runs[:, 0, 1], axis=0)
        reported = np.sqrt(np.mean(runs[:, 0, 1] ** 2, axis=0)) / ours
        matters = np.maximum(ours, sobol[k]) > NEGLIGIBLE
        over = ours / sobol[k]
        figures[f"tail_{tail}"] = {
            "plain_percent": 100 * plain[k].mean(),
            "sobol_percent": 100 * sobol[k].mean(),
            "ours_percent": 100 * ours.mean(),
            "ours_percent_by_kind": dict(zip(KINDS, 100 * ours.reshape(len(KINDS), -1).mean(axis=1), strict=True)),
            "sobol_over_ours": sobol[k].mean() / ours.mean(),
            "worst_book_over_sobol": over.max(),
            "worst_book_over_sobol_that_matters": over[matters].max(),
            "books_over_1.6_that_matter": int((over[matters] > 1.6).sum()),
            "worst_five_books_measured_anew": _anew(runs[:, 0, 0], plainly[:, k, 0], matters),
            "reported_over_true_error_median": np.median(reported),
            "coverage": inside.mean(),
            "coverage_worst_book": inside.min(),
            "coverage_worst_book_that_matters": inside[matters].min(),
        }
    return figures


def _size(runs: np.ndarray) -> np.ndarray:
    """Root mean square over the repeats of each book's relative error."""
    return np.sqrt(np.mean(runs[:, :, 0] ** 2, axis=0))


def _anew(ours: np.ndarray, sobol: np.ndarray, matters: np.ndarray) -> float:
    """Ratio of errors of the five worst books, found in every other repeat and measured in the rest; both ways round.

    Chance, which puts a book among the worst, has no part in the second measurement.
    """
    one, two = (np.sqrt(np.mean(ours[k::2] ** 2, axis=0) / np.mean(sobol[k::2] ** 2, axis=0)) for k in (0, 1))
    found = [np.argsort(np.where(matters, ratio, 0))[-5:] for ratio in (one, two)]
    return float(np.mean([two[found[0]], one[found[1]]]))


def _times(draws: int = 8_192, factors: int = 200) -> dict[str, float]:
    """Milliseconds to make the scenarios of 200 factors: once per key on the host, and once per market."""
    rng = np.random.default_rng(3)
    common = rng.uniform(0.4, 0.8, factors)
    correlation = np.outer(common, common).astype(np.float32)
    np.fill_diagonal(correlation, 1)
    take_root = jax.jit(principal_root)
    root = take_root(correlation)
    host = partial(
        copula_draws,
        factors,
        draws=draws,
        scrambles=scrambles_for(draws),
        seed=1,
        freedom=FREEDOM,
        stretch=stretch_for(0.01),
    )
    normals, scale, _ = (jnp.asarray(each, jnp.float32) for each in host())
    ranked = jnp.sort(jnp.asarray(rng.standard_t(5, (2_000, factors)), jnp.float32), axis=0)
    varied = rng.uniform(3, 20, factors)
    same, other = marginal_map(FREEDOM, np.full(factors, FREEDOM)), marginal_map(FREEDOM, varied)
    tail, freedom = tail_map(FREEDOM), np.full(factors, FREEDOM, np.float32)
    mapped = jax.jit(lambda n, r, s, table: apply_map(table, copula_shocks(n, r, s)))
    empirical = jax.jit(lambda n, r, s: empirical_map(ranked, copula_shocks(n, r, s), table=tail, freedom=freedom))
    works: dict[str, Callable[[], Any]] = {
        "host_sobol_normals_and_mixing": host,
        "host_marginal_map": lambda: marginal_map(FREEDOM, varied),
        "market_principal_root": lambda: take_root(correlation).block_until_ready(),
        "market_shocks_t_as_the_copula": lambda: mapped(normals, root, scale, same).block_until_ready(),
        "market_shocks_t_of_each_factor": lambda: mapped(normals, root, scale, other).block_until_ready(),
        "market_shocks_empirical": lambda: empirical(normals, root, scale).block_until_ready(),
    }
    return {name: 1_000 * seconds(work, repeats=7)["median"] for name, work in works.items()}


def run(quick: bool = False, market_seed: int = MARKET_SEED) -> dict[str, Any]:
    """The benchmark's record; `quick` leaves out the largest set and most repeats."""
    repeats = {1_024: 20, 2_048: 20} if quick else REPEATS
    figures: dict[str, Any] = {}
    for marginals in ("t", "normal", "empirical"):
        each = study(marginals, market_seed)
        truth, error = reference(each)
        # A reference must be known far better than what is measured against it.
        if error.mean(axis=1).max() > 0.001:
            sys.exit(f"the reference is off by {error.mean(axis=1)} of expected shortfall; nothing was measured")
        figures[marginals] = {
            "reference_error_percent": dict(zip(map(str, TAILS), 100 * error.mean(axis=1), strict=True)),
            **{f"draws_{draws}": _errors(each, truth, draws, count) for draws, count in repeats.items()},
        }
    record = {
        "benchmark": "monte_carlo",
        "books": len(KINDS) * BOOKS_A_KIND,
        "factors": FACTORS,
        "dtype": "float32",
        "market_seed": market_seed,
        "context": context(),
        "figures": figures,
        "milliseconds_200_factors_8192_draws": _times(),
    }
    # Three digits are what so many repeats know; and JSON knows no NumPy.
    return json.loads(json.dumps(record, default=float), parse_float=lambda text: float(f"{float(text):.3g}"))


# Heading and figure of each column of the summary.
COLUMNS = (
    ("plain %", "plain_percent"),
    ("Sobol %", "sobol_percent"),
    ("ours %", "ours_percent"),
    ("gain", "sobol_over_ours"),
    ("worst", "worst_book_over_sobol_that_matters"),
    (">1.6", "books_over_1.6_that_matter"),
    ("anew", "worst_five_books_measured_anew"),
    ("SE/true", "reported_over_true_error_median"),
    ("inside", "coverage"),
    ("least", "coverage_worst_book_that_matters"),
)


def summary(record: dict[str, Any]) -> str:
    """The record's main figures, one row for each of marginals, number of draws and tail."""
    lines = [f"{'marginals':>9}  draws    tail" + "".join(f"{heading:>9}" for heading, _ in COLUMNS)]
    for marginals, sets in record["figures"].items():
        for draws, of in sets.items():
            for tail in TAILS if draws.startswith("draws_") else ():
                row = of[f"tail_{tail}"]
                cells = "".join(f"{row[name]:>9.3g}" for _, name in COLUMNS)
                lines.append(f"{marginals:>9} {draws.removeprefix('draws_'):>6}  {tail:>6}{cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    options = ArgumentParser()
    options.add_argument("--quick", action="store_true", help="20 repeats, and not the largest set")
    options.add_argument("--market", type=int, default=MARKET_SEED, help="seed of market and books")
    asked = options.parse_args()
    made = run(asked.quick, asked.market)
    print(json.dumps(made, indent=2))
    # Beside the record and not in it, so that standard output stays JSON.
    print(summary(made), file=sys.stderr)
