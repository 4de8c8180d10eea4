"""The engine: cuts a book into tiles, streams them over devices, and puts the rows back in order."""

from marginax.engine.correlation_sensitivity import correlation_sensitivity
from marginax.engine.live import LiveMargin, follow
from marginax.engine.live_file import resume
from marginax.engine.margin_book import margin_book
from marginax.engine.margin_dataset import DatasetResult, margin_dataset
from marginax.engine.result import Result

__all__ = [
    "DatasetResult",
    "LiveMargin",
    "Result",
    "correlation_sensitivity",
    "follow",
    "margin_book",
    "margin_dataset",
    "resume",
]
