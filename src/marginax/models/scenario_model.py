"""What the models that stand on scenarios share: the source, the cube, and the four parts of a requirement.

initial = max(0, charge(joint)) + haircuts; maintenance = rho x max(0, charge(joint)) + haircuts. The parts are `core`,
the charge of the positions alone; `collateral`, what the collateral adds to it (it may be negative); `haircut`, the
cost of turning collateral into money; and `floor`, what lifts the sum to zero. An account without positions owes
nothing. What a charge is, each model says.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from marginax.config import Config
from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.history import FactorHistory, factor_history
from marginax.instruments import Instruments
from marginax.known import KnownHistory
from marginax.market import Market
from marginax.market_sections import at_rows
from marginax.models.checks import check_read, check_tail
from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.protocol import Margin, MarginModel, Parts, Prepared, Tile, Totals
from marginax.models.tile_losses import held_amounts, owes, tile_losses, venue_totals
from marginax.options import OptionPricing
from marginax.problems import BadInput, Problem
from marginax.scenarios.carried import Bar, Carried, carried_from, seen_arrays
from marginax.scenarios.filtering import FactorArrays, Observed, factor_arrays, with_paths
from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.past import Past, past_of
from marginax.scenarios.sets import ScenarioSet
from marginax.scenarios.source import ScenarioSource
from marginax.scenarios.volatility import FilterPath
from marginax_kernels import exceedance_probability, first_worst

PARTS = ("core", "collateral", "haircut", "floor")
# Bars in which a replay's history grows: those of the longest usual window.
BLOCK = 1024


class ScenarioPrepared(Prepared):
    """The cube, the weights, and what each row of the cube loses in liquidation (currency per unit held)."""

    haircuts: Float[Array, " rows"]


class ScenarioDraws(eqx.Module):
    """What the scenario source draws, and the share of each asset's value that liquidation costs."""

    scenarios: Any
    haircuts: Float[Any, " assets"]


class Charges(NamedTuple):
    """Of each account: the charge of its positions alone and of all it holds, and the figures of the joint loss."""

    core: Float[Any, " accounts"]
    joint: Float[Any, " accounts"]
    var: Float[Any, " accounts"]
    shortfall: Float[Any, " accounts"]
    std_error: Float[Any, " accounts"]


