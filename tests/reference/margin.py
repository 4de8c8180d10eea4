"""The margin of a book as a specification: one account at a time, one position at a time, every scenario in full.

Conventions: `tables` are frames as a user writes them (instruments, quotes, underlyings, positions, balances);
index prices are in account currency, marks in quote currency. A contract's P&L in a scenario is its value there
less its value now; collateral is revalued in the same scenario, after unrealised P&L has been booked to it.
Scenarios run along arrays. A factor that the scenarios do not name stays still; a basis never falls below -99 %.
Options are priced one scenario at a time (`reference.options`), from the forward and volatility that the tables state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from marginax import ScenarioSet
from reference import options as option
from reference.tail import exceedance_probability, expected_shortfall, first_worst, value_at_risk

LEAST_BASIS = -0.99
OPTIONS = ("call", "put")


@dataclass(frozen=True)
class AccountMargin:
    """What one account owes and why; `worst_scenario` is None where nothing it holds can move."""

    equity: float
    var: float
    expected_shortfall: float
    core: float
    collateral: float
    haircut: float
    floor: float
    initial_margin: float
    maintenance_margin: float
    margin_ratio: float | None
    available: float
    call: float
    stress_score: float
    worst_scenario: str | None
    joint_losses: np.ndarray


@dataclass(frozen=True)
class World:
    """Prices now and in every scenario. `levels` are the price levels that a relative basis moves, by underlying.

    `priced` and `expiry_basis` are of the options: what each is priced with, and the basis factor of its forward.
    """

    prices: Mapping[str, float]
    marks: Mapping[str, float]
    absolute: frozenset[str]
    levels: Mapping[str, float]
    shocks: Mapping[str, np.ndarray]
    weights: np.ndarray
    labels: tuple[str, ...]
    priced: Mapping[str, option.Priced]
    expiry_basis: Mapping[str, str]
    conventions: option.Conventions | None

    def shock(self, factor: str) -> np.ndarray:
        """A factor's shock in every scenario; zero for one that is not named."""
        return self.shocks.get(factor, np.zeros(len(self.weights)))

    def price(self, asset: str) -> np.ndarray:
        """What one unit of an asset is worth in every scenario; the account currency is always worth 1."""
        now, shock = self.prices[asset], self.shock(asset)
        return now + shock if asset in self.absolute else now * np.exp(shock)

    def mark(self, terms: Mapping[str, Any]) -> np.ndarray:
        """The mark of an instrument in every scenario: its underlying moves, its basis against it, and its currency.

        Shocks move prices in account currency: a mark rises where the currency it is quoted in falls.
        """
        quote, underlying = terms["quote"], terms["underlying"]
        if terms["kind"] in OPTIONS:
            return np.array([self.option_mark(terms, k) for k in range(len(self.weights))])
        now = self.marks[terms["instrument_id"]] * self.prices.get(quote, 1.0)
        rate = self.price(quote) if quote in self.prices else 1.0
        basis = np.maximum(self.shock(f"basis:{terms['instrument_id']}"), LEAST_BASIS)
        if underlying in self.absolute:
            level = self.levels.get(underlying, self.prices[underlying])
            return (now + self.shock(underlying) + basis * level) / rate
        return now * np.exp(self.shock(underlying)) * (1 + basis) / rate

    def option_mark(self, terms: Mapping[str, Any], scenario: int) -> float:
        """The mark of an option in one scenario."""
        assert self.conventions is not None
        name, quote, underlying = terms["instrument_id"], terms["quote"], terms["underlying"]
        moves = option.Moves(
            price=float(self.shock(underlying)[scenario]),
            basis=float(self.shock(self.expiry_basis[name])[scenario]),
            volatility=float(self.shock(f"implied_vol:{underlying}")[scenario]),
            index=self.prices[underlying],
            quote=self.prices[quote],
            quote_then=float(self.price(quote)[scenario]),
            absolute=underlying in self.absolute,
            level=self.levels.get(underlying, self.prices[underlying]),
        )
        return option.mark_then(terms, self.marks[name], self.priced[name], moves, self.conventions)


