"""The plain model: initial margin is the expected shortfall of the joint loss of positions and collateral.

initial = max(0, ES(joint)) + haircuts; maintenance = rho x max(0, ES(joint)) + haircuts. The parts are `core`, the ES
of the positions alone; `collateral`, what revaluing the collateral with them adds (it may be negative); `haircut`, the
cost of turning collateral into money; and `floor`, what lifts the sum to zero. An account without positions owes
nothing.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from marginax.config import Config
from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.history import FactorHistory, factor_history
from marginax.instruments import Instruments
from marginax.market import Market
from marginax.models.protocol import Margin, MarginModel, Parts, Prepared, Tile, Totals
from marginax.options import OptionPricing
from marginax.problems import BadInput, Problem
from marginax.scenarios.filtering import FactorArrays, Observed, factor_arrays
from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.sets import ScenarioSet
from marginax.scenarios.source import ScenarioSource
from marginax_kernels import (
    accumulate,
    exceedance_probability,
    expected_shortfall,
    expected_shortfall_error,
    expected_shortfall_scramble_error,
    first_worst,
    shortfall_beyond,
    tail_weights,
    value_at_risk,
)

PARTS = ("core", "collateral", "haircut", "floor")
BLOCK = 64


class ShortfallPrepared(Prepared):
    """The cube, the weights, and what each row of the cube loses in liquidation (currency per unit held)."""

    haircuts: Float[Array, " rows"]


class ShortfallDraws(eqx.Module):
    """What the scenario source draws, and the share of each asset's value that liquidation costs."""

    scenarios: Any
    haircuts: Float[Any, " assets"]


