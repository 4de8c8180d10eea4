"""The dynamic margin of accounts whose losses are not stored: what the kernel is asked, and margins from its answers.

The parts are those of `DynamicCharges`, from the same formulas; open orders are none of these accounts'.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from marginax.book import Entries
from marginax.models.addons.correlation_break import CorrelationBreakCharge
from marginax.models.book_tails import MAIN, shortfall_alone, worst_of
from marginax.models.closing import exhausting_loss, stress_score
from marginax.models.dynamic_charges import DynamicCharges, DynamicPrepared, LossFigures, Stressed
from marginax.models.protocol import Holders, Margin, Question, Totals
from marginax.models.runs import Groups, book_groups
from marginax_kernels import BookTail

STRETCH, APART, PAST = "stressed stretch", "every underlying on its own", "past"


def dynamic_questions(model: DynamicCharges, prepared: DynamicPrepared) -> Mapping[str, Question]:
    """The tails that the parts ask for, which are on."""
    cube, weights = np.asarray(prepared.cube), np.asarray(prepared.weights)
    main, one = slice(0, prepared.main), (model.charge_tail,)
    asked = {MAIN: Question(cube[:, main], weights[main], model.tails, model.scrambles)}
    if model.stress_weight is not None:
        asked[STRETCH] = Question(cube[:, prepared.main :], np.asarray(prepared.stressed), one)
    if model.dependence is not None and prepared.independent is not None:
        asked[APART] = Question(np.asarray(prepared.independent)[:, main], weights[main], one)
    if model.correlation_break is not None:
        past = weights[: prepared.historical]
        if prepared.historical < prepared.main:
            asked[PAST] = Question(cube[:, : len(past)], past / past.sum(), one)
        for k, window in enumerate(_window_slices(model.correlation_break, past)):
            if window is not None:
                asked[_window(k)] = Question(cube[:, window], past[window] / past[window].sum(), one)
    return asked


def dynamic_margin(model: DynamicCharges, prepared: DynamicPrepared, holders: Holders) -> tuple[Margin, Totals]:
    """Requirement, risk figures and score of every account."""
    positions, collateral = holders.positions, holders.collateral
    groups = book_groups(positions, collateral, holders.groups)
    charged = model.tails.index(model.charge_tail)
    shortfalls = np.zeros(groups.starts[-1])
    if model.needs_groups:
        shortfalls = holders.tails(MAIN, groups.held).expected_shortfall[charged]
    costs = holders.costs(Entries(groups.starts, np.zeros(len(shortfalls), np.int32), shortfalls))
    with np.errstate(all="ignore"):
        limit = exhausting_loss(holders.equity, costs.closing)
    charges, told = model.charges_by_tails(holders, limit)
    assert told.venue_loss is not None
    worst, losses, stressed = told.worst_scenario, [told.venue_loss], None
    if model.stress_weight is not None:
        over = holders.tails(STRETCH, holders.both, limit)
        assert over.venue_loss is not None
        stressed = Stressed(shortfall_alone(holders, STRETCH, over)[0], over.expected_shortfall[0])
        cube = np.asarray(prepared.cube)
        apart = (cube[:, : prepared.main], worst), (cube[:, prepared.main :], over.worst_scenario)
        worst = worst_of(holders.both, *apart)
        losses.append(over.venue_loss)
    figures = LossFigures(
        charges=charges,
        stressed=stressed,
        apart=_apart(model, prepared, holders),
        windows=_windows(model, prepared, holders, told),
        traded=_traded(model, holders, groups, charges.core, charges.joint),
    )
    with np.errstate(all="ignore"):  # what is beyond the precision becomes infinite, and its holder `numerical`
        parts = model.parts_of(positions.counts > 0, figures, costs)
    score = stress_score(told.exceedance, holders.equity, positions.counts > 0)
    return model.answer(parts, charges, score, worst), Totals(np.concatenate(losses)[None])


def _apart(model: DynamicCharges, prepared: DynamicPrepared, holders: Holders) -> Float[np.ndarray, " accounts"] | None:
    if model.dependence is None or prepared.independent is None:
        return None
    return holders.tails(APART, holders.both).expected_shortfall[0]


def _windows(
    model: DynamicCharges, prepared: DynamicPrepared, holders: Holders, told: BookTail
) -> Float[np.ndarray, " accounts"] | None:
    """What the correlation break charges before its bounds."""
    charge = model.correlation_break
    if charge is None:
        return None
    whole = told.var[model.tails.index(model.charge_tail)]
    if prepared.historical < prepared.main:
        whole = holders.tails(PAST, holders.both).var[0]
    past = np.asarray(prepared.weights)[: prepared.historical]
    nothing = np.full_like(whole, -np.inf)
    own = [
        nothing if window is None else holders.tails(_window(k), holders.both).var[0]
        for k, window in enumerate(_window_slices(charge, past))
    ]
    with np.errstate(all="ignore"):
        return charge.excess(np.stack(own, axis=1), whole)


def _window_slices(charge: CorrelationBreakCharge, past: np.ndarray) -> list[slice | None]:
    """The scenarios of each window of the past; None where none of them has weight."""
    edges = charge.edges(len(past), np.count_nonzero(past))
    windows = [slice(int(start), int(end)) for start, end in pairwise(edges)]
    return [window if past[window].any() else None for window in windows]


def _traded(
    model: DynamicCharges, holders: Holders, groups: Groups, alone: np.ndarray, joint: np.ndarray
) -> Float[np.ndarray, " accounts"]:
    """The shortfall without the collateral in whose underlying no position is held."""
    collateral = holders.collateral
    if model.collateral.wrong_way is None or not len(collateral.columns):
        return alone
    kept = groups.hedging | (collateral.amounts <= 0)
    keeps, drops = (np.bincount(collateral.owners, each, len(alone)) > 0 for each in (kept, ~kept))
    traded = np.where(drops, alone, joint)
    mixed = np.flatnonzero(keeps & drops)
    if len(mixed):
        left = Entries(
            np.concatenate([[0], np.cumsum(np.bincount(collateral.owners, kept, len(alone)).astype(np.int64))]),
            collateral.columns[kept],
            collateral.amounts[kept],
        )
        some = holders.positions.taken(mixed).beside(left.taken(mixed))
        traded[mixed] = holders.tails(MAIN, some).expected_shortfall[model.tails.index(model.charge_tail)]
    return traded


def _window(number: int) -> str:
    return f"window {number}"