def margin(
    tables: Mapping[str, pl.DataFrame],
    scenarios: ScenarioSet,
    *,
    tail: float,
    maintenance_ratio: float,
    haircuts: Mapping[str, float] | None = None,
    levels: Mapping[str, float] | None = None,
    currency: str = "USD",
    conventions: option.Conventions | None = None,
) -> dict[str, AccountMargin]:
    """The margin of every account that any of the tables positions and balances names.

    `conventions` is needed where there are options, and their quotes then state a volatility each, the table
    `forwards` a forward and a discount for each of their expiries.
    """
    terms = {row["instrument_id"]: row for row in tables["instruments"].iter_rows(named=True)}
    underlyings = list(tables["underlyings"].iter_rows(named=True))
    prices = {row["underlying"]: row["index_price"] for row in underlyings} | {currency: 1.0}
    options = [row for row in terms.values() if row["kind"] in OPTIONS]
    world = World(
        prices=prices,
        marks={row["instrument_id"]: row["mark_price"] for row in tables["quotes"].iter_rows(named=True)},
        absolute=frozenset(row["underlying"] for row in underlyings if row.get("shock") == "absolute"),
        levels=levels or {},
        shocks=dict(zip(scenarios.factors, scenarios.shocks.T, strict=True)),
        weights=scenarios.weights,
        labels=scenarios.labels,
        priced=stated(options, tables, prices) if options else {},
        expiry_basis={row["instrument_id"]: basis_of_expiry(row, list(terms.values())) for row in options},
        conventions=conventions,
    )
    positions = list(tables["positions"].iter_rows(named=True))
    balances = list(tables["balances"].iter_rows(named=True))
    return {
        account: account_margin(
            [row for row in positions if row["account_id"] == account],
            [row for row in balances if row["account_id"] == account],
            terms,
            world,
            tail=tail,
            maintenance_ratio=maintenance_ratio,
            haircuts=haircuts or {},
            currency=currency,
        )
        for account in sorted({row["account_id"] for row in [*positions, *balances]})
    }


def account_margin(
    positions: list[dict[str, Any]],
    balances: list[dict[str, Any]],
    terms: Mapping[str, dict[str, Any]],
    world: World,
    *,
    tail: float,
    maintenance_ratio: float,
    haircuts: Mapping[str, float],
    currency: str,
) -> AccountMargin:
    """One account, step by step."""
    # 1. What it holds: contracts netted by instrument, money by asset, unrealised P&L booked to its settlement
    # asset.
    money: dict[str, float] = {}
    contracts: dict[str, float] = {}
    for row in balances:
        money[row["asset"]] = money.get(row["asset"], 0.0) + row["amount"]
    for row in positions:
        name = row["instrument_id"]
        contracts[name] = contracts.get(name, 0.0) + row["quantity"]
        asset = settlement_asset(terms[name])
        gain = unrealised(row, terms[name], world.marks[name])
        if gain != 0:
            money[asset] = money.get(asset, 0.0) + gain
    contracts = {name: quantity for name, quantity in contracts.items() if quantity != 0}
    money = {asset: amount for asset, amount in money.items() if amount != 0}

    # 2. What that is worth now. A future is worth nothing beyond its unrealised P&L; what is owned, its whole value.
    equity = sum(amount * world.prices[asset] for asset, amount in money.items())
    for name, quantity in contracts.items():
        if owned(terms[name]):
            value = quantity * terms[name]["multiplier"] * world.marks[name]
            equity += value * world.prices[settlement_asset(terms[name])]

    # 3. What it gains in every scenario: its contracts, and the money beside them.
    still = np.zeros(len(world.weights))
    traded = sum((quantity * unit_gain(terms[name], world) for name, quantity in contracts.items()), still)
    held = sum((amount * (world.price(asset) - world.prices[asset]) for asset, amount in money.items()), still)
    alone, joint = -traded, -(traded + held)

    # 4. What it owes. An account without positions owes nothing, whatever its collateral may lose.
    owes = bool(contracts)
    var = value_at_risk(joint, world.weights, tail=tail)
    shortfall = expected_shortfall(joint, world.weights, tail=tail)
    core = expected_shortfall(alone, world.weights, tail=tail) if owes else 0.0
    collateral = shortfall - core if owes else 0.0
    floor = max(0.0, -(core + collateral))
    selling = {asset: amount for asset, amount in money.items() if asset != currency and amount > 0}
    haircut = sum(haircuts.get(asset, 0.0) * amount * world.prices[asset] for asset, amount in selling.items())
    haircut = haircut if owes else 0.0
    initial = core + collateral + floor + haircut
    maintenance = maintenance_ratio * (core + collateral + floor) + haircut
    moves = owes or any(asset != currency for asset in money)
    return AccountMargin(
        equity=equity,
        var=var,
        expected_shortfall=shortfall,
        core=core,
        collateral=collateral,
        haircut=haircut,
        floor=floor,
        initial_margin=initial,
        maintenance_margin=maintenance,
        margin_ratio=equity / maintenance if maintenance > 0 else None,
        available=max(0.0, equity - initial),
        call=initial - equity if equity < maintenance else 0.0,
        stress_score=1.0 if owes and equity <= 0 else exceedance_probability(joint, world.weights, equity - haircut),
        worst_scenario=world.labels[first_worst(joint)] if moves else None,
        joint_losses=joint,
    )


