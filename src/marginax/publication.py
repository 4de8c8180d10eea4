"""Whether totals moved too far from those of a previous run to be published without a second look."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from marginax.price_sections import Publication
from marginax.problems import BadInput, Problem
from marginax.tables.results import MANIFEST

TOTALS = ("equity", "initial_margin", "maintenance_margin")


class NotPublished(Exception):
    """Totals moved by more than the configuration allows, and nobody has acknowledged it; nothing was written."""


def previous_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run and where it lies (`folder`, `sha256`). Raises BadInput where a folder has none."""
    path = Path(folder) / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        totals = {name: manifest["totals"][name] for name in TOTALS}
        found = {name: manifest[name] for name in ("as_of", "currency")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else "says no totals of a margin"
        raise BadInput([Problem(str(path), None, None, what, "Name a folder that `marginax margin` wrote")]) from None
    return {"folder": str(folder), "sha256": sha256(content).hexdigest(), **found, "totals": totals}


def compared(
    manifest: Mapping[str, Any], previous: Mapping[str, Any], settings: Publication, *, acknowledged: bool
) -> dict[str, Any]:
    """What the manifest says of the run before: its totals, their changes, which are too large, and whether somebody
    acknowledged that.

    A total that is beyond float64, or was zero and is not any more, has changed by more than any share. Raises
    NotPublished where a change is too large and not acknowledged, BadInput where the runs are in different currencies.
    """
    if manifest["currency"] != previous["currency"]:
        what = f"is in {previous['currency']}, and this run in {manifest['currency']}"
        raise BadInput([Problem(previous["folder"], None, None, what, "Compare it with a run in the same currency")])
    changes = {name: _change(manifest["totals"][name], previous["totals"][name]) for name in TOTALS}
    beyond = [name for name, change in changes.items() if change is None or abs(change) > settings.largest_move]
    if beyond and not acknowledged:
        lines = [
            f"total {name.replace('_', ' ')}: {_said(previous['totals'][name])} as of {previous['as_of'][:16]}, "
            f"{_said(manifest['totals'][name])} as of {manifest['as_of'][:16]} ({_moved(changes[name])})"
            for name in beyond
        ]
        remedy = f"`publication.largest_move` is {settings.largest_move:.0%}; `--acknowledge` publishes it all the same"
        raise NotPublished("\n".join([*lines, remedy]))
    return {**previous, "changes": changes, "beyond": beyond, "acknowledged": acknowledged}


def _change(now: float | None, before: float | None) -> float | None:
    if now is None or before is None:
        return None
    if before == 0:
        return 0.0 if now == 0 else None
    return (now - before) / abs(before)


def _said(total: float | None) -> str:
    return "beyond any number" if total is None else f"{total:,.0f}"


def _moved(change: float | None) -> str:
    return "more than any share" if change is None else f"{change:+.1%}"
