"""Groups of what an account holds in one underlying, in a tile or in a book. Found on the host, in columnar code."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int, Int64

from marginax.book import Entries


class Runs(eqx.Module):
    """Groups of two or more entries of one account in one underlying: first column and length of its positions, row of
    the tile, and the column of the collateral that belongs to it (-1 for none).

    Padding has length zero. Groups of a row are neighbours: `first` is the place of each row's first group, `count` how
    many it has. `alone` and `asset_alone` mark the entries that are in no group; padding is in none.
    """

    start: Int[Any, " runs"]
    length: Int[Any, " runs"]
    owner: Int[Any, " runs"]
    asset: Int[Any, " runs"]
    first: Int[Any, " accounts"]
    count: Int[Any, " accounts"]
    alone: Bool[Any, "accounts width"]
    asset_alone: Bool[Any, "accounts collateral_width"]


def find_runs(
    instruments: Int[np.ndarray, "accounts width"],
    assets: Int[np.ndarray, "accounts collateral_width"],
    groups: Int[np.ndarray, " rows"],
) -> Runs:
    """The groups of a tile; `groups` is the underlying of each row of the cube, -1 for the row of zeros.

    Positions of one underlying are neighbours, and an account has at most one entry of an asset.
    """
    height, width = instruments.shape
    side = assets.shape[1]
    group = groups[instruments]
    apart = np.where(group < 0, -1 - np.arange(width), group)  # no two of padding equal, so padding makes no run
    opens = np.ones((height, width), bool)
    opens[:, 1:] = apart[:, 1:] != apart[:, :-1]
    place = np.flatnonzero(opens)
    length = np.diff(place, append=height * width)
    real = group.ravel()[place] >= 0
    place, length = place[real], length[real]
    owner, start = np.divmod(place, width)
    mine, own, asset = group[owner, start], groups[assets], np.full(len(owner), -1)
    for column in np.flatnonzero((own >= 0).any(axis=0)):  # an account has few assets
        asset[own[owner, column] == mine] = column
    together = (length > 1) | (asset >= 0)
    start, length, owner, asset = (each[together] for each in (start, length, owner, asset))

    alone = np.ones((height, width), bool)
    held = np.repeat(owner * width + start, length) + _within(length)
    alone.ravel()[held] = False
    asset_alone = np.ones((height, side), bool)
    asset_alone[owner[asset >= 0], asset[asset >= 0]] = False
    count = np.bincount(owner, minlength=height)
    most = height * min(width, (width + side) // 2)
    table = np.zeros((4, most), np.int32)
    table[3] = -1
    table[:, : len(start)] = start, length, owner, asset
    start, length, owner, asset = table
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    return Runs(start, length, owner, asset, first.astype(np.int32), count.astype(np.int32), alone, asset_alone)


class Groups(NamedTuple):
    """The same groups of accounts in CSR form: those of account `a` are `starts[a]` to `starts[a + 1]`, in the order of
    `Runs`; `held` are their entries, positions first. `hedging` marks the collateral in whose underlying a position is
    held."""

    starts: Int64[np.ndarray, " accounts_and_one"]
    held: Entries
    hedging: Bool[np.ndarray, " collateral_entries"]


def book_groups(positions: Entries, collateral: Entries, groups: Int[np.ndarray, " rows"]) -> Groups:
    """The groups of every account; `groups` is the underlying of each row of the cube."""
    span = int(groups.max(initial=0)) + 1
    keys = positions.owners * span + groups[positions.columns]
    opens = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    first = np.flatnonzero(opens)
    length = np.diff(first, append=len(keys))
    own = collateral.owners * span + groups[collateral.columns]
    order = np.argsort(own, kind="stable")
    at = np.searchsorted(own[order], keys[first])
    asset = np.full(len(first), -1)
    inside = at < len(order)
    found = order[at[inside]]
    asset[inside] = np.where(own[found] == keys[first[inside]], found, -1)
    hedging = np.zeros(len(own), bool)
    hedging[asset[asset >= 0]] = True

    together = (length > 1) | (asset >= 0)
    mine = np.repeat(together, length)
    own_entries = Entries(_starts(length[together]), positions.columns[mine], positions.amounts[mine])
    beside = asset[together]
    some = beside[beside >= 0]
    with_asset = Entries(_starts(beside >= 0), collateral.columns[some], collateral.amounts[some])
    owner = positions.owners[first[together]]
    count = np.bincount(owner, minlength=len(positions.starts) - 1)
    return Groups(_starts(count), own_entries.beside(with_asset), hedging)


def _starts(counts: np.ndarray) -> Int64[np.ndarray, " counts_and_one"]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _within(length: np.ndarray) -> np.ndarray:
    """0, 1, ... within each run, one after the other."""
    return np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
