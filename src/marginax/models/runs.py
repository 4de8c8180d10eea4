"""Groups of what an account holds in one underlying: where they lie in a tile. Found on the host, in columnar code."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int


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
    asset = _asset_columns(owner * (len(groups) + 1) + group[owner, start], assets, groups)
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


def _asset_columns(keys: np.ndarray, assets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each run, by a key of account and underlying, the column of the account's asset of that underlying, or -1."""
    row, column = np.nonzero(groups[assets] >= 0)
    held = row * (len(groups) + 1) + groups[assets[row, column]]
    order = np.argsort(held)
    at = np.searchsorted(held[order], keys)
    found = order[np.minimum(at, max(len(order) - 1, 0))] if len(order) else np.zeros(len(keys), int)
    fits = (at < len(order)) & (held[found] == keys if len(order) else False)
    return np.where(fits, column[found] if len(order) else -1, -1)


def _within(length: np.ndarray) -> np.ndarray:
    """0, 1, ... within each run, one after the other."""
    return np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
