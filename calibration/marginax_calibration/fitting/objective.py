"""What is wanted of margins, as one number that is lower the better: a weighted sum of terms, each told by itself.

    fz0             mean Fissler-Ziegel score of value at risk and expected shortfall
    coverage        (breach rate / tail - 1)^2, the rate softened while the search is far from its end
    cost            mean charged, over that of a reference
    uncovered       mean loss beyond what is charged, over that of the reference
    procyclicality  fourth-power mean of the relative rises of what is charged within five bars
    anchor          mean square of how far free numbers moved from the configuration's, in their own free scale, a
                    thousand portfolio-bars of evidence against as many as there are
    pooling         mean square of how far numbers of one key lie from their mean, the same

Amounts are fractions of gross notional. Means run over all portfolio-bars of a batch. The reference makes weights mean
the same on every history: a rule that looks at no volatility (`static`) on the same rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from marginax_calibration.replay import lifted
from marginax_kernels import fissler_ziegel

TERMS = ("fz0", "coverage", "cost", "uncovered", "procyclicality", "anchor", "pooling")
PRIORS = TERMS[5:]
RISE_BARS = 5
# Portfolio-bars that one unit of the free scale is worth to the anchor and the pool.
PRIOR_ROWS = 1000.0
# A breach that is narrower than this is a step in any precision.
HARD = 1e-9
# Least margin that a rise is counted from, as a share of gross notional.
LEAST_CHARGED = 1e-4


@dataclass(frozen=True)
class Weights:
    """The weight of each term. Raises ValueError for one that is negative or no number."""

    fz0: float = 1.0
    coverage: float = 0.2
    cost: float = 0.9
    uncovered: float = 0.1
    procyclicality: float = 0.05
    anchor: float = 5.0
    pooling: float = 10.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"the weight of `{each.name}` is {value}; give a number that is not negative")
        if not any(getattr(self, name) for name in TERMS[: -len(PRIORS)]):
            raise ValueError(
                f"all weights of {', '.join(TERMS[: -len(PRIORS)])} are zero, and nothing is wanted; give one of them"
            )

    def of(self, words: str) -> "Weights":
        """The same with some weights changed, as in `cost=0.5,uncovered=0.1`. Raises ValueError."""
        changed = {}
        for word in words.split(",") if words else []:
            name, _, number = (each.strip() for each in word.partition("="))
            if not number:
                raise ValueError(f"`{word.strip()}` says no weight")
            if name not in TERMS:
                raise ValueError(f"`{name}` is no term; name some of {', '.join(TERMS)}")
            try:
                changed[name] = float(number)
            except ValueError:
                raise ValueError(f"the weight of `{name}` is '{number}', which is no number") from None
        return replace(self, **changed)


class Rows(NamedTuple):
    """What margins are judged on: the loss in the bar that follows each bar of a batch, and which cells are any.

    `follows` marks the bars that come RISE_BARS after the bar that many rows before.
    """

    loss: Float[Any, "bars portfolios"]
    alive: Bool[Any, "bars portfolios"]
    follows: Bool[Any, " bars"]


class Reference(NamedTuple):
    """Mean charged and mean uncovered loss of the reference on the rows of the fit."""

    cost: float
    uncovered: float


@dataclass(frozen=True)
class Prior:
    """The pool of each free number (-1: none), and the portfolio-bars of the fit."""

    pool: tuple[int, ...]
    rows: int


def terms(
    tables: Sequence[Float[Array, "bars portfolios 3"]],
    rows: Sequence[Rows],
    reference: Reference,
    softness: Float[Array, ""] | float,
    *,
    tail: float,
) -> dict[str, Array]:
    """The terms of margins: var, es and charged by bar and portfolio, a table for each calendar.

    `softness` is the width of a breach, in expected shortfalls; 0 counts breaches as they are. Gradient: exact, but
    that of a hard breach is zero.
    """
    told = [_sums(table, each, softness, tail) for table, each in zip(tables, rows, strict=True)]
    total = {name: sum((each[name] for each in told), jnp.zeros(())) for name in told[0]}
    count = jnp.maximum(total["count"], 1)
    # The least keeps the slope of the root finite where nothing rises.
    fourth = total["fourth"] / jnp.maximum(total["pairs"], 1) + 1e-12
    return {
        "fz0": total["fz0"] / count,
        "coverage": (total["breach"] / count / tail - 1) ** 2,
        "cost": total["charged"] / count / reference.cost,
        "uncovered": total["beyond"] / count / reference.uncovered,
        "procyclicality": fourth**0.25,
    }


def _sums(table: Array, rows: Rows, softness: Array | float, tail: float) -> dict[str, Array]:
    alive = jnp.asarray(rows.alive)

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(alive, values, 0))

    var, shortfall, charged = (jnp.where(alive, table[..., k], 1) for k in range(3))
    loss = jnp.where(alive, rows.loss, 0)
    var, shortfall = lifted(var, shortfall, jnp)
    both = alive[RISE_BARS:] & alive[:-RISE_BARS] & jnp.asarray(rows.follows)[RISE_BARS:, None]
    before, after = jnp.maximum(charged[:-RISE_BARS], LEAST_CHARGED), charged[RISE_BARS:]
    rise = jnp.where(both, jnp.maximum(after / before - 1, 0), 0)
    return {
        "count": jnp.sum(alive),
        "fz0": total(fissler_ziegel(loss, var, shortfall, tail=tail)),
        "breach": total(jax.nn.sigmoid((loss - var) / (jnp.maximum(softness, HARD) * shortfall))),
        "charged": total(charged),
        "beyond": total(jnp.maximum(loss - charged, 0)),
        "fourth": jnp.sum(rise**4),
        "pairs": jnp.sum(both),
    }


def prior_terms(free: Float[Any, " numbers"], start: Float[Any, " numbers"], prior: Prior) -> dict[str, Array]:
    """Anchor and pooling of one set of free numbers. Gradient: exact."""
    share = PRIOR_ROWS / max(prior.rows, 1)
    pool = np.array(prior.pool, int)
    spread = jnp.zeros(())
    for each in sorted(set(prior.pool) - {-1}):
        mine = free[np.flatnonzero(pool == each)]
        spread = spread + jnp.sum((mine - jnp.mean(mine)) ** 2)
    count = max(len(pool), 1)
    return {"anchor": share * jnp.sum((free - start) ** 2) / count, "pooling": share * spread / count}


def weighted(found: Mapping[str, Any], weights: Weights) -> Any:
    """The objective, of terms that are numbers or traced."""
    return sum(getattr(weights, name) * value for name, value in found.items())


table_terms = jax.jit(terms, static_argnames="tail")
"""`terms`, compiled."""


@partial(jax.jit, static_argnames=("weights", "tail"))
def table_slopes(
    tables: Sequence[Float[Array, "bars portfolios 3"]],
    rows: Sequence[Rows],
    reference: Reference,
    softness: Float[Array, ""] | float,
    *,
    weights: Weights,
    tail: float,
) -> tuple[dict[str, Array], Sequence[Float[Array, "bars portfolios 3"]]]:
    """The terms, and the slope of their weighted sum in every margin; zero where there is none (NaN)."""

    def value(tables: Sequence[Array]) -> tuple[Array, dict[str, Array]]:
        found = terms(tables, rows, reference, softness, tail=tail)
        return weighted(found, weights), found

    (_, found), slopes = jax.value_and_grad(value, has_aux=True)([jnp.asarray(table) for table in tables])
    return found, slopes


@partial(jax.jit, static_argnames=("prior", "weights"))
def prior_slopes(
    free: Float[Any, " numbers"], start: Float[Any, " numbers"], *, prior: Prior, weights: Weights
) -> tuple[dict[str, Array], Float[Array, " numbers"]]:
    """The terms of the prior, and the slope of their weighted sum."""

    def value(free: Array) -> tuple[Array, dict[str, Array]]:
        found = prior_terms(free, start, prior)
        return weighted(found, weights), found

    (_, found), slopes = jax.value_and_grad(value, has_aux=True)(free)
    return found, slopes
