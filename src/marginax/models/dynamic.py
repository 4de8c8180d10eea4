"""The dynamic margin: expected shortfall that follows volatility and correlation, and parts that keep it honest.

    core + stress      = (1 - w) ES + w max(ES, ES over the stressed stretch), of the positions alone
    collateral         = the same of positions and collateral together, less that
    dependence         = share x (sum over underlyings of ES_u - ES)+, or against independence
    correlation_break  = the excess of windows of the past
    wrong_way          = share of what collateral saves that hedges nothing
    procyclicality     = (multiplier - 1) x all of the above; negative where rises are limited
    regime             = (multiplier from signals - 1) x the same; negative only where it may fall below one
    haircut            = the cost of turning an ordinary amount of collateral into money
    concentration      = what more than an ordinary amount costs, and what is beyond its limit
    liquidity          = what closing the positions costs: spread and fees, impact, more than a day
    liquidation_fee    = what the venue keeps of what it closes
    funding            = what perpetuals will pay over the horizon at the rate of now
    oracle             = what old and uncertain prices cost
    orders             = what the worst set of fills of open orders adds to the ES, and what filling them costs at once
    floor              = what lifts the sum of the first seven to zero

initial = their sum; maintenance = rho times the parts that are risk, nothing of `orders`, and what closing costs and
`oracle` in full. Every part but core, collateral, haircut and floor is there only where it is switched on. Their ES is
at `risk.charge_tail`; `var` and `expected_shortfall` of the joint loss are at `risk.tail` and know none of the tools.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from marginax.config import Config
from marginax.cube import InstrumentArrays, MarketArrays, revalue
from marginax.history import FactorHistory
from marginax.instruments import Instruments
from marginax.known import KnownHistory
from marginax.market import Market
from marginax.market_sections import at_rows
from marginax.models.addons.collateral import CollateralCharge, CollateralTerms
from marginax.models.addons.correlation_break import CorrelationBreakCharge
from marginax.models.addons.dependence import DependenceCharge, independent_cube, independent_orders
from marginax.models.addons.funding import FundingCharge
from marginax.models.addons.liquidation import NOT_STATED, LiquidationCharge
from marginax.models.addons.liquidity import LiquidityCharge
from marginax.models.addons.oracle import OracleCharge
from marginax.models.addons.procyclicality import ProcyclicalityTools
from marginax.models.addons.regime import RegimeMultiplier, SignalArrays, regime_notes
from marginax.models.book_tails import MAIN
from marginax.models.dynamic_charges import DynamicCharges, DynamicPrepared
from marginax.models.dynamic_state import DynamicCarried, DynamicPast, DynamicState, Follower, dynamic_past
from marginax.models.dynamic_tails import STRETCH, dynamic_margin, dynamic_questions
from marginax.models.protocol import Holders, Margin, Question, Totals
from marginax.models.scenario_model import ScenarioDraws
from marginax.problems import BadInput, Problem
from marginax.scenarios.carried import Bar
from marginax.scenarios.filtering import FactorArrays, factor_arrays, horizon_bars, widened
from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.historical import stretches
from marginax.scenarios.sets import ScenarioSet
from marginax.scenarios.stress_period import Stretch, stretch_shocks, stretch_starts
from marginax.signals import signal_history


class DynamicDraws(ScenarioDraws):
    """What the plain model draws; values from which on an asset is cut; liquidation fees by class of the underlying; an
    order of the scenarios by underlying."""

    limits: Float[Any, " assets"]
    sizes: Float[Any, " assets"]
    fees: Float[Any, " assets"]
    orders: Int[Any, "scenarios assets"] | None


class Dynamic(DynamicCharges):
    """The charges on scenarios that follow the market."""

    @classmethod
    def from_config(cls, config: Config, *, name: str) -> Self:
        """The model that a configuration describes. Raises BadInput for parts that do not go with its scenarios."""
        source = config.scenarios.source
        equal = source in ("historical", "filtered_historical")
        if config.dependence.against == "independent" and not equal:
            what = f'is "independent", and scenarios from {source!r} have unequal weights'
            remedy = 'Say "comonotone", or take scenarios of equal weight'
            raise BadInput([Problem("configuration", "dependence.against", None, what, remedy)])
        if config.correlation_break.multiplier and not equal:
            what = f"is set, and scenarios from {source!r} are no windows of history of equal weight"
            remedy = "Take historical scenarios, or remove the section"
            raise BadInput([Problem("configuration", "correlation_break", None, what, remedy)])
        weight = config.stress_period.weight
        return cls(
            **cls.fields_of(config, name=name),
            stress_weight=np.asarray(weight) if weight else None,
            dependence=DependenceCharge.from_settings(config.dependence),
            correlation_break=CorrelationBreakCharge.from_settings(config.correlation_break),
            procyclicality=ProcyclicalityTools.from_settings(config.procyclicality),
            collateral=CollateralCharge.from_settings(config.collateral),
            liquidity=LiquidityCharge.from_settings(config.liquidity),
            oracle=OracleCharge.from_settings(config.oracle),
            liquidation=LiquidationCharge.from_settings(config.liquidation, config.classes),
            funding=FundingCharge.from_settings(config.funding, horizon_days=config.risk.horizon_days),
            regime=RegimeMultiplier.from_settings(config.regime),
        )

    @property
    def asks_tails(self) -> bool:
        """Yes; what inherits from this model says for itself."""
        return type(self) is Dynamic

    @property
    def asks_costs(self) -> bool:
        """Yes: what collateral, closing and prices cost."""
        return True

    @property
    def venue_questions(self) -> tuple[str, ...]:
        """All scenarios, and behind them the stressed stretch where there is one."""
        return (MAIN,) if self.stress_weight is None else (MAIN, STRETCH)

    def questions(self, prepared: DynamicPrepared) -> Mapping[str, Question]:  # type: ignore[override]
        """The tails that its parts ask for."""
        return dynamic_questions(self, prepared)

    def margin_by_tails(self, prepared: DynamicPrepared, holders: Holders) -> tuple[Margin, Totals]:  # type: ignore[override]
        """The same margins from the kernel's answers."""
        return dynamic_margin(self, prepared, holders)

    @property
    def _follower(self) -> Follower:
        bars = self.settings.stress_period.bars if self.stress_weight is not None else 0
        return Follower(self._replayed().volatility, self.procyclicality, bars, self.regime)

    def with_scenarios(self, scenarios: ScenarioSet) -> Self:
        """This model on scenarios of one's own: what follows a history (stress, procyclicality, regime) is off."""
        independent = self.dependence is not None and self.dependence.against == "independent"
        if independent and np.ptp(scenarios.weights) > 0:
            what, remedy = 'is "independent", and the scenarios have unequal weights', 'Say "comonotone"'
            raise BadInput([Problem("configuration", "dependence.against", None, what, remedy)])
        still = super().with_scenarios(scenarios)
        return eqx.tree_at(
            lambda model: (model.stress_weight, model.procyclicality, model.regime),
            still,
            (None, None, None),
            is_leaf=lambda x: x is None,
        )

    @property
    def reads_signals(self) -> bool:
        """Whether margins follow signals."""
        return self.regime is not None

    def factors(self, market: Market, instruments: Instruments) -> FactorHistory:
        """The history that the filters look at, and the signals on its bars; raises BadInput for those too."""
        history = super().factors(market, instruments)
        if not self.reads_signals:
            return history
        now = np.datetime64(market.as_of.replace(tzinfo=None), "us")
        rows, names = market.tables["signals"].rows, history.names[: history.underlyings]
        return replace(history, signals=signal_history(rows, self.settings.regime, names, history.grid, now))

    def _signals(self, history: FactorHistory) -> SignalArrays | None:
        """Signals for tracing. Raises BadInput where the regime is on and a history has none, as in some replays."""
        if self.regime is None:
            return None
        if history.signals is None:
            what, remedy = "is on, and the history has no signals", "Give the table `signals`, or remove the section"
            raise BadInput([Problem("configuration", "regime", None, what, remedy)])
        names = history.names[: history.underlyings]
        return SignalArrays.of(history.signals, self.settings.regime, names)

    def draw(self, seed: int, history: FactorHistory) -> DynamicDraws:
        """What the plain model draws, and by asset what the configuration says of collateral."""
        plain = super().draw(seed, history)
        names, settings = history.names[: history.underlyings], self.settings.collateral
        limits, sizes = ([table.get(name, np.inf) for name in names] for table in (settings.limits, settings.sizes))
        fees = at_rows(self.settings.classes.leaf("liquidation_fee", NOT_STATED), history.classes[: len(names)])
        self._check_stretches(history)
        orders = None
        if self.dependence is not None and self.dependence.against == "independent":
            source: Any = self.source
            count = len(source.scenarios) if isinstance(source, GivenScenarios) else source.main.count_in(history)
            orders = independent_orders(seed, history, count)
        return DynamicDraws(plain.scenarios, plain.haircuts, np.array(limits), np.array(sizes), fees, orders)

    def observe(self, history: FactorHistory) -> DynamicState:  # type: ignore[override]
        """Run the filters and the tools over the history, and find its stressed stretch."""
        if isinstance(self.source, GivenScenarios):
            return DynamicState(super().observe(history), None, None)
        return _observe(self._follower, factor_arrays(history), self._signals(history))

    def carry(self, history: FactorHistory) -> DynamicCarried:
        """The filters, their window, and what the tools and the stretch need, after a whole history."""
        return self._follower.carried(*self._carried(history), self._signals(history))

    def step(self, state: DynamicCarried, bar: Bar) -> DynamicCarried:
        """All of it one bar on."""
        return self._follower.step(state, bar)

    def known(self, state: DynamicCarried) -> DynamicState:
        """What `prepare` takes."""
        return state.known

    def with_settlements(self, known: DynamicState, history: FactorHistory) -> DynamicState:
        """The same for the stretch, in which all of a move comes before any settlement."""
        observed, stretch = super().with_settlements(known.observed, history), known.stretch
        if stretch is not None:
            returns, bars = widened(stretch.returns, history, jnp.nan), widened(stretch.bars, history, 1.0)
            stretch = Stretch(returns, bars, stretch.live)
        return DynamicState(observed, stretch, known.multiplier, known.regime, known.unknown)

    def carried_factors(self, state: DynamicCarried) -> FactorArrays:
        """The window of a carried state."""
        return state.plain.observed.factors

    def _window(self, history: FactorHistory) -> int:
        return max(super()._window(history), self._follower.stretch_bars)

    def past(self, known: KnownHistory) -> DynamicPast:  # type: ignore[override]
        """What was known at the close of each bar."""
        signals = self._signals(known.history)
        return dynamic_past(self._follower, known, lookback=self.lookback(known), signals=signals)

    def before(self, past: DynamicPast, bar: Any, first: Any) -> DynamicState:  # type: ignore[override]
        """What was observed at the close of bar `bar` of a history that begins at `first`."""
        return past.before(bar, first)

    def prepare(  # type: ignore[override]
        self, instruments: InstrumentArrays, market: MarketArrays, state: DynamicState, draws: DynamicDraws
    ) -> tuple[DynamicPrepared, Float[Array, "scenarios factors"]]:
        """Scenarios, the cube under them, and what single units and collateral need."""
        observed, settings = state.observed, self.settings
        shocks, weights = self.source.shocks(observed, draws.scenarios)
        main, stressed = len(weights), jnp.zeros(0)
        oracle = None
        if self.oracle is not None and market.quality is not None:
            oracle = self.oracle.terms(
                instruments,
                market,
                market.quality,
                shocks,
                weights,
                horizon_days=settings.risk.horizon_days,
                pricing=self.pricing,
            )
        if state.stretch is not None:
            beta = self._replayed().volatility.proxy_beta
            more, stressed = stretch_shocks(
                state.stretch, observed.factors, default_beta=beta, horizon_days=settings.risk.horizon_days
            )
            shocks = jnp.concatenate([shocks, more])
        cube = revalue(instruments, market, shocks, horizon_days=settings.risk.horizon_days, pricing=self.pricing)
        rows, none = len(cube), jnp.zeros(len(instruments.style))
        assets = jnp.abs(market.index)
        underlying = jnp.concatenate([instruments.underlying, jnp.arange(len(assets))])
        scale = jnp.ones(rows) if state.multiplier is None else jnp.append(state.multiplier[underlying], 1.0)
        regime = None if state.regime is None else jnp.append(state.regime[underlying], 1.0)
        independent = None
        if draws.orders is not None:
            # Scenarios of a window that is longer than the history have no weight before it, and stay among themselves.
            independent = independent_cube(cube[:, :main], underlying, draws.orders, weights[: len(draws.orders)] > 0)
        # The row of zeros has neither limit nor size: padding points at it.
        columns = ((assets, 0.0), (draws.haircuts, 0.0), (draws.limits, jnp.inf), (draws.sizes, jnp.inf))
        terms = CollateralTerms(*(jnp.concatenate([none, each, jnp.full(1, last)]) for each, last in columns))
        liquidity = None
        if self.liquidity is not None and market.liquidity is not None:
            liquidity = self.liquidity.terms(
                instruments, market, shocks[:main], weights, self.pricing, horizon_days=settings.risk.horizon_days
            )
        liquidation, funding = None, None
        if self.liquidation is not None and instruments.kind is not None:
            liquidation = self.liquidation.rates(instruments, market, draws.fees, self.pricing, factors=shocks.shape[1])
        if self.funding is not None and market.funding is not None:
            funding = self.funding.rates(instruments, market)
        return (
            DynamicPrepared(
                cube=cube,
                weights=jnp.concatenate([weights, jnp.zeros(len(stressed))]),
                haircuts=terms.haircut * terms.price,
                stressed=stressed,
                units=jnp.zeros((rows, 2)),
                scale=scale,
                regime=regime,
                terms=terms,
                independent=independent,
                liquidity=liquidity,
                oracle=oracle,
                liquidation=liquidation,
                funding=funding,
                main=main,
                historical=main - self.source.behind(draws.scenarios, observed.factors.bars_per_day),
            ),
            shocks,
        )

    def _check_stretches(self, history: FactorHistory) -> None:
        """Refuse stretches and windows that are too short for the horizon or the tail."""
        if isinstance(self.source, GivenScenarios):
            return
        bars, _ = horizon_bars(self.settings.risk.horizon_days, history.grid.bars_per_day)
        wanted = int(np.ceil(1 / self.charge_tail - 1e-9))
        if self.stress_weight is not None:
            stretch = self.settings.stress_period.bars
            if stretch - bars + 1 < wanted:
                what = f"of {stretch} holds {max(stretch - bars + 1, 0)} horizons, and the tail needs {wanted}"
                remedy = f"Say at least {wanted + bars - 1}"
                raise BadInput([Problem("configuration", "stress_period.bars", None, what, remedy)])
        if self.correlation_break is not None:
            windows, scenarios = self.correlation_break.windows, self.settings.scenarios.window
            if scenarios // windows < wanted:
                what = f"of {windows} leaves {scenarios // windows} scenarios a window, and the tail needs {wanted}"
                remedy = "Take fewer windows, or a longer `scenarios.window`"
                raise BadInput([Problem("configuration", "correlation_break.windows", None, what, remedy)])

    def labels(self, history: FactorHistory) -> tuple[str, ...]:
        """A name for every scenario; stressed ones by their last bar."""
        plain = super().labels(history)
        if self.stress_weight is None:
            return plain
        bars, _ = horizon_bars(self.settings.risk.horizon_days, history.grid.bars_per_day)
        if history.carried:  # what is older than the window has no date any more
            return (*plain, *(f"stressed bar {k + 1}" for k in range(self._follower.stretch_bars - bars + 1)))
        rows = self._follower.rows(len(history.times))
        start = int(_start(self._follower, factor_arrays(history)))
        return (*plain, *(f"stressed {each}" for each in stretches(history, start, start + rows, bars)))

    def diagnostics(  # type: ignore[override]
        self, history: FactorHistory, state: DynamicState, draws: DynamicDraws, scenarios: ScenarioSet
    ) -> Mapping[str, Any]:
        """What the plain model says, the stressed stretch, and the multipliers that are not one."""
        told: dict[str, Any] = dict(super().diagnostics(history, state.observed, draws, scenarios))
        if self.stress_weight is not None:
            stressed = [label for label in scenarios.labels if label.startswith("stressed ")]
            told["stressed"] = {"first": stressed[0][9:], "last": stressed[-1][9:]}
        if state.multiplier is not None:
            multipliers = zip(history.names, np.asarray(state.multiplier).tolist(), strict=False)
            told["multipliers"] = {name: round(number, 4) for name, number in multipliers if number != 1}
        if state.regime is not None and history.signals is not None:
            names = history.names[: history.underlyings]
            regime, unknown = np.asarray(state.regime).tolist(), np.asarray(state.unknown)
            told["regime"] = regime_notes(history.signals, self.settings.regime, names, regime, unknown)
        return told


def build(config: Config) -> Dynamic:
    """The model a configuration describes; what the entry point `dynamic` names."""
    return Dynamic.from_config(config, name="dynamic")


@jax.jit
def _observe(follower: Follower, factors: FactorArrays, signals: SignalArrays | None) -> DynamicState:
    return follower.observe(factors, signals)


@jax.jit
def _start(follower: Follower, factors: FactorArrays) -> Array:
    path = follower.volatility.path(factors)
    return stretch_starts(factors, path.long_run[1:], rows=follower.rows(len(factors.returns)))[-1]
