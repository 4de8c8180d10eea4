"""Why margins moved between two runs: the change of every account, split into what caused it."""

from marginax.changes.change import CAUSES, Change
from marginax.changes.explain import explain_change

__all__ = ["CAUSES", "Change", "explain_change"]
