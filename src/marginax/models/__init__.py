"""Margin models, found by name through the entry points `marginax.models`."""

from marginax.models.load import load_model
from marginax.models.protocol import Margin, MarginModel, Parts, Prepared, Tile, Totals
from marginax.models.runs import Runs

__all__ = ["Margin", "MarginModel", "Parts", "Prepared", "Runs", "Tile", "Totals", "load_model"]
