"""Tools against procyclicality on market-level state: one number for each underlying, so that accounts stay stateless.

They act on today's volatility of an underlying, in this order: the volatility of the last years is the least that
counts; a buffer is there in calm and used up in stress; the result moves at limited speed. What comes out over what
went in is the underlying's multiplier; an account's is the mean of its underlyings', by their expected shortfalls.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from marginax.charge_sections import Procyclicality
from marginax_kernels import buffered, faded, limited, volatility


class Levels(NamedTuple):
    """What the tools remember by underlying: the level that the buffer is measured from, and the last answer."""

    reference: Float[Array, " underlyings"]
    last: Float[Array, " underlyings"]


class ProcyclicalityTools(eqx.Module):
    """Buffer, half-life and limits are leaves (None: that tool is off); the years of the floor are static."""

    buffer: Float[Any, ""] | None
    buffer_half_life_days: Float[Any, ""]
    rise_limit: Float[Any, ""] | None
    fall_limit: Float[Any, ""] | None
    floor_years: float = eqx.field(static=True)

    @classmethod
    def from_settings(cls, settings: Procyclicality) -> "ProcyclicalityTools | None":
        """The tools that a configuration describes; None where all are off."""
        if not settings.on:
            return None
        rise, fall = (None if each is None else np.asarray(each) for each in (settings.rise_limit, settings.fall_limit))
        buffer = np.asarray(settings.buffer) if settings.buffer else None
        return cls(buffer, np.asarray(settings.buffer_half_life_days), rise, fall, settings.floor_years)

    def begin(self, level: Float[Array, " underlyings"], least: Float[Array, " underlyings"]) -> Levels:
        """What is remembered before the first bar: a full buffer, and no last answer."""
        full = 1 if self.buffer is None else 1 + self.buffer
        return Levels(full * jnp.maximum(level, least), jnp.zeros_like(level))

    def step(
        self,
        levels: Levels,
        level: Float[Array, " underlyings"],
        least: Float[Array, " underlyings"],
        bars: Float[Array, ""],
        *,
        bars_per_day: float,
    ) -> tuple[Levels, Float[Array, " underlyings"]]:
        """The levels `bars` on and the multipliers that hold there; `least` is the volatility of the last years."""
        floored = jnp.maximum(level, least)
        answer, reference = floored, levels.reference
        if self.buffer is not None:
            answer = buffered(floored, levels.reference, buffer=self.buffer)
            half_life = self.buffer_half_life_days * bars_per_day
            reference = faded(levels.reference, (1 + self.buffer) * floored, bars, half_life=half_life)
        rise, fall = self._limits(bars / bars_per_day)
        answer = limited(answer, levels.last, rise=rise, fall=fall)
        multiplier = jnp.where(level > 0, answer / jnp.where(level > 0, level, 1), 1)
        return Levels(reference, answer), multiplier

    def path(
        self,
        level: Float[Array, "bars underlyings"],
        least: Float[Array, "bars underlyings"],
        *,
        bars_per_day: float,
    ) -> tuple[Float[Array, "bars underlyings"], Levels]:
        """Multipliers at each bar, and the levels after the last.

        `level` is today's volatility as it was known at each bar, `least` that of the last years (`least`).
        Gradient: exact.
        """

        def one(levels: Levels, bar: tuple[Array, Array]) -> tuple[Levels, Array]:
            return self.step(levels, *bar, jnp.ones(()), bars_per_day=bars_per_day)

        last, multipliers = lax.scan(one, self.begin(level[0], least[0]), (level, least))
        return multipliers, last

    def floor_bars(self, bars_per_year: float) -> int:
        """Bars of the years that the floor looks back on; 0 where it is off."""
        return max(1, round(self.floor_years * bars_per_year)) if self.floor_years else 0

    def least(self, squares: Array, seen: Array, *, bars_per_year: float) -> Float[Array, "bars underlyings"]:
        """The volatility of the last `floor_years` at each bar, of cumulated squared returns per bar and their number;
        zero where the floor is off."""
        bars = self.floor_bars(bars_per_year)
        if not bars:
            return jnp.zeros_like(squares)
        before = jnp.maximum(jnp.arange(len(squares)) - bars, 0)
        return volatility(jnp.maximum(squares - squares[before], 0) / jnp.maximum(seen - seen[before], 1))

    def _limits(self, days: Float[Array, ""]) -> tuple[Array | None, Array | None]:
        """The limits of so many trading days from those of one."""
        rise = None if self.rise_limit is None else (1 + self.rise_limit) ** days - 1
        fall = None if self.fall_limit is None else 1 - (1 - self.fall_limit) ** days
        return rise, fall