class ScenarioModel(MarginModel):
    """A charge on scenarios. `maintenance_ratio` and the scenario source's numbers are leaves.

    `selects` says that single losses are picked from the tail, so that it must hold one at least; `reads` names the
    sections of `CHARGES` that the model knows.
    """

    selects: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    name: str = eqx.field(static=True)
    settings: Config = eqx.field(static=True)
    source: ScenarioSource | GivenScenarios
    pricing: OptionPricing
    maintenance_ratio: Float[np.ndarray, ""]
    tail: float = eqx.field(static=True)
    charge_tail: float = eqx.field(static=True)

    @classmethod
    def from_config(cls, config: Config, *, name: str) -> Self:
        """The model a configuration describes; raises BadInput as `fields_of` does."""
        return cls(**cls.fields_of(config, name=name))

    @classmethod
    def fields_of(cls, config: Config, *, name: str) -> dict[str, Any]:
        """What every model on scenarios is made of.

        Raises BadInput for `parameters`, which these models have none of, and for sections that are not read.
        """
        if config.parameters:
            what, remedy = f"`{name}` has no parameters of its own", "Remove the table"
            raise BadInput([Problem("configuration", "parameters", None, what, remedy)])
        check_read(config, cls.reads, name)
        tail = config.risk.tail
        return {
            "name": name,
            "settings": config,
            "source": ScenarioSource.from_config(config),
            "pricing": OptionPricing.from_settings(config.options, config.volatility),
            "maintenance_ratio": np.asarray(config.risk.maintenance_ratio),
            "tail": tail,
            "charge_tail": tail if config.risk.charge_tail is None else config.risk.charge_tail,
        }

    @abstractmethod
    def charges(self, prepared: Any, tile: Tile, positions: Array, joint: Array, fitted: Any) -> Charges:
        """What the model charges for these losses (accounts x scenarios); `fitted` is None or what `fit` said."""

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

    def with_scenarios(self, scenarios: ScenarioSet) -> Self:
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
            classes=settings.classes,
        )

    def draw(self, seed: int, history: FactorHistory) -> ScenarioDraws:
        """What the scenario source draws; raises BadInput for a history it cannot use, or a tail of no scenario."""
        draws = self.source.draw(seed, history)
        if self.selects:
            check_tail(self.tail, "tail", self.source, history)
            check_tail(self.charge_tail, "charge_tail", self.source, history)
        names = history.names[: history.underlyings]
        by_class = at_rows(self.settings.classes.leaf("haircut", 0.0), history.classes[: len(names)])
        haircuts = self.settings.collateral.haircuts
        shares = [haircuts.get(name, usual) for name, usual in zip(names, by_class.tolist(), strict=True)]
        return ScenarioDraws(draws, np.array(shares, float))

    def carry(self, history: FactorHistory) -> Any:
        """The filters after a whole history, and a window of it. Raises BadInput for stress windows by date."""
        return self._carried(history)[0]

    def _carried(self, history: FactorHistory) -> tuple[Carried, FilterPath, FactorArrays]:
        """The same, with the path that the filter took and what it looked at."""
        source = self._replayed()
        if source.stress.windows:
            what = "a stretch of dates is not kept in a state that is carried forward"
            raise BadInput([Problem("configuration", "scenarios.stress", None, what, "Leave it out of the model")])
        seen = seen_arrays(history)
        path = source.volatility.path(seen)
        return carried_from(path, history, self.settings, rows=self._window(history)), path, seen

    def step(self, state: Any, bar: Bar) -> Any:
        """The filters and the window one bar on."""
        return state.step(self._replayed().volatility, bar)

    def known(self, state: Any) -> Any:
        """What was observed."""
        return state.known

    def with_settlements(self, known: Any, history: FactorHistory) -> Any:
        """Paths to settlement are drawn from past moves; laws that were fitted at the beginning have none."""
        if self.source.drawn:
            return super().with_settlements(known, history)
        return with_paths(known, history)

    def carried_factors(self, state: Any) -> FactorArrays:
        """The window of a carried state."""
        return state.observed.factors

    def _window(self, history: FactorHistory) -> int:
        """Rows of a state's window: those of the scenarios; of more than there are, these and a block to grow in."""
        wanted = self._replayed().window(history.grid.bars_per_day)
        return min(wanted, (len(history.times) // BLOCK + 2) * BLOCK)

    def observe(self, history: FactorHistory) -> Observed:
        """Run the volatility filter over the history."""
        return _observe(self.source, factor_arrays(history))

    @property
    def draws_from_history(self) -> bool:
        """Monte Carlo fits the laws that it draws from."""
        return self.source.drawn > 0

    def lookback(self, known: KnownHistory) -> int:
        """Returns that `prepare` looks back on, at most as many as there are in whole blocks.

        What fills a hole is drawn for so many bars: a bar more in the history must not draw it anew.
        """
        wanted = self._replayed().lookback(known.history.grid.bars_per_day)
        return min(wanted, -(-len(known.history.times) // BLOCK) * BLOCK)

    def past(self, known: KnownHistory) -> Past:
        """What the volatility filter knew at the close of each bar."""
        return past_of(self._replayed().volatility, known, lookback=self.lookback(known))

    def before(self, past: Past, bar: Any, first: Any) -> Observed:
        """What was observed at the close of bar `bar` of a history that begins at `first`."""
        return past.before(bar, first)

    def _replayed(self) -> ScenarioSource:
        if isinstance(self.source, GivenScenarios):
            what = f"`{self.name}` stands on a scenario set of its own, which has no past to replay"
            raise BadInput([Problem("configuration", "scenarios", None, what, "Let scenarios come from a source")])
        return self.source

    def prepare(
        self, instruments: InstrumentArrays, market: MarketArrays, state: Observed, draws: ScenarioDraws
    ) -> tuple[ScenarioPrepared, Float[Array, "scenarios factors"]]:
        """Scenarios from the source, and the cube of unit P&L under them."""
        shocks, weights = self.source.shocks(state, draws.scenarios)
        cube = revalue(
            instruments,
            market,
            shocks,
            horizon_days=self.settings.risk.horizon_days,
            pricing=self.pricing,
        )
        none = jnp.zeros(len(instruments.style))
        haircuts = jnp.concatenate([none, draws.haircuts * jnp.abs(market.index), jnp.zeros(1)])
        return ScenarioPrepared(cube=cube, weights=weights, haircuts=haircuts), shocks

    def margin(self, prepared: ScenarioPrepared, tile: Tile) -> tuple[Margin, Totals]:
        """Requirement, risk figures and score of every account of the tile."""
        return self.fitted_margin(prepared, tile, None)

    def fitted_margin(self, prepared: ScenarioPrepared, tile: Tile, fitted: Any) -> tuple[Margin, Totals]:
        """The same with what `fit` said of these accounts earlier."""
        positions, joint = tile_losses(prepared, tile)
        weights = prepared.weights
        charges = self.charges(prepared, tile, positions, joint, fitted)
        haircut, has = held_amounts(prepared.haircuts, tile), owes(tile)
        closing = jnp.where(has, haircut, 0)
        exceedance = exceedance_probability(joint, weights, exhausting_loss(tile.equity, closing))
        score = stress_score(exceedance, tile.equity, has)
        margin = self.requirement(charges, has, haircut, score, first_worst(joint))
        return margin, venue_totals(joint, tile, closing, margin.parts, self.settings.venue)

    def requirement(self, charges: Charges, has: Any, haircut: Any, score: Any, worst: Any) -> Margin:
        """The four parts from the charges, who has positions, and what liquidation costs; of NumPy arrays or of JAX's.

        `score` and `worst` are the stress score and the worst scenario.
        """
        array = charges.core.__array_namespace__()
        core = array.where(has, charges.core, 0)
        collateral = array.where(has, charges.joint, 0) - core
        haircut = array.where(has, haircut, 0)
        floor = array.maximum(0, -(core + collateral))
        ratio = array.asarray(self.maintenance_ratio, dtype=charges.var.dtype)
        return Margin(
            parts=Parts((core, collateral, haircut, floor), PARTS),
            maintenance_ratios=(ratio, ratio, array.ones_like(ratio), ratio),
            var=charges.var,
            expected_shortfall=charges.shortfall,
            std_error=charges.std_error,
            stress_score=score,
            worst_scenario=worst,
        )

    def closing(self, prepared: ScenarioPrepared, tile: Tile) -> Float[Array, " accounts"]:
        """The haircut of who has positions."""
        return jnp.where(owes(tile), held_amounts(prepared.haircuts, tile), 0)

    @abstractmethod
    def shares(self, prepared: Any, tile: Tile) -> tuple[Array, Array]:
        """Shares of `core` by position, and of the joint charge by position and then by asset."""

    def attribute(self, prepared: ScenarioPrepared, tile: Tile) -> Parts:
        """Euler shares of each part by position, then by asset of the collateral; together they sum to the part."""
        own, together = self.shares(prepared, tile)
        has = owes(tile)[:, None]
        none = jnp.zeros_like(tile.amounts)
        alone = jnp.concatenate([own, none], axis=1)
        core = jnp.where(has, alone, 0)
        collateral = jnp.where(has, together - alone, 0)
        haircut = prepared.haircuts[tile.assets] * jnp.maximum(tile.amounts, 0)
        haircut = jnp.where(has, jnp.concatenate([jnp.zeros_like(tile.quantities), haircut], axis=1), 0)
        # The floor is used only where the sum is negative, and takes back each share of it: pro rata.
        netted = core + collateral
        floor = jnp.where(jnp.sum(netted, axis=1, keepdims=True) < 0, -netted, 0)
        return Parts((core, collateral, haircut, floor), PARTS)

    def _of_nothing(self, history: FactorHistory) -> dict[str, list[str]]:
        """Names in tables of collateral and pegs that are no underlying."""
        collateral, pegs = self.settings.collateral, self.settings.pegs
        tables = {"limits": collateral.limits, "sizes": collateral.sizes, "pegs": {**pegs.rates, **pegs.sizes}}
        lost = {f"{name}_of_nothing": sorted(set(table) - set(history.names)) for name, table in tables.items()}
        return {name: names for name, names in lost.items() if names}

    def _classes(self, history: FactorHistory) -> dict[str, int]:
        """How many underlyings are in each asset class that has parameters, and in none."""
        words = [*self.settings.classes.words, "none"]
        counts = np.bincount(history.classes[: history.underlyings], minlength=len(words))
        return {word: int(count) for word, count in zip(words, counts, strict=True)}

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """A name for every scenario."""
        return self.source.labels(history)

    def diagnostics(
        self, history: FactorHistory, state: Observed, draws: ScenarioDraws, scenarios: ScenarioSet
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
            **({"asset_classes": self._classes(history)} if self.settings.classes.parameters else {}),
            "haircuts_of_nothing": sorted(set(self.settings.collateral.haircuts) - set(history.names)),
            **self._of_nothing(history),
            "residuals_capped": {str(names[k]): int(capped[k]) for k in np.flatnonzero(capped)},
            "proxied": names[history.proxied].tolist(),
            "volatilities_by_price": names[history.leaning].tolist(),
            "never_moved": names[history.frozen].tolist(),
            "without_history_or_proxy": names[history.missing].tolist(),
            "bars_per_day": history.grid.bars_per_day,
            "first_bar": str(np.datetime_as_string(history.times[0], unit="m")),
            "last_bar": str(np.datetime_as_string(history.times[-1], unit="m")),
        }


@jax.jit
def _observe(source: ScenarioSource | GivenScenarios, factors: FactorArrays) -> Observed:
    return source.observe(factors)


@jax.jit
def _capped(source: ScenarioSource | GivenScenarios, state: Observed) -> Array:
    return source.capped(state)
