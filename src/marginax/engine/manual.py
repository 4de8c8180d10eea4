"""Manual multipliers: what a venue adds by hand to an account or an instrument, and the record of it.

The requirement of an account is multiplied by `accounts.multiplier`, and its isolated positions' with it. A position in
an instrument with a `margin_multiplier` of k adds k - 1 times what as many contracts would owe if they were all that is
held: nothing else the account holds takes anything off that.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from marginax.book import Entries
from marginax.engine.figures import Figures, Manual, finite
from marginax.engine.tail_pass import TailPass
from marginax.engine.tile_pass import TilePass
from marginax.exposures import Exposures
from marginax.match import Matched

# Where a table may name a multiplier.
COLUMNS = (("accounts", "multiplier"), ("instruments", "margin_multiplier"))


def manual_margin(
    tiles: TilePass | TailPass, matched: Matched, exposures: Exposures, *, asked: bool = False
) -> Manual | None:
    """What is added by hand; None where the tables have no word of it, unless `asked`."""
    book = matched.book
    said = (book.tables[name].rows[column] for name, column in COLUMNS)
    if not asked and all(each.is_null().all() for each in said):
        return None
    own = book.instruments.margin_multiplier[exposures.listed]
    raised = np.flatnonzero(own != 1)
    initial, maintenance = np.zeros((2, len(own), 2))
    if np.isin(exposures.positions.columns, raised).any():
        more = (own[raised] - 1)[:, None]
        for units, alone in zip((initial, maintenance), _alone(tiles, exposures, raised), strict=True):
            units[raised] = more * alone
    return Manual(book.multipliers[book.holder_accounts], initial, maintenance)


def _alone(
    tiles: TilePass | TailPass, exposures: Exposures, rows: Int64[np.ndarray, " rows"]
) -> tuple[Float64[np.ndarray, "rows 2"], Float64[np.ndarray, "rows 2"]]:
    """Initial and maintenance requirement of one contract long and one short, each held alone."""
    count = 2 * len(rows)
    units = Entries(np.arange(count + 1), np.repeat(rows, 2).astype(np.int32), np.tile([1.0, -1.0], len(rows)))
    nothing = Entries(np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0))
    alone = exposures.of(units, nothing, np.zeros(count))
    figures: Figures | None = None
    for part, (margin, totals) in tiles.of_units(alone).margins(np.arange(count)):
        if figures is None:
            figures = Figures.empty(count, totals.uncovered.shape[1], margin.parts.names)
        figures.take(part.accounts, margin, totals)
    assert figures is not None
    initial = np.maximum(sum(figures.parts.values()), 0)
    return initial.reshape(-1, 2), np.clip(figures.maintenance, 0, initial).reshape(-1, 2)


def manual_notes(matched: Matched, manual: Manual | None, added: float) -> dict[str, Any]:
    """What the manifest says: the multipliers that are not one, and what they add to all initial margins."""
    if manual is None:
        return {}
    book = matched.book
    accounts, instruments = (
        {str(name): float(number) for name, number in zip(names, numbers, strict=True) if number != 1}
        for names, numbers in (
            (book.accounts, book.multipliers),
            (book.instruments.ids, book.instruments.margin_multiplier),
        )
    )
    return {"accounts": accounts, "instruments": instruments, "initial_margin": finite(added)}


def both_notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of two books without a common account in one market."""
    if not one:
        return {}
    amounts = (one["initial_margin"], other["initial_margin"])
    added = None if None in amounts else finite(sum(amounts))
    return {**one, "accounts": {**one["accounts"], **other["accounts"]}, "initial_margin": added}