class ExpectedShortfall(MarginModel):
    """Margin by expected shortfall. `maintenance_ratio` and the scenario source's numbers are leaves."""

    name: str = eqx.field(static=True)
    settings: Config = eqx.field(static=True)
    source: ScenarioSource | GivenScenarios
    pricing: OptionPricing
    maintenance_ratio: Float[np.ndarray, ""]
    tail: float = eqx.field(static=True)

    @property
    def part_names(self) -> tuple[str, ...]:
        """core, collateral, haircut, floor."""
        return PARTS

    @property
    def independent(self) -> bool:
        """True for a given set of independent draws; history is none."""
        return self.source.independent

    @property
    def scrambles(self) -> tuple[int, int]:
        """Of the scenario source: Monte Carlo draws come in independent scrambles."""
        return self.source.scrambles, self.source.drawn

    def with_scenarios(self, scenarios: ScenarioSet) -> "ExpectedShortfall":
        """This model on scenarios of one's own."""
        return eqx.tree_at(lambda model: model.source, self, GivenScenarios(scenarios))

    def factors(self, market: Market, instruments: Instruments) -> FactorHistory:
        """The history this model filters, on the joint grid of the market."""
        settings = self.settings
        return factor_history(
            market,
            instruments,
            scenarios=settings.scenarios,
            proxy=settings.proxy,
            basis=settings.basis,
            volatility=settings.volatility,
            horizon_days=settings.risk.horizon_days,
        )

    def draw(self, seed: int, history: FactorHistory) -> ShortfallDraws:
        """What the scenario source draws; raises BadInput when the tail holds less than one scenario."""
        draws = self.source.draw(seed, history)
        if isinstance(self.source, ScenarioSource):
            _check_tail(self.tail, self.source, history)
        haircuts = self.settings.collateral.haircuts
        shares = [haircuts.get(name, 0.0) for name in history.names[: history.underlyings]]
        return ShortfallDraws(draws, np.array(shares, float))

    def step(self, state: Any, bar: Any, bars_per_day: float) -> Any:
        """Carry each factor's variance forward by one bar."""
        return self.source.step(state, bar, bars_per_day)

    def observe(self, history: FactorHistory) -> Observed:
        """Run the volatility filter over the history."""
        return _observe(self.source, factor_arrays(history))

    def prepare(
        self, instruments: InstrumentArrays, market: MarketArrays, state: Observed, draws: ShortfallDraws
    ) -> tuple[ShortfallPrepared, Float[Array, "scenarios factors"]]:
        """Scenarios from the source, and the cube of unit P&L under them."""
        shocks, weights = self.source.shocks(state, draws.scenarios)
        horizon = self.settings.risk.horizon_days
        cube = revalue(
            instruments,
            market,
            shocks,
            horizon_days=horizon,
            pricing=self.pricing,
        )
        none = jnp.zeros(len(instruments.style))
        haircuts = jnp.concatenate([none, draws.haircuts * jnp.abs(market.index), jnp.zeros(1)])
        return ShortfallPrepared(cube=cube, weights=weights, haircuts=haircuts), shocks

    def margin(self, prepared: ShortfallPrepared, tile: Tile) -> tuple[Margin, Totals]:
        """Requirement, risk figures and score of every account of the tile."""
        positions, joint = _losses(prepared, tile)
        weights = prepared.weights
        var = value_at_risk(joint, weights, tail=self.tail)
        shortfall = shortfall_beyond(joint, weights, var, tail=self.tail)
        core = expected_shortfall(positions, weights, tail=self.tail) if _has_collateral(tile) else shortfall
        owes = _owes(tile)
        core_part = jnp.where(owes, core, 0)
        collateral = jnp.where(owes, shortfall, 0) - core_part
        haircut = jnp.where(owes, _haircut(prepared, tile), 0)
        floor = jnp.maximum(0, -(core_part + collateral))
        scrambles, drawn = self.scrambles
        if scrambles:
            error = expected_shortfall_scramble_error(joint, weights, tail=self.tail, scrambles=scrambles, draws=drawn)
        elif self.independent:
            error = expected_shortfall_error(joint, weights, tail=self.tail)
        else:
            error = jnp.full_like(var, jnp.nan)
        ratio = jnp.asarray(self.maintenance_ratio, var.dtype)
        margin = Margin(
            parts=Parts((core_part, collateral, haircut, floor), PARTS),
            maintenance_ratios=(ratio, ratio, jnp.ones_like(ratio), ratio),
            var=var,
            expected_shortfall=shortfall,
            std_error=error,
            stress_score=exceedance_probability(joint, weights, tile.equity),
            worst_scenario=first_worst(joint),
        )
        return margin, Totals(_uncovered(joint, tile.equity))

    def attribute(self, prepared: ShortfallPrepared, tile: Tile) -> Parts:
        """Euler shares of each part by position, then by asset of the collateral; together they sum to the part."""
        positions, joint = _losses(prepared, tile)
        alone = tail_weights(positions, prepared.weights, tail=self.tail)
        together = tail_weights(joint, prepared.weights, tail=self.tail)
        owes = _owes(tile)[:, None]
        none = jnp.zeros_like(tile.amounts)
        own = _shares(prepared.cube, tile.instruments, tile.quantities, alone)
        within = _shares(prepared.cube, tile.instruments, tile.quantities, together)
        assets = _shares(prepared.cube, tile.assets, tile.amounts, together)
        core = jnp.where(owes, jnp.concatenate([own, none], axis=1), 0)
        collateral = jnp.where(owes, jnp.concatenate([within - own, assets], axis=1), 0)
        haircut = prepared.haircuts[tile.assets] * jnp.maximum(tile.amounts, 0)
        haircut = jnp.where(owes, jnp.concatenate([jnp.zeros_like(tile.quantities), haircut], axis=1), 0)
        # The floor is used only where the sum is negative, and takes back each share of it: pro rata.
        netted = core + collateral
        floor = jnp.where(jnp.sum(netted, axis=1, keepdims=True) < 0, -netted, 0)
        return Parts((core, collateral, haircut, floor), PARTS)

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """A name for every scenario."""
        return self.source.labels(history)

    def diagnostics(
        self, history: FactorHistory, state: Observed, draws: ShortfallDraws, scenarios: ScenarioSet
    ) -> Mapping[str, Any]:
        """How often residuals and shocks were cut, what is proxied, frozen or missing, and the laws of the draws."""
        capped = np.asarray(_capped(self.source, state))
        names = np.array(history.names)
        usual = np.asarray(state.long_run) * np.sqrt(history.gap_bars)
        leap = np.abs(np.nan_to_num(history.gap_return)) > self.settings.scenarios.residual_cap * usual
        return {
            "source": self.source.name,
            **self.source.diagnostics(history, draws.scenarios, scenarios.shocks),
            "index_far_from_history": names[leap & history.own].tolist(),
            "haircuts_of_nothing": sorted(set(self.settings.collateral.haircuts) - set(history.names)),
            "residuals_capped": {str(names[k]): int(capped[k]) for k in np.flatnonzero(capped)},
            "proxied": names[history.proxied].tolist(),
            "volatilities_by_price": names[history.leaning].tolist(),
            "never_moved": names[history.frozen].tolist(),
            "without_history_or_proxy": names[history.missing].tolist(),
            "bars_per_day": history.grid.bars_per_day,
            "first_bar": str(np.datetime_as_string(history.times[0], unit="m")),
            "last_bar": str(np.datetime_as_string(history.times[-1], unit="m")),
        }


