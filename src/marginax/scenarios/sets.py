"""One type for every source of scenarios: shocks, weights that sum to one, labels a person can read.

Shocks are scenarios x factors: log moves, or price units where an underlying is shocked absolutely; a basis factor's
are relative. A path to a settlement (`settlement:...`) is NaN where all of a move comes before it. A scenario without
mass never touches a tail; it can still be an account's worst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from jaxtyping import Float64

from marginax.history import SETTLEMENT

# Weights are sums of at most a few thousand float64 numbers; 1e-9 is far above their rounding and below any weight.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class ScenarioSet:
    """Weighted scenarios of named factors.

    `independent` says that the scenarios are independent draws, so that a standard error has a meaning; it has none for
    historical and deterministic sets. Where the first `drawn` scenarios are `scrambles` equal consecutive blocks,
    independent of one another but not within, the error is read from the blocks; what stands behind them has none.
    Raises ValueError where shapes disagree, a factor is named twice, a number is not finite, a weight is negative, or
    the weights do not sum to one.
    """

    factors: tuple[str, ...]
    shocks: Float64[np.ndarray, "scenarios factors"]
    weights: Float64[np.ndarray, " scenarios"]
    labels: tuple[str, ...]
    independent: bool = False
    scrambles: int = 0
    drawn: int = 0

    def __post_init__(self) -> None:
        wanted = (len(self.labels), len(self.factors))
        if self.shocks.shape != wanted or self.weights.shape != wanted[:1]:
            raise ValueError(
                f"{wanted[0]} labels and {wanted[1]} factors do not fit shocks of shape {self.shocks.shape} and "
                f"weights of shape {self.weights.shape}; shocks are scenarios x factors, weights one per scenario"
            )
        if len(set(self.factors)) < len(self.factors):
            twice = next(name for name in self.factors if self.factors.count(name) > 1)
            raise ValueError(f"the factor {twice!r} is named twice; keep one column of shocks for it")
        pathless = np.array([name.startswith(SETTLEMENT) for name in self.factors], bool) & np.isnan(self.shocks)
        if not (np.isfinite(self.shocks) | pathless).all():
            raise ValueError("a shock is not finite; every factor needs a number in every scenario")
        if not (self.weights >= 0).all() or abs(self.weights.sum() - 1) > ROUNDING:
            raise ValueError(f"weights sum to {self.weights.sum()}; divide non-negative weights by their sum")
        if self.scrambles < 0 or not 0 <= self.drawn <= len(self) or (self.drawn % max(self.scrambles, 1)):
            raise ValueError(
                f"{self.drawn} of {len(self)} scenarios are no {self.scrambles} equal blocks; give the number of "
                "scrambles, and how many scenarios they hold together"
            )
        if (
            self.scrambles == 1
            or (self.scrambles > 1 and self.independent)
            or (self.scrambles == 0) != (self.drawn == 0)
        ):
            raise ValueError(
                f"scrambles={self.scrambles}, drawn={self.drawn} and independent={self.independent} tell no error; "
                "give two scrambles or more, or none, and not both kinds of draws"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of factors, shocks, weights and labels, for the manifest."""
        digest = sha256("\x1f".join((*self.factors, "", *self.labels)).encode())
        digest.update(np.ascontiguousarray(self.shocks, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.weights, "<f8").tobytes())
        return digest.hexdigest()


def join(sets: Sequence[ScenarioSet], masses: Sequence[float]) -> ScenarioSet:
    """The scenarios of several sets over the same factors, each set carrying its stated mass.

    Masses are probabilities that sum to one; a set of mass zero enters worst cases only. Sets are independent draws
    together only when each one with mass is; scrambles of the first set stay such where no other set is drawn. Raises
    ValueError where masses or factors do not fit.
    """
    if len(sets) != len(masses) or not sets:
        raise ValueError(f"{len(sets)} sets and {len(masses)} masses; give one mass for each set")
    if min(masses) < 0 or abs(sum(masses) - 1) > ROUNDING:
        raise ValueError(f"the masses sum to {sum(masses)}; give non-negative masses that sum to one")
    if any(each.factors != sets[0].factors for each in sets):
        raise ValueError("the sets shock different factors; build them from one history")
    first, others = sets[0], sets[1:]
    keeps = first.scrambles > 0 and not any(each.scrambles or each.independent for each in others)
    return ScenarioSet(
        factors=first.factors,
        shocks=np.concatenate([each.shocks for each in sets]),
        weights=np.concatenate([each.weights * mass for each, mass in zip(sets, masses, strict=True)]),
        labels=tuple(label for each in sets for label in each.labels),
        independent=all(each.independent for each, mass in zip(sets, masses, strict=True) if mass > 0),
        scrambles=first.scrambles if keeps else 0,
        drawn=first.drawn if keeps else 0,
    )
