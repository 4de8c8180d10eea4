"""What a person wants to know of the venue as a whole, in a few lines of the terminal."""

from collections.abc import Mapping
from typing import Any


def venue_lines(venue: Mapping[str, Any], currency: str) -> list[str]:
    """The lines below the margins; none where the venue is not told."""
    if not venue:
        return []
    risk, debt, unknown = venue["at_risk"], venue["bad_debt"], venue["not_known"]
    sides = f"Open interest {_money(venue['open_interest'])} {currency} long, {_money(venue['short_interest'])} short"
    sides += "" if venue["closed"] else ", so that the book is not closed"
    held = f"accounts below a margin ratio of {risk['below_ratio']:g} hold {_share(risk['share'])} of it"
    whole = venue["concentration"]
    most = f"; the largest account {_share(whole['largest_share'])}" if whole["largest"] is not None else ""
    lines = [f"{sides}; {held}{most}."]
    fund = f"against a fund of {_money(debt['fund'])}" if debt["fund"] else "and there is no insurance fund"
    share = f"{100 * (1 - venue['loss_beyond_equity']['tail']):g} %"
    told = f"Bad debt: {_money(debt['expected'])} {currency} expected, {_money(debt['at_tail'])} at {share}, {fund}"
    lines.append(f"{told}; {debt['exhaustion_probability']:.2%} that it is beyond that.")
    if beyond := venue["loss_beyond_margins"]:
        both = f"{_money(beyond['mean'])} {currency} expected, {_money(beyond['at_tail'])} at {share}"
        lines.append(f"Loss beyond margins: {both}.")
    if asks := venue["open_interest_margin"]:
        lines.append(
            f"Margins that follow open interest would ask {_money(asks['asked'])} {currency}, "
            f"{_money(asks['initial_margin'])} is asked."
        )
    if unknown["counted_as_loss"] or not debt["complete"]:
        line = f"Counted as lost for accounts without a margin: {_money(unknown['counted_as_loss'])} {currency}"
        if not debt["complete"]:
            line += "; some contracts or debts nobody can value, and the figures lack them"
        lines.append(f"{line}.")
    parts = venue["score"]["components"]
    largest = sorted(parts, key=lambda name: -(parts[name]["share"] or 0.0))[:2]
    named = "most by " + ", ".join(f"{name.replace('_', ' ')} {_share(parts[name]['share'])}" for name in largest)
    if any(part["value"] is None and part["weight"] for part in parts.values()):
        named = "because some of it is not known or beyond any number"
    lines.append(f"Protocol risk score {venue['score']['score']:.3f} (0 is none, below 1), {named}.")
    return lines


def _money(amount: float | None) -> str:
    return "beyond any number" if amount is None else f"{amount:,.0f}"


def _share(share: float | None) -> str:
    return "all" if share is None else f"{share:.1%}"
