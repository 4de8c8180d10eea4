"""What can be said of an account's margin, from nothing to worry about to no margin at all.

One account's trouble is that account's status, never an exception for the rest. Statuses rise in gravity; the gravest
is shown, and `reason` names all that apply. From `missing_history` on, an account has no margin: a number would be
too low for what is not known.
"""

from enum import IntEnum


class Status(IntEnum):
    """Statuses in rising order of gravity; the value orders them, the docstring of each is its help text."""

    OK = 0
    STALE = 1
    PROXIED = 2
    FALLBACK = 3
    MISSING_HISTORY = 4
    MISSING_VOLATILITY = 5
    MISSING_PRICE = 6
    INCOMPLETE = 7
    NUMERICAL = 8

    @property
    def label(self) -> str:
        """The word written into tables."""
        return self.name.lower()

    @property
    def meaning(self) -> str:
        """One sentence for a person."""
        return _MEANINGS[self]

    @property
    def excepted(self) -> bool:
        """Whether an account with this status has no margin."""
        return self >= Status.MISSING_HISTORY


_MEANINGS = {
    Status.OK: "Everything the margin needs was there and recent.",
    Status.STALE: "A price or a history is older than the configuration allows; its gap entered the volatility.",
    Status.PROXIED: "A factor without enough history of its own moves with its proxy, and a residual on top.",
    Status.FALLBACK: "A price jumped or ran backwards, and the last good one stands in for it, at its own age.",
    Status.MISSING_VOLATILITY: "An option has no volatility, and none of its underlying's has; there is no margin.",
    Status.MISSING_HISTORY: "A factor has neither history nor a proxy that has one; there is no margin.",
    Status.MISSING_PRICE: "A position or balance has no price; there is no margin.",
    Status.INCOMPLETE: "Rows of this account were quarantined at the door; there is no margin.",
    Status.NUMERICAL: "The loss distribution is not finite; there is no margin.",
}
