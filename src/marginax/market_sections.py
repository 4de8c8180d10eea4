"""The sections of a configuration that say how the market is followed: volatility, correlation, pegs, asset classes."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from marginax.sections import Section

# Lost pegs a year: what is lost every week is no peg.
MOST_JUMPS = 12


class Filter(Section):
    """How today's volatility follows the returns. Half-life of `ewma`: `scenarios.half_life_days`."""

    kind: Literal["ewma", "two_speed", "garch", "har", "network"] = Field(
        "ewma",
        description="exponential, a fast and a slow exponential mixed, GARCH(1,1), HAR, or a network",
    )
    fast_half_life_days: float = Field(4.0, gt=0, description="trading days, decay of the fast filter")
    slow_half_life_days: float = Field(30.0, gt=0, description="trading days, decay of the slow filter")
    fast_share: float = Field(0.5, ge=0, le=1, description="weight of the fast variance in the mix")
    alpha: float = Field(0.12, ge=0, lt=1, description="garch: weight of the last squared return")
    beta: float = Field(0.87, ge=0, lt=1, description="garch: weight of the last variance; the rest is the long run")
    daily: float = Field(0.25, ge=0, le=1, description="har: weight of the last day's realised variance")
    weekly: float = Field(0.15, ge=0, le=1, description="har: weight of the last week's")
    monthly: float = Field(0.15, ge=0, le=1, description="har: weight of the last month's; the rest is the long run")
    bound: float | None = Field(
        None,
        gt=0,
        examples=[4.0],
        description="largest return that a filter takes in, in its volatilities; default: none is cut",
    )

    network: str | None = Field(
        None,
        min_length=1,
        examples=['"weights.json"'],
        description="network: file of its weights, from the working folder; daily bars",
    )

    @model_validator(mode="after")
    def _stationary(self) -> "Filter":
        check_filter_weights(self.alpha, self.beta, (self.daily, self.weekly, self.monthly))
        if (self.kind == "network") != (self.network is not None):
            raise ValueError('`network` names the file of weights where `kind` is "network", and only there')
        return self


def check_filter_weights(alpha: float, beta: float, realised: Sequence[float]) -> None:
    """Raise ValueError for weights with which a variance would run away."""
    if alpha + beta >= 1:
        raise ValueError(f"`alpha` + `beta` is {alpha + beta:g} and the variance runs away; keep the sum below 1")
    if sum(realised) > 1 + 1e-12:
        raise ValueError(f"`daily` + `weekly` + `monthly` is {sum(realised):g}; keep the sum at 1 or below")


class Correlation(Section):
    """Whether past scenarios are brought to today's correlation (filtered historical scenarios only)."""

    follow: bool = Field(False, description="bring past scenarios to today's correlation")
    half_life_days: float = Field(60.0, gt=0, description="trading days, decay of today's correlations")
    shrinkage: float = Field(0.05, gt=0, le=1, description="share of independence mixed into past and today alike")


class Pegs(Section):
    """Assets pegged to money that can lose their peg: scenarios of their own, with the mass of a stated rate."""

    rates: dict[str, Annotated[float, Field(ge=0, le=MOST_JUMPS)]] = Field(
        {}, description="losses of the peg a year, by asset, before that of its class"
    )
    sizes: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {}, description="relative fall when it happens, by asset, before that of its class"
    )


class ClassParameters(Section):
    """What differs in an asset class; a key that is left out is that of all."""

    half_life_days: float | None = Field(None, gt=0)
    fast_half_life_days: float | None = Field(None, gt=0)
    slow_half_life_days: float | None = Field(None, gt=0)
    fast_share: float | None = Field(None, ge=0, le=1)
    alpha: float | None = Field(None, ge=0, lt=1)
    beta: float | None = Field(None, ge=0, lt=1)
    daily: float | None = Field(None, ge=0, le=1)
    weekly: float | None = Field(None, ge=0, le=1)
    monthly: float | None = Field(None, ge=0, le=1)
    bound: float | None = Field(None, gt=0)
    volatility_floor: float | None = Field(None, ge=0, le=5)
    denominator_floor: float | None = Field(None, ge=0, le=5)
    residual_cap: float | None = Field(None, gt=0)
    haircut: float | None = Field(None, ge=0, le=1)
    liquidation_fee: float | None = Field(None, ge=0, le=1)
    jump_rate: float | None = Field(None, ge=0, le=MOST_JUMPS)
    jump_size: float | None = Field(None, ge=0, lt=1)
    falls_with_pegs: float | None = Field(None, ge=0, lt=1)


class AssetClasses(Section):
    """Parameters by asset class: a table of its own name, `underlyings.asset_class`, `names`, else `default`."""

    default: str = Field("altcoins", min_length=1, description="class of an underlying that nothing else places")
    names: dict[str, str] = Field({}, description="class by underlying, where `underlyings.asset_class` says nothing")
    parameters: dict[str, ClassParameters] = Field(
        {}, description="tables [classes.parameters.NAME] of the keys that differ there"
    )

    @model_validator(mode="after")
    def _known(self) -> "AssetClasses":
        for name, word in self.names.items():
            if self.parameters and word not in self.parameters:
                raise ValueError(f"{name} is placed in `{word}`, which has no table [classes.parameters.{word}]")
        return self

    @property
    def words(self) -> list[str]:
        """The classes that have parameters, in the order of rows of a leaf."""
        return sorted(self.parameters)

    def leaf(self, key: str, usual: float | None) -> np.ndarray:
        """One number for all, or a row for each class and a last one for what is in none; no number is infinite."""
        base = np.inf if usual is None else usual
        own = [getattr(self.parameters[word], key) for word in self.words]
        if all(each is None for each in own):
            return np.asarray(base)
        return np.array([*(base if each is None else each for each in own), base])

    def rows(self, names: Sequence[str], stated: Sequence[str | None]) -> np.ndarray:
        """The row of each underlying in a leaf: that of a table of its own name, else of its stated class, else of the
        class that `names` places it in, else of the default."""
        place = {word: k for k, word in enumerate(self.words)}
        base = len(place)
        rows = []
        for name, word in zip(names, stated, strict=True):
            own = word if word in place else self.names.get(name, self.default)
            own = name if name in place else own
            rows.append(place.get(own, base))
        return np.array(rows, np.int32)


def at_rows(leaf: Any, rows: np.ndarray) -> np.ndarray:
    """A leaf laid out by rows: what holds for all is repeated."""
    values = np.asarray(leaf)
    return values[rows] if values.ndim else np.full(len(rows), values)
