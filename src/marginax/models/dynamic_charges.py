"""The account side of the dynamic margin: every part of a requirement from the losses of a tile, and their shares."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from marginax.models.addons.collateral import CollateralCharge, CollateralTerms
from marginax.models.addons.correlation_break import CorrelationBreakCharge
from marginax.models.addons.dependence import DependenceCharge, Standalone, standalone
from marginax.models.addons.liquidity import LiquidityCharge, LiquidityTerms, shortfall_by_run
from marginax.models.addons.oracle import OracleCharge, OracleTerms
from marginax.models.addons.procyclicality import ProcyclicalityTools
from marginax.models.addons.regime import RegimeMultiplier
from marginax.models.checks import CHARGES
from marginax.models.expected_shortfall import ExpectedShortfall
from marginax.models.protocol import Margin, Parts, Tile, Totals
from marginax.models.scenario_model import Charges, ScenarioPrepared
from marginax.models.tile_losses import has_collateral, held_amounts, order_losses, owes, tile_losses, uncovered
from marginax_kernels import exceedance_probability, expected_shortfall, first_worst, unit_shortfalls

# The cost of closing, and of prices that may be wrong: maintenance holds these parts in full.
IN_FULL = ("haircut", "concentration", "liquidity", "oracle")


class DynamicPrepared(ScenarioPrepared):
    """The cube under the model's scenarios and then the stressed ones, which have no weight there.

    `main` counts the former, of which the first `historical` are stretches of history; `stressed` weighs the latter.
    `units` are expected shortfalls of one unit long and short, `scale` and `regime` multipliers of each row's
    underlying, `independent` the cube with every underlying on its own, `liquidity` what closing costs (None
    where nobody trades), `oracle` the quality of prices where they have any.
    """

    stressed: Float[Array, " stressed"]
    units: Float[Array, "rows 2"]
    scale: Float[Array, " rows"]
    terms: CollateralTerms
    regime: Float[Array, " rows"] | None
    independent: Float[Array, "rows main"] | None
    liquidity: LiquidityTerms | None
    oracle: OracleTerms | None
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
    def _needs_groups(self) -> bool:
        comonotone = self.dependence is not None and self.dependence.against == "comonotone"
        lasting = self.liquidity is not None and self.liquidity.participation is not None
        return comonotone or lasting or self.procyclicality is not None or self.regime is not None

    @property
    def _needs_units(self) -> bool:
        return self._needs_groups or self.collateral.wrong_way is not None

    def fitted_margin(self, prepared: DynamicPrepared, tile: Tile, fitted: Any) -> tuple[Margin, Totals]:  # type: ignore[override]
        """Requirement, risk figures and score of every account of the tile."""
        parts, charges, joint = self._parts(prepared, tile)
        ratio = jnp.asarray(self.maintenance_ratio, charges.var.dtype)
        own_ratios = {**dict.fromkeys(IN_FULL, jnp.ones_like(ratio)), "orders": jnp.zeros_like(ratio)}
        ratios = tuple(own_ratios.get(name, ratio) for name in parts.names)
        main = joint[:, : prepared.main]
        margin = Margin(
            parts=parts,
            maintenance_ratios=ratios,
            var=charges.var,
            expected_shortfall=charges.shortfall,
            std_error=charges.std_error,
            stress_score=exceedance_probability(main, prepared.weights[: prepared.main], tile.equity),
            worst_scenario=first_worst(joint),
        )
        return margin, Totals(uncovered(joint, tile.equity))

    def _parts(self, prepared: DynamicPrepared, tile: Tile) -> tuple[Parts, Charges, Array]:
        """The parts by account, the figures of the joint loss, and that loss."""
        positions, joint = tile_losses(prepared, tile)
        main = prepared.main
        weights, losses = prepared.weights[:main], joint[:, :main]
        charges = self.shortfalls(weights, tile, positions[:, :main], losses)
        alone, together = charges.core, charges.joint
        found = {"core": alone, "stress": jnp.zeros_like(alone)}
        if self.stress_weight is not None:
            found["stress"] = self._stress(alone, positions[:, main:], prepared.stressed)
            together = together + self._stress(charges.joint, joint[:, main:], prepared.stressed)
        found["collateral"] = together - alone - found["stress"]
        own = self._standalone(prepared, tile)
        if self.dependence is not None:
            if prepared.independent is not None:
                apart = eqx.tree_at(lambda each: each.cube, prepared, prepared.independent)
                bound = expected_shortfall(tile_losses(apart, tile)[1], weights, tail=self.charge_tail)
            else:
                assert own is not None
                bound = own.total
            found["dependence"] = self.dependence.charge(bound, charges.joint)
        if self.correlation_break is not None:
            past = slice(0, prepared.historical)
            found["correlation_break"] = self.correlation_break.charge(
                losses[:, past], weights[past], charges.joint, tail=self.charge_tail
            )
        found["wrong_way"] = self._wrong_way(prepared, tile, charges)
        risk = sum(found.values(), jnp.zeros_like(alone))
        found["procyclicality"] = jnp.zeros_like(alone)
        if self.procyclicality is not None:
            assert own is not None
            some = own.total > 0
            multiplier = jnp.where(some, own.scaled / jnp.where(some, own.total, 1), 1)
            found["procyclicality"] = (multiplier - 1) * jnp.maximum(risk, 0)
        found["regime"] = self._regime(own, risk)
        found["haircut"] = held_amounts(prepared.haircuts, tile)
        found["concentration"] = jnp.zeros_like(alone)
        if has_collateral(tile):
            found["concentration"] = jnp.sum(self.collateral.concentration_by_asset(prepared.terms, tile), axis=1)
        found["liquidity"] = jnp.zeros_like(alone)
        if self.liquidity is not None and prepared.liquidity is not None:
            runs = None if own is None else shortfall_by_run(prepared.units, own.groups, tile)
            found["liquidity"] = self.liquidity.charge(prepared.liquidity, tile, runs)
        found["oracle"] = jnp.zeros_like(alone)
        if self.oracle is not None and prepared.oracle is not None:
            found["oracle"] = self.oracle.charge(prepared.oracle, tile)
        scaled = risk + found["procyclicality"]
        found["floor"] = jnp.maximum(0, -(scaled if self.regime is None else scaled + found["regime"]))
        has, names = owes(tile), self.part_names
        found = {name: jnp.where(has, part, 0) for name, part in found.items()}
        found["orders"] = self._orders(prepared, tile, losses, charges.joint)
        return Parts(tuple(found[name] for name in names), names), charges, joint

    def _regime(self, own: Standalone | None, risk: Array) -> Float[Array, " accounts"]:
        """What the multiplier of signals, the mean of the underlyings' by their shortfalls, adds to the risk."""
        if own is None or own.regime is None:
            return jnp.zeros_like(risk)
        some = own.total > 0
        multiplier = jnp.where(some, own.regime / jnp.where(some, own.total, 1), 1)
        return (multiplier - 1) * jnp.maximum(risk, 0)

    def _orders(self, prepared: DynamicPrepared, tile: Tile, losses: Array, joint: Array) -> Float[Array, " accounts"]:
        """What the worst fills of open orders add to the shortfall, and what filling them costs at once."""
        if tile.orders is None:
            return jnp.zeros_like(joint)
        main = prepared.main
        worst = losses + order_losses(prepared, tile.orders)[:, :main]
        filled = expected_shortfall(worst, prepared.weights[:main], tail=self.charge_tail)
        owed = jnp.where(owes(tile), joint, 0)
        return jnp.maximum(filled - owed, 0) + jnp.sum(tile.orders.cost, axis=1)

    @property
    def reads_orders(self) -> bool:
        """Whether initial margin covers the worst fills of open orders."""
        return self.settings.orders.cover

    def _standalone(self, prepared: DynamicPrepared, tile: Tile) -> Standalone | None:
        """Expected shortfalls of single underlyings; None where no part asks for them."""
        if not self._needs_groups:
            return None
        main = slice(0, prepared.main)
        cube, weights = prepared.cube[:, main], prepared.weights[main]
        return standalone(
            cube, weights, prepared.units, prepared.scale, tile, tail=self.charge_tail, regime=prepared.regime
        )

    def _wrong_way(self, prepared: DynamicPrepared, tile: Tile, charges: Charges) -> Float[Array, " accounts"]:
        """The charge on collateral in whose underlying no position is held."""
        if self.collateral.wrong_way is None or not has_collateral(tile):
            return jnp.zeros_like(charges.joint)
        main = slice(0, prepared.main)
        other = tile.runs.asset_alone & (tile.amounts > 0)
        amounts = jnp.where(other, 0, tile.amounts)
        mixed = jnp.any(amounts != 0, axis=1)

        def with_the_rest() -> Array:
            traded = eqx.tree_at(lambda each: each.amounts, tile, amounts)
            losses = tile_losses(prepared, traded)[1][:, main]
            return expected_shortfall(losses, prepared.weights[main], tail=self.charge_tail)

        # Most accounts own nothing that they trade: theirs is the shortfall of the positions, which is known.
        rest = lax.cond(jnp.any(mixed), with_the_rest, lambda: charges.core)
        shortfall = jnp.where(mixed, rest, charges.core)
        return self.collateral.wrong_way_charge(prepared.units, tile, shortfall, charges.joint)

    def _stress(self, shortfall: Array, losses: Array, weights: Array) -> Float[Array, " accounts"]:
        """w (ES over the stretch - ES)+."""
        assert self.stress_weight is not None
        beyond = expected_shortfall(losses, weights, tail=self.charge_tail) - shortfall
        return jnp.asarray(self.stress_weight, shortfall.dtype) * jnp.maximum(beyond, 0)

    def attribute(self, prepared: DynamicPrepared, tile: Tile) -> Parts:  # type: ignore[override]
        """Euler shares of each part by position, by asset of the collateral, and by open order: amount times slope.

        All parts are homogeneous of degree one in what an account holds and has ordered but `concentration`, which is a
        sum over assets already, the cost of filling orders, which is a sum over them, and `liquidity`, of which each
        position has its share of the net delta and vega that it is part of.
        """

        sloped = eqx.tree_at(lambda each: each.liquidity, prepared, None, is_leaf=lambda leaf: leaf is None)

        def held_of(tile: Tile) -> tuple[Any, ...]:
            own = (tile.quantities, tile.amounts)
            return own if tile.orders is None else (*own, tile.orders.quantities)

        def parts_of(*held: Array) -> tuple[Array, ...]:
            return self._parts(sloped, eqx.tree_at(held_of, tile, held))[0].values

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
            own = self._standalone(prepared, tile)
            runs = None if own is None else shortfall_by_run(prepared.units, own.groups, tile)
            closing = self.liquidity.shares(prepared.liquidity, tile, runs)
            shares["liquidity"] = jnp.concatenate([closing, *(jnp.zeros_like(each) for each in held[1:])], axis=1)
        if tile.orders is not None:
            shares["orders"] = shares["orders"].at[:, -tile.orders.cost.shape[1] :].add(tile.orders.cost)
        return Parts(tuple(shares.values()), self.part_names)
