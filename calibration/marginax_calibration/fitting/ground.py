"""What a fit stands on: histories and portfolios by calendar, the losses that margins are judged by, and the stretches
of bars that are fitted on and that the fit is checked on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float64

from marginax.engine.compilation import persistent_cache
from marginax.models import MarginModel, load_model
from marginax.models.load import model_config
from marginax.problems import BadInput, Problem
from marginax_calibration.calendar_groups import CalendarGroup
from marginax_calibration.fitting.gradient_replay import GradientReplay, Pull, Stretch
from marginax_calibration.fitting.objective import RISE_BARS, Reference, Rows
from marginax_calibration.fitting.parameters import Tunable
from marginax_calibration.lives import Life, lives_of
from marginax_calibration.model_replay import ModelReplay
from marginax_calibration.replay import known_of, portfolio_losses
from marginax_calibration.replay_works import CHUNK
from marginax_calibration.unit_market import Legs, unit_market

REFERENCE = "static"
# Least uncovered loss of the reference, as a share of what it charges: nothing is divided by zero.
LEAST_UNCOVERED = 1e-4
# Least stretches to fit on: fewer say nothing of a tail.
FEWEST = 3
# Least bars to check on: what is left of the last stretch may be a single one.
LEAST_CHECKED = CHUNK // 2


class Part(NamedTuple):
    """A stretch of one of the calendars."""

    group: int
    stretch: Stretch


@dataclass(frozen=True)
class _Calendar:
    """One calendar's replay, its losses and lives, the times of its bars, and what the reference charges."""

    replay: GradientReplay
    losses: Float64[np.ndarray, "bars portfolios"]
    lives: tuple[Life, ...]
    times: np.ndarray
    reference: Float64[np.ndarray, "portfolios bars"]

    def rows(self, stretches: Sequence[Stretch]) -> Rows:
        bars = np.full(CHUNK * len(stretches), -1)
        for k, stretch in enumerate(stretches):
            bars[k * CHUNK : k * CHUNK + stretch.high - stretch.low] = np.arange(stretch.low, stretch.high)
        begin, end = (np.array([getattr(life, name) for life in self.lives]) for name in ("begin", "end"))
        inside = (bars[:, None] >= begin) & (bars[:, None] < end)
        loss = self.losses[np.maximum(bars, 0)]
        follows = np.zeros(len(bars), bool)
        follows[RISE_BARS:] = (bars[RISE_BARS:] >= 0) & (bars[RISE_BARS:] - bars[:-RISE_BARS] == RISE_BARS)
        return Rows(np.where(inside, loss, 0), inside & np.isfinite(loss), follows)


