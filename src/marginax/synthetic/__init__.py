"""A made-up derivatives venue, seeded: instruments, accounts, quotes, and years of history with crashes."""

from marginax.synthetic._venue import Venue, venue

__all__ = ["Venue", "venue"]
