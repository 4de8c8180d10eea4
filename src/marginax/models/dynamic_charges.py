"""The account side of the dynamic margin: every part of a requirement from the losses of a tile, and their shares."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from marginax.models.addons.collateral import CollateralCharge, CollateralTerms
from marginax.models.addons.correlation_break import CorrelationBreakCharge
from marginax.models.addons.dependence import DependenceCharge, run_shortfalls, standalone
from marginax.models.addons.funding import FundingCharge
from marginax.models.addons.liquidation import LiquidationCharge
from marginax.models.addons.liquidity import LiquidityCharge, LiquidityTerms, shortfall_by_run
from marginax.models.addons.oracle import OracleCharge, OracleTerms
from marginax.models.addons.procyclicality import ProcyclicalityTools
from marginax.models.addons.regime import RegimeMultiplier
from marginax.models.checks import CHARGES
from marginax.models.closing import CLOSING, exhausting_loss, stress_score
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax.models.protocol import Margin, Parts, Tile, Totals
from marginax.models.scenario_model import Charges, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, held_amounts, order_losses, owes, tile_losses, venue_totals
from marginax_kernels import exceedance_probability, expected_shortfall, first_worst, unit_shortfalls

# The cost of closing, of holding until then, and of prices that may be wrong: maintenance holds these parts in full.
IN_FULL = ("haircut", "concentration", "liquidity", "liquidation_fee", "funding", "oracle")


class Stressed(NamedTuple):
    """Expected shortfall over the stressed stretch: of the positions alone, and of all that is held."""

    core: Float[Any, " accounts"]
    joint: Float[Any, " accounts"]


class LossFigures(NamedTuple):
    """What the parts ask of losses, by account, at `charge_tail`; None where no part asks.

    `apart` is the expected shortfall with every underlying on its own, `windows` what the correlation break charges
    before its bounds, `traded` the shortfall without the collateral that hedges nothing.
    """

    charges: Charges
    stressed: Stressed | None
    apart: Float[Any, " accounts"] | None
    windows: Float[Any, " accounts"] | None
    traded: Float[Any, " accounts"]


class Costs(eqx.Module):
    """What needs no loss, by account, in account currency.

    `parts` are amounts by name; `total`, `scaled` and `regime` sums of ES_u, plain and times the multiplier of each
    underlying, that of the tools and that of signals; `unhedging` the sum of the shortfalls of collateral that hedges
    nothing; `closing` what it costs to close.
    """

    parts: dict[str, Float[Any, " accounts"]]
    total: Float[Any, " accounts"] | None
    scaled: Float[Any, " accounts"] | None
    unhedging: Float[Any, " accounts"] | None
    closing: Float[Any, " accounts"]
    regime: Float[Any, " accounts"] | None = None


class DynamicPrepared(ScenarioPrepared):
    """The cube under the model's scenarios and then the stressed ones, which have no weight there.

    `main` counts the former, of which the first `historical` are stretches of history; `stressed` weighs the latter.
    `units` are expected shortfalls of one unit long and short, `scale` and `regime` the multipliers of each row's
    underlying by the tools and by signals, `independent` the cube with every underlying on its own, `liquidity` what
    closing costs (None where nobody trades), `liquidation` what closing one contract of each row costs in fees,
    `funding` what one long and one short will pay, `oracle` the quality of prices where they have any.
    """

    stressed: Float[Array, " stressed"]
    units: Float[Array, "rows 2"]
    scale: Float[Array, " rows"]
    terms: CollateralTerms
    regime: Float[Array, " rows"] | None
    independent: Float[Array, "rows main"] | None
    liquidity: LiquidityTerms | None
    oracle: OracleTerms | None
    liquidation: Float[Array, " rows"] | None
    funding: Float[Array, "rows 2"] | None
    main: int = eqx.field(static=True)
    historical: int = eqx.field(static=True)


class DynamicCharges(ExpectedShortfall):
    """Expected shortfall and the parts beside it; a part that is None is off. All numbers are leaves."""

    reads: ClassVar[tuple[str, ...]] = CHARGES

    stress_weight: Float[Any, ""] | None
    dependence: DependenceCharge | None
    correlation_break: CorrelationBreakCharge | None
    procyclicality: ProcyclicalityTools | None
    collateral: CollateralCharge
    liquidity: LiquidityCharge | None
    oracle: OracleCharge | None
    liquidation: LiquidationCharge | None
    funding: FundingCharge | None
    regime: RegimeMultiplier | None

    @property
    def part_names(self) -> tuple[str, ...]:
        """The parts that are on, in the order they are reported."""
        on = {
            "core": True,
            "stress": self.stress_weight is not None,
            "collateral": True,
            "dependence": self.dependence is not None,
            "correlation_break": self.correlation_break is not None,
            "wrong_way": self.collateral.wrong_way is not None,
            "procyclicality": self.procyclicality is not None,
            "regime": self.regime is not None,
            "haircut": True,
            "concentration": self.collateral.concentrates,
            "liquidity": self.liquidity is not None,
            "liquidation_fee": self.liquidation is not None,
            "funding": self.funding is not None,
            "oracle": self.oracle is not None,
            "orders": self.reads_orders,
            "floor": True,
        }
        return tuple(name for name, switched in on.items() if switched)

    def complete(self, prepared: DynamicPrepared) -> DynamicPrepared:
        """Expected shortfalls of single units."""
        if not self._needs_units:
            return prepared
        main = slice(0, prepared.main)
        units = unit_shortfalls(prepared.cube[:, main], prepared.weights[main], tail=self.charge_tail)
        return eqx.tree_at(lambda each: each.units, prepared, units)

    @property
    def needs_groups(self) -> bool:
        """Whether any part asks what is lost in single underlyings."""
        comonotone = self.dependence is not None and self.dependence.against == "comonotone"
        lasting = self.liquidity is not None and self.liquidity.participation is not None
        return comonotone or lasting or self.procyclicality is not None or self.regime is not None

    @property
    def _needs_units(self) -> bool:
        return self.needs_groups or self.collateral.wrong_way is not None

    def fitted_margin(self, prepared: DynamicPrepared, tile: Tile, fitted: Any) -> tuple[Margin, Totals]:  # type: ignore[override]
        """Requirement, risk figures and score of every account of the tile."""
        parts, figures, costs, joint = self._found(prepared, tile)
        main = prepared.main
        limit = exhausting_loss(tile.equity, costs.closing)
        beyond = exceedance_probability(joint[:, :main], prepared.weights[:main], limit)
        score = stress_score(beyond, tile.equity, owes(tile))
        margin = self.answer(parts, figures.charges, score, first_worst(joint))
        return margin, venue_totals(joint, tile, costs.closing, margin.parts, self.settings.venue)

    def closing(self, prepared: DynamicPrepared, tile: Tile) -> Float[Array, " accounts"]:  # type: ignore[override]
        """What closing costs, of all parts that do."""
        return self.costs(prepared, tile, self._groups(prepared, tile)).closing

    def answer(self, parts: dict[str, Any], charges: Charges, score: Any, worst: Any) -> Margin:
        """The margin of these parts, the figures of the joint loss, its score and its worst scenario."""
        array = charges.var.__array_namespace__()
        ratio = array.asarray(self.maintenance_ratio, dtype=charges.var.dtype)
        own_ratios = {**dict.fromkeys(IN_FULL, array.ones_like(ratio)), "orders": array.zeros_like(ratio)}
        return Margin(
            parts=Parts(tuple(parts[name] for name in self.part_names), self.part_names),
            maintenance_ratios=tuple(own_ratios.get(name, ratio) for name in self.part_names),
            var=charges.var,
            expected_shortfall=charges.shortfall,
            std_error=charges.std_error,
            stress_score=score,
            worst_scenario=worst,
        )

    def _found(self, prepared: DynamicPrepared, tile: Tile) -> tuple[dict[str, Array], LossFigures, Costs, Array]:
        """The parts by account, what they were made of, and the joint loss."""
        figures, joint = self._figures(prepared, tile)
        costs = self.costs(prepared, tile, self._groups(prepared, tile))
        parts = self.parts_of(owes(tile), figures, costs)
        if tile.orders is not None:
            losses = joint[:, : prepared.main] + order_losses(prepared, tile.orders)[:, : prepared.main]
            filled = expected_shortfall(losses, prepared.weights[: prepared.main], tail=self.charge_tail)
            owed = jnp.where(owes(tile), figures.charges.joint, 0)
            # What the worst fills add to the shortfall, and what filling them costs at once.
            parts["orders"] = jnp.maximum(filled - owed, 0) + jnp.sum(tile.orders.cost, axis=1)
        return parts, figures, costs, joint

    def parts_of(self, has: Any, figures: LossFigures, costs: Costs) -> dict[str, Any]:
        """Every part but that of open orders, which is zero here, of accounts that have positions where `has` says so.

        Of NumPy arrays or of JAX's. Gradient: exact, one-sided at the kinks.
        """
        charges, array = figures.charges, figures.charges.core.__array_namespace__()
        alone, together = charges.core, charges.joint
        none = array.zeros_like(alone)
        found = {"core": alone, "stress": none}
        if figures.stressed is not None:
            found["stress"] = self._stress(alone, figures.stressed.core)
            together = together + self._stress(charges.joint, figures.stressed.joint)
        found["collateral"] = together - alone - found["stress"]
        if self.dependence is not None:
            bound = costs.total if figures.apart is None else figures.apart
            found["dependence"] = self.dependence.charge(bound, charges.joint)
        if self.correlation_break is not None:
            found["correlation_break"] = self.correlation_break.charge(figures.windows, charges.joint)
        found["wrong_way"] = none
        if costs.unhedging is not None:
            found["wrong_way"] = self.collateral.wrong_way_charge(costs.unhedging, figures.traded, charges.joint)
        risk = sum(found.values(), none)
        found["procyclicality"] = none
        if self.procyclicality is not None:
            found["procyclicality"] = _added(risk, costs.total, costs.scaled)
        scaled = risk + found["procyclicality"]
        found["regime"] = none
        if self.regime is not None:
            found["regime"] = _added(risk, costs.total, costs.regime)
            scaled = scaled + found["regime"]
        found |= costs.parts
        found["floor"] = array.maximum(0, -scaled)
        return {**{name: array.where(has, part, 0) for name, part in found.items()}, "orders": none}

    def _figures(self, prepared: DynamicPrepared, tile: Tile) -> tuple[LossFigures, Array]:
        """What the parts ask of losses, and the joint loss."""
        positions, joint = tile_losses(prepared, tile)
        main = prepared.main
        weights, losses = prepared.weights[:main], joint[:, :main]
        charges = self.shortfalls(weights, tile, positions[:, :main], losses)
        stressed = apart = windows = None
        if self.stress_weight is not None:
            over = partial(expected_shortfall, weights=prepared.stressed, tail=self.charge_tail)
            stressed = Stressed(over(positions[:, main:]), over(joint[:, main:]))
        if self.dependence is not None and prepared.independent is not None:
            mixed = eqx.tree_at(lambda each: each.cube, prepared, prepared.independent)
            apart = expected_shortfall(tile_losses(mixed, tile)[1], weights, tail=self.charge_tail)
        if self.correlation_break is not None:
            past = slice(0, prepared.historical)
            windows = self.correlation_break.windows_of(losses[:, past], weights[past], tail=self.charge_tail)
        return LossFigures(charges, stressed, apart, windows, self._traded(prepared, tile, charges)), joint

    def _traded(self, prepared: DynamicPrepared, tile: Tile, charges: Charges) -> Float[Array, " accounts"]:
        """The shortfall without the collateral in whose underlying no position is held."""
        if self.collateral.wrong_way is None or not has_collateral(tile):
            return charges.core
        main = slice(0, prepared.main)
        amounts = jnp.where(tile.runs.asset_alone & (tile.amounts > 0), 0, tile.amounts)
        mixed = jnp.any(amounts != 0, axis=1)

        def with_the_rest() -> Array:
            traded = eqx.tree_at(lambda each: each.amounts, tile, amounts)
            losses = tile_losses(prepared, traded)[1][:, main]
            return expected_shortfall(losses, prepared.weights[main], tail=self.charge_tail)

        # Most accounts own nothing that they trade: theirs is the shortfall of the positions, which is known.
        rest = lax.cond(jnp.any(mixed), with_the_rest, lambda: charges.core)
        return jnp.where(mixed, rest, charges.core)

    def costs(self, prepared: DynamicPrepared, tile: Tile, groups: Float[Array, " runs"]) -> Costs:
        """What needs no loss, of the accounts of a tile; `groups` are expected shortfalls of its runs, where any part
        needs them."""
        none = jnp.zeros_like(tile.equity)
        total = scaled = regime = unhedging = None
        if self.needs_groups:
            scales = [jnp.ones_like(prepared.scale), prepared.scale]
            scales += [] if prepared.regime is None else [prepared.regime]
            total, scaled, *more = standalone(prepared.units, jnp.stack(scales, axis=1), tile, groups).T
            regime = more[0] if more else None
        if self.collateral.wrong_way is not None:
            unhedging = self.collateral.unhedging(prepared.units, tile) if has_collateral(tile) else none
        parts = {"haircut": held_amounts(prepared.haircuts, tile)}
        parts |= dict.fromkeys(("concentration", "liquidity", "oracle"), none)
        if has_collateral(tile):
            parts["concentration"] = jnp.sum(self.collateral.concentration_by_asset(prepared.terms, tile), axis=1)
        if self.liquidity is not None and prepared.liquidity is not None:
            runs = shortfall_by_run(prepared.units, groups, tile) if self.needs_groups else None
            parts["liquidity"] = self.liquidity.charge(prepared.liquidity, tile, runs)
        if self.oracle is not None and prepared.oracle is not None:
            parts["oracle"] = self.oracle.charge(prepared.oracle, tile)
        parts |= self._payments(prepared, tile)
        closing = sum((part for name, part in parts.items() if name in CLOSING), none)
        return Costs(parts, total, scaled, unhedging, jnp.where(owes(tile), closing, 0), regime)

    def _payments(self, prepared: DynamicPrepared, tile: Tile) -> dict[str, Float[Array, " accounts"]]:
        """The liquidation fee and the funding that is projected; none where the market says nothing of them."""
        none = jnp.zeros_like(tile.equity)
        found = {"liquidation_fee": none, "funding": none}
        if self.liquidation is not None and prepared.liquidation is not None:
            found["liquidation_fee"] = self.liquidation.charge(prepared.liquidation, tile)
        if self.funding is not None and prepared.funding is not None:
            found["funding"] = self.funding.charge(prepared.funding, tile)
        return found

    def per_contract(self) -> "DynamicCharges":
        """This model without the minimum of the liquidation fee, which no contract owes of itself."""
        if self.liquidation is None:
            return self
        return eqx.tree_at(lambda model: model.liquidation.minimum, self, jnp.zeros_like(self.liquidation.minimum))

    @property
    def reads_orders(self) -> bool:
        """Whether initial margin covers the worst fills of open orders."""
        return self.settings.orders.cover

    def _groups(self, prepared: DynamicPrepared, tile: Tile) -> Float[Array, " runs"]:
        """Expected shortfalls of what is held in one underlying; zero where no part asks for them."""
        if not self.needs_groups:
            return jnp.zeros(len(tile.runs.start), tile.equity.dtype)
        main = slice(0, prepared.main)
        return run_shortfalls(prepared.cube[:, main], prepared.weights[main], tile, tail=self.charge_tail)

    def _stress(self, shortfall: Any, stressed: Any) -> Any:
        """w (ES over the stretch - ES)+."""
        array = shortfall.__array_namespace__()
        return array.asarray(self.stress_weight, dtype=shortfall.dtype) * array.maximum(stressed - shortfall, 0)

    def attribute(self, prepared: DynamicPrepared, tile: Tile) -> Parts:  # type: ignore[override]
        """Euler shares of each part by position, by asset of the collateral, and by open order: amount times slope.

        All parts are homogeneous of degree one in what an account holds and has ordered but `concentration`, which is a
        sum over assets already, the cost of filling orders, which is a sum over them, `liquidity`, of which each
        position has its share of the net delta and vega that it is part of, and `liquidation_fee`, whose minimum is
        shared in proportion.
        """

        sloped = eqx.tree_at(lambda each: each.liquidity, prepared, None, is_leaf=lambda leaf: leaf is None)

        def held_of(tile: Tile) -> tuple[Any, ...]:
            own = (tile.quantities, tile.amounts)
            return own if tile.orders is None else (*own, tile.orders.quantities)

        def parts_of(*held: Array) -> tuple[Array, ...]:
            parts = self._found(sloped, eqx.tree_at(held_of, tile, held))[0]
            return tuple(parts[name] for name in self.part_names)

        held = tuple(jnp.asarray(each) for each in held_of(tile))
        values, pull = jax.vjp(parts_of, *held)
        count, accounts = len(values), len(held[0])
        one_part = jnp.broadcast_to(jnp.eye(count, dtype=values[0].dtype)[:, :, None], (count, count, accounts))
        slopes = jax.vmap(lambda ways: pull(tuple(ways)))(one_part)
        by_part = jnp.concatenate([amount * slope for amount, slope in zip(held, slopes, strict=True)], axis=2)
        shares = dict(zip(self.part_names, by_part, strict=True))
        if "concentration" in shares:
            cut = jnp.where(owes(tile)[:, None], self.collateral.concentration_by_asset(prepared.terms, tile), 0)
            others = [jnp.zeros_like(each) for each in held]
            shares["concentration"] = jnp.concatenate([others[0], cut, *others[2:]], axis=1)
        if self.liquidity is not None and prepared.liquidity is not None:
            groups = self._groups(prepared, tile)
            runs = shortfall_by_run(prepared.units, groups, tile) if self.needs_groups else None
            closing = self.liquidity.shares(prepared.liquidity, tile, runs)
            shares["liquidity"] = jnp.concatenate([closing, *(jnp.zeros_like(each) for each in held[1:])], axis=1)
        if self.liquidation is not None and prepared.liquidation is not None:
            fees = self.liquidation.shares(prepared.liquidation, tile)
            shares["liquidation_fee"] = jnp.concatenate([fees, *(jnp.zeros_like(each) for each in held[1:])], axis=1)
        if tile.orders is not None:
            shares["orders"] = shares["orders"].at[:, -tile.orders.cost.shape[1] :].add(tile.orders.cost)
        return Parts(tuple(shares.values()), self.part_names)


def _added(risk: Any, total: Any, scaled: Any) -> Any:
    """What the mean multiplier of an account's underlyings, weighted by ES_u, adds to its risk."""
    array, some = risk.__array_namespace__(), total > 0
    multiplier = array.where(some, scaled / array.where(some, total, 1), 1)
    return (multiplier - 1) * array.maximum(risk, 0)