def settlement_asset(terms: Mapping[str, Any]) -> str:
    """The asset that P&L is paid in: the stated one, else the coin of an inverse contract, else the quote currency."""
    if terms.get("settle_asset") is not None:
        return str(terms["settle_asset"])
    return str(terms["underlying"] if terms["settlement"] == "inverse" else terms["quote"])


def owned(terms: Mapping[str, Any]) -> bool:
    """Whether a contract is worth its whole price: spot, and an option whose premium is paid upfront (the usual)."""
    upfront = terms["kind"] in OPTIONS and terms.get("premium") in (None, "upfront")
    return terms["kind"] == "spot" or upfront


def unrealised(position: Mapping[str, Any], terms: Mapping[str, Any], mark: float) -> float:
    """P&L since the entry price, in the settlement asset; none for what is owned, or where no entry is given."""
    entry = position.get("entry_price")
    if owned(terms) or entry is None:
        return 0.0
    size = position["quantity"] * terms["multiplier"]
    return size * (1 / entry - 1 / mark) if inverts(terms) else size * (mark - entry)


def inverts(terms: Mapping[str, Any]) -> bool:
    """Whether P&L is in inverse prices: an inverse future or perpetual. An option in coins is quoted in coins."""
    return bool(terms["settlement"] == "inverse" and terms["kind"] not in OPTIONS)


def unit_gain(terms: Mapping[str, Any], world: World) -> np.ndarray:
    """P&L of one contract in every scenario, in account currency."""
    asset = settlement_asset(terms)
    now, then = world.marks[terms["instrument_id"]], world.mark(terms)
    if owned(terms):
        return terms["multiplier"] * (then * world.price(asset) - now * world.prices[asset])
    paid = 1 / now - 1 / then if inverts(terms) else then - now
    return terms["multiplier"] * paid * world.price(asset)


def stated(
    options: list[dict[str, Any]], tables: Mapping[str, pl.DataFrame], prices: Mapping[str, float]
) -> dict[str, option.Priced]:
    """What each option is priced with: the table's forward, in its own currency, the discount, and its volatility."""
    forwards = {(row["underlying"], row["expiry"]): row for row in tables["forwards"].iter_rows(named=True)}
    volatility = {row["instrument_id"]: row["implied_vol"] for row in tables["quotes"].iter_rows(named=True)}
    priced = {}
    for terms in options:
        row = forwards[terms["underlying"], terms["expiry"]]
        name, forward = terms["instrument_id"], row["forward"] / prices[terms["quote"]]
        priced[name] = option.Priced(forward, row["discount"], volatility[name])
    return priced


def basis_of_expiry(terms: Mapping[str, Any], listed: list[dict[str, Any]]) -> str:
    """The basis factor of an option's forward: that of the future it expires with, or of the expiry itself."""
    futures = [
        row
        for row in listed
        if row["kind"] == "future" and row["underlying"] == terms["underlying"] and row["expiry"] == terms["expiry"]
    ]
    futures.sort(key=lambda row: (row["quote"] != terms["quote"], row["instrument_id"]))
    if futures:
        return f"basis:{futures[0]['instrument_id']}"
    return f"basis:{terms['underlying']}:{terms['expiry']:%Y-%m-%dT%H:%M}"
