"""The parts of the dynamic margin as a specification: one account at a time, every underlying masked in turn.

`entries` are (row of the cube, amount) of positions and of collateral; the cube is rows x scenarios in currency per
unit, its first `main` scenarios weighted and the others stressed. Groups are the underlying of each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from reference.tail import expected_shortfall, value_at_risk

Entries = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class World:
    """What one account is margined against; `terms` has price, haircut, limit and size by row."""

    cube: np.ndarray
    weights: np.ndarray
    stressed: np.ndarray
    groups: np.ndarray
    multipliers: np.ndarray
    terms: np.ndarray
    tail: float


@dataclass(frozen=True)
class Numbers:
    """The model's numbers."""

    stress: float
    share: float
    multiplier: float
    windows: int
    least: float
    most: float
    wrong_way: float
    concentration: float


def parts(positions: Entries, collateral: Entries, world: World, numbers: Numbers) -> dict[str, float]:
    """Every part of one account."""
    names = ("core", "stress", "collateral", "dependence", "correlation_break", "wrong_way", "procyclicality")
    found = dict.fromkeys((*names, "haircut", "concentration", "floor"), 0.0)
    if not any(amount for _, amount in positions):
        return found
    main = len(world.weights)

    def losses(entries: Entries) -> np.ndarray:
        return -sum((amount * world.cube[row] for row, amount in entries), np.zeros(world.cube.shape[1]))

    def shortfall(entries: Entries) -> float:
        return expected_shortfall(losses(entries)[:main], world.weights, tail=world.tail)

    def stress(entries: Entries) -> float:
        beyond = expected_shortfall(losses(entries)[main:], world.stressed, tail=world.tail) - shortfall(entries)
        return numbers.stress * max(beyond, 0)

    together = [*positions, *collateral]
    alone, joint = shortfall(positions), shortfall(together)
    found["core"], found["stress"] = alone, stress(positions)
    found["collateral"] = joint + stress(together) - alone - found["stress"]
    by_group = {
        group: shortfall([(row, amount) for row, amount in together if world.groups[row] == group])
        for group in {int(world.groups[row]) for row, amount in together if amount}
    }
    found["dependence"] = numbers.share * max(sum(by_group.values()) - joint, 0)
    found["correlation_break"] = correlation_break(losses(together)[:main], world, numbers, joint)
    traded = {int(world.groups[row]) for row, amount in positions if amount}
    other = [(row, amount) for row, amount in collateral if amount > 0 and int(world.groups[row]) not in traded]
    separate = sum(shortfall([entry]) for entry in other)
    own = [entry for entry in collateral if entry not in other]
    benefit = shortfall([*positions, *own]) + separate - joint
    found["wrong_way"] = numbers.wrong_way * min(max(benefit, 0), max(separate, 0))
    risk = sum(found.values())
    scaled = sum(world.multipliers[group] * size for group, size in by_group.items())
    total = sum(by_group.values())
    multiplier = scaled / total if total > 0 else 1.0
    found["procyclicality"] = (multiplier - 1) * max(risk, 0)
    for row, amount in collateral:
        price, haircut, limit, size = world.terms[row]
        value = price * max(amount, 0)
        counted = min(value, limit)
        rise = min(1 - haircut, numbers.concentration * max(value / size - 1, 0)) if np.isfinite(size) else 0.0
        found["haircut"] += haircut * value
        found["concentration"] += (value - counted) * (1 - haircut) + rise * counted
    found["floor"] = max(0, -(risk + found["procyclicality"]))
    return found


def correlation_break(losses: np.ndarray, world: World, numbers: Numbers, shortfall: float) -> float:
    """The adjustment of PRISMA over equal windows of scenarios that all have weight."""
    whole = value_at_risk(losses, world.weights, tail=world.tail)
    edges = [k * len(losses) // numbers.windows for k in range(numbers.windows + 1)]
    excess = []
    for first, last in pairwise(edges):
        own = world.weights[first:last] / world.weights[first:last].sum()
        excess.append(max(value_at_risk(losses[first:last], own, tail=world.tail) - whole, 0))
    wanted = numbers.multiplier * float(np.sqrt(np.mean(np.square(excess))))
    return min(numbers.most * max(shortfall, 0), max(numbers.least * max(shortfall, 0), wanted))


def by_account(table: Mapping[str, np.ndarray]) -> list[Entries]:
    """Entries of each row of a tile: `rows` and `amounts`, both accounts x width."""
    pairs = zip(table["rows"], table["amounts"], strict=True)
    return [list(zip(rows.tolist(), amounts.tolist(), strict=True)) for rows, amounts in pairs]
