"""The search for the best free numbers: Adam on batches of days, or L-BFGS on all of them, from several starts at once.

A search is resumed to the same result as one that was never stopped: batches hang on the seed and the number of the
step alone, and all that a step needs is in the state. What is kept is the best that was seen on the stretches that are
checked on; a start stops when nothing has improved there for some checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float64

from marginax.interrupts import stop_if_interrupted
from marginax_calibration.fitting.ground import Ground, Part
from marginax_calibration.fitting.not_finite import what_has_no_slope, what_is_no_number
from marginax_calibration.fitting.objective import (
    PRIORS,
    Prior,
    Reference,
    Weights,
    prior_slopes,
    prior_terms,
    table_slopes,
    table_terms,
    weighted,
)
from marginax_calibration.fitting.state import NotFinite, Report, Row, Settings, State

# Steps of L-BFGS are halved so often before a start is given up as settled, and must fall by so much of the slope.
HALVINGS, SUFFICIENT = 6, 1e-4
# Starts that are nearer to each other than this in the free scale are one.
SAME_START = 1e-6
# Length of the first step of L-BFGS in the free scale.
FIRST = 0.3
# A fall of the objective that is smaller than this is none: single precision, and margins that jump.
LEAST_GAIN = 1e-4


@dataclass
class Search:
    """One search over a ground; `fitted` and `checked` are its stretches."""

    ground: Ground
    fitted: Sequence[Part]
    checked: Sequence[Part]
    weights: Weights
    settings: Settings
    reference: Reference = field(init=False)
    prior: Prior = field(init=False)

    def __post_init__(self) -> None:
        tunable = self.ground.tunable
        pools = [each.pooled for each in tunable.free]
        names = [name for name in dict.fromkeys(pools) if pools.count(name) > 1]
        pool = tuple(names.index(name) if name in names else -1 for name in pools)
        self.prior = Prior(pool, self.ground.count(self.fitted))
        self.reference = self.ground.reference(self.fitted)
        self._tail = tunable.model.settings.risk.tail
        self._origin = tunable.space.free(tunable.start)
        self._optimiser = optax.adam(optax.cosine_decay_schedule(self.settings.rate, self.settings.steps, 0.1))
        self._memory = optax.scale_by_lbfgs(memory_size=10)

    def begin(self, others: Sequence[np.ndarray] = ()) -> State:
        """The first state: the configuration's numbers, `others` that differ, and random ones around the former."""
        settings, count = self.settings, len(self._origin)
        rng = np.random.default_rng([settings.seed, 0])
        near = [self._origin]
        for each in others:
            free = self.ground.tunable.space.free(np.asarray(each, float))
            if all(np.abs(free - known).max() > SAME_START for known in near):
                near.append(free)
        while len(near) < settings.starts:
            near.append(self._origin + settings.spread * rng.standard_normal(count))
        free = np.stack(near)
        starts = len(free)
        infinite = np.full(starts, np.inf)
        return State(0, free, self._empty(free), free.copy(), infinite, np.zeros(starts), np.zeros(starts, bool))

    def run(self, state: State, report: Report | None = None) -> State:
        """Search on from a state to the end; `report` is told the state and the path's new rows after each step.

        Raises NotFinite where the objective is no number.
        """
        if np.isinf(state.best_value).all():
            state, row = self._check(state, np.arange(len(state.free)))
            if report is not None:
                report(state, row)
        while state.step < self.settings.steps and not state.done.all():
            stop_if_interrupted()
            before, open_ = state, ~state.done
            try:
                state, rows = self._stepped(state)
                last = state.step % self.settings.check_every == 0 or state.step == self.settings.steps
                # A start that has settled is judged where it stands.
                state, more = self._check(state, np.flatnonzero(open_ if last else open_ & state.done))
            except NotFinite as error:
                raise NotFinite(str(error), before) from None
            if report is not None:
                report(state, rows + more)
        return state

    def value(
        self, free: Float64[np.ndarray, "starts numbers"], parts: Sequence[Part], softness: float
    ) -> tuple[Float64[np.ndarray, " starts"], Float64[np.ndarray, "starts numbers"], list[Row]]:
        """The objective, its gradient and its terms on some stretches. Raises NotFinite."""
        totals, gradient, told = self.evidence(free, parts, softness)
        with jax.enable_x64(True):
            for start, mine in enumerate(free):
                found, slope = prior_slopes(mine, self._origin, prior=self.prior, weights=self.weights)
                told[start] |= {name: float(number) for name, number in found.items()}
                gradient[start] += np.asarray(slope)
        return totals + self._priors(told), gradient, told

    def evidence(
        self, free: Float64[np.ndarray, "starts numbers"], parts: Sequence[Part], softness: float
    ) -> tuple[Float64[np.ndarray, " starts"], Float64[np.ndarray, "starts numbers"], list[Row]]:
        """`value` without the prior: what the data say. Raises NotFinite."""
        values, tables, pull = self._margins(free, parts)
        rows = self.ground.rows(parts)
        told, slopes = [], []
        for start in range(len(free)):
            mine = [table[start] for table in tables]
            found, slope = table_slopes(mine, rows, self.reference, softness, weights=self.weights, tail=self._tail)
            told.append({name: float(number) for name, number in found.items()})
            slopes.append(slope)
        totals = self._totals(told, values, tables, parts)
        ways = [np.stack([np.asarray(each[k]) for each in slopes]) for k in range(len(tables))]
        gradient = self._through(free, pull(ways))
        lost = np.flatnonzero(~np.isfinite(gradient).all(axis=1))
        if len(lost):
            k = int(lost[0])

            def pulled(part: Part, own: np.ndarray) -> np.ndarray:
                return self._pulled(free[k], part, own)

            raise NotFinite(what_has_no_slope(self.ground, values[k], told[k], gradient[k], slopes[k], parts, pulled))
        return totals, gradient, told

    def pieces(
        self, free: Float64[np.ndarray, " numbers"], parts: Sequence[Part], softness: float
    ) -> Float64[np.ndarray, "parts numbers"]:
        """The gradient of the objective without its prior, taken apart by stretch: rows sum to it."""
        _, tables, pull = self._margins(free[None], parts)
        rows = self.ground.rows(parts)
        mine = [table[0] for table in tables]
        _, slopes = table_slopes(mine, rows, self.reference, softness, weights=self.weights, tail=self._tail)
        pieces = pull([np.asarray(each)[None] for each in slopes], apart=True)[0]
        return self._through(np.broadcast_to(free, (len(pieces), len(free))), pieces)

    def judged(
        self, free: Float64[np.ndarray, "starts numbers"], parts: Sequence[Part]
    ) -> tuple[Float64[np.ndarray, " starts"], list[Row]]:
        """The objective without its prior, breaches counted as they are."""
        values, tables, _ = self._margins(free, parts)
        rows = self.ground.rows(parts)
        told = []
        for start in range(len(free)):
            mine = [table[start] for table in tables]
            found = table_terms(mine, rows, self.reference, 0.0, tail=self._tail)
            told.append({name: float(number) for name, number in found.items()})
        totals = self._totals(told, values, tables, parts)
        return totals, told

    def _margins(self, free: np.ndarray, parts: Sequence[Part]) -> tuple[np.ndarray, list[np.ndarray], Any]:
        with jax.enable_x64(True):
            values = np.asarray(self.ground.tunable.space.allowed(jnp.asarray(free)))
        tables, pull = self.ground.margins(values, parts)
        return values, tables, pull

    def _pulled(self, free: np.ndarray, part: Part, slopes: np.ndarray) -> np.ndarray:
        """Slopes of the margins of one stretch, pulled to one set of numbers."""
        _, _, pull = self._margins(free[None], [part])
        return self._through(free[None], pull([slopes[None]]))[0]

    def _prior_terms(self, free: np.ndarray) -> Row:
        with jax.enable_x64(True):
            found = prior_terms(jnp.asarray(free), self._origin, self.prior)
            return {name: float(number) for name, number in found.items()}

    def _priors(self, told: Sequence[Row]) -> np.ndarray:
        return np.array([sum(getattr(self.weights, name) * each.get(name, 0.0) for name in PRIORS) for each in told])

    def _through(self, free: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        ways = [self.ground.tunable.space.slopes(each) for each in free]
        # A slope that is no number is one in its own block alone.
        products = [np.where(way == 0, 0, slope[:, None] * way) for slope, way in zip(slopes, ways, strict=True)]
        return np.stack([product.sum(axis=0) for product in products])

    def _softness(self, step: int) -> float:
        wide, narrow = self.settings.softness
        if self.settings.method == "lbfgs":  # its memory is of one objective
            return narrow
        return float(wide * (narrow / wide) ** min(1.0, step / max(1, self.settings.steps - 1)))

    def _stepped(self, state: State) -> tuple[State, list[Row]]:
        """One step of every start that is not done."""
        at = np.flatnonzero(~state.done)
        free = state.free[at]
        softness = self._softness(state.step)
        if self.settings.method == "lbfgs":
            moved, optimiser, told, settled = self._lbfgs(state, at, softness)
        else:
            _, gradient, told = self.value(free, self._batch(state.step), softness)
            moved, optimiser = self._adam(state, at, gradient)
            settled = np.zeros(len(at), bool)
        numbers, done = state.free.copy(), state.done.copy()
        numbers[at], done[at] = moved, settled
        step = state.step + 1
        rows = [
            {"step": step, "start": int(start), "on": "fitted", "softness": softness, **each,
             "objective": weighted(each, self.weights)}
            for start, each in zip(at, told, strict=True)
        ]  # fmt: skip
        return state._replace(step=step, free=numbers, optimiser=optimiser, done=done), rows

    def _batch(self, step: int) -> list[Part]:
        if not self.settings.batch:
            return list(self.fitted)
        rng = np.random.default_rng([self.settings.seed, 1, step])
        return self.ground.batch(self.fitted, self.settings.batch, rng)

    def _empty(self, free: np.ndarray) -> Any:
        with jax.enable_x64(True):
            tool = self._memory if self.settings.method == "lbfgs" else self._optimiser
            states = [tool.init(jnp.asarray(each)) for each in free]
            return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)

    def _adam(self, state: State, at: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, Any]:
        with jax.enable_x64(True):
            mine = jax.tree.map(lambda leaf: jnp.asarray(leaf[at]), state.optimiser)
            updates, after = jax.vmap(self._optimiser.update)(jnp.asarray(gradient), mine)
            return state.free[at] + np.asarray(updates), self._put(state.optimiser, at, after)

    def _lbfgs(self, state: State, at: np.ndarray, softness: float) -> tuple[np.ndarray, Any, list[Row], np.ndarray]:
        """A step along the direction of L-BFGS, halved until the objective falls enough."""
        free = state.free[at]
        values, gradient, told = self.value(free, self.fitted, softness)
        with jax.enable_x64(True):
            mine = jax.tree.map(lambda leaf: jnp.asarray(leaf[at]), state.optimiser)
            found, after = jax.vmap(self._memory.update)(jnp.asarray(gradient), mine, jnp.asarray(free))
        direction = -np.asarray(found)
        falls = np.sum(direction * gradient, axis=1)
        uphill = falls >= 0
        direction[uphill], falls[uphill] = -gradient[uphill], -np.sum(gradient[uphill] ** 2, axis=1)
        # Without a memory the direction has no length of its own, and no step goes further than one.
        longest = np.maximum(np.abs(direction).max(axis=1, keepdims=True), 1e-12)
        length = np.minimum(1, 1 / longest) if state.step else FIRST / longest
        direction, falls = direction * length, falls * length[:, 0]
        moved, open_, size = free.copy(), np.ones(len(at), bool), 1.0
        for _ in range(HALVINGS):
            trial = free[open_] + size * direction[open_]
            reached = self._soft_value(trial, softness)
            enough = reached <= values[open_] + SUFFICIENT * size * falls[open_]
            places = np.flatnonzero(open_)
            moved[places[enough]] = trial[enough]
            open_[places[enough]] = False
            size /= 2
            if not open_.any():
                break
        return moved, self._put(state.optimiser, at, after), told, open_

    def _soft_value(self, free: np.ndarray, softness: float) -> np.ndarray:
        """The objective on all that is fitted; infinite where it is no number, so that a search turns back."""
        _, tables, _ = self._margins(free, self.fitted)
        rows = self.ground.rows(self.fitted)
        totals = []
        for start, mine in enumerate(free):
            margins = [table[start] for table in tables]
            found = table_terms(margins, rows, self.reference, softness, tail=self._tail)
            every = {name: float(each) for name, each in found.items()} | self._prior_terms(mine)
            totals.append(weighted(every, self.weights))
        return np.nan_to_num(np.array(totals), nan=np.inf)

    @staticmethod
    def _put(whole: Any, at: np.ndarray, part: Any) -> Any:
        def one(leaf: np.ndarray, new: Any) -> np.ndarray:
            changed = np.array(leaf)
            changed[at] = np.asarray(new)
            return changed

        return jax.tree.map(one, whole, part)

    def _check(self, state: State, at: np.ndarray) -> tuple[State, list[Row]]:
        """Judge some starts on the stretches that are checked on, or with the prior on those that are fitted on."""
        if not len(at):
            return state, []
        totals, told = self.judged(state.free[at], self.checked or self.fitted)
        if not self.checked:
            told = [each | self._prior_terms(free) for each, free in zip(told, state.free[at], strict=True)]
            totals = totals + self._priors(told)
        best, value, when, done = state.best.copy(), state.best_value.copy(), state.best_step.copy(), state.done.copy()
        better = at[totals < value[at] - LEAST_GAIN]
        best[better], when[better] = state.free[better], state.step
        value[better] = totals[np.isin(at, better)]
        waited = (state.step - when[at]) >= self.settings.patience * self.settings.check_every
        done[at] |= waited
        rows = [
            {"step": state.step, "start": int(start), "on": "checked", "softness": 0.0, **each,
             "objective": float(total)}
            for start, each, total in zip(at, told, totals, strict=True)
        ]  # fmt: skip
        return state._replace(best=best, best_value=value, best_step=when, done=done), rows

    def _totals(
        self, told: Sequence[Row], values: np.ndarray, tables: Sequence[np.ndarray], parts: Sequence[Part]
    ) -> np.ndarray:
        """The objective without its prior; raises NotFinite that says which term, and on which day."""
        totals = np.array([weighted(each, self.weights) for each in told])
        wrong = np.flatnonzero(~np.isfinite(totals))
        if len(wrong):
            k = int(wrong[0])
            mine = [table[k] for table in tables]
            raise NotFinite(what_is_no_number(self.ground, values[k], told[k], mine, parts))
        return totals