class Ground:
    """Replays of all calendars with the same free numbers."""

    def __init__(
        self,
        tunable: Tunable,
        groups: Sequence[CalendarGroup],
        *,
        first_time: np.datetime64 | None = None,
        last_time: np.datetime64 | None = None,
        seed: int = 7,
        streams: int = 0,
        double: bool = False,
    ) -> None:
        """`left_out` says why a portfolio has no margin to fit. Raises BadInput where none of them has any."""
        persistent_cache()
        self.tunable = tunable
        self.left_out: dict[str, str] = {}
        self._times = (first_time, last_time)
        made = [(group, self._calendar(group, seed, streams, double)) for group in groups]
        self.groups = tuple(group for group, calendar in made if calendar is not None)
        self.calendars = [calendar for _, calendar in made if calendar is not None]
        if not self.calendars:
            reasons = "; ".join(sorted(set(self.left_out.values()))[:3])
            source = ", ".join(groups[0].panel.digests) or "history"
            what = f"no portfolio has a bar to fit on: {reasons}"
            raise BadInput([Problem(source, None, None, what, "Give more history, or a later date", table="history")])

    def _calendar(self, group: CalendarGroup, seed: int, streams: int, double: bool) -> _Calendar | None:
        panel, portfolios, model = group.panel, group.portfolios, self.tunable.model
        legs = Legs.of(portfolios, panel)
        volatilities = {name: panel.volatility[:, panel.names.index(name)] for name in legs.optioned}
        known = known_of(model, panel, volatilities)
        lives = lives_of(portfolios, panel, {model.name: known}, {model.name: model}, *self._times)
        out = zip(portfolios, lives, strict=True)
        self.left_out |= {each.name: life.reason for each, life in out if not life.rows}
        if not any(life.rows for life in lives):
            return None
        with jax.enable_x64(True):
            market = unit_market(panel, legs, known)
        losses = portfolio_losses(panel, legs, market, portfolios)
        played = GradientReplay(
            self.tunable, known, market, legs, portfolios, lives, seed=seed, streams=streams, double=double
        )
        rule = _rule(model)
        charged = ModelReplay(
            rule, known_of(rule, panel, volatilities), market, legs, portfolios, lives, seed, streams
        ).figures(lambda _: None)[..., 2]
        return _Calendar(played, losses, tuple(lives), panel.grid.times, charged)

    def parts(self) -> list[Part]:
        """All stretches, in the order of time."""
        every = [
            Part(k, stretch) for k, calendar in enumerate(self.calendars) for stretch in calendar.replay.stretches()
        ]
        return sorted(every, key=lambda part: (self.time(part), part.group))

    def time(self, part: Part) -> np.datetime64:
        """The time of the first loss of a stretch."""
        return self.calendars[part.group].times[part.stretch.low + 1]

    def end(self, part: Part) -> np.datetime64:
        """The time of its last loss."""
        times = self.calendars[part.group].times
        return times[min(part.stretch.high, len(times) - 1)]

    def split(self, share: float, embargo_bars: int = 0) -> tuple[list[Part], list[Part]]:
        """Stretches to fit on, and those of the last `share` of the bars to check on, LEAST_CHECKED at least.

        What is fitted ends before the first loss that is checked, by as many bars more as the embargo says. Raises
        BadInput where either is too short.
        """
        parts = self.parts()
        lengths = np.array([part.stretch.high - part.stretch.low for part in parts])
        wanted = max(share * lengths.sum(), LEAST_CHECKED) if share else 0
        behind = np.cumsum(lengths[::-1])[::-1]
        cut = max(int(np.count_nonzero(behind >= wanted)) - 1, 0) if share else len(parts)
        checked, fitted = parts[cut:], parts[:cut]
        if checked:
            least = min(self.time(part) for part in checked)
            places = {part.group for part in checked}
            fitted = [part for part in fitted if self._clear(part, places, least, embargo_bars)]
        if len(fitted) < FEWEST or (share > 0 and not checked):
            bars = sum(part.stretch.high - part.stretch.low for part in parts)
            what = f"has {bars} bars with a margin, which leaves {len(fitted)} stretches of {CHUNK} to fit on"
            remedy = f"Give more history, so that there are {FEWEST} at least; or check on a smaller share"
            raise BadInput([Problem("history", None, None, what, remedy, table="history")])
        return fitted, checked

    def _clear(self, part: Part, checked: set[int], least: np.datetime64, embargo_bars: int) -> bool:
        """Whether a stretch ends early enough, by the bars of its own calendar and of those that are checked on."""
        own = self.calendars[part.group].times
        end = own[min(part.stretch.high, len(own) - 1)]
        every = [self.calendars[k].times for k in {part.group, *checked}]
        return all(times[min(times.searchsorted(end) + embargo_bars, len(times) - 1)] < least for times in every)

    def rows(self, parts: Sequence[Part]) -> list[Rows]:
        """What margins of these stretches are judged on, by calendar."""
        return [self.calendars[k].rows(stretches) for k, stretches in self._by_calendar(parts)]

    def margins(
        self, values: Float[np.ndarray, "starts numbers"], parts: Sequence[Part]
    ) -> tuple[list[Float[np.ndarray, "starts bars portfolios 3"]], Pull]:
        """Margins of these stretches, a table for each calendar, and the way back from their slopes (a list too);
        `apart` stretches stand by calendar."""
        played = [self.calendars[k].replay.margins(values, stretches) for k, stretches in self._by_calendar(parts)]

        def pulled(slopes: Any, *, apart: bool = False) -> Float64[np.ndarray, "starts *stretches numbers"]:
            ways = [pull(slope, apart=apart) for (_, pull), slope in zip(played, slopes, strict=True)]
            return np.concatenate(ways, axis=1) if apart else np.sum(ways, axis=0)

        return [table for table, _ in played], pulled

    def batch(self, parts: Sequence[Part], size: int, rng: np.random.Generator) -> list[Part]:
        """About `size` stretches, of each calendar as many as is its share of all."""
        chosen = []
        for k, _ in self._by_calendar(parts):
            mine = [part for part in parts if part.group == k]
            count = min(len(mine), max(1, round(size * len(mine) / len(parts))))
            chosen += [mine[place] for place in sorted(rng.choice(len(mine), count, replace=False))]
        return chosen

    def count(self, parts: Sequence[Part]) -> int:
        """Portfolio-bars of these stretches."""
        return sum(int(rows.alive.sum()) for rows in self.rows(parts))

    def reference(self, parts: Sequence[Part]) -> Reference:
        """What the rule without volatility charges and leaves uncovered on these stretches."""
        charged, beyond = [], []
        for k, stretches in self._by_calendar(parts):
            calendar = self.calendars[k]
            rows = calendar.rows(stretches)
            bars = np.concatenate([np.arange(each.low, each.low + CHUNK) for each in stretches])
            mine = calendar.reference[:, np.minimum(bars, calendar.reference.shape[1] - 1)].T
            charged.append(mine[rows.alive])
            beyond.append(np.maximum(rows.loss - mine, 0)[rows.alive])
        cost, uncovered = (float(np.concatenate(each).mean()) for each in (charged, beyond))
        return Reference(cost, max(uncovered, LEAST_UNCOVERED * cost))

    def _by_calendar(self, parts: Sequence[Part]) -> list[tuple[int, list[Stretch]]]:
        found = []
        for k in range(len(self.calendars)):
            mine = [part.stretch for part in parts if part.group == k]
            if mine:
                found.append((k, mine))
        return found


def _rule(model: MarginModel) -> MarginModel:
    """The rule without volatility, charged like the model."""
    risk, least = model.settings.risk, model.settings.scenarios.least_bars
    config = model_config(REFERENCE)
    common = {"tail": risk.tail, "charge_tail": risk.charge_tail, "horizon_days": risk.horizon_days}
    scenarios = config.scenarios.model_copy(update={"least_bars": least})
    return load_model(config.model_copy(update={"risk": config.risk.model_copy(update=common), "scenarios": scenarios}))
