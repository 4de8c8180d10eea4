"""A book through a sequence of markets: margins, scores and calls at every epoch, interrupted and resumed at will."""

from marginax.epochs.calls import POLICIES, Policy
from marginax.epochs.replay import Replayed, replay

__all__ = ["POLICIES", "Policy", "Replayed", "replay"]