def build(config: Config) -> ExpectedShortfall:
    """The model a configuration describes; what the entry point `expected_shortfall` names.

    Raises BadInput for `parameters`, which this model has none of.
    """
    if config.parameters:
        what, remedy = "`expected_shortfall` has no parameters of its own", "Remove the table"
        raise BadInput([Problem("configuration", "parameters", None, what, remedy)])
    return ExpectedShortfall(
        name="expected_shortfall",
        settings=config,
        source=ScenarioSource.from_config(config),
        pricing=OptionPricing.from_settings(config.options, config.volatility),
        maintenance_ratio=np.asarray(config.risk.maintenance_ratio),
        tail=config.risk.tail,
    )


def _check_tail(tail: float, source: ScenarioSource, history: FactorHistory) -> None:
    """Refuse a tail thinner than the heaviest scenario: its answer would be one loss whatever `tail` says."""
    effective = source.effective_count(history)
    if effective * tail >= 1 - 1e-9:  # 100 scenarios at 0.01 are one, up to rounding
        return
    what = (
        f"`tail={tail:g}` of {effective:.3g} scenarios is {effective * tail:.2g} of a scenario, so the answer would be "
        "the worst loss whatever `tail` says"
    )
    least = int(np.ceil(1 / tail - 1e-9))
    if source.drawn:
        remedy = f"Draw at least {least} (`monte_carlo.draws`), or widen the tail"
        raise BadInput([Problem("configuration", "risk.tail", None, what, remedy)])
    remedy = f"Give at least {least + 1} bars and a `scenarios.window` of {least}, or widen the tail"
    raise BadInput([Problem("history", None, None, what, remedy, table="history")])


@jax.jit
def _observe(source: ScenarioSource | GivenScenarios, factors: FactorArrays) -> Observed:
    return source.observe(factors)


@jax.jit
def _capped(source: ScenarioSource | GivenScenarios, state: Observed) -> Array:
    return source.capped(state)


def _has_collateral(tile: Tile) -> bool:
    return tile.assets.shape[1] > 0


def _owes(tile: Tile) -> Bool[Array, " accounts"]:
    return jnp.any(tile.quantities != 0, axis=1)


def _haircut(prepared: ShortfallPrepared, tile: Tile) -> Float[Array, " accounts"]:
    """Cost of liquidating what is held; a debt costs nothing. Summed in position order, whatever the tile's shape."""
    if not _has_collateral(tile):
        return jnp.zeros_like(tile.equity)
    return accumulate(prepared.haircuts[:, None], tile.assets, jnp.maximum(tile.amounts, 0))[:, 0]


def _losses(prepared: Prepared, tile: Tile) -> tuple[Array, Array]:
    """Loss of the positions alone, and of positions and collateral together."""
    positions = -accumulate(prepared.cube, tile.instruments, tile.quantities)
    if not _has_collateral(tile):
        return positions, positions
    joint = positions - accumulate(prepared.cube, tile.assets, tile.amounts)
    return positions, lax.optimization_barrier(joint)


def _shares(cube: Array, rows: Array, amounts: Array, weights: Array) -> Float[Array, "accounts width"]:
    """Tail mean of the loss of each entry."""

    def one(entry: tuple[Array, Array]) -> Array:
        row, amount = entry
        return -amount * jnp.sum(cube[row] * weights, axis=1)

    return lax.map(one, (rows.T, amounts.T)).T


def _uncovered(joint: Array, equity: Array) -> Float[Array, "blocks scenarios"]:
    """Loss beyond equity, summed over each block of rows; a row that is not finite counts nothing."""
    beyond = jnp.maximum(joint - equity[:, None], 0)
    beyond = jnp.where(jnp.isfinite(beyond), beyond, 0)
    return jnp.sum(beyond.reshape(-1, BLOCK, joint.shape[1]), axis=1)
