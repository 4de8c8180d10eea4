"""Stress: windows of history cut by date and used unscaled, named events, and a grid of price and volatility moves.

All stand behind the other scenarios, and all of their moves come before any settlement inside the horizon. A window or
an event may carry mass; without it, and on the grid always, it enters worst cases only.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.history import NO_PROXY, FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import FillDraws, Observed, VolatilityFilter, horizon_bars
from marginax.scenarios.historical import stretches
from marginax.sections import Grid, StressEvent, StressWindow
from marginax_kernels import overlapping_sums


class StressDraws(eqx.Module):
    """Each window's bars (first, last but one), and the moves of events and grid."""

    windows: tuple[tuple[int, int], ...] = eqx.field(static=True)
    moves: Float[Any, "moves factors"]


class Stress(eqx.Module):
    """Stress scenarios of a configuration; nothing in them is a leaf."""

    windows: tuple[StressWindow, ...] = eqx.field(static=True)
    events: tuple[StressEvent, ...] = eqx.field(static=True)
    grid: Grid = eqx.field(static=True)
    horizon_days: float = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config) -> "Stress":
        """The stress that a configuration describes."""
        settings = config.scenarios
        return cls(settings.stress, settings.events, settings.grid, config.risk.horizon_days)

    @property
    def mass(self) -> float:
        """The probability that windows and events carry together."""
        return sum(window.mass for window in self.windows) + sum(event.mass for event in self.events)

    def draw(self, history: FactorHistory) -> StressDraws:
        """Bars and moves. Raises BadInput for a window that the history does not cover, or an event of nothing."""
        moves = [_event(event, history) for event in self.events]
        moves += [_together(price, volatility, history) for price, volatility in self._points()]
        shape = (len(moves), len(history.names))
        return StressDraws(tuple(self._bars(window, history) for window in self.windows), np.reshape(moves, shape))

    def shocks(
        self, volatility: VolatilityFilter, observed: Observed, filling: FillDraws, draws: StressDraws
    ) -> tuple[list[Array], list[Array]]:
        """Blocks of shocks over the horizon, and the weights of each: its mass, shared equally."""
        blocks, weights = [], []
        if draws.windows:
            plain = volatility.plain(observed, filling)
            paths = np.array([path for path, _ in observed.factors.settlements], int)
            bars, scale = horizon_bars(self.horizon_days, observed.factors.bars_per_day)
            for window, (begin, end) in zip(self.windows, draws.windows, strict=True):
                block = overlapping_sums(plain[begin:end], bars=bars) * scale
                blocks.append(block.at[:, paths].set(jnp.nan))
                weights.append(jnp.full(len(block), window.mass / len(block)))
        if len(draws.moves):
            masses = [event.mass for event in self.events]
            blocks.append(jnp.asarray(draws.moves))
            weights.append(jnp.asarray([*masses, *[0.0] * (len(draws.moves) - len(masses))]))
        return blocks, weights

    def labels(self, history: FactorHistory) -> list[str]:
        """The name of the window and the bars, the name of the event, or the moves of the grid."""
        bars, _ = horizon_bars(self.horizon_days, history.grid.bars_per_day)
        labels = []
        for window in self.windows:
            begin, end = self._bars(window, history)
            labels += [f"{window.name}: {stretch}" for stretch in stretches(history, begin, end, bars)]
        labels += [event.name for event in self.events]
        return labels + [f"price {price:+.4g}, volatility {move:+.4g}" for price, move in self._points()]

    def _points(self) -> list[tuple[float, float]]:
        return [(price, volatility) for price in self.grid.prices for volatility in self.grid.volatilities]

    def _bars(self, window: StressWindow, history: FactorHistory) -> tuple[int, int]:
        bars, _ = horizon_bars(self.horizon_days, history.grid.bars_per_day)
        days = history.times.astype("datetime64[D]")
        begin = int(np.searchsorted(days, np.datetime64(window.first), side="left"))
        end = int(np.searchsorted(days, np.datetime64(window.last), side="right"))
        if end - begin < bars:
            what = (
                f"'{window.name}' from {window.first} to {window.last} holds {end - begin} returns of the history "
                f"and the horizon needs {bars}"
            )
            remedy = f"Choose dates between {days[0]} and {days[-1]}, or remove the window"
            raise BadInput([Problem("configuration", "scenarios.stress", None, what, remedy)])
        return begin, end


def _together(price: float, volatility: float, history: FactorHistory) -> np.ndarray:
    """Every price by one relative move, every volatility by another, every basis still."""
    return _shocks([_relative(price, k, history) for k in range(history.underlyings)], volatility, history)


def _event(event: StressEvent, history: FactorHistory) -> np.ndarray:
    """The named moves; an underlying that is not named moves by `others`, or without it by its proxy times beta."""
    names = history.names[: history.underlyings]
    place = {name: k for k, name in enumerate(names)}
    moves: dict[int, float] = {}
    for name, move in event.moves.items():
        if name not in place:
            raise BadInput([_problem(f"'{event.name}' moves {name}, which is no underlying", "Correct the name")])
        k = place[name]
        if history.absolute[k]:
            moves[k] = move / history.level[k]
        elif move > -1:
            moves[k] = _relative(move, k, history)
        else:
            what = f"'{event.name}' moves {name} by {move:g}, and a relative move is above -1"
            raise BadInput([_problem(what, "Write -0.3 for 30 % down")])
    relative = []
    for k in range(len(names)):
        step, slope = k, 1.0
        while event.others is None and step not in moves and history.proxy[step] != NO_PROXY:
            slope *= history.beta[step] if np.isfinite(history.beta[step]) else 1.0
            step = int(history.proxy[step])
        relative.append(slope * moves[step] if step in moves else _relative(event.others or 0.0, k, history))
    return _shocks(relative, event.volatility, history)


def _relative(move: float, k: int, history: FactorHistory) -> float:
    """A relative price change as the underlying's shock over its level: a logarithm unless it is shocked absolutely."""
    return move if history.absolute[k] else float(np.log1p(move))


def _shocks(relative: list[float], volatility: float, history: FactorHistory) -> np.ndarray:
    """Shocks of all factors from those of prices over their levels, and one relative move of implied volatility."""
    shocks = np.zeros(len(history.names))
    shocks[: history.underlyings] = np.array(relative) * history.level[: history.underlyings]
    shocks[history.is_volatility] = np.log1p(volatility)
    shocks[history.is_settlement] = np.nan
    return shocks


def _problem(what: str, remedy: str) -> Problem:
    return Problem("configuration", "scenarios.events", None, what, remedy)
